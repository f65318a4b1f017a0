"""The images in git are what the sources give, and the build refuses what would not work as an image."""

import json
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from blobs import build
from blobs.elf import ElfError, flatten
from systrap.platforms.systrap import abi, blob

BLOBS = Path(build.__file__).resolve().parent
BY_NAME = {arch.name: arch for arch in build.ARCHES}
X86_64 = BY_NAME["x86_64"]
ARM64 = [arch.name for arch in build.ARCHES if arch.cpu == "aarch64"]


@pytest.fixture(scope="module")
def _compiler() -> None:
    try:
        build.check_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))


needs_compiler = pytest.mark.usefixtures("_compiler")


LADDERS = [f"{cpu}-ladder.elf" for cpu in sorted({arch.cpu for arch in build.ARCHES})]


def names() -> list[str]:
    return [f"{arch.name}-{image.name}" for arch in build.ARCHES for image in build.IMAGES]


@needs_compiler
def test_a_rebuild_gives_the_same_bytes() -> None:
    assert build.check() == []


@needs_compiler
def test_check_notices_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in [*(f"{name}.bin" for name in names()), *LADDERS, "manifest.json", "manifest.txt"]:
        shutil.copy(BLOBS / file, tmp_path / file)
    changed = tmp_path / "x86_64-sysmsg.bin"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x01")
    (tmp_path / "manifest.txt").unlink()
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert build.check() == ["x86_64-sysmsg.bin is not what the sources give", "manifest.txt is missing"]


def test_another_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(build, "_zig", lambda *_: "0.13.0\n")
    assert build.main(["--check"]) == 2
    assert "ziglang is 0.13.0; the images are built with 0.15.2" in capsys.readouterr().err


def test_no_compiler_is_told_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert build.main(["--check"]) == 2
    assert "pip install ziglang==0.15.2" in capsys.readouterr().err


@pytest.mark.parametrize("name", names())
def test_the_manifests_describe_the_files(name: str) -> None:
    arch, _, image = name.rpartition("-")
    data = (BLOBS / f"{name}.bin").read_bytes()
    described = json.loads((BLOBS / "manifest.json").read_text())["architectures"][arch]
    entry = described["images"][image]
    assert entry["sha256"] == sha256(data).hexdigest()
    assert entry["size"] == len(data)
    loaded = blob.load(image, arch)
    assert loaded.data == data
    assert loaded.exports == entry["exports"]
    assert loaded.parameters == described["parameters"]


@pytest.mark.parametrize("name", names())
def test_listings_belong_to_the_images(name: str) -> None:
    first = (BLOBS / "listing" / f"{name}.lst").read_text().splitlines()[0]
    digest = sha256((BLOBS / f"{name}.bin").read_bytes()).hexdigest()
    assert first == f"{name}.bin {digest}", "run python -m blobs.build where llvm-objdump is installed"


@pytest.mark.parametrize("name", names())
def test_no_instruction_touches_the_guests_vector_registers(name: str) -> None:
    text = (BLOBS / "listing" / f"{name}.lst").read_text()
    assert "xmm" not in text
    assert "ymm" not in text


def instructions(image: str, function: str) -> list[str]:
    """Return a function of an x86-64 image, one instruction a line."""
    text = (BLOBS / "listing" / f"x86_64-{image}.lst").read_text()
    body = text.partition(f"<{function}>:\n")[2].partition("\n\n")[0]
    assert body, function
    return [line.partition(":")[2].strip() for line in body.splitlines()]


def position(lines: list[str], *parts: str) -> int:
    return next(i for i, line in enumerate(lines) if all(part in line for part in parts))


def test_the_state_is_stored_with_a_full_fence() -> None:
    """S-063: an xchg with ctx.state, then a look at sentry_fast_path. Running code shows a missing fence too seldom."""
    lines = instructions("sysmsg", "give_back")
    state, fast_path = f"{abi.STATE}(", f"{abi.SENTRY_FAST_PATH}("
    assert position(lines, "xchg", state) < position(lines, fast_path)


def test_a_fence_stands_between_the_ready_entry_and_the_question_whether_the_sentry_sleeps() -> None:
    lines = instructions("sysmsg", "push_ready")
    assert position(lines, f"{abi.RING_SLOTS}(") < position(lines, "mfence") < position(lines, f"{abi.RING_WAITING}(")


def test_a_fence_stands_between_the_announcement_and_the_last_look() -> None:
    lines = instructions("sentry", "__export_next_ready")
    announce = position(lines, "movl", "$1", f"{abi.RING_WAITING}(")
    assert announce < position(lines, "mfence")


# ---- arm64 ----


def arm64_instructions(name: str) -> list[tuple[str, str]]:
    """Return every instruction of an arm64 image as mnemonic and operands."""
    found: list[tuple[str, str]] = []
    for line in (BLOBS / "listing" / f"{name}.lst").read_text().splitlines():
        address, colon, text = line.partition(":")
        if colon and text.strip() and not address.strip().startswith("0000") and "<" not in address:
            mnemonic, _, operands = text.strip().partition(" ")
            found.append((mnemonic, operands.strip()))
    assert found
    return found


