"""/sys: the little that programs look up there, the CPUs above all."""

import os
from typing import TYPE_CHECKING

from systrap.sentry.fs.inode import Inode
from systrap.sentry.fs.proc_status import cpu_lines
from systrap.sentry.fs.synthetic import Read, tree

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel


def _fixed(text: str) -> Read:
    value = text.encode() + b"\n"
    return lambda: value


def _cpus() -> bytes:
    """Return the list of CPUs as status has it: "0-3,5"."""
    return cpu_lines()[1].partition("\t")[2].encode() + b"\n"


def _possible() -> bytes:
    last = max(os.sched_getaffinity(0))
    return b"0-%d\n" % last if last else b"0\n"


def _cpu_mask() -> bytes:
    return b"%x\n" % sum(1 << cpu for cpu in os.sched_getaffinity(0))


def mount_root(kernel: "Kernel") -> Inode:
    """Return the root of /sys."""
    cpus: dict[str, object] = {"online": _cpus, "present": _possible, "possible": _possible, "offline": _fixed("")}
    for cpu in sorted(os.sched_getaffinity(0)):
        topology = {
            "core_id": _fixed(str(cpu)), "physical_package_id": _fixed("0"), "thread_siblings_list": _fixed(str(cpu)),
            "core_siblings_list": _cpus,
            "core_siblings": _cpu_mask,
            "thread_siblings": _fixed(f"{1 << cpu:x}"),
        }  # fmt: skip
        cpus[f"cpu{cpu}"] = {"topology": topology, "online": _fixed("1")}
    node = {"online": _fixed("0"), "possible": _fixed("0"), "node0": {"cpulist": _cpus, "cpumap": _cpu_mask}}
    loopback = {"mtu": _fixed("65536"), "operstate": _fixed("unknown"), "type": _fixed("772")}
    huge = {
        "enabled": _fixed("always madvise [never]"),
        "defrag": _fixed("always defer defer+madvise [madvise] never"),
        "hpage_pmd_size": _fixed(str(512 * os.sysconf("SC_PAGE_SIZE"))),
    }
    return tree(
        "/sys",
        {
            "block": {},
            "bus": {},
            "class": {"net": {"lo": loopback}, "tty": {}, "block": {}},
            "devices": {"system": {"cpu": cpus, "node": node}},
            "fs": {"cgroup": {}},
            "kernel": {"mm": {"transparent_hugepage": huge, "hugepages": {}}, "security": {}},
            "module": {},
        },
    )
