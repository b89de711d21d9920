"""The table of rules: every kind of finding is in it, and the docs and the JSON are made from it."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from trees import make_image, mask

import segwright
from segwright.data.check import file_rules, image_rules, label_rules, split_rules
from segwright.data.check.label_rules import UNLEARNABLE
from segwright.data.check.rules import BY_KIND, PAGE, RULES, docs_table, with_table
from segwright.data.check.runner import CHECKS, check_path
from segwright.data.check.scan import KINDS
from segwright.data.formats.file_references import AMBIGUOUS_KINDS, MISSING_KINDS
from segwright.data.formats.file_tree import PASSED_OVER_KINDS

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = Path(segwright.__file__).parent
MODULES = (file_rules, image_rules, label_rules, split_rules)
# Kinds that are no literals where a problem is made come out of these tables.
TABLES = {"KINDS[": KINDS, "MISSING_KINDS[": MISSING_KINDS, "AMBIGUOUS_KINDS[": AMBIGUOUS_KINDS}
PASSED_ON = {
    "kind",
    "kind or 'unreadable file'",
}  # of an error or a walk that had it from one of the tables, a parameter


def kind_of(call: ast.Call) -> ast.expr | None:
    """The argument ``kind`` of ``Problem(…)``, ``FileError(…)`` and ``replace(problem, kind=…)``."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    keyword = next((word.value for word in call.keywords if word.arg == "kind"), None)
    place = {"Problem": 1, "FileError": 0, "some": 1}.get(name)
    if place is None:
        return keyword if name == "replace" else None
    return call.args[place] if len(call.args) > place else keyword


def emitted(source: str) -> list[ast.expr]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [kind for call in calls if (kind := kind_of(call)) is not None]


def literals(source: str) -> set[str]:
    found: set[str] = set()
    for kind in emitted(source):
        constants = [node.value for node in ast.walk(kind) if isinstance(node, ast.Constant)]
        found |= {text for text in constants if isinstance(text, str)}
    return found


def test_every_kind_that_the_package_reports_is_in_the_table() -> None:
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        for kind in emitted(source):
            text = ast.unparse(kind)
            if isinstance(kind, ast.Constant):
                assert kind.value in BY_KIND, f"{path}:{kind.lineno}"
            else:
                assert text.startswith(tuple(TABLES)) or text in PASSED_ON, f"{path}:{kind.lineno}: {text}"
    tables = [*KINDS.values(), *MISSING_KINDS.values(), *AMBIGUOUS_KINDS.values(), *PASSED_OVER_KINDS]
    assert set(tables) <= BY_KIND.keys() and BY_KIND.keys() >= UNLEARNABLE
    assert len(BY_KIND) == len(RULES) == len({rule.id for rule in RULES})


def test_no_rule_is_left_over() -> None:
    used = set[str]().union(*(literals(path.read_text()) for path in PACKAGE.rglob("*.py")))
    used |= {*KINDS.values(), *MISSING_KINDS.values(), *AMBIGUOUS_KINDS.values(), *PASSED_OVER_KINDS}
    assert {rule.kind for rule in RULES} - used == set()


def test_the_runner_lists_every_check_once() -> None:
    assert len(set(CHECKS)) == len(CHECKS) and {rule.check for rule in RULES} == set(CHECKS)
    public = [
        function
        for module in MODULES
        for function in vars(module).values()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and list(inspect.signature(function).parameters) == ["evidence"]
    ]
    assert set(public) == set(CHECKS), "no check is forgotten"


def test_the_docs_hold_the_table() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert with_table(page) == page, f"python -m segwright.data.check.rules {PAGE}"
    assert docs_table() in page
    changed = page.replace('| <a id="truncated-file"></a>', "| ", 1)
    assert with_table(changed) == page, "the table is written anew"


def test_problems_of_the_json_name_their_rule(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_image(tmp_path / f"images/{name}.png")
        mask(tmp_path / f"masks/{name}.png", [0, 1])
    (tmp_path / "images/b.png").write_bytes((tmp_path / "images/b.png").read_bytes()[:200])
    [found] = [one for one in check_path(tmp_path, workers=0).to_json()["problems"] if one["severity"] == "error"]
    assert found["kind"] == "truncated file" and found["rule"] == "truncated-file"
    assert found["docs"] == "docs/check.md#truncated-file"
    assert {"severity", "kind", "files", "message", "fix", "rule", "docs"} == found.keys()