ARM64_IMAGES = [name for name in names() if name.startswith("aarch64")]

LSE = re.compile(
    r"(cas|casp|swp|ld(add|clr|eor|set|smax|smin|umax|umin)|st(add|clr|eor|set|smax|smin|umax|umin))(a|l|al)?[bh]?"
)
VECTOR = re.compile(r"\b[vqdshb]([0-9]|[12][0-9]|3[01])\b|\b[zp][0-9]+\b")


@pytest.mark.parametrize("name", ARM64_IMAGES)
def test_arm64_images_run_on_the_oldest_cpus(name: str) -> None:
    """No atomics of ARMv8.1, no weaker acquire of ARMv8.3 (the arguments about wake-ups rest on ldar), no pointer signing."""
    for mnemonic, operands in arm64_instructions(name):
        assert not LSE.fullmatch(mnemonic), (mnemonic, operands)
        assert not mnemonic.startswith(("ldapr", "ldapur", "pac", "aut", "bti", "reta")), (mnemonic, operands)


@pytest.mark.parametrize("name", ARM64_IMAGES)
def test_arm64_images_use_general_registers_only(name: str) -> None:
    """Vector registers are the guest's from the moment it is interrupted."""
    for mnemonic, operands in arm64_instructions(name):
        assert not VECTOR.search(operands.partition("<")[0]), (mnemonic, operands)


def test_the_patterns_would_notice() -> None:
    for mnemonic in ("casal", "swpl", "ldaddal", "stadd", "ldsetb"):
        assert LSE.fullmatch(mnemonic)
    for mnemonic in ("ldaxr", "stlxr", "ldar", "stlr", "ldr", "stp", "cset"):
        assert not LSE.fullmatch(mnemonic)
    for operands in ("q0, [x1]", "d8, d9, [sp]", "v31.16b, v0.16b", "z3.d", "w0, s7"):
        assert VECTOR.search(operands)
    for operands in ("x0, [x1, #16]", "w9, wzr", "x30, [sp], #16", "TPIDR_EL0, x8"):
        assert not VECTOR.search(operands)


def arm64_function(image: str, function: str) -> list[str]:
    text = (BLOBS / "listing" / f"aarch64-4k-{image}.lst").read_text()
    body = text.partition(f"<{function}>:\n")[2].partition("\n\n")[0]
    assert body, function
    return [re.sub(r"\s+", " ", line.partition(":")[2].strip()) for line in body.splitlines()]


def address_of(lines: list[str], at: int) -> int:
    """Return the offset in its structure of the word that the ldar or stlr at this place accesses: "add x8, x1, #4016"."""
    register = lines[at].partition("[")[2].strip("]")
    for line in reversed(lines[:at]):
        match = re.fullmatch(rf"add {register}, x\d+, #(\d+)", line)
        if match:
            return int(match[1])
    raise AssertionError(lines[at])


def test_arm64_state_is_released_and_the_fast_path_word_acquired() -> None:
    """S-063: stlr of ctx.state, then ldar of sentry_fast_path; arm64 keeps a release in front of a later acquire."""
    lines = arm64_function("sysmsg", "give_back")
    accesses = [
        (line.split()[0], address_of(lines, i)) for i, line in enumerate(lines) if line.startswith(("stlr ", "ldar "))
    ]
    shape = abi.AARCH64_SHAPE
    expected = [
        ("stlr", shape.last_thread_id), ("stlr", shape.state_changed_time), ("stlr", shape.thread_id),
        ("stlr", shape.state), ("ldar", shape.sentry_fast_path),
    ]  # fmt: skip
    assert accesses[: len(expected)] == expected


def test_arm64_taking_a_context_is_in_order_with_its_interrupt_flag() -> None:
    """Who takes a context stores thread_id with release; switch_context loads the flag with acquire, as its comment argues."""
    taking = arm64_function("sysmsg", "get_context")
    stores = [address_of(taking, i) for i, line in enumerate(taking) if line.startswith("stlr ") and "wzr" not in line]
    assert abi.AARCH64_SHAPE.thread_id in {offset for offset in stores if offset > abi.PTREGS}
    switching = arm64_function("sysmsg", "switch_context")
    first = next(i for i, line in enumerate(switching) if line.startswith("ldar "))
    assert address_of(switching, first) == abi.AARCH64_SHAPE.interrupt


def test_arm64_fences_stand_where_the_x86_ones_do() -> None:
    """A ready entry, then the question whether the sentry sleeps; the announcement, then the last look."""
    push = arm64_function("sysmsg", "push_ready")
    assert position(push, "stlr") < position(push, "dmb ish") < len(push) - 1 - position(push[::-1], "ldar")
    wait = arm64_function("sentry", "__export_next_ready")
    assert any(line == "dmb ish" for line in wait)


@pytest.mark.parametrize("function", ["atomic_add32", "atomic_xchg32", "atomic_cas32"])
def test_arm64_operations_for_python_end_with_a_fence(function: str) -> None:
    """Python's own loads are plain ones: without the fence they could be done before the operation is seen."""
    lines = arm64_function("sentry", f"__export_{function}")
    assert position(lines, "ldaxr") < position(lines, "stlxr") < position(lines, "dmb ish") < position(lines, "ret")


