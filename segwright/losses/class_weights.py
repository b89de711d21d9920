"""Class weights from pixel counts: how much dearer a rare class's pixel is, and why. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError

RULES = ("none", "inverse", "median", "sqrt-median", "effective", "segnet")
# SegNet's release for CamVid's eleven classes (segnet_train.prototxt of alexgkendall/SegNet-Tutorial). They do not
# follow from the labels by a formula, so they stand here as published.
SEGNET_CAMVID = {
    "sky": 0.2595, "building": 0.1826, "pole": 4.5640, "road": 0.1417, "pavement": 0.9051, "tree": 0.3826,
    "sign": 9.6446, "fence": 1.8418, "car": 0.6823, "pedestrian": 6.2478, "bicyclist": 7.3614,
}  # fmt: skip
_OTHER_NAMES = {"column_pole": "pole", "sidewalk": "pavement", "signsymbol": "sign", "sign_symbol": "sign"}
SQRT_LIMITS = (0.4, 3.0)  # beyond, a rare class drowns the rest: its few noisy pixels would drive the step


def class_weights(
    rule: str,
    pixels: npt.ArrayLike,
    images_pixels: npt.ArrayLike | None = None,
    names: Sequence[str] | None = None,
) -> tuple[npt.NDArray[np.float32] | None, str]:
    """Weights (K,) by a rule, and the reason in one line; None for ``none``.

    ``pixels`` (K,): how many training pixels each class has; ``images_pixels`` (K,): all labeled pixels of the
    images in which it occurs (default: of all images). Rules: ``inverse`` frequency; ``median`` frequency balancing
    (Eigen and Fergus 2015; SegNet); ``sqrt-median``, its square root within 0.4…3; ``effective`` number of samples (Cui
    et al. 2019, with N = the median class's pixels); ``segnet``, the published weights of SegNet for CamVid's eleven
    classes, found by ``names``; or the weights themselves as ``[1, 2, 0.5]``. A class without pixels gets 1: it plays
    no part. UsageError for an unknown rule, for numbers that do not fit, and for ``segnet`` with other classes.
    """
    counts = np.asarray(pixels, np.float64).ravel()
    rule = rule.strip()
    if rule.startswith("["):
        return _listed(rule, len(counts))
    if rule not in RULES:
        raise UsageError("unknown class weights", expected=", ".join((*RULES, "[w1, w2, …]")), found=rule)
    if rule == "segnet":
        return _segnet(names)
    present = counts > 0
    if rule == "none" or not present.any():
        return None, "no class weights" + ("" if rule == "none" else ": no labeled pixel was counted")
    around = np.full(len(counts), counts.sum()) if images_pixels is None else np.asarray(images_pixels, np.float64)
    frequency = counts[present] / np.maximum(around.ravel()[present], 1)
    weights = np.ones(len(counts), np.float64)
    if rule == "inverse":
        weights[present] = counts.sum() / (present.sum() * counts[present])
    elif rule == "median":
        weights[present] = np.median(frequency) / frequency
    elif rule == "sqrt-median":
        weights[present] = np.clip(np.sqrt(np.median(frequency) / frequency), *SQRT_LIMITS)
    else:
        volume = float(np.median(counts[present]))
        effective = -volume * np.expm1(counts[present] * np.log1p(-1 / max(volume, 2.0)))
        weights[present] = effective.mean() / effective
        weights[present] *= present.sum() / weights[present].sum()
    found = weights.astype(np.float32)
    share = counts[present] / counts.sum()
    reason = (
        f"{rule}: classes fill {100 * share.min():.2g} % to {100 * share.max():.2g} % of the labeled pixels, "
        f"a pixel of theirs weighs {found[present].min():.2f} to {found[present].max():.2f}"
    )
    return found, reason


def _segnet(names: Sequence[str] | None) -> tuple[npt.NDArray[np.float32], str]:
    found = [_OTHER_NAMES.get(name.lower(), name.lower()) for name in names or ()]
    if sorted(found) != sorted(SEGNET_CAMVID):
        raise UsageError(
            "SegNet's published weights are for CamVid's eleven classes",
            expected=", ".join(SEGNET_CAMVID),
            found=", ".join(names or ()) or "classes without names",
            fix="take class_weights=median, the rule of the paper, for other classes",
        )
    return np.array([SEGNET_CAMVID[name] for name in found], np.float32), "as SegNet's release has them for CamVid"


def _listed(text: str, classes: int) -> tuple[npt.NDArray[np.float32], str]:
    try:
        values = np.array([float(part) for part in text.strip("[] ").replace(",", " ").split()], np.float32)
    except ValueError:
        raise UsageError("class weights are numbers", expected="[1, 2, 0.5]", found=text) from None
    if len(values) != classes or not np.isfinite(values).all() or (values < 0).any() or not (values > 0).any():
        raise UsageError(
            "class weights do not fit", expected=f"{classes} numbers, none negative, not all 0", found=text
        )
    return values, "given by hand"
