"""What an evaluation can compute besides its scores, in the same pass: slices and likely label errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segwright.evaluation.evaluate import Collector, LabeledImages
from segwright.evaluation.evaluation import Evaluation
from segwright.evaluation.label_errors import LabelErrorCollector, write_label_errors
from segwright.evaluation.slices import SliceCollector, check_slices


class EvaluationParts:
    """``slices``: "auto" or a CSV file, ``label_errors``: a folder; None leaves a part out."""

    def __init__(self, slices: str | Path | None = None, label_errors: str | Path | None = None) -> None:
        self.columns = None if slices is None else check_slices(slices)
        self.with_slices, self.folder = slices is not None, label_errors
        self.slices: SliceCollector | None = None
        self.label_errors: LabelErrorCollector | None = None

    def collectors(self, split: LabeledImages) -> list[Collector]:
        """The collectors of the pass; DataError for a file of columns of which no row is an image of the split."""
        found: list[Collector] = []
        if self.with_slices:
            self.slices = SliceCollector(split.label_space, self.columns, ids=split.ids)
            found.append(self.slices)
        if self.folder is not None:
            self.label_errors = LabelErrorCollector(split.label_space)
            found.append(self.label_errors)
        return found

    def finish(
        self, evaluation: Evaluation, split: LabeledImages, trained_on: Mapping[str, bool] | None = None
    ) -> None:
        """Add the parts and their notes to the evaluation, and write the folder of label errors."""
        if self.slices is not None:
            slices = self.slices.result(evaluation.independent)
            evaluation.parts["slices"] = slices
            evaluation.notes += slices.notes
        if self.label_errors is not None and self.folder is not None:
            errors = self.label_errors.result(split=split.name, trained_on=trained_on)
            evaluation.parts["label_errors"] = errors
            write_label_errors(self.folder, errors, split)
            evaluation.notes += [f"label errors: {note}" for note in errors.notes]
