"""Frames of videos, cameras and network streams, by OpenCV."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from segwright.core.errors import DataError
from segwright.imageio import UInt8Array

VIDEO_EXTENSIONS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "udp")
STREAM_EXTENSIONS = (".mjpg", ".mjpeg", ".m3u8")  # of http and https
LASTING_SCHEMES = ("rtsp", "rtsps", "rtmp")  # of cameras: an end is a fault of the line
RECONNECT_SECONDS = 30.0  # for which a stream that broke off is opened again
TIMEOUT_MS = 10_000  # to open a stream, and for its next frame


@dataclass(frozen=True)
class Live:
    """A camera or a stream. ``address``: its number, or its URL."""

    address: int | str
    label: str  # without a password
    name: str  # of its outputs


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_EXTENSIONS


def live_address(text: str) -> Live | None:
    """The camera (``0``, ``camera:1``) or stream (``rtsp://…``, ``http://….mjpg``) that a source means, or None."""
    number = re.fullmatch(r"(?:camera:)?([0-9]{1,3})", text)
    if number is not None:
        return Live(int(number[1]), f"camera {int(number[1])}", f"camera-{int(number[1])}")
    if "://" not in text:
        return None
    parts = urlsplit(text)
    stream = parts.scheme in STREAM_SCHEMES or (
        parts.scheme in ("http", "https") and parts.path.lower().endswith(STREAM_EXTENSIONS)
    )
    if not stream:
        return None
    host = parts.netloc.rpartition("@")[2]
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{host}{parts.path}").strip("-.") or "stream"
    return Live(text, f"{parts.scheme}://{host}{parts.path}", name)


class LiveFrames:
    """The newest frame of a camera or stream at each step: a prediction that is slower than the camera drops frames.

    A thread reads; ``dropped`` counts the frames that were not given. DataError if the first frame cannot be had. An
    RTSP or RTMP stream that breaks off is opened again for :data:`RECONNECT_SECONDS`; ``reconnects`` counts that, and
    ``lost`` is why it ended if that failed.
    """

    def __init__(self, live: Live) -> None:
        self.live = live
        self.dropped = self.reconnects = 0
        self.lost = ""
        self._lock = threading.Condition()
        self._frame: Any = None
        self._ended = self._stop = False
        self._alive = 0.0  # when the thread last got a frame, or tried to get one

    def __iter__(self) -> Iterator[UInt8Array]:
        capture = self._open()
        self._alive = time.monotonic()
        thread = threading.Thread(target=self._read, args=(capture,), daemon=True)
        thread.start()
        first = True
        try:
            while True:
                frame = self._next()
                if frame is None:
                    if first:
                        raise self._refused("no frame came")
                    if not self._ended:
                        self.lost = f"no frame for {2 * TIMEOUT_MS / 1000:.0f} seconds"
                    return
                first = False
                yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        finally:
            self._stop = True
            thread.join(TIMEOUT_MS / 1000)

    def _open(self) -> Any:
        capture = self._capture()
        if not capture.isOpened():
            capture.release()
            raise self._refused("it cannot be opened")
        return capture

    def _capture(self) -> Any:
        address = self.live.address
        if isinstance(address, int):
            return cv2.VideoCapture(address)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)

    def _refused(self, why: str) -> DataError:
        camera = isinstance(self.live.address, int)
        return DataError(
            "the camera gives no frames" if camera else "the stream gives no frames",
            found=why,
            where=self.live.label,
            fix="check its number, and that no other program uses it" if camera else "check the URL in a video player",
        )

    def _read(self, capture: Any) -> None:
        """In the thread: keep the newest frame until the stream ends."""
        frames = 0
        while not self._stop:
            there, frame = capture.read()
            self._alive = time.monotonic()
            if not there:
                capture.release()
                capture = self._again() if frames else None
                if capture is None:
                    break
                continue
            frames += 1
            with self._lock:
                self.dropped += self._frame is not None
                self._frame = frame
                self._lock.notify()
        if capture is not None:
            capture.release()
        with self._lock:
            self._ended = True
            self._lock.notify()

    def _again(self) -> Any:
        """The stream opened again, or None: it is none of the kinds that last, or it did not come back."""
        address = self.live.address
        if isinstance(address, int) or urlsplit(address).scheme not in LASTING_SCHEMES:
            return None
        deadline, pause = time.monotonic() + RECONNECT_SECONDS, 0.2
        while not self._stop and time.monotonic() < deadline:
            capture = self._capture()
            self._alive = time.monotonic()
            if capture.isOpened():
                self.reconnects += 1
                return capture
            capture.release()
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
        self.lost = f"it broke off and did not come back within {RECONNECT_SECONDS:.0f} seconds"
        return None

    def _next(self) -> Any:
        with self._lock:
            while self._frame is None and not self._ended:
                if time.monotonic() > self._alive + 2 * TIMEOUT_MS / 1000:
                    break
                self._lock.wait(0.2)
            frame, self._frame = self._frame, None
            return frame


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
