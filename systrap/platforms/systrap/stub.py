"""The stub image: laid out at a random place above all guest memory, filled, sealed (10-stub §1.4, §1.5; S-001…S-005, S-009).

It is built once per process, in the sentry's own address space, and reaches every stub by inheritance.
"""

import os
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from systrap.host import limits, mem
from systrap.host.bpf import sock_fprog
from systrap.host.sys import PAGE_SIZE
from systrap.platform import PlatformError
from systrap.platforms.systrap import filters, layout
from systrap.platforms.systrap.blob import Image, Value
from systrap.platforms.systrap.layout import Layout

_ATTEMPTS: Final = 32
_MAX_GAP: Final = 1 << 30
_SIGACTION_FLAGS: Final = 0x0C000004
"""SA_SIGINFO | SA_RESTORER | SA_ONSTACK (S-030)."""
_SIGACTION_MASK: Final = 0x40010000
"""SIGCHLD and SIGSYS are blocked in the handler (S-030)."""
_SA_NODEFER: Final = 0x40000000
_NESTED: Final = 3
"""So many signals can lie on a signal stack with ``user_resume``: a system call, the fault of a probe, SIGCHLD."""
_FRAME: Final = 1024
"""What a signal takes of the stack besides the FP state, with what the handler takes: about 800 bytes, see sighandler.c."""


class StubImage(NamedTuple):
    """The finished image: where everything is, and what the source needs to enter it."""

    layout: Layout
    begin: int
    sigaction: bytes
    base_filter: bytes
    has_ready_ring: bool
    syshandler: int


class Settings(NamedTuple):
    """What is written into the sysmsg image besides addresses.

    ``deep_sleep``: how long a stub thread spins, in ticks of the counter (S-073). ``patching``: it may ask for call sites
    to be patched. ``handler_flags``: flags of the signal handler besides those that it has on every CPU.
    ``rdpid``: the CPU has that instruction.
    ``user_resume``: after a system call guests are loaded without rt_sigreturn, and the handler blocks no signal
    (docs/images.md); only where signals_can_nest().
    """

    arch_state: tuple[int, ...]
    deep_sleep: int
    patching: bool
    handler_flags: int
    rdpid: bool = False
    user_resume: bool = False


def signals_can_nest(fp_len: int) -> bool:
    """Tell whether a thread's signal stack has room for all signals that can nest where the handler blocks none."""
    return _NESTED * (fp_len + _FRAME) <= layout.area_shape(PAGE_SIZE).signal_stack_size


def build(bootstrap: Image, sysmsg: Image, settings: Settings, max_threads: int) -> StubImage:
    """Place, fill and seal the image. Raises PlatformError when there is no place for it, OSError when memory fails."""
    place = _place(bootstrap, sysmsg, max_threads)
    code = mem.view(place.stub_start, place.ro_end - place.stub_start)
    bootstrap_code = bootstrap.patched({})
    code[: len(bootstrap_code)] = bootstrap_code
    start = place.sysmsg - place.stub_start
    sysmsg_code = sysmsg.patched(_exports(place, sysmsg, settings))
    code[start : start + len(sysmsg_code)] = sysmsg_code
    _write_rules(code, place, place.sysmsg_rules, filters.thread_filter(place), place.notify_rules)
    _write_rules(code, place, place.notify_rules, filters.notify_filter(), place.ro_end)
    del code
    mem.mprotect(place.stub_start, place.sysmsg_rules - place.stub_start, mem.PROT_READ | mem.PROT_EXEC)
    mem.mprotect(place.sysmsg_rules, place.ro_end - place.sysmsg_rules, mem.PROT_READ)
    mem.mseal(place.stub_start, place.ro_end - place.stub_start)
    handler = place.sysmsg + sysmsg.offset("sighandler")
    restorer = place.sysmsg + sysmsg.offset("restore_rt")
    flags, mask = _SIGACTION_FLAGS | settings.handler_flags, _SIGACTION_MASK
    if settings.user_resume and sysmsg.has("user_resume"):
        flags, mask = flags | _SA_NODEFER, 0
    return StubImage(
        place,
        place.stub_start + bootstrap.offset("begin"),
        struct.pack("<4Q", handler, flags, restorer, mask),
        filters.base_filter(place),
        sysmsg.has("ready_ring"),
        place.sysmsg + sysmsg.offset("syshandler"),
    )


def _exports(place: Layout, sysmsg: Image, settings: Settings) -> dict[str, Value]:
    """Return the variables of the sysmsg image (10-stub §1.5). A foreign one may lack the newer of them."""
    values: dict[str, Value] = {
        "arch_state": tuple(settings.arch_state),
        "deep_sleep_timeout": settings.deep_sleep,
        "context_region": place.contexts,
        "stub_start": place.stub_start,
        "context_queue_addr": place.context_queue,
        "spinning_queue_addr": place.spinning_queue,
        "disable_syscall_patching": int(not settings.patching),
        "ready_ring": place.ready_ring,
        "rdpid": int(settings.rdpid),
        "user_resume": int(settings.user_resume),
    }
    return {name: value for name, value in values.items() if sysmsg.has(name)}


def _write_rules(code: "memoryview[int]", place: Layout, address: int, filter_program: bytes, end: int) -> None:
    rules = sock_fprog(filter_program, address)
    if address + len(rules) > end:
        raise PlatformError(
            f"a seccomp program of {len(rules)} bytes does not fit its {end - address} bytes of the stub"
        )
    offset = address - place.stub_start
    code[offset : offset + len(rules)] = rules


def _place(bootstrap: Image, sysmsg: Image, max_threads: int) -> Layout:
    """Reserve a random place for the read-only part (10-stub §1.4), and choose the random gap behind it."""

    def laid_out(stub_start: int, gap: int = 0) -> Layout:
        return layout.compute(PAGE_SIZE, stub_start, gap, len(bootstrap.data), len(sysmsg.data), max_threads + 1)

    low, high = limits.max_user_address(), limits.task_size()
    shape = laid_out(low)
    ro_len, total = shape.ro_end - low, shape.end - low
    for attempt in range(_ATTEMPTS):
        if attempt == 0:
            start = low + _random_pages(high - low - total)
        else:
            holes = [(s, e) for s, e in _holes(low, high - total + ro_len) if e - s > ro_len]
            if not holes:
                break
            hole_start, hole_end = holes[_random(len(holes))]
            start = hole_start + _random_pages(hole_end - hole_start - ro_len)
        flags = mem.MAP_PRIVATE | mem.MAP_ANONYMOUS | mem.MAP_FIXED_NOREPLACE
        if mem.mmap_result(start, ro_len, mem.PROT_READ | mem.PROT_WRITE, flags) == start:
            room = high - start - total
            return laid_out(start, _random_pages(min(room // layout.GAPS, _MAX_GAP)))
    raise PlatformError(f"no room for the stub's {ro_len:#x} bytes between {low:#x} and {high:#x}")


def _random_pages(span: int) -> int:
    """Return a random page multiple below ``span``, from the system's CSPRNG; 0 when there is no choice (S-002)."""
    pages = span // PAGE_SIZE
    return _random(pages) * PAGE_SIZE if pages > 0 else 0


def _random(below: int) -> int:
    return int.from_bytes(os.urandom(8), "little") % below


def _holes(low: int, high: int) -> Iterable[tuple[int, int]]:
    """Yield the unmapped ranges of this process within ``[low, high)``."""
    position = low
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split(" ", 1)[0].split("-"))
            if end <= position:
                continue
            if start >= high:
                break
            if start > position:
                yield position, start
            position = end
    if position < high:
        yield position, high
