"""Hosts and CPUs that this machine is not, as fakes or by force (docs/spec.md, "Not run here")."""

import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from systrap.host import limits
from systrap.host.sys import NR
from systrap.platform import RequirementError
from systrap.platforms.systrap import abi, fpu
from tests.blobs import guest as bytes_of
from tests.blobs.play import DATA, SITE, SYSCALL, TRAP, load, patch, peek
from tests.blobs.stub import Stub, new_world, running_stub
from tests.blobs.world import TABLE, World
from tests.platforms import guest
from tests.platforms.kernel import DATA as GUEST_DATA
from tests.platforms.kernel import Kernel, eventually, is_syscall, reg
from tests.spec import support

Leaves = Mapping[tuple[int, int], tuple[int, int, int, int]]
XSAVE = 3 << 26


def cpu(leaves: Leaves) -> fpu.Cpuid:
    """Return the CPUID of a CPU that only has these leaves."""
    return lambda leaf, subleaf: leaves.get((leaf, subleaf), (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ({}, fpu.ArchState(fpu.FXSAVE, 512, 0)),
        ({(1, 0): (0, 0, 1 << 26, 0)}, fpu.ArchState(fpu.FXSAVE, 512, 0)),
        ({(1, 0): (0, 0, XSAVE, 0), (0xD, 0): (7, 832, 832, 0)}, fpu.ArchState(fpu.XSAVE, 832, 0)),
        ({(1, 0): (0, 0, XSAVE, 0), (0xD, 0): (7, 832, 832, 0), (0xD, 1): (1, 0, 0, 0)}, (fpu.XSAVEOPT, 832, 0)),
        ({(1, 0): (0, 0, XSAVE, 0), (0xD, 0): (0xE7, 2688, 2688, 0), (7, 0): (0, 1, 0, 0)}, (fpu.XSAVE, 2688, 1)),
        ({(1, 0): (0, 0, XSAVE, 0), (0xD, 0): (0x2E7, 2696, 2696, 0)}, (fpu.XSAVE, 2696, 0)),
        (
            {(1, 0): (0, 0, XSAVE, 0), (0xD, 0): (0x602E7, 11008, 11008, 0), (0xD, 18): (8192, 2816, 0, 0)},
            (fpu.XSAVE, 2816, 0),
        ),
        ({(1, 0): (0, 0, XSAVE, 0), (0xD, 0): (0x2E7, 2696, 11008, 0), (0xD, 18): (8192, 2816, 0, 0)}, (1, 2696, 0)),
    ],
    ids=["none", "not enabled", "avx", "xsaveopt", "avx512", "pkru", "amx", "amx not enabled"],
)
def test_fp_state_of_other_cpus(leaves: Leaves, expected: tuple[int, int, int]) -> None:
    """S-045, S-047, S-023, P-064: mode and size for CPUs from FXSAVE to AMX; tile data never counts."""
    assert fpu.probe(cpu(leaves), 2) == expected


def test_fp_state_of_a_cpu_to_come() -> None:
    """S-023: what does not fit a slot is refused before anything is made."""
    fits = {(1, 0): (0, 0, XSAVE, 0), (0xD, 0): (0, abi.FPSTATE_SIZE - 4, 0, 0)}
    assert fpu.probe(cpu(fits), 0).fp_len == abi.FPSTATE_SIZE - 4
    with pytest.raises(RequirementError):
        fpu.probe(cpu({**fits, (0xD, 0): (0, abi.FPSTATE_SIZE - 3, 0, 0)}), 0)


@contextmanager
def stub_of(monkeypatch: pytest.MonkeyPatch, mode: int, fp_len: int | None) -> Iterator[Stub]:
    """Run a stub that saves FP state in a given way."""
    monkeypatch.setattr(World, "_xsave_mode", lambda _: mode)
    if fp_len is not None:
        monkeypatch.setattr(World, "_fp_len", lambda _: fp_len)
    with new_world() as world, running_stub(world) as one:
        one.start_thread(1)
        yield one


@pytest.mark.parametrize(
    ("mode", "fp_len"),
    [(fpu.FXSAVE, 512), (fpu.XSAVE, None), (fpu.XSAVEOPT, None)],
    ids=["fxsave", "xsave", "xsaveopt"],
)
def test_each_way_to_save_fp_state(monkeypatch: pytest.MonkeyPatch, mode: int, fp_len: int | None) -> None:
    """S-045, S-046, P-064: on both ways into the stub, with other contexts on the same thread in between."""
    with stub_of(monkeypatch, mode, fp_len) as one:
        if mode == fpu.XSAVEOPT and not one.world._cpuid(0xD, 1)[0] & 1:
            pytest.skip("this CPU has no XSAVEOPT")
        patch(one, TABLE + 80, SITE, 39)
        load(one, bytes_of.STORE_XMM0_TO_RDI, bytes_of.SYSCALL, at=SITE + 7)
        load(one, bytes_of.LOAD_XMM0_FROM_RBX, bytes_of.SYSCALL, bytes_of.jump(SITE, SITE - 58))
        contexts = [one.context(number) for number in range(3)]
        for number, context in enumerate(contexts):
            load(one, bytes([number + 1]) * 16, at=DATA + 32 * number)
            context["rbx"], context["rdi"] = DATA + 32 * number, DATA + 512 + 32 * number
        for wanted in (SYSCALL, TRAP, SYSCALL):
            for context in contexts:
                assert one.run(context) == wanted
        for number in range(3):
            assert peek(one, DATA + 512 + 32 * number, 16) == bytes([number + 1]) * 16


