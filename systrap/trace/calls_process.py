"""Calls about processes, signals, ids, scheduling and the system: what their arguments are."""

import struct
from typing import Final

from systrap.trace import constants as c
from systrap.trace import constants_more as m
from systrap.trace import results, signals, structs, structs_process
from systrap.trace.call import Call, Decoder, Out, Shape, UnreadableError, address, shape, signed32, signed64
from systrap.trace.decode import (
    RESULT,
    array,
    data,
    directory,
    environment,
    fd,
    flags,
    hexadecimal,
    hexadecimal32,
    identity,
    integer,
    names,
    path,
    pointer,
    size,
    string,
    string_text,
    strings,
    unsigned,
    word,
)

_GROUPS: Final = array(struct.Struct("<I"), 0, lambda call, f: str(f[0]))
_SETTLS: Final = 0x80000
_PARENT_TID: Final = 0x100000 | 0x1000
_CHILD_TID: Final = 0x1000000 | 0x200000
_FRAME_MASK: Final = 0x128
"""Where the mask lies in the ucontext of a signal frame."""


def _clone_flags(value: int) -> str:
    signo = value & 0xFF
    bits = value & ~0xFF
    shown = [c.CLONE.text(bits)] if bits else []
    if signo:
        shown.append(m.SIGNALS.get(signo, str(signo)))
    return "|".join(shown) or "0"


def _clone_stack(call: Call, value: int) -> str:
    """Write the second argument: strace shows the stack first, then the flags."""
    return f"child_stack={address(call.args[1])}"


def _clone_second(call: Call, value: int) -> str:
    return f"flags={_clone_flags(call.args[0])}"


def _clone_parent(call: Call, value: int) -> str:
    if not call.args[0] & _PARENT_TID:
        return ""
    return f"parent_tid={word('<i')(call, value)}"


def _clone_child(call: Call, value: int) -> str:
    return f"child_tidptr={address(value)}" if call.args[0] & _CHILD_TID else ""


def _clone_tls(call: Call, value: int) -> str:
    return f"tls={address(value)}" if call.args[0] & _SETTLS else ""


def _clone_rest(call: Call, value: int) -> str | None:
    """Write the arguments that the flags ask for."""
    texts = (_clone_parent(call, value), _clone_tls(call, call.args[4]), _clone_child(call, call.args[3]))
    return ", ".join(text for text in texts if text) or None


_PRCTL: Final[dict[int, tuple[Decoder, ...]]] = {
    1: (signals.signal,), 2: (word("<I", lambda n: m.SIGNALS.get(n, str(n))),), 3: (), 4: (unsigned,), 7: (), 8: (unsigned,),
    15: (lambda call, value: string_text(call, value, 15),), 16: (lambda call, value: string_text(call, value, 15),), 21: (),
    22: (unsigned, pointer), 23: (lambda call, value: c.CAPABILITY_NAMES.text(value),),
    24: (lambda call, value: c.CAPABILITY_NAMES.text(value),), 27: (), 28: (hexadecimal,), 29: (size,), 30: (), 36: (size,),
    37: (word("<i"),), 38: (size,) * 4, 39: (size,) * 4, 40: (word("<Q", hex),), 41: (size,) * 4, 42: (size,) * 4,
}  # fmt: skip
"""What is behind prctl's option: those that are not here have four numbers."""
_PRCTL_ELSE: Final = (hexadecimal, hexadecimal, hexadecimal, hexadecimal)
_PRCTL_OUT: Final = (2, 16, 37, 40)


def _prctl_rest(call: Call, value: int) -> str | None:
    option = signed32(call.args[0])
    texts = []
    for decode, argument in zip(_PRCTL.get(option, _PRCTL_ELSE), call.args[1:], strict=False):
        shown = address(argument) if call.error and option in _PRCTL_OUT else decode(call, argument)
        texts.append(shown or "0")
    return ", ".join(texts) or None


def _arch_prctl(call: Call, value: int) -> str:
    kind = call.args[0] & 0xFFFFFFFF
    if kind in (0x1003, 0x1004) and not call.error:
        return word("<Q", hex)(call, value) or ""
    return hex(value) if value else "0" if kind in (0x1011, 0x1012) else "NULL"


def _waitid_info(call: Call, value: int) -> str:
    found = signals.siginfo(call, value)
    return "{}" if found.startswith("{si_signo=0,") else found


