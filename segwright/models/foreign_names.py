"""Names of mmsegmentation's layers that several networks share (mmseg 0.x and 1.x), as patterns for the conversion."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def separable_names(theirs: str, ours: str) -> dict[str, str]:
    """A depthwise separable convolution: mmcv's names, and those of our ``SeparableConvNormReLU``."""
    parts = {
        "depthwise_conv.conv": "0.0",
        "depthwise_conv.bn": "0.1",
        "pointwise_conv.conv": "0.3",
        "pointwise_conv.bn": "1",
    }
    return {theirs + name.replace(".", r"\.") + r"\.": f"{ours}{place}." for name, place in parts.items()}


MMSEG_HEADS: Mapping[str, str] = {
    r"decode_head\.conv_seg\.": "head.",
    r"auxiliary_head\.convs\.0\.conv\.": "aux_head.0.",
    r"auxiliary_head\.convs\.0\.bn\.": "aux_head.1.",
    r"auxiliary_head\.conv_seg\.": "aux_head.4.",
}
MMSEG_ASPP: Mapping[str, str] = {
    r"decode_head\.image_pool\.1\.conv\.": "aspp.views.4.conv.",
    r"decode_head\.image_pool\.1\.bn\.": "aspp.views.4.norm.",
    **separable_names(r"decode_head\.aspp_modules\.(\d)\.", r"aspp.views.\1."),
    r"decode_head\.aspp_modules\.(\d)\.conv\.": r"aspp.views.\1.0.",
    r"decode_head\.aspp_modules\.(\d)\.bn\.": r"aspp.views.\1.1.",
    r"decode_head\.bottleneck\.conv\.": "aspp.project.0.",
    r"decode_head\.bottleneck\.bn\.": "aspp.project.1.",
}
MMSEG_STEM: Mapping[str, str] = {  # of ResNetV1c, to timm's names
    r"stem\.([0134])\.": r"conv1.\1.",
    r"stem\.6\.": "conv1.6.",
    r"stem\.7\.": "bn1.",
}


def pooled_view_last(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ASPP's projection with the pooled view's channels, which come first in mmsegmentation, behind the others."""
    name, pooled = "aspp.project.0.weight", state["aspp.views.4.conv.weight"].shape[0]
    weight = state[name]
    return {**state, name: torch.cat([weight[:, pooled:], weight[:, :pooled]], dim=1)}
