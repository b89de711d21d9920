"""A saved model as a runtime: the network in torch, on any device."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch

from segwright import kernels
from segwright.core.errors import UsageError
from segwright.core.types import Float32Array, UInt8Array
from segwright.inference.thinned import coarsest
from segwright.models.base import SegmentationModel

MOST_TOGETHER = 16  # images per call
MEMORY_SHARE = 0.7  # of a GPU's free memory that a call may take


def choose_device(name: str = "auto") -> torch.device:
    """``auto``: the first CUDA device, else Apple's, else the CPU. UsageError if the named one does not exist."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError("unknown device", expected="auto, cpu, cuda, cuda:1, mps", found=name) from error
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise UsageError("the device does not exist", found=name, fix="--device cpu, or --device auto")
    return device


class TorchRuntime:
    """A :class:`SegmentationModel` in eval mode on a device, channels-last."""

    def __init__(self, model: SegmentationModel, device: str | torch.device = "auto", precision: str = "fp32") -> None:
        self.device = choose_device(device) if isinstance(device, str) else device
        self.model = model.to(device=self.device).to(memory_format=torch.channels_last).eval()
        if self.device.type == "cpu":
            kernels.patch(self.model)
        self.classes, self.in_channels = model.classes, model.in_channels
        if precision not in ("fp32", "bf16", "fp16"):
            raise UsageError("unknown precision", expected="fp32, bf16, fp16", found=precision)
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._room: dict[tuple[int, int, int], int] = {}
        self._watched: Sequence[torch.nn.Module] = ()  # with hooks
        self._watching = threading.local()  # .maps: of the run in progress in this thread, by module

    @cached_property
    def receptive_radius(self) -> int | None:
        """See :func:`segwright.inference.reach.receptive_radius`; measured once."""
        from segwright.inference.reach import receptive_radius

        return receptive_radius(self.model)

    @torch.inference_mode()
    def run(self, images: UInt8Array) -> torch.Tensor:
        """float32 logits (N, K, H, W) on the device."""
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device)
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits = self.model(pixels).logits
        self._keep_features()
        result: torch.Tensor = logits.float()
        return result

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        labels, confidence = argmax_with_confidence(self.run(images))
        return labels.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy()

    def logits(self, images: UInt8Array) -> Float32Array:
        return self.run(images).contiguous().cpu().numpy()

    def labels_and_scores(
        self, images: UInt8Array, rows: slice, columns: slice
    ) -> tuple[UInt8Array, Float32Array, Float32Array | None]:
        logits = self.run(images)
        labels, confidence = argmax_with_confidence(logits)
        scores = logits[:, :, rows, columns].contiguous().cpu().numpy()
        return labels.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy(), scores

    def labels_and_boxes(
        self, images: UInt8Array, boxes: Sequence[Sequence[tuple[slice, slice]]]
    ) -> tuple[UInt8Array, Float32Array, list[list[Float32Array]]]:
        """Labels and confidence as of :meth:`labels`, and of each image the logits (K, h, w) at some boxes of rows and
        columns: what blending needs, without the logits of whole windows in memory twice."""
        logits = self.run(images)
        labels, confidence = argmax_with_confidence(logits)
        scores = [
            [logits[number, :, rows, columns].contiguous().cpu().numpy() for rows, columns in own]
            for number, own in enumerate(boxes)
        ]
        return labels.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy(), scores

    def room(self, shape: tuple[int, int, int]) -> int:
        """How many images H×W×C one call takes at most: 1 on a CPU, where more are no faster; on a GPU as its memory
        has room for, by that of one."""
        if self.device.type != "cuda":
            return 1
        if shape not in self._room:
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            try:
                self.labels(np.zeros((1, *shape), np.uint8))
            except torch.OutOfMemoryError:  # whoever runs one will find out
                return 1
            one = max(1, torch.cuda.max_memory_allocated(self.device) - before)
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free = torch.cuda.mem_get_info(self.device)[0] + unused
            self._room[shape] = max(1, min(MOST_TOGETHER, int(MEMORY_SHARE * free / one)))
        return self._room[shape]

    @contextmanager
    def watch_features(self) -> Iterator[list[Float32Array]]:
        """See :func:`features_of`. Of several runs in the block, each that has features adds one array."""
        if not self._watched:
            self._watched = tuple(self.model.feature_modules())
            for number, module in enumerate(self._watched):
                module.register_forward_hook(self._hook(number))
        found: list[Float32Array] = []
        self._watching.maps, self._watching.found = {}, found
        try:
            yield found
        finally:
            self._watching.maps = None

    def _hook(self, number: int) -> Any:
        def keep(module: torch.nn.Module, given: Any, output: Any) -> None:
            maps = getattr(self._watching, "maps", None)
            if maps is not None and number not in maps:  # a module that runs at several scales: the first
                features = coarsest(output)
                if features is not None:
                    maps[number] = features.detach().float().mean(dim=(2, 3))

        return keep

    def _keep_features(self) -> None:
        maps = getattr(self._watching, "maps", None)
        if maps:
            joined = torch.cat([maps[number] for number in sorted(maps)], dim=1)
            self._watching.found.append(joined.cpu().numpy())
            maps.clear()


def argmax_with_confidence(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K, H, W) → labels int64 (N, H, W) and their softmax probability, without computing the whole softmax."""
    top, labels = logits.max(dim=1)
    return labels, torch.exp(top - torch.logsumexp(logits, dim=1))
