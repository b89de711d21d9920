"""Search a chain of post-processing on validation data, and keep it only where it provably helps.

The network runs once over the pictures; its probabilities are cached on disk (float16). The pictures are split in two
by alternating blocks (neighbours in a sequence stay together): chains are searched on the one half, and the winner's
gain is measured on the other, which the search has never seen. A gain whose 95 % interval (paired bootstrap over
images, pooled confusion matrices) does not lie above zero is no gain: nothing is kept, and the result says so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segwright.console import progress
from segwright.errors import DataError, PostprocessError
from segwright.images import UInt8Array
from segwright.metrics.confusion import class_counts, count_pairs, miou_by_convention
from segwright.metrics.intervals import paired_difference
from segwright.postprocess.chain import Chain, crf_text, parse_chain
from segwright.postprocess.crf import DenseCRF
from segwright.types import Float32Array, LabelSpace, Prediction

CACHE_BYTES = 4_000_000_000
BLOCKS = 8  # four for the search, four to confirm, taking turns
LEAST_GAIN = 1e-4  # mIoU: what a longer chain must add on the search half to be preferred

STARTS = (
    "crf(deeplab-v1)", "crf(deeplab-v2-vgg)", "crf(deeplab-v2-r101)",
    "min-area(32)", "min-area(128)", "fill-holes(64)", "smooth(5)", "close(3)", "superpixels(8)",
)  # fmt: skip
ADDITIONS = ("min-area(32)", "min-area(128)", "fill-holes(64)", "close(3)", "open(3)", "smooth(3)", "smooth(7)")


class Predicts(Protocol):
    """What the search needs of a predictor: no post-processing of its own."""

    @property
    def label_space(self) -> LabelSpace: ...
    def predict(self, image: UInt8Array, *, probabilities: bool = False) -> Prediction: ...


class Pictures(Protocol):
    """What the search needs of a split."""

    def __len__(self) -> int: ...
    def read_image(self, index: int, /) -> UInt8Array: ...
    def read_mask(self, index: int, /) -> UInt8Array | None: ...


@dataclass(frozen=True)
class Trial:
    """One chain on the search half: its pooled mIoU (0…1) and its cost."""

    chain: str
    miou: float
    milliseconds: float


@dataclass(frozen=True)
class TuningResult:
    """What the search found. mIoU values are 0…1; ``gain``, ``low`` and ``high`` are measured on the confirm half."""

    chain: str  # the winner of the search, kept or not; '' where nothing beat the network alone
    kept: bool
    gain: float
    low: float
    high: float  # the 95 % interval of the gain
    milliseconds: float  # a picture, on this machine
    baseline_miou: float
    tuned_miou: float
    search_pictures: int
    confirm_pictures: int
    trials: tuple[Trial, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The result in a sentence or two."""
        if not self.chain:
            text = "No chain beat the network alone on the search half: nothing is kept."
        else:
            figures = (
                f"{100 * self.gain:+.2f} mIoU (95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f}) "
                f"on {self.confirm_pictures} pictures the search had not seen, {self.milliseconds:.0f} ms a picture"
            )
            verdict = f"Kept {self.chain}" if self.kept else f"Nothing is kept: the best chain was {self.chain}"
            reason = "" if self.kept else "; its gain is not beyond the interval"
            text = f"{verdict}: {figures}{reason}."
        return " ".join([text, *self.notes])

    def to_json(self) -> dict[str, Any]:
        return {
            "chain": self.chain, "kept": self.kept, "gain": self.gain, "gain_ci95": [self.low, self.high],
            "milliseconds": self.milliseconds, "baseline_miou": self.baseline_miou, "tuned_miou": self.tuned_miou,
            "search_pictures": self.search_pictures, "confirm_pictures": self.confirm_pictures,
            "trials": [vars(trial) for trial in self.trials], "notes": list(self.notes),
        }  # fmt: skip


