"""Files and folders are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segwright.core import atomic_io
from segwright.core.atomic_io import (
    atomic_file,
    lock_folder,
    recover_folder,
    verify_checksums,
    without_nan,
    write_checksums,
    write_folder,
    write_json,
    write_text,
)
from segwright.core.errors import OutputError, UsageError
from segwright.imageio import write_image


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
    write_checksums(tmp_path)
    assert verify_checksums(tmp_path) == []
    (tmp_path / "a").write_text("changed")
    (tmp_path / "b").unlink()
    (tmp_path / "c").write_text("new")
    assert verify_checksums(tmp_path) == ["a was altered", "b is missing", "c is not listed"]
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  ../secret\n")
    assert "../secret leaves the folder" in verify_checksums(tmp_path)


def test_a_link_in_a_bundle_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    folder = tmp_path / "bundle"
    folder.mkdir()
    os.symlink(outside, folder / "a")
    write_checksums(folder)
    assert "a leaves the folder" in verify_checksums(folder)


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from segwright.core.atomic_io import lock_folder\n"
    code += "with lock_folder(Path(sys.argv[1])): print('held')"
    with lock_folder(tmp_path):
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert "another run uses this folder" in other.stderr and "held" not in other.stdout
    with lock_folder(tmp_path):
        pass
    with pytest.raises(UsageError), lock_folder(tmp_path), lock_folder(tmp_path):
        pass


def test_what_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    """A command that ends with an error before it writes leaves nothing behind; what it wrote stays."""
    for name, kept in (("runs/a", False), ("runs/b", True)):
        with pytest.raises(ValueError), lock_folder(tmp_path / name):
            if kept:
                (tmp_path / name / "log.jsonl").write_text("")
            raise ValueError
        assert (tmp_path / name).exists() is kept
        assert (tmp_path / "runs").exists() is kept
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError), lock_folder(tmp_path / "mine"):
        raise ValueError
    assert (tmp_path / "mine").is_dir(), "a folder that was there"
    with lock_folder(tmp_path / "new"):
        pass
    assert (tmp_path / "new").is_dir()


def test_nan_becomes_null(tmp_path: Path) -> None:
    assert without_nan({"a": [float("nan"), 1.0], "b": float("inf")}) == {"a": [None, 1.0], "b": None}
    assert write_json(tmp_path / "x.json", {"a": float("nan")}).read_text() == '{\n  "a": null\n}\n'


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_new_files_have_the_permissions_of_any_file_of_this_user(
    mask: int, file: int, folder: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "a")
        write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
        with write_folder(tmp_path / "model") as beside:
            write_text(beside / "b", "b")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.txt", "a.png", "model")] == [file, file, folder]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.txt", "model"]


def test_what_the_system_refuses_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    image = np.zeros((4, 4, 3), np.uint8)
    (tmp_path / "folder").mkdir()
    for write in (
        lambda: write_text(tmp_path / "file" / "below", "x"),
        lambda: write_json(tmp_path / "folder", {}),
        lambda: write_image(tmp_path / "file" / "a.png", image),
        lambda: write_text(tmp_path / ("x" * 300), "x"),
        lambda: write_folder(tmp_path / "file" / "model").__enter__(),
        lambda: lock_folder(tmp_path / "file").__enter__(),
    ):
        with pytest.raises(OutputError) as caught:
            write()
        assert caught.value.fix and isinstance(caught.value, OSError)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_io.os, "fsync", full)
    with pytest.raises(OutputError, match="free some space"):
        write_text(tmp_path / "b", "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"], "nothing is left beside"


WRITER = """
import sys, time
from pathlib import Path
from segwright.core.atomic_io import write_folder
with write_folder(Path(sys.argv[1])) as beside:
    (beside / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_leftovers_go_when_their_owner_is_dead_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with write_folder(target) as beside:
        (beside / "a").write_text("first")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline().strip() == b"writing"
    [half] = tmp_path.glob(".model.writing-*")
    recover_folder(target)
    with write_folder(target) as beside:  # another writer, of this or of a neighboring folder
        (beside / "a").write_text("second")
    with write_folder(tmp_path / "other") as beside:
        (beside / "a").write_text("other")
    assert (half / "half").exists(), "its owner is at work on it"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with write_folder(tmp_path / "other") as beside:
        (beside / "a").write_text("other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]
    assert (target / "a").read_text() == "second"


def test_a_process_number_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    host, pid, began = atomic_io._owner().split("-")
    mine, former, foreign = (
        f".model.writing-{host}-{pid}-{began}-00000000",
        f".model.writing-{host}-{pid}-{int(began) - 100}-00000000",
        f".model.writing-00000000-{pid}-{began}-00000000",
    )
    for name in (mine, former, foreign, ".model.writing-mine", ".writing-x"):
        (tmp_path / name).mkdir()
    with write_folder(tmp_path / "model"):
        pass
    assert not (tmp_path / former).exists()
    for name in (mine, foreign, ".model.writing-mine", ".writing-x"):
        assert (tmp_path / name).exists(), "not ours to remove"


def test_a_version_put_aside_by_a_dead_writer_is_put_back(tmp_path: Path) -> None:
    host, pid, began = atomic_io._owner().split("-")
    dead = tmp_path / f".model.old-{host}-{pid}-{int(began) - 100}-00000000"
    dead.mkdir()
    (dead / "a").write_text("old")
    with write_folder(tmp_path / "other"):
        pass
    assert dead.exists(), "nothing took its place yet"
    recover_folder(tmp_path / "model")
    assert (tmp_path / "model" / "a").read_text() == "old" and not dead.exists()
    alive = tmp_path / f".last.old-{host}-{pid}-{began}-00000000"
    alive.mkdir()
    recover_folder(tmp_path / "last")
    assert alive.exists() and not (tmp_path / "last").exists(), "its writer is between its two renames"


def test_a_damaged_sums_file_is_told_like_any_other_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("a")
    write_checksums(tmp_path)
    sums = (tmp_path / "SHA256SUMS").read_bytes()
    for place in range(len(sums)):
        (tmp_path / "SHA256SUMS").write_bytes(sums[:place] + bytes([sums[place] ^ 0x80]) + sums[place + 1 :])
        assert verify_checksums(tmp_path)
    for text in (b"\xff\xfe\0", b"0" * 64 + b"  a\0b\n", b"0" * 64 + b"  " + b"x" * 5000 + b"\n", b"\n\n"):
        (tmp_path / "SHA256SUMS").write_bytes(text)
        assert verify_checksums(tmp_path)
    monkeypatch.setattr(atomic_io, "MAX_SUMS", 10)
    assert "larger" in verify_checksums(tmp_path)[0] or (tmp_path / "SHA256SUMS").stat().st_size <= 10


def test_names_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    assert json.loads(write_json(tmp_path / "x.json", {"file": name}).read_text()) == {"file": name}


def test_an_atomic_file_replaces_the_old_one_whole_or_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "labels.png"
    with atomic_file(path) as beside:
        assert beside.suffix == ".png" and beside.parent == path.parent and not path.exists()
        beside.write_bytes(b"one")
    assert path.read_bytes() == b"one"
    with pytest.raises(KeyError), atomic_file(path) as beside:
        beside.write_bytes(b"half")
        raise KeyError
    assert path.read_bytes() == b"one" and [p.name for p in path.parent.iterdir()] == ["labels.png"]
    with pytest.raises(OutputError) as caught, atomic_file(path / "below.png"):
        pass
    assert caught.value.errno is not None, "the system's number is kept"
