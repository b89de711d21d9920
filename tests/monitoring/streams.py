"""Rows as a model would write them: made of random numbers, with a scene that lasts for some images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from segwright.monitoring.observation import CONFIDENCE_BINS, Observation

CLASSES = ("road", "car", "tree")


def row(index: int, random: np.random.Generator, *, scene: np.ndarray | None = None, model: str = "a" * 16,
        brightness: float = 0.0, road: float = 0.0, doubt: float = 0.0, size: int = 8) -> Observation:  # fmt: skip
    """One row; ``scene`` (6,) shifts it, the others are a drift."""
    shift = np.zeros(6) if scene is None else scene
    light = 0.5 + 0.03 * random.standard_normal() + 0.03 * shift[0] + brightness
    weights = np.exp(np.array([0.6 + road, 0.0, 0.3]) + 0.1 * random.standard_normal(3) + 0.1 * shift[1:4])
    shares = (weights / weights.sum()).astype(np.float32)
    sure = float(np.clip(0.9 - doubt + 0.02 * random.standard_normal() + 0.01 * shift[4], 0.05, 0.999))
    histogram = np.zeros((3, CONFIDENCE_BINS), np.float32)
    centers = (np.arange(CONFIDENCE_BINS) + 0.5) / CONFIDENCE_BINS
    weight = np.exp(-(((centers - sure) / 0.3) ** 2))
    histogram[:] = shares[:, None] * (weight / weight.sum()).astype(np.float32)
    noise = random.standard_normal(4) * (0.01, 0.01, 0.2, 0.001)
    statistics = [light, 0.2 + noise[0], 0.1 + noise[1], light, light, light, -6 + noise[2], 0.01 + noise[3], 0.01, 0.0]
    embedding = random.standard_normal(size).astype(np.float32)
    embedding[:2] += np.float32(shift[5]) + np.float32(10 * brightness)
    return Observation(
        time=1e9 + index, id=f"camera_{index:06d}", model=model, height=60, width=80, shares=shares,
        expected_shares=shares, expected_hits=shares * np.float32(sure),
        confidence=np.float32(sure) * np.array([0.6, 0.8, 1, 1.03, 1.05], np.float32), mean_confidence=sure,
        confidence_histogram=histogram, entropy=1 - sure, entropy_quantiles=np.full(5, 1 - sure, np.float32),
        components=random.integers(1, 5, 3).astype(np.int32), statistics=np.array(statistics, np.float32),
        embedding=embedding,
    )  # fmt: skip


def rows(count: int, seed: int, *, scene: int = 0, start: int = 0, **drift: float) -> list[Observation]:
    """``count`` rows; every ``scene`` images (0: never) the scene changes."""
    random = np.random.default_rng(seed)
    found, shift = [], None
    for index in range(count):
        if scene and index % scene == 0:
            shift = random.standard_normal(6)
        found.append(row(start + index, random, scene=shift, **drift))  # type: ignore[arg-type]
    return found


def with_tags(some: Iterable[Observation], **tags: str) -> list[Observation]:
    return [replace(one, tags=tags) for one in some]
