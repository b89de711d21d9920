"""CVAT's XML ("CVAT for images 1.1", "CVAT for video 1.1"): polygons, boxes, ellipses, masks, drawn by their z order.

A mask's run lengths go along the rows of its box and are exact. Labels and colors come from the task's description;
what no shape covers is background. Polylines and points are sparse labels
(:mod:`segwright.data.annotations.sparse`); cuboids and skeletons cover no area: they are counted and named.
A video's tracks (:mod:`.cvat_tracks`) are drawn into its frames, which lie beside the XML as images.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import quoteattr

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse

from segwright.core.counted import counted
from segwright.core.errors import FormatError, LabelError
from segwright.core.types import IGNORE_INDEX, Color
from segwright.data.annotations.rasterize import (
    Drawable,
    Drawing,
    Ledger,
    RasterizedReader,
    Region,
    annotated_space,
    describe_source,
    fill_name,
)
from segwright.data.annotations.rle import encode_rows
from segwright.data.annotations.sparse import COMPLETE, Choice, LabelRule, PointCount, Reading, choose_reading
from segwright.data.formats.base import SPLIT_NAMES, Format, label_rule, pairing_problems, sort_splits, unique_ids
from segwright.data.formats.cvat_shapes import AREAS, NO_AREA, STROKES, Shape, corners, pixels, shape_of, whole
from segwright.data.formats.cvat_tracks import Frames, Video, number_images, read_meta, read_track, shapes_by_frame
from segwright.data.formats.file_references import Reference, claimed_twice, resolve_all, surroundings
from segwright.data.formats.file_tree import Tree, is_image, read_ends
from segwright.data.formats.shapes import boxes_only
from segwright.data.formats.writing import (
    IGNORE_NAME,
    OutputSample,
    annotation_labels,
    background_index,
    class_names,
    class_regions,
)
from segwright.data.records import Dataset, Problem, Record
from segwright.data.text_files import MAX_ANNOTATION_BYTES, open_regular, read_bytes
from segwright.imageio import UInt8Array, read_header, write_bytes

PIECE = 1 << 20  # bytes that the XML parser is handed at a time
MAX_HELD = 1_000_000  # elements of an XML in memory: of the image or track that is read, and what is beside them
SAMPLED = 8  # XML files a folder that recognition looks at


@dataclass(frozen=True, slots=True)
class CvatAnnotations:
    source: str
    height: int
    width: int
    shapes: tuple[Shape, ...]


@dataclass
class CvatReader(RasterizedReader):
    index: Mapping[str, int] | None = None
    background: int = 0
    reading: Reading = COMPLETE

    @property
    def partial(self) -> bool:
        return self.reading.partial

    def drawing(self, record: Record) -> Drawing | None:
        payload: CvatAnnotations = record.payload
        where = describe_source(Path(payload.source), record.id)
        height, width = self.sized(record, payload.height, payload.width, where)
        objects = [
            Drawable(
                self._class(shape, where),
                partial(_region, shape, self._class(shape, where), height, width, where, self.reading.rule),
            )
            for shape in sorted(payload.shapes, key=lambda shape: shape.z)
            if self.reading.strokes or shape.kind in AREAS
        ]
        outlines = any(shape.kind in AREAS for shape in payload.shapes)
        return Drawing(height, width, objects, self.reading.fill(self.background, outlines), where=where)

    def _class(self, shape: Shape, where: str) -> int:
        known = self.index or {}
        if shape.label not in known:
            raise LabelError(
                "a shape's label is not among the task's",
                expected=", ".join(known),
                found=shape.label,
                where=where,
                fix="export the annotations again",
            )
        return known[shape.label]


def _region(shape: Shape, index: int, height: int, width: int, where: str, rule: LabelRule) -> Region:
    found = pixels(shape, height, width, where, rule)
    return Region(index, found.mask, found.top, found.left, found.unsure)


def _files(tree: Tree, every: bool = False) -> list[Path]:
    """CVAT's XML files: the root itself, or those in it; recognition looks at some of each folder, opening at all."""
    if tree.is_file:
        candidates = [tree.root] if tree.root.suffix.lower() == ".xml" else []
    else:
        candidates = []
        for _, listing in tree.walk(depth=2):
            names = [name for name in listing.files if name.lower().endswith(".xml")]
            candidates += [Path(listing.path, name) for name in (names if every else names[:SAMPLED])]
    return [path for path in candidates if re.search(r"<annotations>", read_ends(path, 4096))]


