"""execve's image: from a path to an address space in which a program is about to run.

``load`` opens the file, follows ``#!`` lines, maps program and interpreter, and builds the first stack. It changes nothing
of the caller: the new image is a new MemoryManager, released again when anything fails.
"""

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap import arch
from systrap.host.sys import PAGE_SIZE
from systrap.sentry import elf
from systrap.sentry.elf import Image, ImageError
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile, drop
from systrap.sentry.mm import MemoryManager
from systrap.sentry.mm_limits import RLIMIT_STACK, DefaultLimits
from systrap.sentry.mm_map import MAP_ANONYMOUS, MAP_DENYWRITE, MAP_FIXED, MAP_PRIVATE, page_up
from systrap.sentry.mm_pages import PAGE_MASK, guest_top
from systrap.sentry.pages import PageStore
from systrap.sentry.stack import StackInfo, build_stack, check_size
from systrap.sentry.vma import PROT_EXEC, PROT_READ, PROT_WRITE, VM_GROWSDOWN, Vma

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

MAX_ARG_STRLEN: Final = 32 * PAGE_SIZE
_MAX_SCRIPT_DEPTH: Final = 5
_SCRIPT_LINE: Final = 256
_LINUX: Final = arch.current().LINUX
_STACK_START_SIZE: Final = 128 << 10
_STACK_GAP_MIN: Final = 128 << 20
_BRK_RANDOM: Final = 13  # bits of pages


class Loaded(NamedTuple):
    """A program ready to run: its memory, where it starts, and what it is called.

    ``path`` is the file that runs (for a script: its interpreter), ``name`` the last component of what was executed
    (the task's comm); ``file`` is open in ``mm.executable``.
    """

    mm: MemoryManager
    ip: int
    sp: int
    path: str
    name: str
    file: OpenFile
    executable_stack: bool


class _Program(NamedTuple):
    """The file to run after all scripts were followed, and its arguments then."""

    file: OpenFile
    path: str
    argv: list[bytes]


def load(
    kernel: "Kernel",
    task: "Task",
    path: "str | bytes",
    argv: "list[bytes]",
    env: "list[bytes]",
    file: OpenFile | None = None,
) -> Loaded:
    """Build the image of the program at ``path`` (or of the open ``file``, for execveat) in a new MemoryManager.

    Raises SyscallError as execve fails (ImageError, with a reason, for unusable files) and PlatformError.
    """
    name = os.fsdecode(path)
    for text in (*argv, *env):
        if len(text) >= MAX_ARG_STRLEN:
            raise SyscallError(errno.E2BIG)
    limits = DefaultLimits() if task.mm is None else task.mm.limits  # type: ignore[redundant-expr] # None at first
    check_size(limits, argv, env)
    held: list[OpenFile] = []
    try:
        program = _resolve(kernel, task, name, argv or [b""], file, held)
        return _load_program(kernel, task, program, name, env, held)
    finally:
        for opened in held:
            drop(opened)


def _open(kernel: "Kernel", task: "Task", path: str, held: list[OpenFile]) -> OpenFile:
    """Open a file to execute and hold it until the end of load()."""
    file = kernel.vfs.open_exec(task, task.fs.cwd, path)
    file.refs += 1
    held.append(file)
    return file


def _check_executable(task: "Task", file: OpenFile) -> None:
    """EACCES unless it is a regular file that this task may execute."""
    stat = file.stat()
    if stat.mode & 0o170000 != 0o100000 or not stat.mode & 0o111:
        raise SyscallError(errno.EACCES)
    creds = task.creds
    if creds.euid == 0:
        return
    if creds.euid == stat.uid:
        bit = 0o100
    elif creds.egid == stat.gid or stat.gid in creds.groups:
        bit = 0o010
    else:
        bit = 0o001
    if not stat.mode & bit:
        raise SyscallError(errno.EACCES)


