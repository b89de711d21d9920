"""Slots and promotions: what is put into service, what is refused, and what a kill, a full disk or a rival leaves."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from settled_fork import settled_fork
from slot_models import TINY, candidate, scores, tiny_model
from typer.testing import CliRunner

import segwright as sw
from segwright.cli import app
from segwright.core.atomic_io import write_checksums, write_json
from segwright.core.errors import BundleError, LabelError, OutputError, PromotionRefusedError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.dataset import open_dataset
from segwright.evaluation.evaluation import Evaluation
from segwright.imageio import write_image
from segwright.inference.bundle import SUMS, Bundle, load_bundle, read_bundle, save_bundle
from segwright.inference.lineage import bundle_id
from segwright.inference.predictor import find_bundle
from segwright.labeling import promote as promoting
from segwright.labeling import slot as slots
from segwright.labeling.paired_scores import PairedScores
from segwright.labeling.slot import Slot, is_slot, slot_of
from segwright.models.catalog import create_model
from segwright.training.data_fingerprint import data_print


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    """A slot with one version, of ``tmp_path/first``."""
    sw.promote(tiny_model(tmp_path / "first", 1), tmp_path / "slot")
    return tmp_path / "slot"


def good(tmp_path: Path, name: str = "good", seed: int = 2, parent: str = "first", **figures: object) -> Path:
    known = {"new": scores("new", 0.4, 0.6), "old": scores("old", 0.7, 0.7), **figures}
    return candidate(tmp_path / name, tmp_path / parent, seed, **known)


def in_service(slot: Path) -> str:
    return bundle_id(find_bundle(slot))


def test_a_better_candidate_goes_into_service_and_back(tmp_path: Path, slot: Path) -> None:
    first = in_service(slot)
    assert is_slot(slot) and sw.load(slot, device="cpu").label_space.names == ("road", "car", "sky")
    done = sw.promote(good(tmp_path), slot)
    assert in_service(slot) == bundle_id(tmp_path / "good") == done.version.partition("-")[2]
    assert "better on new" in done.why and [one.data for one in done.figures] == ["new", "old"]
    back = sw.promote(None, slot, back=True, why="complaints")
    assert in_service(slot) == first and back.action == "back" and back.before == done.version
    history = Slot(slot).history()
    assert [entry["action"] for entry in history] == ["promote", "promote", "back"]
    assert (
        history[1]["figures"][0]["miou"] == [0.4, 0.6]
        and "@" in history[1]["who"]
        and history[2]["why"] == "complaints"
    )
    with pytest.raises(UsageError, match="no version before"):
        sw.promote(None, slot, back=True)


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"new": scores("new", 0.4, 0.404)}, "not better beyond chance"),
        ({"new": scores("new", 0.6, 0.4)}, "not better beyond chance"),
        ({"old": scores("old", 0.7, 0.7, car=3.1)}, "car falls by 3.1 points of IoU on the old images"),
        ({"new": scores("new", 0.4, 0.6, sky=9.0)}, "sky falls by 9.0 points"),
        ({"old": None}, "not known"),
    ],
)
def test_conditions(tmp_path: Path, slot: Path, figures: dict[str, object], reason: str) -> None:
    first = in_service(slot)
    with pytest.raises(PromotionRefusedError, match=reason) as refused:
        sw.promote(good(tmp_path, **figures), slot)
    assert in_service(slot) == first and len(Slot(slot).versions()) == 1
    text = refused.value.found or ""
    assert "road" in text and "95 %" in text  # all figures are in the error


def test_conditions_can_be_stated(tmp_path: Path, slot: Path) -> None:
    falling = good(tmp_path, old=scores("old", 0.7, 0.7, car=4.0))
    with pytest.raises(PromotionRefusedError):
        sw.promote(falling, slot, max_class_drop=3.9)
    assert sw.promote(falling, slot, max_class_drop=4.1).action == "promote"
    sw.promote(None, slot, back=True)
    assert sw.promote(good(tmp_path, "b", 3, old=None), slot, max_class_drop=None).action == "promote"
    with pytest.raises(UsageError, match="points of IoU"):
        sw.promote(falling, slot, max_class_drop=-1.0)


def test_a_class_that_is_lost_is_a_fall(tmp_path: Path, slot: Path) -> None:
    old = scores("old", 0.7, 0.7)
    old["per_class"][1] |= {"iou": [0.5, None], "iou_difference": None}
    with pytest.raises(PromotionRefusedError, match="car is not found any more"):
        sw.promote(good(tmp_path, old=old), slot)


def test_figures_of_another_parent_do_not_count(tmp_path: Path, slot: Path) -> None:
    tiny_model(tmp_path / "other", 9)
    with pytest.raises(PromotionRefusedError, match="another model than the one in service"):
        sw.promote(good(tmp_path, parent="other"), slot)
    with pytest.raises(PromotionRefusedError, match="no comparison"):
        sw.promote(tmp_path / "other", slot)


def test_a_tampered_candidate_is_refused(tmp_path: Path, slot: Path) -> None:
    path = good(tmp_path)
    weights = path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(BundleError, match="not what was saved"):
        sw.promote(path, slot)
    write_checksums(path, SUMS)  # the sums are made again: the figures are still of other weights
    with pytest.raises(BundleError, match="of other weights"):
        sw.promote(path, slot)
    assert len(Slot(slot).versions()) == 1


def test_a_measured_condition(tmp_path: Path, slot: Path) -> None:
    """Both models are scored on the data: random weights against themselves show no difference."""
    written(tmp_path / "data", "road car sky")
    with pytest.raises(PromotionRefusedError, match="not better") as refused:
        sw.promote(good(tmp_path), slot, better_on=["new", tmp_path / "data"], split="all")
    assert "On the data all images" in (refused.value.found or "")


def test_images_that_the_candidate_was_trained_on_are_noted(
    tmp_path: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(written(tmp_path / "data", "road car sky"))
    better = good(tmp_path)
    prints = data_print([data.all])["all"]
    (tmp_path / "data.json").write_text(json.dumps({"train": dict(list(prints.items())[:4])}))
    monkeypatch.setattr(promoting, "pair", lambda name, one, two: PairedScores.from_json(scores(name, 0.4, 0.6)))
    done = sw.promote(better, slot, better_on=data, split="all", max_class_drop=None)
    assert any("the candidate: the model was trained on 4 of these 6 images" in note for note in done.notes)


def written(folder: Path, names: str, classes: int = 3) -> Path:
    """Six images of noise with masks of the first ``classes``; ``names``: the list of classes."""
    rng = np.random.default_rng(0)
    for index in range(6):
        write_image(folder / f"images/{index}.png", rng.integers(0, 256, (32, 48, 3), np.uint8))
        write_image(folder / f"masks/{index}.png", rng.integers(0, classes, (32, 48), np.uint8))
    (folder / "classes.txt").write_text(names.replace(" ", "\n") + "\n")
    return folder


def test_a_class_that_the_data_does_not_hold_decides_nothing(
    tmp_path: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per image: road 90/91 → 90/90, car 9/10 in both; the candidate calls one pixel sky, which no mask holds."""
    per_image = {
        "the version in service": [[90, 9, 0], [90, 10, 0], [91, 9, 0]],
        "the candidate": [[90, 9, 0], [90, 10, 0], [90, 9, 1]],
    }

    def counted_by_hand(predictor: object, split: Any, *, title: str, table: object) -> Evaluation:
        counts = np.tile(np.array([per_image[title]]), (6, 1, 1))
        return Evaluation(
            split.label_space, "all", np.zeros((3, 3), np.int64), [f"image {i}" for i in range(6)], counts
        )

    monkeypatch.setattr(promoting, "scored", counted_by_hand)
    data = written(tmp_path / "data", "road car sky", 2)
    done = sw.promote(good(tmp_path, new=None, old=None), slot, better_on=[data], split="all")
    assert done.figures[0].before == pytest.approx((90 / 91 + 0.9) / 2) and done.figures[0].after == pytest.approx(0.95)
    assert [one.name for one in done.figures[0].classes] == ["road", "car"] and done.figures[0].absent == ("sky",)


