"""Journals and references: what monitoring compares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.api.data import opened, trained_on_note
from segwright.core.errors import DataError, UsageError
from segwright.core.progress import progress
from segwright.data.dataset import Dataset, Split

if TYPE_CHECKING:
    from segwright.monitoring.journal import Journal
    from segwright.monitoring.reference import Reference

__all__ = ["make_reference", "read_journal", "read_reference"]


def read_journal(
    folder: str | Path,
    *,
    classes: Sequence[str] | None = None,
    model: str | None = None,
    since: float | None = None,
    until: float | None = None,
    max_rows: int = 200_000,
) -> Journal:
    """Read the journal that :func:`segwright.predict` or :func:`segwright.serve` wrote, also while it is written.

    Parameters
    ----------
    folder : str or Path
        The journal's folder, or one of its files.
    classes : sequence of str, optional
        The class names of the wanted rows. Left out: those of the newest rows.
    model : str, optional
        Only rows of the model of this id.
    since, until : float, optional
        Only rows between these times, in seconds since 1970.
    max_rows : int >= 1, default=200_000
        The newest rows that are read.

    Returns
    -------
    Journal
        ``rows`` in order of arrival, ``label_space``, ``models``, ``notes``; ``skipped`` lists what could not be read.

    Raises
    ------
    DataError
        There is no journal, nothing of it can be read, or no row has these classes.
    MissingExtraError
        The extra ``monitor`` is not installed.

    Examples
    --------
    >>> import segwright as sw
    >>> done = sw.predict("run", "streets/images/test", out="masks", journal="seen", device="cpu")
    >>> journal = sw.read_journal("seen")
    >>> len(journal), journal.skipped
    (3, ())
    """
    from segwright.monitoring.journal import read_journal as read

    return read(folder, classes=classes, model=model, since=since, until=until, max_rows=max_rows)


def read_reference(model: str | Path) -> Reference | None:
    """Read the reference of a saved model: the records of held-out images, with what is true of them.

    Parameters
    ----------
    model : str or Path
        A run folder or a bundle.

    Returns
    -------
    Reference or None
        ``rows``, ``scenes``, ``counts``, ``label_space``; None if the model has none.

    Raises
    ------
    BundleError
        There is no saved model, or the reference is damaged.

    Examples
    --------
    >>> import segwright as sw
    >>> len(sw.read_reference("run"))
    3
    """
    from segwright.monitoring.reference import read_reference as read

    return read(model)


def make_reference(
    model: str | Path,
    data: Split | Dataset | str | Path,
    *,
    split: str | None = None,
    max_images: int = 2_000,
    thumbnails: bool = False,
    device: str = "auto",
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Reference:
    """Make the reference of a saved model from held-out images and save it in the model, in place of an earlier one.

    A training makes one at its end; this is for older and imported models, or for images nearer to the ones in use.

    Parameters
    ----------
    model : str or Path
        A run folder or a bundle.
    data : Split or Dataset or str or Path
        Images that the model was not trained on; masks are used where there are any.
    split : str, optional
        A split of ``data``, or ``"all"``. Left out: ``val``, else ``test``.
    max_images : int >= 2, default=2000
        More images are chosen from evenly.
    thumbnails : bool, default=False
        Also keep images of at most 64 pixels per side, for pages that show what a journal differs from. Whoever gets
        the model gets them, too.
    device, eight_bit, trust_external
        As for :func:`segwright.load`.
    format, images, masks : str, optional
        How to read the dataset, as for :func:`segwright.check`.

    Returns
    -------
    Reference
        What was saved.

    Raises
    ------
    UsageError
        The model is an exported file, which carries no reference.
    DataError
        There is no held-out split, or fewer than two images of it can be used.
    LabelError
        The classes of model and data do not fit.

    Examples
    --------
    >>> import segwright as sw
    >>> len(sw.make_reference("run", "streets", split="test", device="cpu"))
    3
    """
    from segwright.api.models import load
    from segwright.inference.bundle import load_bundle, read_attachments, save_bundle
    from segwright.inference.exported_files import find_exported
    from segwright.inference.predictor import find_bundle
    from segwright.inference.split_reader import as_model_sees
    from segwright.monitoring import reference
    from segwright.monitoring.estimate import NAME as ACCURACY
    from segwright.monitoring.shifted import LEAST_IMAGES, estimator_predictions, make_accuracy

    if find_exported(model) is not None:
        raise UsageError(
            "an exported file carries no reference", expected="a run folder or a bundle", found=str(model),
            fix="make it for the model that was exported, and give that to segwright monitor --reference",
        )  # fmt: skip
    if max_images < reference.LEAST_IMAGES:
        raise UsageError("a reference takes two images or more", found=str(max_images))
    chosen = data if isinstance(data, Split) else _held_out(opened(data, format, images, masks), split)
    predictor = load(model, device=device, eight_bit=eight_bit, trust_external=trust_external)
    note = trained_on_note(model, chosen, "it is surer of them, and other images may look like drift")
    chosen = as_model_sees(chosen, predictor)
    with progress("reference", min(len(chosen), max_images)) as advance:
        made = reference.make_reference(
            predictor,
            chosen,
            max_images=max_images,
            thumbnails=thumbnails,
            notes=[note] if note else [],
            advance=advance,
        )
    folder = find_bundle(model)
    known = reference.parse_reference(made, folder)
    attachments = {**read_attachments(folder), reference.NAME: made}
    attachments.pop(ACCURACY, None)  # that of an earlier reference
    if known.labeled.sum() >= LEAST_IMAGES:
        with progress("estimator of accuracy", estimator_predictions(len(chosen))) as advance:
            attachments[ACCURACY] = make_accuracy(predictor, chosen, known, advance=advance)
    network, bundle = load_bundle(folder, trust_external=trust_external)
    save_bundle(folder, network, bundle, attachments)
    return known


def _held_out(data: Dataset, name: str | None) -> Split:
    splits = data.splits
    if name == "all":
        return data.all
    if name is not None and name not in splits:
        raise DataError(f"no split {name!r}", expected=", ".join([*splits, "all"]), where=data.root)
    for usual in (name,) if name is not None else ("val", "test"):
        if usual in splits and len(splits[usual]):
            return splits[usual]
    raise DataError(
        "no held-out images", expected="a split val or test", found=", ".join(splits) or "no splits", where=data.root,
        fix="--split all (split='all') if the model was trained on none of these images",
    )  # fmt: skip
