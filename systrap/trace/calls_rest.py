"""Calls about memory, time, waiting, sockets and IPC: what their arguments are."""

import struct
from typing import Final

from systrap.trace import constants as c
from systrap.trace import constants_more as m
from systrap.trace import results, signals, sockets, structs, structs_process
from systrap.trace.call import Call, InOut, Out, Shape, UnreadableError, address, shape, signed32
from systrap.trace.decode import (
    RESULT,
    array,
    data,
    fd,
    flags,
    hexadecimal,
    hexadecimal32,
    integer,
    long,
    names,
    pointer,
    size,
    string,
    unsigned,
    word,
)

_PROT: Final = flags(c.PROT, wide=True)
_NO_VALUE: Final = (7, 8)


def _futex_operation(call: Call, value: int) -> str:
    value &= 0xFFFFFFFF
    text = m.FUTEX_OPS.names.get(value & 0x7F, f"{value & 0x7F:#x} /* FUTEX_??? */")
    return f"{text}{'_PRIVATE' if value & 0x80 else ''}{'|FUTEX_CLOCK_REALTIME' if value & 0x100 else ''}"


def _futex_rest(call: Call, value: int) -> str | None:
    """Tell what is behind a futex operation: how much depends on it."""
    kind = call.args[1] & 0x7F
    _, _, count, fourth, second, last = call.args
    if kind in _NO_VALUE:
        return None
    shown = str(count & 0xFFFFFFFF) if kind != 10 and kind != 1 else str(signed32(count))
    if kind in (6, 13):
        return structs.timespec(call, fourth) if kind == 6 else f"{shown}, {structs.timespec(call, fourth)}"
    if kind == 0:
        return f"{shown}, {structs.timespec(call, fourth)}"
    if kind in (9, 11):
        time = structs.timespec(call, fourth)
        if kind == 11:
            return f"{shown}, {time}, {address(second)}"
        mask = "FUTEX_BITSET_MATCH_ANY" if last & 0xFFFFFFFF == 0xFFFFFFFF else f"{last & 0xFFFFFFFF:#x}"
        return f"{shown}, {time}, {mask}"
    if kind == 10:
        mask = "FUTEX_BITSET_MATCH_ANY" if last & 0xFFFFFFFF == 0xFFFFFFFF else f"{last & 0xFFFFFFFF:#x}"
        return f"{shown}, {mask}"
    if kind in (3, 4, 5, 12):
        tail = "" if kind == 3 else f", {_wake_op(last)}" if kind == 5 else f", {last & 0xFFFFFFFF}"
        return f"{shown}, {fourth & 0xFFFFFFFF}, {address(second)}{tail}"
    return shown


_OPERATIONS: Final = ("FUTEX_OP_SET", "FUTEX_OP_ADD", "FUTEX_OP_OR", "FUTEX_OP_ANDN", "FUTEX_OP_XOR")
_COMPARISONS: Final = (
    "FUTEX_OP_CMP_EQ",
    "FUTEX_OP_CMP_NE",
    "FUTEX_OP_CMP_LT",
    "FUTEX_OP_CMP_LE",
    "FUTEX_OP_CMP_GT",
    "FUTEX_OP_CMP_GE",
)


def _wake_op(value: int) -> str:
    operation, comparison = value >> 28 & 7, value >> 24 & 15
    first = _OPERATIONS[operation] if operation < len(_OPERATIONS) else f"{operation:#x}"
    second = _COMPARISONS[comparison] if comparison < len(_COMPARISONS) else f"{comparison:#x}"
    parts = [f"{first}<<28"]
    if value >> 12 & 0xFFF:
        parts.append(f"{value >> 12 & 0xFFF:#x}<<12")
    else:
        parts.append("0<<12")
    return "|".join([*parts, f"{second}<<24", f"{value & 0xFFF:#x}" if value & 0xFFF else "0"])


