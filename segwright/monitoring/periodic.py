"""A look at a journal again and again, in a thread, for gauges: what a service does beside its work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from segwright.core.errors import SegwrightError
from segwright.core.telemetry import span
from segwright.monitoring.episodes import Announced
from segwright.monitoring.gauges import MonitorGauges
from segwright.monitoring.result import MonitorResult

logger = logging.getLogger("segwright.monitor")

SECONDS = 60.0
CLOSE_SECONDS = 5.0


class PeriodicMonitor:
    """Calls ``look`` every ``seconds`` in a daemon thread and sets the gauges; each episode of alarms is logged once.

    ``written``: rows of the service so far; without a new one there is no further look. An error costs one look and a
    line in the log, never the service.
    """

    def __init__(
        self,
        look: Callable[[], MonitorResult],
        gauges: MonitorGauges,
        *,
        seconds: float = SECONDS,
        written: Callable[[], int] | None = None,
    ) -> None:
        self._look, self._gauges, self._seconds, self._written = look, gauges, seconds, written
        self._closing = threading.Event()
        self._last_written: int | None = None  # at the last look that succeeded
        self._trouble = ""
        self._announced = Announced()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; a second call has no effect."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="monitor gauges", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End; a look that is still in progress is abandoned."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closing.wait(self._seconds):
            self.look_once()

    def look_once(self) -> MonitorResult | None:
        """One look, if there is a new row; None if there is none or the look failed."""
        count = None if self._written is None else self._written()
        if count is not None and count == self._last_written:
            return None
        try:
            with span("segwright.monitor"):
                found = self._look()
            self._gauges.update(found)
        except Exception as error:  # beside the service's work: nothing here may end it
            text = error.message if isinstance(error, SegwrightError) else f"{type(error).__name__}: {error}"
            if text != self._trouble:
                logger.warning("the journal could not be examined: %s", text)
            self._trouble = text
            return None
        self._trouble, self._last_written = "", count
        for alarm in self._announced.new(found):
            logger.warning("alarm: %s", alarm.text)
        self._announced.done(found)
        return found