def detect(tree: Tree) -> str | None:
    files = _files(tree)
    return f"CVAT's XML ({', '.join(path.name for path in files[:4])})" if files else None


@dataclass
class _Parsed:
    labels: dict[str, Color | None]
    images: list[tuple[str, str | None, CvatAnnotations]]  # name, subset, annotations
    videos: dict[Path, Video] = field(default_factory=dict)
    skipped: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    listed: set[str] = field(default_factory=set)  # labels of the tasks' own lists

    def skip(self, kind: str, label: str) -> None:
        """Count a shape without an area."""
        self.skipped += 1
        self.ledger.lose(label, f"a {kind} covers no area")

    def unlisted(self) -> list[Problem]:
        """A warning on labels of shapes that no task lists; none where there is no list, as in a job's export."""
        shapes = Counter(shape.label for shape in _all_shapes(self) if shape.label not in self.listed)
        if not self.listed or not shapes:
            return []
        names = ", ".join(f"{name or 'without a name'} ({count})" for name, count in shapes.most_common(6))
        message = (
            f"{counted(shapes.total(), 'shape', 'has')} a label that the task does not list, which becomes a class: "
            f"{names}"
        )
        return [Problem("warning", "class not listed", message, (), "add the label to the task, or correct the shapes")]


def _open(path: Path) -> IO[bytes]:
    """The XML as bytes that the parser reads: in the encoding that it declares, where that is one of Python's."""
    with open_regular(path, MAX_ANNOTATION_BYTES) as file:
        declared = re.match(rb"""<\?xml[^>]*encoding=["']([\w.-]+)["'][^>]*\?>""", file.read(200))
    name = declared[1].decode().lower() if declared else "utf-8"
    if declared is None or name in ("utf-8", "utf8", "utf-16", "us-ascii", "ascii", "iso-8859-1"):
        return open_regular(path, MAX_ANNOTATION_BYTES)
    text = read_bytes(path)[declared.end() :].decode(name)
    return io.BytesIO(text.encode("utf-8"))


