"""The contract of every network: raw pixels in, logits at the images' own size out.

The model owns its preprocessing. A batch of uint8 N×H×W×C pixels is normalized by buffers, padded to what the network
can divide, run, and cropped back, so that training, prediction and every export take the same raw pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.core.errors import ModelError, UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# From the messages of torch's batch and instance norms for a channel with a single value.
ONE_VALUE = ("more than 1 value per channel", "more than 1 spatial element")


@dataclass(frozen=True)
class Provenance:
    """Where a model's starting weights came from, and on what terms."""

    source: str = "random initialization"  # or "timm/resnet34.a1_in1k", "torchvision:…", a path
    license: str = "none"  # SPDX name where the publisher states one
    pretrained: bool = False
    detail: str = ""  # what was left out or adapted

    def __str__(self) -> str:
        return f"{self.source} (license: {self.license})" if self.pretrained else self.source


class SegOutput(NamedTuple):
    """The output of every network."""

    logits: Tensor  # (N, K, H, W) at the input's height and width
    aux: dict[str, Tensor]  # auxiliary logits by name, (N, K, H, W); empty in eval mode and where there is no such head


class SegmentationModel(nn.Module):
    """Base of every network of the catalog.

    A subclass implements :meth:`forward_padded`. ``size_divisor`` is what height and width are padded to (1: none),
    ``minimum_size`` the smallest side the network can take. ``stride`` is that of the network's deepest features or
    scores, ``logits_stride`` that of its finest scores, before they are brought to the image's size. It declares its
    encoder and its classifier layers: optimizer groups, freezing, fine-tuning and logit adjustment use these.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        stride: int = 32,
        size_divisor: int | None = None,
        minimum_size: int = 1,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if classes < 1 or in_channels < 1:
            raise ModelError("a network needs at least one class and one channel", found=f"{classes=}, {in_channels=}")
        self.classes = classes
        self.in_channels = in_channels
        self.stride = stride
        self.logits_stride = stride
        self.size_divisor = stride if size_divisor is None else size_divisor
        self.minimum_size = minimum_size
        # True: sides are padded to multiples of ``size_divisor`` plus one, so that scores that are upsampled with their
        # corners aligned lie on pixels 0, s, 2s…
        self.grid_aligned = False
        self.native_logits = False  # a trainer may set it: training logits then stay at the network's own stride
        self.provenance = Provenance()
        self.has_trained_classifier = False  # whether loaded weights brought the layers that give the class scores
        self.architecture = (
            ""  # the catalog's name and the arguments that build this network again; set by create_model
        )
        self.arguments: dict[str, object] = {}
        self.register_buffer("mean", _channels(mean, in_channels), persistent=False)
        self.register_buffer("std", _channels(std, in_channels), persistent=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch; the error of a norm that has a single value per channel in training is explained.

        Here and not in :meth:`forward`, so that it also holds where ``compile()`` has replaced that.
        """
        try:
            return super().__call__(*args, **kwargs)
        except (ValueError, RuntimeError) as error:
            if not any(words in str(error) for words in ONE_VALUE):
                raise
            size = next((tuple(value.shape) for value in args if isinstance(value, Tensor)), None)
            raise ModelError(
                "batch norm has one value per channel in training, and nothing to take statistics of",
                expected="two images per batch or more; or larger images, where the network pools no whole image",
                found=f"a batch of {size}",
                where=type(self).__name__,
                fix="raise the batch size to 2 or more (training.batch), or freeze the batch norms "
                "(--set training.freeze_bn=true)",
            ) from error

    def forward(self, images: Tensor) -> SegOutput:
        """``images``: uint8 (N, H, W, C), or float (N, C, H, W) scaled to 0…1. Logits come at (H, W)."""
        x = self.normalize(images)
        height, width = x.shape[-2:]
        padded = self.pad(x)
        output = self.forward_padded(padded)
        if self.training and self.native_logits:
            return SegOutput(*native_crops(output, padded.shape[-1], height, width))
        aux = {name: crop(logits, height, width) for name, logits in output.aux.items()}
        return SegOutput(crop(output.logits, height, width), aux)

    def forward_padded(self, x: Tensor) -> SegOutput:
        """``x``: normalized float (N, C, H, W), sides multiples of ``size_divisor``; returns logits at (H, W)."""
        raise ModelError("a network implements forward_padded", where=type(self).__name__)

    def encoder_modules(self) -> Sequence[nn.Module]:
        """The feature extractor, the part that ImageNet weights are for; empty where the network is of one piece."""
        return ()

    def feature_modules(self) -> Sequence[nn.Module]:
        """The modules whose outputs are the deepest features, which monitoring averages over an image: those of
        :meth:`encoder_modules` unless a network names others. An output is a tensor (N, C, h, w), or several in a list
        or mapping, of which the coarsest counts."""
        return self.encoder_modules()

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The parameters of :meth:`encoder_modules`, each once."""
        found = {id(p): p for module in self.encoder_modules() for p in module.parameters()}
        return list(found.values())

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        """The layers that give class scores, one output channel per class, by the output which they are summed into:
        ``logits``, and each auxiliary output with layers of its own. Empty where a network declares none."""
        return {}

    def classifier_tensors(self) -> set[str]:
        """The names in the state dict of the tensors of :meth:`classifier_layers`."""
        layers = {id(layer) for group in self.classifier_layers().values() for layer in group}
        prefixes = [name for name, module in self.named_modules(remove_duplicate=False) if id(module) in layers]
        return {key for key in self.state_dict() if any(key.startswith(f"{prefix}.") for prefix in prefixes)}

    def scale_free_layers(self) -> Sequence[nn.Module]:
        """Convolutions whose kernels may keep a fixed norm although no norm layer follows them directly."""
        return ()

    def on_weights_loaded(self) -> None:
        """Called after trained weights are loaded: a network that keeps their statistics freezes them here."""

    def resolved_arguments(self) -> dict[str, object]:
        """Constructor arguments that loaded weights have changed; a saved model has to be built with them."""
        return {}

    def set_normalization(self, normalization: object) -> None:
        """Normalize by ``{"mean": […], "std": […]}`` of pixels in 0 to 1, one value per channel or one for all.
        UsageError for anything else."""
        given = normalization if isinstance(normalization, Mapping) else {}
        values = {}
        for name in ("mean", "std"):
            numbers = given.get(name)
            if not isinstance(numbers, Sequence) or not all(isinstance(v, int | float) for v in numbers):
                numbers = ()
            if len(numbers) not in (1, self.in_channels) or not all(
                math.isfinite(v) and (name == "mean" or v > 0) for v in numbers
            ):
                raise UsageError(
                    "a normalization has a mean and a positive std per channel",
                    expected=f'{{"mean": […], "std": […]}} of 1 or {self.in_channels} numbers',
                    found=str(normalization)[:200],
                )
            values[name] = numbers
        if set(given) != {"mean", "std"}:
            raise UsageError("a normalization has a mean and a std", found=", ".join(map(str, given)))
        for name, numbers in values.items():
            buffer = getattr(self, name)
            buffer.copy_(torch.tensor(list(numbers), dtype=buffer.dtype).reshape(1, -1, 1, 1).expand_as(buffer))

    def normalize(self, images: Tensor) -> Tensor:
        """Raw pixels to normalized float N×C×H×W; a permuted N×H×W×C batch is channels-last for free.
        Color becomes gray for a network of one channel."""
        if images.ndim != 4:
            raise ModelError(
                "a batch has four dimensions",
                expected="uint8 N×H×W×C or float N×C×H×W",
                found=f"{images.dtype} {tuple(images.shape)}",
            )
        raw = images.dtype == torch.uint8
        x = images.permute(0, 3, 1, 2) if raw else images
        if x.shape[1] == 3 and self.in_channels == 1:
            x = _luma(x.to(self.mean.dtype), whole=raw)
        if x.shape[1] != self.in_channels:
            raise ModelError(
                "the images' channels do not fit the network",
                expected=f"{self.in_channels} channels",
                found=f"{x.shape[1]} in {tuple(images.shape)}",
                fix="create the model with in_channels, or convert the images",
            )
        # (x / 255 - mean) / std as one multiplication and one addition: a single pass over the converted pixels.
        scale = 1 / (self.std * 255) if raw else 1 / self.std
        return torch.addcmul(-self.mean / self.std, x.to(self.mean.dtype), scale)

    def pad(self, x: Tensor) -> Tensor:
        """Pad right and below by edge values (a black border would be a scene of its own) to what the network takes."""
        height, width = x.shape[-2:]
        if self.grid_aligned:
            bottom, right = -(height - 1) % self.size_divisor, -(width - 1) % self.size_divisor
        else:
            bottom = _target(height, self.size_divisor, self.minimum_size) - height
            right = _target(width, self.size_divisor, self.minimum_size) - width
        # While a graph is traced with free sizes, comparing it with 0 would tie the graph to the example's size.
        if isinstance(bottom, int) and isinstance(right, int) and bottom == 0 and right == 0:
            return x
        return F.pad(x, (0, right, 0, bottom), mode="replicate")


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Bilinear to (height, width); the same tensor where nothing changes."""
    known = all(
        isinstance(side, int) for side in (*x.shape[-2:], *size)
    )  # free sizes of a traced graph are not compared
    if known and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def native_crops(output: SegOutput, padded: int, height: int, width: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits at strides of their own, without what belongs to padding alone; ``padded``: the input's width with it."""

    def cut(logits: Tensor) -> Tensor:
        stride = padded // logits.shape[-1]
        return crop(logits, -(-height // stride), -(-width // stride))

    return cut(output.logits), {name: cut(logits) for name, logits in output.aux.items()}


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The upper left (height, width) of (N, C, H, W)."""
    if torch.compiler.is_exporting() and not torch.onnx.is_in_onnx_export():
        # A slice to a free size makes torch.export guard "smaller than before", and the exported program then refuses
        # the sizes that need no padding; picking rows and columns does not. ONNX has no such guards, and slices.
        rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        return x.index_select(2, rows).index_select(3, columns)
    return x[..., :height, :width]


def count_parameters(model: nn.Module) -> int:
    """Every parameter once, buffers not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def _target(size: int, divisor: int, minimum: int) -> int:
    at_least = cast(int, torch.sym_max(size, max(minimum, 1)))  # the same as max() for plain numbers
    # Not -(-n // d): ONNX divides integers towards zero, Python downwards; they agree on positive numbers only.
    return (at_least + divisor - 1) // divisor * divisor


def _luma(x: Tensor, whole: bool) -> Tensor:
    """Color (N, 3, H, W) to gray (N, 1, H, W) by ITU-R BT.601, as Pillow's convert("L"); ``whole`` numbers stay so."""
    gray = 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]
    return (gray + 0.5).floor() if whole else gray


def _channels(values: Sequence[float], channels: int) -> Tensor:
    """(1, C, 1, 1): the given values where they fit, else their mean for every channel."""
    if len(values) == channels:
        listed = list(values)
    else:
        listed = [sum(values) / len(values)] * channels
    return torch.tensor(listed, dtype=torch.float32).reshape(1, channels, 1, 1)
