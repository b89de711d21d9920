"""CamVid from random weights in a few minutes of one GPU: the last section of ``benchmarks/gpu.py``.

The data are on the device as uint8 and are augmented there; the network is a wide LeanNet in bf16 and channels-last
memory; Muon, a cosine by time, averaged weights and the losses are those of the planner. Two trainings share the time:
on all 367 training images, scored on val (which shows a drive that train shows as well), and on two of the three
drives, scored on the third.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from segwright.augment import presets
from segwright.core.types import IGNORE_INDEX, blend
from segwright.data.dataset import open_dataset
from segwright.losses import create_loss
from segwright.losses.class_weights import class_weights
from segwright.metrics.bootstrap import miou_interval
from segwright.metrics.confusion import scores
from segwright.models.base import SegmentationModel, count_parameters
from segwright.models.catalog import create_model
from segwright.training.config import TrainConfig
from segwright.training.device_data import DeviceData
from segwright.training.logit_adjustment import find_class_offsets
from segwright.training.network import init_head_bias
from segwright.training.optim.optimizers import AveragedWeights, create_optimizer, set_learning_rate
from segwright.training.optim.schedule import learning_rate_factor

DEVICE = torch.device("cuda", 0)
LEFT_OUT = "0006R0"  # as in docs/results.md: trained on 0001TP and 0016E5
VAL_SHARE = 0.68  # of the training time; the rest is for the drive left out
BLOCK = 10  # consecutive frames that the interval draws together: neighbors are no independent images
SCORED = 8  # images per batch of an evaluation
ADJUSTED_PIXELS = 150_000  # that the class shifts are found on
Forward = Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor]]]


@dataclass(frozen=True)
class Recipe:
    """What both trainings use."""

    network: Mapping[str, Any]
    size: tuple[int, int] = (320, 448)
    batch: int = 16
    scale: tuple[float, float] = (0.62, 1.7)
    turn: float = 0.06
    lr: float = 4e-3
    weight_decay: float = 0.02
    warmup: float = 0.04
    ema: float = 0.995
    clip: float = 5.0
    aux_weight: float = 0.3  # falls to 0 over the run
    late: float = 0.5  # share of the run from which the overlap is trained as well

    @classmethod
    def of(cls, rehearse: bool) -> Recipe:
        if rehearse:
            narrow = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "depths": [0, 1, 1, 1, 1]}
            return cls(network=narrow, size=(32, 64), batch=4)
        wide = {
            "widths": [64, 128, 256, 512, 512],
            "decoder_channels": [64, 128, 128, 256],
            "depths": [1, 2, 3, 4, 3],
        }
        return cls(network=wide)


def build_network(arguments: Mapping[str, Any], classes: int, device: torch.device) -> SegmentationModel:
    """LeanNet with random weights, on ``device`` in channels-last memory."""
    network = create_model("leannet", classes=classes, weights=None, **arguments)
    moved: SegmentationModel = network.to(device).to(memory_format=torch.channels_last)
    return moved


def random_batch(batch: int, size: tuple[int, int], classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, classes, (batch, *size), generator=generator)
    return images.to(device), masks.to(device)


class Training:
    """One network, its optimizer and averages; :meth:`run` trains it for some seconds on one set of images."""

    def __init__(self, recipe: Recipe, data: DeviceData, classes: int, *, seed: int = 0) -> None:
        self.recipe, self.data, self.classes, self.seed = recipe, data, classes, seed
        pixels = counts_of(data.masks, classes)
        self.pixels = pixels
        images_pixels = np.array([float((data.masks == k).flatten(1).any(1).sum()) for k in range(classes)])
        found, _ = class_weights("sqrt-median", pixels, images_pixels * data.masks[0].numel())
        self.weights = None if found is None else [float(weight) for weight in found]
        options = {"classes": classes, "class_weights": self.weights}
        self.loss = create_loss("ce(smoothing=0.05)", **options).to(DEVICE)
        self.late_loss = create_loss("ce(smoothing=0.05)+0.5*jaccard", **options).to(DEVICE)
        need = np.where(pixels > 0, 1 / np.sqrt(np.maximum(pixels / max(pixels.sum(), 1.0), 1e-9)), 0.0)
        self.transform = presets.training(
            size=recipe.size, scale=recipe.scale, class_aware=0.4, class_weights=tuple(need), color="medium"
        )

    def start(self, network: SegmentationModel, seed: int = 0) -> None:
        """Random weights into ``network``, in place, so that what was compiled for it stays valid."""
        torch.manual_seed(seed)
        fresh = create_model("leannet", classes=self.classes, weights=None, **self.recipe.network)
        init_head_bias(fresh, list(self.pixels), self.weights)
        network.load_state_dict(fresh.state_dict())
        self.network = network.train()
        precision = "bf16"
        config = TrainConfig().with_values(
            {"training.optimizer": "muon", "training.muon_lr": self.recipe.turn, "training.precision": precision}
        )
        self.optimizer = create_optimizer(
            network, config.training, lr=self.recipe.lr, weight_decay=self.recipe.weight_decay
        )
        self.average = AveragedWeights(network, self.recipe.ema)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.batches = self.data.batches(
            self.transform, classes=self.classes, batch=self.recipe.batch, seed=seed, paste=0.5
        )

    def step(self, forward: Forward, share: float) -> Tensor:
        """One update; the loss stays on the device, so that no step waits for it."""
        images, masks = next(self.batches)
        criterion = self.late_loss if share >= self.recipe.late else self.loss
        with torch.autocast("cuda", torch.bfloat16):
            logits, aux = forward(images)
        loss: Tensor = criterion(logits, masks)
        for head in aux.values():
            loss = loss + self.recipe.aux_weight * (1 - share) * criterion(head, masks)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip, foreach=True)
        set_learning_rate(self.optimizer, learning_rate_factor("cosine", share, self.recipe.warmup))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(share)
        return loss.detach()

    def run(self, forward: Forward, seconds: float, report: Callable[[str, float, int, float], None]) -> int:
        """Train for ``seconds``; returns the number of steps. ``report`` (loss, share, steps, seconds) about every 5 %.

        FloatingPointError where the loss is not finite.
        """
        began, steps, next_look = time.monotonic(), 0, 0.0
        while (spent := time.monotonic() - began) < seconds:
            share = spent / seconds
            loss = self.step(forward, share)
            steps += 1
            if steps % 8 == 0:
                torch.cuda.synchronize()  # the clock drives the schedule: the queue must not run ahead of it
            if share >= next_look:
                value = float(loss)
                if not math.isfinite(value):
                    raise FloatingPointError(f"the loss is {value} after {steps} steps")
                report("loss", value, steps, spent)
                next_look = share + 0.05
        torch.cuda.synchronize()
        return steps


def counts_of(masks: Tensor, classes: int) -> np.ndarray:
    """(K,): labeled pixels per class."""
    return np.array([float((masks == label).sum()) for label in range(classes)])


@torch.inference_mode()
def logits_of(network: SegmentationModel, images: Tensor, *, flipped: bool = False) -> Tensor:
    """(N, K, H, W) fp32 logits; with ``flipped`` the mean with those of the mirrored images."""
    with torch.autocast("cuda", torch.bfloat16):
        found: Tensor = network(images).logits
        if flipped:
            found = (found.float() + network(images.flip(2)).logits.float().flip(3)) / 2
    return found.float()


@torch.inference_mode()
def class_counts_of(
    network: SegmentationModel,
    data: DeviceData,
    classes: int,
    *,
    class_offsets: Tensor | None = None,
    flipped: bool = False,
) -> np.ndarray:
    """(N, K, K) counts of (truth, prediction) per image, one view at full size."""
    network.eval()
    found = []
    for first in range(0, len(data), SCORED):
        images, masks = data.images[first : first + SCORED], data.masks[first : first + SCORED].long()
        logits = logits_of(network, images, flipped=flipped)
        if class_offsets is not None:
            logits = logits + class_offsets[:, None, None]
        pairs = torch.where(masks == IGNORE_INDEX, classes * classes, masks * classes + logits.argmax(dim=1))
        pairs = pairs + torch.arange(len(images), device=pairs.device)[:, None, None] * (classes * classes + 1)
        counts = torch.bincount(pairs.flatten(), minlength=len(images) * (classes * classes + 1))
        found.append(counts.reshape(len(images), -1)[:, :-1].reshape(-1, classes, classes).cpu().numpy())
    return np.concatenate(found)


def scored(counts: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """mIoU of the pooled matrix, its 95 % interval by blocks of frames and by images, and the IoU per class."""
    pooled = scores(counts.sum(axis=0))
    hits = np.diagonal(counts, axis1=1, axis2=2)
    three = np.stack([hits, counts.sum(axis=2), counts.sum(axis=1)], axis=1)
    blocks = [index // BLOCK for index in range(len(counts))]
    return {
        "mIoU": round(pooled.miou, 4),
        "interval (blocks of frames)": _rounded(miou_interval(three, groups=blocks)),
        "interval (images)": _rounded(miou_interval(three)),
        "pixel accuracy": round(pooled.pixel_accuracy, 4),
        "IoU": {
            name: None if math.isnan(value) else round(float(value), 3)
            for name, value in zip(names, pooled.iou, strict=True)
        },
    }


def _rounded(interval: tuple[float, float]) -> list[float] | None:
    """None where there are too few to draw from: JSON has no NaN."""
    return None if math.isnan(interval[0]) else [round(value, 4) for value in interval]


def shifts_of(network: SegmentationModel, data: DeviceData, classes: int) -> Tensor:
    """Shifts (K,) of the class scores that are best for pixels of training images; see ``training.adjustment``."""
    network.eval()
    generator = torch.Generator().manual_seed(0)
    every = max(1, len(data) // 96)
    chosen = list(range(0, len(data), every))
    per_image = ADJUSTED_PIXELS // len(chosen)
    values, labels = [], []
    for index in chosen:
        logits = logits_of(network, data.images[index : index + 1]).log_softmax(dim=1)[0].flatten(1)
        mask = data.masks[index].flatten()
        picked = torch.randint(0, mask.numel(), (per_image,), generator=generator).to(DEVICE)
        values.append(logits[:, picked].cpu().numpy())
        labels.append(mask[picked].cpu().numpy())
    score, label = np.concatenate(values, axis=1), np.concatenate(labels).astype(np.int64)
    kept = label < classes
    found = find_class_offsets(np.ascontiguousarray(score[:, kept]), label[kept])
    return torch.from_numpy(found).float().to(DEVICE)


def compiled(network: SegmentationModel, batch: tuple[Tensor, Tensor], seconds: float) -> Forward:
    """``network`` compiled for a batch of this shape, forward and backward. TimeoutError after ``seconds``."""

    def too_late(*_: object) -> None:
        raise TimeoutError(f"torch.compile took more than {seconds:.0f} s")

    forward: Forward = torch.compile(network, dynamic=False)
    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        for _ in range(2):
            with torch.autocast("cuda", torch.bfloat16):
                logits, aux = forward(batch[0])
            (logits.float().mean() + sum(head.float().mean() for head in aux.values())).backward()
        torch.cuda.synchronize()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    network.zero_grad(set_to_none=True)
    return forward


def drive(name: str) -> str:
    """The sequence that an image is of, from its file's name."""
    return name.rsplit("/", 1)[-1].split("_")[0]


