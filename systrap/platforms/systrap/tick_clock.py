"""Ticks of the counter that stubs stamp contexts with, as time (for tracing).

Where the CPU does not tell how fast its counter runs (x86-64), that is found out on the way: from two looks at both clocks,
the first of which lies ever further back.
"""

import time
from typing import Final

from systrap.platforms.systrap.machine_code import SentryCode

_SHORT: Final = 1_000_000
"""Nanoseconds below which two looks at the clocks say nothing about their ratio."""
_OLDEST: Final = 60_000_000_000


class TickClock:
    """Turns stamps of the near past into CLOCK_MONOTONIC nanoseconds."""

    __slots__ = ("_counter", "_nanoseconds", "_ratio", "_ticks")

    def __init__(self, code: SentryCode) -> None:
        """Look at both clocks for the first time. The ratio is settled after a millisecond, which passes here."""
        self._counter = code.counter
        self._ratio = 1e9 / code.counter_frequency
        self._ticks, self._nanoseconds = code.counter(), time.monotonic_ns()
        time.sleep(2 * _SHORT / 1e9)
        self.nanoseconds(0)

    def nanoseconds(self, ticks: int) -> int:
        """Return when the counter stood at ``ticks``. What lies more than a minute back or ahead was no stamp: a minute ago."""
        counter, now = self._counter(), time.monotonic_ns()
        passed = now - self._nanoseconds
        if passed > _SHORT and counter > self._ticks:
            self._ratio = passed / (counter - self._ticks)
        ago = int((counter - ticks) * self._ratio)
        return now - min(max(ago, -_OLDEST), _OLDEST)
