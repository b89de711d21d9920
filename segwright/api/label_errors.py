"""Find likely errors in the label masks of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segwright.api.data import choose_split, opened, seen_in_training
from segwright.api.inference import as_predictor, is_mask_folder
from segwright.core.errors import UsageError
from segwright.data.dataset import Dataset, Split

if TYPE_CHECKING:
    from segwright.evaluation.label_errors import LabelErrors
    from segwright.inference.predictor import Predictor

__all__ = ["find_label_errors"]


def find_label_errors(
    model: str | Path | Predictor,
    data: Split | Dataset | str | Path,
    *,
    split: str | None = None,
    limit: int = 50,
    scoring: str = "confident_joint",
    out: str | Path | None = None,
    device: str = "auto",
    postprocess: str | None = None,
    tta: str | None = None,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    skip_bad: bool = False,
    match: str = "names",
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> LabelErrors:
    """Rank the regions of label masks that are likely wrong, by confident learning.

    The model should not have been trained on the images: one that was has learned their errors. Whether it was is
    looked up in the run folder and noted.

    Parameters
    ----------
    model : str or Path or Predictor
        A run folder, a bundle or a loaded predictor.
    data : Split or Dataset or str or Path
        Images with masks.
    split : str, optional
        A split of ``data``, or ``"all"``. Left out: ``test``, else ``val``, else all images with a note.
    limit : int >= 1, default=50
        The length of the list.
    scoring : {"confident_joint", "margin", "self_confidence", "adjusted_margin"}, default="confident_joint"
        What regions are ranked by (``segwright.evaluation.label_errors.SCORINGS``).
    out : str or Path, optional
        A folder for ``label_errors.json``, ``label_errors.csv`` and an image per region.
    device, postprocess, tta, eight_bit, trust_external
        As for :func:`segwright.load`.
    format, images, masks, skip_bad, match
        As for :func:`segwright.evaluate`.

    Returns
    -------
    LabelErrors
        ``regions`` and ``images``, the likeliest first; ``thresholds``, ``joint``, ``notes``; ``to_json()``.

    Raises
    ------
    UsageError
        The model is a folder of masks, which has no probabilities; the limit or the scoring does not exist.
    DataError
        There is no such split, or nothing in it is labeled.

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.find_label_errors("run", "streets", split="test", device="cpu")
    >>> len(found.images), len(found.regions) <= 50
    (3, True)
    """
    from segwright.evaluation.evaluate import evaluate
    from segwright.evaluation.label_errors import LabelErrorCollector, check_request, write_label_errors
    from segwright.inference.split_reader import as_model_sees

    check_request(limit, scoring)
    if isinstance(model, str | Path) and is_mask_folder(Path(model)):
        raise UsageError(
            "label errors are found with a model's probabilities",
            expected="a run folder or a bundle",
            found="a folder of masks",
            where=model,
        )
    chosen = data if isinstance(data, Split) else choose_split(opened(data, format, images, masks), split)
    predictor = as_predictor(model, device, postprocess, tta, eight_bit, trust_external)
    trained_on = seen_in_training(model, chosen)
    chosen = as_model_sees(chosen, predictor)
    collector = LabelErrorCollector(chosen.label_space)
    passed = evaluate(
        predictor, chosen, boundary=False, skip_bad=skip_bad, match=match, collectors=[collector], title="label errors"
    )
    found = collector.result(limit=limit, scoring=scoring, split=chosen.name, trained_on=trained_on)
    found.notes += [*passed.notes, *predictor.notes]
    if out is not None:
        write_label_errors(out, found, chosen)
    return found