def camvid(options: argparse.Namespace, record: Any, wait: Callable[[], float]) -> None:
    """torch.compile and CamVid. ``record.put`` takes every finding; ``wait`` returns the seconds there are."""
    recipe = Recipe.of(options.rehearse)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    data = open_dataset(options.data)
    classes, names = data.label_space.classes, data.label_space.names
    threads = min(8, os.cpu_count() or 1)
    train, val = DeviceData.of(data.train, DEVICE, threads=threads), DeviceData.of(data.val, DEVICE, threads=threads)
    network = build_network(recipe.network, classes, DEVICE).train()
    record.put(
        network=f"leannet {dict(recipe.network)}, {count_parameters(network) / 1e6:.1f} M parameters",
        recipe=f"crops {recipe.size[0]}×{recipe.size[1]}, batch {recipe.batch}, scale {recipe.scale}, Muon "
        f"(turn {recipe.turn}), AdamW {recipe.lr}, cosine by time, EMA {recipe.ema}, bf16, channels last",
        data=f"{len(train)} training and {len(val)} validation images of {tuple(train.images.shape[1:3])}",
    )
    whole = Training(recipe, train, classes)
    whole.start(network)
    forward: Forward = network
    if options.rehearse or options.no_compile:
        record.put(**{"torch.compile": "not tried"})
    else:
        began = time.monotonic()
        try:
            forward = compiled(network, next(whole.batches), options.compile_seconds)
            record.put(**{"torch.compile, seconds": round(time.monotonic() - began, 1)})
        except Exception as error:  # whatever a compiler raises: the eager network trains as well
            torch._dynamo.reset()
            record.put(**{"torch.compile": f"failed: {type(error).__name__}: {str(error)[:300]}"})
    whole.step(network, 0.0)
    torch.cuda.synchronize()
    ending = time.monotonic() + wait()
    forward = pace(record, whole, network, forward, 0.06 * (ending - time.monotonic()))
    left = ending - time.monotonic()
    train_seconds = left - max(0.06 * left, 10.0)  # the rest: scoring
    with contextlib.suppress(TimeoutError):
        result = fit(record, "val", whole, network, forward, VAL_SHARE * train_seconds)
        finish(record, "val", result, network, val, train, names)
        contact_sheet(options.out.with_name("camvid_val.jpg"), result.average.model, val, data.label_space.palette())
    inside = [index for index, name in enumerate(train.ids) if drive(name) != LEFT_OUT]
    outside = [index for index, name in enumerate(train.ids) if drive(name) == LEFT_OUT]
    part, held = train.subset(inside), train.subset(outside)
    seconds = min((1 - VAL_SHARE) * train_seconds, ending - time.monotonic() - 2.0)
    two = Training(recipe, part, classes)
    result = fit(record, f"drive {LEFT_OUT} left out", two, network, forward, max(seconds, 1.0))
    finish(record, f"drive {LEFT_OUT} left out", result, network, held, part, names)


