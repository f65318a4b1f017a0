"""Extended attributes."""

from __future__ import annotations

import errno
import stat as stats
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_PATH
from systrap.sentry.fs.contents import PathFile
from systrap.sentry.fs.inode import MAY_READ, MAY_WRITE, Inode, Stat, anonymous_stat
from systrap.sentry.syscalls.attributes import change_mode
from systrap.sentry.syscalls.paths import AT_FDCWD, AT_SYMLINK_NOFOLLOW, resolve
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_XATTR_SIZE_MAX: Final = 65536
_XATTR_NAME_MAX: Final = 255
_CAP_SYS_ADMIN: Final = 21
_S_ISVTX: Final = 0o1000


class _Anonymous(Inode):
    """What pipes, sockets and the like are here: without attributes, and none can be added."""

    __slots__ = ()

    def stat(self) -> Stat:
        """See Inode."""
        return anonymous_stat()

    def get_xattr(self, name: bytes) -> bytes:
        """See Inode."""
        raise SyscallError(errno.ENODATA)


_NOTHING: Final = _Anonymous()


def _inode_of(task: Task, fd: int) -> Inode:
    file = task.fds.get(fd)
    if file.flags & O_PATH:
        raise SyscallError(errno.EBADF)
    return file.location.inode if isinstance(file, PathFile) else _NOTHING


def _name(task: Task, address: int) -> bytes:
    try:
        name = task.mm.read_string(address, _XATTR_NAME_MAX + 2)
    except SyscallError as error:
        raise SyscallError(errno.ERANGE if error.errno == errno.ENAMETOOLONG else error.errno) from None
    if not name or len(name) > _XATTR_NAME_MAX:
        raise SyscallError(errno.ERANGE)
    return name


def _permit(task: Task, inode: Inode, name: bytes, write: bool) -> None:
    """Refuse what a name space of attributes does not allow: user.* is for regular files and directories, the rest for root."""
    creds = task.creds
    denied = SyscallError(errno.EPERM if write else errno.ENODATA)
    if name.startswith(b"trusted."):
        if not creds.capable(_CAP_SYS_ADMIN):
            raise denied
    elif name.startswith(b"security."):
        if write and not creds.capable(_CAP_SYS_ADMIN):
            raise denied
    elif name.startswith(b"user."):
        found = inode.stat()
        if not (stats.S_ISREG(found.mode) or stats.S_ISDIR(found.mode)):
            raise denied
        if write and stats.S_ISDIR(found.mode) and found.mode & _S_ISVTX and creds.fsuid not in (0, found.uid):
            raise denied
        inode.check(creds, MAY_WRITE if write else MAY_READ)
    elif not name.startswith(b"system."):
        raise SyscallError(errno.EOPNOTSUPP)
    if name.endswith(b".") and name.count(b".") == 1:
        raise SyscallError(errno.EINVAL)


def _get(task: Task, inode: Inode, name: int, value: int, size: int) -> int:
    text = _name(task, name)
    _permit(task, inode, text, write=False)
    return _copy_out(task, inode.get_xattr(text), value, size)


def _copy_out(task: Task, data: bytes, buffer: int, size: int) -> int:
    if size:
        if len(data) > size:
            raise SyscallError(errno.ERANGE)
        task.mm.write(buffer, data)
    return len(data)


def _set(task: Task, inode: Inode, name: int, value: int, size: int, flags: int) -> int:
    if flags & ~3:
        raise SyscallError(errno.EINVAL)
    if size > _XATTR_SIZE_MAX:
        raise SyscallError(errno.E2BIG)
    text, data = _name(task, name), task.mm.read(value, size) if size else b""
    if text == b"system.posix_acl_access" and (mode := _trivial_acl(data)) is not None:
        return change_mode(task, inode, inode.stat().mode & 0o7000 | mode)
    _permit(task, inode, text, write=True)
    inode.set_xattr(text, data, flags)
    return 0


def _trivial_acl(data: bytes) -> int | None:
    """Return the permission bits of an access control list that says no more than a mode does, None for any other."""
    if len(data) != 28 or data[:4] != b"\2\0\0\0":
        return None
    bits: dict[int, int] = {}
    for tag, allowed, _ in struct.iter_unpack("<HHI", data[4:]):
        bits[tag] = allowed & 7
    if bits.keys() != {1, 4, 0x20}:
        return None
    return bits[1] << 6 | bits[4] << 3 | bits[0x20]


@syscall("getxattr")
def sys_getxattr(task: Task, path: addr, name: addr, value: addr, size: u64) -> Result:
    """getxattr(2)."""
    return _get(task, resolve(task, AT_FDCWD, path).inode, name, value, size)


@syscall("lgetxattr")
def sys_lgetxattr(task: Task, path: addr, name: addr, value: addr, size: u64) -> Result:
    """lgetxattr(2)."""
    return _get(task, resolve(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).inode, name, value, size)


@syscall("fgetxattr")
def sys_fgetxattr(task: Task, fd: i32, name: addr, value: addr, size: u64) -> Result:
    """fgetxattr(2)."""
    return _get(task, _inode_of(task, fd), name, value, size)


@syscall("listxattr")
def sys_listxattr(task: Task, path: addr, names: addr, size: u64) -> Result:
    """listxattr(2)."""
    return _list(task, resolve(task, AT_FDCWD, path).inode, names, size)


@syscall("llistxattr")
def sys_llistxattr(task: Task, path: addr, names: addr, size: u64) -> Result:
    """llistxattr(2)."""
    return _list(task, resolve(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).inode, names, size)


@syscall("flistxattr")
def sys_flistxattr(task: Task, fd: i32, names: addr, size: u64) -> Result:
    """flistxattr(2)."""
    return _list(task, _inode_of(task, fd), names, size)


def _list(task: Task, inode: Inode, names: int, size: int) -> int:
    found = inode.list_xattrs()
    if not task.creds.capable(_CAP_SYS_ADMIN):
        found = [name for name in found if not name.startswith(b"trusted.")]
    return _copy_out(task, b"".join(name + b"\0" for name in found), names, size)


@syscall("setxattr")
def sys_setxattr(task: Task, path: addr, name: addr, value: addr, size: u64, flags: i32) -> Result:
    """setxattr(2)."""
    return _set(task, resolve(task, AT_FDCWD, path).inode, name, value, size, flags)


@syscall("lsetxattr")
def sys_lsetxattr(task: Task, path: addr, name: addr, value: addr, size: u64, flags: i32) -> Result:
    """lsetxattr(2)."""
    return _set(task, resolve(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).inode, name, value, size, flags)


@syscall("fsetxattr")
def sys_fsetxattr(task: Task, fd: i32, name: addr, value: addr, size: u64, flags: i32) -> Result:
    """fsetxattr(2)."""
    return _set(task, _inode_of(task, fd), name, value, size, flags)


def _remove(task: Task, inode: Inode, name: int) -> int:
    text = _name(task, name)
    _permit(task, inode, text, write=True)
    inode.remove_xattr(text)
    return 0


@syscall("removexattr")
def sys_removexattr(task: Task, path: addr, name: addr) -> Result:
    """removexattr(2)."""
    return _remove(task, resolve(task, AT_FDCWD, path).inode, name)


@syscall("lremovexattr")
def sys_lremovexattr(task: Task, path: addr, name: addr) -> Result:
    """lremovexattr(2)."""
    return _remove(task, resolve(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).inode, name)


@syscall("fremovexattr")
def sys_fremovexattr(task: Task, fd: i32, name: addr) -> Result:
    """fremovexattr(2)."""
    return _remove(task, _inode_of(task, fd), name)
