"""Attributes of files: modes, owners, lengths, times, and who may do what."""

from __future__ import annotations

import errno
import stat as stats
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_PATH
from systrap.sentry.fs import notify
from systrap.sentry.fs.contents import PathFile
from systrap.sentry.fs.inode import MAY_EXEC, MAY_READ, MAY_WRITE, Inode, without_set_id
from systrap.sentry.fs.nodes import coarse_now
from systrap.sentry.syscalls.paths import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, resolve
from systrap.sentry.syscalls.table import Result, addr, i32, i64, syscall, u32

if TYPE_CHECKING:
    from systrap.sentry.task import Task

AT_EACCESS: Final = 0x200
_S_ISUID: Final = 0o4000
_S_ISGID: Final = 0o2000
_S_IXGRP: Final = 0o010
_FIRST_TIME: Final = -(1 << 31) * 1_000_000_000
_LAST_TIME: Final = 15_032_385_535 * 1_000_000_000
_UTIME_NOW: Final = (1 << 30) - 1
_UTIME_OMIT: Final = (1 << 30) - 2


def _require_owner(task: Task, inode: Inode) -> None:
    if task.creds.fsuid not in (0, inode.stat().uid):
        raise SyscallError(errno.EPERM)


def change_mode(task: Task, inode: Inode, mode: int) -> int:
    """Set the permission bits as ``task`` may. EPERM."""
    _require_owner(task, inode)
    if task.creds.fsuid != 0 and not task.creds.in_group(inode.stat().gid):
        mode &= ~0o2000
    inode.chmod(mode & 0o7777)
    notify.attributes(inode)
    return 0


def _file_inode(task: Task, fd: int) -> Inode:
    """Return the inode of an open file, for the f… calls. EBADF for O_PATH; files without an inode have nothing to change."""
    file = task.fds.get(fd)
    if file.flags & O_PATH:
        raise SyscallError(errno.EBADF)
    if isinstance(file, PathFile):
        return file.location.inode
    inode = getattr(file, "inode", None)
    if isinstance(inode, Inode):
        return inode
    raise SyscallError(errno.EINVAL)


@syscall("chmod")
def sys_chmod(task: Task, path: addr, mode: u32) -> Result:
    """chmod(2)."""
    return change_mode(task, resolve(task, AT_FDCWD, path).inode, mode)


@syscall("fchmod")
def sys_fchmod(task: Task, fd: i32, mode: u32) -> Result:
    """fchmod(2)."""
    return change_mode(task, _file_inode(task, fd), mode)


@syscall("fchmodat")
def sys_fchmodat(task: Task, dirfd: i32, path: addr, mode: u32) -> Result:
    """fchmodat(2)."""
    return change_mode(task, resolve(task, dirfd, path).inode, mode)


@syscall("fchmodat2")
def sys_fchmodat2(task: Task, dirfd: i32, path: addr, mode: u32, flags: u32) -> Result:
    """fchmodat2(2)."""
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise SyscallError(errno.EINVAL)
    inode = resolve(task, dirfd, path, flags).inode
    if inode.is_symlink:
        raise SyscallError(errno.EOPNOTSUPP)
    return change_mode(task, inode, mode)


def _chown(task: Task, inode: Inode, uid: int, gid: int) -> int:
    found, creds = inode.stat(), task.creds
    uid, gid = (number if number == -1 else number & 0xFFFFFFFF for number in (uid, gid))
    if creds.fsuid != 0 and (uid, gid) != (-1, -1):
        if creds.fsuid != found.uid or uid not in (-1, found.uid):
            raise SyscallError(errno.EPERM)
        if gid not in (-1, found.gid) and not creds.in_group(gid):
            raise SyscallError(errno.EPERM)
    inode.chown(uid, gid)
    notify.attributes(inode)
    drops = _S_ISUID | (_S_ISGID if found.mode & _S_IXGRP or not (creds.fsuid == 0 or creds.in_group(found.gid)) else 0)
    if found.mode & drops and not stats.S_ISDIR(found.mode):
        inode.chmod(found.mode & 0o7777 & ~drops)
    return 0


@syscall("chown")
def sys_chown(task: Task, path: addr, uid: i32, gid: i32) -> Result:
    """chown(2)."""
    return _chown(task, resolve(task, AT_FDCWD, path).inode, uid, gid)


@syscall("lchown")
def sys_lchown(task: Task, path: addr, uid: i32, gid: i32) -> Result:
    """lchown(2)."""
    return _chown(task, resolve(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).inode, uid, gid)


@syscall("fchown")
def sys_fchown(task: Task, fd: i32, uid: i32, gid: i32) -> Result:
    """fchown(2)."""
    return _chown(task, _file_inode(task, fd), uid, gid)


@syscall("fchownat")
def sys_fchownat(task: Task, dirfd: i32, path: addr, uid: i32, gid: i32, flags: i32) -> Result:
    """fchownat(2)."""
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise SyscallError(errno.EINVAL)
    return _chown(task, resolve(task, dirfd, path, flags).inode, uid, gid)


