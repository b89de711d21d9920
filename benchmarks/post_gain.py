"""What post-processing gains on real data: before and after, for trained models, as a Markdown table.

    python benchmarks/post_gain.py --data ../shared/data/camvid MODEL [MODEL …] [--figure figure.png]
    python benchmarks/post_gain.py --data ../shared/data/camvid --train deeplabv1 fcn32s --minutes 20

MODEL is a run folder or a bundle. With ``--train`` the named architectures are trained first. For each model: the
pooled mIoU of the network alone, with each preset of the dense CRF, and with the chain that ``tune-post`` finds, its
gain and 95 % interval on the half of the pictures that the search has not seen, and its cost. ``--figure`` also writes
the figure of the papers: picture, network, after 1, 2 and 10 iterations.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import segwright as sw
from segwright.evaluation.crf_figure import FigureRow, crf_figure
from segwright.evaluation.tune_post import tune_post

PRESETS = ("crf(deeplab-v1)", "crf(deeplab-v2-vgg)", "crf(deeplab-v2-r101)")


def trained(arguments: argparse.Namespace, folder: Path) -> list[Path]:
    """Run folders of the models to look at: the given ones, and those trained here."""
    runs = [Path(model) for model in arguments.models]
    for name in arguments.train:
        out = folder / name
        sw.train(arguments.data, model=name, minutes=arguments.minutes, out=out)
        runs.append(out)
    return runs


def row(model: Path, arguments: argparse.Namespace) -> tuple[list[str], dict[str, object]]:
    dataset = sw.open_dataset(arguments.data)
    split = dataset.splits[arguments.split]
    predictor = sw.load(model, post="none")
    result = tune_post(predictor, split, minutes=arguments.search_minutes, chains=PRESETS)
    found = {trial.chain: trial for trial in result.trials}
    cells = [f"{100 * found[''].miou:.1f}"]
    cells += [f"{100 * found[name].miou:.1f}" if name in found else "–" for name in PRESETS]
    interval = f"{100 * result.gain:+.2f} ({100 * result.low:+.2f} to {100 * result.high:+.2f})"
    verdict = f"`{result.chain}` {interval}, {result.milliseconds:.0f} ms" if result.kept else f"none kept; {interval}"
    if arguments.figure:
        rows = []
        for index in range(0, len(split), max(1, len(split) // 3)):
            image = split.read_image(index)
            probabilities = predictor.predict(image, probabilities=True).probabilities
            assert probabilities is not None
            rows.append(FigureRow(image, probabilities, split.read_mask(index)))
        name = f"{arguments.figure.stem}-{model.name}{arguments.figure.suffix}"
        crf_figure(rows[:3], dataset.label_space, arguments.figure.with_name(name))
    return [model.name, *cells, verdict], {"model": model.name, **result.to_json()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--train", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--search-minutes", type=float, default=10.0)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = trained(arguments, Path(folder))
        if not runs:
            parser.error("name models, or architectures with --train")
        found = [row(run, arguments) for run in runs]
    print("| model | network alone | DeepLab v1's CRF | v2-VGG's | v2-R101's | tuned: gain on unseen pictures |")
    print("|---|---|---|---|---|---|")
    for cells, _ in found:
        print("| " + " | ".join(cells) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps([result for _, result in found], indent=2))


if __name__ == "__main__":
    main()
