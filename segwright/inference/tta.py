"""Test-time augmentation: a network's logits averaged over several views of an image.

The views are the product of the parts of a text: ``flip,0.75,1,1.25`` is three scales, each as it is and mirrored: six
views. The text follows the grammar of :mod:`segwright.postprocess.pipeline_spec`, its steps separated by commas:

| part | what it adds |
|---|---|
| 0.5, 1, 1.25 … | scales; without any, 1 |
| flip, vflip | also mirrored left to right, top to bottom |
| rotate(a, …) | also rotated by each angle, in degrees; multiples of 90 are exact |
| rot90, rot180, rot270 | short for rotate(90), rotate(180), rotate(270) |
| shift(d, …) | also moved by d pixels right and down, for networks whose grid shows in the output |

A mirrored view (by flip or vflip; both together are half a turn) shows a left eye as a right one: with ``pairs``, the
channels of such classes are exchanged when the view is mapped back.

Memory is bounded: one view at a time is run and added in place to one sum of the size of the output.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from segwright.core.errors import ModelError, PostprocessError
from segwright.core.left_right import exchanged
from segwright.core.types import Float32Array
from segwright.postprocess.pipeline_spec import Reader, StepSpec

UInt8Array = npt.NDArray[np.uint8]

MOST_VIEWS = 64
WORDS = ("flip", "vflip", "rotate", "rot90", "rot180", "rot270", "shift")
OTHER_NAMES = {  # what others call a view
    "hflip": "flip", "horizontal_flip": "flip", "mirror": "flip", "vertical_flip": "vflip", "rotation": "rotate",
    "translate": "shift", "scale": "a bare number, such as 0.75",
}  # fmt: skip


class Logits(Protocol):
    """A network on raw pixels, such as a torch model or an onnxruntime session."""

    def __call__(self, images: UInt8Array, /) -> Float32Array:
        """uint8 N×H×W×C → float32 N×K×H×W."""
        ...


@dataclass(frozen=True)
class View:
    """One view of an image: scaled, then mirrored, rotated (degrees, counter-clockwise), shifted (pixels)."""

    scale: float = 1.0
    flip: bool = False
    vflip: bool = False
    angle: float = 0.0
    shift: int = 0

    @property
    def is_mirrored(self) -> bool:
        """Whether left and right are exchanged: by one flip; two flips are a rotation."""
        return self.flip != self.vflip


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Views to average over; ``str()`` is the text. ``pairs``: channels that a mirrored view exchanges."""

    __test__ = False  # the name begins with Test; pytest must not collect it

    text: str
    views: tuple[View, ...]
    pairs: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return self.text

    def __call__(self, logits: Logits, images: UInt8Array) -> Float32Array:
        """Probabilities float32 N×K×H×W of uint8 N×H×W×C: the softmax of the mean of the views' logits.

        A pixel outside a view, such as a rotated corner, is averaged over the other views.
        """
        if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape:
            raise ModelError("images are uint8 N×H×W×C", found=f"{images.dtype} {images.shape}")
        height, width = images.shape[1:3]
        total: Float32Array | None = None
        seen = np.zeros((height, width), np.float32)
        for view in self.views:
            total = _add(view, logits, images, total, seen, self.pairs if view.is_mirrored else ())
        assert total is not None  # parse_tta gives at least one view
        total /= np.maximum(seen, 1e-6)
        return np.asarray(softmax(total, axis=1), np.float32)

    def each(self, logits: Logits, image: UInt8Array) -> Iterator[tuple[Float32Array, Float32Array]]:
        """Of one image H×W×C, per view: its probabilities mapped back, float32 K×H×W, and where it sees the image, H×W
        in 0…1."""
        for view in self.views:
            seen = np.zeros(image.shape[:2], np.float32)
            total = _add(view, logits, image[None], None, seen, self.pairs if view.is_mirrored else ())
            yield np.asarray(softmax(total[0] / np.maximum(seen, 1e-6), axis=0), np.float32), np.minimum(seen, 1)


