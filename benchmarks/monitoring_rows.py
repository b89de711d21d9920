"""Predictions of a model on corrupted images, kept as rows of numbers with the truth's counts.

    python benchmarks/monitoring_rows.py RUN DATA --split val --out rows/val --step 4

One ``.npz`` per corruption and strength: the arrays of the observations, and ``counts`` (N, 3, K) of hits, truth and
prediction in pixels. What exists is not made again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.special import softmax

import segwright as sw
from segwright.augment.corruptions import CORRUPTIONS, corrupt
from segwright.metrics.confusion import class_counts, count_pairs
from segwright.monitoring.observation import CONFIDENCE_BINS, QUANTILES


class Observer:
    """Rows of numbers of one predictor, with the pooled features of its deepest layer."""

    def __init__(self, predictor: Any) -> None:
        self.predictor, self.features, self.projection = predictor, None, None
        network = predictor.runtime.model
        found: list[Any] = []

        def note(module: Any, _: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[1] >= 64:
                found.append((output.shape[-2] * output.shape[-1], module))

        hooks = [module.register_forward_hook(note) for module in network.modules()]
        predictor.runtime.logits(np.zeros((1, 352, 480, 3), np.uint8))
        for hook in hooks:
            hook.remove()
        deepest = [module for area, module in found if area == 11 * 15]
        deepest[-1].register_forward_hook(self._keep)

    def _keep(self, module: Any, _: Any, output: Any) -> None:
        self.features = output.float().mean(dim=(-2, -1))[0].cpu().numpy()

    def __call__(self, image: np.ndarray, target: np.ndarray) -> dict[str, Any]:
        logits = self.predictor.runtime.logits(image[None])[0]
        labels = logits.argmax(axis=0).astype(np.uint8)
        classes = len(logits)
        counts = class_counts(count_pairs(labels, target, classes))
        p = softmax(logits[:, ::3, ::3], axis=0)
        label, thin = labels[::3, ::3], image[::3, ::3].astype(np.float32) / 255
        confidence = p.max(axis=0)
        pixels = label.size
        bins = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
        one = np.eye(classes, dtype=np.float32)[label.ravel()]
        entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(axis=0) / np.log(classes)
        gray = thin.mean(axis=-1)
        laplacian = cv2.Laplacian(gray, cv2.CV_32F)
        kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
        noise = np.abs(cv2.filter2D(gray, -1, kernel))[1:-1, 1:-1].mean() * np.sqrt(np.pi / 2) / 6
        if self.projection is None:
            wide = len(self.features)
            random = np.random.default_rng(0).standard_normal((wide, 64)) / np.sqrt(64)
            self.projection = np.eye(wide) if wide <= 64 else random
        histogram = np.bincount(label.ravel() * CONFIDENCE_BINS + bins.ravel(), minlength=classes * CONFIDENCE_BINS)
        truth = target[::3, ::3]
        right = ((truth == label) & (truth < classes)).ravel()
        known = (truth < classes).ravel()
        codes = label.ravel() * CONFIDENCE_BINS + bins.ravel()
        return {
            "shares": one.mean(axis=0), "expected_shares": p.reshape(classes, -1).mean(axis=1),
            "expected_hits": (one * confidence.ravel()[:, None]).sum(axis=0) / pixels,
            "confidence": np.quantile(confidence, QUANTILES), "mean_confidence": confidence.mean(),
            "confidence_histogram": histogram.reshape(classes, CONFIDENCE_BINS) / pixels,
            "entropy": entropy.mean(), "entropy_quantiles": np.quantile(entropy, QUANTILES),
            "components": np.array([cv2.connectedComponents((label == k).astype(np.uint8))[0] - 1
                                    for k in range(classes)]),
            "statistics": np.array([
                gray.mean(), gray.std(), (thin.max(axis=-1) - thin.min(axis=-1)).mean(), *thin.mean(axis=(0, 1)),
                np.log(laplacian.var() + 1e-8), noise, (gray < 0.02).mean(), (gray > 0.98).mean(),
            ]),
            "embedding": self.features @ self.projection, "counts": counts,
            "bin_hits": np.bincount(codes[right], minlength=classes * CONFIDENCE_BINS).reshape(classes, -1),
            "bin_known": np.bincount(codes[known], minlength=classes * CONFIDENCE_BINS).reshape(classes, -1),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--step", type=int, default=4, help="every n-th image for the corruptions")
    parser.add_argument("--severities", type=int, nargs="*", default=[3, 1, 5, 2, 4])
    given = parser.parse_args()
    torch.set_num_threads(1)
    observer = Observer(sw.load(given.run, device="cpu"))
    images = sorted((given.data / given.split).iterdir())
    given.out.mkdir(parents=True, exist_ok=True)
    jobs = [("clean", 0), *[(name, s) for s in given.severities for name in CORRUPTIONS]]
    for name, severity in jobs:
        target = given.out / f"{name}-{severity}.npz"
        if target.exists():
            continue
        began = time.monotonic()
        rows: list[dict[str, Any]] = []
        chosen = images if name == "clean" else images[:: given.step]
        for number, path in enumerate(chosen):
            image = cv2.imread(str(path))[..., ::-1]
            mask = cv2.imread(str(given.data / f"{given.split}annot" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
            mask = np.where(mask < 11, mask, 255).astype(np.uint8)
            image = np.ascontiguousarray(image) if name == "clean" else corrupt(image, name, severity, seed=number)
            rows.append(observer(image, mask))
        arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        np.savez_compressed(target, ids=np.array([path.stem for path in chosen]), **arrays)
        total = arrays["counts"].sum(axis=0)
        iou = total[0] / np.maximum(total[1] + total[2] - total[0], 1)
        print(
            f"{name}-{severity} mIoU {iou.mean():.3f} {(time.monotonic() - began) / len(rows):.2f} s/image", flush=True
        )


if __name__ == "__main__":
    main()
