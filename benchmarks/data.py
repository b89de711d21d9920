"""The data path beside its peers: albumentations and torchvision v2, on the same operations and from the same files.

    python benchmarks/data.py [--data ../shared/data/camvid] [--rounds 7] [--images 48] [--json FILE]

**Augmentation.** One thread, decoded images in memory, image and mask: scale 0.5–2, rotation ±10°, crop 352×352,
horizontal flip, color jitter (brightness, contrast, saturation, hue). albumentations and torchvision are each composed
in several legitimate ways, and the **fastest** of them is the peer. They end, as people use them, in a normalized float
tensor or array; ours ends in uint8, because the normalization lives in the model. The same without their normalization
is printed as well. Every round runs every contestant once on the same images, and CPU seconds of the thread are
counted, so that a busy machine slows all alike; ratios are medians over the rounds.

**End to end.** Files to batches of 8: our loader with one thread, and torch's DataLoader (0 or 1 worker processes, the
faster counts) around each peer's transform, reading as its users do (OpenCV, Pillow). First epoch (decoding) and later
ones (ours from its cache; the peers have none). CPU seconds of the process and of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it looks its version up on the network on import

import cv2
import numpy as np
import torch

from segwright.augment import presets
from segwright.augment.color import ColorJitter
from segwright.core.types import Sample
from segwright.data.dataset import Split, open_dataset
from segwright.data.loading.loader import Loader

SIZE = (352, 352)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.3, 0.2, 0.4, 0.02  # hue as a share of the circle: ±7.2°

Pair = tuple[np.ndarray, np.ndarray]
Augment = Callable[[np.ndarray, np.ndarray], Any]


def ours() -> Augment:
    color = ColorJitter(gain=BRIGHTNESS, contrast=CONTRAST, saturation=SATURATION, hue=HUE * 360)
    transform = presets.training(
        size=SIZE, scale=(0.5, 2.0), rotation=10, rotation_share=1.0, aspect=1.0, flip=0.5, color=color
    )
    rng = np.random.default_rng(0)
    return lambda image, mask: transform(image, mask, rng)


def albumentations_pipelines(normalize: bool) -> dict[str, Augment]:
    """Three compositions of the same operations."""
    import albumentations as A

    fill = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": 255}
    scale = A.RandomScale(scale_limit=(-0.5, 1.0), p=1)
    crop = [A.PadIfNeeded(*SIZE, **fill), A.RandomCrop(*SIZE)]
    rotate = A.Rotate(10, p=1, **fill)
    affine = A.Affine(scale=(0.5, 2.0), rotate=(-10, 10), p=1, **fill)
    end: list[Any] = [
        A.HorizontalFlip(p=0.5),
        A.ColorJitter(
            brightness=(1 - BRIGHTNESS, 1 + BRIGHTNESS),
            contrast=(1 - CONTRAST, 1 + CONTRAST),
            saturation=(1 - SATURATION, 1 + SATURATION),
            hue=(-HUE, HUE),
            p=1,
        ),
    ]
    if normalize:
        end.append(A.Normalize(MEAN, STD))
    chains = {
        "scale, crop, rotate": [scale, *crop, rotate, *end],
        "scale, rotate, crop": [scale, rotate, *crop, *end],
        "affine, crop": [affine, *crop, *end],
    }

    def build(chain: list[Any]) -> Augment:
        composed = A.Compose(chain, seed=0)
        return lambda image, mask: composed(image=image, mask=mask)

    return {name: build(chain) for name, chain in chains.items()}


def torchvision_pipelines(normalize: bool) -> dict[str, Augment]:
    """v2 on tensors, in its reference's order (resize, crop, …) and with one affine."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    fill: dict[Any, Any] = {tv_tensors.Image: 0, tv_tensors.Mask: 255}
    jitter = v2.ColorJitter(BRIGHTNESS, CONTRAST, SATURATION, HUE)
    bilinear = v2.InterpolationMode.BILINEAR
    crop = v2.RandomCrop(SIZE, pad_if_needed=True, fill=fill)
    end = [v2.RandomHorizontalFlip(0.5), jitter]
    if normalize:
        end += [v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True), v2.Normalize(MEAN, STD)]

    class Scale(v2.Transform):
        """The reference's RandomResize: v2's own scales one side, not the image."""

        def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
            height, width = v2.functional.get_size(flat_inputs[0])
            factor = float(torch.empty(1).uniform_(0.5, 2.0))
            return {"size": [int(height * factor), int(width * factor)]}

        def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
            return self._call_kernel(v2.functional.resize, inpt, params["size"], antialias=True)

    rotation = v2.RandomRotation(10, interpolation=bilinear, fill=fill)
    affine = v2.RandomAffine(10, scale=(0.5, 2.0), interpolation=bilinear, fill=fill)
    chains = {
        "scale, crop, rotate": v2.Compose([Scale(), crop, rotation, *end]),
        "affine, crop": v2.Compose([affine, crop, *end]),
    }

    def build(composed: v2.Compose) -> Augment:
        def run(image: np.ndarray, mask: np.ndarray) -> Any:
            photo = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
            return composed(photo, tv_tensors.Mask(torch.from_numpy(mask)))

        return run

    return {name: build(chain) for name, chain in chains.items()}


