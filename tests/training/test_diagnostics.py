"""What is said when a run looks odd, and that a sound run is left in peace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from segwright.training.callbacks.diagnostics import DataTimer, LossMonitor


def said(
    watch: LossMonitor, losses: list[float], *, taken: float = 0.1, waited: float = 0.0, late: bool = False
) -> str:
    lines = []
    for step, loss in enumerate(losses, 1):
        watch.throughput(step, taken, waited, late)
        lines += watch.step({"step": step, "loss": loss, "lr": 0.01})
    return "\n".join(lines)


def test_a_sound_run_is_left_in_peace() -> None:
    assert said(LossMonitor(["a"]), [2.0 * 0.99**step + 0.2 * (step % 3) for step in range(400)], waited=0.01) == ""


def test_a_loss_that_climbs_and_stays_blames_the_learning_rate_once() -> None:
    falling = [2.0 * 0.97**step for step in range(60)]
    text = said(LossMonitor(["a"]), falling + [1.2] * 80)
    assert text.count("the learning rate is too high; try --lr at a third") == 1 and "lr-range" in text
    assert "rose from" not in said(LossMonitor(["a"]), [*falling, 50.0, *falling[-40:]])  # a spike passes


def test_the_last_phase_begins_anew_with_its_own_loss() -> None:
    watch = LossMonitor(["a"])
    assert said(watch, [1.0 * 0.97**step for step in range(60)]) == ""
    assert said(watch, [0.9] * 60, late=True) == ""


def test_a_starving_loader_is_said_once_with_its_share() -> None:
    text = said(LossMonitor(["a"]), [1.0] * 200, taken=0.1, waited=0.1)
    assert text.count("50% of the last 50 steps went by waiting for batches") == 1 and "workers" in text


def test_the_loaders_share_is_of_the_last_steps() -> None:
    watch = LossMonitor(["a"])
    assert watch.loader_fraction() == 0.0
    for step in range(100):
        watch.throughput(step, 0.09, 0.01 if step > 49 else 1.0, late=False)
    assert round(watch.loader_fraction(), 6) == 0.1


def test_waiting_is_measured_and_the_source_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    clock = [0.0]
    monkeypatch.setattr("segwright.training.callbacks.diagnostics.time.monotonic", lambda: clock[0])

    def slow() -> Iterator[int]:
        try:
            for number in range(3):
                clock[0] += 2.0
                yield number
        finally:
            closed.append(True)

    waiting = DataTimer()
    batches = waiting.over(slow())
    assert next(batches) == 0
    clock[0] += 10.0  # the step: not waiting
    assert next(batches) == 1
    assert waiting.take() == 4.0 and waiting.take() == 0.0
    batches.close()
    assert closed
