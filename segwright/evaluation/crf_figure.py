"""The figure of the DeepLab papers: picture, network, and the labels after 1, 2 and 10 iterations of the CRF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from segwright.errors import PostprocessError
from segwright.images import UInt8Array, write_image
from segwright.postprocess.crf import DenseCRF
from segwright.types import Float32Array, LabelSpace

TITLE_HEIGHT = 22  # pixels
GAP = 4


@dataclass(frozen=True)
class FigureRow:
    """One picture of the figure: uint8 H×W×3, probabilities K×H×W, and the ground truth H×W where there is one."""

    image: UInt8Array
    probabilities: Float32Array
    truth: UInt8Array | None = None


def crf_figure(
    rows: Sequence[FigureRow],
    label_space: LabelSpace,
    out: str | Path,
    *,
    crf: DenseCRF | None = None,
    iterations: Sequence[int] = (1, 2, 10),
    width: int = 320,
) -> Path:
    """Write the figure as a picture file, a row for each of ``rows``, each panel ``width`` pixels wide."""
    if not rows or not iterations:
        raise PostprocessError("a figure needs at least one picture and one iteration", found=f"{len(rows)} pictures")
    crf = crf or DenseCRF.preset("deeplab-v1")
    palette = label_space.palette()
    with_truth = any(row.truth is not None for row in rows)
    titles = ["picture", "network", *(f"CRF, {n} iteration{'s' if n > 1 else ''}" for n in iterations)]
    titles += ["ground truth"] if with_truth else []
    lines = [_titles(titles, width)]
    for row in rows:
        image = row.image if row.image.shape[2] == 3 else np.repeat(row.image[..., :1], 3, axis=2)
        panels = [image, palette[row.probabilities.argmax(axis=0)]]
        panels += [palette[replace(crf, iterations=n)(row.image, row.probabilities).argmax(axis=0)] for n in iterations]
        if with_truth:
            panels.append(palette[row.truth] if row.truth is not None else np.zeros_like(image))
        lines.append(_joined([_fitted(panel, width, smooth=i == 0) for i, panel in enumerate(panels)], axis=1))
    return write_image(out, _joined(lines, axis=0))


def _fitted(panel: UInt8Array, width: int, *, smooth: bool) -> UInt8Array:
    height = max(1, round(panel.shape[0] * width / panel.shape[1]))
    method = cv2.INTER_AREA if smooth else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(np.ascontiguousarray(panel), (width, height), interpolation=method), np.uint8)


def _titles(titles: Sequence[str], width: int) -> UInt8Array:
    panels = []
    for title in titles:
        panel = np.full((TITLE_HEIGHT, width, 3), 255, np.uint8)
        cv2.putText(panel, title, (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        panels.append(panel)
    return _joined(panels, axis=1)


def _joined(panels: Sequence[UInt8Array], *, axis: int) -> UInt8Array:
    shape = list(panels[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    pieces = [piece for panel in panels for piece in (gap, panel)][1:]
    return np.concatenate(pieces, axis=axis)
