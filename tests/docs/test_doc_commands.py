"""Every command of README, docs and examples fits the real command line, and every Python block the real names.

Tutorials and the README's steps are run for real by ``test_tutorials``; the blocks here name data and budgets that no
test has, so that they are parsed to the last option and not run.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main
from doc_blocks import ROOT, Block, blocks, commands, pages

import segwright as sw
from segwright.cli import app
from segwright.cli.command import ParserError
from segwright.cli.renamed import with_new_names

OPERATORS = {"|", "&&", "||", ";", "&", ">", "2>", "<"}
OTHERS = {  # programs of the system and of other packages
    "pip", "python3", "source", ".", "curl", "export", "docker", "kubectl", "torchrun", "srun", "sbatch", "cvat-cli",
    "pytest", "mypy", "ruff", "mkdocs", "twine", "unzip", "bash", "pre-commit", "mpirun", "ray", "pipx", "uvx", "helm",
    "git", "cd", "kill", "for", "do", "done", "openssl", "aws", "ssh", "systemctl", "cat", "uv", "jq",
    "trap", "head", "scontrol", "wait", "sleep", "echo", "exit", "tritonserver",
}  # fmt: skip
SHELL = [pytest.param(page, block, id=f"{page.relative_to(ROOT)}:{block.line}")
         for page in pages() for block in blocks(page, "sh")]  # fmt: skip
PYTHON = [pytest.param(page, block, id=f"{page.relative_to(ROOT)}:{block.line}")
          for page in pages() for block in blocks(page, "python")]  # fmt: skip


def simple_commands(line: str) -> list[list[str]]:
    """The commands of a shell line, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in OPERATORS:
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", word):  # NAME=value before a command
            found[-1].append(word)
    return [command for command in found if command]


def parse(arguments: list[str]) -> None:
    """Parse a command line of segwright to its last option, without running it. A usage error if it does not fit."""
    if arguments[:1] in (["--install-completion"], ["--show-completion"]):
        return  # they act as soon as they are parsed
    command: Any = typer.main.get_command(app)
    rest, context = with_new_names(arguments), None
    while hasattr(command, "commands"):
        context = command.make_context(command.name, rest, parent=context)
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        _, command, rest = command.resolve_command(context, rest)
    if "--help" not in rest:
        command.make_context(command.name, rest, parent=context)


@pytest.mark.parametrize("page, block", SHELL)
def test_a_command_fits(page: Path, block: Block) -> None:
    for line in commands(block):
        for program, *arguments in simple_commands(line):
            if program == "segwright":
                try:
                    parse([word for word in arguments if word != "…"])
                except ParserError as error:
                    pytest.fail(f"{line}: {error.format_message()}")
            elif program == "python":
                fits_script(line, arguments)
            else:
                assert program in OTHERS or "$" in program, f"{line}: which program is {program}?"


def fits_script(line: str, arguments: list[str]) -> None:
    """``python FILE.py --option``: the file exists and has the options."""
    name = arguments[0]
    if name == "-c":
        return
    if name == "-m":
        assert arguments[1] in ("segwright", "build", "venv", "http.server", "pip", "pytest"), line
        return
    script = ROOT / name
    assert script.is_file(), f"{line}: {name} does not exist"
    sources = [script, *script.parent.glob("*.py"), *(ROOT / "tests").rglob("*.py")]  # where a proof is a test's too
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    for option in arguments[1:]:
        if option == "--":
            break
        if option.startswith("--"):
            assert f'"{option.split("=")[0]}"' in text, f"{line}: {name} has no {option}"


@pytest.mark.parametrize("page, block", PYTHON)
def test_a_python_block_fits(page: Path, block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("segwright."):
            module = import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sw":
            assert hasattr(sw, node.attr), f"sw.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "sw" and inspect.isfunction(getattr(sw, node.func.attr)):
                takes_keywords(getattr(sw, node.func.attr), [keyword.arg for keyword in node.keywords if keyword.arg])


def takes_keywords(function: Any, names: list[str]) -> None:
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        assert set(names) <= set(parameters), f"{function.__name__} takes no {set(names) - set(parameters)}"


@pytest.mark.parametrize("line", ["segwright train", "segwright predict run --no-such", "segwright nonsense"])
def test_a_command_that_does_not_fit_is_found(line: str) -> None:
    with pytest.raises(ParserError):
        parse(shlex.split(line)[1:])


def test_ci_runs_the_second_command_of_the_readme() -> None:
    readme, ci = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", ".ci/run"))
    assert 'pip install -e ".[dev]" && pytest' in readme
    install = re.search(r'^pip install (--\S+ )*-e "\.\[dev\]"', ci, re.MULTILINE)
    assert install and re.search(r"^(\w+=\S+ )*pytest ", ci, re.MULTILINE)


@pytest.mark.slow
def test_the_first_command_of_the_readme_runs_in_a_new_environment(tmp_path: Path) -> None:
    assert "pip install . && segwright demo" in (ROOT / "README.md").read_text(encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "new")], check=True)
    programs = tmp_path / "new" / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", "--no-cache-dir", str(ROOT)], check=True)
    done = subprocess.run([programs / "segwright", "demo", "--no-open"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "mIoU on new images" in done.stdout, done.stderr[-3000:]


def test_no_figure_of_the_readme_is_missing_in_the_results() -> None:
    """The figures of the three reasons stand in the results, with their commands."""
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for figure in ("0.703", "0.445", "0.217", "−0.12 points", "1.38 ×", "Fog within 20 images", "2.6, and 2.7"):
        assert figure in results, figure
