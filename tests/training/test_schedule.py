"""Schedules against hand-worked values."""

from __future__ import annotations

import pytest

from segwright.core.errors import UsageError
from segwright.training.optim.schedule import SCHEDULES, WARMUP_START, Plateau, learning_rate_factor


def test_values_worked_by_hand() -> None:
    assert learning_rate_factor("cosine", 0.5) == pytest.approx(0.5)
    assert learning_rate_factor("poly", 0.5) == pytest.approx(0.5**0.9)
    assert [learning_rate_factor("step", share) for share in (0.0, 0.7, 0.9)] == pytest.approx([1, 0.1, 0.01])
    assert learning_rate_factor("one-cycle", 0.3) == pytest.approx(1.0)
    assert learning_rate_factor("one-cycle", 0.0) == pytest.approx(1 / 25)
    assert learning_rate_factor("constant", 0.8) == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_warms_up_stays_in_range_and_ends(name: str) -> None:
    shares = [i / 200 for i in range(201)]
    factors = [learning_rate_factor(name, share, warmup=0.1) for share in shares]
    assert factors[0] == pytest.approx(1 / 25 if name == "one-cycle" else WARMUP_START)
    if name != "one-cycle":  # which rises by itself, and has no other rise before
        assert factors[10] == pytest.approx((WARMUP_START + 1) / 2)
    assert all(0 <= factor <= 1 + 1e-9 for factor in factors)
    if name in ("cosine", "poly", "one-cycle"):
        assert factors[-1] == pytest.approx(0, abs=1e-9)


def test_plateau_divides_after_waiting_and_survives_a_save() -> None:
    plateau = Plateau(patience=2, factor=0.1)
    assert [plateau.update(miou) for miou in (0.5, 0.4, 0.5)] == pytest.approx([1, 1, 0.1])
    again = Plateau(patience=2, factor=0.1)
    again.load(plateau.state())
    assert again.update(0.3) == plateau.update(0.3)
    assert again.update(0.3) == pytest.approx(0.01)


def test_unknown_schedule_names_the_known() -> None:
    with pytest.raises(UsageError, match="cosine"):
        learning_rate_factor("sawtooth", 0.5)
