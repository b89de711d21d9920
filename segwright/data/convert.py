"""Any dataset into another format, every pixel as it was.

Masks are written as class indices with 255 for ignored pixels: in the file formats as palette PNGs, in the annotation
formats as run lengths (COCO, CVAT) or mask shapes (labelme), which are exact; polygons would not be. Images are
copied byte by byte; one that is inside an archive, or turned by EXIF, is written as PNG. Splits that the files name
are kept, none are made.

What a format cannot hold is said before anything is written (:func:`losses`): COCO and CVAT cannot say "not annotated",
so that an image without a mask is one with everything ignored (CVAT, where there is no background) there; labelme
leaves it as an image without JSON. But for VOC's lists an image is held once, so that of overlapping splits the first
(train, val, test) keeps it.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from segwright.core.atomic_io import typed_output
from segwright.core.errors import DataError, MissingExtraError, UsageError
from segwright.core.progress import stderr_console, track, visible
from segwright.core.types import IGNORE_INDEX, Color
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.data.annotations.rle import encode_rows, encode_string
from segwright.data.label_maps import IGNORED_NAMES
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Record
from segwright.imageio import UInt8Array, encode_png, read_file, read_header, write_bytes

IGNORE_NAME = "__ignore__"
LONGEST_NAME = 150  # bytes; file systems take 255, endings and splits need some
SHARD_BYTES = 500_000_000
SHARD_SAMPLES = 5_000


@dataclass
class Item:
    """One image on its way: its new name, its encoded bytes and its mask."""

    name: str  # unique, safe as a file name, without ending
    record: Record
    split: str | None
    dataset: Dataset

    @cached_property
    def image(self) -> tuple[bytes, str]:
        """(encoded image, ending): the file's own bytes where they are what we read, else PNG."""
        path, reader = self.record.image_path, self.dataset.reader
        if isinstance(reader, FileReader) and not reader.is_full_file(self.record):
            return _tiff(reader.read_bands(self.record)), ".tif"
        if path is not None and read_header(path).orientation == 1:
            return read_file(path), path.suffix.lower()
        pixels = self.dataset.reader.image(self.record)
        if pixels.shape[2] not in (1, 3, 4):
            raise DataError("an image of this many bands cannot be written as PNG", found=f"{pixels.shape[2]} bands",
                            where=path or self.record.id)  # fmt: skip
        return encode_png(pixels), ".png"

    @cached_property
    def mask(self) -> UInt8Array | None:
        """H×W class indices."""
        return self.dataset.reader.mask(self.record)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        if self.mask is not None:
            return self.mask.shape[0], self.mask.shape[1]
        reader = self.dataset.reader
        if self.record.image_path is not None and not (
            isinstance(reader, FileReader) and not reader.is_full_file(self.record)
        ):
            return read_header(self.record.image_path).size
        image = self.dataset.reader.image(self.record)
        return image.shape[0], image.shape[1]

    def mask_png(self, palette: UInt8Array) -> bytes | None:
        return None if self.mask is None else encode_png(self.mask, palette)


def _tiff(raster: npt.NDArray[Any]) -> bytes:
    """A part of a raster with all its bands in their own number type."""
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, raster, planarconfig="contig", photometric="minisblack", compression="zlib")
    return buffer.getvalue()


Writer = Callable[[Dataset, Iterator[Item], Path], None]


def convert(dataset: Dataset, to: str, out: str | Path) -> Path:
    """Write ``dataset`` as ``to`` (a key of ``WRITERS``) into the new folder ``out``; returns it.

    The folder appears when it is complete. Errors: UsageError for an unknown format or a folder that is not empty;
    whatever reading a sample raises.
    """
    out = Path(out)
    if to not in WRITERS:
        raise UsageError("unknown format to write", expected=", ".join(WRITERS), found=to)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("the folder is not empty", where=out, fix="name a new folder with --out")
    if dataset.root.is_dir() and dataset.root.resolve() in out.resolve().parents:
        raise UsageError(
            "the new folder would lie inside the dataset and be a part of it from then on",
            where=out,
            fix="name a folder outside with --out",
        )
    screen = stderr_console()
    for line in losses(dataset, to):
        screen.print(f"note: {line}", markup=False)
    with typed_output(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:80]}.writing-"))
        try:
            items = track(_items(dataset), f"writing {to}", len(dataset.records))
            WRITERS[to](dataset, iter(items), beside)
            os.chmod(beside, 0o755)
            if out.exists():
                out.rmdir()
            os.replace(beside, out)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    return out


