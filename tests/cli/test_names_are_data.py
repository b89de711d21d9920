"""Names of classes, splits, folders and files are data: no markup, no escape sequence, no shell meaning of them."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segwright.cli import main
from segwright.data.check.report_text import render_check
from segwright.data.check.runner import check_path

FOLDER = "[red] :car: \x1b[2J"
FILE = "x\x1b]0;owned\x07\x1b[2J"


def segwright(*arguments: object) -> tuple[int, str]:
    """(exit code, all that was printed)"""
    out = io.StringIO()
    argv, sys.argv = sys.argv, ["segwright", *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main()
    except SystemExit as leaving:
        code = leaving.code or 0
    finally:
        sys.argv = argv
    assert isinstance(code, int)
    return code, out.getvalue()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A dataset in which everything that has a name has a hostile one, and one file is broken."""
    root = tmp_path / FOLDER
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rng = np.random.default_rng(0)
    rows = ["image,mask,split"]
    for index in range(6):
        name = f"{FILE}{index}"
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(rng.integers(0, 3, (48, 48), np.uint8)).save(root / "masks" / f"{name}.png")
        rows.append(f"images/{name}.png,masks/{name}.png,{'train' if index < 3 else '[/x]'}")
    (root / "images" / f"{FILE}1.png").write_bytes(b"broken")
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    (root / "classes.txt").write_text("[/b]\n[bold red]\n:smile:\n")
    return root


def is_inert(text: str) -> None:
    assert "Traceback" not in text
    for order in ("\x1b]0;", "\x1b[2J", "\x07", "🚗", "😄", "😃"):
        assert order not in text, order


def test_check_shows_names_as_they_are(hostile: Path, tmp_path: Path) -> None:
    code, text = segwright("check", hostile, "--html", tmp_path / "[/p].html")
    is_inert(text)
    assert code == 1
    for name in ("[/b]", "[bold red]", ":smile:", "[/x]", "[red] :car: \\x1b[2J", "\\x1b]0;owned\\x07", "[/p].html"):
        assert name in " ".join(text.split()), name
    page = (tmp_path / "[/p].html").read_text()
    assert "\x1b" not in page and "\\x1b]0;owned" in page


def test_any_console_can_be_handed_in(hostile: Path) -> None:
    buffer = io.StringIO()
    render_check(check_path(hostile, workers=0), Console(file=buffer, width=100))
    is_inert(buffer.getvalue())
    assert "[/b]" in buffer.getvalue() and "[/x]" in buffer.getvalue()


def test_errors_and_results_of_other_commands(hostile: Path, tmp_path: Path) -> None:
    code, text = segwright("check", tmp_path / f"[/none]{FILE}")
    is_inert(text)
    assert code == 2 and "[/none]" in text
    code, text = segwright("train", hostile, "--out", tmp_path / "run")
    is_inert(text)
    assert code == 2 and "\\x1b]0;owned" in text
    (hostile / "images" / f"{FILE}1.png").write_bytes((hostile / "images" / f"{FILE}0.png").read_bytes())
    code, text = segwright("convert", hostile, "--to", "voc", "--out", tmp_path / "[/new]")
    is_inert(text)
    assert code == 0 and "[/new]" in text


def test_a_command_to_paste_is_one_command(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    root = tmp_path / "a b$(id)"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rng = np.random.default_rng(0)
    for name in ("x;touch PWNED;$(id)", "y", "z"):
        turned = {"exif": exif.tobytes()} if name[0] == "x" else {}
        Image.fromarray(rng.integers(0, 256, (40, 64, 3), np.uint8)).save(root / "images" / f"{name}.jpg", **turned)
        Image.fromarray(rng.integers(0, 2, (40, 64), np.uint8)).save(root / "masks" / f"{name}.png")
    Image.fromarray(np.repeat(rng.integers(0, 2, (40, 64, 1), np.uint8), 3, 2)).save(root / "masks" / "y.png")
    fixes = [problem.fix for problem in check_path(root, workers=0).problems if problem.fix]
    commands = [fix for fix in fixes if fix.startswith(("exiftool", "segwright"))]
    assert len(commands) == 2, fixes
    exiftool, convert = sorted(commands)
    assert shlex.split(exiftool)[2] == str(root / "images" / "x;touch PWNED;$(id).jpg")
    assert shlex.split(convert)[2] == str(root)


def test_results_that_cannot_be_written_end_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for name in "abcd":
        Image.fromarray(np.random.default_rng(ord(name)).integers(0, 256, (40, 64, 3), np.uint8)).save(
            root / "images" / f"{name}.png"
        )
        Image.fromarray(np.random.default_rng(ord(name)).integers(0, 3, (40, 64), np.uint8)).save(
            root / "masks" / f"{name}.png"
        )
    (root / "notes.json").write_text("{}")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("segwright.api.check", lambda *_, **__: pytest.fail("the work was done first"))
    for option in ("--html", "--json"):
        for place in (tmp_path, tmp_path / "file" / "x", root / "images" / "a.png", root / "notes.json"):
            code, text = segwright("check", root, option, place)
            assert code == 2 and "error:" in text and "fix:" in text and "Traceback" not in text, (option, place)
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    monkeypatch.undo()
    for _ in range(2):  # its own results may be replaced, wherever they lie
        code, text = segwright("check", root, "--html", root / "check.html", "--json", root / "check.json")
        assert code == 0, text
    assert (root / "check.html").exists() and (root / "check.json").exists()


def test_what_the_system_refuses_has_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "x"))

    monkeypatch.setattr("segwright.api.check", refuse)
    code, text = segwright("check", tmp_path)
    assert code == 2 and "Permission denied" in text and str(tmp_path / "x") in text and "fix:" in text
