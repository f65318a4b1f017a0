"""Patching while other threads run the site: nothing is lost, nothing surfaces (10-stub §6.3, §6.4; S-040, S-084, P-055)."""

import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from systrap.platform import Context, EventKind
from systrap.platforms.systrap import usertrap
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.usertrap import PATCH_AFTER
from tests.platforms.kernel import CODE, PAGE, PATIENCE, Kernel, R, X, is_syscall, reg, set_reg
from tests.platforms.systrap.patching import PatchedGuest, SlowMemory, came_by_trampoline, kernels

COUNT = bytes.fromhex("b9002000004d8d642401ffc975fc" "b8270000000f05" "ebe9")
"""1: mov $0x2000, %ecx; lea 1(%r12), %r12; 2: dec %ecx; jne 2b; mov $39, %eax; syscall; jmp 1b"""
SITE = CODE + 32
START = SITE - 14
"""The site is an aligned word's first seven bytes: code that is restored, too, must not be fetched from two cache lines."""
FIRST_NUMBER = 500
"""No host knows system calls from here on."""


def seed() -> int:
    """Return the seed of this run, and print it: SYSTRAP_SEED repeats one."""
    found = int(os.environ.get("SYSTRAP_SEED") or int.from_bytes(os.urandom(4), "little"))
    print(f"SYSTRAP_SEED={found}")
    return found


