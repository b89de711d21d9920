"""Which alarms are new, for what looks at a journal again and again: one message per episode."""

from __future__ import annotations

from segwright.monitoring.result import Alarm, MonitorResult


class Announced:
    """The episodes that were announced so far.

    An episode is known by its detector and its first row. A look that begins at another row, or has another reference,
    may give an episode another first row: an alarm is not new either if the row that raised it was judged by an earlier
    look, or if it spans the row that raised one which was announced.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._judged: frozenset[bytes] | None = None
        self._raised: dict[str, set[bytes]] = {}  # by detector

    def new(self, found: MonitorResult) -> tuple[Alarm, ...]:
        """The alarms to announce. Of the first look, those that count; later also those that came and went between."""
        if self._judged is None:
            return tuple(alarm for alarm in found.alarms if found.counts(alarm))
        judged = self._judged

        def known(alarm: Alarm) -> bool:
            spanned = found.row_keys[alarm.since : alarm.last + 1]
            return (alarm.key in self._known or alarm.row_key in judged
                    or not self._raised.get(alarm.detector, set()).isdisjoint(spanned))  # fmt: skip

        return tuple(alarm for alarm in found.alarms if not known(alarm))

    def done(self, found: MonitorResult) -> None:
        """The alarms of this look were announced; without this call they are new at the next look, too."""
        examined = frozenset(found.row_keys)
        for raised in self._raised.values():
            raised &= examined  # what is no longer examined cannot be announced again
        for alarm in found.alarms:
            self._raised.setdefault(alarm.detector, set()).add(alarm.row_key)
        self._known = {alarm.key for alarm in found.alarms}
        self._judged = examined
