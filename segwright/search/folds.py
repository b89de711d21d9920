"""The folds of a cross-validation, and their joint scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.atomic_io import without_nan
from segwright.core.counted import counted
from segwright.evaluation.sequences import BootstrapUnits, units_of
from segwright.inference.bundle import is_bundle
from segwright.metrics.bootstrap import miou_interval
from segwright.metrics.confusion import iou_per_class, nanmean
from segwright.training.run import Run

NO_SCORE = "no score"


def no_score(run: Run) -> str:
    """In words that a training ended without a score, and why."""
    return f"{NO_SCORE} ({run.no_score})" if run.no_score else NO_SCORE


@dataclass(frozen=True)
class Fold:
    """One run of a cross-validation."""

    number: int
    folder: Path
    miou: float
    ci95: tuple[float, float]
    counts: np.ndarray[Any, np.dtype[np.int64]]  # (images, 3, K): intersection, truth, prediction
    ids: tuple[str, ...] = ()  # of the images; empty in folders of earlier versions, as are the sequences
    sequences: tuple[str, ...] = ()
    val_images: int | None = None  # of the fold, of which fewer may be scored in limited time; None: not recorded

    def to_json(self) -> dict[str, Any]:
        return {
            "fold": self.number,
            "folder": str(self.folder),
            "images": len(self.counts),
            "val_images": self.val_images,
            "val_miou": self.miou,
            "val_miou_ci95": list(self.ci95),
            **units_of(*self.named()).to_json(),
        }

    def named(self) -> tuple[list[str], list[str]]:
        """Id and sequence of each image."""
        ids = list(self.ids) or [f"fold {self.number}: {place}" for place in range(len(self.counts))]
        return ids, list(self.sequences) or ids


@dataclass(frozen=True)
class CrossValidation:
    """The folds that were trained, and their summary."""

    folder: Path
    names: tuple[str, ...]
    folds: tuple[Fold, ...]
    wanted: int
    stopped_by: str | None = None

    @property
    def model(self) -> Path:
        """The ensemble of the folds' models, once all are trained."""
        return self.folder / "model"

    @property
    def mean(self) -> float:
        return float(np.mean([fold.miou for fold in self.folds])) if self.folds else float("nan")

    @property
    def spread(self) -> float:
        """The standard deviation over the folds (n − 1)."""
        return float(np.std([fold.miou for fold in self.folds], ddof=1)) if len(self.folds) > 1 else float("nan")

    @property
    def scored_images(self) -> int:
        return sum(len(fold.counts) for fold in self.folds)

    @property
    def images(self) -> int:
        """The images of the folds, scored or not."""
        return sum(len(fold.counts) if fold.val_images is None else fold.val_images for fold in self.folds)

    def independent(self) -> BootstrapUnits:
        """The units of the pooled score's interval; a sequence in several folds is one unit."""
        named = [fold.named() for fold in self.folds]
        return units_of([i for ids, _ in named for i in ids], [s for _, sequences in named for s in sequences])

    def summary(self) -> dict[str, Any]:
        """For ``folds.json``: mean, spread, the score pooled over every image, and the same by class."""
        counts = np.concatenate([fold.counts for fold in self.folds]) if self.folds else np.zeros((0, 3, 0), np.int64)
        by_class = np.array([iou_per_class(fold.counts.sum(axis=0)) for fold in self.folds])
        classes = {}
        for index, name in enumerate(self.names):
            found = by_class[:, index][np.isfinite(by_class[:, index])] if len(by_class) else np.zeros(0)
            classes[name] = {
                "mean": float(found.mean()) if len(found) else None,
                "spread": float(found.std(ddof=1)) if len(found) > 1 else None,
            }
        scores = [fold.miou for fold in self.folds]
        over = self.independent()
        tree = {
            "folder": str(self.folder),
            "model": str(self.model) if is_bundle(self.model) else None,
            "folds": [fold.to_json() for fold in self.folds],
            "finished": len(self.folds) == self.wanted,
            "stopped_by": self.stopped_by,
            "val_miou_mean": self.mean,
            "val_miou_spread": self.spread,
            "val_miou_range": [min(scores), max(scores)] if scores else None,
            "pooled_miou": nanmean(iou_per_class(counts.sum(axis=0))) if self.folds else None,
            "pooled_miou_ci95": list(miou_interval(counts, groups=over.groups)) if self.folds else None,
            **over.to_json(),
            "interval_note": over.note,
            "images": self.images,
            "scored_images": self.scored_images,
            "per_class_iou": classes,
        }
        return dict(without_nan(tree))

    def sentence(self) -> str:
        if len(self.folds) < self.wanted and self.stopped_by == NO_SCORE:
            return f"{len(self.folds)} of {self.wanted} folds have a score; --resume scores the others"
        if len(self.folds) < self.wanted:
            return (
                f"{len(self.folds)} of {self.wanted} folds are trained (stopped by {self.stopped_by}); --resume goes on"
            )
        found = self.summary()
        low, high = found["pooled_miou_ci95"]
        over = self.independent()
        note = f"; {over.note}" if over.note else ""
        part = self.scored_images < self.images
        pool = f"{self.scored_images} of {counted(self.images, 'image')}" if part else "every image"
        span = "" if low is None else f" (95 %: {low:.3f} to {high:.3f} over {over}{note})"
        return (
            f"{self.wanted} folds: val mIoU {self.mean:.3f} ± {self.spread:.3f} over the folds, "
            f"{found['pooled_miou']:.3f} pooled over {pool}{span}"
        )
