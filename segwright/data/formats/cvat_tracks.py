"""CVAT's tracks ("CVAT for video 1.1"): one object through the frames of a video, as shapes at some of them.

CVAT writes the shape of every frame into its export. Where a file holds keyframes alone, the frames between are filled
in as CVAT fills them: boxes and ellipses move linearly, rotations the shorter way; a polygon's corners are paired by
their place along the outline, which need not be as many at both ends, and every pair moves linearly (CVAT then drops
corners that come to lie close together, which is not done here); masks stay as they are until the next one; points and
polylines are drawn in the frames that the file holds, and not between. A shape stays until one of its track has
``outside="1"``, at most to the end of the task.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import FormatError
from segwright.data.formats.cvat_shapes import AREAS, STROKES, Points, Shape, corners, shape_of

_FRAME = re.compile(r"(\d+)\.[A-Za-z]+$")
_CVAT = re.compile(r"frame_\d+\.", re.IGNORECASE)
MAX_FILLED = 20_000_000  # corners of shapes that are filled in between keyframes
_LINEAR = {"box": ("xtl", "ytl", "xbr", "ybr"), "ellipse": ("cx", "cy", "rx", "ry")}


@dataclass(frozen=True, slots=True)
class Track:
    """The shapes of one object by frame; None where it is outside."""

    shapes: Mapping[int, Shape | None]


@dataclass(frozen=True)
class Frames:
    """Which frames of the video the task is about, in the video's numbers."""

    start: int = 0
    stop: int | None = None
    step: int = 1
    size: tuple[int, int] | None = None  # (height, width)


@dataclass
class Video:
    """Metadata of a video in the XML."""

    frames: Frames = field(default_factory=Frames)
    tracks: list[Track] = field(default_factory=list)
    filled: int = 0  # shapes that were filled in between keyframes


def read_meta(meta: Element) -> Frames:
    """Read ``<meta>`` of a task or a job."""
    tasks = meta.findall(".//task") or meta.findall(".//job")
    if len(tasks) != 1:
        return Frames()
    task = tasks[0]

    def number(name: str) -> int | None:
        text = (task.findtext(name) or "").strip()
        return int(text) if text.isdecimal() else None

    step = re.search(r"step\s*=\s*(\d+)", task.findtext("frame_filter") or "")
    height, width = number("original_size/height"), number("original_size/width")
    return Frames(
        number("start_frame") or 0,
        number("stop_frame"),
        max(1, int(step[1])) if step else 1,
        (height, width) if height and width else None,
    )


def read_track(element: Element, path: Path) -> Track:
    """One ``<track>``; FormatError where it is one of several tasks in one file: their frames have the same numbers."""
    if element.get("task_id") is not None:
        raise FormatError("tracks of a whole project", expected="one task per file", found='<track task_id="…">',
                          where=path, fix="export the project's tasks one by one")  # fmt: skip
    label = (element.get("label") or "").strip()
    shapes: dict[int, Shape | None] = {}
    for child in element:
        if child.tag in (*AREAS, *STROKES):
            shapes[int(child.get("frame", ""))] = None if child.get("outside") == "1" else shape_of(child, label)
    return Track(dict(sorted(shapes.items())))


def number_images(images: Sequence[Path], frames: Frames, path: Path) -> dict[int, Path]:
    """Frame → image: by the number that ends the names, as CVAT exports them (``frame_000012.PNG``), else by order.

    FormatError where there are no images, or their order cannot be the frames'.
    """
    if not images:
        raise FormatError(
            "the frames of the video are not there",
            expected="images/frame_000000.PNG and so on beside the XML",
            found="no image",
            where=path,
            fix="export with 'Save images', or: ffmpeg -i VIDEO -fps_mode passthrough -start_number 0 "
            f"{path.parent}/images/frame_%06d.png",
        )
    by_order = {frames.start + i * frames.step: image for i, image in enumerate(images)}
    matches = [_FRAME.search(image.name) for image in images]
    numbered = {int(match[1]): image for match, image in zip(matches, images, strict=True) if match}
    unique = len(numbered) == len(images)
    count = None if frames.stop is None else (frames.stop - frames.start) // frames.step + 1
    if not (unique and all(_CVAT.match(image.name) for image in images)):
        # A camera's numbers (DSC_0412.jpg) are an order, no more; taken for frames only where the order cannot be.
        if count in (None, len(images)):
            return by_order
        if not unique or frames.start not in numbered:
            raise FormatError(
                "the images are not the frames of the video",
                expected=f"{count} images, or names that end in the frame's number",
                found=f"{counted(len(images), 'image')} such as {images[0].name}",
                where=path,
                fix="export again with 'Save images'",
            )
    stop = max(numbered) if frames.stop is None else frames.stop
    wanted = range(frames.start, stop + 1, frames.step)  # a range: stop is a number of the file, not a length to hold
    return {number: image for number, image in sorted(numbered.items()) if number in wanted}


