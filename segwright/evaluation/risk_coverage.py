"""``evaluate --uncertainty``: how well each measure of uncertainty finds the wrong pixels, in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.types import Float32Array, UInt8Array
from segwright.inference.predictor import Predictor
from segwright.inference.uncertainty import UncertaintyMeasure, check_measure, map_of_probabilities, parse_measures
from segwright.metrics.risk_coverage import RiskCoverage, RiskCoverageResult


@dataclass(frozen=True)
class UncertaintyTable:
    """The figures of each measure, by its text."""

    measures: dict[str, RiskCoverageResult]

    def to_json(self) -> dict[str, Any]:
        return {name: result.to_json() for name, result in self.measures.items()}

    def lines(self) -> list[str]:
        """The table for a terminal, the best AUROC first."""

        def pair(result: RiskCoverageResult, name: str, scale: float = 1.0) -> str:
            low, high = result.intervals[name]
            return f"{scale * result.figures[name]:.3f} ({scale * low:.3f} to {scale * high:.3f})"

        order = sorted(self.measures.items(), key=lambda item: -np.nan_to_num(item[1].figures["auroc"]))
        width = max(len("uncertainty"), *(len(name) for name, _ in order))
        head = f"{'uncertainty':<{width}}  {'AUROC of errors':<24}  {'AUPR':<24}  AURC, %"
        return [head] + [
            f"{name:<{width}}  {pair(found, 'auroc'):<24}  {pair(found, 'aupr'):<24}  {pair(found, 'aurc', 100)}"
            for name, found in order
        ]


class UncertaintyCollector:
    """A collector of an evaluation for several measures; ModelError if the network cannot give one of them."""

    def __init__(self, predictor: Predictor, measures: str | Sequence[UncertaintyMeasure]) -> None:
        self.predictor = predictor
        self.measures = parse_measures(measures) if isinstance(measures, str) else tuple(measures)
        for measure in self.measures:
            check_measure(measure, predictor.runtime)
        self.found = {measure: RiskCoverage() for measure in self.measures}
        self.needs_probabilities = any(measure.of_probabilities for measure in self.measures)

    def add(
        self,
        index: int,
        id: str,
        image: UInt8Array | None,
        truth: UInt8Array,
        labels: UInt8Array,
        confidence: npt.NDArray[np.float32] | None,
        *,
        probabilities: Float32Array | None = None,
    ) -> None:
        for measure, counts in self.found.items():
            if measure.of_probabilities and probabilities is not None:
                unsure = map_of_probabilities(measure, probabilities)
            else:
                assert image is not None  # a predictor's pass reads its images
                map_ = self.predictor.predict(image, uncertainty=measure).uncertainty
                assert map_ is not None
                unsure = map_
            counts.update(unsure, labels, truth)

    def table(self, groups: Sequence[object] | None = None) -> UncertaintyTable:
        """The figures; ``groups`` of the scored images, as :attr:`Evaluation.independent` has them."""
        return UncertaintyTable({str(measure): counts.result(groups) for measure, counts in self.found.items()})
