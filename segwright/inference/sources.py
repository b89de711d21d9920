"""What a prediction runs over: an image, a folder, a glob, a video, a GeoTIFF. Never an address: nothing is fetched."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from segwright.errors import DataError, UsageError
from segwright.images import EXTENSIONS, UInt8Array, read_image

VIDEO_EXTENSIONS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})


@dataclass(frozen=True)
class Source:
    """A sequence of pictures with names; ``files`` is empty for a video."""

    kind: str  # "image", "folder", "glob" or "video"
    root: Path
    files: tuple[Path, ...] = ()
    frames: int | None = None

    def __len__(self) -> int:
        return len(self.files) if self.kind != "video" else (self.frames or 0)

    def name(self, path: Path) -> str:
        """The output's name for a file: its path below the root without the ending, so that equal stems stay apart."""
        relative = path.relative_to(self.root) if path.is_relative_to(self.root) else Path(path.name)
        stem = relative.with_suffix("").as_posix()
        twins = [p for p in self.files if p != path and p.with_suffix("") == path.with_suffix("")]
        return f"{stem}{path.suffix.replace('.', '_')}" if twins else stem


def open_source(source: str | Path) -> Source:
    """Recognise ``source``; UsageError or DataError where there is nothing to read."""
    text = str(source)
    if "://" in text:
        raise UsageError("addresses are not fetched", found=text, fix="download it, then give the file")
    path = Path(text)
    if path.is_dir():
        files = sorted(
            p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and _visible(p, path) and p.is_file()
        )
        if not files:
            raise DataError("no pictures in the folder", expected=", ".join(sorted(EXTENSIONS)), where=path)
        return Source("folder", path, tuple(files))
    if path.is_file():
        if path.suffix.lower() in VIDEO_EXTENSIONS:
            return Source("video", path.parent, (path,), _frame_count(path))
        return Source("image", path.parent, (path,))
    matches = sorted(Path(p) for p in glob.glob(text, recursive=True) if Path(p).is_file())
    if matches:
        return Source("glob", Path(glob.escape(text.split("*")[0])).parent, tuple(matches))
    raise DataError(
        "nothing to predict",
        expected="an image, a folder, a glob in quotes, a video or a GeoTIFF",
        found="no such file or folder",
        where=text,
        fix="check the path",
    )


def read_frames(path: Path) -> Iterator[UInt8Array]:
    """The frames of a video as uint8 H×W×3 in RGB order; DataError where it cannot be decoded."""
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


def read_source_image(path: Path) -> UInt8Array:
    """One picture of a source."""
    return read_image(path)


def _frame_count(path: Path) -> int | None:
    capture = cv2.VideoCapture(str(path))
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    return count if count > 0 else None


def _visible(path: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(root).parts)
