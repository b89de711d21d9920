"""U-Net with any encoder: features upsampled step by step and joined with the encoder's finer ones.

After Ronneberger et al. 2015 (arXiv 1505.04597), in the form people use now: padded convolutions with batch norm, an
encoder of choice, nearest-neighbor upsampling instead of up-convolutions. Decoder and head have the layout of
segmentation_models_pytorch, so that its state dicts fit. The 2015 network itself is in ``unet_2015.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.core.errors import ModelError
from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.blocks import ConvNormReLU, initialize_decoder, initialize_head
from segwright.models.encoders.base import Encoder

DECODER_CHANNELS = (256, 128, 64, 32, 16)


class UNetBlock(nn.Module):
    """Upsample to the skip's size (or by two), concatenate, two 3×3 convolutions."""

    cpu_kernel: ClassVar[str] = "upsample_concat_conv"  # the form of segwright.kernels that may compute it

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, *, interpolation: str) -> None:
        super().__init__()
        self.interpolation = interpolation
        self.conv1 = ConvNormReLU(in_channels + skip_channels, out_channels)
        self.conv2 = ConvNormReLU(out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(N, in, h, w), (N, skip, H, W) → (N, out, H, W)."""
        size = (x.shape[-2] * 2, x.shape[-1] * 2) if skip is None else (skip.shape[-2], skip.shape[-1])
        x = F.interpolate(x, size=size, mode=self.interpolation)
        out: Tensor = self.conv2(self.conv1(x if skip is None else torch.cat([x, skip], dim=1)))
        return out


class UNetDecoder(nn.Module):
    """{stride: feature} → one feature at ``head_stride``."""

    def __init__(
        self,
        encoder_channels: dict[int, int],
        decoder_channels: Sequence[int],
        *,
        head_stride: int,
        center: bool,
        interpolation: str,
    ) -> None:
        super().__init__()
        deepest = max(encoder_channels)
        self.deepest = deepest
        self.strides = tuple(deepest >> step for step in range(1, len(decoder_channels) + 1))
        if not self.strides or self.strides[-1] != head_stride:
            steps = (deepest // head_stride).bit_length() - 1
            raise ModelError(
                "the decoder's blocks do not lead from the deepest stage to the head",
                expected=f"{steps} decoder channels for stride {deepest} to {head_stride}",
                found=str(tuple(decoder_channels)),
                fix="give one number per doubling of the resolution, or change head_stride",
            )
        channels = encoder_channels[deepest]
        self.center = nn.Sequential(ConvNormReLU(channels, channels), ConvNormReLU(channels, channels))
        if not center:
            self.center = nn.Sequential()
        blocks = []
        for stride, out_channels in zip(self.strides, decoder_channels, strict=True):
            blocks.append(
                UNetBlock(channels, encoder_channels.get(stride, 0), out_channels, interpolation=interpolation)
            )
            channels = out_channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        x: Tensor = self.center(features[self.deepest])
        for stride, block in zip(self.strides, self.blocks, strict=True):
            x = block(x, features.get(stride))
        return x


class UNet(SegmentationModel):
    """Encoder, U-Net decoder, 3×3 head.

    ``decoder_channels``: one number per doubling of the resolution, from the deepest stage up. ``head_stride``: where
    the logits are computed (1, 2 or 4) before they are brought to the image's size bilinearly; 2 halves the time on
    a CPU for little. ``center``: two more convolutions at the deepest stage (for VGG encoders, as in
    segmentation_models_pytorch). ``interpolation``: of the decoder, ``nearest`` or ``bilinear``.
    """

    smp_keys: ClassVar[Mapping[str, str]] = {r"segmentation_head\.": "head."}

    def __init__(
        self,
        *,
        encoder: Encoder,
        classes: int,
        decoder_channels: Sequence[int] | None = None,
        head_stride: int = 1,
        center: bool | None = None,
        interpolation: str = "nearest",
        dropout: float = 0.0,
    ) -> None:
        deepest = max(encoder.channels)
        if len(encoder.channels) < 2:
            raise ModelError(
                f"U-Net joins several resolutions, and {encoder.name} has one resolution",
                expected="a hierarchical encoder, such as resnet34, mobilenetv2_100 or convnext_tiny",
                found=f"strides {', '.join(map(str, encoder.channels))}",
            )
        super().__init__(
            classes=classes,
            in_channels=encoder.in_channels,
            stride=deepest,
            mean=encoder.mean,
            std=encoder.std,
        )
        self.logits_stride = head_stride
        if decoder_channels is None:
            steps = (deepest // head_stride).bit_length() - 1
            decoder_channels = DECODER_CHANNELS[:steps]
        self.encoder = encoder
        self.decoder = UNetDecoder(
            encoder.channels,
            decoder_channels,
            head_stride=head_stride,
            center=encoder.name.startswith("vgg") if center is None else center,
            interpolation=interpolation,
        )
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Sequential(nn.Conv2d(decoder_channels[-1], classes, 3, padding=1))
        initialize_decoder(self.decoder)
        initialize_head(self.head)

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.encoder,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": (self.head[0],)}

    def forward_padded(self, x: Tensor) -> SegOutput:
        logits = self.head(self.dropout(self.decoder(self.encoder(x))))
        if self.training and self.native_logits:
            return SegOutput(logits, {})
        return SegOutput(resize(logits, (x.shape[-2], x.shape[-1])), {})
