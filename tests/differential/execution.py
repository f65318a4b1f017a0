"""Runs one snippet on one platform, through the contract, and records what comes back."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from systrap.arch import x86_64 as cpu
from systrap.platform import Access, Context, Event, EventKind, Platform
from tests.differential import snippet as s
from tests.differential.answers import FREE, answer, mix
from tests.differential.fpstate import FpFormat
from tests.differential.memory import SpaceMemory, addresses_of
from tests.differential.snippet import PAGE, Layout, Snippet
from tests.differential.trace import SIGSEGV, THREADS_FLAGS, Note, Trace, entry, true_access

PATIENCE: Final = 10.0
"""Seconds without any event after which a run counts as hanging."""
BUDGET: Final = 400
"""Events of one twin after which the run ends, on every platform at the same one."""

_FOREIGN: Final = 0x86000000
_SIGTRAP: Final = 5
_TRAP_TRACE: Final = 2
_VSYSCALLS: Final = (0xFFFFFFFFFF600000, 0xFFFFFFFFFF600400, 0xFFFFFFFFFF600800)
_SITE: Final = 7


class Twin:
    """One context of a run: its registers, its own pages, and its trace."""

    def __init__(self, run: "Run", number: int) -> None:
        """Make the context, at the start of the code, with registers derived from the salt."""
        self.snippet = run.snippet
        self.layout = run.layout
        self.memory = run.memory
        self.masks = run.fp
        self.number = number
        self.base = s.TWIN + number * s.TWIN_SPACING
        self.calls: dict[int, int] = {}
        self.trace: Trace = []
        self.done = False
        self._guessing = run.platform.name == "ptrace"
        self._interrupts = 0
        self.context: Context = run.platform.new_context()
        regs = self.context.regs
        regs[cpu.RIP] = self.layout.start
        regs[cpu.RSP] = self.base + s.STACK_TOP
        regs[cpu.R13] = self.base
        regs[cpu.R15] = self.layout.end
        regs[cpu.EFLAGS] = cpu.EFLAGS_IF | cpu.EFLAGS_RESERVED_ONE
        for index in FREE:
            regs[index] = mix(self.snippet.salt, number, index)

    def expect_interrupt(self) -> None:
        """Interrupt the context before its next run: that run must end at once, and only that one (P-070)."""
        self._interrupts += 1
        self.context.interrupt()

    def take(self, event: Event, statistics: "Counter[str]") -> None:
        """Record an event and react to it. Sets ``done`` when the run is over."""
        regs = self.context.regs
        if event.kind == EventKind.INTERRUPTED:
            if not self._interrupts:
                statistics["spurious interrupts"] += 1
                return
            self._interrupts -= 1
        ip = regs[cpu.RIP]
        access = true_access(event, ip, self.layout, self.base + s.PLAIN) if self._guessing else event.access
        foreign = _FOREIGN <= regs[cpu.ORIG_RAX] <= _FOREIGN + 0xFFFFFFFF
        native = event.kind == EventKind.SYSCALL and not foreign
        if native and regs[cpu.ORIG_RAX] == s.END:
            self.done = True
        self.trace.append(entry(event, regs, access, native, self._fp()))
        statistics[event.kind.name] += 1
        if event.info is not None:
            statistics[f"signal {event.info.signo}"] += 1
        if event.kind == EventKind.DEATH:
            self._end("death")
        elif len(self.trace) >= BUDGET:
            self._end("budget")
        elif event.kind == EventKind.SYSCALL and not self.done:
            if native:
                regs[cpu.RCX] = regs[cpu.RIP]
                regs[cpu.R11] = regs[cpu.EFLAGS] & ~THREADS_FLAGS
            answer(self, regs[cpu.ORIG_RAX])
        elif event.kind == EventKind.SIGNAL:
            self._signal(event, ip, access)

    def _fp(self) -> bytes:
        """Return the FP state if it is to be recorded now."""
        if not self.snippet.pull and not self.done:
            return b""
        self.context.pull_full_state()
        return self.masks.normal(bytes(self.context.fp))

    def _end(self, why: str) -> None:
        self.trace.append(Note("end", why.encode()))
        self.done = True

    def _signal(self, event: Event, ip: int, access: Access) -> None:
        """Do what lets the guest go on: repair the mapping, emulate the vsyscall, or step over the instruction."""
        info = event.info
        if info is None:
            self._end("a signal without a siginfo")
            return
        regs = self.context.regs
        if info.signo == _SIGTRAP:
            if info.code == _TRAP_TRACE:
                regs[cpu.EFLAGS] &= ~cpu.EFLAGS_TF
            return
        if info.signo == SIGSEGV and ip in _VSYSCALLS:
            self._vsyscall(ip)
        elif access and self.memory.repair(self.number, info.addr, access):
            return
        else:
            self._step_over(ip)

    def _vsyscall(self, ip: int) -> None:
        """Do what the page's entry would: the call, and the return from it."""
        regs = self.context.regs
        stack = regs[cpu.RSP]
        regs[cpu.RAX] = mix(self.snippet.salt, ip)
        if stack & -PAGE not in addresses_of(self.number) or stack % PAGE > PAGE - 8:
            self._end("vsyscall without a stack")
            return
        regs[cpu.RIP] = int.from_bytes(self.memory.peek(stack, 8), "little")
        regs[cpu.RSP] = stack + 8

    def _step_over(self, ip: int) -> None:
        regs = self.context.regs
        following = self.layout.follows(ip)
        if ip == self.layout.end or following is None:
            following = regs[cpu.R15]
        if self.layout.is_start(following):
            regs[cpu.RIP] = following
        else:
            self._end("lost")

    def finish(self) -> None:
        """Record what is left when the run is over, and give the context back."""
        for page in addresses_of(self.number):
            self.trace.append(Note(f"page {page - self.base:#x}", self.memory.peek(page, PAGE)))
        self.context.release()


