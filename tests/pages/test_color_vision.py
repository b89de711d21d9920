"""Colors as people without red or green cones see them: series stay apart, and nothing is told by color alone."""

from __future__ import annotations

import io
import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from segwright.core.progress import PlainConsole
from segwright.data.check.report_text import STYLES, render_check
from segwright.data.check.runner import CheckResult
from segwright.data.records import Problem
from segwright.reports.charts import Series, line_chart, scatter_chart

ROOT = Path(__file__).resolve().parents[2]
CSS = (ROOT / "segwright" / "reports" / "static" / "report.css").read_text(encoding="utf-8")
SEEN = {  # Machado et al. 2009, severity 1, on linear RGB
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
APART = 18.0  # CIE76 between two series; 2.3 is just noticeable
Values = npt.NDArray[np.float64]


def linear(color: str) -> Values:
    value = np.array([int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: Values) -> Values:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def schemes() -> list[dict[str, str]]:
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r"\{([^{}]*)\}", CSS)]
    return [{"card": "#ffffff", **one} for one in found if "s0" in one]


@pytest.mark.parametrize("kind", SEEN)
def test_the_series_of_a_chart_stay_apart(kind: str) -> None:
    assert len(schemes()) == 3, "light, and dark twice"
    for scheme in schemes():
        colors = [lab(SEEN[kind] @ linear(scheme[f"s{index}"])) for index in range(5)]
        assert min(float(np.linalg.norm(a - b)) for a, b in combinations(colors, 2)) >= APART
        weights = np.array([0.2126, 0.7152, 0.0722])
        ground = float(weights @ linear(scheme["card"]))
        for index in range(5):
            own = float(weights @ linear(scheme[f"s{index}"]))
            assert (max(own, ground) + 0.05) / (min(own, ground) + 0.05) >= 4.5


def test_series_differ_by_dashes_or_shapes_too() -> None:
    dashes = {
        index: re.search(rf"[.]s{index}\b[^{{}}]*{{[^}}]*stroke-dasharray: ([^;}}]+)", CSS) for index in range(1, 5)
    }
    assert all(dashes.values()) and len({found[1] for found in dashes.values() if found}) == 4
    drawn = str(scatter_chart([Series(f"s{index}", (0.0, 1.0), (0.0, float(index))) for index in range(5)]))
    shapes = re.findall(r'class="key"[^>]*><(?:path|circle) class="\w+ s\d" (.+?)>', drawn)
    assert len(shapes) == len(set(shapes)) == 5, "the first is a circle"
    assert "<title>s3</title>" in str(line_chart([Series("s3", (0.0, 1.0), (0.0, 1.0))])), "named on the curve"


def test_a_check_says_its_severities_in_words() -> None:
    problems = [Problem(kind="copy", severity=name, message="found twice") for name in STYLES]
    result = CheckResult(
        root=Path("photos"),
        format="masks",
        images=3,
        splits={},
        fingerprint=None,
        by_split={},
        problems=tuple(problems),
    )

    def printed(console: Console) -> list[str]:
        render_check(result, console)
        return str(console.file.getvalue()).splitlines()  # type: ignore[attr-defined]

    plain = printed(PlainConsole(file=io.StringIO(), width=80))
    colored = printed(PlainConsole(file=io.StringIO(), width=80, force_terminal=True, color_system="standard"))
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in colored] == plain
    for name in STYLES:
        assert any(line.startswith(f"{name} copy") for line in plain)
    assert plain[-1] == "1 error, 1 warning, 1 note"


@pytest.mark.parametrize("kind", SEEN)
def test_the_colors_of_uncertainty_rise_in_lightness(kind: str) -> None:
    text = (ROOT / "segwright" / "serving" / "static" / "stage.js").read_text(encoding="utf-8")
    found = re.search(r"CIVIDIS = (\[\[.*?\]\]);", text, re.DOTALL)
    assert found is not None
    stops = [[int(value) for value in part.split(",")] for part in re.findall(r"\[(\d+, \d+, \d+)\]", found[1])]
    lightness = [lab(SEEN[kind] @ linear("#" + bytes(stop).hex()))[0] for stop in stops]
    assert len(stops) > 4 and all(b - a > 3 for a, b in pairwise(lightness))
