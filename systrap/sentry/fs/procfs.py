"""/proc: what the kernel tells about itself and its processes. Tables of names and functions."""

import errno
import os
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.fs.inode import Inode
from systrap.sentry.fs.proc_pid import process_directory
from systrap.sentry.fs.synthetic import DirectoryInode, LinkInode, TextInode

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

RELEASE: Final = b"6.1.0-systrap"
VERSION: Final = b"#1 SMP systrap"
_BOOT_ID: Final = str(uuid.UUID(bytes=os.urandom(16), version=4)).encode()


def _host_text(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _cpuinfo(task: "Task") -> bytes:
    """Return the host's description of the CPUs this process may use."""
    wanted = os.sched_getaffinity(0)
    blocks = _host_text("/proc/cpuinfo").split(b"\n\n")
    return b"".join(block + b"\n\n" for block in blocks if block.strip() and _number_of(block) in wanted)


def _number_of(block: bytes) -> int:
    first = block.split(b"\n", 1)[0].partition(b":")[2].strip()
    return int(first) if first.isdigit() else -1


def _stat(task: "Task") -> bytes:
    uptime = int((time.monotonic() - task.kernel.boot_clock) * 100)
    cpus = sorted(os.sched_getaffinity(0))
    lines = [b"cpu  %d 0 0 %d 0 0 0 0 0 0" % (uptime, uptime)]
    lines += [b"cpu%d %d 0 0 %d 0 0 0 0 0 0" % (cpu, uptime, uptime) for cpu in cpus]
    lines += [
        b"intr 0", b"ctxt 0", b"btime %d" % int(task.kernel.boot_time), b"processes %d" % task.kernel.last_pid,
        b"procs_running 1", b"procs_blocked 0",
    ]  # fmt: skip
    return b"\n".join(lines) + b"\n"


def _uptime(task: "Task") -> bytes:
    up = time.monotonic() - task.kernel.boot_clock
    return b"%.2f %.2f\n" % (up, up)


def _loadavg(task: "Task") -> bytes:
    kernel = task.kernel
    return b"0.00 0.00 0.00 1/%d %d\n" % (max(len(kernel.tasks), 1), kernel.last_pid)


def _mounts(task: "Task") -> bytes:
    kinds = {"host": "none"}
    lines = [
        b"%s %s %s rw,relatime 0 0\n" % (kinds.get(kind, kind).encode(), path, (kind if kind != "host" else "overlay").encode())
        for path, kind in task.kernel.vfs.mount_points
    ]
    return b"".join(lines)


def _version(task: "Task") -> bytes:
    return b"Linux version %s (systrap) %s\n" % (RELEASE, VERSION)


def _fixed(data: bytes) -> Callable[[], Inode]:
    return lambda: TextInode(lambda task: data)


def _host_file(path: str) -> Callable[[], Inode]:
    return lambda: TextInode(lambda task: _host_text(path))


def _text(function: "Callable[[Task], bytes]") -> Callable[[], Inode]:
    return lambda: TextInode(function)


def _directory(table: dict[bytes, Callable[[], Inode]]) -> Callable[[], Inode]:
    return lambda: DirectoryInode(table)


def _new_uuid(task: "Task") -> bytes:
    return str(uuid.UUID(bytes=os.urandom(16), version=4)).encode() + b"\n"


_SYS: Final[dict[bytes, Callable[[], Inode]]] = {
    b"kernel": _directory({
        b"osrelease": _fixed(RELEASE + b"\n"), b"ostype": _fixed(b"Linux\n"), b"version": _fixed(VERSION + b"\n"),
        b"hostname": _text(lambda task: task.kernel.hostname + b"\n"), b"domainname": _fixed(b"(none)\n"),
        b"pid_max": _fixed(b"4194304\n"), b"ngroups_max": _fixed(b"65536\n"), b"cap_last_cap": _fixed(b"40\n"),
        b"threads-max": _fixed(b"30000\n"), b"overflowuid": _fixed(b"65534\n"), b"overflowgid": _fixed(b"65534\n"),
        b"random": _directory({
            b"uuid": _text(_new_uuid), b"boot_id": _fixed(_BOOT_ID + b"\n"), b"entropy_avail": _fixed(b"256\n"),
            b"poolsize": _fixed(b"256\n"),
        }),
        b"core_pattern": _fixed(b"core\n"), b"shmmax": _fixed(b"18446744073692774399\n"), b"sem": _fixed(b"32000\t1024000000\t500\t32000\n"),
        b"seccomp": _directory({b"actions_avail": _fixed(b"\n")}), b"yama": _directory({b"ptrace_scope": _fixed(b"1\n")}),
        b"sched_child_runs_first": _fixed(b"0\n"),
    }),
    b"vm": _directory({
        b"overcommit_memory": _fixed(b"1\n"), b"max_map_count": _fixed(b"65530\n"),
        b"mmap_min_addr": _host_file("/proc/sys/vm/mmap_min_addr"), b"swappiness": _fixed(b"60\n"),
        b"overcommit_ratio": _fixed(b"50\n"), b"drop_caches": _fixed(b"0\n"), b"nr_hugepages": _fixed(b"0\n"),
    }),
    b"fs": _directory({
        b"file-max": _fixed(b"1048576\n"), b"file-nr": _fixed(b"0\t0\t1048576\n"), b"nr_open": _fixed(b"1048576\n"),
        b"pipe-max-size": _fixed(b"1048576\n"), b"inotify": _directory({b"max_user_watches": _fixed(b"0\n")}),
    }),
    b"net": _directory({
        b"core": _directory({b"somaxconn": _fixed(b"4096\n")}),
        b"ipv4": _directory({b"ip_local_port_range": _fixed(b"32768\t60999\n"), b"tcp_fin_timeout": _fixed(b"60\n")}),
    }),
}  # fmt: skip

_NET: Final[dict[bytes, Callable[[], Inode]]] = {
    b"dev": _fixed(
        b"Inter-|   Receive                                                |  Transmit\n"
        b" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
        b"    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n"
    ),
    b"route": _fixed(b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"),
    b"if_inet6": _fixed(b"00000000000000000000000000000001 01 80 10 80       lo\n"),
    b"tcp": _fixed(b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"),
    b"tcp6": _fixed(b"  sl  local_address                         remote_address                        st tx_queue rx_queue\n"),
    b"udp": _fixed(b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"),
    b"unix": _fixed(b"Num       RefCount Protocol Flags    Type St Inode Path\n"),
}  # fmt: skip

_TOP: Final[dict[bytes, Callable[[], Inode]]] = {
    b"cpuinfo": _text(_cpuinfo),
    b"meminfo": _host_file("/proc/meminfo"),
    b"stat": _text(_stat),
    b"uptime": _text(_uptime),
    b"loadavg": _text(_loadavg),
    b"version": _text(_version),
    b"filesystems": _fixed(b"nodev\tproc\nnodev\ttmpfs\nnodev\tdevtmpfs\nnodev\toverlay\nnodev\tsysfs\n"),
    b"cmdline": _fixed(b"systrap\n"),
    b"devices": _fixed(b"Character devices:\n  1 mem\n  5 /dev/tty\n136 pts\n"),
    b"swaps": _fixed(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
    b"vmstat": _host_file("/proc/vmstat"),
    b"partitions": _fixed(b"major minor  #blocks  name\n\n"),
    b"sys": _directory(_SYS),
}


def _link(text: bytes) -> Callable[[], Inode]:
    return lambda: LinkInode(lambda: text)


def mount_root(kernel: "Kernel") -> Inode:
    """Return the root of /proc."""

    def current() -> "Task":
        if kernel.current is None:
            raise SyscallError(errno.ENOENT)
        return kernel.current

    table = dict(_TOP)
    table[b"self"] = lambda: LinkInode(lambda: b"%d" % current().group.pid)
    table[b"thread-self"] = lambda: LinkInode(lambda: b"%d/task/%d" % (current().group.pid, current().tid))
    table[b"mounts"] = _link(b"self/mounts")
    table[b"net"] = lambda: DirectoryInode(_NET)
    known: dict[int, Inode] = {}

    def find(name: bytes) -> Inode | None:
        if not name.isdigit() or (name.startswith(b"0") and name != b"0"):
            return None
        task = kernel.tasks.get(int(name))
        group = task.group if task is not None else kernel.groups.get(int(name))
        if group is None:
            known.pop(int(name), None)
            return None
        if int(name) not in known:
            known[int(name)] = process_directory(group)
        return known[int(name)]

    return DirectoryInode(table, lambda: [b"%d" % pid for pid in sorted(kernel.groups)], find)


mounts_text = _mounts
