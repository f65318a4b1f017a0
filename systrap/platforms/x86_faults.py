"""What a page fault of x86-64 was about: from its error word, or, where nobody tells, by a heuristic.

The heuristic is the original's from before it had error words. The ptrace platform needs it, and stub images that leave the
error word of a fault 0.
"""

from typing import Final

from systrap.platform import Access

SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2
SEGV_PKUERR: Final = 4

TRAP_PAGE_FAULT: Final = 14

_PAGE_FAULT_WRITE: Final = 2
_PAGE_FAULT_USER: Final = 4
_PAGE_FAULT_FETCH: Final = 16
_PAGE_MASK: Final = 0xFFF
_MAX_INSTRUCTION: Final = 15


def access_of_error(err: int) -> Access:
    """Decode the error word of a page fault; 0, and anything not from user mode, is "not a page fault" (S-036, S-037)."""
    if err & _PAGE_FAULT_WRITE:
        return Access.WRITE
    if err & _PAGE_FAULT_FETCH:
        return Access.EXECUTE
    if err & _PAGE_FAULT_USER:
        return Access.READ
    return Access.NONE


def fault_access(code: int, addr: int, ip: int, before: Access) -> Access:
    """Guess the access of a SIGSEGV from its si_code, address and instruction (20-platform §4.3, [seed]; P-043, P-044).

    ``before`` is the guess for the same fault at the same instruction immediately before, or NONE. A mapped page that refuses
    (ACCERR) refuses writing, unless the instruction itself was to be fetched: every permission includes reading. An
    unmapped page is taken to be read first. An instruction that reaches into the next page, or writes over itself, is found last.
    """
    if code not in (SEGV_MAPERR, SEGV_ACCERR, SEGV_PKUERR):
        return Access.NONE
    if addr == ip:
        return Access.WRITE if before == Access.EXECUTE else Access.EXECUTE
    crosses = addr & _PAGE_MASK == 0 and 0 < addr - ip < _MAX_INSTRUCTION
    if crosses and before == Access.WRITE:
        return Access.EXECUTE
    if code == SEGV_ACCERR or before:
        return Access.WRITE
    return Access.READ


class LastFault:
    """The last fault of a context, for the rule that a fault that is repeated at once was a write ([seed]: lastFault…).

    ``unmaps`` counts changes of the space that may make the same access fault again for another reason.
    """

    __slots__ = ("_access", "_where")

    def __init__(self) -> None:
        self._where: tuple[int, int, int] | None = None
        self._access = Access.NONE

    def guess(self, code: int, addr: int, ip: int, unmaps: int) -> Access:
        """Return the likely access of a fault, and remember it."""
        where = (addr, ip, unmaps)
        before = self._access if where == self._where else Access.NONE
        self._access = fault_access(code, addr, ip, before)
        self._where = where
        return self._access

    def forget(self) -> None:
        """Note that something else happened in between."""
        self._where = None
