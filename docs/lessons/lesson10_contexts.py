"""Lesson 10: many contexts on few threads. Six guests, two threads, two queues; and nobody keeps a thread for ever."""

import errno
import os
import signal
import threading
from typing import Final

from lesson00_call import DEADLINE, make_call, require_this_machine
from lesson02_filter import GUEST
from lesson03_second_process import Shared, end, start
from lesson04_futex import futex_wait, futex_wake
from lesson05_registers import NAMES, Stub
from lesson09_fp import CONTEXT_WORDS, become, context_of, fresh

EXIT, TGKILL = 60, 234
RAX, RDI, R12 = map(NAMES.index, ("rax", "rdi", "r12"))
ENTRIES: Final = 64
SIGNO, THREAD, CONTEXT = 0, 1, 8
"""Words of a slot: why the context came back, on which thread it runs (0: none), what it is."""


class Ring:
    """Numbers from one process to the other, in order. The counter of what was put in is the futex, too."""

    def __init__(self, shared: Shared, at: int) -> None:
        self.words, self.head, self.tail, self.entries = shared.words, at, at + 1, at + 2
        self.futex = shared.address + 8 * self.tail
        self.lock = threading.Lock()  # among the threads of one process; the other process has the other end

    def put(self, number: int) -> None:
        """Append: first the entry, then the counter, then the bell."""
        with self.lock:
            self.words[self.entries + self.words[self.tail] % ENTRIES] = number
            self.words[self.tail] += 1
            futex_wake(self.futex)

    def take(self, timeout: float) -> int | None:
        """Remove the oldest, or wait for one; None when there was none in time."""
        with self.lock:
            head = self.words[self.head]
            while self.words[self.tail] == head:
                if futex_wait(self.futex, head, timeout) == -errno.ETIMEDOUT:
                    return None
            self.words[self.head] = head + 1
            return self.words[self.entries + head % ENTRIES]


class Machine(Stub):
    """What both processes see: a page with the two queues, and a page for each context, its slot."""

    def __init__(self, contexts: int) -> None:
        super().__init__(Shared(1 + contexts))
        self.words, self.queue, self.ready = self.shared.words, Ring(self.shared, 0), Ring(self.shared, 128)
        self.slots = [512 * (1 + context) for context in range(contexts)]
        self.current: dict[int, int] = {}

    def ask(self, number: int, _siginfo: int, ucontext: int) -> None:
        """Handle a signal in the stub: give back the context that was stopped, take the next one, become it."""
        if (thread := threading.get_native_id()) in self.current:  # else this is the hlt: the thread has none yet
            slot = self.slots[self.current[thread]]
            self.words[slot + CONTEXT : slot + CONTEXT + CONTEXT_WORDS] = [*context_of(ucontext)]
            self.words[slot + SIGNO], self.words[slot + THREAD] = number, 0
            self.ready.put(self.current.pop(thread))
        if (context := self.queue.take(DEADLINE)) is None:
            os._exit(1)
        self.current[thread], slot = context, self.slots[context]
        become(ucontext, self.words[slot + CONTEXT : slot + CONTEXT + CONTEXT_WORDS])
        self.words[slot + THREAD] = thread

    def run(self, code: bytes, threads: int = 2) -> None:
        """Start the threads, each of which asks for work with a fault. They have the filter of who made them."""
        begin = self.prepare(code)
        for _ in range(threads - 1):
            threading.Thread(target=begin, args=[0] * 7, daemon=True).start()
        begin(*[0] * 7)

    def next(self, child: int, patience: float = 0.05) -> int:
        """Return the next context with an event; who keeps a thread for longer than that is interrupted."""
        while (context := self.ready.take(patience)) is None:
            for thread in (self.words[slot + THREAD] for slot in self.slots):
                if thread:
                    make_call()(TGKILL, child, thread, signal.SIGCHLD)
        return context


GUEST_CODE: Final = bytes.fromhex("b8e8030000 89df 0f05 4901c4 ffcd 75f0 b83c000000 0f05 ebfe")
"""Again: mov eax, 1000 · mov edi, ebx · syscall · add r12, rax · dec ebp · jnz Again · mov eax, 60 · syscall · jmp itself"""
LOOP: Final = GUEST + 23


def main() -> None:
    """Run two guests that loop for ever, queued first, and four that want to get something done: on two threads."""
    require_this_machine()
    machine = Machine(6)
    child, interrupts, sums = start(lambda: machine.run(GUEST_CODE)), 0, dict[int, int]()
    try:
        for context, slot in enumerate(machine.slots):
            begin = LOOP if context < 2 else GUEST
            machine.words[slot + CONTEXT : slot + CONTEXT + CONTEXT_WORDS] = [*fresh(begin, rbx=context, rbp=3)]
            machine.queue.put(context)
        while len(sums) < 4:
            slot = machine.slots[context := machine.next(child)]
            registers = slot + CONTEXT
            if machine.words[slot + SIGNO] == signal.SIGCHLD:
                interrupts += 1
            elif machine.words[registers + RAX] == EXIT:
                sums[context] = machine.words[registers + R12]
                continue
            else:
                machine.words[registers + RAX] = 10 * machine.words[registers + RDI]
            machine.queue.put(context)
    finally:
        end(child)
    print(f"what the answers add up to, for each context: {dict(sorted(sums.items()))}")
    print(f"the loops had to be interrupted: {interrupts > 0}")


if __name__ == "__main__":
    main()
