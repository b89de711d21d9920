"""CVAT's auto-annotation: a model as a function for ``cvat-cli``, and for agents of its Enterprise and Cloud editions.

::

    cvat-cli task auto-annotate 42 --function-module segwright.labeling.cvat -p model=str:runs/streets

**Detection** gives one mask per class and image (``per_region``: one per connected region), which covers the model's
label mask pixel by pixel. With ``--conf-threshold`` a mask consists of the pixels whose own confidence reaches the
threshold; the others stay empty for a person. With ``--conv-mask-to-poly`` regions become polygons along the pixels'
edges, or with ``tolerance`` along simplified ones that two neighbors share: there are no gaps between classes, and a
hole is joined to its outline by a cut without width. Classes named "background" are not sent, because CVAT has no label
for what no shape covers.

**Interaction** (``interaction=bool:true``) turns points into a mask by :mod:`.interaction`.

CVAT matches labels by name. A class that the task lacks ends the command with its name, unless ``rename`` gives the
task's name, ``without`` leaves the class out, or ``--allow-unmatched-labels`` drops it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import MissingExtraError, UsageError
from segwright.core.types import IGNORE_INDEX, LabelSpace, UInt8Array
from segwright.data.annotations.polygons import fill_box
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.inference.coverage import regions
from segwright.inference.predictor import Predictor
from segwright.inference.predictor import load as load_predictor
from segwright.inference.vectorize import keyholed
from segwright.labeling.cvat_interaction import as_the_model_reads

if TYPE_CHECKING:
    import PIL.Image

BoolMask = npt.NDArray[np.bool_]
Part = tuple[int, tuple[slice, slice], BoolMask, list[float]]  # label, box, its pixels in the box, outline

OPTIONS = (
    "model=str:PATH interaction=bool:true without=str:a,b rename=str:a=A,b=B background=bool:true "
    "per_region=bool:true min_pixels=int:N tolerance=float:PIXELS device=str:cpu postprocess=str:… tta=str:flip"
)
LONGEST_LABEL = 64  # characters of a label's name on a CVAT server


def create(**options: Any) -> DetectionFunction | Any:
    """The function of a model, as ``cvat-cli`` calls it with the parameters of ``-p NAME=TYPE:VALUE``.

    UsageError for an unknown parameter or class, MissingExtraError without the extra ``cvat``; otherwise as loading.
    """
    require_sdk()
    chosen = _checked(options)
    predictor = load_predictor(
        str(chosen["model"]), device=str(chosen["device"]), post=chosen["postprocess"], tta=chosen["tta"]
    )
    if chosen["interaction"]:
        from segwright.labeling.cvat_interaction import PointFunction

        return PointFunction(predictor)
    sent = sent_labels(predictor.label_space, chosen["without"], chosen["rename"], bool(chosen["background"]))
    return DetectionFunction(
        predictor, sent, per_region=bool(chosen["per_region"]), min_pixels=int(chosen["min_pixels"]),
        tolerance=float(chosen["tolerance"]),
    )  # fmt: skip


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {
        "model": None, "interaction": False, "without": "", "rename": "", "background": False, "per_region": False,
        "min_pixels": 0, "tolerance": 0.0, "device": "auto", "postprocess": None, "tta": None,
    }  # fmt: skip
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError("unknown parameter of the CVAT function", expected=OPTIONS, found=", ".join(unknown))
    found = {**known, **options}
    if not found["model"]:
        raise UsageError("the CVAT function needs a model", expected="-p model=str:PATH", fix=OPTIONS)
    if found["interaction"]:
        useless = sorted(set(options) & {"without", "rename", "background", "per_region", "min_pixels", "tolerance"})
        if useless:
            raise UsageError("interaction has no labels", found=", ".join(useless), fix="leave them out")
    return found


def require_sdk() -> None:
    """MissingExtraError without cvat-sdk."""
    try:
        import cvat_sdk.auto_annotation
        import cvat_sdk.masks  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "CVAT's SDK is not installed", found=str(error), fix="pip install 'segwright[cvat]'"
        ) from error


def sent_labels(
    space: LabelSpace, without: str = "", rename: str = "", background: bool = False
) -> dict[str, tuple[int, ...]]:
    """The task's label → the classes that become it, in the order of the classes.

    ``without``: classes that are not sent, "sky,void". ``rename``: "car=Vehicle,truck=Vehicle"; two classes may become
    one label. ``background``: also send the class of that name. UsageError for a class that the model does not have.
    """
    left_out = _names(without)
    pairs = dict(_pair(text) for text in _names(rename))
    for name in (*left_out, *pairs):
        space.index(name)
    found: dict[str, list[int]] = {}
    for index, name in enumerate(space.names):
        dropped = name.strip().lower() in BACKGROUND_NAMES and not background and name not in pairs
        if name not in left_out and not dropped:
            found.setdefault(pairs.get(name, name), []).append(index)
    if not found:
        raise UsageError("no class is left to send", expected=", ".join(space.names), found=f"without {without}")
    long = [label for label in found if len(label) > LONGEST_LABEL]
    if long:
        raise UsageError(
            "a label's name is longer than CVAT takes", expected=f"at most {LONGEST_LABEL} characters", found=long[0],
            fix=f"-p 'rename=str:{long[0]}=shorter'",
        )  # fmt: skip
    return {label: tuple(indices) for label, indices in found.items()}


def _names(text: str) -> list[str]:
    return [name.strip() for name in str(text or "").split(",") if name.strip()]


def _pair(text: str) -> tuple[str, str]:
    name, sign, label = text.partition("=")
    if not sign or not name.strip() or not label.strip():
        raise UsageError("not a new name for a class", expected="class=label", found=text)
    return name.strip(), label.strip()


class DetectionFunction:
    """A model as CVAT's detection function: ``spec`` and ``detect``.

    ``sent``: label → class indices, as of :func:`sent_labels`. ``per_region``: a mask per connected region, over the
    sides of its pixels. ``min_pixels``: smaller masks are not sent. ``tolerance``: how far an outline may leave the
    pixels' edges, in pixels.
    """

    def __init__(
        self,
        predictor: Predictor,
        sent: Mapping[str, Sequence[int]] | None = None,
        *,
        per_region: bool = False,
        min_pixels: int = 0,
        tolerance: float = 0.0,
    ) -> None:
        from cvat_sdk import auto_annotation

        self.predictor = predictor
        self.per_region, self.min_pixels, self.tolerance = per_region, min_pixels, tolerance
        labels = dict(sent if sent is not None else sent_labels(predictor.label_space))
        self.labels = tuple(labels)
        # Class index → number of the label; 255: not sent.
        self.table: UInt8Array = np.full(256, IGNORE_INDEX, np.uint8)
        for number, indices in enumerate(labels.values()):
            self.table[list(indices)] = number
        colors = ["#{:02x}{:02x}{:02x}".format(*predictor.label_space.colors[found[0]]) for found in labels.values()]
        self.spec = auto_annotation.DetectionFunctionSpec(
            labels=[
                auto_annotation.label_spec(label, number, type="mask", color=color)
                for number, (label, color) in enumerate(zip(self.labels, colors, strict=True))
            ]
        )

    def detect(self, context: Any, image: PIL.Image.Image) -> list[Any]:
        """The shapes of one image; ``context`` is CVAT's."""
        from cvat_sdk import auto_annotation
        from cvat_sdk.masks import encode_mask

        pixels = as_the_model_reads(self.predictor, image, getattr(context, "frame_name", "the image"))
        found = self.predictor.predict(pixels)
        numbers = self.table[found.labels]
        if context.conf_threshold is not None:
            numbers[found.confidence < context.conf_threshold] = IGNORE_INDEX
        shapes = []
        polygons = bool(context.conv_mask_to_poly)
        for number, box, patch, points in self._parts(numbers, polygons):
            score = float(found.confidence[box][patch].mean(dtype=np.float64))
            if polygons:
                shapes.append(auto_annotation.polygon(number, points, score=score))
            else:
                rows, columns = box
                whole = np.zeros(numbers.shape, bool)
                whole[box] = patch
                bounds = (columns.start, rows.start, columns.stop, rows.stop)
                shapes.append(auto_annotation.mask(number, encode_mask(whole, bounds), score=score))
        return shapes

    def _parts(self, numbers: UInt8Array, polygons: bool) -> Iterator[Part]:
        """Every mask that is sent."""
        if not (polygons or self.per_region):
            for number in np.unique(numbers).tolist():
                if number != IGNORE_INDEX:
                    mask = numbers == number
                    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
                    if np.count_nonzero(mask) >= self.min_pixels:
                        yield number, box, mask[box], []
            return
        tolerance = self.tolerance if polygons else 0.0
        for region in regions(numbers, len(self.labels), tolerance):
            if region.area >= self.min_pixels:
                ring = keyholed(region).astype(np.float64)
                top, left, patch = fill_box(ring, *numbers.shape)
                box = slice(top, top + patch.shape[0]), slice(left, left + patch.shape[1])
                if patch.any():
                    yield region.label, box, patch, ring.ravel().tolist()
