"""Images and first stacks: hand-made ELF files, good and bad, and the host's own programs."""

import errno
import os
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systrap import arch
from systrap.sentry import elf, loader, stack
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile
from systrap.sentry.mappable import Mappable
from systrap.sentry.mm import MemoryManager
from systrap.sentry.pages import PageStore
from tests.sentry.fake_platform import PAGE, CheckedMemoryFile, FakePlatform
from tests.sentry.test_mm_model import HostContents

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

MAX = 0x7F0000000000
NATIVE = arch.current().ELF_MACHINE


def segment(
    kind: int, flags: int, offset: int, address: int, file_size: int, memory_size: int, align: int = PAGE
) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, file_size, memory_size, align)


def image(
    *segments: bytes, kind: int = 2, machine: int = NATIVE, entry: int = 0x400100, entry_size: int = 56, bits: int = 2
) -> bytes:
    ident = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, kind, machine, 1, entry, 64, 0, 0, 64, entry_size, len(segments), 0, 0, 0
    )  # fmt: skip
    return header + b"".join(segments)


CODE = segment(1, 5, 0, 0x400000, 0x200, 0x200)


def parse(data: bytes) -> elf.Image:
    return elf.parse(lambda offset, count: data[offset : offset + count], MAX)


def test_good_image() -> None:
    parsed = parse(image(CODE, segment(1, 6, 0x200, 0x401200, 0x10, 0x5000), segment(0x6474E551, 6, 0, 0, 0, 0)))
    assert parsed.fixed
    assert parsed.low == 0x400000
    assert parsed.high == 0x406200
    assert parsed.headers_address == 0x400040
    assert [s.prot for s in parsed.segments] == [5, 3]
    assert not parsed.executable_stack


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (b"", errno.ENOEXEC),
        (b"MZ", errno.ENOEXEC),
        (b"\x7fELF", errno.ENOEXEC),
        (image(CODE)[:100], errno.ENOEXEC),
        (image(CODE, machine=243), errno.ENOEXEC),
        (image(CODE, bits=1), errno.ENOEXEC),
        (image(CODE, kind=1), errno.ENOEXEC),
        (image(CODE, entry_size=40), errno.ENOEXEC),
        (image(), errno.ENOEXEC),
        (image(segment(4, 4, 0, 0, 0, 0)), errno.ENOEXEC),
        (image(segment(1, 5, 0, 0x400000, 0x300, 0x200)), errno.EINVAL),
        (image(segment(1, 5, 0, 0x400000, 0, 1 << 63)), errno.ENOMEM),
        (image(segment(1, 5, 0, (1 << 64) - PAGE, 0, PAGE)), errno.ENOMEM),
        (image(segment(1, 5, 8, 0x400000, 0x200, 0x200)), errno.EINVAL),
        (image(CODE, segment(3, 4, 1 << 63, 0, 20, 20)), errno.ENOEXEC),
        (image(CODE, segment(3, 4, 0, 0, 1, 1)), errno.ENOEXEC),
        (image(CODE, segment(3, 4, 0, 0, 21, 21)), errno.ENOEXEC),
    ],
)
def test_bad_images(data: bytes, number: int) -> None:
    with pytest.raises(elf.ImageError) as caught:
        parse(data)
    assert caught.value.errno == number
    assert caught.value.reason


class DiskFile(OpenFile):
    """Bytes as a program file."""

    def __init__(self, content: bytes, mode: int = 0o100755) -> None:
        super().__init__(0)
        self.content = content
        self.mode = mode
        self.contents = HostContents(content)

    def pread(self, count: int, offset: int) -> bytes:
        return self.content[offset : offset + count]

    def mappable(self) -> Mappable:
        return self.contents

    def stat(self) -> "SimpleNamespace":  # type: ignore[override] # the attributes the loader looks at
        return SimpleNamespace(mode=self.mode, uid=0, gid=0, dev=0, ino=1)

    def release(self) -> None:
        os.close(self.contents.fd)


class Disk:
    """Paths to contents; what is not among them comes from the host."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def open_exec(self, task: object, at: object, path: str) -> OpenFile:
        if path in self.files:
            return DiskFile(self.files[path])
        try:
            with open(path, "rb") as file:
                return DiskFile(file.read())
        except OSError as error:
            raise SyscallError(error.errno or errno.EIO) from None


class World:
    """A kernel and a task, as far as the loader looks."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.platform = FakePlatform()
        self.memory = CheckedMemoryFile(self.platform)
        creds = SimpleNamespace(uid=1, euid=0, gid=3, egid=4, groups=())
        self.kernel = SimpleNamespace(
            platform=self.platform, memory=self.memory, vfs=Disk(files), sigreturn_page=PageStore(self.memory)
        )
        self.task = SimpleNamespace(mm=None, fs=SimpleNamespace(cwd=None), creds=creds)

    def load(self, path: str, argv: list[bytes], env: list[bytes]) -> loader.Loaded:
        return loader.load(cast("Kernel", self.kernel), cast("Task", self.task), path, argv, env)

    def end(self) -> None:
        assert not self.platform.spaces
        assert not self.memory.live
        self.memory.close()


def words(mm: MemoryManager, sp: int) -> tuple[list[bytes], list[bytes], dict[int, int]]:
    """Read a first stack as a program would."""
    argc = mm.read_u64(sp)
    sp += 8
    lists: list[list[bytes]] = []
    for _ in range(2):
        texts = []
        while pointer := mm.read_u64(sp):
            texts.append(mm.read_string(pointer))
            sp += 8
        sp += 8
        lists.append(texts)
    assert argc == len(lists[0])
    auxv = {}
    while key := mm.read_u64(sp):
        auxv[key] = mm.read_u64(sp + 8)
        sp += 16
    return lists[0], lists[1], auxv


