"""Search a pipeline of post-processing on validation data, and keep it only where it provably helps.

The network runs once over the images; its probabilities are cached on disk (float16). The images are split in two
by alternating blocks (neighbors in a sequence stay together): pipelines are searched on the one half, and the winner's
gain is measured on the other, which the search has never seen. A gain whose 95 % interval (paired bootstrap, pooled
confusion matrices) does not lie above zero is no gain: nothing is kept, and the result states that.

Frames of one sequence err together. Where there are many sequences the bootstrap draws whole ones; where there are few,
runs of consecutive frames, as long as the cube root of their number (Künsch 1989, the block bootstrap).

Everything happens within ``minutes``: the network's pass takes at most two fifths of it, over images spread evenly
whenever it has to stop; of the rest, what confirming the best pipeline so far would take is set aside.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segwright.core.counted import as_sentence, counted
from segwright.core.deprecated import renamed_attribute, renamed_names, renamed_parameters
from segwright.core.errors import DataError, PostprocessError
from segwright.core.progress import progress
from segwright.core.types import Float32Array, LabelSpace
from segwright.evaluation.evaluate import match_label_spaces, to_model_indices
from segwright.imageio import UInt8Array
from segwright.inference.prediction import Prediction
from segwright.metrics.bootstrap import paired_difference
from segwright.metrics.confusion import class_counts, count_pairs, labeled_miou
from segwright.postprocess.crf import DenseCRF
from segwright.postprocess.pipeline import Pipeline, crf_text, parse_pipeline

CACHE_BYTES = 4_000_000_000
BLOCKS = 8  # four for the search, four to confirm, taking turns
LEAST_GAIN = 1e-4  # mIoU: what a longer pipeline must add on the search half to be preferred
LEAST_IMAGES = 4
LEAST_SEQUENCES = 8  # with fewer, an interval over sequences is meaningless
LEAST_DRAWN = 5  # fewer all gain by chance in one case of sixteen or more
PREDICTING_SHARE = 0.4  # of the time

STARTS = (
    "crf(deeplab-v1)", "crf(deeplab-v2-vgg)", "crf(deeplab-v2-r101)",
    "min-area(32)", "min-area(128)", "fill-holes(64)", "smooth(5)", "close(3)", "superpixels(8)",
)  # fmt: skip
ADDITIONS = ("min-area(32)", "min-area(128)", "fill-holes(64)", "close(3)", "open(3)", "smooth(3)", "smooth(7)")


class PredictorProtocol(Protocol):
    """What the search needs of a predictor: no post-processing of its own."""

    @property
    def label_space(self) -> LabelSpace: ...
    def predict(self, image: UInt8Array, *, probabilities: bool = False) -> Prediction: ...


class ImageSource(Protocol):
    """What the search needs of a split."""

    @property
    def label_space(self) -> LabelSpace: ...
    def __len__(self) -> int: ...
    def read_image(self, index: int, /) -> UInt8Array: ...
    def read_mask(self, index: int, /) -> UInt8Array | None: ...


@dataclass(frozen=True)
class Trial:
    """One pipeline on the search half: its pooled mIoU (0…1) over the classes that the images hold, and its cost."""

    pipeline: str
    miou: float
    milliseconds: float

    chain = renamed_attribute("chain", "pipeline")


@dataclass(frozen=True)
class PostprocessingStudy:
    """What the search found. mIoU values are 0…1; ``gain``, ``low`` and ``high`` are measured on the confirm half."""

    pipeline: str  # the winner of the search, kept or not; '' where nothing beat the network alone
    kept: bool
    gain: float
    low: float
    high: float  # the 95 % interval of the gain; NaN where there is too little to draw from
    milliseconds: float  # an image, on this machine
    baseline_miou: float
    tuned_miou: float
    search_images: int
    confirm_images: int
    trials: tuple[Trial, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    size: str = ""  # height×width of the first image, which the milliseconds are for

    chain = renamed_attribute("chain", "pipeline")

    @property
    def summary(self) -> str:
        """The result in a sentence or two."""
        if not self.pipeline:
            text = "No pipeline beat the network alone on the search half: nothing is kept."
        else:
            known = not math.isnan(self.low)
            interval = f" (95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f})" if known else ""
            size = f" of {self.size}" if self.size else ""
            figures = (
                f"{100 * self.gain:+.2f} mIoU{interval} on {counted(self.confirm_images, 'image')} the search "
                "had not seen, "
                f"{self.milliseconds:.0f} ms per image{size}"
            )
            verdict = (
                f"Kept {self.pipeline}" if self.kept else f"Nothing is kept: the best pipeline was {self.pipeline}"
            )
            doubt = "the interval includes no gain" if known else "too few images to tell it from chance"
            reason = "" if self.kept else f"; {doubt}"
            text = f"{verdict}: {figures}{reason}."
        return " ".join([text, *self.notes])

    def to_json(self) -> dict[str, Any]:
        return {
            "pipeline": self.pipeline, "chain": self.pipeline, "kept": self.kept, "gain": self.gain,
            "gain_ci95": None if math.isnan(self.low) else [self.low, self.high],
            "milliseconds": self.milliseconds, "size": self.size,
            "baseline_miou": self.baseline_miou, "tuned_miou": self.tuned_miou,
            "search_images": self.search_images, "confirm_images": self.confirm_images,
            "trials": [vars(trial) for trial in self.trials], "notes": list(self.notes),
        }  # fmt: skip


@renamed_parameters(chains="pipelines")
def tune_post(
    predictor: PredictorProtocol,
    split: ImageSource,
    *,
    minutes: float = 10.0,
    pipelines: Iterable[str] = (),
    groups: Sequence[object] | None = None,
    cache_bytes: int = CACHE_BYTES,
    folder: str | Path | None = None,
) -> PostprocessingStudy:
    """Search pipelines for ``predictor`` (its own post-processing off) on ``split``.

    ``minutes`` bounds the whole; ``pipelines`` adds starting points; ``groups`` names each image's sequence, so that
    what errs together is drawn together in the bootstrap; ``folder`` is where the cache goes (the system's temporary
    folder; removed at the end). The data's classes are brought to the predictor's by name. DataError where fewer than
    four images have masks, LabelError if the classes do not fit.
    """
    names = predictor.label_space.names
    begun = time.monotonic()
    until = begun + 60 * minutes
    starts = [str(parse_pipeline(text, names)) for text in pipelines]  # refused before the network runs
    with tempfile.TemporaryDirectory(dir=folder, prefix="segwright-post-") as place:
        cache = _Cache.fill(predictor, split, Path(place), cache_bytes, begun + 60 * minutes * PREDICTING_SHARE)
        search, confirm = _halves(len(cache.indices))
        _load_kernels(len(names))
        found = _Search(cache, search, names, until, len(confirm))
        winner = found.run([*starts, *STARTS])
        notes = cache.notes
        if found.cut:
            notes += (
                f"The search stopped at its limit of {minutes:g} {'minute' if minutes == 1 else 'minutes'}, after "
                f"{len(found.trials) - 1} pipelines.",
            )
        baseline = found.trials[""]
        counted = PostprocessingStudy(
            pipeline="", kept=False, gain=0.0, low=0.0, high=0.0, milliseconds=0.0,
            baseline_miou=baseline.miou, tuned_miou=baseline.miou, search_images=len(search),
            confirm_images=len(confirm), trials=tuple(found.trials.values()), notes=notes, size=cache.size,
        )  # fmt: skip
        if winner.miou <= baseline.miou + LEAST_GAIN:
            return counted
        before, _ = cache.counts(Pipeline(), confirm)
        after, milliseconds = cache.counts(parse_pipeline(winner.pipeline, names), confirm)
        sequences = None if groups is None else [groups[cache.indices[i]] for i in confirm]
        drawn = drawn_together(sequences, confirm)
        difference = paired_difference(before, after, groups=drawn)
        enough = len(set(drawn)) >= LEAST_DRAWN
        return replace(
            counted, pipeline=winner.pipeline, kept=bool(enough and difference.low > 0), gain=difference.difference,
            low=difference.low if enough else math.nan, high=difference.high if enough else math.nan,
            milliseconds=milliseconds, baseline_miou=difference.miou_a, tuned_miou=difference.miou_b,
        )  # fmt: skip


def _load_kernels(classes: int) -> None:
    """Compile what pipelines run, or load it: the first trial would be charged with it, or abandoned."""
    image, p = np.zeros((16, 16, 3), np.uint8), np.full((classes, 16, 16), 1 / classes, np.float32)
    parse_pipeline("crf(iterations=2)>superpixels(8)")(image, p)


def drawn_together(sequences: Sequence[object] | None, numbers: Sequence[int]) -> list[object]:
    """Which of the images ``numbers`` (in the order of the data) the bootstrap draws as one: a group for each.

    ``sequences`` None: every image by itself. At least ``LEAST_SEQUENCES`` of them: whole sequences. Fewer: runs of
    consecutive images of one sequence, of the cube root of the number of images.
    """
    if sequences is None:
        return list(numbers)
    if len(set(sequences)) >= LEAST_SEQUENCES:
        return list(sequences)
    length = max(1, round(len(numbers) ** (1 / 3)))
    groups: list[object] = []
    run, size = -1, 0
    for place, (sequence, number) in enumerate(zip(sequences, numbers, strict=True)):
        follows = place > 0 and sequences[place - 1] == sequence and numbers[place - 1] == number - 1
        if not follows or size == length:
            run, size = run + 1, 0
        size += 1
        groups.append(run)
    return groups


@dataclass(frozen=True)
class _Cache:
    """The network's probabilities on disk, and the split they belong to."""

    split: ImageSource
    classes: int
    indices: tuple[int, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    to_model: UInt8Array | None  # (256,) from the data's class index to the predictor's; None if they agree
    size: str

    @classmethod
    def fill(cls, predictor: PredictorProtocol, split: ImageSource, folder: Path, limit: int, until: float) -> _Cache:
        table, note = match_label_spaces(predictor.label_space, split.label_space)
        notes: tuple[str, ...] = (as_sentence(note),) if note else ()
        candidates = [i for i in range(len(split)) if split.read_mask(i) is not None]
        if len(candidates) < LEAST_IMAGES:
            raise DataError(
                "too few images with masks to tune on",
                expected="at least 4, better 50: half to search, half to confirm",
                found=str(len(candidates)),
                fix="tune on a larger split",
            )
        classes = predictor.label_space.classes
        height, width = split.read_image(candidates[0]).shape[:2]
        room = min(len(candidates), max(LEAST_IMAGES, int(limit // max(1, height * width * classes * 2))))
        files: dict[int, Path] = {}
        with progress("Predicting", room) as advance:
            for index in [candidates[place] for place in _spread(len(candidates))][:room]:
                if len(files) >= LEAST_IMAGES and time.monotonic() > until:
                    break
                found = predictor.predict(split.read_image(index), probabilities=True).probabilities
                if found is None:
                    raise PostprocessError("the predictor gives no probabilities", fix="tune the model, not an export")
                files[index] = folder / f"{index}.npy"
                np.save(files[index], found.astype(np.float16))
                advance(1)
        if len(files) < len(candidates):
            reason = f"the cache is limited to {limit / 1e9:.1f} GB" if len(files) == room else "the time was too short"
            notes += (f"{len(files)} of {len(candidates)} images were used: {reason}.",)
        used = sorted(files)
        paths = tuple(files[i] for i in used)
        return cls(split, classes, tuple(used), paths, notes, to_model_indices(table), f"{height}×{width}")

    def image(self, i: int) -> tuple[UInt8Array, UInt8Array, Float32Array]:
        image, mask = self.split.read_image(self.indices[i]), self.split.read_mask(self.indices[i])
        assert mask is not None  # fill() took only those that have one
        mask = mask if self.to_model is None else self.to_model[mask]
        return image, mask, np.load(self.files[i]).astype(np.float32)

    def counts(
        self, pipeline: Pipeline, numbers: Sequence[int], until: float = math.inf
    ) -> tuple[np.ndarray[Any, Any], float]:
        """Class counts (N, 3, K) of the pipeline's labels and its median milliseconds per image; _OutOfTimeError if
        that is not done by ``until``."""
        rows, seconds = [], []
        for i in numbers:
            if time.monotonic() > until:
                raise _OutOfTimeError
            image, mask, probabilities = self.image(i)
            start = time.perf_counter()
            labels, _ = pipeline(image, probabilities)
            seconds.append(time.perf_counter() - start)
            rows.append(class_counts(count_pairs(labels, mask, self.classes)))
        return np.stack(rows), 1000 * float(np.median(seconds))


class _OutOfTimeError(Exception):
    """A trial that was not finished in time; internal to this module."""


def _spread(count: int) -> list[int]:
    """0…count-1 in an order whose every beginning is spread over the whole: the bits of a counter, reversed."""
    bits = max(1, (count - 1).bit_length())
    order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits)]
    return [i for i in order if i < count]


def _halves(count: int) -> tuple[list[int], list[int]]:
    """Alternating blocks: (to search on, to confirm on)."""
    blocks = np.array_split(np.arange(count), min(BLOCKS, count))
    return [int(i) for b in blocks[::2] for i in b], [int(i) for b in blocks[1::2] for i in b]


class _Search:
    """Greedy: the best start, then each parameter of its CRF up and down, then steps added, then taken away again."""

    def __init__(
        self, cache: _Cache, numbers: Sequence[int], names: Sequence[str], until: float, to_confirm: int
    ) -> None:
        self.cache, self.numbers, self.names, self.until, self.to_confirm = cache, numbers, names, until, to_confirm
        self.trials: dict[str, Trial] = {}
        self.seconds: dict[str, float] = {}  # of a trial, an image, reading included
        self.cut = False  # whether time ran out
        self.advance: Callable[[int], None] = lambda count: None

    def score(self, text: str, until: float = math.inf) -> Trial:
        pipeline = parse_pipeline(text, self.names)
        key = str(pipeline)
        if key not in self.trials:
            started = time.monotonic()
            counts, milliseconds = self.cache.counts(pipeline, self.numbers, until)
            self.seconds[key] = (time.monotonic() - started) / len(self.numbers)
            self.trials[key] = Trial(key, labeled_miou(counts), milliseconds)
            self.advance(1)
        return self.trials[key]

    def deadline(self, winner: Trial) -> float:
        """Until when a trial must be over, so that the winner so far, or the trial's own pipeline, can be confirmed."""
        now, alone = time.monotonic(), self.to_confirm * self.seconds[""]
        for_own = (self.until - alone - now) * len(self.numbers) / (len(self.numbers) + self.to_confirm)
        return min(self.until - alone - self.to_confirm * self.seconds[winner.pipeline], now + for_own)

    def best(self, start: Trial, texts: Iterable[str]) -> Trial:
        winner = start
        for text in texts:
            try:
                trial = self.score(text, self.deadline(winner))
            except _OutOfTimeError:
                self.cut = True
                break
            if trial.miou > winner.miou + LEAST_GAIN:
                winner = trial
        return winner

    def run(self, starts: Sequence[str]) -> Trial:
        winner = self.best(self.score(""), starts[:1])
        with progress("Searching pipelines", self.expected(len(starts))) as self.advance:
            return self._searched(winner, starts[1:])

    def expected(self, starts: int) -> int:
        """How many pipelines will be tried at most: all of the search's steps, or what the time is enough for."""
        steps = starts - 1 + 2 * sum(len(move(DenseCRF())) for move in MOVES) + 3 * len(ADDITIONS)
        seconds = len(self.numbers) * float(np.mean(list(self.seconds.values())))
        return max(1, min(steps, int((self.until - time.monotonic()) / max(seconds, 1e-6))))

    def _searched(self, winner: Trial, starts: Sequence[str]) -> Trial:
        winner = self.best(winner, starts)
        crfs = [
            trial for trial in self.trials.values() if trial.pipeline.startswith("crf(") and ">" not in trial.pipeline
        ]
        if crfs:
            tuned = self._tuned(max(crfs, key=lambda trial: trial.miou))
            winner = tuned if tuned.miou > winner.miou + LEAST_GAIN else winner
        for _ in range(3):
            grown = self.best(winner, [">".join(filter(None, (winner.pipeline, step))) for step in ADDITIONS])
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
                crf = parse_pipeline(winner.pipeline).steps[0].crf
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

__getattr__ = renamed_names(__name__, {"TuningResult": "PostprocessingStudy"})