def _restored_mask(call: Call, value: int) -> str:
    """Write the mask that a handler's frame restores. The call has no argument: the stack pointer stands for one."""
    text = signals.sigset(call, value + _FRAME_MASK)
    return f"{{mask={text}}}"


def _tid_word(call: Call, value: int) -> str:
    try:
        found = int.from_bytes(call.memory.read(value, 8), "little")
    except UnreadableError:
        return address(value)
    return f"[{address(found)}]"


def _signal_taken(call: Call) -> str:
    return f"{call.result} ({signals.name(call.result)})"


def _priority(call: Call) -> str:
    return str(signed64(call.result))


_THREE_IDS: Final = (Out(word("<I")), Out(word("<I")), Out(word("<I")))

PROCESSES: Final[dict[str, Shape]] = {
    "clone": shape(_clone_stack, _clone_second, Out(_clone_rest, always=True, optional=True)),
    "clone3": shape(Out(structs_process.clone_args, always=True), size),
    "fork": shape(),
    "vfork": shape(),
    "execve": shape(path, strings, environment),
    "execveat": shape(directory, path, strings, environment, flags(c.AT)),
    "exit": shape(integer, returns=results.nothing),
    "exit_group": shape(integer, returns=results.nothing),
    "wait4": shape(integer, Out(structs_process.wait_status), flags(c.WAIT), Out(structs_process.rusage)),
    "waitid": shape(names(c.ID_TYPE), integer, Out(_waitid_info), flags(c.WAITID), Out(structs_process.rusage)),
    "kill": shape(integer, signals.signal),
    "tkill": shape(integer, signals.signal),
    "tgkill": shape(integer, integer, signals.signal),
    "getpid": shape(),
    "getppid": shape(),
    "gettid": shape(),
    "getpgrp": shape(),
    "getpgid": shape(integer),
    "getsid": shape(integer),
    "setpgid": shape(integer, integer),
    "setsid": shape(),
    "pidfd_open": shape(integer, hexadecimal32, returns=results.descriptor),
    "pidfd_send_signal": shape(fd, signals.signal, signals.siginfo, hexadecimal32),
    "pidfd_getfd": shape(fd, integer, hexadecimal32, returns=results.descriptor),
    "process_mrelease": shape(fd, hexadecimal32),
    "set_tid_address": shape(pointer),
    "set_robust_list": shape(pointer, size),
    "get_robust_list": shape(integer, Out(_tid_word), Out(word("<Q"))),
    "rseq": shape(pointer, hexadecimal32, flags(m.RSEQ), hexadecimal32),
    "prctl": shape(names(c.PRCTL, signed=False), Out(_prctl_rest, always=True, optional=True)),
    "arch_prctl": shape(names(c.ARCH_PRCTL), Out(_arch_prctl, always=True)),
    "ptrace": shape(names(c.PTRACE), integer, pointer, pointer),
    "seccomp": shape(names(c.SECCOMP), hexadecimal32, pointer),
    "personality": shape(
        lambda call, value: "0xffffffff" if value & 0xFFFFFFFF == 0xFFFFFFFF else c.PERSONALITY.text(value & 0xFFFFFFFF),
        returns=results.persona,
    ),
    "unshare": shape(flags(c.CLONE)),
    "setns": shape(fd, flags(c.CLONE)),
    "kcmp": shape(integer, integer, unsigned, size, size),
    "modify_ldt": shape(integer, pointer, size),
    "set_thread_area": shape(pointer),
    "get_thread_area": shape(pointer),
    "iopl": shape(integer),
    "ioperm": shape(hexadecimal, hexadecimal, integer),
    # Ids.
    "getuid": shape(),
    "getgid": shape(),
    "geteuid": shape(),
    "getegid": shape(),
    "setuid": shape(identity),
    "setgid": shape(identity),
    "setreuid": shape(identity, identity),
    "setregid": shape(identity, identity),
    "setresuid": shape(identity, identity, identity),
    "setresgid": shape(identity, identity, identity),
    "getresuid": shape(*_THREE_IDS),
    "getresgid": shape(*_THREE_IDS),
    "setfsuid": shape(identity),
    "setfsgid": shape(identity),
    "getgroups": shape(integer, Out(array(struct.Struct("<I"), RESULT, lambda call, f: str(f[0])))),
    "setgroups": shape(integer, _GROUPS),
    "capget": shape(structs_process.capability_header, Out(structs_process.capability_data)),
    "capset": shape(structs_process.capability_header, structs_process.capability_data),
    # Signals.
    "rt_sigaction": shape(signals.signal, signals.action, Out(signals.action), size),
    "rt_sigprocmask": shape(names(m.SIG_HOW), signals.sigset, Out(signals.sigset), size),
    "rt_sigreturn": shape(_restored_mask),
    "rt_sigpending": shape(Out(signals.sigset), size),
    "rt_sigtimedwait": shape(
        signals.sigset, Out(signals.siginfo), structs.timespec, size, returns=_signal_taken
    ),
    "rt_sigqueueinfo": shape(integer, signals.signal, signals.siginfo),
    "rt_tgsigqueueinfo": shape(integer, integer, signals.signal, signals.siginfo),
    "rt_sigsuspend": shape(signals.sigset, size),
    "sigaltstack": shape(signals.stack, Out(signals.stack)),
    "pause": shape(),
    "restart_syscall": shape(lambda call, value: "<... resuming interrupted system call ...>"),
    # Limits and scheduling.
    "getrlimit": shape(names(c.RLIMIT), Out(structs_process.rlimit)),
    "setrlimit": shape(names(c.RLIMIT), structs_process.rlimit),
    "prlimit64": shape(integer, names(c.RLIMIT), structs_process.rlimit64, Out(structs_process.rlimit64)),
    "getrusage": shape(names(c.RUSAGE, signed=True), Out(structs_process.rusage)),
    "getpriority": shape(names(c.PRIORITY), integer, returns=_priority),
    "setpriority": shape(names(c.PRIORITY), integer, integer),
    "sched_yield": shape(),
    "sched_setparam": shape(integer, structs_process.sched_param),
    "sched_getparam": shape(integer, Out(structs_process.sched_param)),
    "sched_setscheduler": shape(integer, flags(c.SCHED), structs_process.sched_param),
    "sched_getscheduler": shape(integer, returns=results.policy),
    "sched_get_priority_max": shape(flags(c.SCHED)),
    "sched_get_priority_min": shape(flags(c.SCHED)),
    "sched_rr_get_interval": shape(integer, Out(structs.timespec)),
    "sched_setaffinity": shape(integer, size, structs_process.cpu_set),
    "sched_getaffinity": shape(integer, size, Out(structs_process.cpu_set)),
    "sched_setattr": shape(integer, structs_process.sched_attr, hexadecimal32),
    "sched_getattr": shape(integer, Out(structs_process.sched_attr), unsigned, hexadecimal32),
    "ioprio_set": shape(unsigned, integer, hexadecimal32),
    "ioprio_get": shape(unsigned, integer, returns=results.hexadecimal),
    "getcpu": shape(Out(word("<I")), Out(word("<I")), pointer),
    "membarrier": shape(names(m.MEMBARRIER), hexadecimal32),
    # The system.
    "uname": shape(Out(structs_process.utsname)),
    "sysinfo": shape(Out(structs_process.sysinfo)),
    "syslog": shape(integer, pointer, integer),
    "sethostname": shape(data(1), size),
    "setdomainname": shape(data(1), size),
    "reboot": shape(hexadecimal32, hexadecimal32, hexadecimal32, pointer),
    "vhangup": shape(),
    "getrandom": shape(Out(data(RESULT, force_hex=True)), size, flags(m.GRND)),
    "uselib": shape(path),
    "kexec_load": shape(hexadecimal, size, pointer, hexadecimal),
    "kexec_file_load": shape(fd, fd, size, string, hexadecimal),
    "create_module": shape(string, size),
    "init_module": shape(pointer, size, string),
    "finit_module": shape(fd, string, hexadecimal32),
    "delete_module": shape(string, hexadecimal32),
    "get_kernel_syms": shape(pointer),
    "query_module": shape(string, integer, pointer, size, pointer),
    "perf_event_open": shape(pointer, integer, integer, fd, hexadecimal, returns=results.descriptor),
    "bpf": shape(unsigned, pointer, unsigned),
    "add_key": shape(string, string, data(3), size, integer),
    "request_key": shape(string, string, string, integer),
    "keyctl": shape(integer, hexadecimal, hexadecimal, hexadecimal, hexadecimal),
    "_sysctl": shape(pointer),
    "afs_syscall": shape(), "tuxcall": shape(), "security": shape(), "vserver": shape(), "getpmsg": shape(), "putpmsg": shape(),
    "epoll_ctl_old": shape(), "epoll_wait_old": shape(),
}  # fmt: skip
"""Shapes by name."""