def test_first_stack() -> None:
    code = image(CODE, segment(1, 6, 0x100, 0x401100, 0x10, 0x5000)).ljust(0x200, b"c")
    world = World({"/prog": code})
    loaded = world.load("/prog", [b"prog", b"", b"x"], [b"A=1", b"B"])
    mm = loaded.mm
    assert loaded.sp % 16 == 0
    assert loaded.ip == 0x400100
    assert loaded.name == "prog"
    argv, env, auxv = words(mm, loaded.sp)
    assert argv == [b"prog", b"", b"x"]
    assert env == [b"A=1", b"B"]
    assert auxv[stack.AT_PHDR] == 0x400040
    assert auxv[stack.AT_PHNUM] == 2
    assert auxv[stack.AT_ENTRY] == 0x400100
    assert auxv[stack.AT_BASE] == 0
    assert auxv[stack.AT_UID] == 1
    assert auxv[stack.AT_EGID] == 4
    assert auxv[stack.AT_SECURE] == 1
    assert mm.read_string(auxv[stack.AT_EXECFN]) == b"/prog"
    assert mm.read_string(auxv[stack.AT_PLATFORM]) == arch.current().NAME.encode()
    assert mm.read(auxv[stack.AT_RANDOM], 16) != bytes(16)
    assert mm.read(mm.arg_start, mm.arg_end - mm.arg_start) == b"prog\0\0x\0"
    assert mm.read(mm.env_start, mm.env_end - mm.env_start) == b"A=1\0B\0"
    assert mm.read(0x401110, PAGE) == bytes(PAGE), "zeros follow the file's part"
    assert mm.read(0x405000, 8) == bytes(8)
    assert mm.brk(0) >= 0x407000
    assert b"[stack]" in mm.maps_text()
    mm.release()
    world.end()


@given(st.lists(st.tuples(st.integers(0, 0x140), st.integers(0, 255)), max_size=12), st.integers(0, 0x400))
@settings(max_examples=200, deadline=None)
def test_mutilated_images(changes: "list[tuple[int, int]]", length: int) -> None:
    data = bytearray(
        image(
            CODE, segment(1, 6, 0x200, 0x401200, 0x10, 0x5000), segment(3, 4, 0x120, 0x400120, 4, 4), kind=3
        ).ljust(0x120, b"c")
        + b"/sh\0".ljust(0x200, b"d")
    )  # fmt: skip
    for at, value in changes:
        data[at] = value
    world = World({"/prog": bytes(data[: max(length, 0x100)]), "/sh": image(CODE).ljust(0x200, b"c")})
    world.platform.quiet = True
    try:
        world.load("/prog", [b"x"], []).mm.release()
    except SyscallError as error:
        assert error.errno  # noqa: PT017 - any errno will do, no exception of another kind
    world.end()


def test_scripts() -> None:
    code = image(CODE).ljust(0x200, b"c")
    world = World({"/sh": code, "/a": b"#! /sh  -x y \nrest", "/b": b"#!/a", "/loop": b"#!/loop\n", "/none": b"#!\n"})
    loaded = world.load("/b", [b"b", b"arg"], [])
    assert words(loaded.mm, loaded.sp)[0] == [b"/sh", b"-x y", b"/a", b"/b", b"arg"]
    assert loaded.name == "b"
    assert loaded.path == "/sh"
    loaded.mm.release()
    for path, number in (("/loop", errno.ELOOP), ("/none", errno.ENOEXEC), ("/missing", errno.ENOENT)):
        with pytest.raises(SyscallError) as caught:
            world.load(path, [b"x"], [])
        assert caught.value.errno == number
    world.end()


def test_refusals() -> None:
    dynamic = image(CODE, segment(3, 4, 0xB0, 0, 5, 5)) + b"/bad\0"
    world = World(
        {
            "/low": image(segment(1, 5, 0, 0, 0x200, 0x200)).ljust(0x200),
            "/dyn": dynamic.ljust(0x200),
            "/bad": b"not ELF",
            "/cut": image(CODE),
        }
    )
    with pytest.raises(elf.ImageError) as image_error:
        world.load("/cut", [b"x"], [])
    assert image_error.value.reason == "the file is cut off"
    with pytest.raises(elf.ImageError) as image_error:
        world.load("/dyn", [b"x"], [])
    assert image_error.value.errno == errno.ELIBBAD
    assert "/bad" in image_error.value.reason
    with pytest.raises(SyscallError) as caught:
        world.load("/low", [b"x"], [])
    assert caught.value.errno == errno.EPERM
    with pytest.raises(SyscallError) as caught:
        world.load("/low", [b"x" * (1 << 17)], [])
    assert caught.value.errno == errno.E2BIG
    with pytest.raises(SyscallError) as caught:
        world.load("/low", [b"x" * 100000] * 70, [])
    assert caught.value.errno == errno.E2BIG
    world.end()


@pytest.mark.skipif(not os.path.exists("/bin/true"), reason="needs /bin/true")
def test_host_program() -> None:
    world = World({})
    loaded = world.load("/bin/true", [b"true"], [b"PATH=/bin"])
    mm = loaded.mm
    text = mm.vmas.find(loaded.ip)
    assert text is not None
    assert text.prot == 5
    _, _, auxv = words(mm, loaded.sp)
    assert mm.read(auxv[stack.AT_PHDR] - 64, 4) == b"\x7fELF"
    child = mm.fork()
    assert child.maps_text() == mm.maps_text()
    mm.release()
    child.release()
    world.end()
