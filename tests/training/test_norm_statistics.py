"""Batch-norm statistics measured anew: those of all images together, of any network, with nothing else touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import trainer
from torch import Tensor, nn

from segwright import kernels
from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.models.catalog import create_model
from segwright.training.distributed.world import World
from segwright.training.optim.norm_statistics import measure_statistics, statistics_kept


class Small(nn.Module):
    """A norm on the input, one behind it, dropout, and a norm that only training reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.aux = nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images.permute(0, 3, 1, 2).float())
        x = self.second(self.drop(2 * x + 1))
        return self.aux(x) if self.training else x


def images(count: int = 4, batch: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 40 * (n + 2), (batch, 9, 8, 3), generator=generator).to(torch.uint8) for n in range(count)]


def test_they_are_the_mean_and_variance_of_all_images_together() -> None:
    network, batches = Small(), images()
    random = torch.get_rng_state()
    measure_statistics(network, batches)
    assert torch.equal(torch.get_rng_state(), random), "no dropout"
    pixels = torch.cat(batches).double().flatten(0, 2)
    torch.testing.assert_close(network.first.running_mean, pixels.mean(0).float())
    torch.testing.assert_close(network.first.running_var, pixels.var(0).float(), rtol=1e-2, atol=0)
    assert network.second.running_mean == pytest.approx(torch.ones(3), abs=1e-3)  # 2 · 0 + 1 of every batch
    assert torch.equal(network.aux.running_mean, torch.zeros(3)), "a norm that no image reaches keeps its own"
    assert network.training and network.first.training and network.second.momentum is None
    assert int(network.first.num_batches_tracked) == 0 and network.first.momentum == 0.1


def test_what_is_left_out_stays() -> None:
    network = Small().eval()
    measure_statistics(network, images(), leave=["first"])
    assert torch.equal(network.first.running_mean, torch.zeros(3)) and not torch.equal(
        network.second.running_mean, torch.zeros(3)
    )
    assert not network.training
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(RuntimeError):
        measure_statistics(network, [*images(1), torch.zeros(1, 4, 4, 5, dtype=torch.uint8)])
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "an error leaves everything as it was"


@dataclass(frozen=True)
class Shares(World):
    """A process whose sums another's are added to."""

    others: list[Tensor] = field(default_factory=list)

    def total(self, tensor: Tensor) -> Tensor:
        found = tensor + sum(self.others)
        self.others.append(tensor)
        return found


def test_processes_agree_on_the_statistics_of_all_their_images() -> None:
    whole, first, second = Small(), Small(), Small()
    batches = images()
    measure_statistics(whole, batches)
    sums: list[Tensor] = []
    measure_statistics(first, batches[:2], world=Shares(0, 2, others=sums))
    measure_statistics(second, batches[2:], world=Shares(1, 2, others=sums))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, msg=name)


@pytest.mark.parametrize("name", ["leannet", "unet"])
def test_of_a_network_of_the_catalog(name: str) -> None:
    """By the short way on a CPU as by torch's own; parameters and norms of the auxiliary head stay."""
    arguments: dict[str, Any] = {"encoder": "mobilenetv2_100"} if name == "unet" else {"variant": "small"}
    torch.manual_seed(0)
    network = create_model(name, classes=3, weights=None, **arguments).eval()
    network = network.to(memory_format=torch.channels_last)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    batches = [torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8) for _ in range(2)]
    measure_statistics(network, batches)
    plain = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    network.load_state_dict(before)
    kernels.patch(network)
    measure_statistics(network, batches)
    for key, tensor in network.state_dict().items():
        measured = "running_" in key and not key.startswith("aux_head")
        assert torch.equal(tensor, before[key]) != measured, key
        torch.testing.assert_close(tensor, plain[key], rtol=1e-3, atol=1e-4, msg=key)


