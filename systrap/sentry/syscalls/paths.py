"""System calls on names: open, mkdir, rename, chmod and the like."""

from __future__ import annotations

import errno
import stat as stats
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import (
    O_ACCMODE,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_PATH,
    O_TMPFILE,
    O_TRUNC,
    O_WRONLY,
    OpenFile,
    drop,
)
from systrap.sentry.fs.inode import MAY_EXEC, Location
from systrap.sentry.pipe import PipeEnd, fifo_open_wait
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_REMOVEDIR: Final = 0x200
AT_SYMLINK_FOLLOW: Final = 0x400
AT_EMPTY_PATH: Final = 0x1000
_DEVICE_KINDS: Final = (stats.S_IFCHR, stats.S_IFBLK)


def resolve(task: Task, dirfd: int, path: int, flags: int = 0) -> Location:
    """Return what a …at call means: ``path`` is a guest address; AT_EMPTY_PATH and AT_SYMLINK_NOFOLLOW are honoured."""
    empty = flags & AT_EMPTY_PATH
    name = b"" if empty and not path else task.mm.read_string(path)
    vfs = task.kernel.vfs
    if empty and not name:
        return vfs.directory(task, dirfd)
    return vfs.lookup(task, vfs.at(task, dirfd, name), name, not flags & AT_SYMLINK_NOFOLLOW)


# Opening.


async def _open(task: Task, dirfd: int, path: int, flags: int, mode: int, restrict: int = 0) -> int:
    name = task.mm.read_string(path)
    vfs = task.kernel.vfs
    at = vfs.directory(task, dirfd) if restrict else vfs.at(task, dirfd, name)
    file = vfs.open(task, at, name, flags, mode, restrict)
    if isinstance(file, PipeEnd) and file.must_wait:
        file.refs += 1
        try:
            await fifo_open_wait(file)
            return task.fds.add(file, bool(flags & O_CLOEXEC))
        finally:
            drop(file)
    return _install(task, file, flags)


def _install(task: Task, file: OpenFile, flags: int) -> int:
    try:
        return task.fds.add(file, bool(flags & O_CLOEXEC))
    except SyscallError:
        file.release()
        raise


@syscall("open")
async def sys_open(task: Task, path: addr, flags: i32, mode: u32) -> Result:
    """open(2)."""
    return await _open(task, AT_FDCWD, path, flags, mode)


@syscall("creat")
async def sys_creat(task: Task, path: addr, mode: u32) -> Result:
    """creat(2)."""
    return await _open(task, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode)


@syscall("openat")
async def sys_openat(task: Task, dirfd: i32, path: addr, flags: i32, mode: u32) -> Result:
    """openat(2)."""
    return await _open(task, dirfd, path, flags, mode)


@syscall("openat2")
async def sys_openat2(task: Task, dirfd: i32, path: addr, how: addr, size: u64) -> Result:
    """openat2(2)."""
    if size < 24:
        raise SyscallError(errno.EINVAL)
    if size > 4096:
        raise SyscallError(errno.E2BIG)
    data = task.mm.read(how, size)
    flags, mode, restrict = struct.unpack_from("<3Q", data)
    if any(data[24:]):
        raise SyscallError(errno.E2BIG)
    from systrap.sentry.fs import confined

    known = O_ACCMODE | 0o77777777
    if flags & ~known or mode & ~0o7777 or (mode and not flags & (O_CREAT | O_TMPFILE)):
        raise SyscallError(errno.EINVAL)
    if flags & O_PATH and flags & ~(O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC):
        raise SyscallError(errno.EINVAL)
    if restrict & ~confined.KNOWN or (restrict & confined.BENEATH and restrict & confined.IN_ROOT):
        raise SyscallError(errno.EINVAL)
    if restrict & confined.CACHED and flags & (O_TRUNC | O_CREAT | O_TMPFILE & ~O_DIRECTORY):
        raise SyscallError(errno.EAGAIN)
    return await _open(task, dirfd, path, flags, mode, restrict & ~confined.CACHED)


# Making and removing names.


def _string(task: Task, path: int) -> bytes:
    return task.mm.read_string(path)


@syscall("mkdir")
def sys_mkdir(task: Task, path: addr, mode: u32) -> Result:
    """mkdir(2)."""
    return _mkdir(task, AT_FDCWD, path, mode)