@syscall("truncate")
def sys_truncate(task: Task, path: addr, length: i64) -> Result:
    """truncate(2)."""
    if length < 0:
        raise SyscallError(errno.EINVAL)
    found = resolve(task, AT_FDCWD, path)
    inode = found.inode
    if inode.is_directory:
        raise SyscallError(errno.EISDIR)
    inode.check(task.creds, MAY_WRITE)
    inode.truncate(length)
    if task.creds.fsuid != 0:
        mode = inode.stat().mode
        if mode != without_set_id(mode):
            inode.chmod(without_set_id(mode) & 0o7777)
    notify.at(found, notify.IN_MODIFY)
    return 0


# Access.


def _access(task: Task, dirfd: int, path: int, mode: int, flags: int) -> int:
    if mode & ~7 or flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise SyscallError(errno.EINVAL)
    found = resolve(task, dirfd, path, flags)
    wanted = (MAY_READ if mode & 4 else 0) | (MAY_WRITE if mode & 2 else 0) | (MAY_EXEC if mode & 1 else 0)
    if wanted:
        found.inode.check(task.creds, wanted, real=not flags & AT_EACCESS)
    return 0


@syscall("access")
def sys_access(task: Task, path: addr, mode: i32) -> Result:
    """access(2)."""
    return _access(task, AT_FDCWD, path, mode, 0)


@syscall("faccessat")
def sys_faccessat(task: Task, dirfd: i32, path: addr, mode: i32) -> Result:
    """faccessat(2)."""
    return _access(task, dirfd, path, mode, 0)


@syscall("faccessat2")
def sys_faccessat2(task: Task, dirfd: i32, path: addr, mode: i32, flags: i32) -> Result:
    """faccessat2(2)."""
    return _access(task, dirfd, path, mode, flags)


# Times.


def _utimens(task: Task, inode: Inode, atime: int | None, mtime: int | None, by_writer: bool) -> int:
    """Set times; who may only write the file may set them to now (``by_writer``)."""
    if atime is None and mtime is None:
        return 0
    if task.creds.fsuid not in (0, inode.stat().uid):
        if not by_writer:
            raise SyscallError(errno.EPERM)
        inode.check(task.creds, MAY_WRITE)
    inode.utimens(*(when if when is None else min(max(when, _FIRST_TIME), _LAST_TIME) for when in (atime, mtime)))
    notify.attributes(inode)
    return 0


@syscall("utimensat")
def sys_utimensat(task: Task, dirfd: i32, path: addr, times: addr, flags: i32) -> Result:
    """utimensat(2)."""
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise SyscallError(errno.EINVAL)
    fields = struct.unpack("<4q", task.mm.read(times, 32)) if times else (0, _UTIME_NOW, 0, _UTIME_NOW)
    if fields[1] == fields[3] == _UTIME_OMIT:
        return 0
    if path or dirfd == AT_FDCWD:
        inode = resolve(task, dirfd, path, flags).inode
    elif flags:
        raise SyscallError(errno.EINVAL)
    else:
        inode = _file_inode(task, dirfd)
    now = coarse_now()
    atime, mtime = _spec_time(fields[0], fields[1], now), _spec_time(fields[2], fields[3], now)
    return _utimens(task, inode, atime, mtime, fields[1] == fields[3] == _UTIME_NOW)


def _spec_time(seconds: int, nanos: int, now: int) -> int | None:
    if nanos == _UTIME_NOW:
        return now
    if nanos == _UTIME_OMIT:
        return None
    if not 0 <= nanos < 1_000_000_000:
        raise SyscallError(errno.EINVAL)
    return seconds * 1_000_000_000 + nanos


def _utimes(task: Task, dirfd: int, path: int, times: int) -> int:
    now = coarse_now()
    atime = mtime = now
    if times:
        fields = struct.unpack("<4q", task.mm.read(times, 32))
        if not (0 <= fields[1] < 1_000_000 and 0 <= fields[3] < 1_000_000):
            raise SyscallError(errno.EINVAL)
        atime, mtime = (fields[0] * 1_000_000 + fields[1]) * 1000, (fields[2] * 1_000_000 + fields[3]) * 1000
    inode = resolve(task, dirfd, path).inode if path or dirfd == AT_FDCWD else _file_inode(task, dirfd)
    return _utimens(task, inode, atime, mtime, not times)


@syscall("utimes")
def sys_utimes(task: Task, path: addr, times: addr) -> Result:
    """utimes(2)."""
    return _utimes(task, AT_FDCWD, path, times)


@syscall("futimesat")
def sys_futimesat(task: Task, dirfd: i32, path: addr, times: addr) -> Result:
    """futimesat(2)."""
    return _utimes(task, dirfd, path, times)


@syscall("utime")
def sys_utime(task: Task, path: addr, times: addr) -> Result:
    """utime(2)."""
    now = coarse_now()
    atime = mtime = now
    if times:
        fields = struct.unpack("<2q", task.mm.read(times, 16))
        atime, mtime = fields[0] * 1_000_000_000, fields[1] * 1_000_000_000
    return _utimens(task, resolve(task, AT_FDCWD, path).inode, atime, mtime, not times)
