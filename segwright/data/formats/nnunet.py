"""nnU-Net's raw data with PNG or TIFF (Isensee et al. 2021): ``imagesTr/x_0000.png``, ``labelsTr/x.png``.

Labels are those of ``dataset.json``, name → value (version 2) or value → name (version 1); ``ignore`` is ignored. A
region of several values gives its values no names. A case in several files (``x_0000``, ``x_0001``, …) has one channel
in each, and all of them are read as bands of one image. ``imagesTs`` is the test part, with ``labelsTs`` if it is here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import FormatError, ImageReadError, LabelError
from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.data.formats.base import Format
from segwright.data.formats.bit_depth import find_pixel_format
from segwright.data.formats.file_tree import Tree, is_image, read_ends, read_json, stem
from segwright.data.formats.published_layout import assemble
from segwright.data.label_maps import IGNORED_NAMES, generated_name
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Problem, Record
from segwright.imageio import read_raster

_CHANNEL = re.compile(r"(.+)_(\d{4})$")
MAX_JSON = 200_000_000


class ChannelsReader(FileReader):
    """An image's channels in files of their own; ``payload`` of a record holds their paths in order."""

    def is_full_file(self, record: Record) -> bool:
        return record.payload is None

    def read_bands(self, record: Record) -> npt.NDArray[Any]:
        if record.payload is None:
            return super().read_bands(record)
        parts = []
        for path in record.payload:
            pixels = read_raster(path, self.limits)
            if pixels.shape[2] > 1 and not (pixels == pixels[..., :1]).all():
                raise ImageReadError(
                    "one of several channel files holds colors", expected="one channel", found=f"{pixels.shape[2]}",
                    where=path, fix="save each channel as a gray image, or all of them as one RGB image x_0000.png",
                )  # fmt: skip
            parts.append(pixels[..., 0])
        if len({part.shape for part in parts}) > 1:
            raise ImageReadError(
                "the channels of an image differ in size", expected="{}×{}".format(*parts[0].shape),
                found=", ".join("{}×{}".format(*part.shape) for part in parts), where=record.image_path,
            )  # fmt: skip
        return np.stack(parts, axis=2)


def _base(tree: Tree) -> tuple[str, Path] | None:
    """(folder with imagesTr and labelsTr, its dataset.json)."""
    for relative, listing in () if tree.is_file else tree.walk(depth=3):
        if {"imagesTr", "labelsTr"} <= set(listing.dirs) and "dataset.json" in listing.files:
            path = Path(listing.path, "dataset.json")
            if '"labels"' in read_ends(path):
                return relative, path
    return None


def detect(tree: Tree) -> str | None:
    base = _base(tree)
    if base is None:
        return None
    masks = tree.folder(_join(base[0], "labelsTr")).files
    return "imagesTr, labelsTr and dataset.json" if any(map(is_image, masks)) else None


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _cases(tree: Tree, folder: str) -> dict[str, list[Path]]:
    """Case → its channel files in order."""
    listing = tree.folder(folder)
    found: dict[str, dict[int, Path]] = {}
    for name in filter(is_image, listing.files):
        match = _CHANNEL.match(stem(name))
        case, number = (match[1], int(match[2])) if match else (stem(name), 0)
        channels = found.setdefault(case, {})
        if number in channels:
            raise FormatError(
                "two files of one case and channel", expected="one", where=tree.root,
                found=f"{channels[number].name} and {name}", fix="remove one of them",
            )  # fmt: skip
        channels[number] = Path(listing.path, name)
    return {case: [channels[number] for number in sorted(channels)] for case, channels in found.items()}


