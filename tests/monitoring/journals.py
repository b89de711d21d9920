"""Records with known numbers, for the tests of journals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from segwright.core.types import LabelSpace
from segwright.monitoring.observation import CONFIDENCE_BINS, IMAGE_STATISTICS, Observation

SPACE = LabelSpace(("ground", "thing", "other"))


def observation(number: int = 0, classes: int = 3, **changes: Any) -> Observation:
    rng = np.random.default_rng(number)
    shares = rng.dirichlet(np.ones(classes)).astype(np.float32)
    base = Observation(
        time=1_700_000_000.0 + number, id=f"image {number}", model="0123456789abcdef", height=120, width=160,
        shares=shares, expected_shares=shares, expected_hits=shares * 0.9,
        confidence=np.sort(rng.random(5)).astype(np.float32), mean_confidence=0.75,
        confidence_histogram=(shares[:, None] * np.ones(CONFIDENCE_BINS) / CONFIDENCE_BINS).astype(np.float32),
        entropy=0.25, entropy_quantiles=np.sort(rng.random(5)).astype(np.float32),
        components=rng.integers(0, 9, classes).astype(np.int32),
        statistics=rng.random(len(IMAGE_STATISTICS)).astype(np.float32),
        embedding=rng.normal(size=8).astype(np.float32), tags={"scene": f"camera {number % 2}"},
    )  # fmt: skip
    return replace(base, **changes)
