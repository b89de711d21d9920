"""The definition of a data format: how to detect it, open it, and write it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segwright.core.counted import counted
from segwright.core.deprecated import renamed_attribute
from segwright.core.errors import FormatError
from segwright.data.annotations.sparse import LabelRule
from segwright.data.formats.bit_depth import find_pixel_format
from segwright.data.formats.file_tree import Tree, is_image
from segwright.data.formats.name_parts import SPLIT_NAMES as SPLIT_NAMES
from segwright.data.formats.writing import Writer
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Problem, Record


@dataclass(frozen=True)
class Format:
    """One data format."""

    name: str  # as --format takes it
    title: str  # as people call it
    layout: str  # what on the disk gives it away; listed where nothing was recognized
    detector: Callable[[Tree], str | None]
    opener: Callable[[Tree], Dataset]
    # The hint if nothing was detected and the files come near this format; None where they do not.
    hint: Callable[[Tree], FormatError | None] | None = None
    writer: Writer | None = None  # writes a dataset in this format (``convert``); None if that is not offered

    def detect(self, path: str | Path | Tree) -> str | None:
        """Why it is this format, in words; None where it is not."""
        return self.detector(path if isinstance(path, Tree) else Tree(path))

    recognize = renamed_attribute("recognize", "detect")
    looks_for = renamed_attribute("looks_for", "layout")

    def open(self, path: str | Path | Tree) -> Dataset:
        """The dataset; FormatError or DataError where it cannot be opened as this format."""
        return with_pixel_format(self.opener(path if isinstance(path, Tree) else Tree(path)))


def label_rule(tree: Tree) -> LabelRule:
    """The rule given for sparse labels. A format that takes it calls this; of another format it is an error."""
    tree.memo["label rule used"] = True
    rule: LabelRule = tree.memo.get("label rule", LabelRule())
    return rule


def with_pixel_format(dataset: Dataset) -> Dataset:
    """The dataset with a reader that keeps the bands and bits of its images, where they are files of such a kind."""
    reader = dataset.reader
    if isinstance(reader, FileReader) and reader.bands is None and reader.value_range is None:
        images = list(dict.fromkeys(r.image_path for r in dataset.records if r.image_path is not None))
        depth = find_pixel_format([path for path in images if is_image(path.name)])
        reader.bands, reader.value_range = depth.bands, depth.value_range
        dataset.notes.extend(depth.notes)
    return dataset


def unique_ids(names: Sequence[tuple[str, str, str]]) -> list[str]:
    """Ids from (folder, stem, ending): the stem where it is unique, else with its folder, else with its ending too.

    Should even that not tell two apart (a list that names a file twice), the later ones are numbered.
    """
    ids = [stem for _, stem, _ in names]
    for level in (1, 2):
        seen = Counter(ids)
        if len(seen) == len(ids):
            return ids
        for i, (folder, stem, ending) in enumerate(names):
            if seen[ids[i]] > 1:
                ids[i] = f"{folder}/{stem}{ending if level == 2 else ''}".lstrip("/")
    used: Counter[str] = Counter()
    for i, name in enumerate(ids):
        used[name] += 1
        if used[name] > 1:
            ids[i] = f"{name}#{used[name]}"
    return ids


def pairing_problems(images: Sequence[Path], masks: Sequence[Path]) -> list[Problem]:
    """The findings for images without masks and masks without images."""
    problems = []
    if images:
        problems.append(
            Problem(
                "warning",
                "image without mask",
                f"{counted(len(images), 'image', 'has')} no mask",
                tuple(str(path) for path in images),
                "add the masks under the same names, or move the images away",
            )
        )
    if masks:
        problems.append(
            Problem(
                "warning",
                "mask without image",
                f"{counted(len(masks), 'mask', 'has')} no image",
                tuple(str(path) for path in masks),
                "add the images under the same names, or move the masks away",
            )
        )
    return problems


def sort_splits(given: Mapping[str, Sequence[Record]]) -> dict[str, tuple[Record, ...]]:
    """Splits as train, val, test, then the others by name."""
    first = ("train", "val", "test")
    names = [name for name in first if name in given] + sorted(name for name in given if name not in first)
    return {name: tuple(given[name]) for name in names}


def distinct(given: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
    """The same splits with ids that are unique: images of one name in several folders get those of their folders."""
    places: dict[str, dict[Path | None, None]] = {}
    for records in given.values():
        for record in records:
            places.setdefault(record.id, {})[record.image_path] = None
    twice = {name: list(paths) for name, paths in places.items() if len(paths) > 1}
    if not twice:
        return {name: list(records) for name, records in given.items()}
    renamed: dict[Path | None, str] = {}
    for name, paths in twice.items():
        parts = [path.parent.parts if path is not None else () for path in paths]
        depth = next((d for d in range(1, 12) if len({p[-d:] for p in parts}) == len(parts)), 12)
        renamed |= {path: "/".join((*p[-depth:], name)) for path, p in zip(paths, parts, strict=True)}
    return {
        split: [replace(r, id=renamed[r.image_path]) if r.id in twice else r for r in records]
        for split, records in given.items()
    }


def unique_records(given: Mapping[str, Sequence[Record]]) -> tuple[Record, ...]:
    """All records of all splits, each once (trainval repeats train)."""
    return tuple({record.id: record for records in given.values() for record in records}.values())
