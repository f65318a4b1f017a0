"""Interrupts (20-platform §5.5, P-070…P-074)."""

import threading
import time

import pytest

from systrap.platform import EventKind
from tests.platforms import guest
from tests.platforms.kernel import DATA, PATIENCE, SUBMIT, Kernel, is_syscall, reg


def test_interrupt_before_the_run(kernel: Kernel) -> None:
    """# P-070."""
    space = kernel.space(guest.STORE)
    offset = kernel.map(space, DATA)
    context = kernel.context(rdi=DATA, rax=1)
    context.interrupt()
    assert kernel.run(context, space).kind == EventKind.INTERRUPTED
    assert kernel.word(offset) == 0
    assert is_syscall(kernel.run(context, space))
    assert kernel.word(offset) == 1


def test_interrupts_coalesce(kernel: Kernel) -> None:
    """# P-071."""
    space, context = kernel.space(guest.CALLS), kernel.context()
    assert is_syscall(kernel.run(context, space))
    for _ in range(5):
        context.interrupt()
    assert kernel.run(context, space).kind == EventKind.INTERRUPTED
    assert is_syscall(kernel.run(context, space))


def test_interrupt_of_a_busy_loop(kernel: Kernel) -> None:
    """# P-072."""
    space, context = kernel.space(guest.SPIN), kernel.context(rbx=42)
    count = 0
    for _ in range(5):
        timer = threading.Timer(0.02, context.interrupt)
        timer.start()
        assert kernel.run(context, space).kind == EventKind.INTERRUPTED
        timer.join()
        # Where the machine is busy, the guest may not have come to run at all this time.
        assert reg(context, "rax") >= count
        assert reg(context, "rbx") == 42
        count = reg(context, "rax")
    assert count > 0


def test_interrupt_of_a_tight_jump(kernel: Kernel) -> None:
    """# P-072: a loop of one instruction."""
    space, context = kernel.space(bytes.fromhex("ebfe")), kernel.context()
    timer = threading.Timer(0.02, context.interrupt)
    timer.start()
    assert kernel.run(context, space).kind == EventKind.INTERRUPTED
    timer.join()


def test_interrupts_at_a_high_rate(kernel: Kernel) -> None:
    """# P-074, in small: no call lost or doubled, no register changed, no hang."""
    space = kernel.space(guest.COUNT_CALLS)
    context = kernel.context(rbx=7)
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            context.interrupt()
            time.sleep(0.0005)

    helper = threading.Thread(target=storm)
    helper.start()
    try:
        calls = interrupts = 0
        give_up = time.monotonic() + PATIENCE
        while (calls < 300 or interrupts < 20) and time.monotonic() < give_up:
            event = kernel.run(context, space)
            assert event.kind in (EventKind.SYSCALL, EventKind.INTERRUPTED)
            if event.kind == EventKind.SYSCALL:
                calls += 1
                assert reg(context, "r12") == calls
                assert reg(context, "rax") == 39
            else:
                interrupts += 1
            assert reg(context, "rbx") == 7
    finally:
        stop.set()
        helper.join()
    assert calls >= 300
    assert interrupts >= 20


def test_interrupt_hits_one_context_only(kernel: Kernel) -> None:
    """# P-072, P-076: the others of the space go on."""
    if kernel.path != SUBMIT:
        pytest.skip("needs several contexts at once on one thread")
    space = kernel.space(guest.SPIN)
    contexts = [kernel.context() for _ in range(4)]
    for context in contexts:
        kernel.platform.submit(context, space)
    contexts[2].interrupt()
    assert kernel.wait() is contexts[2]
    for context in contexts:
        if context is not contexts[2]:
            context.interrupt()
    assert {id(kernel.wait()) for _ in range(3)} == {id(c) for c in contexts if c is not contexts[2]}
