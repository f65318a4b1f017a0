"""Time: clocks, sleeping, timers."""

from __future__ import annotations

import errno
import struct
import time
from typing import TYPE_CHECKING, Final

from systrap.sentry import clocks
from systrap.sentry.clocks import PosixTimer, check_waitable, deadline_for, itimer, now_ns, pack_time, unpack_time
from systrap.sentry.errors import Interrupted, RestartKind, SyscallError
from systrap.sentry.signals import SIGALRM
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32
from systrap.sentry.wait import Wait, WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_TIMER_ABSTIME: Final = 1
_SIGEV_SIGNAL: Final = 0
_SIGEV_NONE: Final = 1
_SIGEV_THREAD: Final = 2
_SIGEV_THREAD_ID: Final = 4
_MAX_TIMERS: Final = 4096
_CPU_TICK: Final = 0.004
_TIMEX_SIZE: Final = 208
_STA_UNSYNC: Final = 0x40
_TIME_ERROR: Final = 5
_ADJ_OFFSET_SS_READ: Final = 0xA001


@syscall("clock_gettime")
def sys_clock_gettime(task: Task, clock: i32, result: addr) -> Result:
    """clock_gettime(2)."""
    task.mm.write(result, struct.pack("<2q", *divmod(now_ns(clock, task), 1_000_000_000)))
    return 0


@syscall("clock_getres")
def sys_clock_getres(task: Task, clock: i32, result: addr) -> Result:
    """clock_getres(2)."""
    now_ns(clock, task)
    if result:
        resolution = 1 if clock < 0 else round(time.clock_getres(clock) * 1e9)
        task.mm.write(result, struct.pack("<2q", *divmod(resolution, 1_000_000_000)))
    return 0


