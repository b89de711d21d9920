"""Left and right pairs among class names, and that whatever mirrors an image exchanges them, and nothing else does."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segwright.augment import presets
from segwright.augment.device import DRAWS, DeviceTrainTransform
from segwright.augment.warp import affine, is_mirrored
from segwright.core.errors import ConfigError, ModelError, UsageError
from segwright.core.left_right import check_pairs, exchanged, find_sides, shown
from segwright.core.types import LabelSpace
from segwright.data.check.runner import check_dataset
from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.inference.ensemble import _pairs
from segwright.inference.predictor import Predictor
from segwright.inference.torch_runtime import TorchRuntime
from segwright.inference.tta import parse_tta
from segwright.losses import create_loss
from segwright.models.base import SegmentationModel, SegOutput
from segwright.training.config import TrainConfig

FACE = "skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat ear_r neck_l neck cloth"
NAMES = ("ground", "left eye", "right eye", "nose")


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (FACE.split(), "l_eye r_eye, l_brow r_brow, l_ear r_ear"),
        (["Left-arm", "Right-arm", "Left-shoe", "Right-shoe", "Face"], "Left-arm Right-arm, Left-shoe Right-shoe"),
        (["LeftLeg", "RightLeg", "rightHand", "leftHand"], "LeftLeg RightLeg, rightHand leftHand"),
        (["LEye", "REye", "LBigToe", "RBigToe", "Lankle", "Rankle"], "LEye REye, LBigToe RBigToe, Lankle Rankle"),
        (["llarm", "luarm", "rlarm", "ruarm", "lear", "rear"], "llarm rlarm, luarm ruarm, lear rear"),
        (["left lane", "right lane", "left left lane", "right right lane"],
         "left lane/right lane, left left lane/right right lane"),
        (["kidney_left", "kidney_right", "rib_left_1", "rib_right_1", "rib_left_2", "vertebrae_L1", "vertebrae_R1"],
         "kidney_left kidney_right, rib_left_1 rib_right_1"),
        (["lane_l", "lane_c", "lane_r"], "lane_l lane_r"),
        (["Arm.L", "Arm.R", "eye (left)", "eye (right)"], "Arm.L Arm.R, eye (left)/eye (right)"),
        (["turn left", "turn right", "left-to-right", "right-to-left", "left", "right"],
         "turn left/turn right, left-to-right right-to-left, left right"),
        (["Left-Lateral-Ventricle", "Right-Lateral-Ventricle"], "Left-Lateral-Ventricle Right-Lateral-Ventricle"),
        (["lefteye", "righteye"], "lefteye righteye"),
        (["LINKES AUGE", "LEFT EYE", "RIGHT EYE"], "LEFT EYE/RIGHT EYE"),
    ],
)  # fmt: skip
def test_pairs_are_found(names: list[str], pairs: str) -> None:
    wanted = [tuple(pair.split("/" if "/" in pair else " ")) for pair in pairs.split(", ")]
    assert list(find_sides(names).pairs) == wanted
    assert LabelSpace(tuple(names)).pairs == tuple(wanted)


@pytest.mark.parametrize(
    "names",
    [
        ["u_lip", "l_lip"],
        ["u_lip", "l_lip", "r_lip"],
        ["uarm", "larm", "rarm"],
        ["ear_r", "l_ear", "neck_l"],
        ["lamp", "ramp", "lock", "rock", "load", "road", "lake", "rake", "light", "right", "lane", "rane"],
        ["bright", "left over", "leftover", "over", "copyright"],
        ["type_a", "type_b", "type_l", "type_r"],
        ["shirt_s", "shirt_m", "shirt_l", "shirt_r"],
        ["L", "R"],
        list("abcdefghijklmnopqrstuvwxyz"),
        ["left ventricle", "right ventricle", "left atrium", "right atrium", "myocardium"],
        ["right lobe of the liver", "left lobe of the liver"],
        ["left eye", "Left-Eye", "right eye"],
        ["left eye", "right ear"],
        ["L1", "L2", "R1", "R2"],
    ],
)
def test_what_only_looks_like_a_pair_stays(names: list[str]) -> None:
    assert find_sides(names).pairs == ()


def test_every_class_is_in_one_pair_and_the_order_of_the_names_does_not_matter() -> None:
    words = ["left", "right", "l", "r", "lear", "rear", "eye", "u"]
    names = [" ".join(chosen) for chosen in itertools.product(words, repeat=2)]
    pairs = find_sides(names).pairs
    members = [name for pair in pairs for name in pair]
    assert pairs and len(set(members)) == len(members)
    turned = find_sides(names[::-1]).pairs
    assert {frozenset(pair) for pair in turned} == {frozenset(pair) for pair in pairs}


def test_pairs_of_a_label_space_are_checked_and_saved() -> None:
    space = LabelSpace(NAMES)
    assert space.pairs == (("left eye", "right eye"),) and space.mirrored() == ((1, 2),)
    assert LabelSpace.from_json(space.to_json()) == space
    assert LabelSpace(NAMES, pairs=()).mirrored() == ()
    assert LabelSpace.from_json(LabelSpace(NAMES, pairs=()).to_json()).pairs == ()
    own = LabelSpace(NAMES, pairs=(("ground", "nose"),))
    assert LabelSpace.from_json(own.to_json()).mirrored() == ((0, 3),)
    before = {key: value for key, value in space.to_json().items() if key != "pairs"}
    assert LabelSpace.from_json(before).pairs == (), "a model saved before was not taught them"
    for wrong in ([("left eye", "tail")], [("nose", "nose")], [("nose",)], [("nose", "ground"), ("nose", "left eye")]):
        with pytest.raises(UsageError):
            LabelSpace(NAMES, pairs=tuple(wrong))  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="here"):
            check_pairs(wrong, NAMES, "here")
    assert shown([("a", "b")] * 9) == ", ".join(["a ↔ b"] * 8) + ", … (9 pairs)"
    assert exchanged([(1, 2)], 4) == [0, 2, 1, 3]


def mask_of(size: tuple[int, int], seed: int = 0, classes: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, size).astype(np.uint8)


@pytest.mark.parametrize(("flip", "flip_vertical"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_one_flip_exchanges_and_two_do_not(flip: int, flip_vertical: int) -> None:
    """On the CPU and on a device, whatever the rotation."""
    mask = mask_of((40, 48))
    image = np.repeat(mask[..., None] * np.uint8(60), 3, axis=2)
    settings: dict[str, Any] = {
        "size": (40, 48),
        "flip": flip,
        "flip_vertical": flip_vertical,
        "rotation": 170,
        "shear": 20,
        "color": "none",
    }
    plain = presets.training(**settings)
    paired = presets.training(**settings, pairs=[(1, 2)])
    table = np.array(exchanged([(1, 2)] if flip != flip_vertical else []))
    for seed in range(8):
        pixels, without = plain(image, mask, np.random.default_rng(seed))
        same, labels = paired(image, mask, np.random.default_rng(seed))
        assert np.array_equal(pixels, same) and np.array_equal(labels, table[without])
        draws = torch.rand((3, DRAWS), generator=torch.Generator().manual_seed(seed))
        batch = [torch.from_numpy(np.stack([array] * 3)) for array in (image, mask)]
        crops, without_too = DeviceTrainTransform(plain)(*batch, draws)
        same_crops, labels_too = DeviceTrainTransform(paired)(*batch, draws)
        assert torch.equal(crops, same_crops)
        assert np.array_equal(labels_too.numpy(), table[without_too.numpy()])
        assert labels_too.dtype == torch.uint8


def test_a_matrix_is_mirrored_by_one_flip_whatever_else_it_does() -> None:
    for flip, other, rotation, shear in itertools.product(
        (False, True), (False, True), (0, 45, 90, 180, -135), (0, 60)
    ):
        matrix = affine(
            (30, 40), (20, 50), scale=(0.7, 1.3), rotation=rotation, shear=shear, flip=flip, flip_vertical=other
        )
        assert is_mirrored(matrix) == (flip != other)


def test_without_pairs_a_transform_is_what_it_was() -> None:
    assert presets.training(size=(8, 8)) == presets.training(size=(8, 8), pairs=())
    for wrong in ([(1, 1)], [(0, 255)], [(0, 1), (1, 2)], [(-1, 2)]):
        with pytest.raises(UsageError, match="pairs"):
            presets.training(size=(8, 8), pairs=wrong)


class Symmetric(SegmentationModel):
    """A network that treats left and right alike: of a mirrored image it gives the mirrored logits, classes exchanged.

    ``g`` is any function of the image; the left eye's logit is g, the right eye's the mirrored g of the mirrored image.
    """

    def __init__(self) -> None:
        super().__init__(classes=4, stride=1)
        generator = torch.Generator().manual_seed(3)
        self.kernels = torch.randn((2, 3, 5, 5), generator=generator)

    def side(self, x: Tensor, kernel: int) -> Tensor:
        return nn.functional.conv2d(x, self.kernels[kernel : kernel + 1], padding=2)

    def forward(self, images: Tensor) -> SegOutput:
        x = images.permute(0, 3, 1, 2).float() / 64
        left, right = self.side(x, 0), self.side(x.flip(3), 0).flip(3)
        nose = self.side(x, 1) + self.side(x.flip(3), 1).flip(3)
        return SegOutput(torch.cat([torch.zeros_like(left), left, right, nose], dim=1), {})


def test_a_symmetric_network_has_the_same_loss_on_a_mirrored_sample() -> None:
    """Only with the sides exchanged; with the mask flipped alone it has another."""
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    mask = mask_of((24, 32), 1)
    criterion = create_loss("ce", classes=4)
    network = Symmetric()

    def loss(sample: tuple[np.ndarray, np.ndarray]) -> float:
        pixels, labels = (torch.from_numpy(array)[None] for array in sample)
        return float(criterion(network(pixels).logits, labels.long()))

    still: dict[str, Any] = {"size": (24, 32), "scale": (1, 1), "aspect": 1, "rotation": 0, "color": "none"}
    rng = np.random.default_rng
    as_it_lies = loss(presets.training(**still, flip=0)(image, mask, rng(0)))
    paired = presets.training(**still, flip=1, pairs=LabelSpace(NAMES).mirrored())
    assert loss(paired(image, mask, rng(0))) == pytest.approx(as_it_lies, rel=1e-5)
    assert loss(presets.training(**still, flip=1)(image, mask, rng(0))) > as_it_lies + 0.1


def test_views_of_a_symmetric_network_agree_when_sides_are_exchanged() -> None:
    network, image = Symmetric(), np.random.default_rng(0).integers(0, 256, (1, 24, 30, 3)).astype(np.uint8)

    def logits(images: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(images)).logits.numpy()

    for scale in ("1", "0.5"):
        one = parse_tta(scale)(logits, image)
        assert np.allclose(parse_tta(f"flip,{scale}", [(1, 2)])(logits, image), one, atol=1e-4)
        assert not np.allclose(parse_tta(f"flip,{scale}")(logits, image), one, atol=1e-2)


def test_a_vertical_view_exchanges_and_half_a_turn_does_not() -> None:
    image = np.zeros((1, 4, 4, 3), np.uint8)

    def logits(images: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.array([0, 1, 2, 3], np.float32)[None, :, None, None], (1, 4, 4, 4)).copy()

    for views, mean in (("vflip", [0, 1.5, 1.5, 3]), ("rot180", [0, 1, 2, 3]), ("flip,vflip", [0, 1.5, 1.5, 3])):
        answer = np.log(parse_tta(views, [(1, 2)])(logits, image)[0, :, 0, 0])
        assert np.allclose(answer - answer[0], mean, atol=1e-4)
        unpaired = np.log(parse_tta(views)(logits, image)[0, :, 0, 0])
        assert np.allclose(unpaired - unpaired[0], [0, 1, 2, 3], atol=1e-4)


def test_a_predictor_takes_the_pairs_of_its_label_space() -> None:
    runtime = TorchRuntime(Symmetric(), "cpu")
    for space, pairs in ((LabelSpace(NAMES), ((1, 2),)), (LabelSpace(NAMES, pairs=()), ())):
        found = Predictor(runtime, space, tta="flip").tta
        assert found is not None and found.pairs == pairs


def test_a_setting_names_pairs_or_none() -> None:
    def chosen(value: object) -> object:
        return TrainConfig().with_values({"augment.flip_pairs": value}).augment.flip_pairs

    assert chosen("auto") == "auto" and chosen("none") == () and chosen(None) == () and chosen([]) == ()
    assert chosen([["a", "b"]]) == (("a", "b"),)
    for wrong in ("some", [["a"]], [["a", "b", "c"]], 3):
        with pytest.raises(ConfigError):
            chosen(wrong)


def test_the_check_reports_pairs_and_what_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_street_scenes(root, train=4, val=2, test=0, size=(64, 64))
    data = open_dataset(root)
    assert not any("flips" in note for note in check_dataset(data, workers=0).notes)
    names = list(data.label_space.names)
    names[:5] = ["left lane", "right lane", "left arrow", "L", "R"]
    result = check_dataset(data.with_label_space(LabelSpace(tuple(names))), workers=0)
    assert any("flips exchange left lane ↔ right lane" in note for note in result.notes)
    problem = next(problem for problem in result.problems if problem.kind == "sides not exchanged")
    assert problem.severity == "note" and "left arrow" in problem.message and "L, R (" in problem.message
    assert "[[L, R]]" in str(problem.fix)
    told = LabelSpace(tuple(names), pairs=(("left lane", "right lane"), ("L", "R"), ("left arrow", names[5])))
    result = check_dataset(data.with_label_space(told), workers=0)
    assert not any(problem.kind == "sides not exchanged" for problem in result.problems)


def test_models_that_exchange_other_classes_are_not_joined() -> None:
    def held(pairs: tuple[tuple[str, str], ...]) -> SimpleNamespace:
        return SimpleNamespace(label_space=LabelSpace(NAMES, pairs=pairs))

    one, other, none = held((("left eye", "right eye"),)), held((("nose", "ground"),)), held(())
    folders = [Path("a"), Path("b")]
    assert _pairs(folders, [none, one]) == one.label_space.pairs  # type: ignore[list-item]
    assert _pairs(folders, [none, none]) == ()  # type: ignore[list-item]
    assert _pairs(folders, [held((("right eye", "left eye"),)), one])  # type: ignore[list-item]
    with pytest.raises(ModelError, match="mirrored view"):
        _pairs(folders, [one, other])  # type: ignore[list-item]


def test_a_device_exchanges_beside_the_masks(gpu: torch.device) -> None:
    """The table lies where the masks lie; the labels are the CPU's."""
    transform = presets.training(size=(24, 24), rotation=40, flip_vertical=0.5, color="none", pairs=[(1, 2)])
    images = torch.zeros((6, 32, 32, 3), dtype=torch.uint8)
    masks = torch.from_numpy(np.stack([mask_of((32, 32), seed) for seed in range(6)]))
    draws = torch.rand((6, DRAWS), generator=torch.Generator().manual_seed(1))
    augment = DeviceTrainTransform(transform)
    there = augment(images.to(gpu), masks.to(gpu), draws.to(gpu))[1]
    here = DeviceTrainTransform(transform)(images, masks, draws)[1]
    assert there.device.type == gpu.type and torch.equal(there.cpu(), here)
    assert torch.equal(augment(images, masks, draws)[1], here), "and where the next batch lies elsewhere"
