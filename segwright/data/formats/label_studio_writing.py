"""Write what Label Studio imports: tasks with one brush per class, and the labeling configuration that fits them.

``tasks.json`` names images as files of a local storage, ``/data/local-files/?d=images/x.png``, with the written folder
as the document root. ``classes.csv`` keeps order and colors of the classes for our reader, ``config.xml`` has
them for Label Studio.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from segwright.core.types import IGNORE_INDEX, Color
from segwright.data.annotations.rle import encode_label_studio
from segwright.data.formats.writing import (
    IGNORE_NAME,
    OutputSample,
    annotation_labels,
    background_index,
    class_names,
    write_classes,
)
from segwright.data.records import Dataset
from segwright.imageio import UInt8Array, write_bytes

LOCAL_FILES = "/data/local-files/?d="
FROM_NAME, TO_NAME, IMAGE_KEY = "tag", "image", "image"


def brush_region(
    mask: npt.NDArray[np.bool_], label: str, from_name: str = FROM_NAME, to_name: str = TO_NAME, **more: Any
) -> dict[str, Any]:
    """A mask (H, W) as a brush of a result; its id is the same for the same brush."""
    encoded = encode_label_studio(mask)
    return {
        "id": hashlib.sha256(label.encode() + bytes(encoded)).hexdigest()[:10],
        "type": "brushlabels",
        "from_name": from_name,
        "to_name": to_name,
        "image_rotation": 0,
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        **more,
        "value": {"format": "rle", "rle": encoded, "brushlabels": [label]},
    }


def class_brushes(mask: UInt8Array, names: Sequence[str], fill: int) -> list[dict[str, Any]]:
    """A brush per class of a mask (H, W) except ``fill``; ignored pixels as ``__ignore__``."""
    return [
        brush_region(mask == index, IGNORE_NAME if index == IGNORE_INDEX else names[index])
        for index in np.unique(mask).tolist()
        if index != fill
    ]


def labeling_config(labels: Sequence[tuple[str, Color]]) -> str:
    """The labeling interface of a project: an image and a brush with these labels and colors."""
    lines = ["<View>", f'  <Image name="{TO_NAME}" value="${IMAGE_KEY}" zoom="true" zoomControl="true"/>']
    lines.append(f'  <BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">')
    for name, color in labels:
        code = "#{:02x}{:02x}{:02x}".format(*color)
        lines.append(f'    <Label value={quoteattr(name)} background="{code}"/>')
    return "\n".join([*lines, "  </BrushLabels>", "</View>", ""])


def local_file(path: str) -> str:
    """The address of a file below the document root of Label Studio's local storage."""
    return LOCAL_FILES + quote(path)


def write_label_studio(dataset: Dataset, samples: Iterator[OutputSample], out: Path) -> None:
    """images/x.png, tasks.json with an annotation per image, config.xml, classes.csv."""
    names, fill = class_names(dataset), background_index(dataset)
    tasks = []
    for number, sample in enumerate(samples, 1):
        data, ending = sample.image
        file = f"images/{sample.name}{ending}"
        write_bytes(out / file, data)
        fields = {IMAGE_KEY: local_file(file)} | ({"split": sample.split} if sample.split else {})
        task: dict[str, Any] = {"id": number, "data": fields, "annotations": []}
        if sample.mask is not None:
            task["annotations"] = [{"result": class_brushes(sample.mask, names, fill)}]
        tasks.append(task)
    write_bytes(out / "tasks.json", json.dumps(tasks, ensure_ascii=False).encode())
    write_bytes(out / "config.xml", labeling_config(annotation_labels(dataset)).encode())
    write_classes(dataset, out, IGNORE_NAME)
