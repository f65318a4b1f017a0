"""Running cases against a driver, one after the other: a verdict for each, whatever happens to the driver."""

import time
from collections.abc import Iterator, Sequence
from typing import Final

from conformance.case import Case
from conformance.checks import Check, transcript_of
from conformance.client import (
    Driver,
    DriverCrashedError,
    DriverTimeoutError,
    Message,
    ProtocolViolationError,
)
from conformance.match import PatternError
from conformance.protocol import SUITE
from conformance.steps import FailedError, LateError, RefusedError, Run, SkippedError, UnsupportedError, result_of
from conformance.verdict import GOOD, Item, Status, Verdict

__all__ = ("GOOD", "PATIENCE", "SUITE", "Runner", "Status", "Verdict")

PATIENCE: Final = 10.0
"""Seconds that an answer may take, beyond the time that a case gives its guests."""

_STARTS: Final = 3
_SECOND_LOOKS: Final = 5

_MEANS: Final[dict[type[Exception], Status]] = {
    FailedError: Status.FAIL,
    UnsupportedError: Status.UNSUPPORTED,
    SkippedError: Status.SKIPPED,
    RefusedError: Status.ERROR,
    PatternError: Status.ERROR,
    LateError: Status.TIMEOUT,
    DriverTimeoutError: Status.TIMEOUT,
    ProtocolViolationError: Status.ERROR,
    DriverCrashedError: Status.CRASH,
}


def _cpu_features() -> frozenset[str]:
    """Return what this machine's CPU has, as the capabilities that cases can need: "cpu.avx"."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            words = next((line.split() for line in file if line.startswith(("flags", "Features"))), [])
    except OSError:
        return frozenset()
    return frozenset(f"cpu.{word}" for word in words)


class Runner:
    """Runs cases in order on one driver. After a verdict that is not good the next case gets another driver process.

    A driver that does not even greet, three times in a row, is not tried again: the cases that are left are ``unknown``.
    """

    def __init__(
        self,
        command: Sequence[str],
        patience: float = PATIENCE,
        seed: int = 0,
        second_look: bool = False,
        slow: float = 1.0,
    ) -> None:
        """Use ``command`` as driver. ``second_look``: run what went wrong again, to tell whether it is flaky.

        ``slow`` multiplies the patience, and the time that cases grant their guests.
        """
        self._command = command
        self._patience = patience * slow
        self._slow = slow
        self._seed = seed
        self._looks = _SECOND_LOOKS if second_look else 0
        self._driver: Driver | None = None
        self._refused = 0
        self._why = ""
        self._caps: frozenset[str] = frozenset()
        self.hello: Message = {}

    def run(self, cases: Sequence[Item]) -> Iterator[Verdict]:
        """Yield a verdict for every case."""
        for case in cases:
            yield self.verdict(case)

    def verdict(self, case: Item) -> Verdict:
        """Run one case."""
        verdict = self._timed(case)
        if verdict.status not in GOOD and verdict.status is not Status.UNKNOWN and self._looks:
            self._looks -= 1
            if self._timed(case).status is Status.PASS:
                return verdict._replace(flaky=True, reason=f"{verdict.reason} (flaky: it passed when it was run again)")
        return verdict

    def close(self) -> None:
        """End the driver."""
        driver, self._driver = self._driver, None
        if driver is not None:
            try:
                driver.bye()
            except (DriverCrashedError, DriverTimeoutError, ProtocolViolationError):
                self._caps = frozenset()
            driver.kill()

    def greet(self) -> Message:
        """Start a driver if there is none, and return what it says of itself. Raises what Driver and result_of raise."""
        if self._driver is None:
            self._refused += 1
            self._driver = Driver(self._command)
            self.hello = result_of(self._driver.hello(self._patience))
            caps = self.hello["caps"]
            self._caps = frozenset(map(str, caps)) if isinstance(caps, list) else frozenset()
            self._caps |= _cpu_features() | {f"page.{self.hello.get('page_size')}"}
            self._refused = 0
        return self.hello

    def _timed(self, case: Item) -> Verdict:
        if self._refused >= _STARTS:
            return Verdict(case, Status.UNKNOWN, f"the driver does not even say hello: {self._why}")
        start = time.monotonic()
        verdict = self._run(case)
        self._why = verdict.reason
        return verdict._replace(seconds=round(time.monotonic() - start, 4))

    def _run(self, case: Item) -> Verdict:
        try:
            hello = self.greet()
            assert self._driver is not None
            self._driver.recent.clear()
            if isinstance(case, Check):
                case.go(self._command, self._patience)
                return Verdict(case, Status.PASS)
            unfit = self._unfit(case, hello)
            if unfit:
                return Verdict(case, Status.UNSUPPORTED, unfit)
            run = Run(case, self._driver, hello, self._patience, self._seed, self._slow)
            run.go()
            return Verdict(case, Status.PASS, "an interrupt that nobody sent was forgiven" if run.forgiven else "")
        except OSError as error:
            return self._bad(case, Status.ERROR, f"the driver cannot be started: {error}", ())
        except tuple(_MEANS) as error:
            status = _MEANS[type(error)]
            notes = tuple(getattr(error, "__notes__", ()))
            return self._bad(case, status, str(error), notes)

    def _unfit(self, case: Case, hello: Message) -> str:
        """Say why a case is not for this driver; "" when it is."""
        if case.arch not in (hello.get("arch"), "any"):
            return f"this is {hello.get('arch')}"
        missing = [cap for cap in case.need if cap not in self._caps]
        return f"no {', '.join(missing)}" if missing else ""

    def _bad(self, case: Item, status: Status, reason: str, notes: tuple[str, ...]) -> Verdict:
        """Return a verdict with the last of the talk, and end the driver unless nothing is wrong."""
        if status in GOOD:
            return Verdict(case, status, reason)
        transcript = notes or (transcript_of(self._driver) if self._driver is not None else ())
        if self._driver is not None:
            self._driver.kill()
            self._driver = None
        return Verdict(case, status, reason, transcript)
