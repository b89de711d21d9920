"""Tab completion, asked of the shells themselves."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture()
def environment(tmp_path: Path) -> dict[str, str]:
    """A command ``segwright`` of this checkout in PATH."""
    command = tmp_path / "bin" / "segwright"
    command.parent.mkdir()
    command.write_text(
        f"#!{sys.executable} -P\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from segwright.cli import main\nmain()\n"
    )
    command.chmod(0o755)
    return os.environ | {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}


def script(shell: str, environment: dict[str, str]) -> str:
    """What --show-completion gives to that shell."""
    done = subprocess.run(
        ["segwright"],
        env=environment | {"_SEGWRIGHT_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "_SEGWRIGHT_COMPLETE" in done.stdout, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_options_and_values(environment: dict[str, str]) -> None:
    lines = [
        "segwright tr",
        "segwright predict --mask-f",
        "segwright predict m x --mask-format p",
        "segwright datasets d",
    ]
    ask = script("bash", environment)
    for line in lines:
        words = " ".join(f"'{word}'" for word in line.split())
        ask += (
            f"\nCOMP_WORDS=({words}); COMP_CWORD={len(line.split()) - 1}; COMPREPLY=()\n"
            "function=$(complete -p segwright | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
            '$function segwright; echo "${COMPREPLY[*]}"\n'
        )
    done = subprocess.run(["bash", "--norc", "-c", ask], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["train", "--mask-format", "palette", "download"], done.stderr


LINES = {  # what is typed before the tab → what the shell makes of the last word
    "segwright tr": "train",
    "segwright predict --mask-f": "--mask-format",
    "segwright predict m x --mask-format p": "palette",
    "segwright datasets d": "download",
}


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("zsh") is None, reason="no zsh")
def test_zsh_completes_what_is_typed_before_a_tab(environment: dict[str, str], tmp_path: Path) -> None:
    """A real zsh on a terminal of its own: the tab is a key."""
    import pty

    (tmp_path / "_segwright").write_text(script("zsh", environment))
    keep = "zle -N show; show() { print -r -- \"[$BUFFER]\"; zle kill-whole-line }; bindkey '^X' show"
    setup = (
        f"autoload -Uz compinit; compinit -u -D; source {tmp_path}/_segwright; PS1=''; {keep}; print ready-$((1+1))\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= environment | {"TERM": "dumb"}
        os.execvp("zsh", ["zsh", "-f", "-i"])
    try:
        os.write(terminal, setup.encode())
        until(terminal, "ready-2")
        for line, word in LINES.items():
            os.write(terminal, f"{line}\t\x18".encode())
            shown = until(terminal, "]")
            assert line.rpartition(" ")[0] + f" {word}" in shown, shown
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)


def until(terminal: int, end: str) -> str:
    """What a terminal shows up to ``end``."""
    shown = ""
    while end not in shown:
        ready, _, _ = select.select([terminal], [], [], 120)
        assert ready, f"the shell is silent after {shown!r}"
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes_commands_options_and_values(environment: dict[str, str]) -> None:
    asked = "".join(f"\ncomplete -C '{line}' | head -1" for line in LINES)
    text = script("fish", environment) + asked + "\n"
    done = subprocess.run(["fish", "-N", "-c", text], env=environment, capture_output=True, text=True, timeout=300)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == list(LINES.values()), done.stderr