class Run:
    """A snippet on a platform: some twins in one space, all at once. ``on_event`` sees each event before it is recorded."""

    def __init__(self, platform: Platform, memory: SpaceMemory, snippet: Snippet, fp: FpFormat) -> None:
        """Put memory and contexts into the state a snippet begins with."""
        self.platform = platform
        self.memory = memory
        self.snippet = snippet
        self.layout = Layout(snippet)
        self.fp = fp
        self.hangs = False
        self.on_event: Callable[[Context], None] | None = None
        memory.reset(snippet, self.layout)
        self.twins = [Twin(self, number) for number in range(snippet.twins)]

    def drive(self, statistics: "Counter[str]") -> None:
        """Run all twins to the end of the snippet, or of our patience."""
        waiting = {id(twin.context): twin for twin in self.twins}
        for twin in self.twins:
            self.platform.submit(twin.context, self.memory.space)
        while waiting:
            ready = self._next()
            if ready is None:
                self.hangs = True
                for twin in waiting.values():
                    twin.trace.append(Note("hangs", f"after {len(twin.trace)} entries".encode()))
                return
            twin = waiting[id(ready)]
            if self.on_event is not None:
                self.on_event(ready)
            twin.take(ready.event, statistics)
            if twin.done:
                del waiting[id(ready)]
            else:
                self.platform.submit(ready, self.memory.space)

    def result(self, statistics: "Counter[str]", patching: bool) -> list[Trace]:
        """Return one trace for each twin. Gives the contexts back, unless some are still running."""
        statistics["snippets"] += 1
        if not self.hangs:
            for twin in self.twins:
                twin.finish()
            self.twins[0].trace.extend(self._changed_code(statistics, patching))
        return [twin.trace for twin in self.twins]

    def _next(self) -> Context | None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ready = self.platform.next_ready(deadline)
            if ready is not None:
                return ready
        return None

    def _changed_code(self, statistics: "Counter[str]", patching: bool) -> list[Note]:
        """Return the changes of code that patching does not explain: there should be none."""
        notes = []
        for start, code in ((self.layout.start, self.layout.code), *s.out_of_line(self.snippet.places)):
            now = self.memory.peek(start, len(code))
            index = 0
            while index < len(code):
                if now[index] == code[index]:
                    index += 1
                elif patching and _is_patch(code[index : index + _SITE], now[index : index + _SITE]):
                    statistics["patched sites"] += 1
                    index += _SITE
                else:
                    notes.append(Note(f"code at {start + index:#x}", now[index : index + _SITE]))
                    break
        return notes


def _is_patch(before: bytes, now: bytes) -> bool:
    """Tell whether a patchable call site became a jump through the table at 0x60000…0x6ffff, whole."""
    is_site = before[:1] == b"\xb8" and before[5:] == b"\x0f\x05"
    return is_site and now[:3] == b"\xff\x24\x25" and now[5:] == b"\x06\x00"