def _resolve(
    kernel: "Kernel", task: "Task", path: str, argv: "list[bytes]", file: OpenFile | None, held: list[OpenFile]
) -> _Program:
    """Follow ``#!`` lines to a file that is none."""
    for _ in range(_MAX_SCRIPT_DEPTH + 1):
        if file is None:
            file = _open(kernel, task, path, held)
        _check_executable(task, file)
        head = file.pread(_SCRIPT_LINE, 0)
        if head[:2] != b"#!":
            return _Program(file, path, argv)
        interpreter, option = _parse_script(head)
        script = [interpreter] if option is None else [interpreter, option]
        argv = [*script, os.fsencode(path), *argv[1:]]
        path = os.fsdecode(interpreter)
        file = None
    raise SyscallError(errno.ELOOP)


def _parse_script(head: bytes) -> "tuple[bytes, bytes | None]":
    """Return interpreter and optional argument of a ``#!`` line."""
    line, newline, _ = head[2:].partition(b"\n")
    line = line.partition(b"\0")[0]
    if not newline and len(head) == _SCRIPT_LINE and not any(c in line.strip(b" \t") for c in b" \t"):
        # The interpreter's name itself may be cut off.
        raise ImageError(errno.ENOEXEC, "the #! line is too long")
    words = line.strip(b" \t")
    if not words:
        raise ImageError(errno.ENOEXEC, "the #! line names no interpreter")
    cut = min((i for i in (words.find(b" "), words.find(b"\t")) if i >= 0), default=len(words))
    return words[:cut], words[cut:].strip(b" \t") or None


def _random_pages(bits: int) -> int:
    return (int.from_bytes(os.urandom(8), "little") & ((1 << bits) - 1)) * PAGE_SIZE


def _load_program(
    kernel: "Kernel", task: "Task", program: _Program, name: str, env: "list[bytes]", held: list[OpenFile]
) -> Loaded:
    """Map program and interpreter and build the stack."""
    image = _parse(program.file, guest_top(kernel.platform))
    interpreter: OpenFile | None = None
    interpreter_image: Image | None = None
    if image.interpreter is not None:
        interpreter = _open(kernel, task, image.interpreter, held)
        _check_executable(task, interpreter)
        try:
            interpreter_image = _parse(interpreter, guest_top(kernel.platform))
        except ImageError as error:
            raise ImageError(errno.ELIBBAD, f"its interpreter {image.interpreter}: {error.reason}") from None
    mm = MemoryManager(kernel.platform, kernel.memory)
    try:
        if task.mm is not None:
            mm.limits = task.mm.limits
        mm.begin_batch()
        stack_top = _lay_out(mm)
        bias = _map_program(mm, image, program.file)
        entry, base = image.entry + bias, 0
        if interpreter is not None and interpreter_image is not None:
            base = _map_image(mm, interpreter_image, interpreter, None)
            entry = interpreter_image.entry + base
        _note_layout(mm, image, bias)
        _map_stack(mm, stack_top, image.executable_stack)
        _map_sigreturn(mm, kernel.sigreturn_page)
        info = StackInfo(
            program.argv, env, image.headers_address + bias, image.headers_count, base, image.entry + bias, name
        )  # fmt: skip
        sp = build_stack(mm, task.creds, stack_top, info)
        mm.end_batch()
        mm.set_executable(program.file)
    except BaseException:
        mm.release()
        raise
    return Loaded(mm, entry, sp, program.path, os.path.basename(name), program.file, image.executable_stack)


def _parse(file: OpenFile, max_address: int) -> Image:
    image = elf.parse(lambda offset, count: file.pread(count, offset), max_address)
    end = max(segment.offset + segment.file_size for segment in image.segments)
    if end and not file.pread(1, end - 1):
        # Linux would start it, and it would die of SIGBUS somewhere.
        raise ImageError(errno.ENOEXEC, "the file is cut off")
    return image


