"""The hook of mkdocs: pages that are made from the code, and links out of the docs folder.

``reference/cli.md`` is made from the commands, ``reference/config.md`` from the configuration's fields,
``reference/api.md`` from ``segwright.__all__``; contributing, security and changelog are the files of the root. A link
to a file of the repository that is no page becomes its path.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parents[2]
PROJECT = {
    "project/contributing.md": "CONTRIBUTING.md",
    "project/security.md": "SECURITY.md",
    "project/changelog.md": "CHANGELOG.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
_MARKUP = re.compile(r"\[/?(?:bold|dim|cyan|italic|green|yellow|red)[^\]]*\]")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {
        "reference/cli.md": cli_page(),
        "reference/config.md": config_page(),
        "reference/api.md": api_page(),
        **{page: moved((ROOT / name).read_text(encoding="utf-8"), "", page) for page, name in PROJECT.items()},
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository: the page of it, or its path."""
    if page.file.src_uri in PROJECT or page.file.src_uri.startswith("reference/"):
        return markdown
    return moved(markdown, "docs/" + posixpath.dirname(page.file.src_uri), page.file.src_uri)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The theme's search is a dialog without a name, which screen readers need."""
    dialog = 'data-md-component="search" role="dialog"'
    return output.replace(dialog, f'{dialog} aria-label="Search"')


def moved(markdown: str, folder: str, page: str) -> str:
    """The text of a file in ``folder`` of the repository with its links as the page ``page`` of the site has them."""

    def link(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        whole = posixpath.normpath(posixpath.join(folder, path))
        pages = {name: place for place, name in PROJECT.items()}
        if whole in pages:
            place = pages[whole]
        elif whole == "README.md":
            place = "index.md"
        elif whole.startswith("docs/"):
            place = whole.removeprefix("docs/")
        else:
            return f"`{whole}`" if "`" in text or "/" in text else f"{text} (`{whole}`)"
        relative = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"[{text}]({relative}{'#' + anchor if anchor else ''})"

    return _LINK.sub(link, markdown)


def cli_page() -> str:
    """Every command with its examples, arguments and options: what ``--help-json`` gives, as a page."""
    import typer.main

    from segwright.cli import app
    from segwright.cli.help_json import help_tree

    group = typer.main.get_command(app)
    tree = help_tree(group, group.make_context("segwright", [], resilient_parsing=True))
    codes = "; ".join(f"{code}: {text}" for code, text in tree["exit_codes"].items())
    parts = [
        "# Commands",
        "Made from the commands themselves; `segwright COMMAND --help` shows the same, `--help-json` for programs. "
        f"Exit codes: {codes}.",
    ]
    for command in _leaves(tree):
        parts += [f"## {command['name'].removeprefix('segwright ')}", _plain(command["help"] or command["summary"])]
        parts.append(
            "```text\n"
            + "\n".join([command["usage"], *([""] if command["examples"] else []), *command["examples"]])
            + "\n```"
        )
        rows = [_row(one) for one in (*command["arguments"], *command["options"]) if one["name"] != "--help"]
        if rows:
            parts.append("| name | what it is | default |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _leaves(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The commands that do something, in the order of the help."""
    return [leaf for one in tree["commands"] for leaf in (_leaves(one) if one["commands"] else [one])]


def _row(one: dict[str, Any]) -> str:
    """A line of the table: names and value, what it is, default."""
    names = [*one["names"], *one["off"]] or [one["name"]]
    value = f" `{one['value']}`" if one["names"] and one["value"] else ""
    shown = ", ".join(f"`{name}`" for name in names) + value
    text = _plain(one["help"]) + (" Required." if one["required"] and one["names"] else "")
    default = "" if one["default"] in (None, "", False) or isinstance(one["default"], list) else f"`{one['default']}`"
    return f"| {shown} | {_cell(text)} | {_cell(default)} |"


def _plain(text: str) -> str:
    return _MARKUP.sub("", inspect.cleandoc(text)).replace("<", "&lt;")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def config_page() -> str:
    """Every setting, from the fields' descriptions."""
    from segwright.training.config import Phase, TrainConfig

    parts = [
        "# Settings",
        "Made from the configuration's own fields. `--set section.key=value` gives one on the command line, `--config "
        "FILE` a YAML file of them; the `config.yaml` of a run lists them all. `auto` is planned from the data and the "
        "machine ([training](../training.md)).",
    ]
    for name, field in TrainConfig.model_fields.items():
        section = field.annotation
        if inspect.isclass(section) and issubclass(section, BaseModel):
            parts += [f"## {name}", inspect.getdoc(section) or "", _fields(section, f"{name}.")]
    parts += ["## A phase of training.phases", inspect.getdoc(Phase) or "", _fields(Phase, "")]
    return "\n\n".join(parts) + "\n"


def _fields(section: type[BaseModel], prefix: str) -> str:
    rows = ["| setting | what it is | type | default |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if default is PydanticUndefined else f"`{json.dumps(default, default=str)}`"
        kind = _type(field.annotation)
        rows.append(f"| `{prefix}{name}` | {_cell(field.description or '')} | {_cell(kind)} | {_cell(shown)} |")
    return "\n".join(rows)


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(one) for one in get_args(annotation))
    if annotation is type(None):
        return "none"
    if origin in (tuple, list):
        inner = [_type(one) for one in get_args(annotation) if one is not Ellipsis]
        return "list of " + " and ".join(dict.fromkeys(inner))
    if origin is dict:
        return "mapping"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    return names.get(getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation)))


def api_page() -> str:
    """Every public name: functions first, then results and types, then errors."""
    import segwright

    home = {name: module for name, module in segwright._NAMES.items() if name in segwright.__all__}
    homes = {name: _source(name, module) for name, module in home.items()}
    functions = [name for name in homes if name[0].islower()]
    errors = [name for name in homes if name.endswith("Error")]
    types_ = [name for name in homes if name not in functions and name not in errors]
    parts = [
        "# Python",
        "```python\nimport segwright as sw\n```\n\nMade from the docstrings, whose examples are run by the tests. "
        "Every name here is `sw.NAME`.",
    ]
    for title, names in (("Functions", functions), ("Results and types", types_), ("Errors", errors)):
        parts.append(f"# {title}")
        parts += [f"::: {homes[name]}.{name}" for name in sorted(names, key=str.lower)]
    return "\n\n".join(parts).replace("\n# ", "\n## ").replace("# Python", "# Python", 1) + "\n"


def _source(name: str, module: str) -> str:
    """The module that defines a public name, where static analysis finds it."""
    from importlib import import_module

    found = getattr(import_module(module), name)
    return getattr(found, "__module__", module)
