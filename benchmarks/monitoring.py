"""Drift and accuracy without labels on CamVid, every claim of docs/monitoring.md in one command.

    python benchmarks/monitoring.py CAMVID --fold 0001TP=RUN --fold 0006R0=RUN --cache rows

Each RUN was trained without the drive it is named by (``benchmarks/drives.py --out``, or the run of one of its trees).
Its reference is CamVid's ``val``, held-out frames of a drive that it was trained on (a model without that drive, which
is 0016E5, needs ``--reference``); what it sees in service is the drive left out, and the images of the reference under
15 corruptions in 5 strengths. Predictions are kept in ``--cache`` (a folder); what exists is not made again, so that
the command can be stopped. ``--step`` thins the corrupted images.

``--looks 20`` counts the false alarms of a look after every 20 images, as ``segwright monitor --watch`` has them.

Printed as Markdown: false alarms over simulated streams without drift, images until the alarm under drift, and errors
and coverage of the estimated accuracy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segwright.augment.corruptions import CORRUPTIONS
from segwright.metrics.confusion import class_counts, count_pairs, iou_per_class, nanmean
from segwright.monitoring.columns import Columns, columns_of
from segwright.monitoring.detect import RATE, Baseline, Detection, detect
from segwright.monitoring.drift import stream_evidence
from segwright.monitoring.estimate import AccuracyModel, fit_accuracy
from segwright.monitoring.observation import Observation, from_arrays, observe, to_arrays
from segwright.monitoring.scenes import OWN_LENGTHS, blocks_of
from segwright.monitoring.shifted import SCENES, SEVERITIES, shift

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
LEVEL = 0.9
LONG = 300  # images of a simulated stream
LATEST = 200  # images that an alarm is waited for
WINDOW = 40  # images per window whose accuracy is estimated
NEW = "animal"  # an object that no class is of, drawn into the images
NEW_PERCENT = (2, 5, 10, 20)  # of the image
NEW_SHARES = ("bicyclist", "pedestrian")  # classes that are taken out of the reference, as far as that is possible


# ---------------------------------------------------------------- predictions, kept


def predict_all(
    run: Path, images: list[Path], masks: Path, out: Path, step: int, severities: Sequence[int], scenes: bool, new: bool
) -> None:
    """Rows and counts of clean images, and of every ``step``-th under each corruption, one file each."""
    import torch  # not for what is only read from the cache

    import segwright as sw

    torch.set_num_threads(1)
    jobs = [("clean", 0), *[(name, severity) for severity in severities for name in CORRUPTIONS]]
    if scenes:  # only the estimator is fitted on these
        jobs += [(name, severity) for severity in severities for name in SCENES if severity in SEVERITIES]
    if new:
        jobs += [(NEW, percent) for percent in NEW_PERCENT]
    jobs = [job for job in jobs if not (out / f"{job[0]}-{job[1]}.npz").exists()]
    if not jobs:
        return
    out.mkdir(parents=True, exist_ok=True)
    predictor = sw.load(run, device="cpu")
    predictor.observed = True
    for name, severity in jobs:
        began = time.monotonic()
        chosen = images if name == "clean" else images[::step]
        rows, counts = [], []
        for number, path in enumerate(chosen):
            image = predictor.read(path)
            mask = cv2.imread(str(masks / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
            truth = np.where(mask < len(CLASSES), mask, 255).astype(np.uint8)
            if name == NEW:
                image, covered = with_animal(image, severity / 100, seed=number)
                truth[covered] = 255
            elif name != "clean":
                image, truth = shift(image, truth, name, severity, seed=number)
            found = predictor.predict(image)
            counts.append(class_counts(count_pairs(found.labels, truth, len(CLASSES))))
            rows.append(observe(found, id=path.stem, model="0" * 16, time=float(number)))
        part = out / f".{name}-{severity}.npz"
        np.savez_compressed(part, ids=[row.id for row in rows], counts=np.stack(counts), **to_arrays(rows))
        part.rename(out / f"{name}-{severity}.npz")
        seconds = (time.monotonic() - began) / len(chosen)
        print(f"{out.name} {name}-{severity}: mIoU {miou(np.stack(counts)):.3f}, {seconds:.2f} s per image", flush=True)


def with_animal(image: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) with a spotted animal that covers about ``share`` of it, and where it is, bool (H, W)."""
    random = np.random.default_rng(seed)
    height, width = image.shape[:2]
    half = (share * height * width / 2.1) ** 0.5  # half of the body's length: the body and its legs are 2.1 half²
    x, y = random.uniform(0.3, 0.7) * width, random.uniform(0.5, 0.7) * height
    mask = np.zeros((height, width), np.uint8)

    def part(dx: float, dy: float, a: float, b: float) -> None:
        center = (round(x + dx * half), round(y + dy * half))
        cv2.ellipse(mask, center, (round(a * half), round(b * half)), 0, 0, 360, 255, -1)

    part(0, 0, 1, 0.5)
    part(1.1, -0.45, 0.35, 0.25)
    for dx in (-0.7, -0.4, 0.4, 0.7):
        part(dx, 0.7, 0.1, 0.5)
    fur = (
        np.float32([150, 100, 55])
        + 25 * cv2.GaussianBlur(random.standard_normal((height, width, 1)), (0, 0), 1)[..., None]
    )
    spots = cv2.GaussianBlur(random.standard_normal((height, width)), (0, 0), max(1.0, half / 12)) > 0
    fur = np.where(spots[..., None], fur, fur + 80).astype(np.float32)
    soft = cv2.GaussianBlur(mask, (0, 0), 1).astype(np.float32)[..., None] / 255
    return np.clip(image * (1 - soft) + fur * soft, 0, 255).astype(np.uint8), mask > 0


