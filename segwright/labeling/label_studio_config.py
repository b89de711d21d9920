"""A Label Studio project: its labeling configuration, and the model's classes as its labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segwright.core.errors import LabelError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.data.formats.label_studio_tasks import Interface, parse_config

EXAMPLE = '<View><BrushLabels name="tag" toName="image">…</BrushLabels><Image name="image" value="$image"/></View>'


@dataclass(frozen=True)
class Labeling:
    """The brush control of a labeling configuration."""

    from_name: str  # of <BrushLabels>
    to_name: str  # of <Image>
    key: str  # under which a task's data has the image's address
    labels: tuple[str, ...]

    @classmethod
    def parse(cls, config: Any) -> Labeling:
        """The first <BrushLabels> with its <Image>; LabelError where a configuration has none."""
        root = parse_config(config)
        images = Interface.of(root).images
        for brush in root.iter():
            to_name = brush.get("toName", "")
            if brush.tag.lower() == "brushlabels" and to_name in images:
                labels = [label.get("value") or "" for label in brush.iter() if label.tag.lower() == "label"]
                return cls(brush.get("name", ""), to_name, images[to_name], tuple(filter(None, labels)))
        kinds = sorted({element.tag for element in root.iter()})
        raise LabelError(
            "the project has no brush for an image",
            expected=EXAMPLE,
            found=", ".join(kinds)[:200],
            fix="add <BrushLabels> in the project's settings, Labeling Interface",
        )

    def address(self, task: Mapping[str, Any]) -> str:
        """The image's address in a task; LabelError where it has none."""
        data = task.get("data")
        found = data.get(self.key) if isinstance(data, Mapping) else None
        if not isinstance(found, str) or not found:
            raise LabelError(f"the task has no {self.key}", expected="the address of an image", found=str(found)[:80])
        return found


def parse_names(text: str, space: LabelSpace) -> dict[str, str]:
    """Class → its label, of "car=Vehicle,sky="; an empty label: the class is not sent. UsageError otherwise."""
    found = {}
    for part in filter(None, (one.strip() for one in (text or "").split(","))):
        name, sign, label = part.partition("=")
        if not sign:
            raise UsageError("not a label for a class", expected="class=label, or class= to leave it out", found=part)
        space.index(name.strip())
        found[name.strip()] = label.strip()
    return found


def match_classes(space: LabelSpace, labels: tuple[str, ...], names: Mapping[str, str]) -> dict[int, str]:
    """Class index → label of the project.

    LabelError that names the classes without a label: their pixels would be missing in every pre-label. A class named
    "background" is left out if the project has no label of its name.
    """
    found, missing = {}, []
    for index, name in enumerate(space.names):
        label = names.get(name, name)
        if label in labels:
            found[index] = label
        elif label and not (name.strip().lower() in BACKGROUND_NAMES and name not in names):
            missing.append(label if label == name else f"{name} (as {label})")
    if missing or not found:
        raise LabelError(
            "classes of the model are not among the project's labels",
            expected=", ".join(labels) or "labels in the configuration",
            found=", ".join(missing) or "no common name",
            fix="add them to the project, or serve with --label-studio-labels 'class=Label,other='",
        )
    return found
