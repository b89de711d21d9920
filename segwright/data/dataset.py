"""Open a dataset in any of the known formats; the format is detected from the files.

>>> data = open_dataset("photos/")                                                              # doctest: +SKIP
>>> data.format, data.notes, data.train, data.label_space                                       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segwright.core.deprecated import renamed_names
from segwright.core.errors import FormatError, SegwrightError, UsageError
from segwright.core.plugins import plugin_names
from segwright.data.annotations.sparse import FILE, LabelRule, read_rule
from segwright.data.archives import archive_of, unpacked
from segwright.data.formats import FORMATS, Format, format_by_name, refusals
from segwright.data.formats.base import sort_splits
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.folder_roles import describe_folder
from segwright.data.formats.globs import pair_globs
from segwright.data.formats.split_lists import listed_splits
from segwright.data.records import Dataset, ObjectCount, Problem, Reader, Record, Split, TypedErrors, ValueRange
from segwright.data.splits import make_splits

__all__ = [
    "Dataset",
    "ObjectCount",
    "Problem",
    "Reader",
    "Record",
    "Split",
    "ValueRange",
    "detect_format",
    "open_dataset",
]

__getattr__ = renamed_names(__name__, {"recognize": "detect_format"})


def detect_format(path: str | Path | Tree) -> tuple[Format, str]:
    """Detect the format of ``path``; returns it with the reason. FormatError listing the layouts that were tried."""
    tree = path if isinstance(path, Tree) else Tree(path)
    failed: Exception | None = None
    for known in FORMATS.values():
        try:
            reason = known.detect(tree)
        except SegwrightError:
            raise
        except Exception as error:  # a file of another kind that this format's reader trips over
            failed = failed or error
            continue
        if reason is not None:
            return known, reason
    if failed is not None:
        with TypedErrors("looking for a dataset", tree.root):
            raise failed
    hints = [known.hint for known in FORMATS.values() if known.hint is not None]
    for hint in (refusals.hint, refusals.class_folders, *hints):
        near = hint(tree)
        if near is not None:
            raise near
    raise FormatError(
        "no dataset recognized",
        expected=f"images and masks in one of {len(FORMATS)} layouts, such as images/ and masks/ with equal names",
        found=tree.summary(),
        where=tree.root,
        fix="`segwright datasets` lists the layouts; --format names one, --images and --masks are globs of any other; "
        "`segwright label` makes masks for images that have none"
        + (f"; plugins, by name alone: {', '.join(plugins)}" if (plugins := plugin_names("formats")) else ""),
    )


def _by_globs(tree: Tree, format: str | None, images: str | None, masks: str | None) -> tuple[Format, str]:
    """The format that reads the pairs of two globs, and why."""
    if images is None or masks is None:
        raise UsageError("--images and --masks go together", expected="both globs", found="one of them")
    if format not in (None, "folder", "geotiff"):
        raise UsageError("--images and --masks read files beside mask files", expected="no --format", found=format)
    pairing = tree.memo["pairing"] = pair_globs(tree, images, masks)
    known = FORMATS["geotiff"] if format != "folder" and FORMATS["geotiff"].detect(tree) else FORMATS["folder"]
    return known, f"{pairing.paired} pairs by --images {images} --masks {masks}"


def open_dataset(
    path: str | Path,
    format: str | None = None,
    *,
    images: str | None = None,
    masks: str | None = None,
    labels: LabelRule | Mapping[str, Any] | None = None,
) -> Dataset:
    """Open the dataset at ``path``; ``format`` (a key of ``FORMATS``) overrides what is recognized.

    ``images`` and ``masks`` are globs relative to ``path`` that pair files of any layout (:mod:`.formats.globs`).
    ``labels``: how points, lines and boxes become masks (:class:`.annotations.sparse.LabelRule`, or its fields by
    name); a file ``sparse-labels.yaml`` beside the data gives what is left out here.

    No image is decoded but a spread of the masks where their values have to be found. Errors: FormatError where
    nothing is recognized or the named format does not fit, UsageError for an unknown format name, LabelError where the
    masks' values are no classes. Whatever concerns single files waits in ``problems`` or is raised on reading them.
    """
    if format is not None:
        format_by_name(format)  # an unknown name is an error before anything is read
    asked = LabelRule.of(labels)
    tree = Tree(path)
    with TypedErrors("opening the dataset", tree.root):
        archive = archive_of(tree)
        if archive is not None:
            tree = Tree(unpacked(archive))
        try:
            dataset = _opened(tree, format, images, masks, asked)
        except FormatError:
            # A plain tar that holds no samples of WebDataset's is an archive like any other.
            if not tree.is_file or tree.root.suffix.lower() != ".tar" or format is not None:
                raise
            archive, tree = tree.root, Tree(unpacked(tree.root))
            dataset = _opened(tree, format, images, masks, asked)
    dataset.problems += tree.problems()
    if archive is not None:
        dataset.notes.append(f"{archive.name} is unpacked in {tree.root}, which can be deleted at any time")
    dataset.split_maker = make_splits
    return dataset


def _splits_of_folders(dataset: Dataset) -> dict[str, list[Record]]:
    """The splits by the folders of the images (``train/1.jpg``, ``images/val/1.jpg``), where all of them state one."""
    given: dict[str, list[Record]] = {}
    for record in dataset.records:
        path = record.image_path
        inside = path is not None and path.is_relative_to(dataset.root)
        split = describe_folder(path.relative_to(dataset.root).parent.as_posix())[1] if path and inside else None
        if split is None:
            return {}
        given.setdefault(split, []).append(record)
    labeled = [split for split, records in given.items() if any(record.labeled for record in records)]
    return given if len(given) > 1 and "train" in labeled else {}


def _opened(tree: Tree, format: str | None, images: str | None, masks: str | None, asked: LabelRule) -> Dataset:
    beside = read_rule(tree.root if not tree.is_file else tree.root.absolute().parent)
    rule = tree.memo["label rule"] = LabelRule(**{**asdict(beside), **asked.given()})
    if images is not None or masks is not None:
        known, reason = _by_globs(tree, format, images, masks)
    else:
        tree.memo["format"] = format
        known, reason = detect_format(tree) if format is None else (format_by_name(format), "as asked with --format")
    dataset = known.open(tree)
    if not dataset.records:
        raise FormatError("the dataset holds no image", expected=known.layout, found=tree.summary(), where=tree.root)
    if not dataset.given and not tree.is_file and "split lists" not in tree.memo:
        given, problems = listed_splits(tree, dataset.records, deep=False)
        dataset.given = sort_splits(given or _splits_of_folders(dataset))
        dataset.problems += problems
    if not rule.is_default and not tree.memo.get("label rule used"):
        raise UsageError(
            f"the masks of this format ({known.name}) state every pixel: there are no points, lines or boxes to read",
            expected="annotations of objects, such as labelme, CVAT, COCO, YOLO",
            found=", ".join(f"{name}={value}" for name, value in rule.given().items()),
            where=tree.root,
            fix="leave it out; a value of the masks that means 'not labeled' is listed so: '0 ignore' in classes.txt",
        )
    if not beside.is_default:
        dataset.notes.append(f"{FILE} is used: {', '.join(f'{k} {v}' for k, v in beside.given().items())}")
    dataset.notes.insert(0, f"{known.title}: {reason}")
    return dataset
