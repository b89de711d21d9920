"""Tab completion, asked of the shells themselves."""

from __future__ import annotations

import os
import shutil
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


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_takes_the_script(environment: dict[str, str]) -> None:
    text = script("zsh", environment)
    subprocess.run(["zsh", "-f", "-n"], input=text, env=environment, text=True, timeout=120, check=True)


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes_commands(environment: dict[str, str]) -> None:
    text = script("fish", environment) + "\ncomplete -C 'segwright tr'\n"
    done = subprocess.run(["fish", "-c", text], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[:1] == ["train"], done.stderr
