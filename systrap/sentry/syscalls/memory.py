"""System calls about memory: thin, the memory manager does it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_PATH, OpenFile
from systrap.sentry.mm_io import MAX_IO
from systrap.sentry.mm_map import MAP_ANONYMOUS, MAP_TYPE
from systrap.sentry.mm_pages import PAGE_MASK
from systrap.sentry.shm import Shm
from systrap.sentry.syscalls.table import addr, i32, syscall, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_MLOCK_ONFAULT: Final = 1
_PAGES_AT_ONCE: Final = 1 << 16


@syscall("mmap")
def sys_mmap(task: Task, address: addr, length: u64, prot: u64, flags: u64, fd: i32, offset: u64) -> int:
    """Map a file or anonymous memory."""
    file: OpenFile | None = None
    if offset & PAGE_MASK:
        raise SyscallError(errno.EINVAL)
    if not flags & MAP_ANONYMOUS:
        file = task.fds.get(fd)
        if file.flags & O_PATH:
            raise SyscallError(errno.EBADF)
    elif flags & MAP_TYPE == 3:
        raise SyscallError(errno.EINVAL)
    return task.mm.map(address, length, prot, flags, file, offset)


@syscall("munmap")
def sys_munmap(task: Task, address: addr, length: u64) -> int:
    """Unmap a range."""
    task.mm.unmap(address, length)
    return 0


@syscall("mprotect")
def sys_mprotect(task: Task, address: addr, length: u64, prot: u64) -> int:
    """Change the protection of a range."""
    task.mm.protect(address, length, prot)
    return 0


@syscall("pkey_mprotect")
def sys_pkey_mprotect(task: Task, address: addr, length: u64, prot: u64, pkey: i32) -> int:
    """Change the protection of a range, with the one key a CPU without protection keys has: none."""
    if pkey != -1:
        raise SyscallError(errno.EINVAL)
    task.mm.protect(address, length, prot)
    return 0


@syscall("pkey_alloc")
def sys_pkey_alloc(task: Task, flags: u64, rights: u64) -> int:
    """Fail as on a CPU without protection keys."""
    if flags or rights & ~3:
        raise SyscallError(errno.EINVAL)
    raise SyscallError(errno.ENOSPC)


@syscall("pkey_free")
def sys_pkey_free(task: Task, pkey: i32) -> int:
    """Fail: no key was ever given out."""
    raise SyscallError(errno.EINVAL)


@syscall("brk")
def sys_brk(task: Task, address: addr) -> int:
    """Move the end of the heap; tell where it is."""
    return task.mm.brk(address)


@syscall("mremap")
def sys_mremap(task: Task, address: addr, old_length: u64, new_length: u64, flags: u64, new_address: addr) -> int:
    """Resize or move a mapping."""
    return task.mm.remap(address, old_length, new_length, flags, new_address)


@syscall("madvise")
def sys_madvise(task: Task, address: addr, length: u64, advice: i32) -> int:
    """Give advice about a range."""
    task.mm.advise(address, length, advice)
    return 0


@syscall("msync")
def sys_msync(task: Task, address: addr, length: u64, flags: i32) -> int:
    """Write a shared mapping back."""
    task.mm.sync(address, length, flags)
    return 0


@syscall("mincore")
def sys_mincore(task: Task, address: addr, length: u64, vector: addr) -> int:
    """Tell which pages are resident."""
    mm = task.mm
    if length == 0 and not address & PAGE_MASK:
        return 0
    step = _PAGES_AT_ONCE * (PAGE_MASK + 1)
    mm.residency(address, 0)
    if length > mm.max_address or address + length > mm.max_address:
        raise SyscallError(errno.ENOMEM)
    for done in range(0, length, step):
        mm.write(vector + done // (PAGE_MASK + 1), mm.residency(address + done, min(step, length - done)))
    return 0


@syscall("mlock")
def sys_mlock(task: Task, address: addr, length: u64) -> int:
    """Lock a range in memory."""
    task.mm.lock(address, length, True, _may_lock(task))
    return 0


@syscall("mlock2")
def sys_mlock2(task: Task, address: addr, length: u64, flags: i32) -> int:
    """Lock a range in memory, at once or on fault."""
    if flags & ~_MLOCK_ONFAULT:
        raise SyscallError(errno.EINVAL)
    task.mm.lock(address, length, not flags, _may_lock(task))
    return 0


@syscall("munlock")
def sys_munlock(task: Task, address: addr, length: u64) -> int:
    """Unlock a range."""
    task.mm.unlock(address, length)
    return 0


@syscall("mlockall")
def sys_mlockall(task: Task, flags: i32) -> int:
    """Lock everything in memory."""
    task.mm.lock_all(flags, _may_lock(task))
    return 0


@syscall("munlockall")
def sys_munlockall(task: Task) -> int:
    """Unlock everything."""
    task.mm.unlock_all()
    return 0


def _may_lock(task: Task) -> bool:
    """Tell whether RLIMIT_MEMLOCK does not concern this task."""
    return task.creds.euid == 0


@syscall("process_vm_readv")
def sys_process_vm_readv(
    task: Task, pid: i32, local: addr, local_count: u64, remote: addr, remote_count: u64, flags: u64
) -> int:
    """Copy from another process's memory."""
    return _process_vm(task, pid, (local, local_count), (remote, remote_count), flags, False)