def shapes_by_frame(video: Video, wanted: Sequence[int]) -> dict[int, list[Shape]]:
    """Frame → what is drawn in it, in the order of the tracks; counts what was filled in."""
    drawn: dict[int, list[Shape]] = {frame: [] for frame in wanted}
    order = sorted(drawn)
    made = 0
    for track in video.tracks:
        for frame, shape, given in _every_frame(track, order):
            drawn[frame].append(shape)
            video.filled += not given
            made += 0 if given else shape.attributes.get("points", "").count(";") + 1
            if made > MAX_FILLED:
                raise ValueError(f"more than {MAX_FILLED} corners between keyframes: export every frame's shapes")
    return drawn


def _every_frame(track: Track, order: Sequence[int]) -> Iterator[tuple[int, Shape, bool]]:
    """(frame, shape, whether the file holds it) of every wanted frame that shows the object."""
    keys = list(track.shapes)
    for frame in order:
        if frame in track.shapes:
            shape, given = track.shapes[frame], True
        else:
            place = bisect_left(keys, frame)
            if place == 0:
                continue
            before, given = track.shapes[keys[place - 1]], False
            if before is not None and before.kind in STROKES:
                continue  # where it has moved to is not known
            after = track.shapes[keys[place]] if place < len(keys) else None
            shape = before
            if before is not None and after is not None:
                span = keys[place] - keys[place - 1]
                shape = interpolate_shape(before, after, (frame - keys[place - 1]) / span)
        if shape is not None:
            yield frame, shape, given


def interpolate_shape(first: Shape, second: Shape, share: float) -> Shape:
    """The shape ``share`` (0…1) of the way from the first to the second; the first where they cannot be mixed."""
    if first.kind != second.kind or first.kind == "mask":
        return first
    values = dict(first.attributes)
    if first.kind == "polygon":
        points = _interpolate_polygon(corners(first.attributes), corners(second.attributes), share)
        values["points"] = ";".join(f"{x:.4f},{y:.4f}" for x, y in points.tolist())
    else:
        for name in _LINEAR[first.kind]:
            a, b = float(first.attributes[name]), float(second.attributes[name])
            values[name] = repr(a + (b - a) * share)
        angle = float(first.attributes.get("rotation", 0))
        turn = (float(second.attributes.get("rotation", 0)) - angle + 180) % 360 - 180
        values["rotation"] = repr(angle + turn * share)
    return Shape(first.kind, first.label, first.z, values)


def _interpolate_polygon(first: Points, second: Points, share: float) -> Points:
    """Corners paired by their place along the closed outlines: each of the first with the nearest of the second, and
    each of the second that is left over with the nearest of the first."""
    a, b = np.vstack([first, first[:1]]), np.vstack([second, second[:1]])
    along_a, along_b = _along(a), _along(b)
    partners = {i: [j] for i, j in enumerate(_nearest(along_a, along_b).tolist())}
    taken = {j for found in partners.values() for j in found}
    left = [j for j in range(len(b)) if j not in taken]
    for j, i in zip(left, _nearest(along_b[left], along_a).tolist(), strict=True):
        partners[i].append(j)
    pairs = [(i, j) for i in range(len(a)) for j in sorted(partners[i])]
    mixed = np.array([a[i] + (b[j] - a[i]) * share for i, j in pairs])
    return mixed[:-1]  # the outline was closed to measure it


def _nearest(places: Points, sorted_places: Points) -> npt.NDArray[np.int64]:
    """Index of the nearest sorted value for each place; the lower one if two are equally near."""
    above = np.searchsorted(sorted_places, places).clip(0, len(sorted_places) - 1)
    below = (above - 1).clip(0)
    chosen = np.where(places - sorted_places[below] <= np.abs(sorted_places[above] - places), below, above)
    return np.asarray(np.searchsorted(sorted_places, sorted_places[chosen]), np.int64)


def _along(points: Points) -> Points:
    """The place of each point along the line, 0…1."""
    steps = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))))
    return np.asarray(steps / (steps[-1] or 1.0))