def pace(record: Any, training: Training, network: SegmentationModel, forward: Forward, seconds: float) -> Forward:
    """Time the augmentation, the eager and the compiled step; returns the faster forward."""
    batch = training.recipe.batch
    source = training.batches

    def step_rate(one: Forward, limit: float) -> float:
        training.step(one, 0.0)
        torch.cuda.synchronize()
        began, steps = time.monotonic(), 0
        while time.monotonic() - began < limit:
            for _ in range(4):
                training.step(one, 0.0)
            torch.cuda.synchronize()
            steps += 4
        return steps / (time.monotonic() - began)

    began = time.monotonic()
    for _ in islice(source, 8):
        pass
    torch.cuda.synchronize()
    record.put(**{"augmentation alone, images/s": round(8 * batch / (time.monotonic() - began))})
    eager = [step_rate(network, seconds / 6) for _ in range(3)]
    record.put(**{"training step, eager, images/s": round(statistics.median(eager) * batch, 1)})
    if forward is network:
        return network
    # With gradients: without them the network would be compiled once more. Dropout differs, the loss hardly.
    images, masks = next(source)
    with torch.autocast("cuda", torch.bfloat16):
        losses = [float(training.loss(one(images)[0], masks).detach()) for one in (network, forward)]
    fast = [step_rate(forward, seconds / 6) for _ in range(3)]
    gain = statistics.median(fast) / statistics.median(eager)
    record.put(
        **{
            "training step, compiled, images/s": round(statistics.median(fast) * batch, 1),
            "torch.compile, gain": round(gain, 3),
            "loss of one batch, eager and compiled": [round(loss, 4) for loss in losses],
        }
    )
    used = forward if gain > 1.02 else network
    record.put(**{"trained with": "the compiled network" if used is forward else "the eager network"})
    return used


