"""The short way for system calls that can be answered on the spot (performance.md §7): a twin of the long one, for speed only.

The long way is next_ready() → the kernel → submit(): the context is taken out of the books, its event is told, it is served,
it goes into the books again. For a call like getpid all that is dearer than the call. Here the context stays in the books as
if it had never come back; one call of machine code (``answer`` of the sentry image) hands it over again and waits for the
next one. The image has looked at the context already: it made a plain system call (RESULT_QUICK, next_ready.c).

What the two ways must agree on is compared in tests/platforms/systrap/test_quick.py; ``--no-quick-calls`` leaves this one out.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap import arch
from systrap.platform import QuickCalls
from systrap.platforms.systrap import machine_code as block
from systrap.platforms.systrap.context import VSYSCALLS, SystrapContext

if TYPE_CHECKING:
    from systrap.platforms.systrap.subprocess import Subprocess

QUICK_CONTEXT: Final = 1 | 8
"""What the low bits of the image's answer are when it brings a quick call and asks for nothing else."""
_LOW_BITS: Final = 15
_ID_SHIFT: Final = 4
_ID_MASK: Final = 4095
_SPACE_SHIFT: Final = 16
_RESULT: Final = arch.host().RESULT
_U64: Final = 1 << 64

ROUNDS: Final = 64
"""So many calls are answered in a row before the caller of next_ready() is let in: it has timers to look at."""


class Quick:
    """Answers quick calls for one dispatcher, on the thread of its next_ready()."""

    __slots__ = ("_answer", "_block", "_counts", "_handlers", "_spaces", "answered")

    def __init__(
        self, answer: Callable[[], int], words: "memoryview[int]", spaces: "list[Subprocess]", calls: QuickCalls
    ):
        """``answer``: of the sentry image; ``words``: its dispatch block, as u64; ``spaces``: the dispatcher's, by index."""
        self._answer = answer
        self._block = words
        self._spaces = spaces
        # One of those may have come from the vsyscall page, and then is a fault (P-049).
        self._handlers = {nr: handler for nr, handler in calls.handlers.items() if nr not in VSYSCALLS}
        self._counts = calls.counts
        self.answered = 0

    def serve(self, result: int) -> tuple[int, SystrapContext | None]:
        """Answer quick calls, beginning with the one that ``result`` of next_ready tells of.

        Returns the first result that is not for here, with the context it names still in the books; and the context that is
        to be handed over to the caller although its call is answered, if there is one.
        """
        answer, words = self._answer, self._block
        handlers, counts = self._handlers, self._counts
        last = 0
        for done in range(ROUNDS):
            if result != last:
                if result & _LOW_BITS != QUICK_CONTEXT:
                    break
                context = self._spaces[result >> _SPACE_SHIFT].outstanding.get(result >> _ID_SHIFT & _ID_MASK)
                if context is None or context.waiter:
                    break
                last, regs, owner = result, context.regs, context.owner
            number = words[block.NUMBER >> 3]
            handler = handlers.get(number)
            # An interrupt that came while it was on its way back is told of, as the long way does.
            if handler is None or context.interrupted:
                break
            value = handler(owner, regs)
            counts[number] += 1
            if value is None:
                self.answered += done + 1
                return 0, context
            regs[_RESULT] = value if value >= 0 else value + _U64
            result = answer()
        else:
            done += 1
        self.answered += done
        return result, None
