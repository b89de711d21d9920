"""Every network of the catalog, trained for the same small budget on CamVid from scratch: do they learn?

    python benchmarks/lineage.py --data ../shared/data/camvid --minutes-each 2 --out lineage
    python benchmarks/lineage.py --models unet,ddrnet,fcn8s --minutes-each 5 --lanes 2

One network at a time, each result written to ``OUT/NAME.json`` as soon as it is there; run again, and those that are
done are passed over. ``OUT/lineage.md`` is the table: val mIoU (one pooled confusion matrix), seconds an epoch, peak
memory. The row "class priors" is what the most frequent class everywhere scores; none may fall below it.

The budget is counted in CPU time of the training alone, on one thread, so that a busy machine does not change it;
``--lanes`` networks train side by side.

The recipe is the same for all and deliberately plain: AdamW, cosine by time, crops of random scale and side, batch 8
(4 for the classical networks), cross-entropy with square-root median-frequency weights. Learning rate and arguments of
the classical networks are those of ``segwright.models.recipes.FROM_SCRATCH``; what is not as published stands in the
column "arguments".
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from segwright.data.dataset import open_dataset
from segwright.errors import SegwrightError
from segwright.metrics.confusion import ConfusionMatrix
from segwright.models.catalog import CATALOG, create_model
from segwright.models.recipes import AUX_WEIGHTS, FROM_SCRATCH, USUAL_AUX_WEIGHT, Recipe

IGNORED = 255


def load(split: object, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole split as uint8 (N, H, W, 3) and (N, H, W), brought to one size."""
    images, masks = [], []
    for sample in split:  # type: ignore[attr-defined]
        image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].float()
        mask = torch.from_numpy(sample.mask)[None, None].float()
        images.append(F.interpolate(image, (height, width), mode="area")[0].permute(1, 2, 0).round().byte())
        masks.append(F.interpolate(mask, (height, width), mode="nearest-exact")[0, 0].byte())
    return torch.stack(images), torch.stack(masks)


def crop(images: torch.Tensor, masks: torch.Tensor, size: tuple[int, int], rng: np.random.Generator) -> tuple:
    """Random crops of ``size`` at a random scale (0.6 to 1.4), flipped by chance."""
    scale = rng.uniform(0.6, 1.4)
    height = min(round(size[0] / scale), images.shape[1])
    width = min(round(size[1] / scale), images.shape[2])
    top = int(rng.integers(0, images.shape[1] - height + 1))
    left = int(rng.integers(0, images.shape[2] - width + 1))
    image = images[:, top : top + height, left : left + width].permute(0, 3, 1, 2).float()
    mask = masks[:, None, top : top + height, left : left + width].float()
    image = F.interpolate(image, size, mode="bilinear", antialias=scale < 1).round().byte().permute(0, 2, 3, 1)
    mask = F.interpolate(mask, size, mode="nearest-exact")[:, 0].long()
    if rng.random() < 0.5:
        image, mask = image.flip(2), mask.flip(2)
    return image, mask


def class_weights(masks: torch.Tensor, classes: int) -> torch.Tensor:
    counts = torch.bincount(masks.flatten().long(), minlength=256)[:classes].float()
    share = counts / counts.sum()
    return (share[share > 0].median() / share.clamp(min=1e-6)).sqrt().clamp(0.4, 3)


def evaluate(model: torch.nn.Module, images: torch.Tensor, masks: torch.Tensor, classes: int) -> float:
    matrix = ConfusionMatrix(classes)
    model.eval()
    with torch.inference_mode():
        for image, mask in zip(images, masks, strict=True):
            matrix.update(model(image[None]).logits.argmax(1).byte()[0].numpy(), mask.numpy())
    return float(matrix.scores().miou)


