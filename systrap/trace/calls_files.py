"""Calls about files, directories and descriptors: what their arguments are."""

from typing import Final

from systrap.trace import constants as c
from systrap.trace import constants_more as m
from systrap.trace import results, structs, structs_process
from systrap.trace.call import Call, Decoder, InOut, Out, Shape, address, number, shape, signed32
from systrap.trace.decode import (
    RESULT,
    data,
    directory,
    fd,
    fd_text,
    flags,
    hexadecimal,
    identity,
    integer,
    long,
    memory_text,
    mode,
    names,
    path,
    pointer,
    size,
    string,
    string_text,
    unsigned,
    word,
)
from systrap.trace.ioctls import argument, request
from systrap.trace.signals import signal
from systrap.trace.sockets import descriptors

_O_TMPFILE: Final = 0o20200000


def _mode_if_created(where: int) -> Decoder:
    """Return the decoder of open's mode: an argument only where a file may be made."""

    def decode(call: Call, value: int) -> str | None:
        opened = call.args[where]
        makes = opened & 0o100 or opened & _O_TMPFILE == _O_TMPFILE
        return mode(call, value) if makes else None

    return decode


def _fcntl_argument(call: Call, value: int) -> str | None:
    """Write the argument of fcntl: what it is depends on the command; some have none."""
    command = call.args[1] & 0xFFFFFFFF
    if command in (1, 3, 9, 11, 1025, 1032, 1034):
        return None
    if command == 2:
        return c.FD_FLAGS.text(value & 0xFFFFFFFF)
    if command == 4:
        return c.OPEN.text(value & 0xFFFFFFFF)
    if command in (5, 6, 7, 36, 37, 38):
        return structs.flock(call, value) if not call.error or command not in (5, 36) else address(value)
    if command == 10:
        return signal(call, value)
    if command == 1033:
        return c.SEALS.text(value & 0xFFFFFFFF)
    if command == 1024:
        return c.LOCK_TYPE.text(signed32(value))
    return str(signed32(value)) if command in (0, 8, 1030, 1031) else address(value)


def _fcntl_result(call: Call) -> str:
    command = call.args[1] & 0xFFFFFFFF
    if command in (0, 1030):
        return fd_text(call, call.result)
    if command == 1 and call.result:
        return f"{call.result:#x} (flags {c.FD_FLAGS.text(call.result)})"
    if command == 3:
        return f"{hex(call.result) if call.result else 0} (flags {c.OPEN.text(call.result)})"
    if command == 1034:
        return f"{call.result:#x} (seals {c.SEALS.text(call.result)})" if call.result else "0"
    return number(call)


def _xattr_found(call: Call, value: int) -> str:
    """Tell what getxattr and listxattr wrote: as much as the result tells, if a buffer was given at all."""
    return memory_text(call, value, call.result) if call.args[3 if "get" in call.name else 2] else address(value)


def _cwd(call: Call, value: int) -> str:
    return string_text(call, value, 4096)


_offset: Final = word("<q")


def _moved_offset(call: Call, value: int) -> str:
    """Write the position that sendfile reads from, and where it left it."""
    found = _offset(call, value) or ""
    before = f"[{call.saved.get(2, 0)}]"
    return found if call.error or not value or found == before else f"{before} => {found}"


def _positioned_flags(call: Call, value: int) -> str:
    """Write the flags of preadv2: the register in front of them is the upper half of a position that needs none here."""
    return c.RWF.text(call.args[5] & 0xFFFFFFFF)


_STATX_AT: Final = Out(structs.statx)
_STAT: Final = Out(structs.stat)
_XATTR_SET: Final = (string, data(3), size, flags(c.XATTR))
_XATTR_GET: Final = (string, Out(_xattr_found), size)
_XATTR_LIST: Final = (Out(_xattr_found), size)

