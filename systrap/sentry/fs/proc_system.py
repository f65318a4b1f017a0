"""/proc about the whole system: cpuinfo, meminfo, stat, sys/… . Numbers agree with what system calls tell."""

import errno
import os
from typing import TYPE_CHECKING, Final

from systrap import arch
from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError
from systrap.sentry.fs.proc_status import HZ, uptime
from systrap.sentry.fs.synthetic import Directory, Read, TextInode, tree
from systrap.sentry.task import State
from systrap.sentry.vma import STACK_GUARD_GAP

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

RELEASE: Final = b"6.1.0-systrap"
VERSION: Final = b"#1 SMP systrap"
"""What uname tells."""

_CAP_SYS_ADMIN: Final = 21
_FILE_SYSTEMS: Final = b"".join(
    b"nodev\t" + name + b"\n"
    for name in (b"sysfs", b"tmpfs", b"proc", b"devtmpfs", b"pipefs", b"sockfs", b"devpts", b"overlay")
)
_DEVICES: Final = (
    b"Character devices:\n  1 mem\n  4 tty\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n"
)
_MEMORY_FIELDS: Final = (
    "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive", "SwapTotal", "SwapFree",
    "Dirty", "Writeback", "AnonPages", "Mapped", "Shmem", "Slab", "CommitLimit", "Committed_AS", "VmallocTotal", "VmallocUsed",
)  # fmt: skip


def _fixed(text: str) -> Read:
    value = text.encode() + b"\n"
    return lambda: value


def _host_text(path: str) -> bytes:
    """Return a text file of the host's /proc; empty when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def cpuinfo() -> bytes:
    """Return the host's cpuinfo for the CPUs this run may use: guests run on nothing else. Features stand there as in auxv."""
    allowed = {b"%d" % cpu for cpu in os.sched_getaffinity(0)}
    blocks = [block for block in _host_text("/proc/cpuinfo").split(b"\n\n") if block.strip()]
    kept = [block for block in blocks if block.split(b"\n", 1)[0].partition(b":")[2].strip() in allowed]
    return b"".join(_without_hidden_features(block) + b"\n\n" for block in kept or blocks)


def _without_hidden_features(block: bytes) -> bytes:
    """Return a CPU's block without the features that guests are not told of."""
    hidden = arch.current().LINUX.capabilities.hidden
    if not hidden:
        return block
    lines = block.split(b"\n")
    for index, line in enumerate(lines):
        name, colon, words = line.partition(b":")
        if name.strip() == b"Features":
            shown = b"".join(b" " + word for word in words.split() if word not in hidden)
            lines[index] = name + colon + shown
    return b"\n".join(lines)


