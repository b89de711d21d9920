"""What batch-norm statistics measured again gain for averaged weights: EMA and SWA, several seeds, one table.

    python benchmarks/averages.py --data ../shared/data/camvid --reduce 4 --thin 3 --epochs 24 --seeds 3

Of the dataset, every ``--thin``-th image of each split, ``--reduce`` times smaller. One training per seed of LeanNet
"small" with Muon, as planned from random weights, in one size; several averages follow the same weights. At half of the
run and at its end every average is scored on the validation images with its averaged statistics and with statistics
measured again: on the training's own augmented crops, on plain crops (own scale and colors), and on whole images.
Differences are paired: the same weights, the same images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from segwright.augment import presets
from segwright.data.dataset import Dataset, open_dataset
from segwright.data.loading.loader import Loader
from segwright.data.records import evenly_spread
from segwright.imageio import write_image
from segwright.losses import create_loss
from segwright.models.catalog import create_model
from segwright.training.callbacks.log import Display
from segwright.training.components import TrainerComponents
from segwright.training.config import TrainConfig
from segwright.training.optim.norm_statistics import measure_statistics
from segwright.training.optim.optimizers import AveragedWeights
from segwright.training.planning.plan import crop_size
from segwright.training.state import Progress
from segwright.training.trainer import Trainer
from segwright.training.validate import Validation, Validator

WAYS = ("averaged", "augmented crops", "plain crops", "whole images")


class Several:
    """Several averages that follow one network."""

    def __init__(self, averages: dict[str, AveragedWeights]) -> None:
        self.averages = averages

    def update(self, progress: float) -> None:
        for average in self.averages.values():
            average.update(progress)


def batches(trainer: Trainer, way: str, count: int) -> Iterator[Tensor]:
    """Training images (N, H, W, C) uint8 for the statistics."""
    phase = trainer.phase(1.0)
    if way == "whole images":
        split = trainer.components.train
        for index in evenly_spread(len(split), count * 4):
            yield torch.from_numpy(split[index].image[None])
        return
    own = trainer.components.transforms[phase]
    plain = presets.training(size=phase.size, scale=(1.0, 1.0), aspect=1.0, rotation=0.0, flip=0.0, color="none")
    loader = Loader(trainer.components.train, seed=7, workers=1)
    found = loader.batches(epoch=0, batch_size=phase.batch, transform=own if way.startswith("augmented") else plain)
    for _ in range(min(count, loader.steps(phase.batch))):
        yield torch.from_numpy(next(found).images)


def reduced(data: Dataset, folder: Path, factor: int, thin: int) -> Dataset:
    """A copy with every ``thin``-th image of train and val, ``factor`` times smaller."""
    for split in (data.train, data.val):
        for index in range(0, len(split), thin):
            sample, name = split[index], f"{index:05d}.png"
            assert sample.mask is not None
            size = (sample.image.shape[1] // factor, sample.image.shape[0] // factor)
            small = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA)
            write_image(folder / "images" / split.name / name, np.asarray(small, np.uint8))
            mask = cv2.resize(sample.mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
            write_image(folder / "masks" / split.name / name, np.asarray(mask, np.uint8))
    space = data.label_space
    lines = [f"{name} {r} {g} {b}" for name, (r, g, b) in zip(space.names, space.colors, strict=True)]
    (folder / "classes.txt").write_text("\n".join(lines) + "\n")
    return open_dataset(folder)


def scored(validator: Validator, network: nn.Module) -> float:
    return float(validator(network).scores.miou)  # type: ignore[arg-type]


def measured(trainer: Trainer, averages: dict[str, AveragedWeights], validator: Validator, count: int) -> Any:
    """{average: {way: mIoU}}, and of the last weights."""
    found: dict[str, dict[str, float]] = {}
    networks: dict[str, nn.Module] = {"last weights": trainer.model}
    networks.update({name: average.model for name, average in averages.items()})
    for name, network in networks.items():
        kept = {key: value.clone() for key, value in network.state_dict().items()}
        found[name] = {}
        for way in WAYS:
            if way != "averaged":
                measure_statistics(network, batches(trainer, way, count))
            found[name][way] = scored(validator, network)
            network.load_state_dict(kept)
        print(name, {way: round(value, 4) for way, value in found[name].items()}, flush=True)
    return found


def built(data: Dataset, folder: Path, seed: int, epochs: int) -> Trainer:
    """A training of LeanNet from random weights, in crops a little smaller than the images."""
    height, width = data.train[0].image.shape[:2]
    phase = {"until": 1.0, "size": crop_size(height, width, height * width), "scale": (0.7, 1.35), "batch": 8}
    values = {
        "epochs": epochs,
        "seed": seed,
        "phases": [phase],
        "optimizer": "muon",
        "lr": 4e-3,
        "weight_decay": 0.02,
        "encoder_lr_factor": 1.0,
        "warmup": 0.04,
        "ema": 0.99,
        "validate_every": max(1, epochs // 2),
        "precision": "fp32",
        "compile": False,
        "workers": 1,
        "cache": True,
        "loss_at_native_stride": True,
        "aux_weight": 0.3,
        "logit_adjustment": False,
        "trackers": (),
        "save_every_seconds": 1e6,
    }
    config = TrainConfig().with_values({f"training.{key}": value for key, value in values.items()})
    torch.manual_seed(seed)
    classes = data.label_space.classes
    loss = create_loss("ce(smoothing=0.05)", classes=classes)
    own = config.training.phases[0]
    return Trainer(
        TrainerComponents(
            model=create_model("leannet", classes=classes, weights=None, variant="small"),
            criterion=loss,
            final_criterion=loss,
            train=data.train,
            val=data.val,
            config=config,
            transforms={own: presets.training(size=own.size, scale=own.scale)},
            folder=folder,
            device=torch.device("cpu"),
            display=Display(show=False),
        )
    )


def _at_validation(
    trainer: Trainer,
    averages: dict[str, AveragedWeights],
    validator: Validator,
    count: int,
    found: list[Any],
    progress: Progress,
    validation: Validation,
) -> bool:
    print(f"seed {trainer.config.seed}, step {progress.step}, share {trainer.run_progress():.2f}", flush=True)
    found.append(measured(trainer, averages, validator, count))
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--reduce", type=int, default=1, help="times smaller images")
    parser.add_argument("--thin", type=int, default=1, help="every n-th image of each split")
    parser.add_argument("--batches", type=int, default=16, help="that are passed for the statistics")
    parser.add_argument("--out", type=Path, default=Path("averages.json"))
    arguments = parser.parse_args()
    copy = tempfile.TemporaryDirectory()
    data = open_dataset(arguments.data)
    if arguments.reduce > 1 or arguments.thin > 1:
        data = reduced(data, Path(copy.name), arguments.reduce, arguments.thin)
    results: list[Any] = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            trainer = built(data, Path(folder), seed, arguments.epochs)
            averages = {f"EMA {decay}": AveragedWeights(trainer.model, decay) for decay in (0.99,)}
            averages["SWA from 0.5"] = AveragedWeights(trainer.model, 0.0, 0.5)
            averages["SWA from 0.75"] = AveragedWeights(trainer.model, 0.0, 0.75)
            trainer.average, trainer.update.average = None, Several(averages)
            val = trainer.components.val
            assert val is not None
            validator = trainer.validator = Validator(val, trainer.device, None)
            found: list[Any] = []

            hook = partial(_at_validation, trainer, averages, validator, arguments.batches, found)
            trainer.components = replace(trainer.components, on_validation=hook)
            done = trainer.fit()
            if done.stopped_by:  # by a signal: half a training is no result
                raise SystemExit(f"stopped by {done.stopped_by} at step {done.progress.step}")
            results.append({"seed": seed, "steps": trainer.progress.step, "half": found[0], "end": found[-1]})
        arguments.out.write_text(json.dumps({"arguments": vars(arguments), "runs": results}, default=str, indent=1))
    for when in ("half", "end"):
        print(f"\n| {when}: mIoU | " + " | ".join(WAYS) + " |\n|---|" + "---|" * len(WAYS))
        for name in results[0][when]:
            table = np.array([[100 * run[when][name][way] for way in WAYS] for run in results])
            gains = table - table[:, :1]
            cells = [f"{table[:, 0].mean():.1f}"]
            cells += [f"{gains[:, i].mean():+.2f} ({', '.join(f'{g:+.1f}' for g in gains[:, i])})" for i in (1, 2, 3)]
            print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
