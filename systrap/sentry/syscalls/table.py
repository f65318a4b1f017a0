"""The table of system calls: number → handler, with the arguments each handler really takes.

A handler is a typed function, ``def``, or ``async def`` when it may wait::

    @syscall("read")
    async def sys_read(task: Task, fd: i32, buf: addr, count: u64) -> int: ...

The annotation *names* below say how an argument register becomes an int; the decorator makes an adapter once, that reads
just the registers the handler takes. A handler returns the result, or None when it has set the registers itself
(rt_sigreturn, execve); it fails by raising SyscallError. Anything else that escapes is a bug of ours.
"""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, TypeVar

from systrap import arch
from systrap.sentry.syscalls import numbers
from systrap.sentry.wait import Wait

if TYPE_CHECKING:
    from systrap.sentry.task import Task

# How a 64-bit argument register is read. Guests may leave garbage in the upper half of 32-bit arguments.
i32 = int
u32 = int
i64 = int
u64 = int
addr = int

_CONVERSIONS = {
    "i32": "((r[{0}] & 0xffffffff) ^ 0x80000000) - 0x80000000",
    "u32": "r[{0}] & 0xffffffff",
    "i64": "(r[{0}] ^ 0x8000000000000000) - 0x8000000000000000",
    "u64": "r[{0}]",
    "addr": "r[{0}]",
}

Result = int | None
Running = Coroutine[Wait, bool | None, Result]
Adapter = Callable[["Task", "memoryview[int]"], Result | Running]
Handler = TypeVar("Handler", bound=Callable[..., Result | Running])


class Entry:
    """One system call: its name, handler, and adapter. ``takes`` names the arguments and their conversions, for tracing."""

    __slots__ = ("adapter", "name", "nr", "takes", "waits")

    def __init__(self, nr: int, name: str, adapter: Adapter, takes: tuple[tuple[str, str], ...], waits: bool) -> None:
        self.nr = nr
        self.name = name
        self.adapter = adapter
        self.takes = takes
        self.waits = waits


TABLE: dict[int, Entry] = {}
"""Every system call that is there, by number. What is not in it answers ENOSYS."""


def syscall(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for the system calls ``names``; those this architecture does not have are skipped."""

    def decorate(handler: Handler) -> Handler:
        takes = tuple((n, str(t)) for n, t in handler.__annotations__.items() if n not in ("task", "return"))
        adapter = _make_adapter(handler, takes)
        waits = bool(handler.__code__.co_flags & 0x80)
        for name in names:
            nr = numbers.NUMBERS.get(name)
            if nr is not None:
                TABLE[nr] = Entry(nr, name, adapter, takes, waits)
        return handler

    return decorate


def _make_adapter(handler: Callable[..., Result | Running], takes: tuple[tuple[str, str], ...]) -> Adapter:
    """Build ``lambda task, r: handler(task, <conversion of each argument register>)``.

    Made from text, as namedtuple is: a loop over conversions at every call would cost more than the call (performance.md §5).
    """
    registers = arch.current().ARGS
    arguments = ["t"]
    for register, (_, conversion) in zip(registers, takes, strict=False):
        arguments.append(_CONVERSIONS[conversion].format(register))
    adapter: Adapter = eval(f"lambda t, r: h({', '.join(arguments)})", {"h": handler})
    return adapter
