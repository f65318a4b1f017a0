"""poll, select, epoll: waiting for several files at once."""

from __future__ import annotations

import errno
import struct
import time
from typing import TYPE_CHECKING, Final

from systrap import arch
from systrap.sentry import epoll as epolls
from systrap.sentry.clocks import MAX_SECONDS
from systrap.sentry.errors import Interrupted, RestartKind, SyscallError
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64
from systrap.sentry.wait import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLPRI,
    POLLRDBAND,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
    Wait,
    WaitQueue,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from systrap.sentry.file import OpenFile
    from systrap.sentry.task import Task

_POLLFD = struct.Struct("<ihh")
_EPOLL_EVENT: Final = arch.current().LINUX.epoll_event
_READ_SET: Final = POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR
_WRITE_SET: Final = POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR
_EXCEPT_SET: Final = POLLPRI
_FAR: Final = 1e9


def _deadline(task: Task, seconds: float | None) -> float | None:
    """Return when a wait of so many seconds ends: the time kept from before, if a signal broke this same call off."""
    if seconds is None:
        return None
    if task.restart_deadline is not None and task.restart_nr == task.syscall_nr:
        deadline = task.restart_deadline
        task.restart_deadline = None
        return deadline
    return time.monotonic() + min(seconds, _FAR)


async def _until(
    task: Task, look: Callable[[], int], queues: list[WaitQueue], seconds: float | None, interruptible: bool = True
) -> int:
    """Wait until ``look`` finds something, or the time is up (0). Restarted only when no handler runs.

    A pending signal interrupts even a call that would not wait, unless ``interruptible`` is false (epoll).
    """
    found = look()
    if found:
        return found
    if seconds == 0:
        if interruptible and task.kernel.signals.has_deliverable(task):
            raise Interrupted(RestartKind.NOHAND)
        return 0
    deadline = _deadline(task, seconds)
    try:
        while True:
            woken = await Wait(tuple(queues), deadline)
            found = look()
            if found or not woken:
                return found
    except Interrupted:
        task.restart_deadline = deadline
        task.restart_nr = task.syscall_nr
        raise Interrupted(RestartKind.NOHAND) from None


def read_timespec(task: Task, address: int) -> float | None:
    """Return a struct timespec as seconds; None for a NULL pointer. EINVAL for negative or overlong ones."""
    if not address:
        return None
    seconds, nanos = struct.unpack("<2q", task.mm.read(address, 16))
    if seconds < 0 or not 0 <= nanos < 1_000_000_000:
        raise SyscallError(errno.EINVAL)
    return float(min(seconds, MAX_SECONDS) + nanos / 1e9)


def _set_mask(task: Task, mask: int, size: int) -> None:
    if mask:
        if size != 8:
            raise SyscallError(errno.EINVAL)
        task.set_temporary_mask(task.mm.read_u64(mask))


@syscall("poll")
async def sys_poll(task: Task, fds: addr, count: u32, timeout: i32) -> Result:
    """poll(2)."""
    return await _poll(task, fds, count, timeout / 1000 if timeout >= 0 else None)


@syscall("ppoll")
async def sys_ppoll(task: Task, fds: addr, count: u32, timeout: addr, mask: addr, size: u64) -> Result:
    """ppoll(2)."""
    seconds = read_timespec(task, timeout)
    _set_mask(task, mask, size)
    begun = time.monotonic()
    result = await _poll(task, fds, count, seconds)
    _write_rest(task, timeout, seconds, begun)
    return result


def _write_rest(task: Task, address: int, seconds: float | None, begun: float) -> None:
    """Write the time that is left back, as Linux does."""
    if address and seconds is not None:
        left = max(0.0, seconds - (time.monotonic() - begun))
        try:
            task.mm.write(address, struct.pack("<2q", int(left), int(left % 1 * 1e9)))
        except SyscallError:
            # The memory may be read-only: the call has succeeded all the same.
            return


async def _poll(task: Task, fds: int, count: int, seconds: float | None) -> int:
    if count > max(task.fds.limit, 1024):
        raise SyscallError(errno.EINVAL)
    entries = list(_POLLFD.iter_unpack(task.mm.read(fds, count * 8))) if count else []
    files: list[OpenFile | None] = []
    for fd, _, _ in entries:
        try:
            files.append(task.fds.get(fd) if fd >= 0 else None)
        except SyscallError:
            files.append(None)
    results = [0] * count

    def look() -> int:
        found = 0
        for index, (fd, events, _) in enumerate(entries):
            file = files[index]
            if file is not None:
                results[index] = file.poll() & ((events & 0xFFFF) | POLLERR | POLLHUP)
            else:
                results[index] = POLLNVAL if fd >= 0 else 0
            found += bool(results[index])
        return found

    queues = list({id(file.queue): file.queue for file in files if file is not None}.values())
    found = await _until(task, look, queues, seconds)
    for index, result in enumerate(results):
        task.mm.write(fds + index * 8 + 6, struct.pack("<H", result))
    return found


@syscall("select")
async def sys_select(task: Task, count: i32, reads: addr, writes: addr, excepts: addr, timeout: addr) -> Result:
    """select(2)."""
    seconds: float | None = None
    if timeout:
        whole, micros = struct.unpack("<2q", task.mm.read(timeout, 16))
        if whole < 0 or micros < 0:
            raise SyscallError(errno.EINVAL)
        seconds = min(whole + micros / 1e6, _FAR)
    begun = time.monotonic()
    result = await _select(task, count, (reads, writes, excepts), seconds)
    if timeout and seconds is not None:
        left = max(0.0, seconds - (time.monotonic() - begun))
        task.mm.write(timeout, struct.pack("<2q", int(left), int(left % 1 * 1e6)))
    return result


