"""Safe decoding and encoding of image files: limits first, then pixels. The only package that opens an image file.

A file is read once. Its kind is found by its content, never by its name; its header is checked against
:class:`Limits`, and its structure for being whole, before a decoder sees it (:mod:`.headers`, :mod:`.png`,
:mod:`.jpeg`). The fastest decoder that is strict does the rest (:mod:`.decode`). :func:`read_raster` keeps bands and
number type (:mod:`.raster`), :mod:`.isolated` does the same work in a child process that may die of it.
"""

from segwright.core.deprecated import renamed_names
from segwright.imageio.decode import decode_image, decode_mask, read_file, read_image, read_mask
from segwright.imageio.encode import encode_jpeg, encode_png, write_bytes, write_image, write_mask
from segwright.imageio.headers import parse_header, read_header, sniff
from segwright.imageio.image_info import EXTENSIONS, ImageInfo, UInt8Array, check_limits
from segwright.imageio.limits import DEFAULT_LIMITS, Limits
from segwright.imageio.raster import page_count, read_raster
from segwright.imageio.tiles import TiffInfo, WindowReader, read_window, tiff_info

__all__ = [
    "DEFAULT_LIMITS",
    "EXTENSIONS",
    "ImageInfo",
    "Limits",
    "TiffInfo",
    "UInt8Array",
    "WindowReader",
    "check_limits",
    "decode_image",
    "decode_mask",
    "encode_jpeg",
    "encode_png",
    "page_count",
    "parse_header",
    "read_file",
    "read_header",
    "read_image",
    "read_mask",
    "read_raster",
    "read_window",
    "sniff",
    "tiff_info",
    "write_bytes",
    "write_image",
    "write_mask",
]

__getattr__ = renamed_names(__name__, {"extent": "tiff_info"})
