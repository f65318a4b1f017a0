"""What a page fault was about, where nobody tells: the heuristic of the original before it had error words.

The ptrace platform needs it, and stub images that leave the error word of a fault 0.
"""

from typing import Final

from systrap.platform import Access

SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2
SEGV_PKUERR: Final = 4

_PAGE_MASK: Final = 0xFFF
_MAX_INSTRUCTION: Final = 15


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