def parse_tta(text: str, pairs: Sequence[tuple[int, int]] = ()) -> TestTimeAugmentation:
    """Parse the views in ``text``, with class indices (left, right) for ``pairs``.

    PostprocessError with a caret under a mistake.
    """
    reader = Reader(text, "test-time augmentation", "view")
    scales: list[float] = []
    flips: dict[str, tuple[bool, ...]] = {"flip": (False,), "vflip": (False,)}
    angles, shifts = [0.0], [0]
    for step in reader.steps(","):
        if step.number is not None:
            if not 0.1 <= step.number <= 4:
                raise reader.mistake("a scale out of range", step.place, expected="0.1 to 4")
            scales.append(step.number)
        elif step.name not in WORDS:
            raise reader.unknown("view", step.name, step.place, (*WORDS, "a scale such as 0.75"), others=OTHER_NAMES)
        elif step.name in flips or step.name[3:].isdigit():
            if step.positional or step.named:
                raise reader.mistake(f"{step.name} takes no arguments", step.place)
            if step.name in flips:
                flips[step.name] = (False, True)
            else:
                angles.append(float(step.name[3:]))
        elif step.name == "rotate":
            angles += _numbers(reader, step, 360, "degrees from -360 to 360")
        else:
            shifts += [int(number) for number in _numbers(reader, step, 256, "pixels from -256 to 256", whole=True)]
    once = [dict.fromkeys(values) for values in (scales or [1.0], angles)]
    combined = itertools.product(once[0], flips["flip"], flips["vflip"], once[1], dict.fromkeys(shifts))
    views = tuple(View(scale, flip, vflip, angle, shift) for scale, flip, vflip, angle, shift in combined)
    if len(views) > MOST_VIEWS:
        raise PostprocessError(
            "test-time augmentation: too many views",
            expected=f"at most {MOST_VIEWS}",
            found=f"{len(views)} from {text!r}",
            fix="name fewer scales, rotations or shifts: their numbers multiply",
        )
    return TestTimeAugmentation(text, views, tuple(pairs))


def _numbers(reader: Reader, step: StepSpec, limit: float, expected: str, *, whole: bool = False) -> list[float]:
    if step.named or not step.positional:
        raise reader.mistake(
            f"{step.name} takes numbers", step.place, expected=f"{step.name}({'8' if whole else '90'})"
        )
    found = []
    for value in step.positional:
        number = value.number
        if number is None or value.share or abs(number) > limit or (whole and number % 1):
            raise reader.mistake(f"{value.text!r} does not fit", value.place, expected=expected)
        found.append(number)
    return found


def _add(
    view: View,
    logits: Logits,
    images: UInt8Array,
    total: Float32Array | None,
    seen: Float32Array,
    pairs: tuple[tuple[int, int], ...],
) -> Float32Array:
    """Run one view, map its logits back, and add them to ``total`` and its visibility to ``seen``; the channels in
    ``pairs`` are exchanged."""
    height, width = images.shape[1:3]
    size = (max(1, round(height * view.scale)), max(1, round(width * view.scale)))
    forward, back, mask = _geometry(view, size)
    answer = np.asarray(logits(np.stack([forward(_resized(image, size)) for image in images])), np.float32)
    if total is None:
        total = np.zeros((len(images), answer.shape[1], height, width), np.float32)
    weight = None if mask is None else _plane(mask, (height, width))
    places = exchanged(pairs, answer.shape[1])
    for n, k in np.ndindex(*answer.shape[:2]):
        plane = _plane(back(answer[n, k]), (height, width))
        total[n, places[k]] += plane if weight is None else plane * weight
    seen += np.float32(1.0) if weight is None else weight
    return total


Warp = Callable[[Any], Any]  # uint8 H×W×C or float32 H×W in, the same kind out


def _geometry(view: View, size: tuple[int, int]) -> tuple[Warp, Warp, Float32Array | None]:
    """(image → view, view's plane → image's plane, where the view sees the image; None: everywhere)."""
    height, width = size
    quarter = round(view.angle / 90)
    exact = abs(view.angle - 90 * quarter) < 1e-9
    if view.flip or view.vflip:
        rest = View(1.0, False, False, view.angle, view.shift)
        inner, outer, mask = _geometry(rest, size)
        flips = (slice(None, None, -1 if view.vflip else 1), slice(None, None, -1 if view.flip else 1))
        return (
            lambda image: inner(np.ascontiguousarray(image[flips])),
            lambda plane: np.ascontiguousarray(outer(plane)[flips]),
            None if mask is None else np.ascontiguousarray(mask[flips]),
        )
    if exact and view.shift == 0:
        return (
            lambda image: np.ascontiguousarray(np.rot90(image, quarter)),
            lambda plane: np.ascontiguousarray(np.rot90(plane, -quarter)),
            None,
        )
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), view.angle, 1.0)
    matrix[:, 2] += view.shift
    whole = exact and quarter % 4 == 0  # a mere shift moves whole pixels: nothing to interpolate
    method = cv2.INTER_NEAREST if whole else cv2.INTER_LINEAR

    def forward(image: Any) -> Any:
        warped = cv2.warpAffine(image, matrix, (width, height), flags=method, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(warped).reshape(image.shape)

    def back(plane: Any) -> Any:
        flags = method | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(plane, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE))

    inside = np.ones(size, np.float32)  # what of the image is still inside the view
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    visible = cv2.warpAffine(inside, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    return forward, back, np.maximum(np.asarray(visible, np.float32), np.float32(1e-3))


def _resized(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    if image.shape[:2] == size:
        return image
    method = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8).reshape(*size, image.shape[2])


def _plane(plane: Any, size: tuple[int, int]) -> Any:
    return plane if plane.shape == size else np.asarray(cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR))