@syscall("process_vm_writev")
def sys_process_vm_writev(
    task: Task, pid: i32, local: addr, local_count: u64, remote: addr, remote_count: u64, flags: u64
) -> int:
    """Copy to another process's memory."""
    return _process_vm(task, pid, (local, local_count), (remote, remote_count), flags, True)


def _process_vm(task: Task, pid: int, local: tuple[int, int], remote: tuple[int, int], flags: int, write: bool) -> int:
    """Copy between two address spaces, piece by piece; what was copied before a fault counts."""
    if flags:
        raise SyscallError(errno.EINVAL)
    here = [entry for entry in task.mm.read_iovec(*local) if entry[1]]
    there = [entry for entry in task.mm.read_iovec(*remote) if entry[1]]
    if not here or not there:
        return 0
    other = task.kernel.tasks.get(pid)
    if other is None or other.mm is None:
        raise SyscallError(errno.ESRCH)
    if other.mm is not task.mm and task.creds.euid not in (0, other.creds.uid):
        raise SyscallError(errno.EPERM)
    done = 0
    here.reverse()
    there.reverse()
    while here and there:
        (base, length), (far, far_length) = here.pop(), there.pop()
        take = min(length, far_length, 1 << 20, MAX_IO)
        if write:
            moved = other.mm.write_partial(far, task.mm.read_partial(base, take))
        else:
            moved = task.mm.write_partial(base, other.mm.read_partial(far, take))
        done += moved
        if moved < take:
            break
        if take < length:
            here.append((base + take, length - take))
        if take < far_length:
            there.append((far + take, far_length - take))
    if not done:
        raise SyscallError(errno.EFAULT)
    return done


@syscall("shmget")
def sys_shmget(task: Task, key: i32, size: u64, flags: i32) -> int:
    """Find or make a System V shared memory segment."""
    return _shm(task).get(task, key, size, flags)


@syscall("shmat")
def sys_shmat(task: Task, ident: i32, address: addr, flags: i32) -> int:
    """Attach a segment."""
    return _shm(task).attach(task, ident, address, flags)


@syscall("shmdt")
def sys_shmdt(task: Task, address: addr) -> int:
    """Detach the segment at an address."""
    return _shm(task).detach(task, address)


@syscall("shmctl")
def sys_shmctl(task: Task, ident: i32, command: i32, buffer: addr) -> int:
    """Inspect, change or remove a segment."""
    return _shm(task).control(task, ident, command, buffer)


def _shm(task: Task) -> Shm:
    """Return the segments of this kernel."""
    return Shm.of(task.kernel)
