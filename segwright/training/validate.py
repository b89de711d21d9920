"""One pass over the validation split: the pooled confusion matrix, the loss, and a few images to look at.

When memory runs out, the pass goes on with half the images at a time, and then with images in windows: what was
trained before it is not lost to a validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from segwright.core.errors import OutOfMemoryError
from segwright.core.types import IGNORE_INDEX, Sample, blend
from segwright.data.records import Split, evenly_spread
from segwright.imageio import UInt8Array
from segwright.inference.sliding_window import Window, sliding_windows
from segwright.losses import create_loss
from segwright.losses.pixels import SegmentationLoss
from segwright.metrics.confusion import ConfusionMatrix, Float64Array, Scores
from segwright.models.base import SegmentationModel
from segwright.training.distributed.world import World
from segwright.training.planning.memory import is_out_of_memory

BATCH_PIXELS = 1_400_000  # pixels in a validation batch: 8 images of 480×360
CACHE_BYTES = 1 << 30
SHOWN = 3
MIN_WINDOW = 128  # pixels; where not even that fits, nothing does


@dataclass(frozen=True)
class Validation:
    """What a validation found."""

    scores: Scores
    loss: float  # the training's own, of the output; of whole images, as they are
    predicted_pixels: tuple[int, ...]  # a class: how many pixels were given it
    images: tuple[UInt8Array, ...]  # (H, W, 3): image, truth and prediction side by side


class Validator:
    """Validates a network on its share of ``split`` at the images' own size.

    ``pixels``: of a batch, at most, unless one image alone has more. ``window``: the largest side that is predicted
    at once; None: images are whole. Both shrink when memory runs out, with a line to ``say``. ``kept_bytes``: of
    images that stay decoded. ``criterion``: of the loss, as for :class:`segwright.training.train_step.TrainStep`,
    with its class weights and its treatment of ignored pixels; batches are weighted as parts of a training batch are.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        dtype: torch.dtype | None,
        world: World | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.split, self.device, self.dtype, self.say = split, device, dtype, say
        self.world = world or World()
        self.criterion: Callable[[Tensor, Tensor], Tensor] = create_loss("ce", classes=split.label_space.classes)
        self.indices = range(self.world.rank, len(split), self.world.size)
        self.shown = set(evenly_spread(len(split), SHOWN))
        self.cache: dict[int, Sample] = {}
        self.cached_bytes = 0
        self.kept_bytes = CACHE_BYTES
        self.pixels = BATCH_PIXELS
        self.window: int | None = None

    @torch.inference_mode()
    def __call__(self, model: SegmentationModel) -> Validation:
        was_training = model.training
        model.eval()
        confusion = ConfusionMatrix(self.split.label_space.classes)
        loss = self._no_loss()
        images: list[UInt8Array] = []
        for indices, samples in self._batches():
            predicted, batch_loss = self.predicted(model, samples)
            loss = loss + batch_loss
            for position, (index, sample) in enumerate(zip(indices, samples, strict=True)):
                if sample.mask is not None:
                    confusion.update(predicted[position], sample.mask)
                if index in self.shown:
                    images.append(self._image(sample, predicted[position]))
        model.train(was_training)
        total = self.world.sum(confusion.matrix)
        pooled = ConfusionMatrix(self.split.label_space.classes, total)
        return Validation(
            pooled.scores(),
            loss.over(self.world),
            tuple(int(count) for count in total.sum(axis=0)),
            tuple(images),
        )

    def predicted(self, model: SegmentationModel, samples: Sequence[Sample]) -> tuple[UInt8Array, _Loss]:
        """Labels (N, H, W) and the loss of images of one size.

        OutOfMemoryError where not even a window of one image fits.
        """
        try:
            return self._run(model, samples) if self._whole(samples[0]) else self._in_windows(model, samples)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        # Outside of the handler: the error's frames hold the tensors that filled the memory.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._shrink(samples, reason)
        half = max(1, len(samples) // 2)
        parts = [self.predicted(model, samples[i : i + half]) for i in range(0, len(samples), half)]
        labels = np.concatenate([part[0] for part in parts])
        return labels, sum((part[1] for part in parts), _Loss())

    def _whole(self, sample: Sample) -> bool:
        return self.window is None or max(sample.image.shape[:2]) <= self.window

    def _shrink(self, samples: Sequence[Sample], reason: str) -> None:
        """Half as many images at a time, or, where it is one, windows of half the side."""
        height, width = samples[0].image.shape[:2]
        if len(samples) > 1:
            self.pixels = min(self.pixels, len(samples) // 2 * height * width)
            self.say(f"out of memory in validation: from now on {len(samples) // 2} of {height}×{width} at a time")
            return
        side = min(self.window or max(height, width), max(height, width))
        if side <= MIN_WINDOW:
            raise OutOfMemoryError(
                "validation does not fit into memory",
                found=f"a window of {side} pixels on {self.device}: {reason.splitlines()[0] if reason else ''}",
                fix="a smaller network, more memory, or --device cpu; the last checkpoint is whole: --resume goes on",
            )
        self.window = max(MIN_WINDOW, side // 2 // 32 * 32)
        self.pixels = min(self.pixels, self.window**2)
        self.say(f"out of memory in validation: from now on in windows of {self.window}×{self.window}")

    def _run(self, model: SegmentationModel, samples: Sequence[Sample]) -> tuple[UInt8Array, _Loss]:
        logits = self._logits(model, np.stack([sample.image for sample in samples]))
        return logits.argmax(dim=1).to(torch.uint8).cpu().numpy(), self._loss(logits, [_mask(s) for s in samples])

    def _in_windows(self, model: SegmentationModel, samples: Sequence[Sample]) -> tuple[UInt8Array, _Loss]:
        """The same from windows seen with a margin, of which the inside counts."""
        assert self.window is not None
        labels = np.empty((len(samples), *samples[0].image.shape[:2]), np.uint8)
        loss = _Loss()
        for position, sample in enumerate(samples):
            height, width = sample.image.shape[:2]
            for part in sliding_windows(height, width, self.window, self.window // 8):
                seen = sample.image[None, part.top : part.bottom, part.left : part.right]
                logits = self._logits(model, np.ascontiguousarray(seen))[(..., *_inside(part))]
                kept = np.s_[part.core_top : part.core_bottom, part.core_left : part.core_right]
                labels[position][kept] = logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
                loss = loss + self._loss(logits, [_mask(sample)[kept]])
        return labels, loss

    def _logits(self, model: SegmentationModel, images: UInt8Array) -> Tensor:
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits: Tensor = model(torch.from_numpy(images).to(self.device)).logits
        return logits.float()

    def _loss(self, logits: Tensor, masks: Sequence[UInt8Array]) -> _Loss:
        target = torch.from_numpy(np.stack(masks)).to(self.device).long()
        criterion = self.criterion
        if isinstance(criterion, SegmentationLoss):
            return _Loss.of(criterion.values(logits, target), criterion.amounts(target.cpu()))
        labeled = (target != IGNORE_INDEX).sum().double()
        return _Loss.of(criterion(logits, target)[None] if labeled else logits.new_zeros(1), labeled[None])

    def _no_loss(self) -> _Loss:
        """With as many terms as the criterion has, on a process that validates nothing as well."""
        if not isinstance(self.criterion, SegmentationLoss):
            return _Loss()
        terms = len(self.criterion.amounts(torch.full((1, 1, 1), IGNORE_INDEX)))
        return _Loss(np.zeros(terms), np.zeros(terms))

    def _batches(self) -> Iterator[tuple[list[int], list[Sample]]]:
        """Runs of neighbors of one size, at most ``self.pixels`` together."""
        indices: list[int] = []
        samples: list[Sample] = []
        for index in self.indices:
            sample = self._sample(index)
            full = samples and (len(samples) + 1) * sample.image[..., 0].size > self.pixels
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
        if self.cached_bytes + size <= self.kept_bytes:
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
        """The loss of all that the processes saw."""
        means = [(world.mean(s), world.mean(a)) for s, a in zip(self.sums.tolist(), self.amounts.tolist(), strict=True)]
        return sum(total / amount for total, amount in means if amount > 0)


def _mask(sample: Sample) -> UInt8Array:
    """Its mask; all ignored where it has none."""
    return sample.mask if sample.mask is not None else np.full(sample.image.shape[:2], IGNORE_INDEX, np.uint8)


def _inside(part: Window) -> tuple[slice, slice]:
    """The part of a window's answer that is kept."""
    return (
        slice(part.core_top - part.top, part.core_bottom - part.top),
        slice(part.core_left - part.left, part.core_right - part.left),
    )
