"""What a teacher accepts of unlabeled images of several kinds, and how much its predicted classes shift.

    python benchmarks/unlabeled_kinds.py MODEL DATA FOLDER … --every 12

The thresholds come from training images of DATA, as in self-training: per class the confidence that 80 % of the labeled
pixels have which the model gets right. Prints per folder of images, and for noise, the share of pixels that count and
the share of the predicted classes that would have to move to be those of the training images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

import segwright as sw
from segwright.core.types import UInt8Array
from segwright.imageio import EXTENSIONS, read_image
from segwright.training.config import UnlabeledConfig
from segwright.training.self_training import BINS, Thresholds

LARGEST = 480  # pixels per side that are predicted of an image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=12, help="of the images of a folder, every so many are taken")
    given = parser.parse_args()
    model = sw.load(given.model, device="cpu")
    train = sw.open_dataset(given.data).train
    classes = len(train.label_space)
    thresholds = Thresholds(classes, UnlabeledConfig())
    known = np.zeros((classes, BINS + 3))
    for index in range(0, len(train), 3 * given.every):
        sample = train[index]
        labels, bins = predicted(model, sample.image)
        right = labels == sample.mask
        known[:, :BINS] += np.bincount(labels[right] * BINS + bins[right], minlength=classes * BINS).reshape(
            classes, -1
        )
        known[:, BINS] += np.bincount(labels[sample.mask != 255], minlength=classes)
    thresholds.update(known)
    lowest = np.ceil(thresholds.values() * BINS)
    print("thresholds:", ", ".join(f"{value:.2f}" for value in thresholds.values()))
    rng = np.random.default_rng(0)
    kinds: list[tuple[str, Iterable[UInt8Array]]] = [(str(f), images(f, given.every)) for f in given.folders]
    for name, several in [*kinds, ("noise", [rng.integers(0, 256, (360, 480, 3), np.uint8) for _ in range(3)])]:
        free, accepted = np.zeros(classes), 0
        for image in several:
            labels, bins = predicted(model, image[:LARGEST, :LARGEST])
            free += np.bincount(labels.ravel(), minlength=classes)
            accepted += int((bins >= lowest[labels]).sum())
        thresholds.shares[1] = free
        print(f"{name}: {accepted / free.sum():.2f} accepted, shift {thresholds.shift():.2f}", flush=True)


def predicted(model: sw.Predictor, image: UInt8Array) -> tuple[np.ndarray, np.ndarray]:
    found = model.predict(image)
    return found.labels.astype(np.int64), np.minimum(found.confidence * BINS, BINS - 1).astype(np.int64)


def images(folder: Path, every: int) -> Iterator[UInt8Array]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    return (read_image(path) for path in files[::every])


if __name__ == "__main__":
    main()