def _lay_out(mm: MemoryManager) -> int:
    """Choose where stack and mappings go, as Linux does relative to the end of the address space; return the stack's top."""
    top = mm.max_address - _random_pages(_LINUX.stack_random)
    limit = mm.limits.soft(RLIMIT_STACK)
    gap = min(max(limit, _STACK_GAP_MIN) + (PAGE_SIZE << _LINUX.stack_random), mm.max_address // 6 * 5)
    mm.mmap_base = (mm.max_address - page_up(gap) - _random_pages(_LINUX.mmap_random)) & ~PAGE_MASK
    return top


def _pie_base(mm: MemoryManager) -> int:
    """Return where programs that can be anywhere are loaded: two thirds up the address space."""
    return (mm.max_address // 3 * 2 if _LINUX.pie_base is None else _LINUX.pie_base) & ~PAGE_MASK


def _map_program(mm: MemoryManager, image: Image, file: OpenFile) -> int:
    """Map the program itself; return what is added to its addresses."""
    if image.fixed:
        if image.low < mm.min_address:
            raise ImageError(errno.EPERM, f"it wants to be at {image.low:#x}, below vm.mmap_min_addr")
        return _map_image(mm, image, file, 0)
    if image.interpreter is None:
        # A dynamic linker run by hand, or static-pie: like a library.
        return _map_image(mm, image, file, None)
    base = (_pie_base(mm) + _random_pages(_LINUX.mmap_random)) & -image.align
    if base + image.high - image.low > mm.mmap_base:
        return _map_image(mm, image, file, None)
    return _map_image(mm, image, file, base - (image.low & -image.align))


def _map_image(mm: MemoryManager, image: Image, file: OpenFile, bias: int | None) -> int:
    """Map every segment ``bias`` above its address, or where there is room (None); return the bias."""
    if bias is None:
        low = image.low & -image.align
        size = page_up(image.high - low)
        found = mm.map(0, size + image.align - PAGE_SIZE, 0, MAP_PRIVATE | MAP_ANONYMOUS)
        mm.unmap(found, size + image.align - PAGE_SIZE)
        bias = (found + image.align - PAGE_SIZE & -image.align) - low
    for segment in image.segments:
        _map_segment(mm, segment, file, bias)
    return bias


def _map_segment(mm: MemoryManager, segment: elf.Segment, file: OpenFile, bias: int) -> None:
    """Map one segment: its part of the file, the zeros that complete the last page, and anonymous memory behind."""
    start = segment.address + bias
    page = start & ~PAGE_MASK
    file_end = start + segment.file_size
    end = page_up(start + segment.memory_size)
    # Overlapping segments of a fixed program replace each other; anything else in the way is an error.
    bss = page
    if segment.file_size:
        length = page_up(file_end) - page
        flags = MAP_PRIVATE | MAP_FIXED | MAP_DENYWRITE
        mm.map(page, length, segment.prot, flags, file, segment.offset - (start - page))
        bss = page + length
        if segment.memory_size > segment.file_size and segment.prot & PROT_WRITE and file_end < bss:
            mm.zero(file_end, bss - file_end)
    if end > bss:
        mm.map(bss, end - bss, segment.prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)


def _note_layout(mm: MemoryManager, image: Image, bias: int) -> None:
    """Record code, data and the start of the heap."""
    code = [s for s in image.segments if s.prot & PROT_EXEC]
    data = [s for s in image.segments if not s.prot & PROT_EXEC]
    if code:
        mm.code_start = min(s.address for s in code) + bias
        mm.code_end = max(s.address + s.file_size for s in code) + bias
    if data:
        mm.data_start = max(s.address for s in data) + bias
        mm.data_end = max(s.address + s.file_size for s in data) + bias
    start = page_up(image.high + bias)
    if not image.fixed and image.interpreter is None:
        # Leave a program that sits among the libraries a heap that can grow.
        start = _pie_base(mm)
    start += _random_pages(_BRK_RANDOM)
    mm.brk_start = mm.brk_end = start
    mm.data_size = max(mm.data_end - mm.data_start, 0)


def _map_stack(mm: MemoryManager, top: int, executable: bool) -> None:
    """Make the first stack; it grows on demand, within RLIMIT_STACK."""
    prot = PROT_READ | PROT_WRITE | (PROT_EXEC if executable else 0)
    mm.place(Vma(top - _STACK_START_SIZE, top, prot, VM_GROWSDOWN, name="[stack]"))
    mm.stack_start = top


def _map_sigreturn(mm: MemoryManager, page: PageStore) -> None:
    """Map the code that handlers return to, where programs leave that to the kernel. Linux has it in the vDSO."""
    if page.size:
        access = PROT_READ | PROT_EXEC
        at = mm.map_area(0, Vma(0, PAGE_SIZE, access, 0, access, page, name="[sigpage]"), MAP_PRIVATE)
        mm.sigreturn = at + _LINUX.sigreturn_entry
