"""An ensemble answers the mean of its members' probabilities, and holds one member's answer at a time."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor

from segwright.core.errors import ModelError, UsageError
from segwright.models.base import SegmentationModel, SegOutput
from segwright.models.catalog import create_model
from segwright.models.ensemble import Ensemble

LEAN: dict[str, Any] = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]}
MEMBERS = [
    {"architecture": "leannet", "arguments": LEAN},
    {"architecture": "leannet", "arguments": {**LEAN, "encoder": None}},
    {"architecture": "unet2015", "arguments": {"widths": [4, 4, 8, 8, 8]}},
]


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    torch.manual_seed(0)
    built = create_model("ensemble", classes=4, weights=None, members=MEMBERS).eval()
    assert isinstance(built, Ensemble)
    return built


def make_images(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (64, 96)])
@torch.no_grad()
def test_it_is_exactly_the_mean_of_the_probabilities(ensemble: Ensemble, size: tuple[int, int]) -> None:
    images = make_images(*size)
    alone = [member(images).logits.double().numpy() for member in ensemble.members]
    assert not np.allclose(alone[0], alone[1]), "the members differ, or the mean would prove nothing"
    expected = np.mean([softmax(logits, axis=1) for logits in alone], axis=0)
    logits = ensemble(images).logits
    assert logits.shape == (2, 4, *size) and logits.dtype == torch.float32
    np.testing.assert_allclose(softmax(logits.double().numpy(), axis=1), expected, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(np.exp(logits.double().numpy()), expected, rtol=2e-6, atol=1e-7)


class Fixed(SegmentationModel):
    """Answers given logits; tells how many of the answers before it are still held."""

    def __init__(self, logits: list[float], answers: list[weakref.ref[Tensor]] | None = None) -> None:
        super().__init__(classes=len(logits))
        self.answer, self.answers, self.held = logits, answers, 0

    def forward(self, images: Tensor) -> SegOutput:
        n, h, w, _ = images.shape
        logits = torch.tensor(self.answer)[None, :, None, None].expand(n, -1, h, w).clone()
        if self.answers is not None:
            self.held = sum(reference() is not None for reference in self.answers)
            self.answers.append(weakref.ref(logits))
        return SegOutput(logits, {})


@torch.no_grad()
def test_by_hand_and_far_from_each_other() -> None:
    """A member that is sure (a gap of 200: 1e-87, which float32 does not know) beside one that is not."""
    found = Ensemble(members=[Fixed([200.0, 0.0, -100.0]), Fixed([0.0, 0.0, 0.0])])(make_images(2, 2)).logits[
        0, :, 0, 0
    ]
    assert torch.allclose(found.exp(), torch.tensor([(1 + 1 / 3) / 2, 1 / 6, 1 / 6]))
    sure = Ensemble(members=[Fixed([200.0, 0.0, -100.0]), Fixed([200.0, 0.0, -100.0])])(make_images(2, 2)).logits
    assert torch.allclose(sure[0, :, 0, 0], torch.tensor([0.0, -200.0, -300.0])), "finite, and still in order"


@torch.no_grad()
def test_one_answer_is_held_at_a_time() -> None:
    answers: list[weakref.ref[Tensor]] = []
    members = [Fixed([float(i), 1.0], answers) for i in range(6)]
    Ensemble(members=members)(make_images(4, 4))
    assert len(answers) == 6 and max(member.held for member in members) <= 1


def test_members_must_answer_alike() -> None:
    with pytest.raises(ModelError, match="member 1") as caught:
        Ensemble(members=[Fixed([0.0, 1.0]), Fixed([0.0, 1.0, 2.0])])
    assert caught.value.expected and "2 classes" in caught.value.expected and "3 classes" in str(caught.value.found)
    with pytest.raises(UsageError, match="holds some networks"):
        Ensemble(members=[])


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"members": "leannet"},
        {"members": [{"arguments": {}}]},
        {"members": [{"architecture": "leannet", "arguments": [1]}]},
        {"members": [{"architecture": "ensemble", "arguments": {"members": MEMBERS}}]},
        {"members": [{"architecture": "os.system"}]},
        {"members": MEMBERS, "more": 1},
        {"members": MEMBERS, "encoder": "resnet18"},
        {"members": [MEMBERS[0]] * 65},
    ],
    ids=lambda arguments: str(arguments)[:60],
)
def test_what_is_no_list_of_networks_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        create_model("ensemble", classes=4, weights=None, **arguments)


@pytest.mark.parametrize("key", ["weights", "classes"])
def test_a_member_brings_no_weights_or_classes_of_its_own(key: str) -> None:
    """What loads a saved model must never be led to another file."""
    with pytest.raises(TypeError):
        create_model(
            "ensemble", classes=4, weights=None, members=[{"architecture": "leannet", "arguments": {**LEAN, key: 3}}]
        )
