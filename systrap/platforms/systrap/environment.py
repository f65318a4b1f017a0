"""What stub processes have in common: the image, the memory file, who makes and buries them, and how they are to work."""

import threading
from typing import NamedTuple

from systrap.host import mem
from systrap.memory import MemoryFile
from systrap.platforms.systrap import cpuid
from systrap.platforms.systrap.broker import Broker
from systrap.platforms.systrap.layout import slot_layout
from systrap.platforms.systrap.machine_code import SentryCode
from systrap.platforms.systrap.source import Source


class Environment:
    """What all subprocesses of a platform share."""

    __slots__ = (
        "_lock", "broker", "code", "cpuid", "image", "max_threads", "memory", "memory_base", "notify", "slots", "source",
    )  # fmt: skip

    def __init__(
        self, code: SentryCode, memory: MemoryFile, broker: Broker, source: Source, max_threads: int, notify: bool
    ) -> None:
        """``max_threads``: sysmsg threads a space may have; ``notify``: this host gives seccomp listeners."""
        self.code = code
        self.memory = memory
        self.memory_base = mem.address_of(memoryview(memory.data))
        self.broker = broker
        self.source = source
        self.image = source.image
        self.max_threads = max_threads
        self.notify = notify
        self.slots = slot_layout(self.image.layout)
        self.cpuid = cpuid.features(code) if cpuid.can_fault() else None
        self._lock = threading.Lock()

    def allocate_slot(self) -> int:
        """Return the offset of a new slot in the memory file. Any thread."""
        with self._lock:
            return self.memory.allocate(self.slots.size)

    def free_slot(self, start: int) -> None:
        """Give a slot back. Nothing of its stub may be left alive. Any thread."""
        with self._lock:
            self.memory.free(start, self.slots.size)


class Modes(NamedTuple):
    """How the stubs of one platform work. ``user_dispatch``: syscall user dispatch stands in front of seccomp (S-106)."""

    user_dispatch: bool
    patching: bool