@pytest.fixture(params=["seccomp", "dispatch"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Return a kernel whose one thread serves several contexts at once."""
    yield from kernels(f"submit-{request.param}")


@pytest.fixture
def counting(kernel: Kernel) -> Iterator[PatchedGuest]:
    """Return a guest that counts its calls in r12."""
    guest = PatchedGuest(kernel, b"\x90" * (START - CODE - 16) + COUNT, SlowMemory)
    yield guest
    guest.file.close()


# Fresh code.


def fresh_code(chance: random.Random, at: int) -> tuple[bytes, list[int]]:
    """Return code for ``at`` with sites at random places, one of them in two pages, and the numbers they call.

    In front of each the guest spins a little: else it would be at the site at once, and wait there while that is patched.
    """
    code = bytearray()
    numbers: list[int] = []
    crossing = PAGE - chance.randrange(1, 7)
    assert at % PAGE == 0
    while len(code) < PAGE + 200:
        code += b"\xb9" + struct.pack("<I", chance.randrange(1, 0x20000)) + b"\xff\xc9\x75\xfc"
        gap = chance.randrange(4, 240)
        if len(code) + 4 < crossing <= len(code) + gap + 30:
            gap = crossing - len(code)
        code += b"\x90" * gap
        numbers.append(FIRST_NUMBER + len(numbers))
        code += struct.pack("<BI", 0xB8, numbers[-1]) + b"\x0f\x05"
    code += b"\xe9" + struct.pack("<i", -len(code) - 5)
    return bytes(code), numbers


def hammer(kernel: Kernel, chance: random.Random) -> tuple[int, int]:
    """Let several contexts run the same fresh code until all of it is patched; each must make each call once, in order."""
    guest = PatchedGuest(kernel, memory=SlowMemory)
    base = CODE + 0x100000
    code, numbers = fresh_code(chance, base)
    guest.memory.map_anonymous(base, 2 * PAGE, R | X)
    guest.memory.write(base, code)
    contexts = [guest.context(base) for _ in range(chance.choice([3, 5, 7, 9, 11]))]
    position = dict.fromkeys((id(context) for context in contexts), 0)
    last = 3 * PATCH_AFTER * len(numbers)
    running = len(contexts)
    for context in contexts:
        kernel.platform.submit(context, guest.space)
    while running:
        context = kernel.wait()
        assert is_syscall(context.event), context.event
        at = position[id(context)]
        assert reg(context, "orig_rax") == numbers[at % len(numbers)]
        position[id(context)] = at + 1
        if at + 1 < last:
            kernel.platform.submit(context, guest.space)
        else:
            running -= 1
    assert guest.sites.patched + guest.sites.refused == len(numbers)
    assert guest.sites.patched > 0.9 * len(numbers)
    fixed = guest.sites.fixed
    for context in contexts:
        context.release()
    guest.memory.release()
    guest.file.close()
    return guest.sites.patched, fixed


def test_fresh_code(kernel: Kernel) -> None:
    """S-084, P-055: threads meet patches at any moment; no SIGILL is seen, no call is lost, doubled or mixed up."""
    chance = random.Random(seed())
    found = [hammer(kernel, chance) for _ in range(2)]
    print(f"{found}: sites patched, threads that met the 06")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_much_fresh_code(kernel: Kernel) -> None:
    """S-084, P-055, for half a minute."""
    chance = random.Random(seed())
    end = time.monotonic() + 30
    patched = fixed = 0
    while time.monotonic() < end:
        more, again = hammer(kernel, chance)
        patched, fixed = patched + more, fixed + again
    print(f"{patched} sites patched, {fixed} threads met the 06")


# One site, patched and restored all the time.


class Toggler:
    """A thread that patches a site and puts the old code back, over and over, as usertrap writes and as it undoes."""

    def __init__(self, guest: PatchedGuest, site: int) -> None:
        self.guest = guest
        self.site = site
        self.old = guest.at(site, 7)
        entry = guest.sites._allocate(guest.memory, site + 7, 39)
        assert entry is not None
        self.entry = entry
        self.rounds = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Toggler":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _run(self) -> None:
        write, sites = self.guest.memory.write_code, self.guest.sites
        while not self.stop.is_set():
            with sites._lock:
                assert usertrap._write_site(self.guest.memory, self.site, self.old, self.entry)
            time.sleep(0)
            with sites._lock:
                assert write(self.site, self.old[:1])
                assert write(self.site + 1, self.old[1:5])
                assert write(self.site + 6, self.old[6:])
                assert write(self.site + 5, self.old[5:6])
            self.rounds += 1
            time.sleep(0)


def run_counted(guest: PatchedGuest, contexts: list[Context], enough: Callable[[], bool]) -> int:
    """Run contexts that count their calls until ``enough``; return how often they were interrupted."""
    calls = dict.fromkeys((id(context) for context in contexts), 0)
    interrupted = 0
    give_up = time.monotonic() + PATIENCE
    for context in contexts:
        guest.platform.submit(context, guest.space)
    running = len(contexts)
    while running:
        context = guest.kernel.wait()
        if context.event.kind == EventKind.INTERRUPTED:
            interrupted += 1
            assert reg(context, "r12") - calls[id(context)] in (0, 1)
        else:
            assert is_syscall(context.event), context.event
            calls[id(context)] += 1
            assert reg(context, "r12") == calls[id(context)], "a call was lost or made twice"
            assert reg(context, "orig_rax") == 39
            assert reg(context, "rip") == SITE + 7
        assert [reg(context, name) for name in ("rbx", "rbp", "r15", "rdx")] == [1, 2, 3, 4]
        assert time.monotonic() < give_up
        if enough():
            running -= 1
        else:
            guest.platform.submit(context, guest.space)
    return interrupted


def test_patched_and_restored_all_the_time(counting: PatchedGuest) -> None:
    """S-044, S-083, S-084: trapped and patched calls take turns in the middle of changes, thousands of times."""
    contexts = [counting.context(rbx=1, rbp=2, r15=3, rdx=4) for _ in range(4)]
    # Patched by the Toggler only.
    counting.sites._counts[SITE] = PATCH_AFTER
    with Toggler(counting, SITE) as toggler:
        run_counted(counting, contexts, lambda: toggler.rounds >= 300 and counting.sites.fixed >= 20)
    print(f"{counting.sites.fixed} threads met the 06 in {toggler.rounds} rounds")


@pytest.mark.parametrize("trap", ["seccomp", "dispatch"])
def test_threads_that_switch(trap: str) -> None:
    """S-083, P-055 for switch(): each context on a thread of its own, all of them at a site that changes all the time."""
    for kernel in kernels(f"switch-{trap}"):
        guest = PatchedGuest(kernel, b"\x90" * (START - CODE - 16) + COUNT, SlowMemory)
        guest.sites._counts[SITE] = PATCH_AFTER
        failures: list[str] = []

        def serve(context: Context, guest: PatchedGuest, toggler: Toggler, failures: list[str]) -> None:
            own = 0
            give_up = time.monotonic() + PATIENCE
            while own < 50 or guest.sites.fixed < 10:
                event = context.switch(guest.space)
                own += 1
                if not is_syscall(event) or reg(context, "r12") != own or time.monotonic() > give_up:
                    failures.append(f"{event} after {own} calls, counted {reg(context, 'r12')}")
                    break

        with Toggler(guest, SITE) as toggler:
            arguments = [(guest.context(), guest, toggler, failures) for _ in range(4)]
            threads = [threading.Thread(target=serve, args=given) for given in arguments]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert failures == []
        guest.file.close()


@pytest.mark.parametrize("toggling", [False, True])
def test_interrupts(counting: PatchedGuest, toggling: bool) -> None:
    """S-040, P-074: interrupts at any point of trampoline and stub; none is lost, and registers stay what they were."""
    contexts = [counting.context(rbx=1, rbp=2, r15=3, rdx=4) for _ in range(3)]
    counting.sites._counts[SITE] = PATCH_AFTER
    toggler = Toggler(counting, SITE)
    assert usertrap._write_site(counting.memory, SITE, toggler.old, toggler.entry)
    chance = random.Random(seed())
    sent = 0
    stop = threading.Event()

    def storm() -> None:
        nonlocal sent
        while not stop.is_set():
            chance.choice(contexts).interrupt()
            sent += 1
            time.sleep(chance.random() * 0.0002)

    sender = threading.Thread(target=storm)
    sender.start()
    try:
        if toggling:
            with toggler:
                interrupted = run_counted(counting, contexts, lambda: sent >= 2000)
        else:
            interrupted = run_counted(counting, contexts, lambda: sent >= 2000)
    finally:
        stop.set()
        sender.join()
    # Most requests are answered by the call that comes just then.
    assert interrupted > 0
    # What was asked for last is answered, too: at once, or it is an answer to a run that has ended.
    for context in contexts:
        context.interrupt()
        assert counting.run(context).kind == EventKind.INTERRUPTED


def test_interrupt_of_a_patched_loop_is_prompt(counting: PatchedGuest) -> None:
    """S-040: a thread that is always on its way through the stub is reached all the same; each request by itself."""
    context = counting.context(rbx=1)
    for _ in range(PATCH_AFTER):
        counting.call(context)
    assert counting.is_patched(SITE)
    for _ in range(200):
        counting.platform.submit(context, counting.space)
        context.interrupt()
        calls = 0
        while (ready := counting.kernel.wait()).event.kind != EventKind.INTERRUPTED:
            assert is_syscall(ready.event)
            calls += 1
            # The request may be answered by the call that it met (goes_on); then this one is a request for the next run.
            context.interrupt()
            counting.platform.submit(context, counting.space)
        assert calls <= 1


def test_request_that_comes_with_a_sigill(counting: PatchedGuest) -> None:
    """The platform sends a context back to its site by itself; a request of that moment is not swallowed."""
    context = counting.context(rbx=1)
    for _ in range(PATCH_AFTER):
        counting.call(context)
    set_reg(context, "rip", SITE + 5)
    assert isinstance(context, SystrapContext)
    goes_on = SystrapContext.goes_on

    class Interrupting(SystrapContext):
        __slots__ = ()

        def goes_on(self, event: object) -> bool:
            self.interrupt()
            return goes_on(self, event)  # type: ignore[arg-type]

    context.__class__ = Interrupting
    event = counting.run(context)
    context.__class__ = SystrapContext
    assert event.kind == EventKind.INTERRUPTED
    assert reg(context, "rip") == SITE
    counting.call(context)
    assert came_by_trampoline(context)


def test_more_contexts_than_threads(counting: PatchedGuest) -> None:
    """Patched calls under time slices: contexts that wait for a thread get one (20-platform §6.6)."""
    contexts = [counting.context(rbx=1, rbp=2, r15=3, rdx=4) for _ in range(12)]
    calls = 0

    def enough() -> bool:
        nonlocal calls
        calls += 1
        return calls > 3000

    assert run_counted(counting, contexts, enough) == 0
    assert counting.is_patched(SITE)
