"""One file a data format, each recognised by what lies on the disk.

``FORMATS`` maps the name that ``--format`` takes to the format, in the order in which they are tried: those with a
signature of their own first, the plain folder last.
"""

from __future__ import annotations

from segwright.data.formats import (
    ade20k,
    camvid,
    cityscapes,
    coco,
    cvat,
    folder,
    geotiff,
    kitti_road,
    label_studio,
    labelme,
    layers,
    oxford_pets,
    pairs,
    parquet,
    sbd,
    voc,
    webdataset,
    yolo,
)
from segwright.data.formats.base import Format

_TRIED = (
    voc, sbd, cityscapes, ade20k, kitti_road, camvid, oxford_pets, labelme, label_studio, coco, cvat, parquet,
    webdataset, yolo, pairs, layers, geotiff, folder,
)  # fmt: skip

FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in _TRIED}

__all__ = ["FORMATS", "Format"]
