"""One pass over the validation split: the pooled confusion matrix, the loss, and a few pictures to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from segwright.data.dataset import Split
from segwright.images import UInt8Array
from segwright.metrics.confusion import ConfusionMatrix, Scores
from segwright.models.segmenter import SegmentationModel
from segwright.training.distributed import World
from segwright.types import IGNORE_INDEX, Sample, blend

BATCH_PIXELS = 1_400_000  # pixels in a validation batch: 8 pictures of 480×360
CACHE_BYTES = 1 << 30
SHOWN = 3


@dataclass(frozen=True)
class Validation:
    """What a validation found."""

    scores: Scores
    loss: float  # mean cross-entropy over the labelled pixels
    predicted_pixels: tuple[int, ...]  # a class: how many pixels were given it
    pictures: tuple[UInt8Array, ...]  # (H, W, 3): picture, truth and prediction side by side


class Validator:
    """Validates a network on its share of ``split`` at the pictures' own size; up to 1 GiB of them stay decoded."""

    def __init__(
        self, split: Split, device: torch.device, dtype: torch.dtype | None, world: World | None = None
    ) -> None:
        self.split, self.device, self.dtype = split, device, dtype
        self.world = world or World()
        self.indices = range(self.world.rank, len(split), self.world.size)
        self.shown = set(np.linspace(0, len(split) - 1, SHOWN).round().astype(int).tolist()) if len(split) else set()
        self.cache: dict[int, Sample] = {}
        self.cached_bytes = 0
        self.pixels = BATCH_PIXELS

    @torch.inference_mode()
    def __call__(self, model: SegmentationModel) -> Validation:
        was_training = model.training
        model.eval()
        confusion = ConfusionMatrix(self.split.label_space.classes)
        loss = labelled = 0.0
        pictures: list[UInt8Array] = []
        for indices, samples in self._batches():
            predicted, batch_loss, batch_labelled = self._run(model, samples)
            loss, labelled = loss + batch_loss, labelled + batch_labelled
            for position, (index, sample) in enumerate(zip(indices, samples, strict=True)):
                if sample.mask is not None:
                    confusion.update(predicted[position], sample.mask)
                if index in self.shown:
                    pictures.append(self._picture(sample, predicted[position]))
        model.train(was_training)
        total = self.world.sum(confusion.matrix)
        pooled = ConfusionMatrix(self.split.label_space.classes, total)
        return Validation(
            pooled.scores(),
            self.world.mean(loss) / max(self.world.mean(labelled), 1.0),
            tuple(int(count) for count in total.sum(axis=0)),
            tuple(pictures),
        )

    def _run(self, model: SegmentationModel, samples: Sequence[Sample]) -> tuple[UInt8Array, float, float]:
        images = torch.from_numpy(np.stack([sample.image for sample in samples])).to(self.device)
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits = model(images).logits
        logits = logits.float()
        predicted = logits.argmax(dim=1)
        masks = [s.mask if s.mask is not None else np.full(s.image.shape[:2], IGNORE_INDEX, np.uint8) for s in samples]
        target = torch.from_numpy(np.stack(masks)).to(self.device).long()
        known = target != IGNORE_INDEX
        picked = logits.gather(1, target.where(known, 0)[:, None])[:, 0]
        negative = (torch.logsumexp(logits, dim=1) - picked)[known]
        return predicted.to(torch.uint8).cpu().numpy(), float(negative.sum()), float(known.sum())

    def _batches(self) -> Iterator[tuple[list[int], list[Sample]]]:
        """Runs of neighbours of one size, at most ``self.pixels`` together."""
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
        if self.cached_bytes + size <= CACHE_BYTES:
            self.cache[index] = sample
            self.cached_bytes += size
        return sample

    def _picture(self, sample: Sample, predicted: UInt8Array) -> UInt8Array:
        palette = self.split.label_space.palette()
        image = sample.image if sample.image.shape[2] == 3 else np.repeat(sample.image[..., :1], 3, axis=2)
        truth = image if sample.mask is None else blend(image, palette[sample.mask], 0.6)
        return np.concatenate([image, truth, blend(image, palette[predicted], 0.6)], axis=1)