FILES: Final[dict[str, Shape]] = {
    "read": shape(fd, Out(data(RESULT)), size),
    "write": shape(fd, data(2), size),
    "open": shape(path, flags(c.OPEN), _mode_if_created(1), returns=results.descriptor),
    "close": shape(fd),
    "stat": shape(path, _STAT),
    "fstat": shape(fd, _STAT),
    "lstat": shape(path, _STAT),
    "lseek": shape(fd, long, names(c.WHENCE)),
    "ioctl": shape(fd, request, Out(argument, always=True, optional=True)),
    "pread64": shape(fd, Out(data(RESULT)), size, long),
    "pwrite64": shape(fd, data(2), size, long),
    "readv": shape(fd, Out(structs.iovec(2, RESULT)), integer),
    "writev": shape(fd, structs.iovec(2), integer),
    "preadv": shape(fd, Out(structs.iovec(2, RESULT)), integer, long),
    "pwritev": shape(fd, structs.iovec(2), integer, long),
    "preadv2": shape(fd, Out(structs.iovec(2, RESULT)), integer, long, _positioned_flags),
    "pwritev2": shape(fd, structs.iovec(2), integer, long, _positioned_flags),
    "access": shape(path, flags(c.ACCESS)),
    "pipe": shape(Out(descriptors)),
    "pipe2": shape(Out(descriptors), flags(c.PIPE)),
    "dup": shape(fd, returns=results.descriptor),
    "dup2": shape(fd, fd, returns=results.descriptor),
    "dup3": shape(fd, fd, flags(c.CLOEXEC), returns=results.descriptor),
    "sendfile": shape(fd, fd, InOut(_moved_offset, 8), size),
    "fcntl": shape(fd, names(c.FCNTL), Out(_fcntl_argument, always=True, optional=True), returns=_fcntl_result),
    "flock": shape(fd, flags(c.FLOCK)),
    "fsync": shape(fd),
    "fdatasync": shape(fd),
    "truncate": shape(path, long),
    "ftruncate": shape(fd, long),
    "getdents": shape(fd, Out(structs.dirents), unsigned),
    "getdents64": shape(fd, Out(structs.dirents64), unsigned),
    "getcwd": shape(Out(_cwd), size),
    "chdir": shape(path),
    "fchdir": shape(fd),
    "rename": shape(path, path),
    "mkdir": shape(path, mode),
    "rmdir": shape(path),
    "creat": shape(path, mode, returns=results.descriptor),
    "link": shape(path, path),
    "unlink": shape(path),
    "symlink": shape(path, path),
    "readlink": shape(path, Out(data(RESULT)), size),
    "chmod": shape(path, mode),
    "fchmod": shape(fd, mode),
    "chown": shape(path, identity, identity),
    "fchown": shape(fd, identity, identity),
    "lchown": shape(path, identity, identity),
    "umask": shape(mode, returns=results.octal),
    "utime": shape(path, structs.utimbuf),
    "utimes": shape(path, structs.timevals),
    "mknod": shape(path, structs.file_mode, lambda call, value: _device(call, value, 1)),
    "statfs": shape(path, Out(structs.statfs)),
    "fstatfs": shape(fd, Out(structs.statfs)),
    "ustat": shape(lambda call, value: structs.device_text(value), pointer),
    "chroot": shape(path),
    "pivot_root": shape(path, path),
    "mount": shape(path, path, string, flags(c.MOUNT, wide=True), lambda call, value: string(call, value)),
    "umount2": shape(path, flags(c.UMOUNT)),
    "sync": shape(),
    "syncfs": shape(fd),
    "acct": shape(path),
    "swapon": shape(path, hexadecimal),
    "swapoff": shape(path),
    "quotactl": shape(hexadecimal, path, unsigned, pointer),
    "quotactl_fd": shape(fd, hexadecimal, unsigned, pointer),
    "readahead": shape(fd, long, size),
    "fadvise64": shape(fd, long, size, names(c.FADVISE)),
    "sync_file_range": shape(fd, long, long, flags(c.SYNC_RANGE)),
    "fallocate": shape(fd, flags(c.FALLOCATE), long, long),
    "copy_file_range": shape(fd, _offset, fd, _offset, size, hexadecimal),
    "splice": shape(fd, _offset, fd, _offset, size, flags(c.SPLICE)),
    "tee": shape(fd, fd, size, flags(c.SPLICE)),
    "vmsplice": shape(fd, structs.iovec(2), size, flags(c.SPLICE)),
    "openat": shape(directory, path, flags(c.OPEN), _mode_if_created(2), returns=results.descriptor),
    "openat2": shape(directory, path, structs.open_how, size, returns=results.descriptor),
    "mkdirat": shape(directory, path, mode),
    "mknodat": shape(directory, path, structs.file_mode, lambda call, value: _device(call, value, 2)),
    "fchownat": shape(directory, path, identity, identity, flags(c.AT)),
    "futimesat": shape(directory, path, structs.timevals),
    "utimensat": shape(directory, path, structs.timespecs, flags(c.AT)),
    "newfstatat": shape(directory, path, _STAT, flags(c.AT)),
    "statx": shape(directory, path, flags(c.STATX_FLAGS), flags(c.STATX_MASK), _STATX_AT),
    "unlinkat": shape(directory, path, flags(c.UNLINK)),
    "renameat": shape(directory, path, directory, path),
    "renameat2": shape(directory, path, directory, path, flags(c.RENAME)),
    "linkat": shape(directory, path, directory, path, flags(c.AT)),
    "symlinkat": shape(path, directory, path),
    "readlinkat": shape(directory, path, Out(data(RESULT)), size),
    "fchmodat": shape(directory, path, mode),
    "fchmodat2": shape(directory, path, mode, flags(c.AT)),
    "faccessat": shape(directory, path, flags(c.ACCESS)),
    "faccessat2": shape(directory, path, flags(c.ACCESS), flags(c.FACCESS)),
    "close_range": shape(unsigned, unsigned, flags(c.CLOSE_RANGE)),
    "setxattr": shape(path, *_XATTR_SET),
    "lsetxattr": shape(path, *_XATTR_SET),
    "fsetxattr": shape(fd, *_XATTR_SET),
    "getxattr": shape(path, *_XATTR_GET),
    "lgetxattr": shape(path, *_XATTR_GET),
    "fgetxattr": shape(fd, *_XATTR_GET),
    "listxattr": shape(path, *_XATTR_LIST),
    "llistxattr": shape(path, *_XATTR_LIST),
    "flistxattr": shape(fd, *_XATTR_LIST),
    "removexattr": shape(path, string),
    "lremovexattr": shape(path, string),
    "fremovexattr": shape(fd, string),
    "setxattrat": shape(directory, path, flags(c.AT), string, pointer, size),
    "getxattrat": shape(directory, path, flags(c.AT), string, pointer, size),
    "listxattrat": shape(directory, path, flags(c.AT), Out(data(RESULT)), size),
    "removexattrat": shape(directory, path, flags(c.AT), string),
    "memfd_create": shape(string, flags(c.MEMFD), returns=results.descriptor),
    "inotify_init": shape(returns=results.descriptor),
    "inotify_init1": shape(flags(m.INOTIFY_INIT), returns=results.descriptor),
    "inotify_add_watch": shape(fd, path, flags(m.INOTIFY)),
    "inotify_rm_watch": shape(fd, integer),
    "fanotify_init": shape(hexadecimal, flags(c.OPEN), returns=results.descriptor),
    "fanotify_mark": shape(fd, hexadecimal, hexadecimal, directory, path),
    "name_to_handle_at": shape(directory, path, pointer, Out(word("<i")), hexadecimal),
    "open_by_handle_at": shape(directory, pointer, flags(c.OPEN), returns=results.descriptor),
    "open_tree": shape(directory, path, hexadecimal, returns=results.descriptor),
    "move_mount": shape(directory, path, directory, path, hexadecimal),
    "fsopen": shape(string, hexadecimal, returns=results.descriptor),
    "fsconfig": shape(fd, unsigned, string, pointer, integer),
    "fsmount": shape(fd, hexadecimal, hexadecimal, returns=results.descriptor),
    "fspick": shape(directory, path, hexadecimal, returns=results.descriptor),
    "mount_setattr": shape(directory, path, hexadecimal, pointer, size),
    "statmount": shape(pointer, pointer, size, hexadecimal),
    "listmount": shape(pointer, pointer, size, hexadecimal),
    "cachestat": shape(fd, pointer, pointer, hexadecimal),
    "sysfs": shape(integer, hexadecimal, hexadecimal),
    "lookup_dcookie": shape(size, pointer, size),
    "nfsservctl": shape(integer, pointer, pointer),
    "landlock_create_ruleset": shape(pointer, size, hexadecimal, returns=results.descriptor),
    "landlock_add_rule": shape(fd, unsigned, pointer, hexadecimal),
    "landlock_restrict_self": shape(fd, hexadecimal),
    "io_setup": shape(unsigned, Out(word("<Q", hex))),
    "io_destroy": shape(hexadecimal),
    "io_getevents": shape(hexadecimal, long, long, Out(pointer), structs.timespec),
    "io_pgetevents": shape(
        hexadecimal, long, long, Out(pointer), structs.timespec, structs_process.signal_mask_argument
    ),
    "io_submit": shape(hexadecimal, long, pointer),
    "io_cancel": shape(hexadecimal, pointer, Out(pointer)),
    "io_uring_setup": shape(unsigned, pointer, returns=results.descriptor),
    "io_uring_enter": shape(fd, unsigned, unsigned, hexadecimal, pointer, size),
    "io_uring_register": shape(fd, hexadecimal, pointer, unsigned),
}
"""Shapes by name."""


def _device(call: Call, value: int, where: int) -> str | None:
    """Write the device of mknod: an argument only for device nodes."""
    return structs.device_text(value) if call.args[where] & 0o170000 in (0o20000, 0o60000) else None