def tune_post(
    predictor: Predicts,
    split: Pictures,
    *,
    minutes: float = 10.0,
    chains: Iterable[str] = (),
    groups: Sequence[object] | None = None,
    cache_bytes: int = CACHE_BYTES,
    folder: str | Path | None = None,
) -> TuningResult:
    """Search chains for ``predictor`` (its own post-processing off) on ``split``.

    ``minutes`` bounds the search, not the network's own pass; ``chains`` adds starting points; ``groups`` names each
    picture's sequence, so that whole sequences are drawn in the bootstrap; ``folder`` is where the cache goes (the
    system's temporary folder; removed at the end). DataError where fewer than four pictures have masks.
    """
    names = predictor.label_space.names
    with tempfile.TemporaryDirectory(dir=folder, prefix="segwright-post-") as place:
        cache = _Cache.fill(predictor, split, Path(place), cache_bytes)
        search, confirm = _halves(len(cache.indices))
        found = _Search(cache, search, names, time.monotonic() + 60 * minutes)
        baseline = found.score("")
        winner = found.run([*chains, *STARTS])
        notes = cache.notes
        if found.cut:
            notes += (f"The search stopped at its limit of {minutes:g} minutes, after {len(found.trials) - 1} chains.",)
        if winner.miou <= baseline.miou + LEAST_GAIN:
            return TuningResult(
                "", False, 0.0, 0.0, 0.0, 0.0, baseline.miou, baseline.miou, len(search), len(confirm),
                tuple(found.trials.values()), notes,
            )  # fmt: skip
        before, _ = cache.counts(Chain(), confirm)
        after, milliseconds = cache.counts(parse_chain(winner.chain, names), confirm)
        drawn = None if groups is None else [groups[cache.indices[i]] for i in confirm]
        difference = paired_difference(before, after, groups=drawn)
        return TuningResult(
            winner.chain, bool(difference.low > 0), difference.difference, difference.low, difference.high,
            milliseconds, miou_by_convention(before), miou_by_convention(after), len(search), len(confirm),
            tuple(found.trials.values()), notes,
        )  # fmt: skip