class _Pieces:
    """A file read in pieces of ``PIECE`` bytes, whatever size is requested.

    The parser begins an incomplete tag again with every piece: in the 16 kB that ``iterparse`` takes, an
    attribute of 50 MB keeps it busy for minutes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(PIECE if size >= 0 else -1)


def _parse(path: Path, parsed: _Parsed) -> None:
    """Read one XML as a stream; one that declares a document type is refused, for its entities can be bombs."""
    frames = Frames()
    held = 0  # elements in memory
    try:
        with _open(path) as file:
            for _, element in iterparse(_Pieces(file), events=("end",), forbid_dtd=True):
                held += 1
                if held > MAX_HELD:
                    raise FormatError(
                        "the XML holds more elements than the limit",
                        expected=f"at most {MAX_HELD} in one image or track, or beside them",
                        where=path,
                        fix="split the task",
                    )
                if element.tag == "label" and element.find("name") is not None:
                    name = (element.findtext("name") or "").strip()
                    if (element.findtext("type") or "") != "skeleton":
                        parsed.labels.setdefault(name, _hex(element.findtext("color")))
                        parsed.listed.add(name)
                elif element.tag == "meta":
                    frames = read_meta(element)
                elif element.tag == "track":
                    video = parsed.videos.setdefault(path, Video(frames))
                    video.tracks.append(read_track(element, path))
                    label = (element.get("label") or "").strip()
                    parsed.labels.setdefault(label, None)
                    for child in element:
                        if child.tag in NO_AREA and child.get("outside") != "1":
                            parsed.skip(child.tag, label)
                    held -= sum(1 for _ in element.iter()) - 1
                    element.clear()
                elif element.tag == "image":
                    shapes = tuple(shape_of(child) for child in element if child.tag in (*AREAS, *STROKES))
                    for child in element:
                        if child.tag in NO_AREA:
                            parsed.skip(child.tag, (child.get("label") or "").strip())
                    size = whole(element.get("height")), whole(element.get("width"))
                    parsed.images.append(
                        (element.get("name", ""), element.get("subset"), CvatAnnotations(str(path), *size, shapes))
                    )
                    held -= sum(1 for _ in element.iter()) - 1
                    element.clear()
    except (ParseError, DefusedXmlException, ValueError, LookupError, OverflowError, OSError) as error:
        declares = isinstance(error, DefusedXmlException)
        raise FormatError(
            "the XML declares a document type or entities" if declares else "not a CVAT XML",
            expected="well-formed XML in UTF-8", found="<!DOCTYPE" if declares else str(error), where=path,
            fix="export it from CVAT again",
        ) from error  # fmt: skip


def _hex(text: str | None) -> Color | None:
    match = re.fullmatch(r"#?([0-9a-fA-F]{6})", (text or "").strip())
    if match is None:
        return None
    number = int(match[1], 16)
    return (number >> 16, number >> 8 & 255, number & 255)


def _images(tree: Tree) -> list[Path]:
    """All images under the root, or beside it if it is the XML itself."""
    walked = surroundings(tree).walk()
    return [Path(listing.path, name) for _, listing in walked for name in listing.files if is_image(name)]


def _drawn_frames(path: Path, video: Video, images: Sequence[Path]) -> list[tuple[Path, CvatAnnotations]]:
    """The frames of a video with what its tracks draw; those that show no object are all background."""
    near = [image for image in images if image.is_relative_to(path.parent)]
    frames = number_images(near, video.frames, path)
    try:
        shapes = shapes_by_frame(video, list(frames))
    except (KeyError, ValueError, OverflowError, IndexError) as error:
        raise FormatError("a broken shape in a track", found=repr(error), where=path, fix="export it again") from error
    result = []
    for frame, image in frames.items():
        size = video.frames.size or read_header(image).size
        result.append((image, CvatAnnotations(str(path), *size, tuple(shapes[frame]))))
    return result


def _video_notes(videos: Mapping[Path, Video]) -> list[str]:
    notes = []
    for path, video in videos.items():
        note = f"{path.name}: {len(video.tracks)} tracks of a video"
        if video.filled:
            note += f"; {video.filled} shapes after or between keyframes are filled in, as CVAT does"
        notes.append(note)
    return notes


def _located(tree: Tree, parsed: _Parsed) -> tuple[list[tuple[Path, str | None, CvatAnnotations]], list[Problem]]:
    """The images that are there, each once, and what is missing or named by several tasks."""
    references = [
        Reference(name, Path(annotated.source), SPLIT_NAMES.get((subset or "").lower()),
                  (f"images/{subset}", subset) if subset else ("images",))
        for name, subset, annotated in parsed.images
    ]  # fmt: skip
    found = resolve_all(tree, references)
    contested = {
        path: numbers
        for path, numbers in found.shared.items()
        if any(parsed.images[i][2].shapes != parsed.images[numbers[0]][2].shapes for i in numbers)
    }
    problems = list(found.problems)
    if contested:
        problems.append(claimed_twice(references, contested, surroundings(tree).root))
    present: dict[Path, tuple[Path, str | None, CvatAnnotations]] = {}
    for (_, subset, annotated), path in zip(parsed.images, found.paths, strict=True):
        if path is not None and path not in contested:
            present.setdefault(path, (path, subset, annotated))
    return list(present.values()), problems


def _all_shapes(parsed: _Parsed) -> Iterator[Shape]:
    """Every shape of the images and tracks, those between keyframes left out."""
    for _, _, annotated in parsed.images:
        yield from annotated.shapes
    for video in parsed.videos.values():
        for track in video.tracks:
            yield from (shape for shape in track.shapes.values() if shape is not None)


def _points(images: Iterable[CvatAnnotations]) -> PointCount:
    """The points of the images, those that cannot be read left out."""
    count = PointCount()
    for one in images:
        points: list[tuple[str, float, float]] = []
        for shape in one.shapes:
            if shape.kind == "points":
                with contextlib.suppress(KeyError, ValueError, IndexError):
                    points += [(shape.label, float(x), float(y)) for x, y in corners(shape.attributes)]
        count.add(points, one.height, one.width)
    return count


def _choice(rule: LabelRule, parsed: _Parsed) -> Choice:
    """How points and polylines are read: by the shapes of every image, and of every video as one."""
    images: list[list[Shape]] = [list(annotated.shapes) for _, _, annotated in parsed.images]
    for video in parsed.videos.values():
        images.append([shape for track in video.tracks for shape in track.shapes.values() if shape is not None])
    counts = [(sum(s.kind in STROKES for s in one), sum(s.kind in AREAS for s in one)) for one in images]
    return choose_reading(rule, counts)


def open_cvat(tree: Tree) -> Dataset:
    files = _files(tree, every=True)
    if not files:
        raise FormatError("no CVAT XML", expected="annotations.xml", found=tree.summary(), where=tree.root)
    parsed = _Parsed({}, [])
    for path in files:
        _parse(path, parsed)
    choice = _choice(label_rule(tree), parsed)
    reading = choice.reading
    for shape in _all_shapes(parsed):
        parsed.labels.setdefault(shape.label, None)  # a job's export may lack the task's list of labels
        if reading.strokes or shape.kind in AREAS:
            parsed.ledger.keep(shape.label)
        else:
            parsed.skip(shape.kind, shape.label)
    if not parsed.labels:
        raise FormatError(
            "the XML names no label", expected="<labels>", found=f"{len(parsed.images)} images", where=files[0]
        )
    space, index, background = annotated_space(
        list(parsed.labels), list(parsed.labels.values()), rest_ignored=reading.rest == "ignored"
    )
    present, problems = _located(tree, parsed)
    images = _images(tree)
    for path, video in parsed.videos.items():
        present += [(image, None, annotated) for image, annotated in _drawn_frames(path, video, images)]
    times = Counter(path for path, _, _ in present)
    twice = [path for path, number in times.items() if number > 1]
    if twice:
        message = (
            f"{counted(len(twice), 'image', 'is')} frames of several XML files, such as "
            f"{twice[0].name}; they are left out"
        )
        fix = "keep each task's XML and images in a folder of their own"
        problems.append(Problem("error", "file claimed twice", message, tuple(map(str, twice)), fix))
        present = [one for one in present if times[one[0]] == 1]
    if not present:
        raise FormatError(
            "none of the XML's images can be used",
            expected=", ".join(name for name, _, _ in parsed.images[:3]) or "<image> elements or tracks",
            found="; ".join(problem.message for problem in problems)[:600] or tree.summary(),
            where=files[0],
            fix="copy the images beside the XML, one task's images and XML per folder",
        )
    ids = unique_ids([(path.parent.name, path.stem, path.suffix) for path, _, _ in present])
    records = [Record(name, path, None, annotated) for name, (path, _, annotated) in zip(ids, present, strict=True)]
    given: dict[str, list[Record]] = {}
    for record, (_, subset, _) in zip(records, present, strict=True):
        if subset and subset.lower() in SPLIT_NAMES:
            given.setdefault(SPLIT_NAMES[subset.lower()], []).append(record)
    used = {path for path, _, _ in present} | {Path(file) for problem in problems for file in problem.files}
    lone = [] if tree.is_file else [path for path in images if path not in used]
    notes = [
        f"{counted(len(space), 'class')}; uncovered pixels are {fill_name(space, background)}; shapes are "
        "stacked by z order",
        *_video_notes(parsed.videos),
        *choice.notes,
        *reading.notes(fill_name(space, background), strokes=any(s.kind in STROKES for s in _all_shapes(parsed))),
        *(_points(annotated for _, _, annotated in present).notes() if reading.strokes else []),
    ]
    if parsed.skipped:
        notes.append(f"{parsed.skipped} lines, points and cuboids cover no area and are passed over")
    kinds = Counter(shape.kind for shape in _all_shapes(parsed))
    fix = "draw them as polygons or masks, or ignore this if they are no objects of a mask"
    return Dataset(
        root=tree.root,
        format="cvat",
        reader=CvatReader(space, index=index, background=background, reading=reading),
        records=tuple(records),
        given=sort_splits(given),
        notes=notes,
        problems=[
            *pairing_problems(lone, []),
            *parsed.ledger.problems(fix),
            *parsed.unlisted(),
            *choice.problems,
            *(boxes_only(sum(kinds.values()), "boxes", reading.rule) if set(kinds) == {"box"} else []),
            *problems,
        ],
        unpaired_images=tuple(lone),
    )


def write_cvat(dataset: Dataset, samples: Iterator[OutputSample], out: Path) -> None:
    """images/x.jpg, annotations.xml (CVAT for images 1.1) with a mask a class."""
    names, fill = class_names(dataset), background_index(dataset)
    lines = header_lines(annotation_labels(dataset))
    for number, sample in enumerate(samples):
        data, ending = sample.image
        file = f"{sample.name}{ending}"
        write_bytes(out / "images" / file, data)
        lines += image_lines(number, file, sample.split, sample.size, sample.mask, names, fill)
    lines.append("</annotations>")
    write_bytes(out / "annotations.xml", "\n".join(lines).encode())


def header_lines(labels: Sequence[tuple[str, Color]]) -> list[str]:
    """The beginning of an XML, up to the images."""
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "<version>1.1</version>",
        "<meta><task><labels>",
    ]
    for name, color in labels:
        code = "#{:02x}{:02x}{:02x}".format(*color)
        lines.append(f"<label><name>{_escape(name)}</name><color>{code}</color><type>mask</type></label>")
    return [*lines, "</labels></task></meta>"]


def image_lines(
    number: int,
    file: str,
    split: str | None,
    size: tuple[int, int],
    mask: UInt8Array | None,
    names: Sequence[str],
    fill: int,
    source: str = "manual",
) -> list[str]:
    """One image of an XML with a mask per class except ``fill``; ``size``: height, width."""
    subset = f" subset={quoteattr(split)}" if split else ""
    lines = [f'<image id="{number}" name={quoteattr(file)}{subset} width="{size[1]}" height="{size[0]}">']
    for label, top, left, region in [] if mask is None else class_regions(mask, fill):
        name = IGNORE_NAME if label == IGNORE_INDEX else names[label]
        counts = ", ".join(map(str, encode_rows(region)))
        lines.append(
            f'<mask label={quoteattr(name)} source="{source}" occluded="0" rle="{counts}" left="{left}" top="{top}" '
            f'width="{region.shape[1]}" height="{region.shape[0]}" z_order="0"/>'
        )
    return [*lines, "</image>"]


def _escape(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


FORMAT = Format(
    "cvat",
    "CVAT",
    "annotations.xml (CVAT for images 1.1, for video 1.1) and its images",
    detect,
    open_cvat,
    writer=write_cvat,
)
