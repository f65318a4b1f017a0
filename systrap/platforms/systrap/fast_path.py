"""When to spin: the fast-path controller (20-platform §7; P-083, P-084, P-090, P-091).

Each side of a hand-over can spin for a while before it sleeps: the *sentry* for the next event, a *stub* thread for the next
context. That saves two system calls and a wake-up each time, if the other side is on a CPU meanwhile; if not, the spinning is
what keeps it off. So it is measured. Time runs in *periods*; in each, two histograms collect how long a context waited for a
stub thread, and how long its event waited for the sentry. From periods in which a path was off come *baselines*; a path that
is on and does not hold its ground against them is switched off, and tried again later, each time later.

Each path disturbs the latency of the other: a sentry that spins takes the CPU that a stub thread needs. So they are switched
on one after the other, and the state remembers which was last.

Differences from upstream: a period ends with an event, so an idle sentry measures nothing and needs no parking; in BOTH the
sentry's path is judged by its own medians (upstream looks at histograms it has just emptied: docs/upstream-defects.md).
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, NamedTuple

BUCKETS: Final = 80
BUCKET_TICKS: Final = 2048
"""The unit of latencies here: the width of a bucket, about a microsecond. (The sentry image makes its buckets so wide by the
counter's frequency; nothing here has to know it.)"""
MIN_SAMPLES: Final = 5

INITIAL_BACKOFF: Final = 2
MAX_FAILURES: Final = 9
STRIKES: Final = 2
"""So many bad verdicts in a row switch a path off."""

NOMINAL_HZ: Final = 2_000_000_000
"""What is taken for the counter's frequency where the CPU does not tell it (x86-64; 10-stub §4.6)."""


class Ticks(NamedTuple):
    """Durations in ticks of the counter that sentry and stubs read; at least one tick each."""

    handshake: int
    """500 ns: a context that no stub thread took by then is not going to be taken by one that spins."""
    deep_sleep: int
    """20 µs: how long one turn of spinning lasts. The stub's spinners, and the sentry, take two before they sleep."""
    period: int
    """4 ms. Upstream has 400 µs and a thread of its own; to judge costs us some 30 µs of Python."""


def ticks(frequency: int) -> Ticks:
    """Return the durations for a counter with so many ticks in a second (S-073)."""
    return Ticks(max(frequency // 2_000_000, 1), max(frequency // 50_000, 1), max(frequency // 250, 1))


# The buckets below which an event came within 1, 5, 10, 20, 40 µs (nominal), for statistics().
_WITHIN: Final = (("1us", 1), ("5us", 5), ("10us", 10), ("20us", 20), ("40us", 40))


_Verdict = Callable[[int, int, bool], bool]
"""Tells from stub and sentry median, and whether the path was used, whether it does harm."""


class State(Enum):
    """Which paths are on, and which was switched on last where that matters."""

    OFF = 0
    SENTRY = 1
    STUB = 2
    BOTH_LAST_SENTRY = 3
    BOTH_LAST_STUB = 4
    BOTH = 5


def median(histogram: Sequence[int]) -> int:
    """Return the median latency in ticks; 0 when there are too few samples to tell. Counts from both ends inwards (P-091)."""
    low, high = 0, len(histogram) - 1
    front = back = 0
    while low <= high:
        if front < back:
            front += histogram[low]
            low += 1
        else:
            back += histogram[high]
            high -= 1
    if front + back < MIN_SAMPLES:
        return 0
    return max(low, 1) * BUCKET_TICKS


class Path:
    """One of the two paths: whether it is on, what was measured, and its record of failures."""

    __slots__ = ("backoff", "baseline", "current", "disabled", "enabled", "failures", "is_on", "strikes", "within")

    def __init__(self) -> None:
        self.is_on = False
        self.baseline = [0] * BUCKETS
        self.current = [0] * BUCKETS
        self.backoff = INITIAL_BACKOFF
        self.failures = 0
        self.strikes = 0
        self.enabled = 0
        self.disabled = 0
        self.within = dict.fromkeys([name for name, _ in _WITHIN] + ["more"], 0)

    def add(self, histogram: Sequence[int]) -> None:
        """Add one period's samples."""
        self.current = [have + new for have, new in zip(self.current, histogram, strict=True)]
        low = 0
        for name, end in _WITHIN:
            self.within[name] += sum(histogram[low:end])
            low = end
        self.within["more"] += sum(histogram[low:])

    def forget(self) -> None:
        """Begin the next measurement."""
        self.current = [0] * BUCKETS

    def learn(self) -> None:
        """Take what was measured as this side's latency without spinning."""
        self.baseline = [have + new for have, new in zip(self.baseline, self.current, strict=True)]
        self.forget()

    def wait(self) -> bool:
        """Let a period pass. Tells whether the path may be tried."""
        self.backoff = max(self.backoff - 1, 0)
        return self.backoff == 0

    def switch_on(self) -> None:
        """Begin to spin."""
        self.is_on = True
        self.enabled += 1
        self.strikes = 0

    def succeed(self) -> None:
        """Note a period in which spinning did no harm."""
        self.failures = max(self.failures - 1, 0)
        self.strikes = 0

    def fail(self) -> bool:
        """Note a period in which it did. Two in a row switch the path off (then the answer is True), for 1, 2, 4… periods."""
        self.strikes += 1
        if self.strikes < STRIKES:
            return False
        self.is_on = False
        self.disabled += 1
        self.strikes = 0
        self.backoff = 1 << self.failures
        self.failures = min(self.failures + 1, MAX_FAILURES)
        return True


class Controller:
    """Decides, period by period, which side may spin. Owned by the thread that waits for events.

    ``sentry`` is the path on which the sentry spins (its latency: event to sentry), ``stub`` the other.
    """

    __slots__ = ("_max_threads", "sentry", "state", "stub")

    def __init__(self, max_threads: int) -> None:
        """``max_threads``: sysmsg threads of a space, as many as there are CPUs."""
        self._max_threads = max_threads
        self.sentry = Path()
        self.stub = Path()
        self.state = State.OFF

    def period(self, stub: Sequence[int], sentry: Sequence[int], stub_spun: bool, sentry_spun: bool) -> None:
        """Take the histograms of a period, and whether each side spun in it; switch the paths accordingly."""
        self.stub.add(stub)
        self.sentry.add(sentry)
        _STEPS[self.state](self, stub_spun, sentry_spun)

    def _medians(self) -> tuple[int, int]:
        return median(self.stub.current), median(self.sentry.current)

    def _bad_sentry(self, stub: int, sentry: int, spun: bool) -> bool:
        """Tell whether the sentry's spinning harms: stub threads take contexts later than without, and by more than it gains."""
        if not spun:
            return False
        return _harms(stub, median(self.stub.baseline), median(self.sentry.baseline) - sentry, self._max_threads - 1)

    def _bad_stub(self, stub: int, sentry: int, spun: bool) -> bool:
        """Tell the same of the stubs' spinning."""
        if not spun:
            return False
        return _harms(sentry, median(self.sentry.baseline), median(self.stub.baseline) - stub, 1)

    # One function for each state (20-platform §7.3).

    def _off(self, stub_spun: bool, sentry_spun: bool) -> None:
        stub, sentry = self._medians()
        self.stub.learn()
        self.sentry.learn()
        try_sentry = sentry != 0 and self.sentry.wait()
        try_stub = stub != 0 and self.stub.wait()
        if try_sentry:
            self.sentry.switch_on()
            self.state = State.SENTRY
        elif try_stub:
            self.stub.switch_on()
            self.state = State.STUB

    def _sentry_only(self, stub_spun: bool, sentry_spun: bool) -> None:
        self._one(self.sentry, self.stub, self._bad_sentry, sentry_spun, State.BOTH_LAST_STUB)

    def _stub_only(self, stub_spun: bool, sentry_spun: bool) -> None:
        self._one(self.stub, self.sentry, self._bad_stub, stub_spun, State.BOTH_LAST_SENTRY)

    def _one(self, path: Path, other: Path, is_bad: _Verdict, spun: bool, both: State) -> None:
        """Judge the one path that is on; when it does well, the other may be tried besides."""
        stub, sentry = self._medians()
        if not stub or not sentry:
            return
        if is_bad(stub, sentry, spun):
            if path.fail():
                self.state = State.OFF
            self._forget()
            return
        path.succeed()
        path.forget()
        other.learn()
        if other.wait():
            other.switch_on()
            self.state = both

    def _both_last_sentry(self, stub_spun: bool, sentry_spun: bool) -> None:
        self._both_new(self.sentry, self._bad_sentry, sentry_spun, State.STUB)

    def _both_last_stub(self, stub_spun: bool, sentry_spun: bool) -> None:
        self._both_new(self.stub, self._bad_stub, stub_spun, State.SENTRY)

    def _both_new(self, last: Path, is_bad: _Verdict, spun: bool, without: State) -> None:
        """Judge the path that was switched on last: it is the one to blame."""
        stub, sentry = self._medians()
        if not stub or not sentry:
            return
        self._forget()
        if is_bad(stub, sentry, spun):
            if last.fail():
                self.state = without
            return
        self.stub.succeed()
        self.sentry.succeed()
        self.state = State.BOTH

    def _both(self, stub_spun: bool, sentry_spun: bool) -> None:
        """Judge both, the stubs first: the sentry's spinning takes one CPU at most."""
        stub, sentry = self._medians()
        if not stub or not sentry:
            return
        self._forget()
        if self._bad_stub(stub, sentry, stub_spun):
            if self.stub.fail():
                self.state = State.SENTRY
        elif self._bad_sentry(stub, sentry, sentry_spun):
            if self.sentry.fail():
                self.state = State.STUB
        else:
            self.stub.succeed()
            self.sentry.succeed()

    def _forget(self) -> None:
        self.stub.forget()
        self.sentry.forget()

    def statistics(self) -> dict[str, int]:
        """Return counters: how often each path was switched, and within which time contexts and events were taken."""
        found: dict[str, int] = {}
        for name, path in (("sentry", self.sentry), ("stub", self.stub)):
            found[f"{name}_fast_path_on"] = int(path.is_on)
            found[f"{name}_fast_path_enabled"] = path.enabled
            found[f"{name}_fast_path_disabled"] = path.disabled
            for limit, count in path.within.items():
                found[f"{name}_latency_{limit}"] = count
        return found


def _harms(other: int, other_baseline: int, gain: int, weight: int) -> bool:
    """Tell whether one side's spinning costs the other side more than it brings itself.

    ``other`` is the other side's latency now, ``gain`` what the spinning side's own has come down by. Without any gain,
    half as much again is too much. A difference of one bucket is the grain of the measurement and says nothing (upstream,
    whose round trips are never that short, does without this rule).
    """
    if other - other_baseline <= BUCKET_TICKS:
        return False
    if gain > 0:
        return other > other_baseline and other - other_baseline > gain * weight + other_baseline // 8
    return 2 * other > 3 * other_baseline


_STEPS: Final = {
    State.OFF: Controller._off,
    State.SENTRY: Controller._sentry_only,
    State.STUB: Controller._stub_only,
    State.BOTH_LAST_SENTRY: Controller._both_last_sentry,
    State.BOTH_LAST_STUB: Controller._both_last_stub,
    State.BOTH: Controller._both,
}
