"""What a network costs: parameters, FLOPs, memory of training, latency on this machine. For ``segwright models
--measure``.

Parameters, FLOPs and memory are counted on torch's meta device: the operations are dispatched, no number is computed,
so that the largest network is measured in a second. Latency is timed.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from segwright.core.errors import PluginError, UsageError
from segwright.core.progress import literal, stderr_console, track
from segwright.models.base import SegmentationModel, count_parameters
from segwright.models.catalog import CATALOG, catalog_entry, create_model, model_names
from segwright.models.recipes import FROM_SCRATCH
from segwright.models.without_memory import without_memory

GROUPS = ("today", "torchvision", "classic", "plugin")


@dataclass(frozen=True)
class Cost:
    """Of one network at one image size."""

    name: str
    height: int
    width: int
    parameters: int
    flops: int  # of one image's forward pass; a multiplication and an addition count as two
    training_bytes: int  # peak of forward and backward that every further image of a batch adds
    fixed_bytes: int  # weights, their gradients and two moments of AdamW
    stride: int  # of the finest scores
    latency_ms: float | None  # median of one image, None where it was not timed

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def measure_model(
    name: str,
    *,
    classes: int = 21,
    height: int = 360,
    width: int = 480,
    seconds: float = 3.0,
    device: str | torch.device = "cpu",
    **arguments: Any,
) -> Cost:
    """The cost of a network of the catalog. ``seconds``: how long to time it (0: not at all); ``device``: where."""
    with without_memory():
        sketch = create_model(name, classes=classes, weights=None, **arguments)
    latency = None
    if seconds > 0:
        model = create_model(name, classes=classes, weights=None, **arguments)
        latency = time_forward(model, height, width, seconds=seconds, device=torch.device(device))
    # The difference of two batches: what is there once, such as the gradients, falls out.
    two, three = (training_peak(sketch, batch, height, width) for batch in (2, 3))
    parameters = count_parameters(sketch)
    trainable = sum(parameter.numel() for parameter in sketch.parameters() if parameter.requires_grad)
    return Cost(
        name=name,
        height=height,
        width=width,
        parameters=parameters,
        flops=count_flops(sketch, height, width),
        training_bytes=three - two,
        fixed_bytes=4 * parameters + 12 * trainable,
        stride=sketch.logits_stride,
        latency_ms=latency,
    )


def list_catalog(names: Sequence[str] = (), *, measure: tuple[int, int] | None = None) -> list[dict[str, Any]]:
    """The catalog, or ``names`` of it, as rows: name, group, encoder, parameters (of 21 classes), stride, summary,
    paper, license.

    ``group``: ``today`` (what to choose from), ``torchvision`` (its networks, with its weights), ``classic`` or
    ``plugin``; whole groups follow one another. ``stride``: of the finest scores, before they reach the image's size.
    ``measure``: an image's (height, width); adds ``gflop``, ``training_mib`` per image of a batch, ``fixed_mib`` once
    (weights, gradients and AdamW's moments) and ``latency_ms`` here.
    UsageError for an unknown name. A plugin that cannot be loaded is reported on stderr and left out.
    """
    unknown = [name for name in names if name not in model_names()]
    if unknown:
        raise UsageError("unknown network", expected=", ".join(model_names()), found=", ".join(unknown))
    rows: list[dict[str, Any]] = []
    chosen = list(names) or sorted(model_names(), key=lambda name: GROUPS.index(group_of(name)))
    for name in track(chosen, "measuring" if measure else "counting"):
        try:
            entry = catalog_entry(name)
        except PluginError as error:
            if names:
                raise
            stderr_console().print(literal(str(error)))
            continue
        row: dict[str, Any] = {"name": name, "group": group_of(name), "encoder": entry.encoder}
        row |= {"summary": entry.summary, "paper": entry.paper, "license": entry.license}
        if measure is None:
            with without_memory():
                sketch = create_model(name, classes=21, weights=None)
            row |= {"parameters": count_parameters(sketch), "stride": sketch.logits_stride}
        else:
            cost = measure_model(name, height=measure[0], width=measure[1])
            row |= {"parameters": cost.parameters, "stride": cost.stride, "gflop": cost.flops / 1e9}
            row |= {"training_mib": cost.training_bytes / 2**20, "fixed_mib": cost.fixed_bytes / 2**20}
            row |= {"latency_ms": cost.latency_ms}
        rows.append(row)
    return rows


def group_of(name: str) -> str:
    """The group of a network of the catalog, one of :data:`GROUPS`."""
    if name not in CATALOG:
        return "plugin"
    if CATALOG[name].torchvision:
        return "torchvision"
    return "classic" if name in FROM_SCRATCH else "today"


def count_flops(model: SegmentationModel, height: int, width: int) -> int:
    """FLOPs of one image's forward pass (convolutions, matrix products, attention); ``model`` on any device."""
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(_blank(model, 1, height, width))
    model.train(was_training)
    return int(counter.get_total_flops())


def training_peak(model: SegmentationModel, batch: int, height: int, width: int) -> int:
    """Largest sum of bytes held by tensors made during one forward and backward pass; the weights not counted."""
    was_training = model.training
    model.train()
    model.zero_grad(set_to_none=True)
    images = _blank(model, batch, height, width)
    target = torch.zeros(batch, height, width, dtype=torch.long, device=images.device)
    with PeakActivationCounter() as live:
        output = model(images)
        losses = [nn.functional.cross_entropy(logits, target) for logits in (output.logits, *output.aux.values())]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return int(live.peak)


def time_forward(
    model: SegmentationModel, height: int, width: int, *, seconds: float = 3.0, device: torch.device | None = None
) -> float:
    """Median milliseconds of one image in eval mode, channels-last, after two warm-up passes."""
    device = torch.device("cpu") if device is None else device
    model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    images = _blank(model, 1, height, width)
    times: list[float] = []
    with torch.inference_mode():
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            start = time.perf_counter()
            model(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[2:])


class PeakActivationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operations make, while they live. ``peak``: the most at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = {id(storage) for storage in _storages((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in inputs and storage not in self._seen:  # neither a view nor an in-place result
                self._seen.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._release, storage.nbytes())
        return result

    def _release(self, count: int) -> None:
        self.now -= count


def _storages(tree: Any) -> Iterable[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf.untyped_storage()


def _blank(model: SegmentationModel, batch: int, height: int, width: int) -> Tensor:
    return torch.zeros(batch, height, width, model.in_channels, dtype=torch.uint8, device=model.mean.device)