def fit(
    record: Any, name: str, training: Training, network: SegmentationModel, forward: Forward, seconds: float
) -> Training:
    training.start(network, seed=training.seed)
    torch.cuda.reset_peak_memory_stats()

    def report(what: str, value: float, steps: int, spent: float) -> None:
        record.message(f"{name}: {steps} steps in {spent:.0f} s, {what} {value:.4f}")

    steps = training.run(forward, seconds, report)
    images = steps * training.recipe.batch
    record.put(
        **{
            f"{name}: training": f"{seconds:.0f} s, {steps} steps, {images} crops, {images / seconds:.0f} images/s, "
            f"{images / len(training.data):.0f} passes over {len(training.data)} images, "
            f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        }
    )
    return training


def finish(
    record: Any,
    name: str,
    training: Training,
    network: SegmentationModel,
    data: DeviceData,
    seen: DeviceData,
    names: tuple[str, ...],
) -> None:
    """Score the averaged weights first, then what may add to them."""
    average: Any = training.average.model
    classes = training.classes
    record.put(**{f"{name}: averaged weights": scored(class_counts_of(average, data, classes), names)})
    record.put(**{f"{name}: last weights": scored(class_counts_of(network, data, classes), names)["mIoU"]})
    flipped = scored(class_counts_of(average, data, classes, flipped=True), names)
    record.put(**{f"{name}: averaged weights, mirrored as well": flipped["mIoU"]})
    class_offsets = shifts_of(average, seen, classes)
    adjusted = scored(class_counts_of(average, data, classes, class_offsets=class_offsets), names)
    record.put(**{f"{name}: averaged weights, class scores shifted": adjusted})


