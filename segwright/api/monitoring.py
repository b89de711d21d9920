"""Watch a model in use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.core.telemetry import span

if TYPE_CHECKING:
    from segwright.monitoring.journal import Journal
    from segwright.monitoring.reference import Reference
    from segwright.monitoring.result import MonitorResult

__all__ = ["monitor"]


def monitor(
    journal: str | Path | Journal,
    reference: str | Path | Reference | None = None,
    *,
    model: str | None = None,
    rate: float = 1e-3,
    block: int | None = None,
    window: int = 100,
    correction: str = "holm",
    since: float | str | None = None,
    until: float | None = None,
    html: str | Path | None = None,
    webhook: str | None = None,
    allow_hosts: Sequence[str] = (),
) -> MonitorResult:
    """Compare what a model saw with what it was validated on: has anything changed, what, and how good is it now?

    Parameters
    ----------
    journal : str or Path or Journal
        The folder that ``predict`` or the service wrote, or a journal that was read.
    reference : str or Path or Reference, optional
        A saved model with its reference: a run folder or a bundle. Without one, the journal's first images (at most
        half of them and at most 500) are what the others are compared with, and the accuracy is not estimated.
    model : str, optional
        The version to examine, by the id in the journal; by default the reference's.
    rate : float, default=0.001
        False alarms per image that are accepted, however often the journal is looked at.
    block : int, optional
        Images that count as one, because neighbors in a video are alike; by default from their correlation.
    window : int, default=100
        Images per test of single statistics and of embeddings.
    correction : {"holm", "bh"}, default="holm"
        For the number of statistics: Holm, or Benjamini and Hochberg.
    since : float or str, optional
        The part that is looked at: from a time on, in seconds since 1970 or as a date, of the last day (``"1d"``; s, m,
        h, d, w) or the newest images (``"500"``). Alarms of this part count even if they have ended; without it only
        those that are going on.
    until : float, optional
        Only rows up to this time, in seconds since 1970.
    html : str or Path, optional
        Also write a page.
    webhook : str, optional
        A URL that the alarms are sent to as JSON, if there are any.
    allow_hosts : sequence of str
        The hosts that a webhook may be at.

    Returns
    -------
    MonitorResult
        ``alarm``, ``state``, ``verdict``, ``alarms`` in words, ``movements``, ``series``, ``unlike``, ``estimate``,
        ``recent``, ``since_alarm``, ``skipped``, ``notes``.

    Raises
    ------
    DataError
        There is no journal, the model has no reference, or the two have other classes or no model in common.
    UsageError
        A setting out of range, or a webhook that is not allowed.
    OutputError
        The webhook's host does not accept the alarms.

    Examples
    --------
    >>> import segwright as sw
    >>> done = sw.predict("run", "streets/images/train", out="seen", journal="journal", device="cpu")
    >>> found = sw.monitor("journal")
    >>> found.alarm, found.images
    (False, 3)
    """
    from segwright.monitoring.monitor import monitor as examine_journal
    from segwright.monitoring.webhook import check_webhook, post_message

    if webhook is not None:
        check_webhook(webhook, allow_hosts)
    with span("segwright.monitor"):
        found = examine_journal(
            journal, reference, model=model, rate=rate, block=block, window=window, correction=correction,
            since=since, until=until,
        )  # fmt: skip
    if html is not None:
        from segwright.monitoring.page import write_monitor_page

        write_monitor_page(html, found)
    if webhook is not None and found.alarm:
        post_message(webhook, found, allow_hosts)
    return found
