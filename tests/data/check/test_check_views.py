"""What people see of a check: the terminal's text and the page."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from segwright.core.types import LabelSpace
from segwright.data.check.report_html import overlay_palette, write_check_page
from segwright.data.check.report_text import render_check, shown_files
from segwright.data.check.runner import CheckResult, check_path
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import read_mask, write_bytes, write_mask


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> CheckResult:
    """A set with a class called like a tag, a truncated file, a stray value and a name that is no UTF-8."""
    root = write_street_scenes(tmp_path_factory.mktemp("set"), train=4, val=2, test=0, size=(64, 96))
    names = (root / "classes.txt").read_text().replace("sky", "<b>[red]sky")
    write_bytes(root / "classes.txt", names.encode())
    images = sorted((root / "images" / "train").iterdir())
    masks = sorted((root / "masks" / "train").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:500])
    labels = read_mask(masks[1])
    labels[:9] = 99
    write_mask(masks[1], labels)
    return check_path(root, workers=0)


def text(result: CheckResult, width: int = 120) -> str:
    buffer = io.StringIO()
    render_check(result, Console(file=buffer, width=width, highlight=False))
    return buffer.getvalue()


def test_the_text_names_findings_files_and_fixes(result: CheckResult) -> None:
    shown = text(result)
    for part in ("error truncated file", "street_0000.png", "values outside the classes", "99", "fix: ", "2 errors"):
        assert part in shown
    assert "<b>[red]sky" in shown  # markup in names is shown, not obeyed
    assert "\x1b" not in shown  # no color when piped


def test_bars_are_to_scale_on_a_narrow_terminal(result: CheckResult) -> None:
    for width in (80, 120):
        lines = [line for line in text(result, width).splitlines() if "█" in line]
        assert len(lines) > 5 and not any("…" in line for line in lines), "a bar cut off looks like any other"
        share = [float(line.split("%")[0].split()[-1]) for line in lines]
        bars = [line.count("█") for line in lines]
        assert all(abs(b - max(bars) * s / max(share)) <= 1 for b, s in zip(bars, share, strict=True))


def test_a_clean_set_says_so(tmp_path: Path) -> None:
    root = write_street_scenes(tmp_path, train=2, val=0, test=0, size=(64, 64))
    for path in (root / "masks" / "train").iterdir():  # no pixel is ignored, for which no class list would account
        labels = read_mask(path)
        write_mask(path, np.where(labels == 255, 0, labels).astype(np.uint8))
    assert "No problems found" in text(check_path(root, workers=0))


def test_a_set_that_cannot_be_opened_is_shown(tmp_path: Path) -> None:
    failed = check_path(tmp_path / "nowhere")
    assert "cannot be opened" in text(failed)
    assert "cannot be opened" in write_check_page(failed, tmp_path / "p.html").read_text()


def test_long_lists_are_cut() -> None:
    lines = shown_files([f"a/{i}.png" for i in range(9)])
    assert lines == ["a: 0.png, 1.png, 2.png, 3.png", "… and 5 more (--json lists all)"]
    assert shown_files(["a\nb.png"]) == ["a\\nb.png"]


def test_the_page_is_whole_and_escapes_names(result: CheckResult, tmp_path: Path) -> None:
    page = write_check_page(result, tmp_path / "check.html").read_text()
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert "&lt;b&gt;[red]sky" in page and "<b>[red]" not in page
    for part in ("truncated file", "values outside the classes", "Samples", "Which classes occur together"):
        assert part in page
    assert page.count("data:image/") >= 5  # samples, and the stray mask's image
    assert 'src="http' not in page and "<script>alert" not in page


def test_stray_pixels_are_marked_on_the_page(result: CheckResult) -> None:
    from segwright.data.check.report_html import RED, _draw

    assert result.dataset is not None
    [record] = [r for r in result.records if r.id.endswith("train/street_0001")]
    drawn = _draw(result.dataset, record)
    assert drawn is not None
    assert np.array_equal(np.unique(drawn[:9].reshape(-1, 3), axis=0), [RED])
    assert not (drawn[9:] == RED).all(axis=2).any()


def test_colors_show_on_images() -> None:
    """Black on white masks would leave the image as it is; a background keeps it on purpose."""
    space = LabelSpace(("background", "cell"), ((0, 0, 0), (255, 255, 255)))
    background, cell = overlay_palette(space)
    assert background == (0, 0, 0) and max(cell) - min(cell) > 100
    red = (200, 30, 30)
    assert overlay_palette(LabelSpace(("_background_", "car"), ((9, 200, 9), red))) == ((0, 0, 0), red)
    assert any(overlay_palette(LabelSpace(("road", "car"), ((0, 0, 0), red)))[0]), "a class that is black in its list"


def test_classes_that_never_occur_are_one_line(tmp_path: Path) -> None:
    root = write_street_scenes(tmp_path / "set", train=3, val=0, test=0, size=(64, 64))
    with open(root / "classes.txt", "a") as file:
        file.writelines(f"never{i} {i} 7 {i}\n" for i in range(20))
    many = check_path(root, workers=0)
    shown = text(many)
    assert "20 classes without pixels" in shown and "never7" not in shown.split("warning")[0]
    page = write_check_page(many, tmp_path / "check.html").read_text()
    assert page.count("never7") <= 3 and "20 classes never occur" in page
