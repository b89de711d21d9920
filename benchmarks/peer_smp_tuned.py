"""The peer made fast by hand: segmentation_models_pytorch's U-Net with everything an expert would switch on.

channels_last, bf16 autocast where the CPU has it natively (elsewhere fp32, which is then faster), fused AdamW,
cross-entropy, light augmentation by albumentations (flip, scale 0.6–1.6, crop), one worker process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from peer_smp_notebook import SIZE, VOID, files

from segwright.training.planning.cpu import has_native_bf16


def dataset(pairs: list[tuple[str, str]]) -> Any:
    import albumentations as A
    import cv2
    import torch

    augment = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.RandomScale(scale_limit=(-0.4, 0.6), p=1),
            A.PadIfNeeded(*SIZE, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=255),
            A.RandomCrop(*SIZE),
            A.ColorJitter(p=1),
            A.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    class CamVid(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(pairs)

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            cv2.setNumThreads(1)
            image = cv2.cvtColor(cv2.imread(pairs[index][0]), cv2.COLOR_BGR2RGB)
            mask = cv2.imread(pairs[index][1], 0)
            mask[mask == VOID] = 255
            sample = augment(image=image, mask=mask)
            return torch.from_numpy(sample["image"].transpose(2, 0, 1)), torch.from_numpy(sample["mask"]).long()

    return CamVid()


def contestant(data: Path, batch: int) -> Callable[[], int]:
    """A function that takes one update and returns the number of images in it."""
    import segmentation_models_pytorch as smp
    import torch
    import torch.nn.functional as F

    model = smp.Unet("tu-mobilenetv2_100", encoder_weights=None, in_channels=3, classes=VOID).train()
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    loader = torch.utils.data.DataLoader(
        dataset(files(data)), batch_size=batch, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True
    )
    bf16 = has_native_bf16()

    def batches() -> Any:
        while True:
            yield from loader

    source = batches()

    def step() -> int:
        image, mask = next(source)
        image = image.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(image)
        loss = F.cross_entropy(logits.float(), mask, ignore_index=255)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        float(loss.detach())
        return batch

    return step


if __name__ == "__main__":
    from train import run_alone

    run_alone(contestant)
