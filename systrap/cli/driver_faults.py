"""What the conformance driver does to stubs from outside: kill, stop and continue them, and count processes.

No platform offers this: a host does it to them. So processes are found where a host's administrator would find them, in what
the platforms know of their stubs, and get ordinary signals.
"""

import os
import signal
from typing import Final, Protocol, runtime_checkable

from systrap.cli.driver_wire import OperationError, ProtocolError, UnsupportedError
from systrap.platform import AddressSpace

PROCESS: Final = "process"
WORKER: Final = "worker"


class _Stub(Protocol):
    """What both platforms have: a process."""

    pid: int


@runtime_checkable
class _HasStub(Protocol):
    stub: _Stub


@runtime_checkable
class _HasWorkers(Protocol):
    """Systrap's stubs: the workers are processes of their own, which share memory with the stub."""

    threads: dict[int, int]


_CAPS: Final = {"systrap": ("x.kill_stub", "x.freeze_stub"), "ptrace": ("x.kill_stub",)}


def caps(platform: str) -> tuple[str, ...]:
    """Return the capabilities that stubs of a platform give. Whoever traces a process cannot have it stopped by others."""
    return _CAPS.get(platform, ())


def kill(space: AddressSpace, part: str) -> None:
    """Kill a stub process, or one of its workers. Raises UnsupportedError, OperationError, ProtocolError."""
    if part not in (PROCESS, WORKER):
        raise ProtocolError(f"x.kill_stub: part is {PROCESS} or {WORKER}")
    _signal(_pids(space, part)[:1], signal.SIGKILL)


def stop(space: AddressSpace) -> None:
    """Stop a stub process and its workers. Raises UnsupportedError, OperationError."""
    _signal([*_pids(space, PROCESS), *_pids(space, WORKER)], signal.SIGSTOP)


def go_on(space: AddressSpace) -> None:
    """Let what was stopped go on. Raises UnsupportedError, OperationError."""
    _signal([*_pids(space, PROCESS), *_pids(space, WORKER)], signal.SIGCONT)


def _pids(space: AddressSpace, part: str) -> list[int]:
    if not isinstance(space, _HasStub):
        raise UnsupportedError("x.kill_stub", "this platform has no stub processes")
    if part == PROCESS:
        return [space.stub.pid]
    if not isinstance(space.stub, _HasWorkers):
        raise UnsupportedError("x.freeze_stub", "this platform's stubs have no workers of their own")
    workers = list(space.stub.threads.values())
    if not workers:
        raise OperationError("state", "no worker runs in this space")
    return workers


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError as error:
            raise OperationError("state", f"process {pid} is gone") from error


def processes() -> int:
    """Return how many processes descend from this one: workers, too, and dead ones that nobody reaped."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {os.getpid()}
    size = 0
    while size < len(found):
        size = len(found)
        found.update(pid for pid, parent in parents.items() if parent in found)
    return size - 1