def contact_sheet(path: Path, network: Any, data: DeviceData, palette: np.ndarray) -> None:
    """Three images with truth and prediction beside them."""
    network.eval()
    rows = []
    for index in np.linspace(0, len(data) - 1, 3).astype(int).tolist():
        image, mask = data.images[index].cpu().numpy(), data.masks[index].cpu().numpy()
        labels = logits_of(network, data.images[index : index + 1]).argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
        rows.append(
            np.concatenate([image, blend(image, palette[mask], 0.6), blend(image, palette[labels], 0.6)], axis=1)
        )
    sheet = np.concatenate(rows)
    cv2.imwrite(str(path), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def rehearsal_data(folder: Path) -> Path:
    """A made-up dataset in CamVid's layout: three drives of small random images."""
    rng = np.random.default_rng(0)
    for split, drives, count in (("train", ("0001TP", LEFT_OUT, "0016E5"), 4), ("val", ("0016E5",), 3)):
        for kind in (split, f"{split}annot"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, number in ((name, number) for name in drives for number in range(count)):
            labels = np.kron(rng.integers(0, 12, (6, 8), dtype=np.uint8), np.ones((12, 12), np.uint8))
            image = np.stack([labels * 20] * 3, axis=2) + rng.integers(0, 16, (72, 96, 3), dtype=np.uint8)
            stem = f"{name}_{number + (90 if split == 'val' else 0):06d}"
            cv2.imwrite(str(folder / split / f"{stem}.png"), image)
            cv2.imwrite(str(folder / f"{split}annot" / f"{stem}.png"), labels)
    return folder
