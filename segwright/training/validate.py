"""A pass over the validation split: the pooled confusion matrix, the loss, and a few images to look at.

When memory runs out, the pass continues with half the images at a time, and then with images in windows, so that a
validation does not cost the training before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from segwright.core.errors import OutOfMemoryError
from segwright.core.types import IGNORE_INDEX, Sample, blend
from segwright.data.records import Split, evenly_spread
from segwright.imageio import UInt8Array
from segwright.inference.sliding_window import Window, sliding_windows
from segwright.losses import create_loss
from segwright.losses.base import SegmentationLoss
from segwright.metrics.confusion import ConfusionMatrix, Float64Array, Scores, nanmean
from segwright.models.base import SegmentationModel
from segwright.training.distributed.world import World
from segwright.training.planning.memory import is_out_of_memory
from segwright.training.train_step import Criterion

BATCH_PIXELS = 1_400_000  # pixels in a validation batch: 8 images of 480×360
CACHE_BYTES = 1 << 30
SHOWN = 3
PartOf = Callable[[str], str]
MIN_WINDOW = 128  # pixels; if not even that fits, nothing does


@dataclass(frozen=True)
class Validation:
    """The result of a validation."""

    scores: Scores
    decisive: float  # what weights are kept by: mIoU over classes with truth; of several parts, the mean of theirs
    loss: float  # the training's own, of the output; of whole images, as they are
    predicted_pixels: tuple[int, ...]  # per class: how many pixels were predicted as it
    images: tuple[UInt8Array, ...]  # (H, W, 3): image, truth and prediction side by side
    by_part: Mapping[str, float] = field(default_factory=dict)  # the mean IoU of each of several parts


@dataclass(frozen=True)
class Limits:
    """What is validated at once."""

    pixels: int = BATCH_PIXELS  # of a batch, at most, unless one image alone has more
    window: int | None = None  # the largest side that is predicted at once; None: whole images
    cache_bytes: int = CACHE_BYTES  # of decoded images that stay in memory

    def images(self, size: tuple[int, int]) -> int:
        """Images of ``size`` (height, width) at once."""
        return max(1, self.pixels // (size[0] * size[1]))


class Validator:
    """Validates a network on this rank's images of ``split`` at their own size.

    ``limits`` are lowered when memory runs out, with a line to ``message``. ``part_of``: the part of the split that an
    image of this id is of; the parts count alike in what decides, however many pixels each has.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        dtype: torch.dtype | None,
        world: World | None = None,
        message: Callable[[str], None] = lambda line: None,
        limits: Limits | None = None,
        part_of: PartOf | None = None,
    ) -> None:
        self.split, self.device, self.dtype, self.message = split, device, dtype, message
        self.world = world or World()
        self.cross_entropy = create_loss("ce", classes=split.label_space.classes)
        self.indices = range(self.world.rank, len(split), self.world.size)
        self.shown = set(evenly_spread(len(split), SHOWN))
        self.cache: dict[int, Sample] = {}
        self.cached_bytes = 0
        self.limits = limits or Limits()
        names = [part_of(record.id) if part_of is not None else "" for record in split.records]
        numbers = {name: number for number, name in enumerate(sorted(set(names)))}
        self.parts, self.part_names = [numbers[name] for name in names], tuple(numbers)

    @torch.inference_mode()
    def __call__(self, model: SegmentationModel, criterion: Criterion | None = None) -> Validation:
        """Validate ``model``; all ranks have to call this.

        ``criterion``: of the loss, cross-entropy by default, with its class weights and ignored pixels; batches are
        weighted as the micro-batches of a training batch are.
        """
        criterion = criterion or self.cross_entropy
        was_training = model.training
        model.eval()
        confusions = [ConfusionMatrix(self.split.label_space.classes) for _ in range(max(self.parts, default=0) + 1)]
        loss = _no_loss(criterion)
        images: list[UInt8Array] = []
        for indices, samples in self._batches():
            predicted, batch_loss = self.predicted(model, samples, criterion)
            loss = loss + batch_loss
            for position, (index, sample) in enumerate(zip(indices, samples, strict=True)):
                if sample.mask is not None:
                    confusions[self.parts[index]].update(predicted[position], sample.mask)
                if index in self.shown:
                    images.append(self._image(sample, predicted[position]))
        model.train(was_training)
        matrices = self.world.sum(np.stack([one.matrix for one in confusions]))
        total = matrices.sum(axis=0)
        of_parts = [ConfusionMatrix(len(matrix), matrix).scores().labeled_miou for matrix in matrices]
        return Validation(
            ConfusionMatrix(self.split.label_space.classes, total).scores(),
            nanmean(np.array(of_parts)),
            loss.over(self.world),
            tuple(int(count) for count in total.sum(axis=0)),
            tuple(images),
            dict(zip(self.part_names, of_parts, strict=True)) if len(of_parts) > 1 else {},
        )

    def predicted(
        self, model: SegmentationModel, samples: Sequence[Sample], criterion: Criterion | None = None
    ) -> tuple[UInt8Array, _Loss]:
        """Labels (N, H, W) and the loss of images of one size.

        OutOfMemoryError if not even a window of one image fits.
        """
        criterion = criterion or self.cross_entropy
        try:
            run = self._run if self._fits_whole(samples[0]) else self._in_windows
            return run(model, samples, criterion)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        # Outside of the handler: the error's frames hold the tensors that filled the memory.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._shrink(samples, reason)
        half = max(1, len(samples) // 2)
        parts = [self.predicted(model, samples[i : i + half], criterion) for i in range(0, len(samples), half)]
        labels = np.concatenate([part[0] for part in parts])
        return labels, sum((part[1] for part in parts), _Loss())

    def _fits_whole(self, sample: Sample) -> bool:
        return self.limits.window is None or max(sample.image.shape[:2]) <= self.limits.window

    def _shrink(self, samples: Sequence[Sample], reason: str) -> None:
        """Lower the limits to half as many images at a time or, from one image on, to windows of half the side."""
        limits = self.limits
        height, width = samples[0].image.shape[:2]
        if len(samples) > 1:
            self.limits = replace(limits, pixels=min(limits.pixels, len(samples) // 2 * height * width))
            self.message(f"out of memory in validation: from now on {len(samples) // 2} of {height}×{width} at a time")
            return
        side = min(limits.window or max(height, width), max(height, width))
        if side <= MIN_WINDOW:
            raise OutOfMemoryError(
                "validation does not fit into memory",
                found=f"a window of {side} pixels on {self.device}: {reason.splitlines()[0] if reason else ''}",
                fix="a smaller network, more memory, or --device cpu; the last checkpoint is whole: --resume goes on",
            )
        window = max(MIN_WINDOW, side // 2 // 32 * 32)
        self.limits = replace(limits, window=window, pixels=min(limits.pixels, window**2))
        self.message(f"out of memory in validation: from now on in windows of {window}×{window}")

    def _run(
        self, model: SegmentationModel, samples: Sequence[Sample], criterion: Criterion
    ) -> tuple[UInt8Array, _Loss]:
        logits = self._logits(model, np.stack([sample.image for sample in samples]))
        return logits.argmax(dim=1).to(torch.uint8).cpu().numpy(), self._loss(
            logits, [_mask(s) for s in samples], criterion
        )

    def _in_windows(
        self, model: SegmentationModel, samples: Sequence[Sample], criterion: Criterion
    ) -> tuple[UInt8Array, _Loss]:
        """As :meth:`_run`, from windows with a margin, of which the inside counts."""
        window = self.limits.window or max(samples[0].image.shape[:2])
        labels = np.empty((len(samples), *samples[0].image.shape[:2]), np.uint8)
        loss = _Loss()
        for position, sample in enumerate(samples):
            height, width = sample.image.shape[:2]
            for part in sliding_windows(height, width, window, window // 8):
                seen = sample.image[None, part.top : part.bottom, part.left : part.right]
                logits = self._logits(model, np.ascontiguousarray(seen))[(..., *_inside(part))]
                kept = np.s_[part.core_top : part.core_bottom, part.core_left : part.core_right]
                labels[position][kept] = logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
                loss = loss + self._loss(logits, [_mask(sample)[kept]], criterion)
        return labels, loss

    def _logits(self, model: SegmentationModel, images: UInt8Array) -> Tensor:
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits: Tensor = model(torch.from_numpy(images).to(self.device)).logits
        return logits.float()

    def _loss(self, logits: Tensor, masks: Sequence[UInt8Array], criterion: Criterion) -> _Loss:
        target = torch.from_numpy(np.stack(masks)).to(self.device).long()
        if isinstance(criterion, SegmentationLoss):
            return _Loss.of(criterion.values(logits, target), criterion.amounts(target.cpu()))
        labeled = (target != IGNORE_INDEX).sum().double()
        return _Loss.of(criterion(logits, target)[None] if labeled else logits.new_zeros(1), labeled[None])

    def _batches(self) -> Iterator[tuple[list[int], list[Sample]]]:
        """Consecutive images of one size, as many as the limits allow."""
        indices: list[int] = []
        samples: list[Sample] = []
        for index in self.indices:
            sample = self._sample(index)
            full = samples and (len(samples) + 1) * sample.image[..., 0].size > self.limits.pixels
            if samples and (full or sample.image.shape != samples[0].image.shape):
                yield indices, samples
                indices, samples = [], []
            indices.append(index)
            samples.append(sample)
        if samples:
            yield indices, samples

    def _sample(self, index: int) -> Sample:
        if index in self.cache:
            return self.cache[index]
        sample = self.split[index]
        size = sample.image.nbytes + (0 if sample.mask is None else sample.mask.nbytes)
        if self.cached_bytes + size <= self.limits.cache_bytes:
            self.cache[index] = sample
            self.cached_bytes += size
        return sample

    def _image(self, sample: Sample, predicted: UInt8Array) -> UInt8Array:
        palette = self.split.label_space.palette()
        image = sample.image if sample.image.shape[2] == 3 else np.repeat(sample.image[..., :1], 3, axis=2)
        truth = image if sample.mask is None else blend(image, palette[sample.mask], 0.6)
        return np.concatenate([image, truth, blend(image, palette[predicted], 0.6)], axis=1)


@dataclass(frozen=True)
class _Loss:
    """A loss of several batches. Of each term, (T,): Σ value · amount, and Σ amount (what its mean is over)."""

    sums: Float64Array = field(default_factory=lambda: np.zeros(1))
    amounts: Float64Array = field(default_factory=lambda: np.zeros(1))

    @classmethod
    def of(cls, values: Tensor, amounts: Tensor) -> _Loss:
        over = amounts.double().cpu().numpy()
        return cls(values.detach().double().cpu().numpy() * over, over)

    def __add__(self, other: _Loss) -> _Loss:
        return _Loss(self.sums + other.sums, self.amounts + other.amounts)

    def over(self, world: World) -> float:
        """The loss of the images of all ranks."""
        means = [(world.mean(s), world.mean(a)) for s, a in zip(self.sums.tolist(), self.amounts.tolist(), strict=True)]
        return sum(total / amount for total, amount in means if amount > 0)


def _no_loss(criterion: Criterion) -> _Loss:
    """With as many terms as the criterion has, also on a rank without images."""
    if not isinstance(criterion, SegmentationLoss):
        return _Loss()
    terms = len(criterion.amounts(torch.full((1, 1, 1), IGNORE_INDEX)))
    return _Loss(np.zeros(terms), np.zeros(terms))


def _mask(sample: Sample) -> UInt8Array:
    """The mask of a sample; all ignored if it has none."""
    return sample.mask if sample.mask is not None else np.full(sample.image.shape[:2], IGNORE_INDEX, np.uint8)


def _inside(part: Window) -> tuple[slice, slice]:
    """The part of a window's prediction that is kept."""
    return (
        slice(part.core_top - part.top, part.core_bottom - part.top),
        slice(part.core_left - part.left, part.core_right - part.left),
    )