@pytest.mark.parametrize(("function", "access"), [
    ("load_acquire32", "ldar w0, [x0]"), ("load_acquire64", "ldar x0, [x0]"),
    ("store_release32", "stlr w1, [x0]"), ("store_release64", "stlr x1, [x0]"),
])  # fmt: skip
def test_arm64_loads_acquire_and_stores_release(function: str, access: str) -> None:
    assert arm64_function("sentry", f"__export_{function}") == [access, "ret"]


def test_arm64_replies_are_released_and_requests_acquired() -> None:
    """The bootstrap's two ends of the channel: stlr of the reply's number, ldar of the request's."""
    text = (BLOBS / "listing" / "aarch64-4k-bootstrap.lst").read_text()
    reply = text.partition("<batch_done>:")[2]
    assert reply.index("stlr") < reply.index("svc")
    assert "ldar" in text.partition("<futex_loop>:")[2].partition("svc")[0]


def test_arm64_page_sizes_share_one_sentry_image() -> None:
    """Only the parts that live in stubs know the page size."""
    assert len({blob.load("sentry", name).data for name in ARM64}) == 1
    assert len({blob.load("sysmsg", name).data for name in ARM64}) == len(ARM64) == 3
    assert len({blob.load("bootstrap", name).data for name in ARM64}) == 3


@pytest.mark.parametrize("name", ARM64)
def test_arm64_exports(name: str) -> None:
    """10-stub §1.5: upstream's eleven, and one of ours; arch_state has four bytes, aligned."""
    image = blob.load("sysmsg", name)
    assert set(image.exports) == {*blob.load("sysmsg", "x86_64").exports, "start"}
    assert image.offset("restore_rt") == 0
    assert image.data[image.offset("deep_sleep_timeout") : image.size].strip(b"\0") == b""
    assert all(image.offset(export) % 8 == 0 for export in ("arch_state", "context_region", "ready_ring"))
    assert "counter_frequency" in blob.load("sentry", name).exports


def test_upstreams_ten_exports_are_there() -> None:
    """10-stub §1.5: all ten of amd64, and three of ours."""
    assert set(blob.load("sysmsg", "x86_64").exports) == {
        *("deep_sleep_timeout", "context_region", "stub_start", "arch_state", "context_queue_addr"),
        *("spinning_queue_addr", "disable_syscall_patching", "sighandler", "restore_rt", "syshandler"),
        *("ready_ring", "rdpid", "user_resume"),
    }


def test_variables_are_zero_and_aligned() -> None:
    image = blob.load("sysmsg", "x86_64")
    for name in ("context_region", "stub_start", "arch_state", "context_queue_addr", "ready_ring"):
        assert image.offset(name) % 8 == 0
        assert image.data[image.offset(name) : image.offset(name) + 8] == bytes(8)


def link(tmp_path: Path, source: str) -> bytes:
    """Build an image out of one C file, with the flags of the real ones."""
    (tmp_path / "bad.c").write_text(source)
    image = build.ImageSources("bad", (str(tmp_path / "bad.c"),), ())
    return build.build_image(X86_64, image, tmp_path / "scratch")[0].data


@needs_compiler
@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("int __export_x = 1; int f(void) { return __export_x; }", "no writable data"),
        ("static int x; int f(void) { return x++; }", "no writable data"),
        ("extern int g(void); int f(void) { return g(); }", "undefined"),
        ("int g; int *const p = &g; int f(void) { return *p; }", "no writable data|relocation"),
        ("int f(void); int (*const table[])(void) = {f}; int f(void) { return 1; }", "relocation|unable to place"),
        ("double f(double x) { return x * 2; }", "SSE|undefined|error"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, source: str, complaint: str) -> None:
    (tmp_path / "scratch").mkdir()
    with pytest.raises(build.BuildError, match=complaint):
        link(tmp_path, source)


@needs_compiler
def test_a_plain_function_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    assert link(tmp_path, "int f(int x) { return x + 1; }")


def test_something_else_is_no_elf_file() -> None:
    with pytest.raises(ElfError, match="not a 64-bit"):
        flatten(bytes(64))


def test_an_ordinary_program_is_no_image() -> None:
    with pytest.raises(ElfError, match="sections .blob"):
        flatten(Path("/bin/true").read_bytes())


@pytest.mark.slow
def test_the_wheel_carries_the_images(tmp_path: Path) -> None:
    """What pip installs can load its images without a source tree."""
    copied = tmp_path / "source"
    shutil.copytree(BLOBS.parent, copied, ignore=shutil.ignore_patterns(".*", "build", "tests", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(copied)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0 and "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("pip cannot get setuptools here")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "installed"
    shutil.unpack_archive(wheel, target, "zip")
    code = "from systrap.platforms.systrap import blob; print([blob.load(name).size for name in blob.IMAGES])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=target, check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == str([blob.load(name).size for name in blob.IMAGES])
    assert not (target / "blobs").exists(), "the build script is no top-level package of the wheel"
