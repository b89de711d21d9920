"""Files and folders are whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segwright.errors import UsageError
from segwright.files import exclusive, recover_folder, without_nan, write_folder, write_json, write_sums, wrong_sums


def test_an_error_inside_leaves_what_stood_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with write_folder(target) as beside:
        (beside / "a").write_text("old")
    with pytest.raises(RuntimeError), write_folder(target) as beside:
        (beside / "a").write_text("new")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_two_renames_is_recovered(tmp_path: Path) -> None:
    (tmp_path / ".model.old-x1").mkdir()
    (tmp_path / ".model.old-x1" / "a").write_text("old")
    (tmp_path / ".model.writing-x1").mkdir()
    recover_folder(tmp_path / "model")
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_sums_find_every_kind_of_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    write_sums(tmp_path)
    assert wrong_sums(tmp_path) == []
    (tmp_path / "a").write_text("changed")
    (tmp_path / "b").unlink()
    (tmp_path / "c").write_text("new")
    assert wrong_sums(tmp_path) == ["a was altered", "b is missing", "c is not listed"]
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  ../secret\n")
    assert "../secret leaves the folder" in wrong_sums(tmp_path)


def test_a_link_in_a_bundle_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    folder = tmp_path / "bundle"
    folder.mkdir()
    os.symlink(outside, folder / "a")
    write_sums(folder)
    assert "a leaves the folder" in wrong_sums(folder)


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from segwright.files import exclusive\n"
    code += "with exclusive(Path(sys.argv[1])): print('held')"
    with exclusive(tmp_path):
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert "another run works in this folder" in other.stderr and "held" not in other.stdout
    with exclusive(tmp_path):
        pass
    with pytest.raises(UsageError), exclusive(tmp_path), exclusive(tmp_path):
        pass


def test_nan_becomes_null(tmp_path: Path) -> None:
    assert without_nan({"a": [float("nan"), 1.0], "b": float("inf")}) == {"a": [None, 1.0], "b": None}
    assert write_json(tmp_path / "x.json", {"a": float("nan")}).read_text() == '{\n  "a": null\n}\n'
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o644
