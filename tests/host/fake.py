"""A made-up host for the requirements' probes: a good one, with whatever a test wants to be different."""

from collections.abc import Mapping

from systrap.host.probe import Host

GOOD_FILES: dict[str, str | None] = {
    "/proc/self/status": "Name:\tpython3\nSeccomp:\t0",
    "/proc/self/cgroup": "0::/user.slice",
    "/sys/fs/cgroup/user.slice/pids.max": "4915",
    "/sys/fs/cgroup/user.slice/pids.current": "115",
    "/sys/fs/cgroup/cpu.max": "max 100000",
    "/proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu sse xsave\naddress sizes\t: 48 bits physical, 48 bits virtual",
    "/proc/sys/kernel/seccomp/actions_avail": "kill_process trap user_notif allow",
    "/proc/sys/kernel/yama/ptrace_scope": "1",
    "/proc/sys/vm/max_map_count": "65530",
    "/proc/sys/vm/memfd_noexec": "0",
}


class FakeHost(Host):
    """A host that is fine but for the given facts. ``files`` with the value None are not there."""

    def __init__(
        self,
        *,
        release: str = "6.18.0",
        machine: str = "x86_64",
        python: tuple[int, int, int] = (3, 11, 2),
        files: Mapping[str, str | None] | None = None,
        failing: Mapping[str, int] | None = None,
        auxiliary: Mapping[int, int] | None = None,
        limits: Mapping[str, int] | None = None,
        cpus: int = 2,
        terminal: bool = True,
        rseq: int | None = 32,
    ) -> None:
        self._uname = (release, machine)
        self._python = python
        self._files = GOOD_FILES | dict(files or {})
        self._failing = dict(failing or {})
        self._auxiliary = {6: 4096, 26: 2, 51: 3376} | dict(auxiliary or {})
        self._limits = {"NOFILE": 20000, "NPROC": 96365, "AS": -1} | dict(limits or {})
        self._cpus = cpus
        self._terminal = terminal
        self._rseq = rseq

    def uname(self) -> tuple[str, str]:
        return self._uname

    def python(self) -> tuple[int, int, int]:
        return self._python

    def read(self, path: str) -> str | None:
        return self._files.get(path)

    def auxiliary(self, key: int) -> int | None:
        return self._auxiliary.get(key) or None

    def limit(self, name: str) -> int:
        return self._limits[name]

    def cpus(self) -> int:
        return self._cpus

    def has_terminal(self) -> bool:
        return self._terminal

    def rseq_size(self) -> int | None:
        return self._rseq

    def experiment(self, name: str) -> int:
        return self._failing.get(name, 0)