def four_classes(folder: Path, seed: int = 5) -> Path:
    """A model of the slot's classes, in other letters, and a new one."""
    torch.manual_seed(seed)
    network = create_model("leannet", classes=4, weights=None, **TINY)
    space = LabelSpace(("Road", "car", "SKY", "bike"))
    return save_bundle(folder, network, Bundle("leannet", space, {**TINY, "in_channels": 3}, {"channels": 3}))


def test_a_candidate_with_a_new_class_is_compared_on_old_data(
    tmp_path: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = written(tmp_path / "data", "road car sky"), {}
    real = promoting.scored

    def kept(predictor: Any, split: Any, *, title: str, table: Any) -> Evaluation:
        seen[title] = predictor, real(predictor, split, title=title, table=table)
        return seen[title][1]

    monkeypatch.setattr(promoting, "scored", kept)
    with pytest.raises(PromotionRefusedError) as refused:
        sw.promote(four_classes(tmp_path / "more"), slot, better_on=[data], split="all")
    text = refused.value.found or ""
    assert "On the data all images" in text and "bike is predicted, but no pixel of these images" in text
    predictor, found = seen["the candidate"]
    split = sw.open_dataset(data)
    masks = [split.all.read_mask(index) for index in range(6)]
    labels = [predictor.predict(split.all.read_image(index)).labels for index in range(6)]
    for k in range(3):
        hits = sum(int(((a == k) & (b == k)).sum()) for a, b in zip(labels, masks, strict=True))
        assert found.counts.sum(axis=0)[:, k].tolist() == [
            hits, sum(int((b == k).sum()) for b in masks), sum(int((a == k).sum()) for a in labels),
        ]  # fmt: skip
    assert found.label_space.names == ("road", "car", "sky", "bike")
    written(tmp_path / "other", "road car heaven")
    with pytest.raises(LabelError, match="not the data's"):  # sky may be heaven: no guess
        sw.promote(tmp_path / "more", slot, better_on=[tmp_path / "other"], split="all")


def test_in_service_already(tmp_path: Path, slot: Path) -> None:
    with pytest.raises(UsageError, match="in service already"):
        sw.promote(tmp_path / "first", slot)


def in_a_row(tmp_path: Path, slot: Path, count: int) -> list[str]:
    """The names of versions 2 to ``count``, each promoted in turn."""
    parents = ["first", *(f"v{number}" for number in range(2, count))]
    return [
        sw.promote(good(tmp_path, f"v{number}", number, parent), slot).version
        for number, parent in enumerate(parents, 2)
    ]


def test_a_mistyped_slot_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no slot here"):
        sw.promote(None, tmp_path / "servcie", back=True)
    done = CliRunner().invoke(app, ["promote", str(tmp_path / "servcie"), "--history"])
    assert done.exit_code != 0 and isinstance(done.exception, UsageError)
    assert not (tmp_path / "servcie").exists()


def test_a_slot_without_its_history_goes_back(tmp_path: Path, slot: Path) -> None:
    first = Slot(slot).current()
    second, third = in_a_row(tmp_path, slot, 3)
    (slot / "history.jsonl").unlink()
    assert is_slot(slot) and Slot(slot).before() == second
    assert [entry["version"] for entry in Slot(slot).history()] == [first, second, third]
    assert sw.promote(None, slot, back=True).version == second
    history = [(entry["action"], entry["version"]) for entry in Slot(slot).history()]
    assert history == [("promote", first), ("promote", second), ("promote", third), ("back", second)]
    assert sw.promote(None, slot, back=True).version == first
    with pytest.raises(UsageError, match="no version before"):
        sw.promote(None, slot, back=True)


def test_a_history_that_is_gone_is_that_of_the_switches(tmp_path: Path, slot: Path) -> None:
    """After going back twice and a further promotion the way back is the one that was taken, not that of the
    numbers."""
    first = Slot(slot).current()
    in_a_row(tmp_path, slot, 3)
    sw.promote(None, slot, back=True)
    sw.promote(None, slot, back=True)
    (slot / "history.jsonl").write_text("torn")
    sw.promote(good(tmp_path, "v4", 4, "first"), slot, keep=2)
    assert Slot(slot).before() == first and first in Slot(slot).versions(), "the version before is never pruned"
    (slot / "history.jsonl").unlink()
    assert Slot(slot).before() == first
    assert sw.promote(None, slot, back=True).version == first


def test_without_history_and_without_the_version_in_service(tmp_path: Path, slot: Path) -> None:
    second, third = in_a_row(tmp_path, slot, 3)
    (slot / "history.jsonl").unlink()
    shutil.rmtree(slot / "versions" / third)
    assert sw.promote(None, slot, back=True).version == second


def test_a_folder_of_other_things_is_no_slot(tmp_path: Path) -> None:
    tiny_model(tmp_path / "run" / "model", 1)
    with pytest.raises(UsageError, match="no slot"):
        sw.promote(tmp_path / "run", tmp_path / "run")
    assert read_bundle(tmp_path / "run" / "model").architecture == "leannet"


def test_versions_are_kept_and_pruned(tmp_path: Path, slot: Path) -> None:
    for number in range(2, 6):
        parent = ["first", "v2", "v3", "v4"][number - 2]
        sw.promote(good(tmp_path, f"v{number}", number, parent), slot, keep=2)
    names = Slot(slot).versions()
    assert [name[:4] for name in names] == ["0004", "0005"]
    assert sw.promote(None, slot, back=True).version == names[0]


def test_a_second_promoter_waits_for_nothing(tmp_path: Path, slot: Path) -> None:
    path = good(tmp_path)
    code = (
        "import sys; from segwright.labeling.slot import Slot; from pathlib import Path\n"
        f"with Slot(Path({str(slot)!r})).locked(): print('held', flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another promotion"):
            sw.promote(path, slot)
        assert other.stdin is not None
        other.stdin.write(b"\n")
        other.stdin.close()
        other.wait()
    assert sw.promote(path, slot).action == "promote"


class Killed(BaseException):
    """Stands for a kill."""


# Every call that changes the disk during a promotion, by name.
@pytest.mark.parametrize("call", ["copyfile", "write_json", "symlink", "replace", "fsync", "open"])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_kill_at_any_moment_leaves_a_working_slot(
    tmp_path: Path, slot: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = good(tmp_path), in_service(slot)
    module = {"copyfile": slots.shutil, "write_json": slots, "open": slots}.get(call, os)
    real, calls = getattr(module, call, open), []

    def until_killed(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) > number:
            raise Killed
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, call, until_killed, raising=False)
        with contextlib.suppress(Killed):
            sw.promote(path, slot)
    after = in_service(slot)
    assert after in (before, bundle_id(path))
    load_bundle(find_bundle(slot))
    if after == before:  # the same promotion can be made again
        sw.promote(path, slot)
    assert sw.promote(None, slot, back=True).action == "back"  # the history was repaired
    assert in_service(slot) == before and not list(slot.glob(".model-*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("call", ["copyfile", "symlink", "replace", "fsync"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_process_that_ends_without_cleaning_up(
    tmp_path: Path, slot: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above by a real end of the process, in which no handler runs."""
    path, before = good(tmp_path), in_service(slot)
    monkeypatch.setattr(promoting, "load", lambda *_, **__: None)  # a network in a fork may hang, and matters not here
    monkeypatch.setattr(promoting, "_try_out", lambda _: None)
    child = settled_fork()
    if child == 0:
        module, calls = slots.shutil if call == "copyfile" else os, []
        real = getattr(module, call)

        def until_killed(*arguments: object, **options: object) -> object:
            calls.append(arguments)
            if len(calls) > number:
                os._exit(9)
            return real(*arguments, **options)

        setattr(module, call, until_killed)
        try:
            sw.promote(path, slot)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    after = in_service(slot)
    assert after in (before, bundle_id(path))
    load_bundle(find_bundle(slot))
    if after == before:
        assert sw.promote(path, slot).action == "promote"
    assert sw.promote(None, slot, back=True).action == "back"
    left = [entry.name for entry in (slot / "versions").iterdir() if entry.name.startswith(".")]
    assert in_service(slot) == before and not left and not list(slot.glob(".model-*"))


def test_a_full_disk_leaves_the_version_before(tmp_path: Path, slot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = good(tmp_path), in_service(slot)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for module, call in ((slots.shutil, "copyfile"), (os, "replace"), (slots, "write_json")):
        with monkeypatch.context() as patched:
            patched.setattr(module, call, full)
            with pytest.raises((OutputError, OSError)):
                sw.promote(path, slot)
        assert in_service(slot) == before and Slot(slot).current() == Slot(slot).versions()[-1]
    assert len(list((slot / "versions").iterdir())) == 2  # one version and its record


def test_without_links_the_version_is_copied(tmp_path: Path, slot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    path = good(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "symlink", refused)
        (slot / "model").unlink()
        sw.promote(tmp_path / "first", tmp_path / "plain")
        assert sw.promote(path, tmp_path / "plain").action == "promote"
        assert in_service(tmp_path / "plain") == bundle_id(path)
        sw.promote(None, tmp_path / "plain", back=True)
    assert in_service(tmp_path / "plain") == bundle_id(tmp_path / "first")


def test_a_damaged_version_before_is_not_gone_back_to(tmp_path: Path, slot: Path) -> None:
    sw.promote(good(tmp_path), slot)
    now, before = Slot(slot).current(), Slot(slot).before()
    assert before is not None
    (Slot(slot).version(before) / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(BundleError):
        sw.promote(None, slot, back=True)
    assert Slot(slot).current() == now


def test_going_back_from_a_version_that_is_gone(tmp_path: Path, slot: Path) -> None:
    sw.promote(good(tmp_path), slot)
    name = Slot(slot).current()
    assert name is not None
    (Slot(slot).version(name)).rename(tmp_path / "gone")
    with pytest.raises(BundleError, match="version is missing"):
        sw.promote(good(tmp_path, "b", 3), slot)
    assert sw.promote(None, slot, back=True).before is None
    assert in_service(slot) == bundle_id(tmp_path / "first")


def test_the_command(tmp_path: Path, slot: Path) -> None:
    run = CliRunner()
    worse = good(tmp_path, "worse", 5, new=scores("new", 0.6, 0.5))
    found = run.invoke(app, ["promote", str(worse), str(slot), "--json", str(tmp_path / "r.json")])
    assert found.exit_code == 1 and json.loads((tmp_path / "r.json").read_text())["action"] == "refused"
    found = run.invoke(app, ["promote", str(good(tmp_path)), str(slot), "--json", str(tmp_path / "p.json")])
    assert found.exit_code == 0 and "in service: 0002-" in found.output
    assert json.loads((tmp_path / "p.json").read_text())["before"].startswith("0001-")
    found = run.invoke(app, ["promote", str(slot), "--back"])
    assert found.exit_code == 0 and "in service: 0001-" in found.output
    found = run.invoke(app, ["promote", str(slot), "--history"])
    assert found.output.count("promote ") == 2 and "in service: 0001-" in found.output
    with pytest.raises(UsageError, match="promote CANDIDATE SLOT"):
        run.invoke(app, ["promote", str(slot)], catch_exceptions=False)


def test_lineage_of_a_promoted_model(tmp_path: Path, slot: Path) -> None:
    sw.promote(good(tmp_path), slot)
    found = sw.read_lineage(slot)
    assert found.model.made_by == "refine" and found.model.parents == (bundle_id(tmp_path / "first"),)
    assert any(line.strip().startswith(bundle_id(tmp_path / "first")) for line in found.lines())


def test_an_old_json_is_no_slot(tmp_path: Path) -> None:
    write_json(tmp_path / "slot.json", {})
    with pytest.raises(UsageError, match="a slot is a folder"):
        slot_of(tmp_path / "slot.json")
