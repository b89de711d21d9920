"""The comparison of an export with its original, on real images at several sizes and as a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segwright.core.errors import ExportError
from segwright.core.types import Sample, UInt8Array
from segwright.inference.pixels import fit_channels
from segwright.inference.runtimes import Runtime
from segwright.metrics.confusion import ConfusionMatrix

MAX_ABS_LOGIT = 1e-2  # float32 sums in another order over some hundred layers differ by much less
MIN_AGREEMENT = 0.999


@dataclass(frozen=True)
class Parity:
    """The difference between an export and its original."""

    max_abs_logit: float
    argmax_agreement: float  # share of equal labels over all images and sizes
    miou_delta: float  # mIoU of the export minus mIoU of the original, with masks; otherwise 0
    sizes: tuple[str, ...]  # height×width of the compared images
    source: str = ""  # the source of the images


def compare(original: Runtime, exported: Runtime, samples: Sequence[Sample], source: str = "") -> Parity:
    """Compare an export with its original on every sample at its own size and, for the first one, at odd and small
    sizes and as a batch."""
    worst, equal, total = 0.0, 0, 0
    ours, theirs = ConfusionMatrix(original.classes), ConfusionMatrix(original.classes)
    sizes: dict[str, None] = {}
    for images, mask in views(samples, original.in_channels):
        expected, found = original.logits(images), exported.logits(images)
        labels = exported.labels(images)[0]
        own = expected.argmax(axis=1).astype(np.uint8)
        difference = float(np.abs(expected - found).max())  # NaN if either is
        worst = max(worst, difference if np.isfinite(difference) else float("inf"))
        equal, total = equal + int((own == labels).sum()), total + own.size
        sizes["×".join(str(n) for n in (images.shape[1:3] if len(images) == 1 else images.shape[:3]))] = None
        if mask is not None:
            ours.update(own[0], mask)
            theirs.update(labels[0], mask)
    delta = theirs.scores().miou - ours.scores().miou
    return Parity(worst, equal / total, 0.0 if np.isnan(delta) else delta, tuple(sizes), source)


def check_parity(parity: Parity, path: Path) -> None:
    """Raise ExportError if the export differs too much from the original."""
    if not (parity.max_abs_logit <= MAX_ABS_LOGIT and parity.argmax_agreement >= MIN_AGREEMENT):
        raise ExportError(
            "the export differs from the original; nothing was written",
            expected=f"logits within {MAX_ABS_LOGIT}, at least {MIN_AGREEMENT:.1%} of the labels equal",
            found=f"logits within {parity.max_abs_logit:.3g}, {parity.argmax_agreement:.3%} equal",
            where=path,
            fix="report the network and the versions of torch and onnxruntime",
        )


def time_one_image(runtime: Runtime, samples: Sequence[Sample], repeats: int = 7) -> float:
    """Milliseconds for the labels of the first sample: the median of ``repeats`` runs after a first one."""
    images, run = fit_channels(samples[0].image, runtime.in_channels)[None], runtime.labels
    run(images)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - started)
    return float(np.median(times) * 1000)


def views(samples: Sequence[Sample], channels: int) -> list[tuple[UInt8Array, UInt8Array | None]]:
    """(batch of images, mask): every sample whole; the first cropped to odd and tiny sizes; two as one batch."""
    views: list[tuple[UInt8Array, UInt8Array | None]] = []
    for sample in samples:
        views.append((fit_channels(sample.image, channels)[None], sample.mask))
    first = views[0][0]
    height, width = first.shape[1:3]
    for h, w in ((height - 1, width - 3), (height * 2 // 3 + 1, width // 2 + 1), (33, 65)):
        if 0 < h <= height and 0 < w <= width:
            views.append((np.ascontiguousarray(first[:, :h, :w]), None))
    views.append((np.concatenate([first, first[:, ::-1]]), None))
    return views
