"""Roboflow's "Semantic Segmentation Masks": ``train/x.jpg``, ``train/x_mask.png``, ``train/_classes.csv``.

Each part has its own class list; they must agree, for a value means one class in all of them.
"""

from __future__ import annotations

from pathlib import Path

from segwright.core.errors import FormatError
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.mask_encoding import MaskEncoding, infer_encoding
from segwright.data.formats.published_layout import PHOTO, Found, Layout, Place
from segwright.data.label_maps import ClassList, read_class_list

LIST = "_classes.csv"


def _lists(tree: Tree) -> list[Path]:
    walk = () if tree.is_file else tree.walk(depth=3)
    return [Path(listing.path, LIST) for _, listing in walk if LIST in listing.files]


def _coding(tree: Tree, found: Found) -> MaskEncoding:
    lists = [read_class_list(path) for path in _lists(tree)]
    for other in lists[1:]:
        if _named(other) != _named(lists[0]):
            raise _disagreement(lists[0], other, tree.root)
    return infer_encoding(found.masks, lists[0], tree.root)


def _named(classes: ClassList) -> dict[int, str]:
    return {entry.value: entry.name for entry in classes.entries}


def _disagreement(left: ClassList, right: ClassList, where: Path) -> FormatError:
    one, two = _named(left), _named(right)
    value = next(v for v in sorted(one.keys() | two.keys()) if one.get(v) != two.get(v))
    meanings = [classes.get(value, "nothing") for classes in (one, two)]
    return FormatError(
        "the parts' class lists differ, and a value would mean two classes",
        expected="one _classes.csv for all parts",
        found=f"value {value} is {meanings[0]} in {left.path} and {meanings[1]} in {right.path}",
        where=where,
        fix="export all parts from one version of the project, or open one part by itself",
    )


class _Roboflow(Layout):
    """Masks beside the images are Roboflow's where its class lists lie there."""

    def detect(self, tree: Tree) -> str | None:
        return super().detect(tree) if _lists(tree) else None


_PART = r"(?:(?P<split>train|valid|val|test)|[^/]*)"
FORMAT = _Roboflow(
    "roboflow_masks",
    "Roboflow's semantic segmentation masks",
    "train/x.jpg, train/x_mask.png and train/_classes.csv",
    (Place(_PART, rf"(?P<key>(?!.*_mask\.png$).+)\.{PHOTO}"),),
    (Place(_PART, r"(?P<key>.+)_mask\.png"),),
    _coding,
).format()
