"""Address spaces and contexts of a stress run, and what each event has to be.

An :class:`Actor` is one guest thread: it is sent into a random routine, and whatever comes back is checked against what that
routine does. Contexts are released and made anew, spaces retire, and a space whose stub was killed is replaced.
"""

import os
import threading
from collections import Counter, deque
from pathlib import Path
from random import Random
from typing import Final

from systrap.arch import x86_64 as cpu
from systrap.memory import MemoryFile
from systrap.platform import Access, Context, Event, EventKind, MapError, Platform
from tests.differential.guest_pages import GuestPages
from tests.stress.guest import CODE, SIGSEGV, SITES, Guest, Routine

PAGE: Final = 4096
MARK: Final = 0x20000000
"""A page that only serves to find a space's stub process by."""
DATA: Final = 0x30000000
"""Each actor has a page here that is mapped and unmapped while the others run."""
R, W, X = Access.READ, Access.WRITE, Access.EXECUTE

_CANARIES: Final = (cpu.R12, cpu.R13, cpu.R14, cpu.R15, cpu.RBP, cpu.RSP)
_XMM3: Final = 160 + 3 * 16
_XSTATE_BV: Final = 512
_SSE: Final = 2
HISTORY: Final = 12


class StressError(AssertionError):
    """Something came back that must not."""


class StressSpace(GuestPages):
    """A space of the run: the guest's page, and a page for each actor that is in it."""

    def __init__(self, world: "World") -> None:
        """Make the space. Raises PlatformError."""
        super().__init__(world.platform, world.file)
        self.actors: set[Actor] = set()
        self.retiring = False
        self.killed = False
        code = self.take(PAGE)
        self.file.data[code : code + PAGE] = world.guest.page
        self.map(CODE, code, R | X)
        self.mark = self.take(PAGE)
        self.map(MARK, self.mark, R)

    def pid(self) -> int | None:
        """Return the stub process: the child of ours that has our mark mapped."""
        wanted = f"{MARK:x}-"
        offset = f" {self.mark:08x} "
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                try:
                    lines = Path(f"/proc/{child}/maps").read_text(errors="replace").splitlines()
                except OSError:
                    continue  # It died meanwhile.
                if any(line.startswith(wanted) and offset in line for line in lines):
                    return int(child)
        return None


class World:
    """Everything of one run. ``lock`` guards what several threads change: the file, and which space is where."""

    def __init__(self, platform: Platform, seed: int, spaces: int) -> None:
        """Make the spaces."""
        self.platform = platform
        self.seed = seed
        self.guest = Guest()
        self.file = MemoryFile("stress", 1 << 32)
        self.lock = threading.RLock()
        self.counts: Counter[str] = Counter()
        self.spaces = [StressSpace(self) for _ in range(spaces)]
        self.stopping = False

    def count(self, what: str) -> None:
        """Count something that happened."""
        with self.lock:
            self.counts[what] += 1

    def leave(self, actor: "Actor") -> None:
        """Take an actor out of its space; the last one out of a space that has a successor, or is given up, releases it."""
        space = actor.space
        with self.lock:
            space.actors.discard(actor)
            if space.actors or not (space.killed or space.retiring):
                return
            if space in self.spaces:
                if self.stopping:
                    return
                self.spaces[self.spaces.index(space)] = StressSpace(self)
                self.counts["spaces made"] += 1
            space.release()
            self.counts["spaces released"] += 1

    def enter(self, actor: "Actor") -> StressSpace:
        """Return the space for an actor. One that is given up gets a successor; those who are in it leave one by one."""
        with self.lock:
            index = actor.number % len(self.spaces)
            space = self.spaces[index]
            if space.killed or space.retiring:
                self.spaces[index] = StressSpace(self)
                self.counts["spaces made"] += 1
            self.spaces[index].actors.add(actor)
            return self.spaces[index]

    def kill_one(self, random: Random) -> None:
        """Kill a stub process. Its contexts have to die in time, and are replaced."""
        with self.lock:
            space = random.choice(self.spaces)
            pid = None if space.killed else space.pid()
            if pid is None:
                return
            space.killed = True
            self.counts["stubs killed"] += 1
        os.kill(pid, 9)

    def retire_one(self, random: Random) -> None:
        """Let a space go when its actors come out of it."""
        with self.lock:
            random.choice(self.spaces).retiring = True


