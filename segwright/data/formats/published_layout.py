"""Published datasets of files: where images and masks lie, what pairs them, which classes there are.

A :class:`Layout` is a table of facts: patterns for the folders and names of images and masks, the classes, the files
beside them that are not read. Names pair only within their split and scope; two files that claim one place are an
error that names both. What a layout lists and does not read (instances, previews, eroded copies) is counted in a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segwright.core.errors import FormatError
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace
from segwright.data.formats.base import SPLIT_NAMES, Format, pairing_problems, sort_splits, unique_ids
from segwright.data.formats.file_tree import Folder, Tree
from segwright.data.formats.mask_encoding import MaskEncoding
from segwright.data.readers import ColorTable, FileReader
from segwright.data.records import Dataset, Problem, Record

Key = tuple[str | None, str, str]  # split, scope, key
LOSSLESS = r"(?:png|tiff?|bmp|gif|pgm|ppm)"
PHOTO = r"(?:jpe?g|png|tiff?|bmp|ppm|webp)"


@dataclass(frozen=True)
class Place:
    """Files by a pattern for their folder's end and one for their whole name.

    Groups: ``split``; ``scope`` and ``scope2`` (what else must agree); ``key`` and ``key2`` (what names the pair).
    """

    folder: str
    name: str

    def find(self, tree: Tree) -> dict[Key, list[Path]]:
        """Key → the files that claim it, in the order of the walk."""
        memo = f"place {self.folder}\0{self.name}"
        if memo in tree.memo:
            listed: dict[Key, list[Path]] = tree.memo[memo]
            return listed
        found: dict[Key, list[Path]] = {}
        tree.memo[memo] = found
        folder, name = re.compile(rf"(?:^|/)(?:{self.folder})$", re.I), re.compile(rf"(?:{self.name})$", re.I)
        able = re.compile(rf"^(?:{self.name})$", re.I | re.M)
        for relative, listing in () if tree.is_file else tree.walk():
            here = folder.search(relative)
            if here is None or able.search(_joined(tree, relative, listing)) is None:
                continue
            for file in listing.files:
                match = name.match(file)
                if match is not None:
                    groups = {**here.groupdict(), **{k: v for k, v in match.groupdict().items() if v is not None}}
                    split = groups.get("split")
                    split = SPLIT_NAMES.get(split.lower(), split.lower()) if split else None
                    scope = "/".join(groups[g] for g in ("scope", "scope2") if groups.get(g))
                    name_key = "/".join(groups[g] for g in ("key", "key2") if groups.get(g)) or file
                    key = (split, scope.casefold(), name_key.casefold())
                    found.setdefault(key, []).append(Path(listing.path, file))
        return found


def _joined(tree: Tree, relative: str, listing: Folder) -> str:
    """The names of a folder, one per line, so that one search tests a pattern on all of them."""
    memo = f"names {relative}"
    if memo not in tree.memo:
        tree.memo[memo] = "\n".join(listing.files)
    joined: str = tree.memo[memo]
    return joined


@dataclass(frozen=True)
class Found:
    """The pairs that a layout's patterns found."""

    pairs: tuple[tuple[Key, Path, Path | None], ...]
    lone_masks: tuple[Path, ...]

    @property
    def masks(self) -> list[Path]:
        return [mask for _, _, mask in self.pairs if mask is not None]


