"""Lesson 04: the futex hand-over. Sleep until the word changes: and the one mistake that everybody makes with it once."""

import ctypes
import errno
import time
from collections.abc import Callable
from typing import Final

from lesson00_call import DEADLINE, make_call, require_this_machine
from lesson03_second_process import SENTRY, STUB, TURN, Shared, end, start

FUTEX: Final = 202
FUTEX_WAIT: Final = 0
FUTEX_WAKE: Final = 1
ROUNDS: Final = 1000


def futex_wait(address: int, expected: int, timeout: float) -> int:
    """Sleep *if the word still is* ``expected``; the kernel looks itself, and nobody can come between look and sleep.

    Returns 0 (somebody woke us), or −EAGAIN (it has another value already), −ETIMEDOUT, −EINTR.
    """
    span = (ctypes.c_long * 2)(int(timeout), int(timeout % 1 * 1e9))
    return make_call()(FUTEX, address, FUTEX_WAIT, expected, ctypes.addressof(span), 0, 0)


def futex_wake(address: int) -> int:
    """Wake one sleeper; return how many there were. If nobody sleeps, nothing is remembered."""
    return make_call()(FUTEX, address, FUTEX_WAKE, 1, 0, 0, 0)


def nothing() -> None:
    """Between look and sleep, nothing happens. Usually."""


def wait_until(shared: Shared, turn: int, timeout: float = DEADLINE, between: Callable[[], None] = nothing) -> None:
    """Sleep until it is this turn. ``between`` runs where another process may run, too: after the look."""
    deadline = time.monotonic() + timeout
    while (seen := shared.words[TURN]) != turn:
        between()
        left = deadline - time.monotonic()
        if left <= 0 or futex_wait(shared.address, seen, left) == -errno.ETIMEDOUT:
            raise TimeoutError(f"turn {turn} did not come")


def wait_wrongly(shared: Shared, turn: int, timeout: float = DEADLINE, between: Callable[[], None] = nothing) -> None:
    """Sleep until it is this turn: almost the same. This is the variant with the lost wake-up."""
    deadline = time.monotonic() + timeout
    while shared.words[TURN] != turn:
        between()
        left = deadline - time.monotonic()
        if left <= 0 or futex_wait(shared.address, shared.words[TURN], left) == -errno.ETIMEDOUT:
            raise TimeoutError(f"turn {turn} did not come")


def hand_over(shared: Shared, turn: int) -> None:
    """Give the page away: first the word, then the wake-up. Never the other way round."""
    shared.words[TURN] = turn
    futex_wake(shared.address)


def play_stub(shared: Shared) -> None:
    """Count what was handed over, and hand it back."""
    while True:
        wait_until(shared, STUB)
        shared.words[8] += 1
        hand_over(shared, SENTRY)


def is_it_lost(wait: Callable[[Shared, int, float, Callable[[], None]], None]) -> bool:
    """Let the hand-over happen at the worst moment, for certain: after the look and before the sleep."""
    shared = Shared()
    shared.words[TURN] = STUB
    try:
        wait(shared, SENTRY, 1.0, lambda: hand_over(shared, SENTRY))
    except TimeoutError:
        return True
    return False


def main() -> None:
    """Make a thousand round trips, and then the mistake."""
    require_this_machine()
    shared = Shared()
    shared.words[TURN] = SENTRY
    child = start(lambda: play_stub(shared))
    try:
        began = time.perf_counter()
        for _ in range(ROUNDS):
            hand_over(shared, STUB)
            wait_until(shared, SENTRY)
        each = (time.perf_counter() - began) / ROUNDS
        print(f"{shared.words[8]} round trips between two processes, {each * 1e6:.0f} µs each")
    finally:
        end(child)
    print(f"at the worst moment, wait_until loses the wake-up: {is_it_lost(wait_until)}")
    print(f"at the worst moment, wait_wrongly loses the wake-up: {is_it_lost(wait_wrongly)}")


if __name__ == "__main__":
    main()
