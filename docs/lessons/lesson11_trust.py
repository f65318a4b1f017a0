"""Lesson 11: why none of it may be trusted. Three guests that do not play by the rules, and what each must cost: itself."""

from collections.abc import Callable
from typing import Final

from lesson00_call import CODE, Code, code_page, require_this_machine
from lesson01_sigsys import install_filter
from lesson02_filter import ALLOW, EQUAL, LOAD, RETURN, TRAP, assemble
from lesson04_futex import FUTEX
from lesson05_registers import Sentry, Stub

RT_SIGRETURN: Final = 15
BUFFER: Final = 64
RING, LENGTH = 128, 300
"""Words of the page: the ring of the contexts that came back, and the length of a message."""


class GuestIsHostile(Exception):  # noqa: N818 - what it says
    """The guest did what no honest stub does. It is ended; nobody else notices."""


FORGED_NUMBER: Final = bytes.fromhex("48c783100400008b0f0000 48c7830804000001000000 0f05")
"""mov [rbx + entry 0 of the ring], 3979 · mov [rbx + tail of the ring], 1 · syscall"""

OUT: Final = {0: "the only one"}
"""The sentry's own book of the contexts that are out there."""


def who_trusting(guest: Sentry) -> str:
    """Return the context that came back: the stub says so."""
    guest.resume()
    return OUT[guest.shared.words[RING + 2]]


def who_checked(guest: Sentry) -> str:
    """Return it if it can be: the sentry's own books say which contexts are out there."""
    guest.resume()
    number = guest.shared.words[RING + 2]
    if number not in OUT:
        raise GuestIsHostile(f"context {number} came back, which is not out")
    return OUT[number]


OTHER_LENGTH: Final = bytes.fromhex("48c7836009000000100000 0f05")
"""mov [rbx + the length], 4096 · syscall"""


def length_trusting(guest: Sentry) -> int:
    """Check the length, then use it: each reads shared memory anew, and a thread of the guest may run between."""
    if guest.shared.words[LENGTH] > BUFFER:
        raise GuestIsHostile("too long")
    guest.resume()  # the worst moment, for certain: here the guest runs
    return guest.shared.words[LENGTH]


def length_checked(guest: Sentry) -> int:
    """Read once into what is ours; then check and use that."""
    length = guest.shared.words[LENGTH]
    guest.resume()
    if length > BUFFER:
        raise GuestIsHostile("too long")
    return length


BORROWED_CALL: Final = bytes.fromhex("b827000000 ffd1 89c7 b8e8030000 0f05")
"""mov eax, 39 (getpid) · call rcx · mov edi, eax · mov eax, 1000 · syscall"""


def allow_only(*numbers: int) -> bytes:
    """Allow these calls only, wherever they come from: what the handler needs, and no more."""
    checks = [(EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    return assemble((LOAD, 0, 0, 0), *checks, (RETURN, 0, 0, TRAP), (RETURN, 0, 0, ALLOW))


class CagedStub(Stub):
    """A stub whose own code, too, can do almost nothing. Python may still get memory (9 to 12, 25, 28) and the time (228)."""

    def prepare(self, code: bytes) -> Code:
        """Install the second filter last: from then on there is no way to a third."""
        begin = super().prepare(code)
        install_filter(allow_only(FUTEX, RT_SIGRETURN, 9, 10, 11, 12, 25, 28, 228))
        return begin


def borrow(stub: type[Stub]) -> str:
    """Let a guest jump to a system call instruction that is not its own, and say what came of it."""
    ours = code_page(CODE)  # made before the fork, so it is in the stub, as all of Python is
    with Sentry(BORROWED_CALL, stub) as guest:
        guest["rcx"] = ours + CODE.index(b"\x0f\x05")
        guest.resume()
        escaped = guest["rax"] == 1000 and guest["rdi"] == guest.child
        return f"the guest has the host's answer: {escaped}"


def hostile(code: bytes, judge: Callable[[Sentry], object]) -> str:
    """Show a guest the shared page, as every stub has it, and tell what the sentry makes of what it does there."""
    with Sentry(code) as guest:
        guest["rbx"] = guest.shared.address
        guest.shared.words[LENGTH] = 8
        try:
            return f"{judge(guest)}"
        except GuestIsHostile as why:
            return f"the guest is ended: {why}"
        except KeyError as error:
            return f"the sentry is ended: KeyError {error}"


def main() -> None:
    """Each guest, before a sentry that trusts and one that does not."""
    require_this_machine()
    print("a forged number\n  trusting:", hostile(FORGED_NUMBER, who_trusting))
    print("  checked: ", hostile(FORGED_NUMBER, who_checked))
    print(f"a length that changes (at most {BUFFER} are allowed)\n  trusting:", hostile(OTHER_LENGTH, length_trusting))
    print("  checked: ", hostile(OTHER_LENGTH, length_checked))
    print("a borrowed system call\n  filter by address:  ", borrow(Stub))
    print("  and a second filter:", borrow(CagedStub))


if __name__ == "__main__":
    main()
