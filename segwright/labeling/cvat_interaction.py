"""CVAT's interaction function: points and a box on an image become a mask (:mod:`.interaction`)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from segwright.core.counted import counted
from segwright.imageio import UInt8Array
from segwright.imageio.decode import stretched
from segwright.inference.predictor import STRETCHED, Predictor
from segwright.labeling.interaction import Units, object_mask, prepare

if TYPE_CHECKING:
    import PIL.Image

logger = logging.getLogger("segwright.label")
RAW_MODES = ("RGB", "RGBA", "L", "I;16", "I;16B", "I;16L", "I", "F")  # of Pillow, read as they are


class PointFunction:
    """A model as CVAT's interaction function: ``spec``, ``preprocess_image`` and ``detect``.

    At least one positive point; negative points and a box are optional. The network runs once per image, in
    ``preprocess_image``, whose result CVAT's agent keeps.
    """

    def __init__(self, predictor: Predictor) -> None:
        from cvat_sdk import auto_annotation

        self.predictor = predictor
        self.outside = 0  # boxes without points that lie outside of their image
        self.spec = auto_annotation.InteractionFunctionSpec(min_pos_points=1, min_neg_points=0, min_bounding_boxes=0)

    def preprocess_image(self, context: Any, image: PIL.Image.Image) -> Units:
        """The image, divided by what the network sees in it."""
        pixels = as_the_model_reads(self.predictor, image, "the image")
        found = self.predictor.predict(pixels, probabilities=True)
        assert found.probabilities is not None
        return prepare(pixels, found.labels, found.probabilities)

    def detect(self, context: Any, pp_image: Units, prompts: Any) -> list[Any]:
        """The one shape that fits the prompts; none if no pixel does."""
        from cvat_sdk import auto_annotation
        from cvat_sdk.masks import encode_mask

        box = prompts.bounding_box
        found = object_mask(pp_image, list(prompts.pos_points), list(prompts.neg_points), box)
        if not found.any():
            if box is not None and not prompts.pos_points and _is_outside(box, *found.shape):
                self.outside += 1
                logger.warning("%s outside of its image so far: no mask", counted(self.outside, "box", "is"))
            return []
        rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        bounds = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        return [auto_annotation.InteractionResultShape(type="mask", points=encode_mask(found, bounds))]


def _is_outside(box: Any, height: int, width: int) -> bool:
    (x0, y0), (x1, y1) = box
    return bool(max(x0, x1) <= 0 or max(y0, y1) <= 0 or min(x0, x1) >= width or min(y0, y1) >= height)


def as_the_model_reads(predictor: Predictor, image: PIL.Image.Image, where: str) -> UInt8Array:
    """An image as CVAT hands it over as :meth:`Predictor.read` gives its file: deep ones are brought to 8 bits."""
    array = as_array(image)
    if array.dtype != np.uint8 and predictor.value_range is None:
        if STRETCHED not in predictor.notes:
            logger.warning(STRETCHED)
        predictor.note(STRETCHED)
        array = stretched(array, where)
    return predictor.scaled(array, where)


def as_array(image: PIL.Image.Image) -> np.ndarray[Any, Any]:
    """H×W×C of an image as CVAT hands it over: turned by its EXIF, as CVAT shows it; palettes become RGB."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode not in RAW_MODES:
        upright = upright.convert("RGBA" if "transparency" in upright.info or upright.mode.endswith("A") else "RGB")
    array = np.asarray(upright)
    return array if array.ndim == 3 else array[..., None]