def test_software_area_of_a_cpu_without_xsave(monkeypatch: pytest.MonkeyPatch) -> None:
    """S-046: no second magic where there is no extended state; the kernel then loads the legacy part alone."""
    with stub_of(monkeypatch, fpu.FXSAVE, 512) as one:
        load(one, bytes_of.SPIN)
        context = one.context(0)
        one.submit(context)
        assert eventually(lambda: struct.unpack_from("<I", context.words.bytes, 464)[0] == 0x46505853)
        assert eventually(lambda: context.words.u32(abi.THREAD_ID) == 1)
        assert struct.unpack_from("<I", context.words.bytes, 512) == (0,)
        one.interrupt(1)
        assert one.next() == 0


@pytest.mark.parametrize(
    ("candidates", "size", "limit"),
    [
        (limits._CANDIDATES, (1 << 56) - 4096, 0xFE000000000000),
        (limits._CANDIDATES, (1 << 47) - 4096, 0x7F0000000000),
        ((1 << 52, 1 << 48, 1 << 39), 1 << 48, 0xFE0000000000),
        ((1 << 52, 1 << 48, 1 << 39), 1 << 39, 0x7F00000000),
    ],
    ids=["5 levels", "4 levels", "arm64-48", "arm64-39"],
)
def test_sizes_of_address_spaces(
    monkeypatch: pytest.MonkeyPatch, candidates: tuple[int, ...], size: int, limit: int
) -> None:
    """S-001, P-006: the largest candidate that the host knows, and its top 128th is not the guests'."""
    monkeypatch.setattr(limits, "_CANDIDATES", candidates)
    monkeypatch.setattr(limits, "mmap_result", lambda addr, *_: -12 if addr > size else -22)
    limits.task_size.cache_clear()
    try:
        assert (limits.task_size(), limits.max_user_address()) == (size, limit)
    finally:
        limits.task_size.cache_clear()


def test_a_host_that_answers_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """S-001: any other answer than the two known ones is an error, not a guess."""
    monkeypatch.setattr(limits, "mmap_result", lambda *_: -1)
    limits.task_size.cache_clear()
    try:
        with pytest.raises(OSError, match="EPERM"):
            limits.task_size()
    finally:
        limits.task_size.cache_clear()


RUN = """
from systrap import platform
from tests.platforms import guest
from tests.platforms.kernel import Kernel, is_syscall
from tests.spec import support
kernel = Kernel(platform.lookup("systrap").new(platform.Options()), "submit")
space = kernel.space(guest.CALLS)
for _ in range(50):
    assert is_syscall(kernel.run(kernel.context(rax=39), space))
where = support.place(kernel.platform)
for pid in (support.environment(kernel.platform).source.pid, space.stub.pid):
    for one in support.maps(pid):
        assert one.start >= where.stub_start or one.start == 0x10000000, one
kernel.close()
"""


@pytest.mark.parametrize(
    "host",
    [
        "from systrap.platforms.systrap.source import Source; Source._forget_the_sentry = Source._unmap_piecemeal",
        "from systrap.platforms.systrap import platform as p; p._has_listener = lambda: False",
        "from systrap.platforms.systrap import dispatcher as d; real = d.syscall;"
        f"d.syscall = lambda nr, *rest: -38 if nr == {NR['futex_waitv']} else real(nr, *rest)",
    ],
    ids=["sealed vdso", "no listener", "no futex_waitv"],
)
def test_older_and_newer_kernels(host: str) -> None:
    """S-007, P-033, P-115: a vdso that cannot be unmapped with its neighbours, no listener, nothing to sleep on but one word."""
    subprocess.run([sys.executable, "-c", f"{host}\n{RUN}"], check=True)


def test_a_frozen_cgroup(server: Kernel) -> None:
    """P-114, S-130: a stub that was frozen and thawed serves as before."""
    group = Path("/sys/fs/cgroup/freezer/systrap-test-spec")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no freezer to be had: {error}")
    space = server.space(guest.LOAD)
    pid = support.stub(space).pid
    try:
        (group / "cgroup.procs").write_text(str(pid))
        for number in range(1, 6):
            (group / "freezer.state").write_text("FROZEN")
            assert eventually(lambda: (group / "freezer.state").read_text().strip() == "FROZEN")
            (group / "freezer.state").write_text("THAWED")
            server.map(space, GUEST_DATA, bytes([number]) * 8)
            context = server.context(rdi=GUEST_DATA)
            assert is_syscall(server.run(context, space))
            assert reg(context, "r10") == int.from_bytes(bytes([number]) * 8, "little")
    finally:
        (group / "freezer.state").write_text("THAWED")
        support.stub(space).kill()
        assert eventually(lambda: support.gone(pid))
        assert eventually(lambda: not (group / "cgroup.procs").read_text().split())
        group.rmdir()
