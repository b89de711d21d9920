"""One file per data format; each detects its layout and reads it, some write it.

``FORMATS`` maps the name that ``--format`` takes to the format, in the order in which they are tried: those with a
signature of their own first, the plain folder last.
"""

from __future__ import annotations

from segwright.core.errors import UsageError
from segwright.core.plugins import load_plugin, not_a_plugin, plugin_names
from segwright.data.formats import (
    ade20k,
    ade20k_full,
    aerial,
    camvid,
    cityscapes,
    coco,
    csv_pairs,
    cvat,
    darwin,
    driving,
    faces,
    folder,
    geotiff,
    ground_truth,
    hasty,
    kitti_road,
    label_folder,
    label_studio,
    label_studio_masks,
    labelme,
    labelme_web,
    medical,
    multi_mask,
    nnunet,
    oxford_pets,
    parquet,
    roboflow_masks,
    run_lengths,
    sbd,
    supervisely,
    via,
    voc,
    voc_boxes,
    webdataset,
    yolo,
)
from segwright.data.formats.base import Format

_TRIED: tuple[Format, ...] = (
    label_folder.FORMAT,
    voc.FORMAT, sbd.FORMAT, cityscapes.FORMAT, ade20k.FORMAT, ade20k_full.FORMAT, kitti_road.FORMAT, camvid.FORMAT,
    oxford_pets.FORMAT,
    *driving.FORMATS, *aerial.FORMATS, *medical.FORMATS, *faces.FORMATS,
    nnunet.FORMAT, roboflow_masks.FORMAT, supervisely.FORMAT, via.FORMAT, darwin.FORMAT, hasty.FORMAT,
    labelme_web.FORMAT, ground_truth.FORMAT,
    labelme.FORMAT, label_studio.FORMAT, label_studio_masks.FORMAT, coco.FORMAT,
    cvat.FORMAT, parquet.FORMAT, webdataset.FORMAT, yolo.FORMAT,
    voc_boxes.FORMAT,
    run_lengths.FORMAT, csv_pairs.FORMAT, multi_mask.FORMAT, geotiff.FORMAT, folder.FORMAT,
)  # fmt: skip

FORMATS: dict[str, Format] = {known.name: known for known in _TRIED}


def format_by_name(name: str) -> Format:
    """The format of a name: ours, else a plugin's. UsageError for an unknown name, PluginError for a broken plugin."""
    if name in FORMATS:
        return FORMATS[name]
    expected = "a segwright.data.formats.base.Format"
    found = load_plugin("formats", name, expected)
    if found is None:
        raise UsageError("unknown data format", expected=", ".join([*FORMATS, *plugin_names("formats")]), found=name)
    if not isinstance(found, Format):
        raise not_a_plugin("formats", name, expected, found)
    return found


__all__ = ["FORMATS", "Format", "format_by_name"]