@syscall("mkdirat")
def sys_mkdirat(task: Task, dirfd: i32, path: addr, mode: u32) -> Result:
    """mkdirat(2)."""
    return _mkdir(task, dirfd, path, mode)


def _mkdir(task: Task, dirfd: int, path: int, mode: int) -> int:
    name, vfs = _string(task, path), task.kernel.vfs
    vfs.make(task, vfs.at(task, dirfd, name), name, stats.S_IFDIR | mode & 0o1777)
    return 0


@syscall("mknod")
def sys_mknod(task: Task, path: addr, mode: u32, dev: u32) -> Result:
    """mknod(2)."""
    return _mknod(task, AT_FDCWD, path, mode, dev)


@syscall("mknodat")
def sys_mknodat(task: Task, dirfd: i32, path: addr, mode: u32, dev: u32) -> Result:
    """mknodat(2)."""
    return _mknod(task, dirfd, path, mode, dev)


def _mknod(task: Task, dirfd: int, path: int, mode: int, dev: int) -> int:
    kind = mode & 0o170000 or stats.S_IFREG
    if kind == stats.S_IFDIR:
        raise SyscallError(errno.EPERM)
    if kind not in (stats.S_IFREG, stats.S_IFIFO, stats.S_IFSOCK, *_DEVICE_KINDS):
        raise SyscallError(errno.EINVAL)
    if kind in _DEVICE_KINDS and task.creds.euid != 0:
        raise SyscallError(errno.EPERM)
    name, vfs = _string(task, path), task.kernel.vfs
    vfs.make(task, vfs.at(task, dirfd, name), name, kind | mode & 0o7777, dev if kind in _DEVICE_KINDS else 0)
    return 0


@syscall("symlink")
def sys_symlink(task: Task, target: addr, path: addr) -> Result:
    """symlink(2)."""
    return _symlink(task, target, AT_FDCWD, path)


@syscall("symlinkat")
def sys_symlinkat(task: Task, target: addr, dirfd: i32, path: addr) -> Result:
    """symlinkat(2)."""
    return _symlink(task, target, dirfd, path)


def _symlink(task: Task, target: int, dirfd: int, path: int) -> int:
    text, name, vfs = _string(task, target), _string(task, path), task.kernel.vfs
    if not text:
        raise SyscallError(errno.ENOENT)
    vfs.symlink(task, vfs.at(task, dirfd, name), name, text)
    return 0


@syscall("link")
def sys_link(task: Task, old: addr, new: addr) -> Result:
    """link(2)."""
    return _link(task, AT_FDCWD, old, AT_FDCWD, new, 0)


@syscall("linkat")
def sys_linkat(task: Task, old_fd: i32, old: addr, new_fd: i32, new: addr, flags: i32) -> Result:
    """linkat(2)."""
    if flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH):
        raise SyscallError(errno.EINVAL)
    return _link(task, old_fd, old, new_fd, new, flags)


def _link(task: Task, old_fd: int, old: int, new_fd: int, new: int, flags: int) -> int:
    how = flags & AT_EMPTY_PATH | (0 if flags & AT_SYMLINK_FOLLOW else AT_SYMLINK_NOFOLLOW)
    source = resolve(task, old_fd, old, how)
    name, vfs = _string(task, new), task.kernel.vfs
    vfs.link(task, source, vfs.at(task, new_fd, name), name)
    return 0


@syscall("unlink")
def sys_unlink(task: Task, path: addr) -> Result:
    """unlink(2)."""
    task.kernel.vfs.unlink(task, None, _string(task, path))
    return 0


@syscall("rmdir")
def sys_rmdir(task: Task, path: addr) -> Result:
    """rmdir(2)."""
    task.kernel.vfs.rmdir(task, None, _string(task, path))
    return 0


@syscall("unlinkat")
def sys_unlinkat(task: Task, dirfd: i32, path: addr, flags: i32) -> Result:
    """unlinkat(2)."""
    if flags & ~AT_REMOVEDIR:
        raise SyscallError(errno.EINVAL)
    name, vfs = _string(task, path), task.kernel.vfs
    remove = vfs.rmdir if flags & AT_REMOVEDIR else vfs.unlink
    remove(task, vfs.at(task, dirfd, name), name)
    return 0


