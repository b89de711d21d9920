"""Lineages: what a model was made from, over generations, meeting lines, exports, and models of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segwright.core.errors import BundleError
from segwright.core.types import LabelSpace
from segwright.exporting.graph import describe
from segwright.inference import lineage
from segwright.inference.bundle import Bundle, read_bundle, save_bundle
from segwright.inference.ensemble import join_models
from segwright.inference.lineage import Ancestor, DataUsed, Lineage, bundle_id, data_used, descended, read_lineage
from segwright.models.catalog import create_model
from segwright.monitoring.observation import weights_id

TINY = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "depths": [0, 1, 1, 1, 1]}


def saved(folder: Path, seed: int, line: Lineage | None = None, **training: object) -> Path:
    torch.manual_seed(seed)
    network = create_model("leannet", classes=2, weights=None, **TINY)
    if line is not None:
        training["lineage"] = line.record()
    bundle = Bundle("leannet", LabelSpace(("a", "b")), {**TINY, "in_channels": 3}, training=training)
    return save_bundle(folder, network, bundle)


def used(path: str, clicks: int = 0) -> DataUsed:
    return DataUsed("new", path, "f" * 64, 3, clicks, 1)


def test_the_id_is_that_of_the_network_in_memory(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = create_model("leannet", classes=2, weights=None, **TINY)
    assert bundle_id(saved(tmp_path / "m", 3)) == weights_id(network)


def test_generations_and_lines_that_meet_again(tmp_path: Path) -> None:
    first = saved(tmp_path / "first", 1, descended([], "train", [used("/day", 0)]))
    left = saved(tmp_path / "left", 2, descended([read_lineage(first)], "refine", [used("/night", 40)]))
    right = saved(tmp_path / "right", 3, descended([read_lineage(first)], "refine", [used("/rain", 7)]))
    both = descended([read_lineage(left), read_lineage(right)], "refine", [used("/night", 60)])
    found = read_lineage(saved(tmp_path / "both", 4, both))
    assert found.model.parents == (bundle_id(left), bundle_id(right)) and len(found.ancestors) == 3
    assert found.clicks == 60 + 7  # the clicks of one dataset count once
    text = "\n".join(found.lines())
    assert text.count("/day") == 1 and text.count(bundle_id(first)) == 2 and "67" in text
    assert Lineage(found.model, found.ancestors).to_json()["clicks"] == 67


def test_the_rounds_of_a_label_folder_are_one_dataset() -> None:
    """50, 100 and 150 clicks are 150, whether a record has the key, or is of a version that wrote paths alone."""

    def after(path: str, clicks: int, source: str = "", before: Lineage | None = None) -> Lineage:
        made = descended([before] if before else [], "refine", [replace(used(path, clicks), source=source)])
        return Lineage(replace(made.model, id=f"{path} {clicks}"), made.ancestors)

    def rounds(*keys: str) -> Lineage:
        line: Lineage | None = None
        for number, key in enumerate(keys, 1):
            line = after(f"/labels/rounds/{number:03d}/data", 50 * number, key, line)
        assert line is not None
        return line

    for keys in (("k", "k", "k"), ("", "", ""), ("", "", "k")):
        assert rounds(*keys).clicks == 150
        assert after("/labels", 160, "k", rounds(*keys)).clicks == 160
    assert after("/moved", 160, "k", rounds("k", "k")).clicks == 160
    assert after("/other", 7, "z", rounds("k", "k", "k")).clicks == 157
    assert after("/labels/rounds/001/data", 7, "z", rounds("k")).clicks == 57, "another folder at the same place"


def test_an_earlier_model_has_one_entry(tmp_path: Path) -> None:
    found = read_lineage(saved(tmp_path / "old", 1, data="/camvid"))
    assert found.model.made_by == "train" and found.model.data[0].path == "/camvid" and not found.ancestors
    assert read_lineage(saved(tmp_path / "imported", 2)).model.made_by == "import"


@pytest.mark.parametrize(
    "tree", [{"model": {"data": 3}}, {"model": {"val_miou": "x"}}, {"model": {}, "ancestors": [1]}]
)
def test_a_damaged_record_is_an_error(tmp_path: Path, tree: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="lineage"):
        read_lineage(saved(tmp_path / "m", 1, lineage=tree))


def test_an_exported_file_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "m", 1, descended([], "train", [used("/day", 5)]))
    kept = describe(read_bundle(folder))["training"]  # what the metadata of an exported file holds
    exported = SimpleNamespace(
        bundle=replace(read_bundle(folder), training=kept), runtime=SimpleNamespace(weights_id="0123456789abcdef")
    )
    monkeypatch.setattr(lineage, "load", lambda *_, **__: exported)
    (tmp_path / "m.onnx").write_bytes(b"")
    found = read_lineage(tmp_path / "m.onnx")
    assert found.model.id == "0123456789abcdef" and found.clicks == 5 and found.model.data[0].path == "/day"


def test_a_parent_that_is_its_own_ancestor_ends(tmp_path: Path) -> None:
    looped = Lineage(Ancestor("", "m", parents=("a",)), {"a": Ancestor("a", "a", parents=("b",)),
                                                         "b": Ancestor("b", "b", parents=("a",))})  # fmt: skip
    found = read_lineage(saved(tmp_path / "m", 1, looped))
    assert len(found.lines()) == 5


def test_an_ensemble_descends_from_its_members(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one", 1), saved(tmp_path / "two", 2)
    network, bundle = join_models([one, two])
    joined = read_lineage(save_bundle(tmp_path / "joined", network, bundle))
    assert joined.model.made_by == "ensemble" and joined.model.parents == (bundle_id(one), bundle_id(two))


@pytest.mark.parametrize(
    ("tree", "clicks", "uncounted"),
    [
        ({"answers": 3, "clicks": 9, "uncounted": 2, "annotators": ["ann"], "seconds": 4.5}, 9, 2),
        ({"answers": 3, "annotators": ["ann"]}, 0, 3),  # of before clicks were counted
    ],
)
def test_clicks_of_another_tool_are_counted_or_said_to_be_unknown(
    tmp_path: Path, tree: dict[str, object], clicks: int, uncounted: int
) -> None:
    (tmp_path / "annotations.json").write_text(json.dumps(tree))
    found = data_used("new", tmp_path, "abc", 5)
    assert (found.clicks, found.uncounted, found.annotators) == (clicks, uncounted, 1)
    assert DataUsed.from_json(json.loads(json.dumps(found.to_json()))) == found
    lineage = descended([], "train", [found, replace(used("/other"), clicks=4)])
    assert (lineage.clicks, lineage.uncounted) == (clicks + 4, uncounted)
    text = "\n".join(lineage.lines())
    assert f"{uncounted} regions whose clicks are not known" in text
    assert f"clicks in all: {clicks + 4}, and those of {uncounted} regions that are not known" in text


@pytest.mark.parametrize(
    ("text", "clicks", "people"),
    [
        (json.dumps({"clicks": 12, "annotators": {"ann": 9, "bob": 3}, "seconds": 4.5}), 12, 2),
        (json.dumps({"clicks": 12, "annotators": ["ann"]}), 12, 1),
        (json.dumps({"clicks": "many", "annotators": None, "seconds": -1}), 0, 0),
        ("[]", 0, 0), ("{", 0, 0),
    ],
)  # fmt: skip
def test_clicks_of_a_label_folder(tmp_path: Path, text: str, clicks: int, people: int) -> None:
    (tmp_path / "labels.json").write_text(text)
    found = data_used("new", tmp_path, "abc", 5)
    assert (found.clicks, found.annotators, found.images) == (clicks, people, 5)
    assert DataUsed.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert replace(found, clicks=0).path == str(tmp_path.resolve())
