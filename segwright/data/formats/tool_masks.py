"""Masks of tools that keep what a mask means in a file beside it: Omniverse Replicator's colors, MATLAB's order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segwright.core.errors import DataError, LabelError
from segwright.data.formats.list_doubts import guessed
from segwright.data.records import Problem, evenly_spread
from segwright.data.text_files import read_json

LOOKED_AT = 100  # files of labels that are compared
_REPLICATOR = re.compile(r"(semantic_segmentation)_(\d+)", re.I)
_MATLAB = re.compile(r"Label_\d+", re.I)


def refuse_own_colors(masks: Sequence[Path]) -> None:
    """LabelError where a file of labels beside each mask gives one color, or number, to different classes."""
    if not masks or not any(_REPLICATOR.fullmatch(masks[place].stem) for place in evenly_spread(len(masks), 3)):
        return
    seen: dict[str, tuple[str, Path]] = {}
    for place in evenly_spread(len(masks), LOOKED_AT):
        match = _REPLICATOR.fullmatch(masks[place].stem)
        path = masks[place].with_name(f"{match[1]}_labels_{match[2]}.json") if match else masks[place]
        for key, name in _labels(path).items():
            before, other = seen.setdefault(key, (name, path))
            if before != name:
                raise LabelError(
                    "each mask has colors of its own: Omniverse Replicator's, drawn for every frame alone",
                    expected="one color per class in all masks",
                    found=f"{key} is {before} in {other.name}, and {name} in {path.name}",
                    where=masks[place].parent,
                    fix="write the masks again with one number per class, by the names in semantic_segmentation_labels_"
                    "*.json; or render them with a fixed semantic mapping",
                )


def _labels(path: Path) -> dict[str, str]:
    """Color or number → class of one file of Replicator's."""
    try:
        data: Any = read_json(path) if path.suffix == ".json" and path.is_file() else {}
    except DataError:
        return {}
    if not isinstance(data, dict):
        return {}
    return {str(key): str(value.get("class", value)) for key, value in data.items() if isinstance(value, dict)}


def matlab_order(masks: Sequence[Path]) -> list[Problem]:
    """A warning for Label_1.png, Label_2.png of MATLAB's labelers: gTruth.mat states whose they are, not the number."""
    if not masks or not all(path.parent.name.lower() == "pixellabeldata" for path in masks):
        return []
    if not all(_MATLAB.fullmatch(path.stem) for path in masks):
        return []
    text = (
        f"{masks[0].name} and the others are paired by the numbers in their names: MATLAB numbers them in the order of "
        "gTruth.mat's images, which may be another"
    )
    fix = (
        "write the pairs in MATLAB: writetable(table(gTruth.DataSource.Source, gTruth.LabelData.PixelLabelData, "
        "'VariableNames', {'image','mask'}), 'pairs.csv')"
    )
    return [guessed(text, fix)]