@syscall("pselect6")
async def sys_pselect6(
    task: Task, count: i32, reads: addr, writes: addr, excepts: addr, timeout: addr, mask: addr
) -> Result:
    """pselect6(2): the mask is a pointer to a pointer and a size."""
    seconds = read_timespec(task, timeout)
    if mask:
        address, size = struct.unpack("<2Q", task.mm.read(mask, 16))
        _set_mask(task, address, size)
    begun = time.monotonic()
    result = await _select(task, count, (reads, writes, excepts), seconds)
    _write_rest(task, timeout, seconds, begun)
    return result


async def _select(task: Task, count: int, sets: tuple[int, int, int], seconds: float | None) -> int:
    """Do what both selects do; ``sets`` are the addresses of the three bit sets, 0 for none."""
    if count < 0:
        raise SyscallError(errno.EINVAL)
    count = min(count, task.fds.limit)
    length = (count + 63) // 64 * 8
    wanted = [
        int.from_bytes(task.mm.read(s, length), "little") & ((1 << count) - 1) if s and count else 0 for s in sets
    ]
    files: dict[int, OpenFile] = {}
    union = wanted[0] | wanted[1] | wanted[2]
    fd = 0
    while union >> fd:
        if union >> fd & 1:
            files[fd] = task.fds.get(fd)
        fd += 1
    results = [0, 0, 0]

    def look() -> int:
        found = 0
        results[:] = [0, 0, 0]
        for number, file in files.items():
            events = file.poll()
            for index, bits in enumerate((_READ_SET, _WRITE_SET, _EXCEPT_SET)):
                if wanted[index] >> number & 1 and events & bits:
                    results[index] |= 1 << number
                    found += 1
        return found

    queues = list({id(file.queue): file.queue for file in files.values()}.values())
    found = await _until(task, look, queues, seconds)
    for address, result in zip(sets, results, strict=True):
        if address and length:
            task.mm.write(address, result.to_bytes(length, "little"))
    return found


# epoll.


@syscall("epoll_create")
def sys_epoll_create(task: Task, size: i32) -> Result:
    """epoll_create(2)."""
    if size <= 0:
        raise SyscallError(errno.EINVAL)
    return task.fds.add(epolls.Epoll())


@syscall("epoll_create1")
def sys_epoll_create1(task: Task, flags: i32) -> Result:
    """epoll_create1(2)."""
    if flags & ~epolls.EPOLL_CLOEXEC:
        raise SyscallError(errno.EINVAL)
    return task.fds.add(epolls.Epoll(), bool(flags & epolls.EPOLL_CLOEXEC))


@syscall("epoll_ctl")
def sys_epoll_ctl(task: Task, epfd: i32, operation: i32, fd: i32, event: addr) -> Result:
    """epoll_ctl(2)."""
    instance = task.fds.get(epfd)
    file = task.fds.get(fd)
    events = data = 0
    if operation != epolls.CTL_DEL:
        events, data = _EPOLL_EVENT.unpack(task.mm.read(event, _EPOLL_EVENT.size))
    if not isinstance(instance, epolls.Epoll) or file is instance:
        raise SyscallError(errno.EINVAL)
    instance.control(operation, fd, file, events, data)
    return 0


@syscall("epoll_wait")
async def sys_epoll_wait(task: Task, epfd: i32, events: addr, count: i32, timeout: i32) -> Result:
    """epoll_wait(2)."""
    return await _epoll_wait(task, epfd, events, count, timeout / 1000 if timeout >= 0 else None)


@syscall("epoll_pwait")
async def sys_epoll_pwait(
    task: Task, epfd: i32, events: addr, count: i32, timeout: i32, mask: addr, size: u64
) -> Result:
    """epoll_pwait(2)."""
    _set_mask(task, mask, size)
    return await _epoll_wait(task, epfd, events, count, timeout / 1000 if timeout >= 0 else None)


@syscall("epoll_pwait2")
async def sys_epoll_pwait2(
    task: Task, epfd: i32, events: addr, count: i32, timeout: addr, mask: addr, size: u64
) -> Result:
    """epoll_pwait2(2)."""
    seconds = read_timespec(task, timeout)
    _set_mask(task, mask, size)
    return await _epoll_wait(task, epfd, events, count, seconds)


async def _epoll_wait(task: Task, epfd: int, address: int, count: int, seconds: float | None) -> int:
    instance = task.fds.get(epfd)
    if not isinstance(instance, epolls.Epoll) or not 0 < count <= 0x7FFFFFFF // _EPOLL_EVENT.size:
        raise SyscallError(errno.EINVAL)
    task.mm.check_range(address, count * _EPOLL_EVENT.size, True)
    ready: list[tuple[int, int]] = []

    def look() -> int:
        ready[:] = instance.collect(count)
        return len(ready)

    found = await _until(task, look, [instance.queue], seconds, interruptible=False)
    if ready:
        task.mm.write(address, b"".join(_EPOLL_EVENT.pack(events, data) for events, data in ready))
    return found
