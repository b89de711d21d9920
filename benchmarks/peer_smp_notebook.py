"""The peer as published: the training of segmentation_models_pytorch's CamVid notebook (fp32, contiguous, no workers).

Same network as ours (U-Net, mobilenetv2_100 of timm), its dataset class's reading and remapping, its augmentation,
its Dice loss, Adam 2e-4 with a cosine of 50 steps. Only the crop differs (352×480 instead of 320×320), so that all
contestants work on images of one size. Run through ``benchmarks/train.py``; called alone it prints its own rate.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np

SIZE = (352, 480)
VOID = 11


def augmentation() -> Any:
    """The notebook's composition."""
    import albumentations as A

    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.ShiftScaleRotate(scale_limit=0.5, rotate_limit=0, shift_limit=0.1, p=1, border_mode=0),
            A.PadIfNeeded(min_height=SIZE[0], min_width=SIZE[1]),
            A.RandomCrop(height=SIZE[0], width=SIZE[1]),
            A.GaussNoise(p=0.2),
            A.Perspective(p=0.5),
            A.OneOf([A.CLAHE(p=1), A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)], p=0.9),
            A.OneOf([A.Sharpen(p=1), A.Blur(blur_limit=3, p=1), A.MotionBlur(blur_limit=3, p=1)], p=0.9),
            A.OneOf([A.RandomBrightnessContrast(p=1), A.HueSaturationValue(p=1)], p=0.9),
        ]
    )


def files(data: Path) -> list[tuple[str, str]]:
    names = sorted(path.name for path in (data / "train").iterdir())
    return [(str(data / "train" / name), str(data / "trainannot" / name)) for name in names]


def dataset(pairs: list[tuple[str, str]]) -> Any:
    import cv2
    import torch

    augment = augmentation()

    class CamVid(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(pairs)

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            image = cv2.cvtColor(cv2.imread(pairs[index][0]), cv2.COLOR_BGR2RGB)
            mask = cv2.imread(pairs[index][1], 0)
            remapped = np.zeros_like(mask)
            for value in range(VOID):  # class by class, void becoming 0, as the notebook does it
                remapped[mask == value] = value + 1
            sample = augment(image=image, mask=remapped)
            return sample["image"].transpose(2, 0, 1), sample["mask"]

    return CamVid()


def contestant(data: Path, batch: int) -> Callable[[], int]:
    """A function that takes one update and returns the number of images in it."""
    import segmentation_models_pytorch as smp
    import torch

    model = smp.Unet("tu-mobilenetv2_100", encoder_weights=None, in_channels=3, classes=VOID + 1).train()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    criterion = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, from_logits=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=1e-5)
    loader = torch.utils.data.DataLoader(dataset(files(data)), batch_size=batch, shuffle=True, drop_last=True)

    def batches() -> Any:
        while True:
            yield from loader

    source = batches()

    def step() -> int:
        image, mask = next(source)
        logits = model((image / 255.0 - mean) / std).contiguous()
        mask = mask.long()
        loss = criterion(logits, mask)
        # Its module also counts true and false positives of every step, for its epoch's metrics.
        labels = logits.softmax(dim=1).argmax(dim=1)
        smp.metrics.get_stats(labels, mask, mode="multiclass", num_classes=VOID + 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        float(loss.detach())
        return batch

    return step


if __name__ == "__main__":
    from train import run_alone

    run_alone(contestant)
