"""From predictions to the rows of a journal: what ``predict`` and the service call for every image."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segwright.core.errors import UsageError
from segwright.inference.exported import ExportedRuntime
from segwright.inference.prediction import Prediction
from segwright.inference.predictor import Predictor
from segwright.inference.thinned import ThinnedOutput
from segwright.monitoring.ages import SECONDS, seconds_of
from segwright.monitoring.journal_files import Header
from segwright.monitoring.journal_writer import MAX_BYTES, RETENTION, JournalWriter
from segwright.monitoring.observation import model_id, observe_output
from segwright.monitoring.reference import settings_of

logger = logging.getLogger("segwright.journal")

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
         "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
DAY = SECONDS["d"]
LONGEST = 1e5 * DAY


@dataclass(frozen=True)
class JournalOptions:
    """Where and how a journal is written; texts such as "1%", "500MB" and "30d" are allowed.

    ``reference``: the saved model whose reference the service's page compares the journal with.
    """

    folder: str | Path
    keep_images: float | str = 0.0
    max_size: int | str = MAX_BYTES
    retention: float | str = RETENTION / DAY  # of kept images, in days
    reference: str | Path | None = None


def parse_share(share: float | str) -> float:
    """0.01 from "1%", "0.01" or 0.01; UsageError for anything that is no share of images."""
    wrong = UsageError("no share of images", expected="0 to 1, or 0% to 100%, such as 1%", found=str(share)[:50])
    try:
        text = str(share).strip()
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise wrong from error
    if not 0 <= value <= 1:
        raise wrong
    return value


def parse_size(size: int | str) -> int:
    """Bytes from "500MB", "2 GiB" or a number of bytes; UsageError for anything else."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([a-z]*)", str(size).strip().lower())
    if match is None or match[2] not in UNITS:
        raise UsageError("no size", expected="bytes, or such as 500MB or 2GB", found=str(size)[:50])
    return int(float(match[1]) * UNITS[match[2]])


def parse_age(age: float | str) -> float:
    """Seconds from "30d", "12h", "90min", "2w" or a number of days; UsageError for anything else, and for 0."""
    seconds = seconds_of(str(age), bare="d") or 0.0
    if not 0 < seconds < LONGEST:
        raise UsageError(
            "no time that images are kept", expected="days above 0, or such as 30d, 12h or 2w", found=str(age)[:50]
        )
    return seconds


class Recorder:
    """Writes a row per prediction of one or several predictors into a journal. ``record`` never raises.

    Errors at once, as of :class:`~segwright.monitoring.journal_writer.JournalWriter`.
    """

    def __init__(
        self,
        options: JournalOptions,
        predictor: Predictor,
        name: str = "",
        *,
        on_written: Callable[[int], None] = lambda count: None,
        on_lost: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._on_lost = on_lost
        self.notes: list[str] = []
        self.failed = 0  # predictions that gave no row
        self.writer = JournalWriter(
            options.folder, label_space=predictor.label_space, model=name, max_bytes=parse_size(options.max_size),
            keep_images=parse_share(options.keep_images), retention=parse_age(options.retention),
            on_written=on_written, on_lost=on_lost,
        )  # fmt: skip
        self._number = 0
        self.current = self.attach(predictor, name)

    def attach(self, predictor: Predictor, name: str = "") -> RecordedModel:
        """Begin to observe a predictor, such as one that replaces another."""
        predictor.observed = True
        header = self.writer.header(predictor.label_space, name, settings_of(predictor))
        if isinstance(predictor.runtime, ExportedRuntime):
            self._note("the exported file gives no features: rows have no embedding")
            if "logits" not in predictor.runtime.outputs:
                self._note(
                    "the exported file has no logits: rows have no entropy and no expected shares; export it with "
                    "--logits"
                )
        self.current = RecordedModel(self, header, model_id(predictor))
        return self.current

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            logger.info("%s", text)

    def next_id(self) -> str:
        """The id of an image that has no name: the writer and a running number."""
        self._number += 1
        return f"{self.writer.name}-{self._number}"

    def close(self) -> None:
        """Write what is queued."""
        self.writer.close()

    def summary(self) -> dict[str, int | str]:
        """Rows written and lost, and why if something is wrong."""
        found: dict[str, int | str] = {
            "folder": str(self.writer.folder), "rows": self.writer.written, "lost": self.writer.lost + self.failed,
        }  # fmt: skip
        return {**found, "reason": self.writer.last_trouble} if found["lost"] and self.writer.last_trouble else found


@dataclass(frozen=True)
class RecordedModel:
    """One predictor of a recorder."""

    recorder: Recorder
    header: Header
    id: str

    def record(
        self,
        prediction: Prediction | ThinnedOutput,
        id: str,
        *,
        tags: Mapping[str, str] | None = None,
        estimated_iou: tuple[float, float, float] | None = None,
    ) -> None:
        """Queue the row of a prediction; whatever fails is counted and never raised."""
        try:
            thinned = prediction.thinned if isinstance(prediction, Prediction) else prediction
            image = prediction.image if isinstance(prediction, Prediction) else None
            if estimated_iou is None and isinstance(prediction, Prediction):
                estimated_iou = prediction.estimated_iou()
            assert thinned is not None
            observation = observe_output(
                thinned, id=id, model=self.id, classes=len(self.header.label_space), tags=tags,
                estimated_iou=estimated_iou,
            )  # fmt: skip
            if not np.isfinite(observation.embedding).all():
                raise ValueError("features that are not finite")
        except Exception as error:  # a prediction is never lost because its row is
            self.recorder.failed += 1
            with contextlib.suppress(Exception):
                self.recorder._on_lost(1)
            if self.recorder.failed == 1:
                logger.error("an image has no row in the journal: %s", error, exc_info=error)
            return
        self.recorder.writer.add(observation, image, header=self.header)
