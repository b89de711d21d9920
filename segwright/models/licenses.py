"""Whose pretrained weights the networks begin with, and under which license: from the catalog and from timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from segwright.models.catalog import CATALOG, MOBILE, NVIDIA_LICENSE, OWN_ENCODERS
from segwright.models.encoders.pretrained import PACKAGED, UNSTATED

# The encoders that the docs and the plans name, beside those that a network has by default.
ENCODERS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "mobilenetv2_100", MOBILE, "tf_efficientnet_lite0",
    "tf_efficientnet_lite1", "tf_efficientnet_lite2", "efficientnet_b0", "convnext_tiny", "mit_b0",
)  # fmt: skip
TORCHVISION = "BSD-3-Clause"  # of torchvision and of the weights that it publishes


class WeightsLicense(NamedTuple):
    """One row: what the weights are for, which they are, who publishes them, and their license."""

    name: str
    weights: str
    publisher: str
    license: str


def licenses_of_networks() -> list[WeightsLicense]:
    """The weights that ``weights="auto"`` takes for each network of the catalog with its default encoder."""
    return [_row(name, entry.pretrained(), entry.license) for name, entry in CATALOG.items()]


def licenses_of_encoders() -> list[WeightsLicense]:
    """The ImageNet weights of :data:`ENCODERS`."""
    found = []
    for name in ENCODERS:
        published = OWN_ENCODERS[name][1] if name in OWN_ENCODERS else name
        found.append(_row(name, None if published is None else f"timm:{published}", NVIDIA_LICENSE))
    return found


def _row(name: str, weights: str | None, without: str) -> WeightsLicense:
    """``weights``: as of :meth:`Entry.pretrained`; ``without``: what stands where nothing is taken."""
    from timm.models import get_pretrained_cfg

    if weights is None:
        return WeightsLicense(name, "none", "", "NVIDIA's are non-commercial" if "NVIDIA" in without else "")
    source, _, what = weights.partition(":")
    if source == "torchvision":
        kind = "COCO, VOC's classes" if what == name else "ImageNet, the trunk"
        return WeightsLicense(name, f"{what} ({kind})", "torchvision", TORCHVISION)
    if what in PACKAGED:
        known = PACKAGED[what]
        return WeightsLicense(name, f"{what} (ImageNet)", f"package {known.package.replace('_', '-')}", known.license)
    config = get_pretrained_cfg(what)
    license = (config.license if config is not None else None) or UNSTATED
    repository = config.hf_hub_id if config is not None else None
    return WeightsLicense(name, f"{what} (ImageNet)", str(repository or "timm"), _spdx(license))


def _spdx(license: str) -> str:
    return {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause"}.get(license, license)


def licenses_table() -> str:
    """Both tables as Markdown: what ``segwright models --licenses`` prints and ``docs/licenses.md`` holds."""
    parts = []
    for title, rows in (("network", licenses_of_networks()), ("encoder", licenses_of_encoders())):
        parts.append(_markdown((title, "pretrained weights", "publisher", "license"), rows))
    return "\n\n".join(parts)


def _markdown(titles: Sequence[str], rows: Sequence[WeightsLicense]) -> str:
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
