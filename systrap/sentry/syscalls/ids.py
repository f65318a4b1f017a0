"""User and group ids, capabilities."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.credentials import ALL
from systrap.sentry.errors import SyscallError
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_SETGID: Final = 6
_SETUID: Final = 7
_NGROUPS_MAX: Final = 65536
_CAP_VERSIONS: Final = {0x19980330: 1, 0x20071026: 2, 0x20080522: 2}
_NONE: Final = 0xFFFFFFFF


@syscall("getuid")
def sys_getuid(task: Task) -> Result:
    """getuid(2)."""
    return task.creds.ruid


@syscall("geteuid")
def sys_geteuid(task: Task) -> Result:
    """geteuid(2)."""
    return task.creds.euid


@syscall("getgid")
def sys_getgid(task: Task) -> Result:
    """getgid(2)."""
    return task.creds.rgid


@syscall("getegid")
def sys_getegid(task: Task) -> Result:
    """getegid(2)."""
    return task.creds.egid


def _check_id(value: int) -> None:
    if value == _NONE:
        raise SyscallError(errno.EINVAL)


@syscall("setuid")
def sys_setuid(task: Task, uid: u32) -> Result:
    """setuid(2)."""
    _check_id(uid)
    creds = task.creds
    if creds.capable(_SETUID):
        task.creds = creds.with_uids(uid, uid, uid)
    elif uid in (creds.ruid, creds.suid):
        task.creds = creds.with_uids(creds.ruid, uid, creds.suid)
    else:
        raise SyscallError(errno.EPERM)
    return 0


@syscall("setgid")
def sys_setgid(task: Task, gid: u32) -> Result:
    """setgid(2)."""
    _check_id(gid)
    creds = task.creds
    if creds.capable(_SETGID):
        task.creds = creds._replace(rgid=gid, egid=gid, sgid=gid, fsgid=gid)
    elif gid in (creds.rgid, creds.sgid):
        task.creds = creds._replace(egid=gid, fsgid=gid)
    else:
        raise SyscallError(errno.EPERM)
    return 0


def _check(allowed: tuple[int, ...], privileged: bool, *wanted: int) -> None:
    for value in wanted:
        if value != _NONE and not privileged and value not in allowed:
            raise SyscallError(errno.EPERM)


@syscall("setreuid")
def sys_setreuid(task: Task, ruid: u32, euid: u32) -> Result:
    """setreuid(2)."""
    creds, privileged = task.creds, task.creds.capable(_SETUID)
    _check((creds.ruid, creds.euid), privileged, ruid)
    _check((creds.ruid, creds.euid, creds.suid), privileged, euid)
    new_euid = creds.euid if euid == _NONE else euid
    keep = ruid == _NONE and (euid == _NONE or euid == creds.ruid)
    suid = creds.suid if keep else new_euid
    task.creds = creds.with_uids(creds.ruid if ruid == _NONE else ruid, new_euid, suid)
    return 0


@syscall("setregid")
def sys_setregid(task: Task, rgid: u32, egid: u32) -> Result:
    """setregid(2)."""
    creds, privileged = task.creds, task.creds.capable(_SETGID)
    _check((creds.rgid, creds.egid), privileged, rgid)
    _check((creds.rgid, creds.egid, creds.sgid), privileged, egid)
    new_egid = creds.egid if egid == _NONE else egid
    keep = rgid == _NONE and (egid == _NONE or egid == creds.rgid)
    sgid = creds.sgid if keep else new_egid
    task.creds = creds._replace(rgid=creds.rgid if rgid == _NONE else rgid, egid=new_egid, sgid=sgid, fsgid=new_egid)
    return 0


@syscall("setresuid")
def sys_setresuid(task: Task, ruid: u32, euid: u32, suid: u32) -> Result:
    """setresuid(2)."""
    creds = task.creds
    _check((creds.ruid, creds.euid, creds.suid), creds.capable(_SETUID), ruid, euid, suid)
    new = [
        old if value == _NONE else value for value, old in ((ruid, creds.ruid), (euid, creds.euid), (suid, creds.suid))
    ]
    task.creds = creds.with_uids(*new)
    return 0


@syscall("setresgid")
def sys_setresgid(task: Task, rgid: u32, egid: u32, sgid: u32) -> Result:
    """setresgid(2)."""
    creds = task.creds
    _check((creds.rgid, creds.egid, creds.sgid), creds.capable(_SETGID), rgid, egid, sgid)
    new = [
        old if value == _NONE else value for value, old in ((rgid, creds.rgid), (egid, creds.egid), (sgid, creds.sgid))
    ]
    task.creds = creds._replace(rgid=new[0], egid=new[1], sgid=new[2], fsgid=new[1])
    return 0


@syscall("getresuid")
def sys_getresuid(task: Task, ruid: addr, euid: addr, suid: addr) -> Result:
    """getresuid(2)."""
    for address, value in ((ruid, task.creds.ruid), (euid, task.creds.euid), (suid, task.creds.suid)):
        task.mm.write_u32(address, value)
    return 0


@syscall("getresgid")
def sys_getresgid(task: Task, rgid: addr, egid: addr, sgid: addr) -> Result:
    """getresgid(2)."""
    for address, value in ((rgid, task.creds.rgid), (egid, task.creds.egid), (sgid, task.creds.sgid)):
        task.mm.write_u32(address, value)
    return 0


@syscall("setfsuid")
def sys_setfsuid(task: Task, uid: u32) -> Result:
    """setfsuid(2): returns the old id, whatever happens."""
    creds = task.creds
    if uid != _NONE and (creds.capable(_SETUID) or uid in (creds.ruid, creds.euid, creds.suid, creds.fsuid)):
        task.creds = creds.with_fsuid(uid)
    return creds.fsuid


@syscall("setfsgid")
def sys_setfsgid(task: Task, gid: u32) -> Result:
    """setfsgid(2): returns the old id, whatever happens."""
    creds = task.creds
    if gid != _NONE and (creds.capable(_SETGID) or gid in (creds.rgid, creds.egid, creds.sgid, creds.fsgid)):
        task.creds = creds._replace(fsgid=gid)
    return creds.fsgid


@syscall("getgroups")
def sys_getgroups(task: Task, size: i32, groups: addr) -> Result:
    """getgroups(2)."""
    own = task.creds.groups
    if size < 0 or (size and size < len(own)):
        raise SyscallError(errno.EINVAL)
    if size and own:
        task.mm.write(groups, struct.pack(f"<{len(own)}I", *own))
    return len(own)


@syscall("setgroups")
def sys_setgroups(task: Task, size: u32, groups: addr) -> Result:
    """setgroups(2)."""
    if not task.creds.capable(_SETGID):
        raise SyscallError(errno.EPERM)
    if size > _NGROUPS_MAX:
        raise SyscallError(errno.EINVAL)
    found = struct.unpack(f"<{size}I", task.mm.read(groups, 4 * size)) if size else ()
    if _NONE in found:
        raise SyscallError(errno.EINVAL)
    task.creds = task.creds._replace(groups=tuple(sorted(found)))
    return 0


# Capabilities.


def _cap_header(task: Task, header: int) -> tuple[int, int]:
    """Return how many words per set, and the pid. EINVAL tells the newest version, as Linux does."""
    version, pid = struct.unpack("<Ii", task.mm.read(header, 8))
    if version not in _CAP_VERSIONS:
        task.mm.write_u32(header, 0x20080522)
        raise SyscallError(errno.EINVAL)
    return _CAP_VERSIONS[version], pid


@syscall("capget")
def sys_capget(task: Task, header: addr, data: addr) -> Result:
    """capget(2). Without ``data`` it only tells the version."""
    try:
        words, pid = _cap_header(task, header)
    except SyscallError as error:
        if data or error.errno != errno.EINVAL:
            raise
        return 0
    if pid < 0:
        raise SyscallError(errno.EINVAL)
    target = task.kernel.tasks.get(pid) if pid else task
    if target is None:
        raise SyscallError(errno.ESRCH)
    if not data:
        return 0
    creds = target.creds
    for word in range(words):
        sets = (creds.effective, creds.permitted, creds.inheritable)
        task.mm.write(data + 12 * word, struct.pack("<3I", *(held >> 32 * word & 0xFFFFFFFF for held in sets)))
    return 0


@syscall("capset")
def sys_capset(task: Task, header: addr, data: addr) -> Result:
    """capset(2)."""
    words, pid = _cap_header(task, header)
    if pid not in (0, task.tid):
        raise SyscallError(errno.EPERM)
    effective = permitted = inheritable = 0
    for word, triple in enumerate(struct.iter_unpack("<3I", task.mm.read(data, 12 * words))):
        effective |= triple[0] << 32 * word
        permitted |= triple[1] << 32 * word
        inheritable |= triple[2] << 32 * word
    new = task.creds.with_sets(permitted & ALL, effective & ALL, inheritable & ALL)
    if new is None:
        raise SyscallError(errno.EPERM)
    task.creds = new
    return 0
