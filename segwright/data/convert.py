"""Convert a dataset into another format, every pixel as it was.

The writers stand beside the readers in :mod:`segwright.data.formats`. Images are copied byte by byte; one that is
inside an archive, or turned by EXIF, is written as PNG. Splits that the files name are kept, none are made.

What a format cannot hold is listed before anything is written (:func:`lossy_aspects`). COCO and CVAT have no "not
annotated", so an image without a mask becomes all ignored (CVAT: all background, if there is one); labelme leaves it
as an image without JSON. Except in VOC's lists an image is held once: of overlapping splits the first (train, val,
test) keeps it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from segwright.core.atomic_io import refuse_used_folder, typed_output
from segwright.core.counted import counted
from segwright.core.deprecated import renamed_names
from segwright.core.errors import UsageError
from segwright.core.progress import stderr_console, track
from segwright.core.types import IGNORE_INDEX
from segwright.data.annotations.rasterize import RasterizedReader
from segwright.data.formats import FORMATS
from segwright.data.formats.writing import (
    OutputSample,
    Writer,
    background_index,
    class_names,
    safe_names,
    split_names,
)
from segwright.data.records import Dataset

_OFFERED = ("voc", "coco", "folder", "webdataset", "labelme", "cvat", "label_studio", "hf")
WRITERS: Mapping[str, Writer] = {name: writer for name in _OFFERED if (writer := FORMATS[name].writer) is not None}
UNANNOTATED = {
    "coco": "become ignored all over: COCO cannot express 'not annotated'",
    "labelme": "stay images without JSON, which labelme takes for 'not annotated yet'",
}

__getattr__ = renamed_names(__name__, {"losses": "lossy_aspects"})


def convert(dataset: Dataset, to: str, out: str | Path) -> Path:
    """Write ``dataset`` as ``to`` (a key of ``WRITERS``) into the new folder ``out``; returns it.

    The folder appears when it is complete. Errors: UsageError for an unknown format or a folder that is not empty;
    whatever reading a sample raises.
    """
    out = Path(out)
    if to not in WRITERS:
        raise UsageError("unknown format to write", expected=", ".join(WRITERS), found=to)
    refuse_used_folder(out, fix="name a new folder with --out")
    if dataset.root.is_dir() and dataset.root.resolve() in out.resolve().parents:
        raise UsageError(
            "the new folder would be inside the dataset and become part of it",
            where=out,
            fix="name a folder outside with --out",
        )
    screen = stderr_console()
    for line in lossy_aspects(dataset, to):
        screen.print(f"note: {line}", markup=False, soft_wrap=True)
    with typed_output(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:80]}.writing-"))
        try:
            samples = track(_samples(dataset), f"writing {to}", len(dataset.records))
            WRITERS[to](dataset, iter(samples), beside)
            os.chmod(beside, 0o755)
            if out.exists():
                out.rmdir()
            os.replace(beside, out)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    return out


def lossy_aspects(dataset: Dataset, to: str) -> list[str]:
    """List what ``to`` cannot hold of this dataset, from the records alone; :func:`convert` prints it first."""
    lines = []
    bare = sum(not record.labeled for record in dataset.records)
    fill = background_index(dataset)
    all_fill = "ignored" if fill == IGNORE_INDEX else dataset.label_space.names[fill]
    unannotated = {**UNANNOTATED, "cvat": f"become {all_fill} all over: CVAT cannot express 'not annotated'"}
    if bare and to in unannotated:
        lines.append(f"{counted(bare, 'image')} without a mask {unannotated[to]}")
    homes = Counter(record.id for records in dataset.given.values() for record in records)
    several = sum(count > 1 for count in homes.values())
    if several and to != "voc":
        lines.append(
            f"{counted(several, 'image', 'is')} in several splits and stay in the first alone; --to voc keeps the lists"
        )
    renamed = sum(a != b.id for a, b in zip(safe_names([r.id for r in dataset.records]), dataset.records, strict=True))
    if renamed:
        lines.append(f"{renamed} names change: folders and signs that not every file system holds become _")
    parts = [f"{old} as {new}" for old, new in split_names(dataset).items() if new != old]
    if parts:
        lines.append(f"splits are renamed, for their names become files and folders: {', '.join(parts)}")
    classes = [new for new, old in zip(class_names(dataset), dataset.label_space.names, strict=True) if new != old]
    if classes:
        lines.append(f"classes are renamed whose names mean 'ignored' or hold control characters: {', '.join(classes)}")
    reader = dataset.reader
    deep = dataset.value_range is not None or reader.bands is not None
    if deep and to in ("webdataset", "hf"):
        lines.append("images of more than 8 bits or 3 bands are copied, but this format's readers take 8-bit colors")
    if not all(reader.is_full_file(record) for record in dataset.records):
        lines.append("rasters are written as their tiles, without their place on the ground")
    elif dataset.format == "geotiff":
        lines.append("masks become PNGs, without their place on the ground; images keep theirs")
    if isinstance(reader, RasterizedReader):
        lines.append("objects of one class become one region per image: single objects are not kept apart")
    return lines


def _samples(dataset: Dataset) -> Iterator[OutputSample]:
    split_of: dict[str, str] = {}
    renamed = split_names(dataset)
    for split, records in dataset.given.items():
        for record in records:
            split_of.setdefault(record.id, renamed[split])
    for name, record in zip(safe_names([r.id for r in dataset.records]), dataset.records, strict=True):
        yield OutputSample(name, record, split_of.get(record.id), dataset)
