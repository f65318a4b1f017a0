"""The sentry half: does a sentry use the memory it shares with a stub as a stub expects? Checked against a scripted stub.

Each check starts a driver of its own, which speaks the protocol's ``half.`` operations (docs/halves.md).
"""

import time
from typing import Final

from conformance import shared
from conformance.checks import Check, Session, demand
from conformance.client import Message
from conformance.scripted import SIGCHLD, ScriptedStub, Slot, attached

_QUIET: Final = 0.05
"""Seconds in which a sentry could do what it must not."""


def _same(what: str, expected: int, got: int) -> None:
    demand(expected == got, f"{what}: expected {expected:#x}, got {got:#x}")


def _matches(event: Message, **expected: object) -> None:
    for name, value in expected.items():
        demand(event.get(name) == value, f"event.{name}: expected {value!r}, got {event.get(name)!r} in {event}")


def queue(session: Session) -> None:
    """See that the queue was initialised."""
    with attached(session) as stub:
        start = stub.word(shared.START)
        _same("end of an empty queue", start, stub.word(shared.END))
        for name, offset in (
            ("num_active_threads", shared.ACTIVE_THREADS),
            ("num_spinning_threads", shared.SPINNING_THREADS),
            ("num_threads_to_wakeup", shared.THREADS_TO_WAKEUP),
            ("num_active_contexts", shared.ACTIVE_CONTEXTS),
        ):
            _same(name, 0, stub.word(offset))
        bad = [index for index in range(shared.ENTRIES) if stub.entry(index) & 0xFFFFFFFF != shared.INVALID_ID]
        demand(not bad, f"{len(bad)} entries of the empty ring are not INVALID_ID, the first is {bad[:1]}")


def submit(session: Session) -> None:
    """See what is written when a context is handed over."""
    with attached(session) as stub:
        slot = stub.new_context()
        end = stub.word(shared.END)
        values = {
            name: 0x1111 * index for index, name in enumerate("r15 r12 rbx r8 rax rcx rdi rip rsp fs_base".split(), 1)
        }
        stub.switch(slot, **values)
        stub.await_queued(slot)
        _same("end", end + 1 & 0xFFFFFFFF, stub.word(shared.END))
        _same("num_active_contexts", 1, stub.word(shared.ACTIVE_CONTEXTS))
        _same("state", shared.NONE, slot.word(shared.STATE))
        _same("thread_id", shared.INVALID_ID, slot.word(shared.THREAD_ID))
        _same("interrupt", 0, slot.word(shared.INTERRUPT))
        _same("acked_time", 0, stub.memory.u64(slot.at + shared.ACKED_TIME))
        _same("fpstate_changed", 1, min(slot.word(shared.FPSTATE_CHANGED), 1))
        demand(
            slot.word(shared.SENTRY_FAST_PATH) in (0, 1),
            "sentry_fast_path is neither 0 (wake me) nor 1 (I look myself)",
        )
        for name, value in values.items():
            _same(name, value, slot.reg(name))
        _same("cs", 0x33, slot.reg("cs") & 0xFFFF)
        _same("ss", 0x2B, slot.reg("ss") & 0xFFFF)


def tokens(session: Session) -> None:
    """See that a thread that sleeps is left a token, and that none is while enough threads are awake."""
    with attached(session) as stub:
        slot = stub.new_context()
        stub.switch(slot, rip=0x1000)
        stub.await_("a wake-up token for a parked thread", lambda: stub.word(shared.THREADS_TO_WAKEUP) == 1)
        stub.await_queued(slot)
    with attached(session) as stub:
        slot = stub.new_context()
        stub.memory.set32(shared.QUEUE_AT + shared.ACTIVE_THREADS, 2)
        stub.switch(slot, rip=0x1000)
        stub.await_queued(slot)
        time.sleep(_QUIET)
        _same("num_threads_to_wakeup while two threads are awake", 0, stub.word(shared.THREADS_TO_WAKEUP))


def fp(session: Session) -> None:
    """See that the first FP image is a fresh program's, and that it is the stub's afterwards."""
    with attached(session) as stub:
        slot, thread = stub.new_context(), stub.threads[0]
        request = stub.switch(slot, rip=0x1000)
        stub.take(slot, thread)
        _same("the x87 control word", 0x37F, stub.memory.u32(slot.at) & 0xFFFF)
        _same("MXCSR", 0x1F80, stub.memory.u32(slot.at + 24))
        stub.memory.set32(slot.at + 24, 0x7F80)
        stub.call(slot, thread, 39)
        stub.event(request)
        stub.switch(slot)
        stub.take(slot, thread)
        _same("fpstate_changed, when nobody changed it", 0, slot.word(shared.FPSTATE_CHANGED))
        _same("MXCSR, which the guest changed", 0x7F80, stub.memory.u32(slot.at + 24))


