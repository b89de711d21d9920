"""The update against the same written out by hand; precision; the settings of the CPU."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.core.errors import NonFiniteLossError, UsageError
from segwright.core.types import Batch
from segwright.losses import create_loss
from segwright.models.base import SegmentationModel, SegOutput
from segwright.training.distributed.world import World
from segwright.training.planning import timing
from segwright.training.planning.timing import choose_precision, seconds_per_step
from segwright.training.targets import subsample_targets
from segwright.training.train_step import Criterion, StepResult, TrainStep


class Small(SegmentationModel):
    """Two convolutions with batch norm, and an auxiliary head."""

    def __init__(self) -> None:
        super().__init__(classes=3, stride=2)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head, self.aux = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 3, 1)

    def forward_padded(self, x: Tensor) -> SegOutput:
        x = self.body(x)
        return SegOutput(self.head(x), {"aux": self.aux(x)} if self.training else {})


def loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), target, ignore_index=255)


def batch(seed: int, count: int = 2) -> Batch:
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (count, 16, 12), dtype=np.uint8)
    masks[:, :2] = 255
    images = rng.integers(0, 256, (count, 16, 12, 3), dtype=np.uint8)
    return Batch(images, masks, tuple(f"{seed}-{i}" for i in range(count)))


@dataclass
class Step:
    """A training step with a criterion, as the trainer has it in one phase."""

    step: TrainStep
    criterion: Criterion = loss
    aux_weight: float = 0.4

    def take(self, batches: list[Batch], progress: float = 0.0, **given: Any) -> StepResult:
        return self.step(batches, progress, self.criterion, self.aux_weight, **given)

    def __call__(self, batches: list[Batch], **given: Any) -> float:
        return self.take(batches, **given).loss

    @property
    def model(self) -> Any:
        return self.step.model


def build(criterion: Criterion = loss, aux_weight: float = 0.4, **arguments: object) -> Step:
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Step(TrainStep(model, optimizer, **arguments), criterion, aux_weight)  # type: ignore[arg-type]


def weights(step: Step) -> list[Tensor]:
    return [p.detach().clone() for p in step.model.state_dict().values()]


def test_an_update_is_what_it_says() -> None:
    step = build(clip=0.5, aux_weight=0.25)
    model = copy.deepcopy(step.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for seed in range(3):
        item = batch(seed)
        returned = step([item])
        output = model(torch.from_numpy(item.images))
        target = torch.from_numpy(item.masks).long()
        value = loss(output.logits, target) + 0.25 * loss(output.aux["aux"], target)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        assert returned == pytest.approx(value.item(), rel=1e-6)
    for ours, theirs in zip(step.model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = build(clip=1.0), build(clip=1.0)
    for seed in range(4):
        assert first([batch(seed)]) == second([batch(seed)])
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


LOSSES = ["ce", "ce(smoothing=0.05)", "focal", "border", "0.5*ce+focal", "lovasz(per_image=true)"]


def divided(batch: Batch, *sizes: int) -> list[Batch]:
    edges = np.cumsum([0, *sizes])
    return [Batch(batch.images[a:b], batch.masks[a:b], batch.ids[a:b]) for a, b in itertools.pairwise(edges)]


def uneven(count: int = 4) -> Batch:
    """The images have very different numbers of labeled pixels and of classes; one has none."""
    item = batch(0, count)
    item.masks[0, 5:] = 255
    item.masks[1] = 1
    item.masks[2] = 255
    return item


def frozen(**arguments: Any) -> Step:
    """Batch norm on fixed statistics, so that parts and whole see the same network; the auxiliary head trains."""
    step = build(**arguments)
    step.model.body[1].eval()
    return step


@pytest.mark.parametrize("sizes", [(2, 2), (1, 1, 1, 1), (3, 1)])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_parts_take_the_update_of_the_whole_batch(name: str, weighted: bool, sizes: tuple[int, ...]) -> None:
    whole, parts = frozen(), frozen()
    for step in (whole, parts):
        step.criterion = create_loss(name, classes=3, class_weights=(0.1, 1.0, 7.0) if weighted else None)
    item = uneven()
    for index in range(3):
        one = whole([item], index=index)
        assert parts(divided(item, *sizes), index=index) == pytest.approx(one, rel=1e-5)
    for a, b in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_loss_of_the_output_is_told_without_the_auxiliary_heads() -> None:
    item = uneven()
    step = frozen(aux_weight=0.25)
    output = step.model(torch.from_numpy(item.images))
    target = torch.from_numpy(item.masks).long()
    step.criterion = create_loss("ce(smoothing=0.05)", classes=3, class_weights=(0.1, 1.0, 7.0))
    main, aux = step.criterion(output.logits, target).item(), step.criterion(output.aux["aux"], target).item()
    parts = frozen(aux_weight=0.25)
    parts.criterion = step.criterion
    for taken in (step.take([item]), parts.take(divided(item, 3, 1))):
        assert taken.main_loss == pytest.approx(main, rel=1e-5)
        assert taken.loss == pytest.approx(main + 0.25 * aux, rel=1e-5)


def test_an_overlap_of_the_batch_is_weighed_by_labeled_pixels_and_named() -> None:
    loss = create_loss("ce+0.5*jaccard+0*dice", classes=3)
    assert loss.per_part() == ["jaccard"] and create_loss("ce", classes=3).per_part() == []
    item = uneven()
    parts = divided(item, 1, 3)
    target = torch.from_numpy(item.masks).long()
    assert loss.amounts(target).tolist() == [(target != 255).sum().item()] * 3
    step = frozen()
    step.criterion = create_loss("jaccard", classes=3)
    step.aux_weight = 0.0
    expected = total = 0.0
    for part in parts:
        images, masks = torch.from_numpy(part.images), torch.from_numpy(part.masks).long()
        count = (masks != 255).sum().item()
        expected += count * step.criterion(step.model(images).logits, masks).item()
        total += count
    assert step(parts) == pytest.approx(expected / total, rel=1e-5)


def test_coarse_logits_answer_for_the_same_pixels_in_every_part() -> None:
    item = uneven()
    logits = torch.zeros(4, 3, 4, 3)
    _, whole = subsample_targets(logits, torch.from_numpy(item.masks), (3, 7))
    for start, part in enumerate(divided(item, 1, 1, 1, 1)):
        _, one = subsample_targets(logits[:1], torch.from_numpy(part.masks), (3, 7))
        assert torch.equal(one[0], whole[start])
    rows = {
        int(subsample_targets(logits, torch.arange(16)[:, None].expand(1, 16, 12), (0, n))[1][0, 0, 0])
        for n in range(40)
    }
    assert rows == {0, 1, 2, 3}, "over a run every pixel is one"


def test_a_batch_without_labels_changes_nothing_by_its_loss() -> None:
    step = frozen()
    step.criterion = create_loss("ce", classes=3)
    item = batch(0, 4)
    item.masks[:] = 255
    before = weights(step)
    assert step(divided(item, 2, 2)) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(weights(step), before, strict=True))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_leaves_the_weights(clip: float | None) -> None:
    """A finite loss may have a slope that is not: the root at 0."""
    step = build(clip=clip)
    before = weights(step)[:2]
    step.criterion = lambda logits, target: (logits * 0).abs().sum().sqrt() + loss(logits, target)
    with pytest.raises(NonFiniteLossError, match="gradient is not finite") as caught:
        step([batch(7)])
    assert "7-0, 7-1" in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(weights(step)[:2], before, strict=True))
    assert all(p.grad is None for p in step.step.parameters)


def test_a_loss_that_is_not_finite_leaves_the_weights() -> None:
    step = build()
    before = weights(step)[:2]
    step.criterion = lambda logits, target: logits.sum() * float("nan")
    with pytest.raises(NonFiniteLossError, match="7-0, 7-1"):
        step([batch(7)])
    assert all(torch.equal(a, b) for a, b in zip(weights(step)[:2], before, strict=True))
    assert all(p.grad is None for p in step.step.parameters)


def test_the_average_is_told_after_the_step() -> None:
    seen = []

    class Follower:
        def update(self, progress: float) -> None:
            seen.append((progress, step.model.head.weight.detach().clone()))

    step = build(average=Follower())
    before = step.model.head.weight.detach().clone()
    step([batch(0)], progress=0.3)
    assert seen[0][0] == 0.3 and not torch.equal(seen[0][1], before)
    assert torch.equal(seen[0][1], step.model.head.weight)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precisions_learn(precision: str) -> None:
    step = build(precision=precision)
    losses = [step([batch(0)]) for _ in range(30)]
    assert losses[-1] < 0.85 * losses[0]
    assert all(p.dtype == torch.float32 for p in step.step.parameters)


def test_unknown_precision() -> None:
    with pytest.raises(UsageError, match="precision"):
        build(precision="int4")


def test_bf16_only_where_native_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = {"fp32": 1.0, "bf16": 0.5}
    monkeypatch.setattr(timing, "has_native_bf16", lambda: False)
    assert choose_precision("cpu", timed.__getitem__)[0] == "fp32"
    monkeypatch.setattr(timing, "has_native_bf16", lambda: True)
    assert choose_precision("cpu", timed.__getitem__)[0] == "bf16"
    assert choose_precision("cpu")[0] == "fp32"
    timed["bf16"] = 0.99
    precision, reason = choose_precision("cpu", timed.__getitem__)
    assert precision == "fp32" and "no gain" in reason
    timed |= {"fp32": 0.04, "bf16": 0.01}
    precision, reason = choose_precision("cpu", timed.__getitem__)
    assert precision == "fp32" and "little to gain" in reason, "what a short step takes is chance"
    slow_once = {"fp32": iter((0.9, 0.3)), "bf16": iter((0.3, 0.3))}
    assert choose_precision("cpu", lambda kind: next(slow_once[kind]))[0] == "fp32"


def test_seconds_per_step_counts_after_the_warm_up() -> None:
    calls = []
    assert 0 <= seconds_per_step(lambda: calls.append(1), repeats=2, warmup=3) < 1
    assert len(calls) == 5


def test_cpu_settings_respect_the_user_and_come_before_torch() -> None:
    program = (
        "import os, sys; from segwright.training.planning.cpu import prepare_cpu; done = prepare_cpu();"
        "assert 'torch' not in sys.modules;"
        "print(len(done), *(os.environ.get(k) for k in ('THP_MEM_ALLOC_ENABLE', 'GOMP_SPINCOUNT')))"
    )

    def run(**environment: str) -> str:
        import os

        ours = ("MALLOC_MMAP_THRESHOLD_", "THP_MEM_ALLOC_ENABLE", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
        clean = {k: v for k, v in os.environ.items() if k not in ours}
        return subprocess.run(
            [sys.executable, "-c", program], env={**clean, **environment}, capture_output=True, text=True, check=True
        ).stdout.strip()

    if sys.platform == "linux":
        assert run().endswith("1 20000")
        assert run(THP_MEM_ALLOC_ENABLE="0", MALLOC_MMAP_THRESHOLD_="131072", OMP_WAIT_POLICY="active") == "0 0 None"


def test_every_process_draws_its_own_dropout_and_the_same_on_resuming() -> None:
    def drawn(rank: int, index: int, before: int) -> list[float]:
        found: list[float] = []

        def criterion(logits: Tensor, target: Tensor) -> Tensor:
            found.append(float(torch.rand(())))  # as a dropout would
            return loss(logits, target)

        step = build(criterion, world=World(rank, 1))
        torch.manual_seed(before)  # whatever a resumed process begins with
        step.take([batch(0)], index=index)
        return found

    assert drawn(1, 5, before=0) == drawn(1, 5, before=99)
    assert len({tuple(drawn(rank, index, before=0)) for rank in (1, 2, 3) for index in (5, 6)}) == 6
    assert drawn(0, 5, before=0) != drawn(1, 5, before=0)