def meminfo() -> bytes:
    """Return sizes of memory: total and free as sysinfo tells them, no swap."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (os.sysconf(name) * page // 1024 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    known = {
        "MemTotal": total,
        "MemFree": free,
        "MemAvailable": free,
        "CommitLimit": total,
        "VmallocTotal": 34359738367,
    }
    for line in _host_text("/proc/meminfo").splitlines():
        name, _, value = line.decode().partition(":")
        if name in ("MemAvailable", "Buffers", "Cached", "Shmem", "Mapped", "AnonPages", "Slab", "Active", "Inactive"):
            known[name] = int(value.split()[0])
    known["MemAvailable"] = max(min(known["MemAvailable"], total), min(free, total))
    return "".join(f"{name + ':':<16}{known.get(name, 0):8d} kB\n" for name in _MEMORY_FIELDS).encode()


class _System:
    """The texts that depend on the kernel's state."""

    __slots__ = ("boot_id", "kernel")

    def __init__(self, kernel: "Kernel") -> None:
        self.kernel = kernel
        self.boot_id = uuid()

    def stat(self) -> bytes:
        """CPU times: what guests used is user and system, the rest is idle."""
        kernel = self.kernel
        cpus = sorted(os.sched_getaffinity(0))
        user = int(sum(group.user_time for group in kernel.groups.values()) * HZ)
        system = int(sum(group.system_time for group in kernel.groups.values()) * HZ)
        total = int(uptime(kernel.boot_clock) * HZ)
        idle = max(total * len(cpus) - user - system, 0)
        lines = [f"cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n"]
        share = len(cpus)
        lines += [f"cpu{cpu} {user // share} 0 {system // share} {idle // share} 0 0 0 0 0 0\n" for cpu in cpus]
        running = max(self.running(), 1)
        lines += [
            "intr 0\n", f"ctxt {sum(kernel.counts.values())}\n", f"btime {int(kernel.boot_time)}\n",
            f"processes {kernel.last_pid}\n", f"procs_running {running}\n", "procs_blocked 0\n",
            "softirq 0 0 0 0 0 0 0 0 0 0 0\n",
        ]  # fmt: skip
        return "".join(lines).encode()

    def running(self) -> int:
        """Return how many tasks run."""
        return sum(task.state in (State.GUEST, State.KERNEL) for task in self.kernel.tasks.values())

    def uptime(self) -> bytes:
        """Seconds up, and idle seconds of all CPUs."""
        up = uptime(self.kernel.boot_clock)
        used = sum(group.user_time + group.system_time for group in self.kernel.groups.values())
        return f"{up:.2f} {max(up * len(os.sched_getaffinity(0)) - used, 0):.2f}\n".encode()

    def loadavg(self) -> bytes:
        """Load averages are not computed; counts are."""
        kernel = self.kernel
        return f"0.00 0.00 0.00 {max(self.running(), 1)}/{len(kernel.tasks)} {kernel.last_pid}\n".encode()

    def version(self) -> bytes:
        """Tell the kernel's version, as uname does."""
        return b"Linux version " + RELEASE + b" (root@systrap) (cc) " + VERSION + b"\n"

    def set_hostname(self, task: "Task", data: bytes) -> None:
        """Write sys/kernel/hostname."""
        if not task.creds.capable(_CAP_SYS_ADMIN):
            raise SyscallError(errno.EPERM)
        self.kernel.hostname = data.split(b"\n")[0][:64]

    def locks(self) -> bytes:
        """Record locks."""
        from systrap.sentry.fs.locks import END, F_WRLCK, all_records

        lines: list[str] = []
        for number, (_, lock) in enumerate(all_records(), 1):
            end = "EOF" if lock.end == END else str(lock.end - 1)
            kind = "OFDLCK" if lock.pid < 0 else "POSIX "
            access = "WRITE" if lock.kind == F_WRLCK else "READ "
            lines.append(f"{number}: {kind} ADVISORY  {access} {lock.pid} 00:00:0 {lock.start} {end}\n")
        return "".join(lines).encode()

    def file_count(self) -> bytes:
        """Open file descriptions."""
        tables = {id(task.fds): task.fds for task in self.kernel.tasks.values() if task.state is not State.DEAD}
        return b"%d\t0\t9223372036854775807\n" % sum(len(table.numbers()) for table in tables.values())


def uuid() -> str:
    """Return a random UUID."""
    data = bytearray(os.urandom(16))
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    text = data.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def system_files(kernel: "Kernel") -> Directory:
    """Return a directory with everything of /proc that is about the system."""
    system = _System(kernel)
    root = tree(
        "",
        {
            "cmdline": _fixed("systrap"),
            "cpuinfo": cpuinfo,
            "devices": lambda: _DEVICES,
            "diskstats": lambda: b"",
            "filesystems": lambda: _FILE_SYSTEMS,
            "interrupts": lambda: b"",
            "loadavg": system.loadavg,
            "locks": system.locks,
            "meminfo": meminfo,
            "modules": lambda: b"",
            "partitions": lambda: b"major minor  #blocks  name\n\n",
            "stat": system.stat,
            "swaps": lambda: b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
            "uptime": system.uptime,
            "version": system.version,
            "vmstat": lambda: b"nr_free_pages %d\n" % os.sysconf("SC_AVPHYS_PAGES"),
            "sysvipc": {"shm": lambda: b"", "sem": lambda: b"", "msg": lambda: b""},
            "sys": _sysctl(system),
        },
    )
    hostname = root.lookup(b"sys").lookup(b"kernel").lookup(b"hostname")
    if isinstance(hostname, TextInode):
        hostname.write, hostname.mode = system.set_hostname, 0o100644
    return root


