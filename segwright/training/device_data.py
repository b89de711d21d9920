"""A dataset that fits into a device's memory: images and masks there as uint8, and random batches of them.

CamVid's 367 training images take 0.25 GB. What then travels to the device in training is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segwright.augment.device import DRAWS, ClassPlaces, DeviceTrainTransform, paste_classes
from segwright.augment.presets import TrainTransform
from segwright.core.errors import DataError
from segwright.core.types import IGNORE_INDEX
from segwright.data.records import Split
from segwright.kernels.threads import parallel_map


@dataclass(frozen=True)
class DeviceData:
    """``images`` (N, H, W, C) and ``masks`` (N, H, W), both uint8 on one device; ``ids`` (N)."""

    images: Tensor
    masks: Tensor
    ids: tuple[str, ...]

    @classmethod
    def of(cls, split: Split, device: torch.device | str, *, threads: int = 1) -> DeviceData:
        """Decode ``split`` with ``threads`` and move it to ``device``; an image without a mask is ignored throughout.

        DataError where the images are not of one size.
        """
        if len(split) == 0:
            raise DataError("the split is empty", where=split.name)
        images: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = [np.empty(0, np.uint8)] * len(split)
        masks = list(images)

        def decode(index: int) -> None:
            sample = split[index]
            images[index] = sample.image
            shape = sample.image.shape[:2]
            masks[index] = np.full(shape, IGNORE_INDEX, np.uint8) if sample.mask is None else sample.mask

        parallel_map(decode, [(index,) for index in range(len(split))], threads)
        odd = next((index for index, image in enumerate(images) if image.shape != images[0].shape), None)
        if odd is not None:
            raise DataError(
                "data on the device are of one size",
                expected="×".join(str(side) for side in images[0].shape),
                found="×".join(str(side) for side in images[odd].shape),
                where=split.ids[odd],
                fix="train from files, or bring the images to one size first",
            )
        stacked = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))
        return cls(stacked[0].to(device), stacked[1].to(device), split.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: Sequence[int]) -> DeviceData:
        """The images at ``indices``, as a copy on the same device."""
        chosen = torch.tensor(list(indices), dtype=torch.long).to(self.images.device)
        return DeviceData(self.images[chosen], self.masks[chosen], tuple(self.ids[int(i)] for i in indices))

    def batches(
        self, transform: TrainTransform, *, classes: int, batch: int, seed: int = 0, paste: float = 0.0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented batches without end: images (batch, h, w, C) uint8 and masks (batch, h, w) int64.

        Every image comes once before any comes again. ``paste``: share of the crops with half of the classes
        of the next crop of the batch. The same seed gives the same batches; order and random numbers come from the
        CPU's generator, an epoch at a time, so that no step waits for them.
        """
        device = self.images.device
        places = ClassPlaces.of(self.masks, classes, seed=seed) if transform.warp.class_aware else None
        augment = DeviceTrainTransform(transform, places)
        generator = torch.Generator().manual_seed(seed)
        rest = torch.empty(0, dtype=torch.long)
        while True:
            # Whole batches only: what is left over is carried into the next epoch.
            order = rest
            while len(order) < max(batch, len(self)):
                order = torch.cat([order, torch.randperm(len(self), generator=generator)])
            steps = len(order) // batch
            rest = order[steps * batch :]
            numbers = torch.rand((steps, batch, DRAWS), generator=generator).to(device)
            mixing = torch.rand((steps, batch, classes + 1), generator=generator).to(device) if paste else None
            indices = order[: steps * batch].reshape(steps, batch).to(device)
            for step in range(steps):
                chosen = indices[step]
                images, masks = augment(self.images[chosen], self.masks[chosen], numbers[step], chosen)
                if mixing is not None:
                    images, masks = paste_classes(images, masks, mixing[step], paste)
                yield images, masks.long()
