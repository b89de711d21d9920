"""Points to one object's mask, and the function that CVAT's agent calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from segwright.core.errors import UsageError
from segwright.core.types import LabelSpace
from segwright.inference.prediction import Prediction
from segwright.labeling.interaction import connected, object_mask, prepare

WIDTH, HEIGHT = 96, 64


def scene() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Two cars of different color that the network sees as one region, on a road; a third car apart."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    image[20:44, 10:40], image[20:44, 40:64] = (200, 30, 30), (30, 30, 200)
    image[8:18, 76:90] = (30, 180, 30)
    labels[20:44, 10:64] = labels[8:18, 76:90] = 1
    chances = np.stack([np.where(labels == 0, 0.9, 0.1), np.where(labels == 1, 0.9, 0.1)]).astype(np.float32)
    return image, labels, chances


def test_the_first_point_gives_the_segment_and_a_negative_one_cuts_it_at_the_edge() -> None:
    image, labels, chances = scene()
    units = prepare(image, labels, chances)
    both = np.zeros_like(labels, bool)
    both[20:44, 10:64] = True
    np.testing.assert_array_equal(object_mask(units, [(15.5, 30.0)]), both)
    left = both.copy()
    left[:, 40:] = False
    found = object_mask(units, [(15.5, 30.0)], [(60.0, 40.0)])
    np.testing.assert_array_equal(found, left)
    np.testing.assert_array_equal(object_mask(units, [(60.0, 40.0)], [(15.5, 30.0)]), both & ~left)
    joined = object_mask(units, [(15.5, 30.0), (80.0, 10.0)], [(60.0, 40.0)])
    left[8:18, 76:90] = True
    np.testing.assert_array_equal(joined, left)


def test_a_further_point_adds_a_small_segment_whole_and_of_a_large_one_what_is_near() -> None:
    image, labels, chances = scene()
    units = prepare(image, labels, chances)
    small, large = labels == 0, np.zeros_like(labels, bool)
    large[20:44, 10:64] = True
    road = object_mask(units, [(15.5, 30.0), (2.5, 40.0)])
    assert road[large].all() and road[40, 2]
    assert 0 < (road & small).sum() <= 0.3 * large.sum() + 64
    assert (road & small)[:, :40].sum() == (road & small).sum(), "near the point"


def test_a_box_bounds_the_object_and_stands_for_its_middle() -> None:
    units = prepare(*scene())
    found = object_mask(units, [], box=((12, 22), (36, 42)))
    assert found.sum() == 24 * 20 and found[22:42, 12:36].all()


def test_a_box_that_leaves_the_image_stands_for_the_middle_of_its_part_in_it() -> None:
    units = prepare(*scene())
    whole = object_mask(units, [], box=((12, 22), (36, 42)))
    np.testing.assert_array_equal(object_mask(units, [], box=((36, 42), (12, 22))), whole)
    np.testing.assert_array_equal(object_mask(units, [], box=((12, 42), (36, 22))), whole)
    found = object_mask(units, [], box=((-100, 22), (36, 42)))  # its middle is outside
    assert found.any() and not found[:, 36:].any() and not found[:22].any()
    assert not object_mask(units, [], box=((-50, -50), (-10, 20))).any()
    assert not object_mask(units, [], box=((WIDTH + 1, 5), (WIDTH + 9, 20))).any()


def test_points_of_both_kinds_in_one_unit_share_it() -> None:
    units = prepare(np.full((8, 8, 3), 50, np.uint8), np.zeros((8, 8), np.uint8), np.ones((1, 8, 8), np.float32))
    assert len(units.segment) == 1
    found = object_mask(units, [(1.5, 4.0)], [(6.5, 4.0)])
    assert found[:, :4].all() and not found[:, 4:].any()


def test_points_that_make_no_sense_are_refused() -> None:
    units = prepare(*scene())
    with pytest.raises(UsageError, match="a positive point or a box"):
        object_mask(units, [], [(1, 1)])
    with pytest.raises(UsageError, match="outside the image"):
        object_mask(units, [(WIDTH + 1, 3)])
    assert object_mask(units, [(WIDTH, HEIGHT)])[-1, -1], "the edge belongs to the last pixel"


def test_units_are_connected_and_cross_no_border_of_the_labels() -> None:
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    labels = (random.random((40, 50)) < 0.5).astype(np.uint8)
    units = prepare(image, labels, np.full((2, 40, 50), 0.5, np.float32))
    for number in range(len(units.segment)):
        inside = units.number == number
        assert len(np.unique(labels[inside])) == 1
        assert len(np.unique(connected(inside.astype(np.int64))[inside])) == 1


def test_the_function_of_cvats_agent_gives_a_mask_in_its_coding() -> None:
    pytest.importorskip("cvat_sdk.auto_annotation", reason="needs the extra cvat")
    interaction = pytest.importorskip("cvat_cli._internal.agent_driver_interaction", reason="needs cvat-cli")
    from cvat_sdk import auto_annotation
    from cvat_sdk.masks import decode_mask

    from segwright.labeling.cvat_interaction import PointFunction

    image, labels, chances = scene()

    class Predictor:
        def scaled(self, raster: Any, where: Any) -> Any:
            return raster

        def predict(self, pixels: Any, probabilities: bool = False) -> Prediction:
            return Prediction(labels, chances.max(axis=0), LabelSpace(("road", "car")), pixels, chances)

    function = PointFunction(Predictor())  # type: ignore[arg-type]
    assert isinstance(function.spec, auto_annotation.InteractionFunctionSpec)
    fields = interaction.AgentInteractionFunctionDriver.get_remote_function_fields(function.spec)
    assert fields == {"min_pos_points": 1, "min_neg_points": 0, "startswith_box_optional": True}
    context = interaction._InteractionFunctionContextImpl()
    prepared = function.preprocess_image(context, Image.fromarray(image))
    prompts = interaction._InteractionPromptsImpl(
        pos_points=((15.5, 30.0),), neg_points=((60.0, 40.0),), bounding_box=None
    )
    (shape,) = function.detect(context, prepared, prompts)
    assert isinstance(shape, auto_annotation.InteractionResultShape) and shape.type == "mask"
    found = decode_mask(shape.points, image_height=HEIGHT, image_width=WIDTH)
    np.testing.assert_array_equal(found, object_mask(prepared, [(15.5, 30.0)], [(60.0, 40.0)]))
    outside = interaction._InteractionPromptsImpl(
        pos_points=(), neg_points=(), bounding_box=((-9.0, -9.0), (-1.0, 5.0))
    )
    assert function.detect(context, prepared, outside) == [] and function.outside == 1
    beside = interaction._InteractionPromptsImpl(
        pos_points=(), neg_points=(), bounding_box=((-90.0, 22.0), (36.0, 42.0))
    )
    assert len(function.detect(context, prepared, beside)) == 1 and function.outside == 1