def _sysctl(system: _System) -> Directory:
    """Return /proc/sys."""
    return tree(
        "sys",
        {
            "kernel": {
                "cap_last_cap": _fixed("40"),
                "core_pattern": _fixed("core"),
                "core_uses_pid": _fixed("0"),
                "domainname": _fixed("(none)"),
                "dmesg_restrict": _fixed("1"),
                "hostname": lambda: system.kernel.hostname + b"\n",
                "kptr_restrict": _fixed("1"),
                "msgmax": _fixed("8192"),
                "msgmnb": _fixed("16384"),
                "msgmni": _fixed("32000"),
                "ngroups_max": _fixed("65536"),
                "osrelease": lambda: RELEASE + b"\n",
                "ostype": _fixed("Linux"),
                "overflowgid": _fixed("65534"),
                "overflowuid": _fixed("65534"),
                "panic": _fixed("0"),
                "perf_event_paranoid": _fixed("4"),
                "pid_max": _fixed("4194304"),
                "printk": _fixed("4\t4\t1\t7"),
                "random": {
                    "boot_id": _fixed(system.boot_id),
                    "entropy_avail": _fixed("256"),
                    "poolsize": _fixed("256"),
                    "uuid": lambda: uuid().encode() + b"\n",
                },
                "randomize_va_space": _fixed("2"),
                "sem": _fixed("32000\t1024000000\t500\t32000"),
                "shmall": _fixed("18446744073692774399"),
                "shmmax": _fixed("18446744073692774399"),
                "shmmni": _fixed("4096"),
                "tainted": _fixed("0"),
                "threads-max": lambda: b"%d\n" % (os.sysconf("SC_PHYS_PAGES") // 32),
                "unprivileged_bpf_disabled": _fixed("2"),
                "version": lambda: VERSION + b"\n",
                "yama": {"ptrace_scope": _fixed("1")},
            },
            "vm": {
                "max_map_count": _fixed("65530"),
                "mmap_min_addr": _fixed("65536"),
                "overcommit_memory": _fixed("0"),
                "overcommit_ratio": _fixed("50"),
                "stat_interval": _fixed("1"),
                "swappiness": _fixed("60"),
                "vfs_cache_pressure": _fixed("100"),
                "nr_hugepages": _fixed("0"),
                "stack_guard_gap": _fixed(str(STACK_GUARD_GAP // PAGE_SIZE)),
            },
            "fs": {
                "file-max": _fixed("9223372036854775807"),
                "file-nr": system.file_count,
                "nr_open": _fixed("1048576"),
                "pipe-max-size": _fixed("1048576"),
                "pipe-user-pages-hard": _fixed("0"),
                "pipe-user-pages-soft": _fixed("16384"),
                "protected_hardlinks": _fixed("0"),
                "protected_symlinks": _fixed("0"),
                "aio-max-nr": _fixed("65536"),
                "inotify": {
                    "max_queued_events": _fixed("16384"),
                    "max_user_instances": _fixed("128"),
                    "max_user_watches": _fixed("65536"),
                },
                "mqueue": {"msg_max": _fixed("10"), "msgsize_max": _fixed("8192"), "queues_max": _fixed("256")},
            },
            "net": {
                "core": {
                    "somaxconn": _fixed("4096"),
                    "rmem_default": _fixed("212992"),
                    "rmem_max": _fixed("212992"),
                    "wmem_default": _fixed("212992"),
                    "wmem_max": _fixed("212992"),
                },
                "ipv4": {
                    "ip_local_port_range": _fixed("32768\t60999"),
                    "tcp_rmem": _fixed("4096\t131072\t6291456"),
                    "tcp_wmem": _fixed("4096\t16384\t4194304"),
                    "ip_forward": _fixed("0"),
                    "tcp_fin_timeout": _fixed("60"),
                },
                "ipv6": {"conf": {"all": {"disable_ipv6": _fixed("0")}}, "bindv6only": _fixed("0")},
                "unix": {"max_dgram_qlen": _fixed("512")},
            },
        },
    )
