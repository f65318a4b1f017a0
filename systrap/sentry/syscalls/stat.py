"""Attributes of files and file systems, directory listings."""

from __future__ import annotations

import errno
import os
import struct
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from systrap import arch
from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_PATH
from systrap.sentry.fs import notify
from systrap.sentry.fs.contents import DirectoryFile, PathFile
from systrap.sentry.fs.inode import Inode, Stat
from systrap.sentry.syscalls.paths import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, resolve
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_AT_NO_AUTOMOUNT: Final = 0x800
_AT_STATX_SYNC: Final = 0x6000
_STATX_BASIC: Final = 0x7FF
_STATX_BTIME: Final = 0x800
_STAT: Final = arch.current().LINUX.stat
_fields: Final = attrgetter(*_STAT.fields)


def _pack(s: Stat) -> bytes:
    """Return a struct stat."""
    return _STAT.layout.pack(
        *_fields(s),
        *divmod(s.atime_ns, 1_000_000_000), *divmod(s.mtime_ns, 1_000_000_000), *divmod(s.ctime_ns, 1_000_000_000),
    )  # fmt: skip


@syscall("stat")
def sys_stat(task: Task, path: addr, buffer: addr) -> Result:
    """stat(2)."""
    task.mm.write(buffer, _pack(resolve(task, AT_FDCWD, path).inode.stat()))
    return 0


@syscall("lstat")
def sys_lstat(task: Task, path: addr, buffer: addr) -> Result:
    """lstat(2)."""
    task.mm.write(buffer, _pack(resolve(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).inode.stat()))
    return 0


@syscall("fstat")
def sys_fstat(task: Task, fd: i32, buffer: addr) -> Result:
    """fstat(2)."""
    task.mm.write(buffer, _pack(task.fds.get(fd).stat()))
    return 0


@syscall("newfstatat")
def sys_newfstatat(task: Task, dirfd: i32, path: addr, buffer: addr, flags: i32) -> Result:
    """fstatat(2)."""
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | _AT_NO_AUTOMOUNT):
        raise SyscallError(errno.EINVAL)
    task.mm.write(buffer, _pack(_stat_at(task, dirfd, path, flags)))
    return 0


def _stat_at(task: Task, dirfd: int, path: int, flags: int) -> Stat:
    if flags & AT_EMPTY_PATH and dirfd != AT_FDCWD and (not path or not task.mm.read_string(path)):
        return task.fds.get(dirfd).stat()
    return resolve(task, dirfd, path, flags).inode.stat()


@syscall("statx")
def sys_statx(task: Task, dirfd: i32, path: addr, flags: i32, mask: u32, buffer: addr) -> Result:
    """statx(2)."""
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | _AT_NO_AUTOMOUNT | _AT_STATX_SYNC) or mask >> 31:
        raise SyscallError(errno.EINVAL)
    if flags & _AT_STATX_SYNC == _AT_STATX_SYNC:
        raise SyscallError(errno.EINVAL)
    s = _stat_at(task, dirfd, path, flags)
    known = _STATX_BASIC | (_STATX_BTIME if s.btime_ns else 0)
    head = struct.pack("<IIQIIIHxxQQQQ", known, s.blksize, 0, s.nlink, s.uid, s.gid, s.mode, s.ino, s.size, s.blocks, 0)
    times = b"".join(
        struct.pack("<qI4x", *divmod(ns, 1_000_000_000)) for ns in (s.atime_ns, s.btime_ns, s.ctime_ns, s.mtime_ns)
    )
    tail = struct.pack("<4I", os.major(s.rdev), os.minor(s.rdev), os.major(s.dev), os.minor(s.dev))
    task.mm.write(buffer, (head + times + tail).ljust(256, b"\0"))
    return 0


# File systems.


def _statfs(task: Task, inode: Inode | None, buffer: int) -> int:
    magic = inode.statfs_magic() if inode is not None else 0x50495045
    host = os.statvfs("/")
    task.mm.write(
        buffer,
        struct.pack(
            "<qqQQQQQiiqqq32x", magic, PAGE_SIZE, host.f_blocks, host.f_bfree, host.f_bavail, host.f_files, host.f_ffree,
            0, 0, 255, PAGE_SIZE, 0x1020,
        ),
    )  # fmt: skip
    return 0


@syscall("statfs")
def sys_statfs(task: Task, path: addr, buffer: addr) -> Result:
    """statfs(2)."""
    return _statfs(task, resolve(task, AT_FDCWD, path).inode, buffer)


@syscall("fstatfs")
def sys_fstatfs(task: Task, fd: i32, buffer: addr) -> Result:
    """fstatfs(2)."""
    file = task.fds.get(fd)
    return _statfs(task, file.location.inode if isinstance(file, PathFile) else None, buffer)


# Directories.


def _getdents(task: Task, fd: int, buffer: int, size: int, old: bool) -> int:
    file = task.fds.get(fd)
    if not isinstance(file, DirectoryFile):
        raise SyscallError(errno.EBADF if file.flags & O_PATH else errno.ENOTDIR)
    entries = file.entries()
    if notify.watched:
        notify.at(file.location, notify.IN_ACCESS)
    packed: list[bytes] = []
    total = 0
    position = file.offset
    while position < len(entries):
        name, ino, kind = entries[position]
        if old:
            length = (18 + len(name) + 2 + 7) & ~7
            record = struct.pack("<QqH", ino, position + 1, length) + name
            record = record.ljust(length - 1, b"\0") + bytes((kind,))
        else:
            length = (19 + len(name) + 1 + 7) & ~7
            record = (struct.pack("<QqHB", ino, position + 1, length, kind) + name).ljust(length, b"\0")
        if total + length > size:
            if not packed:
                raise SyscallError(errno.EINVAL)
            break
        packed.append(record)
        total += length
        position += 1
    if packed:
        task.mm.write(buffer, b"".join(packed))
    file.offset = position
    return total


@syscall("getdents64")
def sys_getdents64(task: Task, fd: i32, buffer: addr, size: u32) -> Result:
    """getdents64(2)."""
    return _getdents(task, fd, buffer, size, old=False)


@syscall("getdents")
def sys_getdents(task: Task, fd: i32, buffer: addr, size: u32) -> Result:
    """getdents(2)."""
    return _getdents(task, fd, buffer, size, old=True)
