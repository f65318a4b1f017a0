"""Seeded bugs of the sentry's half: events, interrupts, contexts, deaths, what is left behind."""

from typing import Final

from tests.conformance.seeded.mutation import Edit, Mutant

CONTEXT: Final = "systrap/platforms/systrap/context.py"
DISPATCHER: Final = "systrap/platforms/systrap/dispatcher.py"
SPACE: Final = "systrap/platforms/systrap/subprocess.py"
ABI: Final = "systrap/platforms/systrap/abi.py"
FAULTS: Final = "systrap/platforms/x86_faults.py"
FILTERS: Final = "systrap/platforms/systrap/filters.py"
POOL: Final = "systrap/platforms/systrap/pool.py"
STUB: Final = "systrap/platforms/systrap/stub_process.py"
BROKER: Final = "systrap/platforms/systrap/broker.py"


_SECCOMP: Final = ("--syscall-trap", "seccomp")
"""Without syscall user dispatch in front, which catches a guest's calls whatever the filter says."""


def _bug(identity: str, what: str, file: str, ours: str, seeded: str) -> Mutant:
    return Mutant(identity, what, (Edit(file, ours, seeded),))


_RETURN: Final = '        "rt_sigreturn": [Alternative((from_image,))],\n'

MUTANTS: Final = (
    # System calls.
    _bug(
        "nr-truncated",
        "the number of a call is cut to 32 bits",
        CONTEXT,
        "        nr = regs[x86_64.ORIG_RAX]\n",
        "        nr = regs[x86_64.ORIG_RAX] = regs[x86_64.ORIG_RAX] & 0xFFFFFFFF\n",
    ),
    _bug(
        "nr-negative",
        "negative numbers become 0",
        CONTEXT,
        "        nr = regs[x86_64.ORIG_RAX]\n",
        ("        nr = regs[x86_64.ORIG_RAX] = regs[x86_64.ORIG_RAX] if not " "regs[x86_64.ORIG_RAX] >> 63 else 0\n"),
    ),
    _bug(
        "vsyscall-told-as-call",
        "calls into the vsyscall page are told as system calls",
        CONTEXT,
        "            return self._vsyscall(slot) or SYSCALL_EVENT\n",
        "            return SYSCALL_EVENT\n",
    ),
    _bug(
        "vsyscall-stack",
        "the return address of a call into the vsyscall page is popped",
        CONTEXT,
        "        regs[x86_64.RSP] = (regs[x86_64.RSP] - 8) & (1 << 64) - 1\n",
        "",
    ),
    _bug(
        "selectors-of-the-guest",
        "segment selectors go to the guest as they were set",
        CONTEXT,
        "        regs[x86_64.CS] = x86_64.USER_CS\n        regs[x86_64.SS] = x86_64.USER_SS\n",
        "",
    ),
    # Faults.
    _bug(
        "fault-address-page",
        "a fault's address is rounded to its page",
        ABI,
        "return SignalInfo(signo, code, addr, ",
        "return SignalInfo(signo, code, addr & ~0xFFF, ",
    ),
    _bug(
        "fault-code",
        "every SIGSEGV has si_code 1",
        ABI,
        "return SignalInfo(signo, code, addr, ",
        "return SignalInfo(signo, 1 if signo == 11 else code, addr, ",
    ),
    _bug(
        "fault-fetch",
        "fetch faults are told as reads",
        FAULTS,
        ("        return Access.EXECUTE\n" "    if err & _PAGE_FAULT_USER"),
        "        return Access.READ\n    if err & _PAGE_FAULT_USER",
    ),
    _bug(
        "fault-write",
        "write faults of mapped pages are told as reads",
        FAULTS,
        "    if err & _PAGE_FAULT_WRITE:\n",
        "    if err & _PAGE_FAULT_WRITE and not err & 1:\n",
    ),
    _bug(
        "fpe-is-ill",
        "SIGFPE is told as SIGILL",
        ABI,
        "        signo, _, code, addr = _SIGINFO.unpack_from(self._bytes, SIGINFO)\n",
        (
            "        signo, _, code, addr = _SIGINFO.unpack_from(self._bytes, SIGINFO)\n"
            "        signo = 4 if signo == 8 else signo\n"
        ),
    ),
    # Interrupts.
    _bug(
        "interrupt-before-dropped",
        "an interrupt of a context that does not run is dropped",
        CONTEXT,
        ("        self.interrupted = True\n" "        self.interrupts += 1\n"),
        ("        self.interrupted = self.running\n" "        self.interrupts += 1\n"),
    ),
    _bug(
        "interrupt-sticky",
        "an interrupt ends the next run as well",
        CONTEXT,
        "            return True\n        self.interrupted = False\n        return False\n",
        "            return True\n"
        "        self.interrupted = event is INTERRUPTED_EVENT and self.interrupted and self.interrupts % 2 == 1\n"
        "        self.interrupts += 1\n        return False\n",
    ),
    _bug(
        "interrupt-late",
        "an interrupt comes when the guest comes back by itself",
        DISPATCHER,
        "        if tid is not None and not process.tgkill",
        "        if False and tid is not None and not process.tgkill",
    ),
    _bug(
        "interrupt-of-another",
        "an interrupt ends whatever runs in the space",
        DISPATCHER,
        "        tid = space.stub.threads.get(slot.thread_id())\n",
        "        for other in space.stub.threads.values():\n            process.tgkill(other, other, abi.SIGCHLD)\n"
        "        tid = space.stub.threads.get(slot.thread_id())\n",
    ),
    _bug(
        "interrupt-as-signal",
        "an interrupt is told as a signal of the guest",
        CONTEXT,
        "        if info.signo == abi.SIGCHLD:\n            return INTERRUPTED_EVENT\n",
        "        if info.signo == abi.SIGCHLD:\n            return Event(EventKind.SIGNAL, info)\n",
    ),
    _bug(
        "interrupt-skips",
        "an interrupted guest goes on one byte too far",
        CONTEXT,
        "        if info.signo == abi.SIGCHLD:\n            return INTERRUPTED_EVENT\n",
        (
            "        if info.signo == abi.SIGCHLD:\n"
            "            slot.regs[16] += 1\n"
            "            return INTERRUPTED_EVENT\n"
        ),
    ),
    _bug(
        "slice-told",
        "the end of a time slice is told as an interrupt",
        CONTEXT,
        ("        if event is RUN_AGAIN or (event is INTERRUPTED_EVENT and preempted and not " "self.interrupted):\n"),
        "        if event is RUN_AGAIN:\n",
    ),
    _bug(
        "no-slices",
        "contexts keep their stub thread as long as they like",
        DISPATCHER,
        "                self._end_time_slices()\n",
        "                pass\n",
    ),
    _bug(
        "slice-starves",
        "a context whose slice is over goes on at once, not to the end of the queue",
        DISPATCHER,
        "            for context_id in running & seen:\n",
        "            for context_id in ():\n",
    ),
    _bug(
        "slot-not-freed",
        "slots of released contexts are lost",
        SPACE,
        "        self._free_ids.append(context_id)\n",
        "",
    ),
    _bug("few-contexts", "a space holds 200 contexts", ABI, "MAX_CONTEXTS: Final = 4095", "MAX_CONTEXTS: Final = 200"),
    _bug(
        "release-keeps-memory",
        "the memory of a released space stays for the next one",
        SPACE,
        "        self.unmap(0, self.environment.image.layout.stub_start)\n",
        "",
    ),
    # Deaths.
    _bug("death-unheard", "the death of a stub is not told", DISPATCHER, "        self._deaths.append(space)\n", ""),
    _bug(
        "death-of-one",
        "the death of a stub is told to one of its contexts only",
        DISPATCHER,
        (
            "                self._finish(context, space, context.slot)\n"
            "                self._ready_at_once(context, event)\n"
        ),
        (
            "                self._finish(context, space, context.slot)\n"
            "                self._ready_at_once(context, event)\n"
            "                break\n"
        ),
    ),
    _bug(
        "death-late",
        "the death of a stub is told eight seconds later",
        STUB,
        ("        self.death = death\n" "        self.dead = True\n"),
        "        __import__('time').sleep(8)\n        self.death = death\n        self.dead = True\n",
    ),
    _bug(
        "death-kills-others",
        "with one stub all die",
        DISPATCHER,
        "        reason = space.why_dead()\n",
        (
            "        reason = space.why_dead()\n"
            "        for other in self._spaces:\n"
            "            other.stub.kill()\n"
        ),
    ),
    _bug(
        "death-forgotten",
        "a dead space gets a switch that nobody answers",
        DISPATCHER,
        "        if space.dead:\n            return death(space.why_dead())\n        try:",
        "        try:",
    ),
    _bug(
        "deaf-live",
        "a guest that cannot be interrupted is never ended",
        DISPATCHER,
        ("                self._end_the_deaf()\n" "        if self._ready or"),
        ("                pass\n" "        if self._ready or"),
    ),
    _bug(
        "condemned-lives",
        "a guest that corrupts shared memory goes on",
        SPACE,
        ("        self.corrupt = self.corrupt or reason\n" "        self.stub.kill()\n"),
        "        self.corrupt = self.corrupt or reason\n",
    ),
    # What is left behind.
    _bug(
        "leak-process",
        "stubs that are not kept are not killed",
        POOL,
        "            keep = clean and not self._closed and len(self._idle) < MAX_IDLE\n",
        "            if not self._closed:\n                return\n            keep = False\n",
    ),
    _bug(
        "leak-descriptor",
        "the descriptor of a dead stub stays open",
        STUB,
        ("            os.close(self._pidfd)\n" "            self._pidfd = -1\n"),
        "            self._pidfd = -1\n",
    ),
    _bug(
        "leak-zombie",
        "dead stub threads are not collected",
        BROKER,
        "            dead.add(pid)\n",
        "            dead.add(pid)\n            if len(self._unclaimed) > 3:\n                return\n",
    ),
    _bug("leak-context", "released contexts stay in the books", SPACE, "        del self.contexts[context_id]\n", ""),
    # Walls: what the filter lets through reaches the host from guest code, too.
    *(
        Mutant(
            f"filter-{name}",
            f"the filter lets {name} through",
            (Edit(FILTERS, _RETURN, f'{_RETURN}        "{name}": [ANY],\n'),),
            (),
            _SECCOMP,
        )
        for name in ("getpid", "munmap", "rt_sigprocmask", "exit_group", "sigaltstack")
    ),
    Mutant(
        "filter-futex",
        "the filter lets futexes be waited for from anywhere",
        (
            Edit(
                FILTERS,
                ("            Alternative((in_stub, Condition(arg(1), FUTEX_WAIT), *no_timeout, " "from_image)),\n"),
                "            Alternative((Condition(arg(1), FUTEX_WAIT),)),\n",
            ),
        ),
        (),
        _SECCOMP,
    ),
)