class Rows:
    """What was predicted on one set of images, as it is and corrupted."""

    def __init__(self, folder: Path) -> None:
        self.sets: dict[tuple[str, int], tuple[list[Observation], np.ndarray]] = {}
        for path in sorted(folder.glob("[a-z]*.npz")):
            name, severity = path.stem.rsplit("-", 1)
            with np.load(path) as arrays:
                values = {key: arrays[key] for key in arrays.files}
            ids = [str(one) for one in values.pop("ids")]
            counts = values.pop("counts")
            self.sets[name, int(severity)] = (from_arrays(values, ids, ["0" * 16] * len(ids)), counts)

    @property
    def clean(self) -> tuple[list[Observation], np.ndarray]:
        return self.sets["clean", 0]

    @property
    def corrupted(self) -> dict[tuple[str, int], tuple[list[Observation], np.ndarray]]:
        return {key: value for key, value in self.sets.items() if key[0] in CORRUPTIONS}

    @property
    def shifted(self) -> list[tuple[str, list[Observation], np.ndarray]]:
        """What the estimator is fitted on: strengths 1, 3 and 5 of every kind, as training does."""
        return [(key[0], *value) for key, value in self.sets.items() if key[1] in SEVERITIES]


def miou(counts: np.ndarray) -> float:
    """Of (N, 3, K), pooled."""
    return nanmean(iou_per_class(counts.sum(axis=0)))


# ---------------------------------------------------------------- drift