class Actor:
    """One guest thread: a context, the space it is in, and what it must come back with."""

    def __init__(self, world: World, number: int) -> None:
        """Make the context. ``number`` says which page it has, and which space."""
        self.world = world
        self.number = number
        self.random = Random(f"{world.seed}:{number}")
        self.history: deque[str] = deque(maxlen=HISTORY)
        self.submitted = 0.0
        self.running = False
        self.context: Context = world.platform.new_context()
        self._begin()

    # A life.

    def _begin(self) -> None:
        """Be a new guest thread, in the space that has this actor's place now."""
        world, random = self.world, self.random
        with world.lock:
            self.space = world.enter(self)
            self.offset = world.file.allocate(PAGE)
        self.page = DATA + 2 * PAGE * self.number
        self.mapped = False
        self.routine = int(Routine.CHECK)
        self.low = self.high = 0
        self.canaries = {index: random.getrandbits(64) for index in _CANARIES}
        regs = self.context.regs
        regs[cpu.EFLAGS] = cpu.EFLAGS_IF | cpu.EFLAGS_RESERVED_ONE
        for index, value in self.canaries.items():
            regs[index] = value
        # The first thing a new thread does is to look whether it finds somebody else's registers.
        self._send(int(Routine.CHECK))

    def end(self) -> None:
        """Release the context, and leave the space."""
        if self.mapped and not self.space.killed:
            self._unmap()
        self.context.release()
        self.world.leave(self)
        with self.world.lock:
            self.world.file.free(self.offset, PAGE)
        self.world.count("contexts released")

    def renew(self) -> None:
        """End, and begin again."""
        self.end()
        self.context = self.world.platform.new_context()
        self._begin()

    # Out to the guest.

    def _send(self, routine: int) -> None:
        regs, random = self.context.regs, self.random
        self.routine = routine
        self.sent = {cpu.RDI: self.page, cpu.RSI: random.getrandbits(64), cpu.R10: 0}
        if routine == Routine.SET:
            self.sent[cpu.RDI] = random.getrandbits(64)
        for index, value in self.sent.items():
            regs[index] = value
        regs[cpu.RIP] = self.world.guest.start(routine)
        regs[cpu.RAX] = random.getrandbits(64)

    def choose(self) -> None:
        """Do something between two runs, perhaps, and choose the next routine."""
        random, world = self.random, self.world
        if self.space.killed or self.space.retiring or random.random() < 0.002:
            self.renew()
            return
        chance = random.random()
        if chance < 0.05:
            self._map_or_unmap()
        elif chance < 0.08:
            self._look_at_fp(edit=random.random() < 0.5)
        elif chance < 0.09:
            self.context.prepare_sleep()
        elif chance < 0.10:
            self.space.space.pre_fork()
            self.space.space.post_fork()
        routine = (
            random.randrange(SITES) if random.random() < 0.5 else random.randrange(SITES, len(world.guest.outcomes))
        )
        if routine == Routine.SPIN and random.random() < 0.7:
            routine = Routine.WORK
        self._send(int(routine))

    def _map_or_unmap(self) -> None:
        if self.mapped:
            self._unmap()
        else:
            self.space_map()

    def space_map(self) -> None:
        """Map this actor's page, with a pattern in it."""
        tag = self.random.getrandbits(64).to_bytes(8, "little")
        self.world.file.data[self.offset : self.offset + 8] = tag
        try:
            self.space.space.map_file(self.page, self.world.file, self.offset, PAGE, R | W)
        except MapError as error:
            if not self.space.killed:
                raise StressError(f"mapping failed, and nobody killed the stub: {error}") from error
            return
        self.mapped = True
        self.world.count("maps")

    def _unmap(self) -> None:
        self.space.space.unmap(self.page, PAGE)
        self.mapped = False
        self.world.count("unmaps")

    def _look_at_fp(self, edit: bool) -> None:
        context = self.context
        context.pull_full_state()
        image = context.fp
        present = len(image) <= _XSTATE_BV or image[_XSTATE_BV] & _SSE
        found = int.from_bytes(image[_XMM3 : _XMM3 + 8], "little") if present else 0
        if found != self.low:
            raise StressError(f"xmm3 is {found:#x} in the FP image, not {self.low:#x}")
        self.world.count("FP pulls")
        if edit and present:
            self.low = self.random.getrandbits(64)
            image[_XMM3 : _XMM3 + 8] = self.low.to_bytes(8, "little")
            context.full_state_changed()
            self.world.count("FP edits")

    # Back from the guest.

    def take(self, event: Event) -> None:
        """Check an event, and get ready for the next run. Raises StressError."""
        regs = self.context.regs
        self.history.append(
            f"{Routine(max(self.routine, 0)).name if self.routine >= SITES else 'SITE'} {event.kind.name}"
        )
        self.world.count(event.kind.name.lower())
        if event.kind == EventKind.DEATH:
            if not self.space.killed:
                raise StressError(f"died, and nobody killed the stub: {event.error}")
            self.renew()
            return
        for index, value in self.canaries.items():
            if regs[index] != value:
                raise StressError(f"{cpu.NAMES[index]} is {regs[index]:#x}, not {value:#x}")
        if event.kind == EventKind.INTERRUPTED:
            start = self.world.guest.start(self.routine)
            self._expect("rip in the routine", start <= regs[cpu.RIP] < start + 64 or regs[cpu.RIP] < MARK)
            if self.routine == Routine.SPIN or self.space.killed or self.space.retiring:
                self.choose()
            return
        self._check(event)
        self.choose()

    def _expect(self, what: str, holds: bool) -> None:
        if not holds:
            regs = self.context.regs
            values = " ".join(f"{name}={regs[index]:#x}" for index, name in enumerate(cpu.NAMES))
            raise StressError(f"{what}: {self.context.event}; {values}; sent {self.sent}")

    def _check(self, event: Event) -> None:
        regs, routine = self.context.regs, self.routine
        fault = self._expected_fault()
        if fault is not None:
            info = event.info
            self._expect("a page fault", info is not None and (info.signo, info.addr) == (SIGSEGV, self.page))
            self._expect("the access", event.access == fault or self.world.platform.name == "ptrace")
            self._expect("rip at the access", regs[cpu.RIP] == self.world.guest.start(routine))
            self.world.count("page faults")
            return
        outcome = self.world.guest.outcomes[routine]
        value = event.info.signo if event.info is not None else regs[cpu.ORIG_RAX]
        self._expect("the event", (event.kind, value) == (outcome.kind, outcome.value))
        self._expect("rip", regs[cpu.RIP] == outcome.ip)
        if event.kind == EventKind.SYSCALL:
            self._expect("rax", regs[cpu.RAX] == regs[cpu.ORIG_RAX])
        if routine == Routine.CHECK:
            self._expect("xmm3", regs[cpu.RDI] == self.low)
            self._expect("ymm5", regs[cpu.RSI] == self.high)
            return
        self._expect("rdi", regs[cpu.RDI] == self.sent[cpu.RDI])
        self._expect("rsi", regs[cpu.RSI] == self.sent[cpu.RSI])
        if routine == Routine.SET:
            self.low = self.sent[cpu.RDI]
            self.high = self.low if self.world.guest.wide else 0
        elif routine == Routine.STORE:
            stored = int.from_bytes(self.world.file.data[self.offset : self.offset + 8], "little")
            self._expect("what was stored", stored == self.sent[cpu.RSI])
        elif routine == Routine.LOAD:
            stored = int.from_bytes(self.world.file.data[self.offset : self.offset + 8], "little")
            self._expect("what was loaded", regs[cpu.R10] == stored)

    def _expected_fault(self) -> Access | None:
        """Return the access that must fault in the current routine, if any."""
        if self.mapped or self.routine not in (Routine.LOAD, Routine.STORE):
            return None
        return R if self.routine == Routine.LOAD else W