def open_nnunet(tree: Tree) -> Dataset:
    base = _base(tree)
    if base is None:
        raise FormatError(
            "no nnU-Net raw data", expected="imagesTr/x_0000.png, labelsTr/x.png and dataset.json",
            found=tree.summary(), where=tree.root,
        )  # fmt: skip
    folder, described = base
    space, notes, problems = _labels(described)
    pairs: list[tuple[str | None, Path, Path | None]] = []
    files: list[list[Path]] = []
    lone: list[Path] = []
    for images, masks, split in (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test")):
        listing = tree.folder(_join(folder, masks))
        by_case = {stem(name): Path(listing.path, name) for name in listing.files if is_image(name)}
        for case, channels in _cases(tree, _join(folder, images)).items():
            pairs.append((split, channels[0], by_case.pop(case, None)))
            files.append(channels)
        lone += by_case.values()
    counts = {len(channels) for channels in files}
    if len(counts) > 1:
        few = min(files, key=len)
        raise FormatError(
            "cases of different numbers of channels", expected=f"{max(counts)} files per case, x_0000 and on",
            found=f"{len(few)} for {few[0].name}", where=tree.root, fix="add the missing channels, or remove the case",
        )  # fmt: skip
    several = counts != {1} and bool(counts)
    reader = ChannelsReader(space)
    if several:
        depth = find_pixel_format([path for channels in files[:50] for path in channels])
        reader.bands, reader.value_range = max(counts), depth.value_range
        notes += [f"{counted(max(counts), 'file')} per case are the channels of one image", *depth.notes]
    return assemble(
        tree, "nnunet", pairs, reader, notes, problems, lone,
        [tuple(channels) if several else None for channels in files], drawn=False,
    )  # fmt: skip


def _labels(path: Path) -> tuple[LabelSpace, list[str], list[Problem]]:
    """(label space, notes, findings) of a dataset.json; LabelError naming it."""
    data = read_json(path, MAX_JSON, LabelError)
    try:
        by_value, regions = _by_value(data["labels"])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise LabelError(
            "the labels of dataset.json are not understood",
            expected='{"background": 0, "road": 1} or {"0": "background"}',
            found=repr(error)[:120], where=path, fix="write each label's value as a whole number",
        ) from error  # fmt: skip
    ignored = {value for value, name in by_value.items() if name.strip().lower() in IGNORED_NAMES}
    kept = [value for value in sorted(by_value) if value not in ignored]
    if not kept:
        raise LabelError("dataset.json names no label", expected="background and at least one more", where=path)
    mapping = {IGNORE_INDEX: IGNORE_INDEX, **dict.fromkeys(ignored, IGNORE_INDEX)}
    mapping |= {value: place for place, value in enumerate(kept)}
    notes = [f"dataset.json names {len(kept)} labels"]
    notes += [f"ignored: value {', '.join(map(str, sorted(ignored)))}"] if ignored else []
    if regions:
        listed = "; ".join(f"{name} is {', '.join(map(str, values))}" for name, values in regions.items())
        notes.append(f"regions of several values are not learned as such, their values are classes: {listed}")
    return LabelSpace(tuple(by_value[value] for value in kept), mapping=mapping), notes, []


def _by_value(labels: Mapping[str, Any]) -> tuple[dict[int, str], dict[str, list[int]]]:
    """(value → name, regions: name → values)."""
    if labels and all(str(key).isdecimal() for key in labels) and all(isinstance(v, str) for v in labels.values()):
        return {int(key): name for key, name in labels.items()}, {}
    named = {str(name): [int(v) for v in value] for name, value in labels.items() if isinstance(value, list)}
    regions = {name: values for name, values in named.items() if len(values) > 1}
    single = {name: values[0] for name, values in named.items() if len(values) == 1}
    single |= {str(name): int(value) for name, value in labels.items() if not isinstance(value, list)}
    by_value = {value: name for name, value in single.items()}
    if len(by_value) != len(single) or any(not 0 <= value < 65536 for value in by_value):
        raise ValueError("two labels of one value, or a value out of bounds")
    for values in regions.values():
        for value in values:
            by_value.setdefault(value, generated_name(value))
    return by_value, regions


FORMAT = Format(
    "nnunet",
    "nnU-Net",
    "imagesTr/x_0000.png, labelsTr/x.png and dataset.json",
    detect,
    open_nnunet,
)
