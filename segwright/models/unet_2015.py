"""U-Net as published: two 3×3 convolutions a level without padding, cropped skips, mirrored borders.

Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation (MICCAI 2015). Valid
convolutions lose 92 pixels per side (572 → 388). The paper's overlap-tile strategy extrapolates the missing border by
mirroring; :class:`UNet2015` does so inside, which gives logits at the image's own size, for any size.

``form="paper"`` is the figure of the paper. ``form="release"`` is the authors' Caffe network of the same year
(``phseg_v5-train.prototxt``), which differs: a ReLU follows every up-convolution, the upsampled map comes before the
skip in the concatenation, the last up-convolution keeps its 128 channels (31,100,354 parameters at one channel and two
classes), and up-convolutions start with Caffe's ``msra`` filler (variance 2 ÷ (4 · outputs)).

``padding="same"`` with ``norm="batch"`` is the form in common use (bias-free convolutions, BN), ``upsampling=
"bilinear"`` its lighter variant. The loss that weighs borders between touching cells is in ``segwright.losses``.
The initialization is the paper's (normal, variance 2 ÷ fan-in), so is the dropout at the end of the contracting path
(0.5 after the last two levels, as the release's ``dropout_d3c`` and ``dropout_d4c``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.core.errors import ModelError
from segwright.models.base import SegmentationModel, SegOutput

Padding = Literal["valid", "same"]
Form = Literal["paper", "release"]
UNET_WIDTHS = (64, 128, 256, 512, 1024)


def double_convolution(inputs: int, middle: int, outputs: int, *, padding: Padding, norm: str | None) -> nn.Sequential:
    """conv 3×3 – [BN] – ReLU, twice. With BN the convolutions have no bias, which BN would subtract again."""
    layers: list[nn.Module] = []
    for source, target in ((inputs, middle), (middle, outputs)):
        conv = nn.Conv2d(source, target, 3, padding=1 if padding == "same" else 0, bias=norm is None)
        layers += [conv, *([nn.BatchNorm2d(target)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers)


class UpLevel(nn.Module):
    """Upsample by two, center-crop the skip, concatenate, convolve twice.

    ``form``: the skip comes first in the paper's figure, the upsampled map (rectified) in the release. ``upsampled``:
    channels of the up-convolution (default: ``width``).
    """

    def __init__(
        self,
        below: int,
        width: int,
        outputs: int,
        *,
        padding: Padding,
        norm: str | None,
        upsampling: str,
        form: Form = "paper",
        upsampled: int | None = None,
    ) -> None:
        super().__init__()
        self.released = form == "release"
        if upsampling == "transposed":
            self.up: nn.Module = nn.ConvTranspose2d(below, upsampled or width, 2, 2)
            below = upsampled or width
        else:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.convolutions = double_convolution(width + below, width, outputs, padding=padding, norm=norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        skip = center_crop(skip, x.shape[-2:])
        joined = torch.cat([F.relu(x), skip] if self.released else [skip, x], 1)
        return self.convolutions(joined)  # type: ignore[no-any-return]


class UNet2015(SegmentationModel):
    """U-Net of 2015. Parameters: 31,030,658 (1 channel, N=2); 31,031,810 (3, 2); 31,032,395 (3, 11);
    ``form="release"`` 31,100,354 (1, 2); ``padding="same", norm="batch"`` 31,037,698 (3, 2), with
    ``upsampling="bilinear"`` 17,263,042."""

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        padding: Padding = "valid",
        norm: Literal["batch"] | None = None,
        upsampling: Literal["transposed", "bilinear"] = "transposed",
        form: Form = "paper",
        dropout: float = 0.5,
        widths: Sequence[int] = UNET_WIDTHS,
    ) -> None:
        for name, value, allowed in (
            ("padding", padding, ("valid", "same")),
            ("norm", norm, (None, "batch")),
            ("upsampling", upsampling, ("transposed", "bilinear")),
            ("form", form, ("paper", "release")),
        ):
            if value not in allowed:
                raise ModelError(f"unknown {name}", expected=" or ".join(map(str, allowed)), found=str(value))
        if form == "release" and (padding, norm, upsampling) != ("valid", None, "transposed"):
            raise ModelError(
                "the released U-Net has valid convolutions without norm and transposed upsampling",
                expected='padding="valid", norm=None, upsampling="transposed"',
                found=f"{padding=}, {norm=}, {upsampling=}",
                fix='leave those arguments out, or take form="paper"',
            )
        levels = len(widths) - 1  # times the side is halved
        super().__init__(classes=classes, in_channels=in_channels, stride=2**levels)
        self.logits_stride = 1
        self.padding, self.form = padding, form
        # two 3×3 lose 2 pixels per side: once at each of the levels + 1 sides going down, once at each going up
        self.margin = 2 * (2 ** (levels + 1) - 1) + 2 * (2**levels - 1)
        # bilinear upsampling does not halve the channels, so the convolutions before it do
        thinner = 2 if upsampling == "bilinear" else 1
        self.down = nn.ModuleList()
        channels = in_channels
        for level, width in enumerate(widths):
            outputs = width // thinner if level == levels else width
            self.down.append(double_convolution(channels, outputs, outputs, padding=padding, norm=norm))
            channels = outputs
        self.up = nn.ModuleList()
        for level in reversed(range(levels)):
            outputs = widths[level] // thinner if level else widths[level]
            kept = widths[1] if form == "release" and level == 0 else None  # the release's last up-convolution
            self.up.append(
                UpLevel(
                    channels,
                    widths[level],
                    outputs,
                    padding=padding,
                    norm=norm,
                    upsampling=upsampling,
                    form=form,
                    upsampled=kept,
                )
            )
            channels = outputs
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(channels, classes, 1)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                # A 2×2/2 up-convolution's output sees `in_channels` values, not the four taps' worth torch counts. In
                # the paper's figure no ReLU follows it: variance 1 ÷ in_channels keeps the scale. The release's filler
                # takes 4 · out_channels for the fan-in, as Caffe lays a deconvolution's weights out.
                released = (2 / (4 * module.out_channels)) ** 0.5
                nn.init.normal_(module.weight, std=released if self.form == "release" else module.in_channels**-0.5)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def pad(self, x: Tensor) -> Tensor:
        """Same: edge values to multiples of the stride. Valid: mirrored so that what comes out covers the image."""
        if self.padding == "same":
            return super().pad(x)
        rows, columns = (_mirrored(side, self.margin, self.stride, x.device) for side in x.shape[-2:])
        return x.index_select(2, rows).index_select(3, columns)

    def feature_modules(self) -> Sequence[nn.Module]:
        return (self.down[-1],)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": (self.head,)}

    def forward_padded(self, x: Tensor) -> SegOutput:
        skips = []
        last = len(self.down) - 1
        for level, convolutions in enumerate(self.down):
            x = convolutions(F.max_pool2d(x, 2) if level else x)
            if level >= last - 1:
                x = self.dropout(x)
            skips.append(x)
        for up, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = up(x, skip)
        return SegOutput(self.head(x), {})


def center_crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle (height, width) of ``x``."""
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]


def _mirrored(size: int, margin: int, stride: int, device: torch.device) -> Tensor:
    """Row indices −margin … past the end, reflected as often as a small image needs, without repeating the edge.

    The net turns ``stride``·k + 4 + 2·margin rows into ``stride``·k + 4: the smallest that covers ``size`` is taken.
    """
    # Division of a negative number would be rounded up in ONNX.
    covered = (max(size - 4, 0) + stride - 1) // stride * stride + 4
    period = max(2 * (size - 1), 1)
    position = torch.arange(-margin, covered + margin, device=device)
    position = torch.remainder(position, torch.full_like(position, period))  # ONNX has no remainder by a free size
    return torch.minimum(position, period - position)


MODELS: dict[str, Callable[..., SegmentationModel]] = {"unet2015": UNet2015}
