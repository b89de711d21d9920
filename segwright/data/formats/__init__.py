"""One file a data format, each recognised by what lies on the disk.

``FORMATS`` maps the name that ``--format`` takes to the format, in the order in which they are tried: those with a
signature of their own first, the plain folder last.
"""

from __future__ import annotations

from segwright.data.formats import camvid, coco, folder, sbd, voc
from segwright.data.formats.base import Format

FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in (voc, sbd, coco, camvid, folder)}

__all__ = ["FORMATS", "Format"]
