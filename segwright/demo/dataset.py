"""The embedded default: a small dataset of generated street scenes, written as ordinary files.

Nothing is downloaded, nobody's license is needed, and the same seed gives the same images on every machine
(see :mod:`segwright.demo.street_scene`). What is written is the plain-folder layout, as :func:`open_dataset`
reads it::

    out/classes.txt            name and color of a class a line, in the order of the indices
    out/images/train/…png      RGB
    out/masks/train/…png       palette PNG: class indices, 255 for void
    out/images/val, out/masks/val, out/images/test, out/masks/test
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from segwright.core.errors import UsageError
from segwright.core.progress import progress
from segwright.core.types import LabelSpace
from segwright.demo.street_scene import CLASSES, COLORS, draw_street
from segwright.imageio import encode_png, write_bytes

MIN_SIDE, MAX_SIDE = 64, 2048

LABEL_SPACE = LabelSpace(names=CLASSES, colors=COLORS)


def write_street_scenes(
    out: str | Path,
    *,
    train: int = 160,
    val: int = 40,
    test: int = 40,
    size: tuple[int, int] = (128, 192),
    seed: int = 0,
) -> Path:
    """Write ``train`` + ``val`` + ``test`` scenes of ``size`` (height, width) under ``out``; returns ``out``.

    Scene k of a split depends on (seed, split, k) alone, so a larger set begins with the smaller one. Files that are
    there already are overwritten; other files in ``out`` are left, so give it a folder of its own.
    """
    counts = {"train": train, "val": val, "test": test}
    if min(counts.values()) < 0 or sum(counts.values()) == 0:
        raise UsageError("how many scenes?", expected="counts of 0 or more, one at least above 0", found=str(counts))
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise UsageError(
            "scene size out of range", expected=f"{MIN_SIDE} to {MAX_SIDE} a side", found="{}×{}".format(*size)
        )
    out = Path(out)
    lines = (f"{name} {r} {g} {b}\n" for name, (r, g, b) in zip(CLASSES, COLORS, strict=True))
    write_bytes(out / "classes.txt", "".join(lines).encode())
    palette = LABEL_SPACE.palette()

    def write(job: tuple[str, int]) -> None:
        split, index = job
        image, labels = draw_street(f"{seed}/{split}/{index}", size)
        name = f"street_{index:04d}.png"
        written, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not written:
            raise UsageError("the scene could not be encoded", where=out / "images" / split / name)
        write_bytes(out / "images" / split / name, np.asarray(png).tobytes())
        write_bytes(out / "masks" / split / name, encode_png(labels, palette))

    # Threads: numpy lets go of the interpreter lock on these sizes, and a process would first import the world again.
    with (
        progress("drawing street scenes", sum(counts.values())) as advance,
        ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool,
    ):
        for _ in pool.map(write, _jobs(counts)):
            advance(1)
    return out


def _jobs(counts: dict[str, int]) -> Iterator[tuple[str, int]]:
    for split, count in counts.items():
        yield from ((split, index) for index in range(count))