def calls(session: Session) -> None:
    """System calls, one after the other: number, arguments, resume address; and the registers that the sentry sets."""
    with attached(session) as stub:
        slot = stub.new_context()
        for turn in range(6):
            thread = stub.threads[turn % 2]
            request = stub.switch(slot, rax=0xABC + turn, rip=0x1000 + turn)
            stub.take(slot, thread)
            _same("rax", 0xABC + turn, slot.reg("rax"))
            _same("rip", 0x1000 + turn, slot.reg("rip"))
            args = {
                name: 0x8000000000000000 + 16 * turn + index
                for index, name in enumerate("rdi rsi rdx r10 r8 r9".split())
            }
            stub.call(slot, thread, -(turn + 1), **args, rip=0x2000 + turn)
            wanted = [f"{value:#x}" for value in args.values()]
            nr = f"{-(turn + 1) & shared.U64:#x}"
            _matches(stub.event(request), kind="syscall", nr=nr, args=wanted, ip=f"{0x2000 + turn:#x}")


def faults(session: Session) -> None:
    """Faults of each kind; what a page fault was for comes from the error word."""
    cases = (
        (11, 1, 0x5000, 4, "r"), (11, 2, 0x6000, 7, "w"), (11, 1, 0x7000, 6, "w"), (11, 2, 0x8000, 0x15, "x"),
        (11, 1, 0x9000, 0x14, "x"), (11, 128, 0, 0, "?"), (4, 2, 0x1000, 0, "?"), (5, 1, 0x1000, 0, "?"),
        (7, 2, 0xA000, 0, "?"), (8, 1, 0x1000, 0, "?"),
    )  # fmt: skip
    with attached(session) as stub:
        slot, thread = stub.new_context(), stub.threads[0]
        for signo, code, addr, err, access in cases:
            request = stub.switch(slot, rip=0x1000)
            stub.take(slot, thread)
            stub.fault(slot, thread, signo, code, addr, err)
            _matches(
                stub.event(request), kind="fault", signo=signo, code=code, addr=f"{addr:#x}", access=access, ip="0x1000"
            )


def _running(stub: ScriptedStub) -> tuple[Slot, int]:
    slot = stub.new_context()
    request = stub.switch(slot, rip=0x1000)
    stub.take(slot, stub.threads[1])
    return slot, request


def interrupt_running(session: Session) -> None:
    """Interrupt a context that a thread runs: the flag, then the signal, to that thread alone."""
    with attached(session) as stub:
        slot, request = _running(stub)
        session.ask("half.interrupt", context=slot.number)
        stub.await_("the interrupt flag", lambda: slot.word(shared.INTERRUPT) == 1)
        stub.await_("SIGCHLD for the thread that runs it", lambda: stub.threads[1].signals() > 0)
        _same("signals to a thread that does not run it", 0, stub.threads[0].signals())
        stub.fault(slot, stub.threads[1], SIGCHLD)
        _matches(stub.event(request), kind="interrupted")
        stub.switch(slot, rip=0x1000)
        stub.take(slot, stub.threads[0])
        _same("the interrupt flag of the next run", 0, slot.word(shared.INTERRUPT))


def interrupt_queued(session: Session) -> None:
    """Interrupt a context that no thread has taken: the flag is enough, and nobody is signalled."""
    with attached(session) as stub:
        slot = stub.new_context()
        request = stub.switch(slot, rip=0x1000)
        stub.await_queued(slot)
        session.ask("half.interrupt", context=slot.number)
        stub.await_("the interrupt flag", lambda: slot.word(shared.INTERRUPT) == 1)
        time.sleep(_QUIET)
        _same("signals to threads", 0, sum(thread.signals() for thread in stub.threads))
        stub.take(slot, stub.threads[0])
        slot.set(shared.INTERRUPT, 0)
        stub.fault(slot, stub.threads[0], SIGCHLD)
        _matches(stub.event(request), kind="interrupted")


