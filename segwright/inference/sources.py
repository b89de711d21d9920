"""The inputs of a prediction: images, folders, globs, videos, GeoTIFFs. URLs are rejected: nothing is fetched."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from segwright.core.errors import DataError, UsageError
from segwright.imageio import EXTENSIONS, UInt8Array
from segwright.inference.outputs import MANIFEST, OUTPUT_TAGS, read_manifest

VIDEO_EXTENSIONS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
RUN_FILES = ("config.yaml", "log.jsonl")  # a folder with both is a training run, not images


@dataclass(frozen=True)
class Source:
    """A sequence of files, with names for their outputs."""

    kind: str  # "image", "folder", "glob", "video", or "files" where several sources were given
    root: Path
    files: tuple[Path, ...] = ()
    frames: int | None = None  # of a single video, if its container has the number
    notes: tuple[str, ...] = ()  # what was passed over

    def __len__(self) -> int:
        return len(self.files) if self.kind != "video" else (self.frames or 0)

    @cached_property
    def names(self) -> dict[Path, str]:
        """File → name of its outputs without a suffix; see :func:`output_names`."""
        return output_names(self.files, self.root)

    def name(self, path: Path) -> str:
        """The name of the outputs of ``path``."""
        return self.names[path]


def open_source(source: str | Path) -> Source:
    """Open one source; UsageError or DataError if there is nothing to read."""
    return open_sources([source])


def open_sources(sources: Sequence[str | Path]) -> Source:
    """Open several sources, each file once; UsageError or DataError if one of them matches nothing.

    A source is a file, a folder (searched recursively; hidden files, training runs and earlier predictions are
    skipped), or a glob. The name of an existing file is never taken as a glob.
    """
    if not sources:
        raise UsageError("nothing to predict", expected="an image, a folder, a glob or a video", found="no source")
    parts = [_open(source) for source in sources]
    if len(parts) == 1:
        return parts[0]
    files = tuple({os.path.abspath(path): path for part in parts for path in part.files}.values())
    notes = tuple(note for part in parts for note in part.notes)
    return Source("files", _common_root([part.root for part in parts]), files, notes=notes)


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_EXTENSIONS


def output_names(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """File → the path of its outputs below the output folder, without a suffix.

    The path is that of the file below ``root``. Files that differ only in their suffix, or in upper and lower case,
    keep the suffix as part of the name (``x_png``, ``x_jpg``); equal names that remain get a number. Outputs of two
    files are therefore never the same file, even on file systems that ignore case.
    """
    absolute = Path(os.path.abspath(root))
    stems = {path: _relative(path, absolute).with_suffix("").as_posix() for path in files}
    counts = Counter(stem.casefold() for stem in stems.values())
    wanted = {
        path: stem if counts[stem.casefold()] == 1 else f"{stem}{path.suffix.replace('.', '_')}"
        for path, stem in stems.items()
    }
    all_wanted = {name.casefold() for name in wanted.values()}
    taken: set[str] = set()

    def free(name: str) -> bool:
        base = next((name.removesuffix(tag) for tag in OUTPUT_TAGS if name.endswith(tag)), None)
        return name not in taken and (base is None or base not in all_wanted)

    result = {}
    for path in sorted(files, key=lambda path: (counts[stems[path].casefold()] > 1, str(path))):
        name, number = wanted[path], 1
        while not free(name.casefold()):
            number += 1
            name = f"{wanted[path]}_{number}"
        taken.add(name.casefold())
        result[path] = name
    return result


def read_frames(path: Path) -> Iterator[UInt8Array]:
    """The frames of a video as uint8 H×W×3 in RGB order; DataError if it cannot be decoded."""
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError("the video cannot be opened", where=path, fix="convert it, for example to H.264 in .mp4")
        while True:
            there, frame = capture.read()
            if not there:
                return
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
    finally:
        capture.release()


def frames_per_second(path: Path) -> float:
    """The frame rate of a video; 25 if its container has none."""
    capture = cv2.VideoCapture(str(path))
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
    finally:
        capture.release()
    return rate if 0 < rate <= 1000 else 25.0


def frame_count(path: Path) -> int | None:
    """The number of frames in a video's container; None if it has none."""
    capture = cv2.VideoCapture(str(path))
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    return count if count > 0 else None


