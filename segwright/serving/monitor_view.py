"""``GET /monitor``: the service's own journal as a page, examined at most once a minute, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from segwright.core.errors import SegwrightError
from segwright.monitoring.monitor import monitor
from segwright.monitoring.page import monitor_page, no_result_page
from segwright.reports import page_policy

logger = logging.getLogger("segwright.serve")

FRESH_SECONDS = 60.0  # that a page is shown again; an examination of 20,000 rows takes seconds


class MonitorView:
    """The page of the journal in ``folder``, compared with the reference of the saved model ``reference``, if any."""

    def __init__(self, folder: str | Path, reference: str | Path | None) -> None:
        self.folder, self.reference = folder, reference
        self._made: tuple[float, bytes] | None = None
        self._making: asyncio.Future[bytes] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="monitor")

    async def page(self) -> tuple[bytes, str]:
        """The document, UTF-8, and the Content-Security-Policy to send with it. Must be called on one event loop."""
        policy = f"{page_policy()}; frame-ancestors 'none'"
        if self._made is not None and time.monotonic() - self._made[0] < FRESH_SECONDS:
            return self._made[1], policy
        if self._making is None:  # several requests at once wait for one examination
            self._making = asyncio.get_running_loop().run_in_executor(self._thread, self._examine)
            self._making.add_done_callback(self._keep)
        return await asyncio.shield(self._making), policy

    def _keep(self, made: asyncio.Future[bytes]) -> None:
        self._making = None
        if not made.cancelled() and made.exception() is None:
            self._made = time.monotonic(), made.result()

    def _examine(self) -> bytes:
        try:
            document = monitor_page(monitor(self.folder, self.reference))
        except SegwrightError as error:  # no row yet, too small a reference: it may be otherwise in a minute
            logger.info("no look at the journal: %s", error.message)
            document = no_result_page(Path(self.folder).name, error)
        return document.encode("utf-8", "replace")

    def close(self) -> None:
        """End the thread; an examination in progress is abandoned."""
        self._thread.shutdown(wait=False, cancel_futures=True)
