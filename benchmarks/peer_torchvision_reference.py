"""torchvision's reference script's step (references/segmentation/train.py) around the same U-Net.

Its preset (random resize, flip, crop, to float, normalize; v2 transforms on tensors), its loss (cross-entropy ignoring
255), SGD 0.01 with momentum 0.9 and weight decay 1e-4, its polynomial schedule every step, its meter that reads the
loss back every step. Images read by Pillow, as its datasets do. Its 16 worker processes make no sense on two cores:
one is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peer_smp_notebook import SIZE, VOID, files


def dataset(pairs: list[tuple[str, str]]) -> Any:
    import torch
    from PIL import Image
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResize(min_size=SIZE[0] // 2, max_size=2 * SIZE[0], antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomCrop(SIZE, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    class CamVid(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(pairs)

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            mask = np.array(Image.open(pairs[index][1]))
            mask[mask == VOID] = 255
            image, target = transform(Image.open(pairs[index][0]).convert("RGB"), tv_tensors.Mask(mask))
            return torch.Tensor(image), target.as_subclass(torch.Tensor)

    return CamVid()


def contestant(data: Path, batch: int) -> Callable[[], int]:
    """A function that takes one update and returns the number of images in it."""
    import segmentation_models_pytorch as smp
    import torch
    import torch.nn.functional as F

    model = smp.Unet("tu-mobilenetv2_100", encoder_weights=None, in_channels=3, classes=VOID).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=10_000, power=0.9)
    loader = torch.utils.data.DataLoader(
        dataset(files(data)), batch_size=batch, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True
    )

    def batches() -> Any:
        while True:
            yield from loader

    source = batches()

    def step() -> int:
        image, target = next(source)
        loss = F.cross_entropy(model(image), target, ignore_index=255)
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
