"""What a terminal shows of a run: brackets as they are, no line beyond the width, the best score kept in view."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from segwright.training.callbacks import log
from segwright.training.callbacks.log import Display


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    found = Screen()
    monkeypatch.setattr(
        log, "stderr_console", lambda: Console(file=found, width=60, force_terminal=True, highlight=False)
    )
    return found


def record(epoch: int, **more: Any) -> dict[str, Any]:
    return {"step": 10 * epoch, "epoch": epoch, "loss": 0.5, "lr": 1e-3, "images_per_second": 20.0, **more}


def test_lines_are_wrapped_and_taken_literally(screen: Screen) -> None:
    Display(stream=screen).message(
        "  sizes  [128, 192] then [red] 320×416  (small images first: most of what is to learn)"
    )
    first, second = screen.getvalue().rstrip("\n").split("\n")
    assert first == "  sizes  [128, 192] then [red] 320×416  (small images first:" and second.startswith(
        " " * 9 + "most"
    )


def test_the_table_fits_and_keeps_the_best(screen: Screen) -> None:
    with Display(stream=screen) as display:
        for epoch in range(1, 10):
            better = epoch <= 2
            display.validation(record(epoch, val_miou=0.7 if better else 0.3, val_pixel_accuracy=0.9), better)
        display.step(record(9), 0.4, 700.0, "1.9 GiB memory")
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").split("\n")
    assert any("epoch 2" in line and "mIoU 0.700" in line and "the best" in line for line in lines)
    assert max(len(line) for line in lines) <= 60


def test_parts_that_decide_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The best one may have the lower mean IoU over all pixels: what decided has to be on the same line."""
    parts = {"new": 0.4, "old": 0.75}
    Display().validation(record(2, val_miou=0.7, val_pixel_accuracy=0.9, val_miou_by_part=parts), True)
    assert "val mIoU 0.700 (new 0.400, old 0.750), pixel accuracy 0.900 (best so far)" in capsys.readouterr().err


def test_the_last_validation_is_seen(screen: Screen) -> None:
    """No step follows it; and the third epoch is called so while it runs (its records count from 0) and after it."""
    with Display(stream=screen) as display:
        display.step(record(2), 1.0, 0.0, "1.9 GiB memory")
        display.validation(record(3, val_miou=0.8, val_pixel_accuracy=0.9), True)
    assert "epoch 3, step 20" in screen.getvalue() and "mIoU 0.800" in screen.getvalue()


def test_piped_lines_stay_whole() -> None:
    pipe = io.StringIO()
    Display(stream=pipe).message("word " * 40)
    assert pipe.getvalue() == "word " * 40 + "\n"


def test_one_of_many_says_only_how_far_it_is(screen: Screen) -> None:
    pipe = io.StringIO()
    with Display(brief=True, stream=pipe) as display:
        display.message("plan: …")
        display.validation(record(1, val_miou=0.7, val_pixel_accuracy=0.9), True)
        display.step(record(1), 0.4, 70.0, "1.9 GiB memory")
        display.step(record(1), 0.5, 60.0, "1.9 GiB memory")  # within the interval
    assert pipe.getvalue() == "  40%, loss 0.500, val mIoU 0.700, 1 min 10 s left\n"
    with Display(brief=True, stream=screen) as display:
        display.message("plan: …")
        display.step(record(2), 0.4, 70.0, "1.9 GiB memory")
    assert "40%" in screen.getvalue() and "plan" not in screen.getvalue()
