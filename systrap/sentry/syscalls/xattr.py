"""Extended attributes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.fs.contents import PathFile
from systrap.sentry.fs.inode import Inode
from systrap.sentry.syscalls.paths import AT_FDCWD, AT_SYMLINK_NOFOLLOW, resolve
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_XATTR_SIZE_MAX: Final = 65536
_XATTR_NAME_MAX: Final = 255


def _inode_of(task: Task, fd: int) -> Inode:
    file = task.fds.get(fd)
    if not isinstance(file, PathFile):
        raise SyscallError(errno.EOPNOTSUPP)
    return file.location.inode


def _name(task: Task, address: int) -> bytes:
    name = task.mm.read_string(address, _XATTR_NAME_MAX + 2)
    if not name or len(name) > _XATTR_NAME_MAX:
        raise SyscallError(errno.ERANGE)
    return name


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
    inode.check(task.creds, 2)
    inode.set_xattr(_name(task, name), task.mm.read(value, size) if size else b"", flags)
    return 0


@syscall("getxattr")
def sys_getxattr(task: Task, path: addr, name: addr, value: addr, size: u64) -> Result:
    """getxattr(2)."""
    return _copy_out(task, resolve(task, AT_FDCWD, path).inode.get_xattr(_name(task, name)), value, size)


@syscall("lgetxattr")
def sys_lgetxattr(task: Task, path: addr, name: addr, value: addr, size: u64) -> Result:
    """lgetxattr(2)."""
    inode = resolve(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).inode
    return _copy_out(task, inode.get_xattr(_name(task, name)), value, size)


@syscall("fgetxattr")
def sys_fgetxattr(task: Task, fd: i32, name: addr, value: addr, size: u64) -> Result:
    """fgetxattr(2)."""
    return _copy_out(task, _inode_of(task, fd).get_xattr(_name(task, name)), value, size)


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
    return _copy_out(task, b"".join(name + b"\0" for name in inode.list_xattrs()), names, size)


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
    inode.check(task.creds, 2)
    inode.remove_xattr(_name(task, name))
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
