"""Keep a model good: refine it on new labels, put the candidate into service, and see where it came from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segwright.api.data import choose_split, opened
from segwright.api.models import load
from segwright.core.errors import UsageError
from segwright.data.dataset import Dataset, Split

if TYPE_CHECKING:
    from segwright.inference.lineage import Lineage
    from segwright.labeling.promote import Promotion
    from segwright.labeling.refine import Refinement

__all__ = ["promote", "read_lineage", "refine"]


def refine(
    model: str | Path,
    new: Dataset | str | Path,
    *,
    old: Dataset | str | Path | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    replay: float = 0.5,
    rename: Mapping[str, str] | Sequence[str] = (),
    append_classes: bool = False,
    resume: bool = False,
    device: str = "auto",
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    settings: Mapping[str, Any] | None = None,
    trust_external: bool = False,
    command: str = "",
    started: float | None = None,
) -> Refinement:
    """Fine-tune a model on newly labeled images with replay of old ones, and compare the candidate with the model.

    Masks of ``new`` may be partial: ignored pixels (255) are neither trained on nor scored. The candidate is a run
    folder; nothing is put into service (:func:`segwright.promote`).

    Parameters
    ----------
    model : str or Path
        A run folder, a bundle or a slot.
    new : Dataset or str or Path
        Newly labeled images: a label folder or any dataset. Without a validation split a part is held out, by
        sequences.
    old : Dataset or str or Path, optional
        The data that the model was trained on: replayed in the training, and its validation images show whether the
        candidate has forgotten anything. Without it that cannot be checked.
    minutes : float > 0, optional
        Wall-clock budget of the whole call.
    epochs : int >= 1, optional
        As many draws as ``new`` and ``old`` have training images, so often. Without ``minutes`` and ``epochs``, about
        4,000 images are drawn.
    out : str or Path, optional
        The run folder of the candidate.
    seed : int, default=0
        Of order, augmentation and intervals.
    replay : float, default=0.5
        The share of the drawn images that are old ones.
    rename : mapping or sequence of str
        Classes that the data calls otherwise: ``{"sidewalk": "pavement"}`` or ``["sidewalk=pavement"]``, the data's
        name first.
    append_classes : bool, default=False
        Take the data's further classes as new ones, although it lacks some of the model's.
    resume : bool, default=False
        Continue the refinement in ``out``.
    device : str, default="auto"
        Where to train: auto, cpu, cuda, cuda:1, mps.
    format, images, masks : str, optional
        How to read ``new``, as for :func:`segwright.check`.
    settings : mapping, optional
        Any setting of a training by its dotted key.
    trust_external : bool, default=False
        As for :func:`segwright.load`.
    command : str, optional
        The command line, kept in the candidate.
    started : float, optional
        When ``minutes`` began to run, by ``time.monotonic()``.

    Returns
    -------
    Refinement
        ``model`` (the candidate), ``new`` and ``old`` (scores before and after with paired intervals), ``verdict()``.

    Raises
    ------
    LabelError
        The classes of the data and of the model cannot be matched without a guess.
    DataError
        The check finds an error, or no image is labeled.
    UsageError
        A setting is out of range.

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.refine(
    ...     "run", "streets", epochs=1, out="refined", device="cpu", settings={"training.size": (32, 48)}
    ... )
    >>> found.new.images, found.old is None
    (3, True)
    """
    from segwright.labeling.class_matching import parse_renamed
    from segwright.labeling.refine import RefineOptions
    from segwright.labeling.refine import refine as refine_model
    from segwright.training.config import TrainConfig

    started = time.monotonic() if started is None else started
    renamed = dict(rename) if isinstance(rename, Mapping) else parse_renamed(rename)
    options = RefineOptions(replay, renamed, append_classes, resume, command)
    values = {"training.minutes": minutes, "training.epochs": epochs, "out": None if out is None else str(out)}
    config = TrainConfig().with_values({
        **{key: value for key, value in values.items() if value is not None},
        "training.seed": seed, "training.device": device, **(settings or {}),
    })  # fmt: skip
    predictor = load(model, device=device, trust_external=trust_external)
    fresh = opened(new, format, images, masks)
    return refine_model(
        predictor, Path(model), fresh, None if old is None else opened(old), config, options, started=started
    )


def promote(
    candidate: str | Path | None,
    slot: str | Path,
    *,
    better_on: str | Path | Split | Dataset | Sequence[str | Path | Split | Dataset] = "new",
    max_class_drop: float | None = 3.0,
    back: bool = False,
    why: str = "",
    keep: int = 5,
    split: str | None = None,
    device: str = "auto",
    trust_external: bool = False,
) -> Promotion:
    """Put a candidate into service if it is better where asked and no class falls; or go back to the version before.

    A slot is a folder that :func:`segwright.serve` and everything else take as a model. The switch is one rename: at
    any instant one whole version is in service, and a running service takes the new one over within seconds. A new slot
    takes its first version without conditions.

    Parameters
    ----------
    candidate : str or Path or None
        What :func:`segwright.refine` made; with ``better_on`` data, or for a new slot, any run folder or bundle. None
        with ``back``.
    slot : str or Path
        The slot's folder; a new one is made.
    better_on : "new" or "old" or data, or a sequence of them, default="new"
        Where the candidate has to be better than the version in service, with the 95 % interval of the difference in
        mIoU above zero: by the figures of its refinement, or measured on labeled data now.
    max_class_drop : float or None, default=3.0
        Points of IoU by which no class may fall on any data compared. None does not check.
    back : bool, default=False
        Put the version before into service again.
    why : str, optional
        A reason for the history, in place of the figures in words.
    keep : int >= 2, default=5
        Versions that the slot keeps; that in service and that before it always.
    split : str, optional
        Of data in ``better_on``: ``test``, else ``val``, if left out.
    device, trust_external
        As for :func:`segwright.load`.

    Returns
    -------
    Promotion
        ``version`` (in service now), ``before``, ``figures``, ``why``.

    Raises
    ------
    PromotionRefusedError
        A condition does not hold; ``found`` has all figures. The slot is unchanged.
    BundleError
        The candidate is damaged, or its figures are of other weights.
    UsageError
        The folder is no slot, another promotion is changing it, or there is no version before.
    OutputError
        The disk is full; the version before stays in service.

    Examples
    --------
    >>> import segwright as sw
    >>> done = sw.promote("run", "service")
    >>> done.action, done.before, done.why
    ('promote', None, 'the first version of the slot')
    """
    from segwright.labeling.promote import Gates, go_back
    from segwright.labeling.promote import promote as put_into_service
    from segwright.labeling.slot import existing_slot, slot_of

    if back:
        if candidate is not None:
            raise UsageError("going back takes no candidate", expected="the slot alone", found=str(candidate))
        return go_back(existing_slot(slot), reason=why)
    place = slot_of(slot)
    if candidate is None:
        raise UsageError("there is no candidate", expected="a run folder or a bundle", fix="or back=True (--back)")
    asked = (better_on,) if isinstance(better_on, str | Path | Split | Dataset) else tuple(better_on)
    gates = Gates(tuple(_compared_on(one, split) for one in asked), max_class_drop)
    return put_into_service(
        Path(candidate), place, gates, reason=why, keep=keep, device=device, trust_external=trust_external
    )


def _compared_on(data: str | Path | Split | Dataset, split: str | None) -> str | Split:
    """ "new" and "old" as they are, else a split with a name that shows its data."""
    if isinstance(data, Split) or data in ("new", "old"):
        return data
    dataset = opened(data)
    chosen = choose_split(dataset, split)
    named = Split(f"{dataset.root.resolve().name} {chosen.name}", chosen.records, chosen.reader)
    named.note = chosen.note
    return named


def read_lineage(model: str | Path) -> Lineage:
    """Read where a saved model came from: its parents, the data of each training, the clicks spent.

    Parameters
    ----------
    model : str or Path
        A run folder, a bundle, a slot or an exported file.

    Returns
    -------
    Lineage
        ``model`` (id of the weights, data, parents), ``ancestors`` by id, ``clicks``; ``lines()`` as text.

    Raises
    ------
    BundleError
        There is no saved model, or it is damaged.

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.read_lineage("run")
    >>> found.model.made_by, found.clicks, len(found.model.id)
    ('train', 0, 16)
    """
    from segwright.inference.lineage import read_lineage as read

    return read(model)
