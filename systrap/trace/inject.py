"""``-e inject=``: system calls that fail, succeed, wait or are accompanied by a signal because we say so.

``inject=SET[:error=ENOENT][:retval=N][:signal=SIG][:delay_enter=T][:delay_exit=T][:when=FIRST[..LAST][+[STEP]]]``: with error or
retval the call is not made. Calls are counted for each task and each call by itself, from 1.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from systrap.trace.constants_more import ERRORS
from systrap.trace.filters import FilterError, choose_calls, signal_number, suggest

_KEYS: Final = ("error", "retval", "signal", "delay_enter", "delay_exit", "when")
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_LAST: Final = 0xFFFF
ENOSYS: Final = 38


class Injection(NamedTuple):
    """What happens to some calls. ``result``: the call answers this instead of being made; times are in seconds."""

    calls: frozenset[str]
    result: int | None = None
    signal: int = 0
    delay_enter: float = 0.0
    delay_exit: float = 0.0
    first: int = 1
    last: int = _LAST
    step: int = 1

    def applies(self, count: int) -> bool:
        """Tell whether the ``count``-th call is one of those."""
        return self.first <= count <= self.last and (count - self.first) % self.step == 0


def parse(text: str, known: Mapping[str, int], fault: bool = False) -> Injection:
    """Understand an expression; ``fault``: -e fault=, for which an error is all that can happen. Raises FilterError."""
    calls, *parts = text.split(":")
    found = Injection(choose_calls(calls, known))
    acted = False
    for part in parts:
        key, equals, value = part.partition("=")
        if key not in _KEYS or not equals:
            raise FilterError(f"inject: '{part}' is not understood{suggest(key, _KEYS)}; there are {', '.join(_KEYS)}")
        if fault and key not in ("error", "when"):
            raise FilterError(f"fault: '{part}': only error and when are possible; use inject")
        if key == "when":
            first, last, step = _when(value)
            found = found._replace(first=first, last=last, step=step)
        else:
            acted = True
            found = _act(found, key, value)
    if fault and found.result is None:
        found = found._replace(result=-ENOSYS)
    elif not acted and not fault:
        raise FilterError(f"inject={text}: what is to happen? For instance inject={calls}:error=ENOENT")
    return found


def _act(found: Injection, key: str, value: str) -> Injection:
    if key in ("error", "retval") and found.result is not None:
        raise FilterError("inject: error and retval exclude each other")
    if key == "error":
        return found._replace(result=-_errno(value))
    if key == "retval":
        return found._replace(result=_integer(value))
    if key == "signal":
        return found._replace(signal=signal_number(value))
    return (
        found._replace(delay_enter=_seconds(value))
        if key == "delay_enter"
        else found._replace(delay_exit=_seconds(value))
    )


def _errno(word: str) -> int:
    by_name = {name: number for number, name in ERRORS.items()}
    if word.isdigit() and 0 < int(word) < 4096:
        return int(word)
    number = by_name.get(word.upper())
    if number is None:
        raise FilterError(f"inject: there is no error {word}{suggest(word.upper(), by_name)}")
    return number


def _integer(word: str) -> int:
    try:
        return int(word, 0)
    except ValueError:
        raise FilterError(f"inject: {word} is no number") from None


def _seconds(word: str) -> float:
    """Return a time given in microseconds, or with a unit."""
    digits = word.rstrip("nums")
    unit = word[len(digits) :] or "us"
    try:
        return float(digits) * _UNITS[unit]
    except (ValueError, KeyError):
        raise FilterError(f"inject: {word} is no time (for instance 500, 500us, 20ms, 1s)") from None


def _when(text: str) -> tuple[int, int, int]:
    """Return first, last and step of FIRST[..LAST][+[STEP]]."""
    span, plus, step = text.partition("+")
    first, dots, last = span.partition("..")
    try:
        begin = int(first)
        end = int(last) if dots else _LAST if plus else begin
        every = int(step) if step else 1
    except ValueError:
        raise FilterError(f"inject: when={text}: it is FIRST[..LAST][+[STEP]], for instance 3, 2+, 1+2, 2..5") from None
    if not (1 <= begin <= end and every >= 1):
        raise FilterError(f"inject: when={text}: numbers count from 1, and the last is not before the first")
    return begin, end, every


class Injector:
    """All injections of a run, and how often each call was made by each task."""

    def __init__(self, injections: list[Injection]) -> None:
        self._injections = injections
        self._watched = frozenset[str]().union(*(injection.calls for injection in injections))
        self._counts: dict[tuple[int, str], int] = {}

    def find(self, tid: int, name: str) -> Injection | None:
        """Count a call, and return what is to happen to it. Of several expressions the last one counts."""
        if name not in self._watched:
            return None
        count = self._counts[tid, name] = self._counts.get((tid, name), 0) + 1
        for injection in reversed(self._injections):
            if name in injection.calls:
                return injection if injection.applies(count) else None
        return None
