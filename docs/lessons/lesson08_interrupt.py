"""Lesson 08: interrupting a tight loop. A guest that never calls, never faults, and is made to come back."""

import os
import signal
from typing import Final

from lesson00_call import require_this_machine
from lesson02_filter import GUEST
from lesson03_second_process import SENTRY, STUB
from lesson04_futex import hand_over, wait_until
from lesson05_registers import SIGNO, Sentry

SLICE: Final = 0.1
"""Seconds a guest may compute before somebody else's turn."""

GUEST_CODE: Final = bytes.fromhex(
    "31c0"  #    xor eax, eax
    "48ffc0"  #  inc rax       the loop: two instructions, no way out
    "ebfb"  #    jmp -5
    "0f05"  #    syscall       never reached by the guest itself
)
LOOP: Final = GUEST + 2
BEHIND: Final = GUEST + 7


def resume_for(guest: Sentry, seconds: float) -> int:
    """Let the guest run, for this long at most; then it gets SIGCHLD. Returns the signal that ended its run."""
    hand_over(guest.shared, STUB)
    try:
        wait_until(guest.shared, SENTRY, seconds)
    except TimeoutError:
        os.kill(guest.child, signal.SIGCHLD)
        wait_until(guest.shared, SENTRY)
    return guest.shared.words[SIGNO]


def main() -> None:
    """Interrupt the loop twice, then lead it out; and an interrupt that comes before the guest runs at all."""
    require_this_machine()
    with Sentry(GUEST_CODE) as guest:
        counts = [0]
        for _ in range(2):
            signo = resume_for(guest, SLICE)
            counts.append(guest["rax"])
            print(f"{signal.Signals(signo).name}: in the loop: {LOOP <= guest['rip'] < BEHIND}, count {guest['rax']}")
        print(f"the count only grows, nothing is lost or done twice: {counts == sorted(set(counts))}")

        guest["rip"] = BEHIND
        print(
            f"{signal.Signals(guest.resume()).name}: led out of the loop, count unchanged: {guest['rax'] == counts[-1]}"
        )

        os.kill(guest.child, signal.SIGCHLD)
        before = guest["rip"] = LOOP
        signo = guest.resume()
        print(f"{signal.Signals(signo).name} before the first instruction: {guest['rip'] == before}")


if __name__ == "__main__":
    main()