DRAWN = frozenset({"coco", "labelme", "cvat", "label_studio", "yolo", "layers"})  # formats that know single objects
UNANNOTATED = {
    "coco": "become ignored all over: COCO cannot say 'not annotated'",
    "labelme": "stay images without JSON, which labelme takes for 'not annotated yet'",
}


def losses(dataset: Dataset, to: str) -> list[str]:
    """What ``to`` cannot hold of this dataset, from the records alone: :func:`convert` says it beforehand."""
    lines = []
    bare = sum(not record.labeled for record in dataset.records)
    fill = _fill(dataset)
    all_fill = "ignored" if fill == IGNORE_INDEX else dataset.label_space.names[fill]
    unannotated = {**UNANNOTATED, "cvat": f"become {all_fill} all over: CVAT cannot say 'not annotated'"}
    if bare and to in unannotated:
        lines.append(f"{bare} images without a mask {unannotated[to]}")
    homes = Counter(record.id for records in dataset.given.values() for record in records)
    several = sum(count > 1 for count in homes.values())
    if several and to != "voc":
        lines.append(f"{several} images are in several splits and stay in the first alone; --to voc keeps the lists")
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
    deep = dataset.value_range is not None or getattr(reader, "bands", None) is not None
    if deep and to in ("webdataset", "hf"):
        lines.append("images of more than 8 bits or 3 bands are copied, but this format's readers take 8-bit colors")
    if isinstance(reader, FileReader) and not all(reader.is_full_file(record) for record in dataset.records):
        lines.append("rasters are written as their tiles, without their place on the ground")
    elif dataset.format == "geotiff":
        lines.append("masks become PNGs, without their place on the ground; images keep theirs")
    if dataset.format in DRAWN:
        lines.append("objects of one class become one region an image: which object is which is not kept")
    return lines


def _items(dataset: Dataset) -> Iterator[Item]:
    split_of: dict[str, str] = {}
    renamed = split_names(dataset)
    for split, records in dataset.given.items():
        for record in records:
            split_of.setdefault(record.id, renamed[split])
    for name, record in zip(safe_names([r.id for r in dataset.records]), dataset.records, strict=True):
        yield Item(name, record, split_of.get(record.id), dataset)


def split_names(dataset: Dataset) -> dict[str, str]:
    """Split → its name as a part of a path: a list of the data may call a split whatever it likes, such as ``../x``."""
    return dict(zip(dataset.given, safe_names(list(dataset.given), "split"), strict=True))


