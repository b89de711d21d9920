"""Datasets: open, check, convert, and choose a split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segwright.api.results import ConvertResult
from segwright.core.counted import counted
from segwright.core.errors import DataError
from segwright.data.annotations.sparse import LabelRule
from segwright.data.check.runner import CheckResult, check_path
from segwright.data.dataset import Dataset, Split
from segwright.data.dataset import open_dataset as open_path

__all__ = ["check", "choose_split", "convert", "open_dataset", "opened", "seen_in_training", "trained_on_note"]


def open_dataset(
    path: str | Path,
    format: str | None = None,
    *,
    images: str | None = None,
    masks: str | None = None,
    labels: LabelRule | Mapping[str, Any] | None = None,
) -> Dataset:
    """Open a dataset. No image is decoded, except a spread of the masks if their values have to be found out.

    Parameters
    ----------
    path : str or Path
        The dataset's folder, or its file (an annotation file, a list of pairs, an archive).
    format : str, optional
        A format that ``segwright datasets`` lists. Detected if left out.
    images, masks : str, optional
        Two globs relative to ``path`` that pair files of any layout.
    labels : mapping, optional
        How points, lines and boxes become masks: ``unlabeled_pixels`` ("auto", "ignore", "background", "by-image"),
        ``boxes`` ("auto", "fill", "core"), ``point_radius`` and ``line_width`` in pixels. What is left out is read from
        ``sparse-labels.yaml`` beside the data, if it is there.

    Returns
    -------
    Dataset
        ``splits``, ``train``, ``val``, ``test``, ``label_space``, ``notes`` (what was guessed) and ``problems``.
        Iterating yields :class:`segwright.Sample`: ``id``, ``image`` uint8 H×W×C, ``mask`` uint8 H×W or None.

    Raises
    ------
    FormatError
        No format is detected, or the named one does not fit.
    LabelError
        The values of the masks are not classes.
    UsageError
        There is no format of that name.

    Examples
    --------
    >>> import segwright as sw
    >>> data = sw.open_dataset("streets")
    >>> data.format, sorted(data.splits), data.train[0].image.shape
    ('folder', ['test', 'train', 'val'], (64, 96, 3))
    """
    return open_path(path, format, images=images, masks=masks, labels=labels)


def check(
    data: str | Path,
    *,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    labels: LabelRule | Mapping[str, Any] | None = None,
    html: str | Path | None = None,
) -> CheckResult:
    """Check a dataset: every image and mask is read once, and what would spoil a training is listed with its fix.

    Parameters
    ----------
    data : str or Path
        The dataset's folder, or its file (an annotation file, a list of pairs, an archive).
    format : str, optional
        A format that ``segwright datasets`` lists. Detected if left out.
    images, masks : str, optional
        Two globs that pair any files, such as ``"shots/*.jpg"`` and ``"truth/*_gt.png"``.
    labels : mapping, optional
        How points, lines and boxes become masks, as for :func:`segwright.open_dataset`.
    html : str or Path, optional
        Also write the result as a page to this file.

    Returns
    -------
    CheckResult
        ``problems`` (severity, kind, files, message, fix), ``classes``, ``fingerprint``; ``exit_code`` is 1 if there
        is an error. ``to_json()`` for programs.

    Raises
    ------
    FormatError
        No format is detected, or two are.
    OutputError
        The page cannot be written.

    Examples
    --------
    >>> import segwright as sw
    >>> result = sw.check("streets")
    >>> result.images, result.exit_code
    (12, 0)
    """
    result = check_path(data, format, images=images, masks=masks, labels=labels)
    if html is not None:
        from segwright.data.check.report_html import write_check_page

        write_check_page(result, html)
    return result


def convert(
    data: str | Path,
    to: str,
    out: str | Path,
    *,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    labels: LabelRule | Mapping[str, Any] | None = None,
) -> ConvertResult:
    """Write a dataset in another format, every pixel as it was.

    Parameters
    ----------
    data : str or Path
        The dataset to read.
    to : {"voc", "coco", "folder", "webdataset", "labelme", "cvat", "hf"}
        The format to write.
    out : str or Path
        The new folder. It must not exist, or be empty.
    format, images, masks, labels
        How to read the dataset, as for :func:`segwright.check`.

    Returns
    -------
    ConvertResult
        ``source_format``, ``to``, ``images`` and ``out``.

    Raises
    ------
    DataError
        The dataset cannot be read, or the format cannot hold it.
    OutputError
        The folder cannot be written.

    Examples
    --------
    >>> import segwright as sw
    >>> sw.convert("streets", "voc", "streets-voc").images
    12
    """
    from segwright.data.convert import convert as convert_dataset

    dataset = open_dataset(data, format, images=images, masks=masks, labels=labels)
    convert_dataset(dataset, to, out)
    return ConvertResult(dataset.format, to, len(dataset), Path(out))


def choose_split(data: Dataset, name: str | None) -> Split:
    """The split to score on.

    Parameters
    ----------
    data : Dataset
        An opened dataset.
    name : str or None
        A split of the dataset, or ``"all"``. None takes ``test``, else ``val``, whichever has masks; else all images,
        with a note that images of the training may be among them.

    Returns
    -------
    Split
        The split; ``note`` names what was chosen in place of a test split, or that the split is made here.

    Raises
    ------
    DataError
        There is no split of that name.

    Examples
    --------
    >>> import segwright as sw
    >>> sw.choose_split(sw.open_dataset("streets"), None).name
    'test'
    """
    splits = data.splits
    if name is not None:
        if name not in splits and name != "all":
            raise DataError(f"no split {name!r}", expected=", ".join([*splits, "all"]), where=data.root)
        return data.all if name == "all" else splits[name]
    for usual in ("test", "val"):
        if usual in splits and any(record.labeled for record in splits[usual].records):
            return _of_all(splits[usual], data)
    known = ", ".join(f"{split.name} ({len(split)})" for split in splits.values())
    chosen = Split("all", data.records, data.reader)
    chosen.note = (
        f"no split test or val with masks (found: {known}): {_all_of(len(chosen))} scored, "
        "and those that the "
        "model was trained on may be among them"
    )
    return chosen


def _all_of(count: int) -> str:
    return "its one image is" if count == 1 else f"all {count} images are"


def _of_all(split: Split, data: Dataset) -> Split:
    """The split, with a note if the files do not name it: then it is a part of the images, as a training makes it."""
    if split.name in data.given:
        return split
    found = Split(split.name, split.records, split.reader)
    found.note = (
        f"the files name no split {split.name}: it is made of {len(split)} of the {counted(len(data), 'image')}, those "
        "that a training on this data holds out; --split all (split='all') scores all"
    )
    return found


def opened(
    data: Dataset | str | Path,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    labels: LabelRule | Mapping[str, Any] | None = None,
) -> Dataset:
    """The dataset itself, or the one at a path."""
    if not isinstance(data, str | Path):
        return data
    return open_dataset(data, format, images=images, masks=masks, labels=labels)


def seen_in_training(model: object, split: Split) -> dict[str, bool] | None:
    """Image id → whether the run of ``model`` was trained on the same pixels; None if there is no record of the run."""
    if not isinstance(model, str | Path):
        return None
    from segwright.training.data_fingerprint import seen_in_training as seen

    return seen(Path(model), split)


def trained_on_note(model: object, split: Split, consequence: str) -> str:
    """How many images of the split ``model`` was trained on, and the ``consequence``; "" if none, or if unknown."""
    from segwright.training.data_fingerprint import training_note

    return training_note(seen_in_training(model, split), consequence=consequence)