def _resident(call: Call, value: int) -> str:
    """Write the vector of mincore: one character a page."""
    pages = min(-(-call.args[1] // 4096), call.style.limit)
    found = call.memory.read_partial(value, pages)
    shown = ", ".join(str(byte & 1) for byte in found)
    return f"[{shown}{'...' if -(-call.args[1] // 4096) > pages else ''}]" if found else address(value)


def _mremap_target(call: Call, value: int) -> str | None:
    return address(value) if call.args[3] & 2 else None


def _map_offset(call: Call, value: int) -> str:
    return hex(value) if value else "0"


def _pages(call: Call, value: int) -> str:
    return array(struct.Struct("<Q"), 1, lambda _, f: address(f[0]))(call, value) or ""


def _shmget_key(call: Call, value: int) -> str:
    value &= 0xFFFFFFFF
    return "IPC_PRIVATE" if not value else hex(value)


def _ipc_flags(call: Call, value: int) -> str:
    value &= 0xFFFFFFFF
    bits = value & 0o777
    text = c.IPC_FLAGS.text(value & ~0o777) if value & ~0o777 else ""
    return f"{text}|{bits:#o}".lstrip("|").replace("0o", "0") if bits or not text else text


def _sleep_left(call: Call, value: int) -> str:
    return structs.remaining(call, value) if value else "NULL"


def _waitv(call: Call, value: int) -> str:
    return (
        array(struct.Struct("<QQII"), 1, lambda _, f: f"{{val={f[0]:#x}, uaddr={address(f[1])}, flags={f[2]:#x}}}")(
            call, value
        )
        or ""
    )


def _timer_id(call: Call, value: int) -> str:
    try:
        return f"[{int.from_bytes(call.memory.read(value, 4), 'little', signed=True)}]"
    except UnreadableError:
        return address(value)


def _semaphores(call: Call, value: int) -> str:
    return (
        array(struct.Struct("<Hhh"), 2, lambda _, f: f"{{sem_num={f[0]}, sem_op={f[1]}, sem_flg={f[2]:#x}}}")(
            call, value
        )
        or ""
    )


_FOR_SELECT: Final = (integer, structs_process.fd_set, structs_process.fd_set, structs_process.fd_set)
_SIGNAL_MASK: Final = (signals.sigset, size)
_RECEIVED: Final = Out(data(RESULT))
_ADDRESS_OUT: Final = Out(sockets.sockaddr_out(2))

MEMORY: Final[dict[str, Shape]] = {
    "mmap": shape(pointer, size, _PROT, flags(c.MAP, wide=True), fd, _map_offset, returns=results.hexadecimal),
    "mprotect": shape(pointer, size, _PROT),
    "pkey_mprotect": shape(pointer, size, _PROT, integer),
    "pkey_alloc": shape(hexadecimal, hexadecimal),
    "pkey_free": shape(integer),
    "munmap": shape(pointer, size),
    "brk": shape(pointer, returns=results.hexadecimal),
    "mremap": shape(pointer, size, size, flags(c.MREMAP, wide=True), _mremap_target, returns=results.hexadecimal),
    "msync": shape(pointer, size, flags(c.MSYNC)),
    "mincore": shape(pointer, size, Out(_resident)),
    "madvise": shape(pointer, size, names(c.MADVISE)),
    "process_madvise": shape(fd, structs.iovec_addresses(2), size, names(c.MADVISE), hexadecimal32),
    "mlock": shape(pointer, size),
    "mlock2": shape(pointer, size, flags(c.MLOCK)),
    "munlock": shape(pointer, size),
    "mlockall": shape(flags(c.MLOCKALL)),
    "munlockall": shape(),
    "mseal": shape(pointer, size, hexadecimal),
    "map_shadow_stack": shape(pointer, size, hexadecimal32, returns=results.hexadecimal),
    "remap_file_pages": shape(pointer, size, _PROT, size, flags(c.MAP, wide=True)),
    "mbind": shape(pointer, size, names(c.POLICY), pointer, size, hexadecimal32),
    "set_mempolicy": shape(names(c.POLICY), pointer, size),
    "set_mempolicy_home_node": shape(pointer, size, size, hexadecimal),
    "get_mempolicy": shape(Out(word("<i")), pointer, size, pointer, hexadecimal),
    "migrate_pages": shape(integer, size, pointer, pointer),
    "move_pages": shape(integer, size, _pages, pointer, Out(pointer), hexadecimal32),
    "memfd_secret": shape(flags(c.CLOEXEC), returns=results.descriptor),
    "userfaultfd": shape(flags(c.PIPE), returns=results.descriptor),
    "process_vm_readv": shape(integer, Out(structs.iovec(2, RESULT)), size, structs.iovec_addresses(4), size, hexadecimal),
    "process_vm_writev": shape(integer, structs.iovec(2), size, structs.iovec_addresses(4), size, hexadecimal),
    "shmget": shape(_shmget_key, size, _ipc_flags),
    "shmat": shape(integer, pointer, flags(c.SHM), returns=results.hexadecimal),
    "shmdt": shape(pointer),
    "shmctl": shape(integer, names(c.IPC_COMMAND), pointer),
    "semget": shape(_shmget_key, integer, _ipc_flags),
    "semop": shape(integer, _semaphores, size),
    "semtimedop": shape(integer, _semaphores, size, structs.timespec),
    "semctl": shape(integer, integer, names(c.IPC_COMMAND), hexadecimal),
    "msgget": shape(_shmget_key, _ipc_flags),
    "msgsnd": shape(integer, pointer, size, flags(c.IPC_FLAGS)),
    "msgrcv": shape(integer, Out(pointer), size, long, flags(c.IPC_FLAGS)),
    "msgctl": shape(integer, names(c.IPC_COMMAND), pointer),
    "mq_open": shape(string, flags(c.OPEN), lambda call, v: f"0{v:o}" if call.args[1] & 0o100 else None, pointer,
                     returns=results.descriptor),
    "mq_unlink": shape(string),
    "mq_timedsend": shape(fd, data(2), size, unsigned, structs.timespec),
    "mq_timedreceive": shape(fd, Out(data(RESULT)), size, Out(word("<I")), structs.timespec),
    "mq_notify": shape(fd, signals.sigevent),
    "mq_getsetattr": shape(fd, pointer, Out(pointer)),
}  # fmt: skip
"""Shapes by name: memory and IPC."""

TIME: Final[dict[str, Shape]] = {
    "nanosleep": shape(structs.timespec, Out(_sleep_left, always=True)),
    "clock_nanosleep": shape(names(m.CLOCK), flags(m.TIMER), structs.timespec, Out(_sleep_left, always=True)),
    "clock_gettime": shape(names(m.CLOCK), Out(structs.timespec)),
    "clock_getres": shape(names(m.CLOCK), Out(structs.timespec)),
    "clock_settime": shape(names(m.CLOCK), structs.timespec),
    "clock_adjtime": shape(names(m.CLOCK), Out(structs.timex)),
    "adjtimex": shape(Out(structs.timex)),
    "gettimeofday": shape(Out(structs.timeval), Out(structs.timezone)),
    "settimeofday": shape(structs.timeval, structs.timezone),
    "time": shape(Out(word("<q"))),
    "times": shape(Out(structs.tms)),
    "alarm": shape(unsigned),
    "getitimer": shape(names(m.ITIMER), Out(structs.itimerval)),
    "setitimer": shape(names(m.ITIMER), structs.itimerval, Out(structs.itimerval)),
    "timer_create": shape(names(m.CLOCK), signals.sigevent, Out(_timer_id)),
    "timer_settime": shape(integer, flags(m.TIMER), structs.itimerspec, Out(structs.itimerspec)),
    "timer_gettime": shape(integer, Out(structs.itimerspec)),
    "timer_getoverrun": shape(integer),
    "timer_delete": shape(integer),
    "timerfd_create": shape(names(m.CLOCK), flags(m.TIMERFD_CREATE), returns=results.descriptor),
    "timerfd_settime": shape(fd, flags(m.TIMERFD), structs.itimerspec, Out(structs.itimerspec)),
    "timerfd_gettime": shape(fd, Out(structs.itimerspec)),
    "futex": shape(pointer, _futex_operation, _futex_rest),
    "futex_waitv": shape(_waitv, unsigned, hexadecimal32, structs.timespec, names(m.CLOCK)),
    "futex_wake": shape(pointer, hexadecimal, integer, hexadecimal32),
    "futex_wait": shape(pointer, hexadecimal, hexadecimal, hexadecimal32, structs.timespec, names(m.CLOCK)),
    "futex_requeue": shape(pointer, hexadecimal32, integer, integer),
}
"""Shapes by name: time, and waiting for words."""

WAITING: Final[dict[str, Shape]] = {
    "poll": shape(structs_process.poll_fds, unsigned, integer, returns=structs_process.poll_result),
    "ppoll": shape(
        structs_process.poll_fds, unsigned, structs.timespec, *_SIGNAL_MASK, returns=structs_process.poll_result
    ),
    "select": shape(*_FOR_SELECT, structs.timeval, returns=structs_process.select_result),
    "pselect6": shape(
        *_FOR_SELECT, structs.timespec, structs_process.signal_mask_argument, returns=structs_process.select_result
    ),
    "epoll_create": shape(integer, returns=results.descriptor),
    "epoll_create1": shape(flags(m.EPOLL_CREATE), returns=results.descriptor),
    "epoll_ctl": shape(fd, names(m.EPOLL_CTL), fd, structs_process.epoll_event),
    "epoll_wait": shape(fd, Out(structs_process.epoll_events), integer, integer),
    "epoll_pwait": shape(fd, Out(structs_process.epoll_events), integer, integer, *_SIGNAL_MASK),
    "epoll_pwait2": shape(fd, Out(structs_process.epoll_events), integer, structs.timespec, *_SIGNAL_MASK),
    "eventfd": shape(unsigned, returns=results.descriptor),
    "eventfd2": shape(unsigned, flags(m.EVENTFD), returns=results.descriptor),
    "signalfd": shape(fd, *_SIGNAL_MASK, returns=results.descriptor),
    "lsm_get_self_attr": shape(unsigned, pointer, pointer, hexadecimal32),
    "lsm_set_self_attr": shape(unsigned, pointer, unsigned, hexadecimal32),
    "lsm_list_modules": shape(pointer, pointer, hexadecimal32),
    "signalfd4": shape(fd, *_SIGNAL_MASK, flags(m.SIGNALFD), returns=results.descriptor),
}
"""Shapes by name: waiting for descriptors."""


SOCKETS: Final[dict[str, Shape]] = {
    "socket": shape(names(m.AF), flags(m.SOCKET_TYPE), sockets.protocol, returns=results.descriptor),
    "socketpair": shape(names(m.AF), flags(m.SOCKET_TYPE), sockets.protocol, Out(sockets.descriptors)),
    "connect": shape(fd, sockets.sockaddr(2), integer),
    "bind": shape(fd, sockets.sockaddr(2), integer),
    "listen": shape(fd, integer),
    "accept": shape(fd, _ADDRESS_OUT, InOut(sockets.length_word), returns=results.descriptor),
    "accept4": shape(fd, _ADDRESS_OUT, InOut(sockets.length_word), flags(m.SOCKET_FLAGS), returns=results.descriptor),
    "getsockname": shape(fd, _ADDRESS_OUT, InOut(sockets.length_word)),
    "getpeername": shape(fd, _ADDRESS_OUT, InOut(sockets.length_word)),
    "sendto": shape(fd, data(2), size, flags(m.MSG), sockets.sockaddr(5), unsigned),
    "recvfrom": shape(fd, _RECEIVED, size, flags(m.MSG), Out(sockets.sockaddr_out(5)), InOut(sockets.length_word)),
    "sendmsg": shape(fd, sockets.message(False), flags(m.MSG)),
    "recvmsg": shape(fd, InOut(sockets.message(True), at=8), flags(m.MSG)),
    "sendmmsg": shape(fd, Out(sockets.messages(False), always=True), unsigned, flags(m.MSG)),
    "recvmmsg": shape(fd, Out(sockets.messages(True)), unsigned, flags(m.MSG), structs.timespec),
    "shutdown": shape(fd, names(m.SHUTDOWN)),
    "setsockopt": shape(fd, names(m.SOL), sockets.option_name, sockets.option_value, integer),
    "getsockopt": shape(fd, names(m.SOL), sockets.option_name, Out(sockets.option_found), InOut(sockets.length_word)),
}
"""Shapes by name: sockets."""