def safe_names(ids: list[str], unnamed: str = "image") -> list[str]:
    """File names for ids: no separators, dots, controls or stray bytes, not too long, unique whatever the letter case.

    ``unnamed``: for an id of which nothing is left.
    """
    names, seen = [], set()
    for identity in ids:
        name = re.sub(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:*?"<>|.]+', "_", identity).strip(" _") or unnamed
        name = name.encode()[:LONGEST_NAME].decode(errors="ignore")
        unique, number = name, 2
        while unique.casefold() in seen:
            unique, number = f"{name}-{number}", number + 1
        seen.add(unique.casefold())
        names.append(unique)
    return names


def class_names(dataset: Dataset) -> list[str]:
    """The names as written: one that readers take for "ignored" would vanish, and is told apart."""
    return [visible(f"{n} class" if n.lower() in IGNORED_NAMES else n) for n in dataset.label_space.names]


def _write_classes(dataset: Dataset, out: Path, ignored: str = "ignore") -> None:
    """classes.csv: every class with its value and color, and 255 as what is ignored."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "name", "r", "g", "b"))
    colors = dataset.label_space.colors
    table.writerows((i, name, *colors[i]) for i, name in enumerate(class_names(dataset)))
    table.writerow((IGNORE_INDEX, ignored, 0, 0, 0))
    write_bytes(out / "classes.csv", text.getvalue().encode())


def _write_folder(dataset: Dataset, items: Iterator[Item], out: Path) -> None:
    """images/[split/]x.jpg, masks/[split/]x.png, classes.csv."""
    palette = dataset.label_space.palette()
    for item in items:
        data, ending = item.image
        split = item.split or ""
        write_bytes(out / "images" / split / f"{item.name}{ending}", data)
        mask = item.mask_png(palette)
        if mask is not None:
            write_bytes(out / "masks" / split / f"{item.name}.png", mask)
    _write_classes(dataset, out)


def _write_voc(dataset: Dataset, items: Iterator[Item], out: Path) -> None:
    """JPEGImages, SegmentationClass, ImageSets/Segmentation, classes.csv."""
    palette = dataset.label_space.palette()
    names: dict[str, str] = {}
    for item in items:
        data, ending = item.image
        names[item.record.id] = item.name
        write_bytes(out / "JPEGImages" / f"{item.name}{ending}", data)
        mask = item.mask_png(palette)
        if mask is not None:
            write_bytes(out / "SegmentationClass" / f"{item.name}.png", mask)
    for split, records in dataset.given.items():
        split = split_names(dataset)[split]
        lines = "".join(f"{names[record.id]}\n" for record in records)
        write_bytes(out / "ImageSets" / "Segmentation" / f"{split}.txt", lines.encode())
    _write_classes(dataset, out)


def _box(region: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the set pixels, the ends excluded."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _write_coco(dataset: Dataset, items: Iterator[Item], out: Path) -> None:
    """images/[split/], annotations/instances_[split].json; one RLE a class and image, nothing where ignored.

    Every class, background too, is a category with ``isthing`` 0: what no annotation covers is then ignored.
    """
    categories = [
        {"id": i + 1, "name": name, "supercategory": "", "isthing": 0, "color": list(dataset.label_space.colors[i])}
        for i, name in enumerate(class_names(dataset))
    ]
    parts: dict[str, dict[str, Any]] = {}
    for number, item in enumerate(items, start=1):
        split = item.split or "all"
        part = parts.setdefault(split, {"images": [], "annotations": [], "categories": categories})
        data, ending = item.image
        height, width = item.size
        write_bytes(out / "images" / (item.split or "") / f"{item.name}{ending}", data)
        part["images"].append({"id": number, "file_name": f"{item.name}{ending}", "height": height, "width": width})
        for label in [] if item.mask is None else np.unique(item.mask).tolist():
            if label == IGNORE_INDEX:
                continue
            region = item.mask == label
            top, left, bottom, right = _box(region)
            part["annotations"].append(
                {
                    "id": len(part["annotations"]) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "segmentation": {"size": [height, width], "counts": encode_string(region)},
                    "area": int(region.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
    for split, part in parts.items():
        write_bytes(out / "annotations" / f"instances_{split}.json", json.dumps(part).encode())


def _fill(dataset: Dataset) -> int:
    """What annotation formats leave out: the background, else the ignored."""
    names = class_names(dataset)
    return next((i for i, name in enumerate(names) if name.strip().lower() in BACKGROUND_NAMES), IGNORE_INDEX)


def _annotation_labels(dataset: Dataset) -> list[tuple[str, Color]]:
    """(name, color), ``__ignore__`` first; readers then add no background where there is none."""
    return [(IGNORE_NAME, (0, 0, 0)), *zip(class_names(dataset), dataset.label_space.colors, strict=True)]


def _regions(mask: UInt8Array, fill: int) -> Iterator[tuple[int, int, int, npt.NDArray[np.bool_]]]:
    """(class index or 255, top, left, its pixels cut to their box) of every class but the fill."""
    for label in np.unique(mask).tolist():
        if label != fill:
            region = mask == label
            top, left, bottom, right = _box(region)
            yield label, top, left, region[top:bottom, left:right]


def _write_labelme(dataset: Dataset, items: Iterator[Item], out: Path) -> None:
    """[split/]x.jpg, [split/]x.json with shapes of type mask (labelme 5.1 and later), labels.txt, classes.csv."""
    names, fill = class_names(dataset), _fill(dataset)
    for item in items:
        data, ending = item.image
        folder = out / (item.split or "")
        write_bytes(folder / f"{item.name}{ending}", data)
        if item.mask is None:
            continue
        shapes: list[dict[str, Any]] = [
            {
                "label": IGNORE_NAME if label == IGNORE_INDEX else names[label],
                "points": [[left, top], [left + region.shape[1] - 1, top + region.shape[0] - 1]],
                "group_id": None,
                "description": "",
                "shape_type": "mask",
                "flags": {},
                "mask": base64.b64encode(encode_png(region.astype(np.uint8))).decode(),
            }
            for label, top, left, region in _regions(item.mask, fill)
        ]
        height, width = item.size
        page: dict[str, Any] = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{item.name}{ending}",
                "imageData": None, "imageHeight": height, "imageWidth": width}  # fmt: skip
        write_bytes(folder / f"{item.name}.json", json.dumps(page, indent=1, ensure_ascii=False).encode())
    lines = "".join(f"{name}\n" for name, _ in _annotation_labels(dataset))
    write_bytes(out / "labels.txt", lines.encode())
    _write_classes(dataset, out, IGNORE_NAME)  # for the colors, which labels.txt cannot hold


def _write_cvat(dataset: Dataset, items: Iterator[Item], out: Path) -> None:
    """images/x.jpg, annotations.xml (CVAT for images 1.1) with a mask a class."""
    names, fill = class_names(dataset), _fill(dataset)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "<version>1.1</version>",
        "<meta><task><labels>",
    ]
    for name, color in _annotation_labels(dataset):
        code = "#{:02x}{:02x}{:02x}".format(*color)
        lines.append(f"<label><name>{_text(name)}</name><color>{code}</color><type>mask</type></label>")
    lines.append("</labels></task></meta>")
    for number, item in enumerate(items):
        data, ending = item.image
        height, width = item.size
        file = f"{item.name}{ending}"
        write_bytes(out / "images" / file, data)
        subset = f" subset={quoteattr(item.split)}" if item.split else ""
        lines.append(f'<image id="{number}" name={quoteattr(file)}{subset} width="{width}" height="{height}">')
        for label, top, left, region in [] if item.mask is None else _regions(item.mask, fill):
            name = IGNORE_NAME if label == IGNORE_INDEX else names[label]
            counts = ", ".join(map(str, encode_rows(region)))
            lines.append(
                f'<mask label={quoteattr(name)} source="manual" occluded="0" rle="{counts}" left="{left}" top="{top}" '
                f'width="{region.shape[1]}" height="{region.shape[0]}" z_order="0"/>'
            )
        lines.append("</image>")
    lines.append("</annotations>")
    write_bytes(out / "annotations.xml", "\n".join(lines).encode())


def _text(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _write_webdataset(dataset: Dataset, items: Iterator[Item], out: Path) -> None:
    """[split]-000000.tar with x.jpg and x.mask.png, classes.csv beside; the same data give the same bytes."""
    palette = dataset.label_space.palette()
    shards: dict[str, _Shards] = {}
    try:
        for item in items:
            data, ending = item.image
            files = [(f"{item.name}{ending}", data)]
            mask = item.mask_png(palette)
            if mask is not None:
                files.append((f"{item.name}.mask.png", mask))
            split = item.split or "shard"
            shards.setdefault(split, _Shards(out, split)).add(files)
    finally:
        for shard in shards.values():
            shard.close()
    _write_classes(dataset, out)


class _Shards:
    """The tar files of one split."""

    def __init__(self, out: Path, split: str) -> None:
        self.out, self.split = out, split
        self.number = self.samples = self.bytes = 0
        self.archive: tarfile.TarFile | None = None

    def add(self, files: list[tuple[str, bytes]]) -> None:
        if self.samples >= SHARD_SAMPLES or self.bytes >= SHARD_BYTES:
            self.close()
        if self.archive is None:
            path = self.out / f"{self.split}-{self.number:06d}.tar"
            self.archive = tarfile.open(path, "w:", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed in close()
        for name, data in files:
            info = tarfile.TarInfo(name)  # owner and time stay empty, so that the bytes depend on the data alone
            info.size = len(data)
            self.archive.addfile(info, io.BytesIO(data))
            self.bytes += len(data)
        self.samples += 1

    def close(self) -> None:
        if self.archive is not None:
            self.archive.close()
            self.archive = None
            self.number, self.samples, self.bytes = self.number + 1, 0, 0


def _write_hf(dataset: Dataset, items: Iterator[Item], out: Path) -> None:
    """data/[split]-00000.parquet with columns image and mask as ``datasets.Image`` stores them; classes.csv."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError(
            "writing Parquet needs pyarrow", found="not installed", fix="pip install 'segwright[hf]'"
        ) from error
    palette = dataset.label_space.palette()
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"info": {"features": {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}}}
    schema = pa.schema([("image", image), ("mask", image)], {"huggingface": json.dumps(features)})
    (out / "data").mkdir()
    writers: dict[str, Any] = {}
    rows: dict[str, list[dict[str, Any]]] = {}

    def flush(split: str) -> None:
        if rows.get(split):
            writers[split].write_table(pa.Table.from_pylist(rows.pop(split), schema=schema))

    try:
        for item in items:
            data, ending = item.image
            mask = item.mask_png(palette)
            split = item.split or "all"
            if split not in writers:
                writers[split] = parquet.ParquetWriter(out / "data" / f"{split}-00000-of-00001.parquet", schema)
            cell = None if mask is None else {"bytes": mask, "path": f"{item.name}.png"}
            row = {"image": {"bytes": data, "path": f"{item.name}{ending}"}, "mask": cell}
            rows.setdefault(split, []).append(row)
            if len(rows[split]) >= 100:
                flush(split)
        for split in list(rows):
            flush(split)
    finally:
        for writer in writers.values():
            writer.close()
    _write_classes(dataset, out)


WRITERS: Mapping[str, Writer] = {
    "voc": _write_voc,
    "coco": _write_coco,
    "folder": _write_folder,
    "webdataset": _write_webdataset,
    "labelme": _write_labelme,
    "cvat": _write_cvat,
    "hf": _write_hf,
}