@syscall("gettimeofday")
def sys_gettimeofday(task: Task, result: addr, zone: addr) -> Result:
    """gettimeofday(2)."""
    if result:
        task.mm.write(result, struct.pack("<2q", *divmod(time.time_ns() // 1000, 1_000_000)))
    if zone:
        task.mm.write(zone, bytes(8))
    return 0


@syscall("time")
def sys_time(task: Task, result: addr) -> Result:
    """time(2)."""
    now = int(time.time())
    if result:
        task.mm.write_u64(result, now)
    return now


@syscall("times")
def sys_times(task: Task, result: addr) -> Result:
    """times(2), in ticks of 1/100 s."""
    group = task.group
    if result:
        values = (group.user_time, group.system_time, *group.children_times)
        task.mm.write(result, struct.pack("<4q", *(int(value * 100) for value in values)))
    return int(time.monotonic() * 100)


async def _sleep(task: Task, deadline: float, remaining: int) -> int:
    """Sleep until a deadline. A handler ends it with EINTR and the time that is left at ``remaining``, when not 0."""
    try:
        await Wait((WaitQueue(),), deadline)
    except Interrupted:
        task.restart_deadline, task.restart_nr = deadline, task.syscall_nr
        if remaining:
            task.mm.write(remaining, pack_time(max(0.0, deadline - time.monotonic())))
        raise Interrupted(RestartKind.NOHAND) from None
    return 0


def _resumed(task: Task) -> float | None:
    """Return the deadline of this call's first try, when it is issued again after an interruption."""
    if task.restart_deadline is not None and task.restart_nr == task.syscall_nr:
        deadline, task.restart_deadline = task.restart_deadline, None
        return deadline
    return None


@syscall("nanosleep")
async def sys_nanosleep(task: Task, wanted: addr, remaining: addr) -> Result:
    """nanosleep(2)."""
    seconds = unpack_time(task.mm.read(wanted, 16))
    return await _sleep(task, _resumed(task) or time.monotonic() + seconds, remaining)


@syscall("clock_nanosleep")
async def sys_clock_nanosleep(task: Task, clock: i32, flags: i32, wanted: addr, remaining: addr) -> Result:
    """clock_nanosleep(2)."""
    check_waitable(clock, task, thread=False)
    seconds = unpack_time(task.mm.read(wanted, 16))
    absolute = bool(flags & _TIMER_ABSTIME)
    if clock < 0 or clock == clocks.PROCESS_CPU:
        return await _sleep_cpu(task, clock, seconds, absolute)
    deadline = _resumed(task) or deadline_for(clock, seconds, absolute)
    return await _sleep(task, deadline, 0 if absolute else remaining)


async def _sleep_cpu(task: Task, clock: int, seconds: float, absolute: bool) -> int:
    """Sleep until a process has used an amount of CPU time: other threads', or another process's."""
    until = int(seconds * 1e9) + (0 if absolute else now_ns(clock, task))
    try:
        while (left := until - now_ns(clock, task)) > 0:
            await Wait((WaitQueue(),), time.monotonic() + max(left / 1e9, _CPU_TICK))
    except Interrupted:
        raise Interrupted(RestartKind.NOHAND) from None
    return 0


# Interval timers.


@syscall("alarm")
def sys_alarm(task: Task, seconds: u32) -> Result:
    """alarm(2)."""
    timer = itimer(task.group, 0)
    left = timer.left()
    timer.set(time.monotonic() + seconds if seconds else None, 0.0)
    # To the nearest second, but never 0 for an alarm that is set.
    return max(1, int(left + 0.5)) if left else 0


def _timeval(seconds: float) -> tuple[int, int]:
    return divmod(max(0, round(seconds * 1e6)), 1_000_000)


def _pack_itimer(left: float, interval: float) -> bytes:
    return struct.pack("<4q", *_timeval(interval), *_timeval(left))


@syscall("getitimer")
def sys_getitimer(task: Task, which: i32, result: addr) -> Result:
    """getitimer(2)."""
    if not 0 <= which <= 2:
        raise SyscallError(errno.EINVAL)
    timer = itimer(task.group, which)
    task.mm.write(result, _pack_itimer(timer.left(), timer.interval))
    return 0


@syscall("setitimer")
def sys_setitimer(task: Task, which: i32, new: addr, old: addr) -> Result:
    """setitimer(2)."""
    if not 0 <= which <= 2:
        raise SyscallError(errno.EINVAL)
    timer = itimer(task.group, which)
    before = _pack_itimer(timer.left(), timer.interval)
    fields = struct.unpack("<4q", task.mm.read(new, 32)) if new else (0, 0, 0, 0)
    if fields[0] < 0 or fields[2] < 0 or not (0 <= fields[1] < 1_000_000 and 0 <= fields[3] < 1_000_000):
        raise SyscallError(errno.EINVAL)
    value, interval = (min(fields[at], clocks.MAX_SECONDS) + fields[at + 1] / 1e6 for at in (2, 0))
    timer.set(timer.now() + value if value else None, interval)
    if old:
        task.mm.write(old, before)
    return 0


# POSIX timers.


@syscall("timer_create")
def sys_timer_create(task: Task, clock: i32, event: addr, result: addr) -> Result:
    """timer_create(2)."""
    check_waitable(clock, task, thread=True)
    group = task.group
    if len(group.posix_timers) >= _MAX_TIMERS:
        raise SyscallError(errno.EAGAIN)
    timer_id = next(number for number in range(_MAX_TIMERS) if number not in group.posix_timers)
    signo, value, tid = SIGALRM, timer_id, 0
    if event:
        value, signo, notify, tid = struct.unpack("<Qiii", task.mm.read(event, 20))
        if notify == _SIGEV_NONE:
            signo = 0
        elif notify not in (_SIGEV_SIGNAL, _SIGEV_THREAD, _SIGEV_THREAD_ID) or not 1 <= signo <= 64:
            raise SyscallError(errno.EINVAL)
        if notify != _SIGEV_THREAD_ID:
            tid = 0
        elif tid not in task.kernel.tasks or task.kernel.tasks[tid].group is not group:
            raise SyscallError(errno.EINVAL)
    task.mm.write(result, struct.pack("<i", timer_id))
    group.posix_timers[timer_id] = PosixTimer(group, timer_id, clock, signo, value, tid)
    return 0


def _posix_timer(task: Task, timer_id: int) -> PosixTimer:
    found = task.group.posix_timers.get(timer_id)
    if found is None:
        raise SyscallError(errno.EINVAL)
    return found


@syscall("timer_settime")
def sys_timer_settime(task: Task, timer_id: i32, flags: i32, new: addr, old: addr) -> Result:
    """timer_settime(2)."""
    if not new:
        raise SyscallError(errno.EINVAL)
    data = task.mm.read(new, 32)
    interval, value = unpack_time(data[:16]), unpack_time(data[16:])
    timer = _posix_timer(task, timer_id)
    before = pack_time(timer.interval) + pack_time(timer.left())
    deadline: float | None = None
    if value and timer.cpu:
        deadline = value if flags & _TIMER_ABSTIME else timer.now() + value
    elif value:
        deadline = deadline_for(timer.clock, value, bool(flags & _TIMER_ABSTIME))
    timer.set(deadline, interval)
    if old:
        task.mm.write(old, before)
    return 0


@syscall("timer_gettime")
def sys_timer_gettime(task: Task, timer_id: i32, result: addr) -> Result:
    """timer_gettime(2)."""
    timer = _posix_timer(task, timer_id)
    task.mm.write(result, pack_time(timer.interval) + pack_time(timer.left()))
    return 0


@syscall("timer_getoverrun")
def sys_timer_getoverrun(task: Task, timer_id: i32) -> Result:
    """timer_getoverrun(2)."""
    return _posix_timer(task, timer_id).overrun


@syscall("timer_delete")
def sys_timer_delete(task: Task, timer_id: i32) -> Result:
    """timer_delete(2)."""
    _posix_timer(task, timer_id).cancel()
    del task.group.posix_timers[timer_id]
    return 0


# Setting clocks: the host's clock is not the guest's to set.


@syscall("settimeofday")
def sys_settimeofday(task: Task, new: addr, zone: addr) -> Result:
    """settimeofday(2): setting nothing is allowed."""
    if new:
        seconds, micros = struct.unpack("<2q", task.mm.read(new, 16))
        if seconds < 0 or not 0 <= micros < 1_000_000:
            raise SyscallError(errno.EINVAL)
    if new or zone:
        raise SyscallError(errno.EPERM)
    return 0


@syscall("clock_settime")
def sys_clock_settime(task: Task, clock: i32, new: addr) -> Result:
    """clock_settime(2)."""
    if clock != clocks.REALTIME:
        raise SyscallError(errno.EINVAL)
    unpack_time(task.mm.read(new, 16))
    raise SyscallError(errno.EPERM)


def _adjust(task: Task, buffer: int) -> int:
    """Tell how the clock is kept: by nobody we know (STA_UNSYNC, TIME_ERROR). EPERM for what would change it."""
    data = bytearray(task.mm.read(buffer, _TIMEX_SIZE))
    (modes,) = struct.unpack_from("<I", data)
    if modes and modes != _ADJ_OFFSET_SS_READ:
        raise SyscallError(errno.EPERM)
    now, micros = divmod(time.time_ns() // 1000, 1_000_000)
    struct.pack_into(
        "<4qi4x3q2qq", data, 8, 0, 0, 16_000_000, 16_000_000, _STA_UNSYNC, 2, 1, 32_768_000, now, micros, 10_000
    )
    task.mm.write(buffer, bytes(data))
    return _TIME_ERROR


@syscall("adjtimex")
def sys_adjtimex(task: Task, buffer: addr) -> Result:
    """adjtimex(2), reading only."""
    return _adjust(task, buffer)


@syscall("clock_adjtime")
def sys_clock_adjtime(task: Task, clock: i32, buffer: addr) -> Result:
    """clock_adjtime(2), reading only."""
    if clock not in clocks.KNOWN:
        raise SyscallError(errno.EINVAL)
    if clock != clocks.REALTIME:
        raise SyscallError(errno.EOPNOTSUPP)
    return _adjust(task, buffer)
