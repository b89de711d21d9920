"""CVAT's XML ("CVAT for images 1.1", "CVAT for video 1.1"): polygons, boxes, ellipses, masks, drawn by their z order.

A mask's run lengths go along the rows of its box and are exact. Labels and colours come from the task's description;
what no shape covers is background. Polylines, points and tags cover no area and are passed over, which a note says.
A video's tracks (:mod:`.cvat_tracks`) are drawn into its frames, which lie beside the XML as pictures.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segwright.data.drawing import DrawnReader, Region, annotated_space, describe_source, fill_name, paint
from segwright.data.formats.base import SPLIT_NAMES, Format, in_order, pairing_problems, unique_ids
from segwright.data.formats.cvat_shapes import AREAS, LINES, Shape, pixels, shape_of
from segwright.data.formats.cvat_tracks import Frames, Video, number_pictures, read_meta, read_track, shapes_by_frame
from segwright.data.formats.tree import Tree, is_picture, peek
from segwright.data.records import Dataset, Problem, Record
from segwright.data.rle import check_size
from segwright.errors import FormatError, LabelError
from segwright.images import UInt8Array, read_header
from segwright.types import Colour


@dataclass(frozen=True, slots=True)
class Annotated:
    source: str
    height: int
    width: int
    shapes: tuple[Shape, ...]


@dataclass
class CvatReader(DrawnReader):
    index: Mapping[str, int] | None = None
    background: int = 0

    def draw(self, record: Record) -> UInt8Array:
        payload: Annotated = record.payload
        where = describe_source(Path(payload.source), record.id)
        check_size(payload.height, payload.width, where)
        regions = []
        for shape in sorted(payload.shapes, key=lambda shape: shape.z):
            if shape.label not in (self.index or {}):
                raise LabelError(
                    "a shape's label is not among the task's",
                    expected=", ".join(self.index or {}),
                    found=shape.label,
                    where=where,
                    fix="export the annotations again",
                )
            top, left, mask = pixels(shape, payload.height, payload.width, where)
            regions.append(Region((self.index or {})[shape.label], mask, top, left))
        return paint(regions, payload.height, payload.width, self.background)


def _files(tree: Tree) -> list[Path]:
    """CVAT's XML files: the root itself, or annotations.xml in it."""
    if tree.is_file:
        candidates = [tree.root] if tree.root.suffix.lower() == ".xml" else []
    else:
        candidates = [
            Path(listing.path, name)
            for _, listing in tree.walk(depth=1)
            for name in [n for n in listing.files if n.lower().endswith(".xml")][:8]
        ]
    return [path for path in candidates if re.search(r"<annotations>", peek(path, 4096))]


def recognise(tree: Tree) -> str | None:
    files = _files(tree)
    return f"CVAT's XML ({', '.join(path.name for path in files)})" if files else None


@dataclass
class _Parsed:
    labels: dict[str, Colour | None]
    images: list[tuple[str, str | None, Annotated]]  # name, subset, annotations
    videos: dict[Path, Video] = field(default_factory=dict)
    skipped: int = 0


def _parse(path: Path, parsed: _Parsed) -> None:
    """Read one XML as a stream; one that declares entities is refused, for they can be bombs."""
    if re.search(r"<!(?:DOCTYPE|ENTITY)", peek(path), re.IGNORECASE):
        raise FormatError("the XML declares entities", found="<!DOCTYPE", where=path, fix="export it from CVAT again")
    frames = Frames()
    try:
        for _, element in ElementTree.iterparse(path, events=("end",)):
            if element.tag == "label" and element.find("name") is not None:
                name = (element.findtext("name") or "").strip()
                if (element.findtext("type") or "") != "skeleton":
                    parsed.labels.setdefault(name, _hex(element.findtext("color")))
            elif element.tag == "meta":
                frames = read_meta(element)
            elif element.tag == "track":
                video = parsed.videos.setdefault(path, Video(frames))
                video.tracks.append(read_track(element, path))
                parsed.labels.setdefault((element.get("label") or "").strip(), None)
                parsed.skipped += any(child.tag in LINES for child in element)
                element.clear()
            elif element.tag == "image":
                shapes = tuple(shape_of(child) for child in element if child.tag in AREAS)
                parsed.skipped += sum(child.tag in LINES for child in element)
                size = int(element.get("height", "0")), int(element.get("width", "0"))
                parsed.images.append(
                    (element.get("name", ""), element.get("subset"), Annotated(str(path), *size, shapes))
                )
                element.clear()
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise FormatError("not a CVAT XML", expected="well-formed XML", found=str(error), where=path,
                          fix="export it again") from error  # fmt: skip