def train(name: str, options: argparse.Namespace) -> dict[str, object]:
    """One network for ``minutes_each`` of CPU time; the clock runs for training only."""
    torch.set_num_threads(1)  # CPU time is then time
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    data = open_dataset(options.data)
    classes = data.label_space.classes
    height, width = options.size
    images, masks = load(data.train, height, width)
    recipe = FROM_SCRATCH.get(name, Recipe("adamw", options.lr, 0.01, batch=options.batch))
    arguments = dict(recipe.arguments)
    model = create_model(name, classes=classes, weights=None, **arguments).to(memory_format=torch.channels_last)
    weights = class_weights(masks, classes)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    aux_weight = AUX_WEIGHTS.get(name, USUAL_AUX_WEIGHT)
    budget = options.minutes_each * 60
    window = (min(options.crop[0], height), min(options.crop[1], width))
    spent, seen, order = 0.0, 0, np.array([], int)
    model.train()
    while spent < budget:
        start = time.process_time()
        if len(order) < recipe.batch:
            order = np.concatenate([order, rng.permutation(len(images))])
        chosen, order = order[: recipe.batch], order[recipe.batch :]
        share = spent / budget
        factor = share / 0.1 if share < 0.1 else 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * max(factor, 1e-3)
        batch, target = crop(images[chosen], masks[chosen], window, rng)
        output = model(batch)
        loss = F.cross_entropy(output.logits, target, weights, ignore_index=IGNORED)
        for aux in output.aux.values():
            loss = loss + aux_weight * F.cross_entropy(aux, target, weights, ignore_index=IGNORED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, recipe.clip_gradient or 5.0)
        optimizer.step()
        seen += len(chosen)
        spent += time.process_time() - start
    val_images, val_masks = load(data.val, height, width)
    most = int(torch.bincount(masks.flatten().long(), minlength=256)[:classes].argmax())
    prior = ConfusionMatrix(classes)
    prior.update(np.full_like(val_masks.numpy(), most), val_masks.numpy())
    return {
        "name": name,
        "miou": evaluate(model, val_images, val_masks, classes),
        "prior_miou": float(prior.scores().miou),
        "loss": float(loss.detach()),
        "pictures": seen,
        "seconds_an_epoch": spent / seen * len(images),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "arguments": ", ".join(f"{key}={value}" for key, value in arguments.items()),
        "minutes": options.minutes_each,
        "size": [height, width],
    }


def table(folder: Path) -> str:
    """The markdown table of everything that is done, best first."""
    rows = sorted((json.loads(file.read_text()) for file in folder.glob("*.json")), key=lambda row: -row["miou"])
    lines = [
        "| network | val mIoU | parameters | pictures seen | seconds an epoch | peak memory (MiB) | arguments |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['miou'] * 100:.1f} | {row['parameters'] / 1e6:.2f} M | {row['pictures']} "
            f"| {row['seconds_an_epoch']:.0f} | {row['peak_mib']:.0f} | {row['arguments']} |"
        )
    if rows:
        lines.append(f"| class priors | {rows[0]['prior_miou'] * 100:.1f} | | | | | |")
    return "\n".join(lines) + "\n"


def apart(name: str, options: argparse.Namespace) -> str:
    """Train ``name`` in a process of its own (its peak memory is its own); returns the name if it failed."""
    print(f"{name}: {options.minutes_each:g} minutes", file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", name], env=environment).returncode
    if code:
        print(f"{name}: failed ({code})", file=sys.stderr, flush=True)
    (options.out / "lineage.md").write_text(table(options.out))
    return name if code else ""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="train every network of the catalog for the same budget on CamVid")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/camvid"))
    parser.add_argument("--models", default=",".join(CATALOG), help="names, separated by commas")
    parser.add_argument("--minutes-each", type=float, default=4.0, help="CPU time of one network")
    parser.add_argument("--lanes", type=int, default=1, help="networks trained at the same time")
    parser.add_argument("--size", type=int, nargs=2, default=(180, 240), metavar=("H", "W"))
    parser.add_argument("--crop", type=int, nargs=2, default=(160, 208), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=8, help="of networks without a recipe of their own")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("lineage"))
    parser.add_argument("--one", help=argparse.SUPPRESS)  # train this one here: the child process of a run
    return parser.parse_args()


def main() -> int:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        try:
            result = train(options.one, options)
        except SegwrightError as error:
            print(error, file=sys.stderr)
            return 1
        (options.out / f"{options.one}.json").write_text(json.dumps(result, indent=1))
        return 0
    names = [name for name in options.models.split(",") if not (options.out / f"{name}.json").exists()]
    with ThreadPoolExecutor(options.lanes) as lanes:
        failed = [name for name in lanes.map(lambda name: apart(name, options), names) if name]
    print(table(options.out))
    rows = [json.loads(file.read_text()) for file in options.out.glob("*.json")]
    failed += [row["name"] for row in rows if row["miou"] <= row["prior_miou"]]
    if failed:
        print(f"not better than the class priors, or failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