def _rename(task: Task, old_fd: int, old: int, new_fd: int, new: int, flags: int) -> int:
    vfs, source, target = task.kernel.vfs, _string(task, old), _string(task, new)
    vfs.rename(task, vfs.at(task, old_fd, source), source, vfs.at(task, new_fd, target), target, flags)
    return 0


@syscall("rename")
def sys_rename(task: Task, old: addr, new: addr) -> Result:
    """rename(2)."""
    return _rename(task, AT_FDCWD, old, AT_FDCWD, new, 0)


@syscall("renameat")
def sys_renameat(task: Task, old_fd: i32, old: addr, new_fd: i32, new: addr) -> Result:
    """renameat(2)."""
    return _rename(task, old_fd, old, new_fd, new, 0)


@syscall("renameat2")
def sys_renameat2(task: Task, old_fd: i32, old: addr, new_fd: i32, new: addr, flags: u32) -> Result:
    """renameat2(2)."""
    return _rename(task, old_fd, old, new_fd, new, flags)


@syscall("readlink")
def sys_readlink(task: Task, path: addr, buffer: addr, size: i32) -> Result:
    """readlink(2)."""
    return _readlink(task, AT_FDCWD, path, buffer, size)


@syscall("readlinkat")
def sys_readlinkat(task: Task, dirfd: i32, path: addr, buffer: addr, size: i32) -> Result:
    """readlinkat(2)."""
    return _readlink(task, dirfd, path, buffer, size)


def _readlink(task: Task, dirfd: int, path: int, buffer: int, size: int) -> int:
    if size <= 0:
        raise SyscallError(errno.EINVAL)
    flags = AT_SYMLINK_NOFOLLOW | (AT_EMPTY_PATH if path and dirfd != AT_FDCWD else 0)
    found = resolve(task, dirfd, path, flags)
    if not found.inode.is_symlink:
        raise SyscallError(errno.EINVAL if task.mm.read_string(path) else errno.ENOENT)
    target = found.inode.readlink()[:size]
    task.mm.write(buffer, target)
    return len(target)


# Where a process is.


@syscall("getcwd")
def sys_getcwd(task: Task, buffer: addr, size: u64) -> Result:
    """getcwd(2). ENOENT in a directory that was removed."""
    try:
        links = task.fs.cwd.inode.stat().nlink
    except SyscallError:
        links = 0
    if not links:
        raise SyscallError(errno.ENOENT)
    path = task.kernel.vfs.path_of(task.fs.cwd, task.fs.root) + b"\0"
    if len(path) > size:
        raise SyscallError(errno.ERANGE)
    task.mm.write(buffer, path)
    return len(path)


def _enter(task: Task, found: Location) -> Location:
    if not found.inode.is_directory:
        raise SyscallError(errno.ENOTDIR)
    found.inode.check(task.creds, MAY_EXEC)
    return found


@syscall("chdir")
def sys_chdir(task: Task, path: addr) -> Result:
    """chdir(2)."""
    task.fs.cwd = _enter(task, task.kernel.vfs.lookup(task, None, _string(task, path)))
    return 0


@syscall("fchdir")
def sys_fchdir(task: Task, fd: i32) -> Result:
    """fchdir(2)."""
    task.fs.cwd = _enter(task, task.kernel.vfs.directory(task, fd))
    return 0


@syscall("chroot")
def sys_chroot(task: Task, path: addr) -> Result:
    """chroot(2)."""
    found = _enter(task, task.kernel.vfs.lookup(task, None, _string(task, path)))
    if not task.creds.capable(18):
        raise SyscallError(errno.EPERM)
    task.fs.root = found
    return 0


@syscall("umask")
def sys_umask(task: Task, mask: u32) -> Result:
    """umask(2)."""
    old = task.fs.umask
    task.fs.umask = mask & 0o777
    return old


# What there is not.


@syscall(
    "mount",
    "umount2",
    "pivot_root",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "open_tree",
    "mount_setattr",
)
def sys_mount(task: Task) -> Result:
    """mount(2) and its relatives: the mounts of a run are fixed."""
    raise SyscallError(errno.EPERM)


@syscall("name_to_handle_at", "open_by_handle_at")
def sys_handles(task: Task) -> Result:
    """name_to_handle_at(2): there are no file handles."""
    raise SyscallError(errno.EOPNOTSUPP)