def check(name: str, augment: Augment, pair: Pair) -> None:
    """Every contestant must deliver a crop of the same size, or the comparison means nothing."""
    found = augment(*pair)
    image, mask = (found["image"], found["mask"]) if isinstance(found, dict) else found
    sides = sorted(image.shape)[-2:]
    assert tuple(sides) == SIZE and tuple(mask.shape) == SIZE, f"{name}: {image.shape}, {mask.shape}"


def augmentation(pairs: list[Pair], rounds: int) -> dict[str, float]:
    """Images a CPU second for every contestant, and the ratios; medians over the rounds."""
    contestants = {"segwright": ours()}
    for normalize in (True, False):
        suffix = "" if normalize else ", uint8 out"
        for name, augment in albumentations_pipelines(normalize).items():
            contestants[f"albumentations ({name}{suffix})"] = augment
        for name, augment in torchvision_pipelines(normalize).items():
            contestants[f"torchvision ({name}{suffix})"] = augment
    for name, augment in contestants.items():
        check(name, augment, pairs[0])
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, augment in contestants.items():
            started = time.thread_time()
            for image, mask in pairs:
                augment(image, mask)
            seconds[name].append(time.thread_time() - started)
    figures = {name: len(pairs) / statistics.median(times) for name, times in seconds.items()}
    for library in ("albumentations", "torchvision"):
        for suffix in ("", ", uint8 out"):
            names = [n for n in contestants if n.startswith(library) and n.endswith("uint8 out)") == bool(suffix)]
            best = max(names, key=figures.__getitem__)
            figures[f"segwright / {library}{suffix}"] = statistics.median(
                peer / own for own, peer in zip(seconds["segwright"], seconds[best], strict=True)
            )
    return figures


class PeerFiles(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """What a user of the peers writes: read, map void, transform, to tensors."""

    def __init__(self, split: Split, library: str) -> None:
        self.files = [(str(record.image_path), str(record.mask_path)) for record in split.records]
        self.void = split.label_space.classes
        pipelines = albumentations_pipelines(True) if library == "albumentations" else torchvision_pipelines(True)
        name = "affine, crop" if library == "albumentations" else "scale, crop, rotate"
        self.augment = pipelines[name]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image_path, mask_path = self.files[index]
        image = cv2.cvtColor(cv2.imread(image_path), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(mask_path, cv2.IMREAD_UNCHANGED)
        mask[mask >= self.void] = 255
        found = self.augment(image, mask)
        if isinstance(found, dict):
            return torch.from_numpy(found["image"].transpose(2, 0, 1)).contiguous(), torch.from_numpy(found["mask"])
        return found[0].contiguous(), torch.Tensor(found[1])


def cpu_seconds() -> float:
    """Of this process, its threads and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measured(batches: Iterator[Any]) -> tuple[int, float, float]:
    """(images, CPU seconds, wall seconds) of going through ``batches``."""
    cpu, wall, count = cpu_seconds(), time.perf_counter(), 0
    for batch in batches:
        count += len(batch) if hasattr(batch, "ids") else len(batch[0])
    return count, cpu_seconds() - cpu, time.perf_counter() - wall


def end_to_end(split: Split, photos: int) -> dict[str, float]:
    """Images a CPU second from files to batches; later epochs of ours come from its cache."""
    split = split.subset(range(min(photos, len(split))), "benchmark")
    transform = presets.training(
        size=SIZE, scale=(0.5, 2.0), rotation=10, rotation_share=1.0, aspect=1.0,
        color=ColorJitter(gain=BRIGHTNESS, contrast=CONTRAST, saturation=SATURATION, hue=HUE * 360),
    )  # fmt: skip
    figures = {}
    loader = Loader(split, seed=0, workers=1)
    for epoch, name in enumerate(("first epoch", "later epoch", "later epoch")):
        count, cpu, _ = measured(loader.batches(epoch=epoch, batch_size=8, transform=transform, drop_last=False))
        figures[f"segwright, {name}"] = count / cpu
    for library in ("albumentations", "torchvision"):
        rates = []
        for workers in (0, 1):
            peer = torch.utils.data.DataLoader(
                PeerFiles(split, library), batch_size=8, shuffle=True, num_workers=workers
            )
            count, cpu, _ = measured(iter(peer))
            rates.append(count / cpu)
        figures[f"{library}, every epoch"] = max(rates)
        for name in ("first epoch", "later epoch"):
            figures[f"segwright / {library}, {name}"] = figures[f"segwright, {name}"] / max(rates)
    return figures


def pairs_of(split: Split, count: int) -> list[Pair]:
    samples: list[Sample] = [split[i] for i in np.linspace(0, len(split) - 1, min(count, len(split))).astype(int)]
    return [(s.image, s.mask) for s in samples if s.mask is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).resolve().parent.parent.parent / "shared/data/camvid"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    split = open_dataset(arguments.data).train
    print(f"augmentation, {arguments.images} images × {arguments.rounds} rounds, one thread (images a CPU second)")
    first = augmentation(pairs_of(split, arguments.images), arguments.rounds)
    for name, value in first.items():
        print(f"  {name:58s} {value:8.2f}")
    print("files to batches (images a CPU second)")
    second = end_to_end(split, arguments.images * 2)
    for name, value in second.items():
        print(f"  {name:58s} {value:8.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"augmentation": first, "end_to_end": second}, indent=2))


if __name__ == "__main__":
    main()