@dataclass(frozen=True)
class _Cache:
    """The network's probabilities on disk, and the split they belong to."""

    split: Pictures
    classes: int
    indices: tuple[int, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...]

    @classmethod
    def fill(cls, predictor: Predicts, split: Pictures, folder: Path, limit: int) -> _Cache:
        classes = predictor.label_space.classes
        candidates = [i for i in range(len(split)) if split.read_mask(i) is not None]
        if len(candidates) < 4:
            raise DataError(
                "too few pictures with masks to tune on",
                expected="at least 4, better 50: half to search, half to confirm",
                found=str(len(candidates)),
                fix="tune on a larger split",
            )
        first = split.read_image(candidates[0])
        room = max(4, int(limit // max(1, first.shape[0] * first.shape[1] * classes * 2)))
        notes: tuple[str, ...] = ()
        if room < len(candidates):  # evenly spread, so that every sequence is represented
            chosen = np.linspace(0, len(candidates) - 1, room).round().astype(int)
            notes = (f"{room} of {len(candidates)} pictures were used: the cache is limited to {limit / 1e9:.1f} GB.",)
            candidates = [candidates[i] for i in chosen]
        files = []
        with progress("Predicting", len(candidates)) as advance:
            for index in candidates:
                found = predictor.predict(split.read_image(index), probabilities=True).probabilities
                if found is None:
                    raise PostprocessError("the predictor gives no probabilities", fix="tune the model, not an export")
                files.append(folder / f"{index}.npy")
                np.save(files[-1], found.astype(np.float16))
                advance(1)
        return cls(split, classes, tuple(candidates), tuple(files), notes)

    def picture(self, i: int) -> tuple[UInt8Array, UInt8Array, Float32Array]:
        image, mask = self.split.read_image(self.indices[i]), self.split.read_mask(self.indices[i])
        assert mask is not None  # fill() took only those that have one
        return image, mask, np.load(self.files[i]).astype(np.float32)

    def counts(self, chain: Chain, numbers: Sequence[int]) -> tuple[np.ndarray[Any, Any], float]:
        """Class counts (N, 3, K) of the chain's labels, and the chain's median milliseconds a picture."""
        rows, seconds = [], []
        for i in numbers:
            image, mask, probabilities = self.picture(i)
            start = time.perf_counter()
            labels, _ = chain(image, probabilities)
            seconds.append(time.perf_counter() - start)
            rows.append(class_counts(count_pairs(labels, mask, self.classes)))
        return np.stack(rows), 1000 * float(np.median(seconds))


def _halves(count: int) -> tuple[list[int], list[int]]:
    """Alternating blocks: (to search on, to confirm on)."""
    blocks = np.array_split(np.arange(count), min(BLOCKS, count))
    return [int(i) for b in blocks[::2] for i in b], [int(i) for b in blocks[1::2] for i in b]


class _Search:
    """Greedy: the best start, then each parameter of its CRF up and down, then steps added, then taken away again."""

    def __init__(self, cache: _Cache, numbers: Sequence[int], names: Sequence[str], deadline: float) -> None:
        self.cache, self.numbers, self.names, self.deadline = cache, numbers, names, deadline
        self.trials: dict[str, Trial] = {}
        self.cut = False  # whether time ran out

    def score(self, text: str) -> Trial:
        chain = parse_chain(text, self.names)
        key = str(chain)
        if key not in self.trials:
            counts, milliseconds = self.cache.counts(chain, self.numbers)
            self.trials[key] = Trial(key, miou_by_convention(counts), milliseconds)
        return self.trials[key]

    def best(self, start: Trial, texts: Iterable[str]) -> Trial:
        winner = start
        for text in texts:
            if time.monotonic() > self.deadline:
                self.cut = True
                break
            trial = self.score(text)
            if trial.miou > winner.miou + LEAST_GAIN:
                winner = trial
        return winner

    def run(self, starts: Iterable[str]) -> Trial:
        alone = self.score("")
        winner = self.best(alone, starts)
        crfs = [trial for trial in self.trials.values() if trial.chain.startswith("crf(") and ">" not in trial.chain]
        if crfs:
            tuned = self._tuned(max(crfs, key=lambda trial: trial.miou))
            winner = tuned if tuned.miou > winner.miou + LEAST_GAIN else winner
        for _ in range(3):
            grown = self.best(winner, [">".join(filter(None, (winner.chain, step))) for step in ADDITIONS])
            if grown is winner:
                break
            winner = grown
        return winner

    def _tuned(self, start: Trial) -> Trial:
        """Coordinate descent over a CRF's parameters."""
        winner = start
        for _ in range(2):
            before = winner
            for move in MOVES:
                crf = parse_chain(winner.chain).links[0].crf
                assert crf is not None
                winner = self.best(winner, [crf_text(changed) for changed in move(crf)])
            if winner is before:
                break
        return winner


def _scaled(kernel: str, index: int, factors: Sequence[float]) -> Callable[[DenseCRF], list[DenseCRF]]:
    def move(crf: DenseCRF) -> list[DenseCRF]:
        values = getattr(crf, kernel)
        changed = [tuple(v * f if i == index else v for i, v in enumerate(values)) for f in factors]
        changes: list[dict[str, Any]] = [{kernel: parameters} for parameters in changed]
        return [replace(crf, **change) for change in changes]

    return move


MOVES: tuple[Callable[[DenseCRF], list[DenseCRF]], ...] = (
    _scaled("appearance", 0, (0.5, 2.0)),
    _scaled("appearance", 2, (0.6, 1.6)),
    _scaled("appearance", 1, (0.5, 0.25)),
    _scaled("smoothness", 0, (0.5, 2.0)),
    _scaled("smoothness", 1, (0.6, 1.6)),
    lambda crf: [replace(crf, iterations=5), replace(crf, iterations=3)],
)