def _open(source: str | Path) -> Source:
    text = str(source)
    if "://" in text:
        raise UsageError("URLs are not fetched", found=text, fix="download the file first")
    path = Path(text)
    if path.is_dir():
        files, notes = _walk(path)
        if not files:
            raise DataError(
                "no images in the folder",
                expected=", ".join(sorted(EXTENSIONS)),
                found="; ".join(notes) or None,
                where=path,
            )
        return Source("folder", path, files, notes=notes)
    if path.is_file():
        if is_video(path):
            return Source("video", path.parent, (path,), frame_count(path))
        return Source("image", path.parent, (path,))
    matches = sorted(Path(found) for found in glob.glob(text, recursive=True) if Path(found).is_file())
    if matches:
        known = EXTENSIONS | VIDEO_EXTENSIONS
        kept = tuple(found for found in matches if found.suffix.lower() in known)
        others = [found.name for found in matches if found.suffix.lower() not in known]
        if kept:
            fixed = text.split("*")[0].split("?")[0].split("[")[0]
            root = Path(fixed) if fixed.endswith(("/", os.sep)) else Path(fixed).parent
            notes = (f"{len(others)} files are not images by their suffix: {', '.join(others[:4])}",) if others else ()
            return Source("glob", root, kept, notes=notes)
    raise DataError(
        "nothing to predict",
        expected="an image, a folder, a glob, a video or a GeoTIFF",
        found=f"{len(matches)} files, none of them an image or a video" if matches else "no such file or folder",
        where=text,
        fix="check the path",
    )


def _walk(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The image files below a folder in order, and notes on what was skipped."""
    files: list[Path] = []
    runs: list[str] = []
    linked: list[str] = []
    written: dict[str, int] = {}  # what earlier predictions wrote → size
    earlier = videos = 0
    for place, folders, names in os.walk(folder):
        here = Path(place)
        if here != folder and all(name in names for name in RUN_FILES):
            runs.append(str(here.relative_to(folder)))
            folders.clear()
            continue
        visible = sorted(name for name in folders if not name.startswith("."))
        linked += [str((here / name).relative_to(folder)) for name in visible if (here / name).is_symlink()]
        folders[:] = visible
        if MANIFEST in names:
            written |= {str(here / relative): entry.size for relative, entry in read_manifest(here).items()}
        for name in names:
            path = here / name
            if name.startswith(".") or not path.is_file():
                continue
            if path.suffix.lower() in VIDEO_EXTENSIONS:
                videos += 1
            elif path.suffix.lower() in EXTENSIONS:
                if written.get(str(path)) == path.stat().st_size:
                    earlier += 1
                else:
                    files.append(path)
    notes = []
    if earlier:
        notes.append(f"{earlier} files of earlier predictions are skipped")
    if runs:
        notes.append(f"training runs are skipped: {', '.join(runs[:4])}{', …' if len(runs) > 4 else ''}")
    if linked:
        notes.append(f"linked folders are not followed: {', '.join(linked[:4])}{', …' if len(linked) > 4 else ''}")
    if videos:
        notes.append(f"{videos} videos in the folder are skipped; give a video by its own path")
    return tuple(sorted(files)), tuple(notes)


def _relative(path: Path, root: Path) -> Path:
    absolute = Path(os.path.abspath(path))
    return absolute.relative_to(root) if absolute.is_relative_to(root) else Path(path.name)


def _common_root(roots: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath([os.path.abspath(root) for root in roots]))
    except ValueError:  # different drives
        return roots[0]