def test_a_run_measures_where_asked_for_and_trains_alike(tmp_path: Path) -> None:
    """The weights and the steps are those of a run that does not; frozen norms of the model stay averaged."""
    scenes = open_dataset(write_street_scenes(tmp_path / "data", train=8, val=2, test=0, size=(64, 96)))
    plain = trainer(scenes, tmp_path / "plain")
    plain.fit()
    measured = trainer(scenes, tmp_path / "measured", norm_statistics="measured")
    measured.fit()
    assert plain.average is not None and measured.average is not None
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), measured.model.parameters(), strict=True))
    found, other = measured.average.model.state_dict(), plain.average.model.state_dict()
    differ = {name for name in found if not torch.equal(found[name], other[name])}
    assert differ and all("running_" in name for name in differ)
    again = {name: tensor.clone() for name, tensor in found.items()}
    measured.measure_norm_statistics()
    assert all(torch.equal(again[name], tensor) for name, tensor in measured.average.model.state_dict().items())
    still = trainer(scenes, tmp_path / "still", norm_statistics="measured", freeze_bn=True)
    still.fit()
    assert still.average is not None
    means = [tensor for name, tensor in still.average.model.state_dict().items() if name.endswith("running_mean")]
    assert means and not any(mean.any() for mean in means)


def test_norms_that_a_network_freezes_by_itself_are_neither_measured_nor_named(tmp_path: Path) -> None:
    """As DeepLab v2 with pretrained weights; no setting of the run says so."""
    scenes = open_dataset(write_street_scenes(tmp_path / "data", train=8, val=2, test=0, size=(64, 96)))
    arguments = {"layers": (1, 1, 1, 1), "scales": (1.0,), "classes": scenes.label_space.classes, "weights": None}
    settings: dict[str, Any] = {"norm_statistics": "measured", "accumulate": 2, "optimizer": "sgd", "lr": 0.01}
    for freeze in (True, False):
        network = create_model("deeplabv2", **arguments, freeze_norm=freeze)  # type: ignore[arg-type]
        run = trainer(scenes, tmp_path / str(freeze), components={"model": network}, **settings)
        assert ("batch norms" in run.decomposition_note()) is not freeze
        assert run.average is not None
        run.measure_norm_statistics()
        means = [tensor for name, tensor in run.average.model.state_dict().items() if name.endswith("running_mean")]
        assert means and any(mean.any() for mean in means) is not freeze


def test_an_equal_mean_is_measured_from_its_beginning_and_an_exponential_one_is_not(tmp_path: Path) -> None:
    scenes = open_dataset(write_street_scenes(tmp_path / "data", train=8, val=2, test=0, size=(64, 96)))
    for name, changed, measured in (("swa", {"ema": None, "swa": 0.5}, True), ("ema", {"ema": 0.9}, False)):
        run = trainer(scenes, tmp_path / name, **changed)
        assert run.average is not None
        before = {key: tensor.clone() for key, tensor in run.average.model.state_dict().items()}
        run.measure_norm_statistics()
        found = run.average.model.state_dict()
        assert all(torch.equal(before[key], tensor) for key, tensor in found.items()), "no equal mean yet"
        run.average.equal_count = 1
        run.measure_norm_statistics()
        assert any(not torch.equal(before[key], tensor) for key, tensor in found.items()) == measured


def test_statistics_are_kept_by_passes_that_normalize_by_their_batch() -> None:
    network, same = Small().train(), Small().train()
    network.drop.p = same.drop.p = 0.0
    before = {name: tensor.clone() for name, tensor in network.named_buffers() if "running" in name}
    with pytest.raises(ZeroDivisionError), statistics_kept(network):
        out = network(images()[1])
        torch.testing.assert_close(out, same(images()[1]))
        raise ZeroDivisionError
    for name, tensor in network.named_buffers():
        if "running" in name:
            assert torch.equal(tensor, before[name]), name
    network(images()[1])
    for (name, ours), theirs in zip(network.named_buffers(), same.buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(ours, theirs, msg=name)
