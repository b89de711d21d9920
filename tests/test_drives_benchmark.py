"""The benchmark that leaves each drive out: what trains, what is held out, and which benchmarks judge it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from benchmark_module import load_benchmark


@pytest.fixture(scope="module")
def drives() -> ModuleType:
    return load_benchmark("drives")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_drive_is_left_out_and_a_part_of_the_others_held(drives: ModuleType, tmp_path: Path) -> None:
    for folder in ("train", "trainannot"):
        for name in [f"{drive}_{k}.png" for drive in "AB" for k in range(8)]:
            path = tmp_path / "data" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{folder} {name}")
    data = tmp_path / "data"
    drives.link(data, names(data / "train"), "A", tmp_path / "plain")
    assert names(tmp_path / "plain" / "train") == [f"B_{k}.png" for k in range(8)]
    assert names(tmp_path / "plain" / "val") == [f"A_{k}.png" for k in range(8)]
    drives.link(data, names(data / "train"), "A", tmp_path / "less", tmp_path / "held")
    assert names(tmp_path / "less" / "train") == [f"B_{k}.png" for k in range(6)]
    assert names(tmp_path / "held" / "images") == ["B_6.png", "B_7.png"] == names(tmp_path / "held" / "imagesannot")
    assert (tmp_path / "held" / "imagesannot" / "B_7.png").read_text() == "trainannot B_7.png"
    assert (tmp_path / "less" / "valannot" / "A_0.png").read_text() == "trainannot A_0.png"


def test_every_judge_gets_every_drive(drives: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "held-B" / "images").mkdir(parents=True)
    commands = drives.judgments(drives.JUDGES, Path("data"), tmp_path, "scratch", ["A", "B"], 2)
    evaluations, benchmarks = commands[:2], commands[2:]
    for name, command in zip("AB", evaluations, strict=True):
        assert command[1:4] == ["-m", "segwright", "evaluate"]
        assert command[4:6] == [f"{tmp_path}/scratch-{name}/last", f"{tmp_path}/without-{name}"]
        assert {"--probabilities", "--slices", "--corruption"} <= set(command)
    assert [Path(command[1]).stem for command in benchmarks] == list(drives.JUDGES[1:])
    assert all(Path(command[1]).is_file() for command in benchmarks)
    for command in benchmarks:
        text = " ".join(command)
        assert f"{tmp_path}/scratch-A/last" in text and f"{tmp_path}/scratch-B/last" in text
    monitoring = commands[-1]
    assert f"B={tmp_path}/held-B/images" in monitoring and f"A={tmp_path}/held-A/images" not in monitoring


def test_a_judge_that_fails_does_not_keep_the_others_from_running(drives: ModuleType, tmp_path: Path) -> None:
    done = tmp_path / "done"
    commands = [[sys.executable, "-c", "raise SystemExit(3)"], [sys.executable, "-c", f"open({str(done)!r}, 'w')"]]
    assert drives.judge(commands) == 1 and done.exists()
    assert drives.judge(commands[1:]) == 0