@dataclass(frozen=True)
class Layout:
    """One published layout."""

    name: str
    title: str
    layout: str
    images: tuple[Place, ...]
    masks: tuple[Place, ...]
    coding: Callable[[Tree, Found], MaskEncoding]
    unread: Mapping[str, Place] = field(default_factory=dict)  # what it is → where; counted in a note
    reader: Callable[[LabelSpace, ColorTable | None], FileReader] = FileReader

    def find(self, tree: Tree) -> Found:
        """Images and masks by the patterns; FormatError where two files claim one place."""
        memo = f"layout {self.name}"
        if memo not in tree.memo:
            tree.memo[memo] = self._pair(tree)
        found: Found = tree.memo[memo]
        return found

    def _pair(self, tree: Tree) -> Found:
        masks = self._only(tree, self.masks)
        if not masks:
            return Found((), ())
        images = self._only(tree, self.images)
        by_name: dict[tuple[str, str], list[Key]] = {}
        for key in masks:
            by_name.setdefault(key[1:], []).append(key)
        pairs: list[tuple[Key, Path, Path | None]] = []
        used: set[Key] = set()
        for key, image in images.items():
            match = key if key in masks else None
            if match is None:  # one of the two lies outside of the splits' folders
                near = [other for other in by_name.get(key[1:], ()) if other[0] is None or key[0] is None]
                match = near[0] if len(near) == 1 else None
            if match is not None:
                used.add(match)
            pairs.append((key, image, masks[match] if match is not None else None))
        return Found(tuple(pairs), tuple(path for key, path in masks.items() if key not in used))

    def _only(self, tree: Tree, places: Sequence[Place]) -> dict[Key, Path]:
        """The first of the places that holds files; each key's one file."""
        for place in places:
            found = place.find(tree)
            if found:
                for paths in found.values():
                    if len(paths) > 1:
                        raise FormatError(
                            f"two files claim one place in this copy of {self.title}",
                            expected="each image and each mask once",
                            found=" and ".join(str(path) for path in paths[:3]),
                            where=tree.root,
                            fix="open the folder of one copy, or remove the other",
                        )
                return {key: paths[0] for key, paths in found.items()}
        return {}

    def detect(self, tree: Tree) -> str | None:
        """Why it is this layout: how many pairs the patterns found."""
        if tree.is_file or not any(place.find(tree) for place in self.masks):
            return None
        count = len(self.find(tree).masks)
        return f"{count} pairs laid out as {self.layout}" if count else None

    def open(self, tree: Tree) -> Dataset:
        """The dataset; FormatError where no image has its mask."""
        found = self.find(tree)
        if not found.masks:
            raise FormatError(f"no {self.title} tree", expected=self.layout, found=tree.summary(), where=tree.root)
        coding = self.coding(tree, found)
        reader = self.reader(coding.label_space, coding.color_table)
        reader.source = coding.source
        return assemble(
            tree,
            self.name,
            [(self.split_of(key), image, mask) for key, image, mask in found.pairs],
            reader,
            [*coding.notes, *self._unread(tree)],
            coding.problems,
            found.lone_masks,
        )

    def split_of(self, key: Key) -> str | None:
        """The split of an image, from its folder."""
        return key[0]

    def _unread(self, tree: Tree) -> list[str]:
        counts = {what: sum(map(len, place.find(tree).values())) for what, place in self.unread.items()}
        not_read = [f"{what} ({count})" for what, count in counts.items() if count]
        return [f"not read: {', '.join(not_read)}"] if not_read else []

    def format(self) -> Format:
        """The layout as a format of its own."""
        return Format(self.name, self.title, self.layout, self.detect, self.open)


def assemble(
    tree: Tree,
    name: str,
    pairs: Sequence[tuple[str | None, Path, Path | None]],
    reader: FileReader,
    notes: Sequence[str] = (),
    problems: Sequence[Problem] = (),
    lone_masks: Sequence[Path] = (),
    payloads: Sequence[object] | None = None,
    drawn: bool = True,
) -> Dataset:
    """The dataset of (split, image, mask) in order; ``drawn``: a payload holds annotations, and stands for a mask.

    A test part without any mask is as published: no finding.
    """
    ids = unique_ids([(image.parent.name, image.stem, image.suffix) for _, image, _ in pairs])
    held = payloads if payloads is not None else [None] * len(pairs)
    records = [
        Record(one, image, mask, payload, mask is not None or (drawn and payload is not None))
        for one, (_, image, mask), payload in zip(ids, pairs, held, strict=True)
    ]
    given: dict[str, list[Record]] = {}
    for record, (split, _, _) in zip(records, pairs, strict=True):
        if split is not None:
            given.setdefault(split, []).append(record)
    labeled = {split for (split, _, _), record in zip(pairs, records, strict=True) if record.labeled}
    lone = [
        image
        for (split, image, _), record in zip(pairs, records, strict=True)
        if not record.labeled and (split != "test" or "test" in labeled)
    ]
    return Dataset(
        root=tree.root,
        format=name,
        reader=reader,
        records=tuple(records),
        given=sort_splits(given),
        notes=list(notes),
        problems=[*pairing_problems(lone, list(lone_masks)), *problems],
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(lone_masks),
    )


def indices(
    names: Sequence[str],
    colors: Sequence[Color] = (),
    *,
    first: int = 0,
    ignored: Sequence[int] = (IGNORE_INDEX,),
    notes: Sequence[str] = (),
) -> Callable[[Tree, Found], MaskEncoding]:
    """A coding of file values ``first``, ``first`` + 1, … for the names in order; ``ignored`` values become 255."""
    mapping = {**dict.fromkeys(ignored, IGNORE_INDEX), **{first + i: i for i in range(len(names))}}
    space = LabelSpace(tuple(names), tuple(colors), mapping=mapping)
    return lambda tree, found: MaskEncoding(space, notes=tuple(notes))


def by_color(
    classes: Mapping[str, Color], ignored: Mapping[str, Color] | None = None, *, notes: Sequence[str] = ()
) -> Callable[[Tree, Found], MaskEncoding]:
    """A coding by the published colors; those of ``ignored`` become 255."""
    return lambda tree, found: color_coding(classes, ignored or {}, notes)


def color_coding(classes: Mapping[str, Color], ignored: Mapping[str, Color], notes: Sequence[str] = ()) -> MaskEncoding:
    """The label space and color table of published colors."""
    rows = [*classes.values(), *ignored.values()]
    mapping = {i: i if i < len(classes) else IGNORE_INDEX for i in range(len(rows))}
    space = LabelSpace(tuple(classes), tuple(classes.values()), mapping=mapping)
    return MaskEncoding(space, ColorTable(tuple(rows)), tuple(notes), source="colors")