def several(session: Session) -> None:
    """Three contexts are queued in order, come back in another, and each event is that context's."""
    with attached(session) as stub:
        slots = [stub.new_context() for _ in range(3)]
        _same("different slots", 3, len({slot.number for slot in slots}))
        requests = []
        for number, slot in enumerate(slots):
            requests.append(stub.switch(slot, rip=0x1000, rdi=number))
            stub.take(slot, stub.threads[0])
        _same("num_active_contexts", 3, stub.word(shared.ACTIVE_CONTEXTS))
        for number in (2, 0, 1):
            stub.call(slots[number], stub.threads[0], 100 + number)
            _matches(stub.event(requests[number]), kind="syscall", nr=f"{100 + number:#x}")


def hands_off(session: Session) -> None:
    """While a context is the stub's, the sentry writes nothing to it, nor to the queue."""
    with attached(session) as stub:
        slot, request = _running(stub)
        time.sleep(_QUIET)
        before = stub.memory.bytes(0, shared.SIZE)
        time.sleep(_QUIET)
        after = stub.memory.bytes(0, shared.SIZE)
        at = next((i for i in range(shared.SIZE) if before[i] != after[i]), None)
        where = (
            ""
            if at is None
            else f"{'the queue' if at < shared.CONTEXTS_AT else 'a slot'}, offset {at % shared.CONTEXTS_AT:#x}"
        )
        demand(at is None, f"the sentry wrote to what is the stub's: {where}")
        stub.call(slot, stub.threads[1], 39)
        _matches(stub.event(request), kind="syscall")


def once(session: Session) -> None:
    """See that a state is an event once: the old one is not taken for the next run's."""
    with attached(session) as stub:
        slot, request = _running(stub)
        stub.call(slot, stub.threads[1], 39)
        stub.event(request)
        second = stub.switch(slot)
        stub.await_queued(slot)
        _same("acked_time of the second run", 0, stub.memory.u64(slot.at + shared.ACKED_TIME))
        stub.take(slot, stub.threads[0])
        _same("state of the second run", shared.NONE, slot.word(shared.STATE))
        time.sleep(_QUIET)
        stub.call(slot, stub.threads[0], 40)
        _matches(stub.event(second), kind="syscall", nr="0x28")


def _impossible(session: Session, state: int, signo: int, keep_thread: bool) -> None:
    with attached(session) as stub:
        slot, request = _running(stub)
        slot.set_siginfo(signo)
        stub.give_back(slot, stub.threads[1], state, keep_thread)
        _matches(stub.event(request), kind="death")


def bad_state(session: Session) -> None:
    """Bring a state that there is not: the guest ends."""
    _impossible(session, 77, 11, False)


def bad_thread(session: Session) -> None:
    """Bring a context back that still names a thread: a stub thread gave up, or memory is corrupt."""
    _impossible(session, shared.FAULT, 11, True)


def bad_signal(session: Session) -> None:
    """Bring a signal that stubs do not handle."""
    _impossible(session, shared.FAULT, 64, False)


SENTRY_CHECKS: Final = (
    Check("SENTRY-QUEUE-001", "the context queue is initialised", queue, ("S-021",)),
    Check("SENTRY-SUBMIT-001", "a context is handed over with all that a stub expects", submit, ("S-020",)),
    Check("SENTRY-TOKEN-001", "a parked thread is left a token; while threads are awake none is", tokens, ("S-064", "S-065")),
    Check("SENTRY-FP-001", "the FP image is given once, and then is the stub's", fp, ("S-046", "P-060")),
    Check("SENTRY-CALL-001", "system calls come with number, arguments and ip; registers go back", calls, ("P-040", "P-041")),
    Check("SENTRY-FAULT-001", "faults come with signal, code, address and access", faults, ("S-036", "S-037")),
    Check("SENTRY-INT-001", "a running context is interrupted by flag and signal", interrupt_running, ("P-072",)),
    Check("SENTRY-INT-002", "a queued context is interrupted by the flag alone", interrupt_queued, ("P-072", "S-040")),
    Check("SENTRY-MANY-001", "several contexts: each event is the right one's", several, ("P-081",)),
    Check("SENTRY-HANDS-001", "what is the stub's is not written to", hands_off, ("S-060",)),
    Check("SENTRY-ONCE-001", "a state is an event once", once, ("P-085",)),
    Check("SENTRY-BAD-001", "an impossible state ends the guest", bad_state, ("S-143",)),
    Check("SENTRY-BAD-002", "a context that still names a thread ends the guest", bad_thread, ("S-140", "P-105")),
    Check("SENTRY-BAD-003", "an impossible signal ends the guest", bad_signal, ("S-143",)),
)  # fmt: skip
"""What ``python3 -m conformance sentry`` runs."""