def draw_stream(blocks: np.ndarray, chosen: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Row numbers of a stream: blocks of neighbors, drawn with replacement."""
    rows: list[int] = []
    while len(rows) < count:
        rows += np.flatnonzero(blocks == random.choice(chosen)).tolist()
    return np.array(rows[:count])


def raised(found: Detection) -> set[tuple[str, int]]:
    """Every alarm of a look, each test of a window by itself: the detector, and the image that raised it."""
    alarms = {("stream", int(found.evidence.ends[place])) for place, *_ in found.evidence.alarms}
    return alarms | {(name, window.end) for window in found.windows for name in window.moved}


def false_alarms(
    clean: Columns, scene: int, streams: int, seed: int, *, again: bool = True, every: int = 0
) -> dict[str, float]:
    """Per image, over streams whose scenes of ``scene`` images are drawn from one half of the held-out rows' scenes,
    with the other half as the reference. How many images count as one is found out by the program, per stream.

    ``again``: scenes are drawn with replacement until there are LONG images; otherwise each comes once. ``every``: the
    stream is looked at after each so many images, and an alarm of any look counts; 0: only at its end.
    """
    random = np.random.default_rng(seed)
    places = blocks_of(clean.scenes, scene)
    number = int(places.max()) + 1
    count = {"stream": 0, "statistics": 0, "embeddings": 0}
    images = alarmed = changed = 0
    for place in range(streams):
        if place % max(1, streams // 50) == 0:  # another reference
            order = random.permutation(number)
            inside, outside = order[: number // 2], order[number // 2 :]
            reference = Baseline(clean.take(np.flatnonzero(np.isin(places, inside))))
        if again:
            rows = draw_stream(places, outside, LONG, random)
        else:
            rows = np.concatenate([np.flatnonzero(places == one) for one in random.permutation(outside)])
        last = raised(detect(reference, clean.take(rows)))
        alarms = set(last)
        for end in range(every, len(rows), every) if every else ():
            alarms |= raised(detect(reference, clean.take(rows[:end])))
        for name, _ in alarms:
            count[name] += 1
        alarmed += bool(alarms)
        changed += alarms != last
        images += len(rows)
    return {
        **{key: value / images for key, value in count.items()}, "streams": streams, "with": alarmed, "changed": changed
    }  # fmt: skip


def analytic_false_alarms(streams: int, *, correlation: float, block: int, seed: int) -> float:
    """Of the stream's detector, per image: autoregressive normal scores, the reference from the same process."""
    random = np.random.default_rng(seed)
    alarms = 0
    for _ in range(streams):
        count = 300 + LONG
        noise = random.standard_normal((count, 4))
        scores = np.empty_like(noise)
        scores[0] = noise[0]
        for place in range(1, count):
            scores[place] = correlation * scores[place - 1] + np.sqrt(1 - correlation**2) * noise[place]
        alarms += len(stream_evidence(scores[:300], scores[300:], block=block, rate=RATE / 2).alarms)
    return alarms / (streams * LONG)


def delay(found: Detection) -> int:
    """Images that must be there for the first alarm, LATEST + 1 if there is none. Nothing is judged before it is known
    how many neighbors are alike."""
    first = found.first()
    return LATEST + 1 if first is None else max(first + 1, OWN_LENGTHS[0])


def power(reference: Rows, seen: Rows, seed: int, same: bool, draws: int = 9) -> dict[tuple[str, int], float]:
    """The median number of images until the alarm over ``draws`` streams, per corruption and strength.

    ``same``: if the images are the reference's own, those of a block are taken out of the reference while they are in
    the stream.
    """
    random = np.random.default_rng(seed)
    clean = columns_of(reference.clean[0], CLASSES)
    places = blocks_of(clean.scenes, 10)
    ids = [row.id for row in reference.clean[0]]
    found: dict[tuple[str, int], list[int]] = {}
    for _ in range(3):
        inside = np.ones(len(clean), bool)
        if same:
            inside = np.isin(places, random.permutation(int(places.max()) + 1)[: int(0.7 * (places.max() + 1))])
        base = Baseline(clean.take(np.flatnonzero(inside)))
        known = {name for name, kept in zip(ids, inside, strict=True) if kept} if same else set()
        for key, (rows, _) in seen.sets.items():
            if key[0] == "clean" and same:
                continue
            usable = np.array([index for index, row in enumerate(rows) if row.id not in known])
            columns = columns_of(rows, CLASSES)
            for _ in range(max(1, draws // 3)):
                order = random.choice(usable, LATEST)
                found.setdefault(key, []).append(delay(detect(base, columns.take(order))))
    return {key: float(np.median(value)) for key, value in found.items()}


# ---------------------------------------------------------------- accuracy without labels


def windows(rows: list[Observation], counts: np.ndarray, random: np.random.Generator, number: int, size: int) -> Any:
    """Rows and true mIoU of random windows of neighbors."""
    for _ in range(number):
        length = min(size, len(rows))
        start = int(random.integers(0, len(rows) - length + 1))
        yield rows[start : start + length], miou(counts[start : start + length])


def estimate_table(name: str, held_out: Rows, seen: Rows, seed: int) -> list[str]:
    """Errors and coverage: in distribution (held-out images that the estimator did not see), each corruption with the
    estimator fitted without it, and the drive left out, as it is and corrupted."""
    random = np.random.default_rng(seed)
    rows, counts = held_out.clean
    shifted = held_out.shifted
    lines = []

    def line(what: str, pairs: list[tuple[Any, float]]) -> None:
        errors = np.array([found.miou - truth for found, truth in pairs])
        inside = np.mean([found.low <= truth <= found.high for found, truth in pairs])
        width = np.mean([found.high - found.low for found, _ in pairs])
        others = {key: np.mean([abs(found.others[key] - truth) for found, truth in pairs])
                  for key in ("soft", "atc", "doc")}  # fmt: skip
        lines.append(
            f"| {name} | {what} | {len(pairs)} | **{100 * np.abs(errors).mean():.1f}** ({100 * errors.mean():+.1f}) | "
            f"{inside:.0%} | {100 * width:.0f} | "
            + " | ".join(f"{100 * value:.1f}" for value in others.values())
            + " |"
        )

    pairs = []
    places = np.arange(len(rows)) * 4 // len(rows)
    for part in range(4):  # neighbors stay together: the estimator saw other streets
        inside = places != part
        ids = {row.id for row, kept in zip(rows, inside, strict=True) if kept}
        known = [(kind, [row for row in some if row.id in ids], truth[[row.id in ids for row in some]])
                 for kind, some, truth in shifted]  # fmt: skip
        model = fit_accuracy([row for row, kept in zip(rows, inside, strict=True) if kept], counts[inside], known)
        rest = np.flatnonzero(~inside)
        for size in (8, 12, 25):
            for some, truth in windows([rows[i] for i in rest], counts[rest], random, 20, size):
                pairs.append((model.estimate(some), truth))
    line("as in the reference, other streets", pairs)
    pairs = []
    for kind in sorted({key[0] for key in held_out.corrupted}):
        model = fit_accuracy(rows, counts, [one for one in shifted if one[0] != kind])
        pairs += [
            (model.estimate(value[0]), miou(value[1])) for key, value in held_out.corrupted.items() if key[0] == kind
        ]
    line("a corruption it was not fitted on", pairs)
    model: AccuracyModel = fit_accuracy(rows, counts, shifted)
    some, truth = seen.clean
    line("the drive left out, whole", [(model.estimate(some), miou(truth))])
    drawn = windows(some, truth, random, 40, WINDOW)
    line(f"the drive left out, windows of {WINDOW}", [(model.estimate(part), found) for part, found in drawn])
    if seen.corrupted:
        line("the drive left out, corrupted", [(model.estimate(value[0]), miou(value[1]))
                                               for value in seen.corrupted.values()])  # fmt: skip
    return lines


# ---------------------------------------------------------------- the command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--fold", action="append", required=True, metavar="DRIVE=RUN")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="DRIVE=FOLDER",
        help="held-out images of a fold, with the masks in FOLDERannot; CamVid's val if none is given",
    )
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--step", type=int, default=6)
    parser.add_argument("--severities", type=int, nargs="*", default=[3, 1, 5, 2, 4])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--scenes", type=int, nargs="*", default=[1, 3, 10], help="images of a simulated scene")
    parser.add_argument("--looks", type=int, default=0, metavar="N", help="false alarms of looks every N images")
    parser.add_argument("--draws", type=int, default=9, help="streams per corruption and strength")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--predict-only", action="store_true")
    parser.add_argument("--parts", nargs="*", default=["false", "power", "estimate"])
    given = parser.parse_args()
    folds = dict(one.split("=", 1) for one in given.fold)
    references = dict(one.split("=", 1) for one in given.reference)
    with ProcessPoolExecutor(given.processes) as pool:
        jobs = []
        for drive, run in folds.items():
            held_out = Path(references.get(drive, given.data / "val"))
            val, val_masks = sorted(held_out.iterdir()), held_out.with_name(f"{held_out.name}annot")
            left = sorted(path for path in (given.data / "train").iterdir() if path.name.startswith(drive + "_"))
            for kind, images, masks in (("val", val, val_masks), ("left", left, given.data / "trainannot")):
                out = given.cache / f"{drive}-{kind}"
                judged = "estimate" in given.parts  # otherwise the drive left out is needed as it is only
                strengths = given.severities if kind == "val" or judged else []
                work = (Path(run), images, masks, out, given.step, strengths, kind == "val" and judged, kind == "val")
                jobs.append(pool.submit(predict_all, *work))
        for job in jobs:
            job.result()
    if given.predict_only:
        return
    for drive in folds:
        report(drive, Rows(given.cache / f"{drive}-val"), Rows(given.cache / f"{drive}-left"), given)


def report(drive: str, held_out: Rows, seen: Rows, given: Any) -> None:
    """Print what was found on one drive left out."""
    clean = columns_of(held_out.clean[0], CLASSES)
    blocks = detect(clean, clean.take(slice(0, 0))).blocks
    known, new = miou(held_out.clean[1]), miou(seen.clean[1])
    print(f"\n### Without {drive}: mIoU {known:.3f} on the held-out images, {new:.3f} on the drive\n")
    print(
        f"Of {len(clean)} held-out images neighbors are alike over {blocks.alike}; {blocks.reference} count as one.\n"
    )
    if "false" in given.parts:
        print("| streams without drift | number | stream | statistics | embeddings | in all | streams with an alarm |\n"
              "|---|---|---|---|---|---|---|")  # fmt: skip
        for scene, again in [(scene, True) for scene in given.scenes] + [(10, False)] * (not given.looks):
            found = false_alarms(clean, scene, given.streams, seed=1, again=again, every=given.looks)
            rates = [1000 * found[key] for key in ("stream", "statistics", "embeddings")]
            looked = f", a look every {given.looks} images" if given.looks else ""
            print(f"| held-out images, scenes of {scene}, {'again and again' if again else 'each once'}{looked} | "
                  f"{found['streams']:.0f} | {' | '.join(f'{rate:.2f}' for rate in (*rates, sum(rates)))} | "
                  f"{found['with'] / found['streams']:.1%} |", flush=True)  # fmt: skip
            if given.looks:
                print(
                    f"Streams of which the last look misses an alarm of an earlier one: {found['changed']}", flush=True
                )
        for correlation, length in () if given.looks else ((0.0, 1), (0.5, 4), (0.8, 12)):
            rate = analytic_false_alarms(given.streams, correlation=correlation, block=length, seed=2)
            print(f"| normal scores, correlation {correlation}, block {length} | {given.streams} | {1000 * rate:.2f} "
                  "| | | | |", flush=True)  # fmt: skip
    if "power" in given.parts:
        print(
            "\n| corruption | " + " | ".join(f"strength {s}" for s in (1, 2, 3, 4, 5)) + " |\n|---|---|---|---|---|---|"
        )
        medians = power(held_out, held_out, 3, same=True, draws=given.draws)
        for name in CORRUPTIONS:
            cells = [medians.get((name, s)) for s in (1, 2, 3, 4, 5)]
            print(f"| {name} | {' | '.join('' if v is None else shown(v) for v in cells)} |")
        for percent in NEW_PERCENT:
            if (NEW, percent) in medians:
                value = medians[NEW, percent]
                print(f"An animal on {percent} % of each image: alarm after {shown(value)} images (median).")
        other = power(held_out, seen, 4, same=False, draws=given.draws)
        print(f"\nThe drive left out: alarm after {shown(other['clean', 0])} images (median).", flush=True)
        for what, value in content_drift(held_out).items():
            print(f"{what}: alarm after {value} images.")
    if "estimate" in given.parts:
        print("\n| without | judged on | windows | mean error (bias), points of mIoU | 90 % interval holds | "
              "its width | soft | atc | doc |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
        print("\n".join(estimate_table(drive, held_out, seen, 5)), flush=True)


def shown(images: float) -> str:
    return f"{images:.0f}" if images <= LATEST else "none"


def content_drift(held_out: Rows) -> dict[str, str]:
    """A share that shifts: the reference has the images with the least of a class, the stream those with the most.
    The same for a class that the reference does not have at all."""
    rows = held_out.clean[0]
    found = {}
    for name in ("car", "tree", "bicyclist", "pedestrian"):
        share = np.array([row.shares[CLASSES.index(name)] for row in rows])
        order = np.argsort(share)
        without = order[: max(20, int((share < 1e-4).sum()))] if name in NEW_SHARES else order[: len(rows) * 6 // 10]
        few = [rows[i] for i in np.sort(without)]
        many = [rows[i] for i in order[-len(rows) // 5 :]]
        stream = [many[i] for i in np.random.default_rng(0).integers(0, len(many), LATEST)]
        value = delay(detect(columns_of(few, CLASSES), columns_of(stream, CLASSES)))
        low, high = np.mean(share[without]), np.mean(share[order[-len(rows) // 5 :]])
        found[f"Share of {name} from {low:.1%} to {high:.1%}"] = str(value) if value <= LATEST else f"over {LATEST}"
    return found


if __name__ == "__main__":
    main()
