"""The error model of a saved model: fit it on held-out images and keep it in the bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from segwright.api.data import choose_split, trained_on_note
from segwright.api.models import load
from segwright.core.errors import UsageError
from segwright.data.dataset import open_dataset

__all__ = ["fit_error_model"]


def fit_error_model(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "val",
    level: float = 0.9,
    device: str = "auto",
    postprocess: str | None = None,
    tta: str | None = None,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    match: str = "names",
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> dict[str, Any]:
    """Fit a model's error model on held-out images with masks, and keep it in the model.

    With it, :func:`segwright.predict` estimates how good a prediction is: mIoU and IoU per class with intervals, and
    per region the probability of being wrong. A training does this with its validation images.

    Parameters
    ----------
    model : str or Path
        A run folder or a bundle.
    data : str or Path
        The dataset.
    split : str, default="val"
        Images that the model was not trained on.
    level : float, default=0.9
        Of the intervals: the share of images whose IoU they hold.
    device, postprocess, tta, eight_bit, trust_external
        As for :func:`segwright.load`. The estimates hold for predictions of this post-processing and these views;
        with others they are rough, which a note of the prediction states.
    format, images, masks : str, optional
        How to read the dataset, as for :func:`segwright.check`.
    match : {"names", "index"}, default="names"
        Bring the model's classes to the data's by name, or by index.

    Returns
    -------
    dict
        What it was fitted on, and under ``held_out`` how well it does on images left out of the fit: ``auroc`` of
        wrong regions, ``r_squared`` of the adjusted IoU, mean errors of the estimated IoU, and under ``intervals``
        the 95 % interval of each, over sequences, blocks of frames or images.

    Raises
    ------
    UsageError
        The model is an exported file, or ``level`` is not between 0 and 1.
    DataError
        There is too little held-out data.

    Examples
    --------
    >>> import segwright as sw
    >>> facts = sw.fit_error_model("run", "streets", split="val")  # doctest: +SKIP
    >>> facts["held_out"]["auroc"] > 0.9  # doctest: +SKIP
    True
    """
    from segwright.evaluation.quality import fit_error_model as fit
    from segwright.inference.bundle import load_bundle, read_attachments, save_bundle
    from segwright.inference.predictor import find_bundle
    from segwright.inference.quality import ATTACHMENT
    from segwright.inference.split_reader import as_model_sees

    if Path(model).is_file():
        raise UsageError(
            "an error model is kept in a run folder or a bundle",
            expected="a run folder or a bundle",
            found="an exported file",
            where=model,
        )
    folder = find_bundle(model)
    network, bundle = load_bundle(folder, trust_external=trust_external)
    predictor = load(
        folder, device=device, postprocess=postprocess, tta=tta, eight_bit=eight_bit, trust_external=trust_external
    )
    chosen = as_model_sees(choose_split(open_dataset(data, format, images=images, masks=masks), split), predictor)
    found = fit(predictor, chosen, level=level, match=match)
    note = trained_on_note(model, chosen, "the estimates are too good for other images")
    if note:
        found = replace(found, description={**found.description, "notes": [*found.description["notes"], note]})
    save_bundle(folder, network, bundle, {**read_attachments(folder), ATTACHMENT: found})
    return dict(found.description)