def _hex(text: str | None) -> Colour | None:
    match = re.fullmatch(r"#?([0-9a-fA-F]{6})", (text or "").strip())
    if match is None:
        return None
    number = int(match[1], 16)
    return (number >> 16, number >> 8 & 255, number & 255)


def _pictures(tree: Tree) -> list[Path]:
    """All pictures under the root, or beside it where it is the XML itself."""
    walked = (Tree(tree.root.parent) if tree.is_file else tree).walk()
    return [Path(listing.path, name) for _, listing in walked for name in listing.files if is_picture(name)]


def _drawn_frames(path: Path, video: Video, pictures: Sequence[Path]) -> list[tuple[Path, Annotated]]:
    """The frames of a video with what its tracks draw; those that show no object are all background."""
    near = [picture for picture in pictures if picture.is_relative_to(path.parent)]
    frames = number_pictures(near, video.frames, path)
    try:
        shapes = shapes_by_frame(video, list(frames))
    except (KeyError, ValueError) as error:
        raise FormatError("a broken shape in a track", found=repr(error), where=path, fix="export it again") from error
    result = []
    for frame, picture in frames.items():
        size = video.frames.size or read_header(picture).size
        result.append((picture, Annotated(str(path), *size, tuple(shapes[frame]))))
    return result


def _video_notes(videos: Mapping[Path, Video]) -> list[str]:
    notes = []
    for path, video in videos.items():
        note = f"{path.name}: {len(video.tracks)} tracks of a video"
        if video.filled:
            note += f"; {video.filled} shapes after or between keyframes are filled in, as CVAT does"
        notes.append(note)
    return notes


def open_cvat(tree: Tree) -> Dataset:
    files = _files(tree)
    if not files:
        raise FormatError("no CVAT XML", expected="annotations.xml", found=tree.summary(), where=tree.root)
    parsed = _Parsed({}, [])
    for path in files:
        _parse(path, parsed)
    for _, _, annotated in parsed.images:  # a job's export may lack the task's list of labels
        for shape in annotated.shapes:
            parsed.labels.setdefault(shape.label, None)
    if not parsed.labels:
        raise FormatError(
            "the XML names no label", expected="<labels>", found=f"{len(parsed.images)} images", where=files[0]
        )
    space, index, background = annotated_space(list(parsed.labels), list(parsed.labels.values()))
    located = [(name, subset, tree.locate(name), annotated) for name, subset, annotated in parsed.images]
    missing = tuple(name for name, _, path, _ in located if path is None)
    present = [(path, subset, annotated) for _, subset, path, annotated in located if path is not None]
    pictures = _pictures(tree)
    for path, video in parsed.videos.items():
        present += [(picture, None, annotated) for picture, annotated in _drawn_frames(path, video, pictures)]
    ids = unique_ids([(path.parent.name, path.stem, path.suffix) for path, _, _ in present])
    records = [Record(name, path, None, annotated) for name, (path, _, annotated) in zip(ids, present, strict=True)]
    given: dict[str, list[Record]] = {}
    for record, (_, subset, _) in zip(records, present, strict=True):
        if subset and subset.lower() in SPLIT_NAMES:
            given.setdefault(SPLIT_NAMES[subset.lower()], []).append(record)
    used = {path for path, _, _ in present}
    lone = [] if tree.is_file else [path for path in pictures if path not in used]
    notes = [
        f"{len(space)} classes; what no shape covers is {fill_name(space, background)}; shapes lie by their z order",
        *_video_notes(parsed.videos),
    ]
    if parsed.skipped:
        notes.append(f"{parsed.skipped} lines, points and cuboids cover no area and are passed over")
    problems = pairing_problems(lone, [])
    if missing:
        message = f"{len(missing)} pictures that the XML names are not there"
        problems.append(Problem("warning", "mask without image", message, missing, "copy them beside the XML"))
    return Dataset(
        root=tree.root,
        format="cvat",
        reader=CvatReader(space, index=index, background=background),
        records=tuple(records),
        given=in_order(given),
        notes=notes,
        problems=problems,
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(Path(name) for name in missing),
    )


FORMAT = Format(
    "cvat", "CVAT", "annotations.xml (CVAT for images 1.1, for video 1.1) and its pictures", recognise, open_cvat
)
