"""A video's prediction as one overlay video."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2

from segwright.imageio import UInt8Array
from segwright.inference.outputs import OutputFolderError
from segwright.inference.videos import frame_count

Show = Callable[[int, UInt8Array], UInt8Array]  # number and pixels of a frame → what is written


def write_video(path: Path, frames: Iterable[UInt8Array], show: Show, rate: float, name: str) -> int:
    """Write what ``show`` makes of each frame as an .mp4; the number of frames. OutputFolderError if that fails."""
    writer: cv2.VideoWriter | None = None
    count = 0
    try:
        for count, frame in enumerate(frames, 1):
            shown = show(count - 1, frame)
            if writer is None:
                height, width = shown.shape[:2]
                writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
                if not writer.isOpened():
                    raise OutputFolderError(
                        "this build of OpenCV cannot write an .mp4 video", where=path.with_name(f"{name}.overlay.mp4"),
                        fix="leave out --video, for a mask and an overlay per frame",
                    )  # fmt: skip
            writer.write(cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
    finally:
        if writer is not None:
            writer.release()
    written = frame_count(path) or 0 if count else 0
    if written < count:  # OpenCV does not report a full disk
        raise OutputFolderError(
            "the video could not be written completely", expected=f"{count} frames", found=str(written), where=name,
            fix="free some space, or another folder with --out",
        )  # fmt: skip
    return count
