"""``--help``, ``--help-json``, ``segwright`` alone, and the errors of a command line that cannot be parsed."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from segwright.cli import app, common
from segwright.cli.command import nearest
from segwright.cli.help_json import EXIT_CODES, SCHEMA
from segwright.cli.tasks import EXAMPLES, PAGES, TASKS

ROOT = Path(__file__).resolve().parents[2]


def all_commands() -> dict[str, Any]:
    """Every command by its words, such as "datasets download"."""
    found: dict[str, Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        found[" ".join(words)] = command
        for name, below in getattr(command, "commands", {}).items():
            walk(below, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


COMMANDS = all_commands()


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "80")
    os.environ.pop(common.ERRORS, None)
    yield
    os.environ.pop(common.ERRORS, None)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("name", COMMANDS, ids=lambda name: name or "segwright")
def test_every_help_has_examples_a_page_and_80_columns(name: str) -> None:
    found = run(*name.split(), "--help")
    assert found.exit_code == 0 and found.stdout.startswith(f"Usage: segwright {name}".rstrip())
    examples = [f"  {line}" for line in EXAMPLES[name]]
    assert examples and all(line in found.stdout.splitlines() for line in examples)
    long = [line for line in found.stdout.splitlines() if len(line) > 80 and line not in examples]
    assert not long and "\x1b" not in found.stdout
    assert (ROOT / PAGES[name]).is_file()
    assert run(*name.split(), "-h").stdout == found.stdout


@pytest.mark.parametrize("example", [line for lines in EXAMPLES.values() for line in lines])
def test_every_example_is_a_command_line_without_unknown_options(example: str) -> None:
    words = shlex.split(example)
    assert words.pop(0) == "segwright"
    name = next(name for name in sorted(COMMANDS, key=len, reverse=True) if words[: len(name.split())] == name.split())
    context = COMMANDS[name].make_context(name, words[len(name.split()) :])  # raises what the parser refuses
    assert context.args == []


def test_every_command_has_a_task_and_a_line_of_its_own() -> None:
    listed = [name for members in TASKS.values() for name in members]
    assert sorted(listed) == sorted(name for name in COMMANDS if name and " " not in name)
    lines = run("--help").stdout.splitlines()
    for name, summary in ((name, text) for members in TASKS.values() for name, text in members.items()):
        assert any(line.split() == [name, *summary.split()] for line in lines), name


def test_every_option_and_argument_is_described() -> None:
    bare = [
        f"{name} {one.opts[0]}"
        for name, command in COMMANDS.items()
        for one in command.params
        if not (one.help or "").strip()
    ]
    assert not bare


def test_help_json_describes_the_whole_tree(tmp_path: Path) -> None:
    tree = json.loads(run("--help-json").stdout)
    assert tree["schema"] == SCHEMA and tree["exit_codes"] == EXIT_CODES
    found: dict[str, Any] = {}

    def walk(node: dict[str, Any]) -> None:
        found[" ".join(node["name"].split()[1:])] = node
        for below in node["commands"]:
            walk(below)

    walk(tree)
    assert found.keys() == COMMANDS.keys()
    for name, command in COMMANDS.items():
        node = found[name]
        names = {option for one in node["options"] for option in (*one["names"], *one["off"])}
        own = {option for one in command.params if one.opts[0].startswith("-") for option in one.opts}
        assert own <= names and {"-h", "--help"} <= names
        assert [one["name"] for one in node["arguments"]] == [
            one.metavar or one.name.upper() for one in command.params if not one.opts[0].startswith("-")
        ]
        assert node["summary"] and node["examples"] and node["usage"].startswith(f"segwright {name}".rstrip())


def test_help_json_has_types_choices_defaults_and_bounds() -> None:
    node = json.loads(run("predict", "--help-json").stdout)
    assert node["schema"] == SCHEMA and node["task"] == "Prediction"
    option = {one["name"]: one for one in node["options"]}
    assert option["--mask-format"]["choices"] == ["palette", "index", "values", "npy"]
    assert option["--mask-format"]["default"] == "palette"
    assert option["--overlay"]["type"] == "flag" and option["--overlay"]["off"] == ["--no-overlay"]
    assert option["--overlay"]["default"] is True
    assert option["--polygons"]["repeatable"] and not option["--csv"]["repeatable"]
    assert option["--csv"]["type"] == "path" and option["--simplify"]["type"] == "float"
    assert [one["repeatable"] for one in node["arguments"]] == [False, True]
    train = {one["name"]: one for one in json.loads(run("train", "--help-json").stdout)["options"]}
    assert train["--epochs"]["type"] == "integer" and train["--epochs"]["minimum"] == 1
    assert train["--out"]["required"] is False
    keys = {"name", "names", "off", "type", "value", "choices", "minimum", "maximum", "required", "repeatable"}
    assert train["--out"].keys() == keys | {"default", "heading", "help"}


def test_segwright_alone_greets_and_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = run()
    assert found.exit_code == 0 and "segwright demo" in found.stdout and "runs/latest" not in found.stdout
    (tmp_path / "runs" / "latest" / "model").mkdir(parents=True)
    led = run()
    assert "segwright evaluate runs/latest FOLDER" in led.stdout
    lines = (found.stdout + led.stdout).splitlines()
    assert max(map(len, lines)) <= 80
    for line in lines:  # what is shown are command lines that exist
        words = re.split(r"  +", line.strip())[0].split()
        if words[:1] == ["segwright"] and len(words) > 1 and words[1] in COMMANDS:
            COMMANDS[words[1]].make_context(words[1], words[2:])


@pytest.mark.parametrize(
    ("line", "message", "fix"),
    [
        ("trian x", "segwright has no command trian", "segwright train"),
        ("preditc", "segwright has no command preditc", "segwright predict"),
        ("datasets downlod x", "segwright datasets has no command downlod", "segwright datasets download"),
        ("check x --htlm y", "segwright check has no option --htlm", "--html"),
        ("train x --minute 3", "segwright train has no option --minute", "--minutes"),
        ("predict m x --no-overlays", "segwright predict has no option --no-overlays", "--no-overlay"),
        ("zzz", "segwright has no command zzz", "segwright --help lists the commands"),
        ("check x --zzz", "segwright check has no option --zzz", "segwright check --help lists the options"),
        ("predict", "segwright predict needs MODEL", "segwright predict --help"),
        ("convert x", "segwright convert needs --to", "segwright convert --help"),
        ("train x --epochs many", "--epochs should be a valid integer", "segwright train --help"),
        ("train x --epochs 0", "--epochs should be greater than or equal to 1", "segwright train --help"),
        ("train x --epochs", "--epochs needs a value", "segwright "),
    ],
)
def test_a_wrong_command_line_is_refused_with_the_nearest_name(line: str, message: str, fix: str) -> None:
    found = run(*line.split())
    assert found.exit_code == 2 and found.stdout == ""
    lines = found.stderr.splitlines()
    assert lines[0] == f"error: {message}" and lines[-1].startswith(f"  fix: {fix}")


def test_errors_as_json_are_a_line_on_stderr() -> None:
    found = run("--errors", "json", "check", "x", "--htlm", "y")
    assert found.exit_code == 2
    error = json.loads(found.stderr)["error"]
    assert error.keys() == {"type", "message", "expected", "found", "where", "fix", "there"}
    assert error["type"] == "UsageError" and error["fix"].startswith("--html")


def test_help_as_a_word() -> None:
    assert run("help", "train").stdout == run("train", "--help").stdout
    assert run("help").stdout == run("--help").stdout


def test_nearest_names() -> None:
    assert nearest("evaluat", COMMANDS) == ["evaluate"]
    assert nearest("q", COMMANDS) == []


def test_a_piped_list_of_datasets_has_80_columns_and_no_spaces_at_line_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    lines = run("datasets").stdout.splitlines()
    assert len(lines) > 40 and all(len(line) <= 80 and line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    "arguments",
    [["evaluate", "none", "nodata"], ["compare", "none", "gone", "--data", "nodata"], ["predict", "none", "x"]],
)
def test_a_wrong_model_is_said_before_any_data_is_looked_at(arguments: list[str], tmp_path: Path) -> None:
    found = run(*arguments)
    assert "no saved model here" in str(found.exception)


def test_a_missing_config_file_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    found = run("train", str(tmp_path / "photos"), "--config", str(tmp_path / "missing.yaml"))
    assert "no such config file" in str(found.exception) and "Errno" not in str(found.exception)


def test_every_command_that_texts_name_exists() -> None:
    """Errors, notes and docs that say `segwright COMMAND`."""
    texts = [*(ROOT / "segwright").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    for path in texts:
        for name in re.findall(r"`segwright ([a-z][a-z-]+)[ `]", path.read_text(encoding="utf-8")):
            assert name in COMMANDS, f"{path.relative_to(ROOT)}: segwright {name}"
