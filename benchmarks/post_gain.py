"""What post-processing gains on real data: before and after, for trained models, as a Markdown table with the figures.

    python benchmarks/post_gain.py --out results \\
        --on ../shared/data/camvid runs/deeplabv1 runs/fcn32s --on ../shared/data/membrane runs/unet
    python benchmarks/post_gain.py --out results --minutes 20 --on ../shared/data/camvid train:deeplabv1 train:fcn32s

Every ``--on`` names a dataset and models for it: run folders, bundles, or ``train:NAME`` for an architecture that is
trained here first (its run folder stays in OUT/runs). For each model, on the validation images: the pooled mIoU of
the network alone, and with each preset of the dense CRF, with the 95 % interval of the gain; the chain that the search
of ``tune-post`` finds on one half of the images, with its gain and interval on the other half; its cost; and the
papers' figure: image, network, after 1, 2 and 10 iterations.

Results are written as they come: OUT/NAME.json and OUT/NAME.png for each model, OUT/table.md after each. Run again, and
what is there is not done again (``--again`` does it again); a training that was cut off goes on. A model that fails is
named in the table, and the others are not lost; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import segwright as sw
from segwright import api
from segwright.data.splits import sequence_of
from segwright.inference.predictor import Predictor
from segwright.inference.torch_runtime import TorchRuntime
from segwright.metrics.bootstrap import paired_difference
from segwright.search.tune_postprocessing import drawn_together, tune_post

PRESETS = ("crf(deeplab-v1)", "crf(deeplab-v2-vgg)", "crf(deeplab-v2-r101)")
TRAIN = "train:"


@dataclass(frozen=True)
class Job:
    """A model on a dataset."""

    data: Path
    model: str  # a path, or train:NAME

    @property
    def name(self) -> str:
        model = Path(self.model.removeprefix(TRAIN))
        parts = model.parent.name if model.name == "model" else model.name  # a bundle inside its run folder
        return f"{self.data.name}-{parts}"


def trained(job: Job, arguments: argparse.Namespace) -> Path:
    """The saved model of a job, trained first where that is asked for; a training that was cut off goes on."""
    if not job.model.startswith(TRAIN):
        return Path(job.model)
    out = arguments.out / "runs" / job.name
    done = out.with_name(f"{job.name}.trained")
    if not done.exists():
        resume = (out / "checkpoints").is_dir() and any((out / "checkpoints").iterdir())
        settings = {"training.seed": arguments.seed}
        name = job.model.removeprefix(TRAIN)
        sw.train(str(job.data), model=name, minutes=arguments.minutes, out=out, resume=resume, settings=settings)
        done.write_text(f"{time.time()}\n")
    return out


class Remembering(TorchRuntime):
    """The network answers each image once; asked again, its logits come from a file (float32, in ``folder``)."""

    def __init__(self, runtime: TorchRuntime, folder: Path) -> None:
        super().__init__(runtime.model, runtime.device)
        self.folder = folder

    def run(self, images: np.ndarray) -> torch.Tensor:
        name = hashlib.sha256(images.tobytes() + str(images.shape).encode()).hexdigest()
        file = self.folder / f"{name}.npy"
        if not file.exists():
            np.save(file, super().run(images).contiguous().cpu().numpy())
        return torch.from_numpy(np.load(file))


def measure(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured of one model; its logits are in a folder of the system's temporary ones meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        return measured(job, arguments, Path(folder))


def measured(job: Job, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """As :func:`measure`, with the folder for the logits."""
    started = time.monotonic()
    model = trained(job, arguments)
    split = api.choose_split(sw.open_dataset(job.data), arguments.split)
    predictor = sw.load(model, postprocess="none")
    runtime = Remembering(predictor.runtime, folder)
    predictor = Predictor(runtime, predictor.label_space, bundle=predictor.bundle, post="none")
    groups = [sequence_of(name) for name in split.ids]  # as the tune-post command
    alone = api.evaluate(predictor, split)
    drawn = drawn_together([sequence_of(name) for name in alone.ids], range(alone.images))
    presets = {}
    for name in PRESETS:
        after = Predictor(runtime, predictor.label_space, bundle=predictor.bundle, post=name)
        found = api.evaluate(after, split)
        gain = paired_difference(alone.counts, found.counts, groups=drawn)
        presets[name] = {"miou": found.miou, "gain": gain.difference, "gain_ci95": [gain.low, gain.high]}
    result = tune_post(predictor, split, minutes=arguments.search_minutes, pipelines=PRESETS, groups=groups)
    figure = arguments.out / f"{job.name}.png"
    shown = arguments.show_probability
    shown = shown if shown in predictor.label_space.names else None
    api.plot_crf(model, split, figure, crf=PRESETS[0], probability_of=shown)
    return {
        "data": str(job.data), "model": job.model, "split": split.name, "images": len(split), "miou": alone.miou,
        "presets": presets, "tuned": result.to_json(), "summary": result.summary, "figure": str(figure),
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


def row(job: Job, found: dict[str, Any]) -> str:
    """A line of the table."""
    if "error" in found:
        return f"| {job.data.name} | {job.model} | failed: {found['error'].splitlines()[0]} | | | | |"
    tuned = found["tuned"]
    cells = [f"{100 * found['miou']:.1f}"]
    for preset in found["presets"].values():
        low, high = preset["gain_ci95"]
        cells.append(f"{100 * preset['miou']:.1f} ({100 * preset['gain']:+.1f}: {100 * low:+.1f} to {100 * high:+.1f})")
    if not tuned["pipeline"]:
        verdict = "no chain helped: none kept"
    else:
        span = tuned["gain_ci95"]
        interval = f" ({100 * span[0]:+.2f} to {100 * span[1]:+.2f})" if span else ""
        verdict = f"`{tuned['pipeline']}` {100 * tuned['gain']:+.2f}{interval}, {tuned['milliseconds']:.0f} ms"
        verdict += "" if tuned["kept"] else ": **not kept**"
    name = Path(job.model.removeprefix(TRAIN)).name
    return "| " + " | ".join([f"{job.data.name}, {found['images']} images", name, *cells, verdict]) + " |"


def table(jobs: list[Job], out: Path) -> str:
    """The table of what is there so far."""
    lines = [
        "| data | model | network alone | DeepLab v1's CRF | v2-VGG's | v2-R101's | tuned: gain on unseen images |",
        "|---|---|---|---|---|---|---|",
    ]
    for job in jobs:
        path = out / f"{job.name}.json"
        if path.exists():
            lines.append(row(job, json.loads(path.read_text())))
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", nargs="+", action="append", required=True, metavar=("DATA", "MODEL"))
    parser.add_argument("--out", type=Path, default=Path("post-gain"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, a model")
    parser.add_argument("--search-minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show-probability", default="car", help="a class whose probability the figure shows")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    arguments = parser.parse_args()
    jobs = [Job(Path(group[0]), model) for group in arguments.on for model in group[1:]]
    if not jobs or len({job.name for job in jobs}) < len(jobs):
        parser.error("every --on names a dataset and one model or more; no two of one name")
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for job in jobs:
        path = arguments.out / f"{job.name}.json"
        if path.exists() and not arguments.again and "error" not in json.loads(path.read_text()):
            print(f"{job.name}: there already", file=sys.stderr)
            continue
        try:
            found = measure(job, arguments)
            print(f"{job.name}: {found['summary']}", file=sys.stderr)
        except Exception as error:  # whatever it is, the other models are not lost
            failed += 1
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
        path.write_text(json.dumps(found, indent=2))
        (arguments.out / "table.md").write_text(table(jobs, arguments.out))
    print(table(jobs, arguments.out))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
