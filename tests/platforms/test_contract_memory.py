"""Mapping: what guests see of it, and what fails how (20-platform §1.3, §4)."""

import errno
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from systrap.platform import Access, AddressSpace, EventKind, MapError, MapRequest, UnmapRequest
from tests.platforms import guest
from tests.platforms.kernel import (
    CODE,
    DATA,
    PAGE,
    SUBMIT,
    Kernel,
    R,
    W,
    X,
    addr,
    children,
    is_syscall,
    reg,
    set_reg,
    signo,
)


def load(kernel: Kernel, space: AddressSpace, address: int = DATA) -> int:
    """Let a guest load a word in a space with LOAD code, and return it."""
    context = kernel.context(rdi=address)
    event = kernel.run(context, space)
    assert is_syscall(event), event
    word = reg(context, "r10")
    context.release()
    return word


def loading_space(kernel: Kernel) -> AddressSpace:
    """Return a space whose code loads from rdi into r10, then makes a call."""
    return kernel.space(guest.LOAD)


def test_fresh_space_is_empty(kernel: Kernel) -> None:
    """# P-020, P-033."""
    limit = kernel.platform.max_user_address()
    before = children()
    kernel.platform.new_address_space()
    for pid in children() - before:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            assert int(line.split("-")[0], 16) >= limit, line


def test_guest_finds_nothing_in_a_fresh_space(kernel: Kernel) -> None:
    """# P-020."""
    event = kernel.run(kernel.context(0x7777000), kernel.platform.new_address_space())
    assert (signo(event), addr(event), event.access) == (signal.SIGSEGV, 0x7777000, X)


def test_file_content_is_seen_both_ways(kernel: Kernel) -> None:
    """# P-021."""
    space = loading_space(kernel)
    offset = kernel.map(space, DATA, b"12345678")
    assert load(kernel, space) == int.from_bytes(b"12345678", "little")
    space.map_file(CODE, kernel.file, kernel.page(guest.STORE), PAGE, R | X)
    kernel.run(kernel.context(rdi=DATA, rax=0xABCD), space)
    assert kernel.word(offset) == 0xABCD


def test_map_replaces(kernel: Kernel) -> None:
    """# P-022."""
    space = loading_space(kernel)
    kernel.map(space, DATA, b"first...")
    assert load(kernel, space) == int.from_bytes(b"first...", "little")
    kernel.map(space, DATA, b"second..")
    assert load(kernel, space) == int.from_bytes(b"second..", "little")


@pytest.mark.parametrize(
    ("code", "access"),
    [(guest.STORE, R), (guest.STORE, R | X), (guest.JUMP, R | W), (guest.JUMP, R)],
    ids=["write-r", "write-rx", "execute-rw", "execute-r"],
)
def test_protection_is_exact(kernel: Kernel, code: bytes, access: Access) -> None:
    """# P-023."""
    space = kernel.space(code)
    kernel.map(space, DATA, guest.CALLS, access)
    event = kernel.run(kernel.context(rdi=DATA), space)
    assert (signo(event), addr(event)) == (signal.SIGSEGV, DATA)
    assert event.access == (W if code == guest.STORE else X)


def test_unmapped_memory_faults(kernel: Kernel) -> None:
    """# P-023, P-025."""
    space = loading_space(kernel)
    kernel.map(space, DATA)
    assert load(kernel, space) == 0
    space.unmap(DATA, PAGE)
    event = kernel.run(kernel.context(rdi=DATA), space)
    assert (signo(event), addr(event), event.access) == (signal.SIGSEGV, DATA, R)


def test_unmap_stops_a_running_guest(kernel: Kernel) -> None:
    """# P-024."""
    space = kernel.space(guest.COUNT_SPIN)
    offset = kernel.map(space, DATA)
    context = kernel.context(rdi=DATA)
    seen: list[int] = []

    def unmap_later() -> None:
        while kernel.word(offset) < 1000:
            time.sleep(0.001)
        space.unmap(DATA, PAGE)
        seen.append(kernel.word(offset))

    helper = threading.Thread(target=unmap_later)
    helper.start()
    event = kernel.run(context, space)
    helper.join()
    assert (signo(event), addr(event)) == (signal.SIGSEGV, DATA)
    assert kernel.word(offset) == seen[0]


def test_unmap_of_nothing(kernel: Kernel) -> None:
    """# P-025."""
    space = loading_space(kernel)
    space.unmap(DATA, 16 * PAGE)
    kernel.map(space, DATA + PAGE)
    space.unmap(DATA, 16 * PAGE)
    space.unmap(DATA, 16 * PAGE)


def test_precommit_changes_nothing(kernel: Kernel) -> None:
    """# P-026."""
    space = loading_space(kernel)
    space.map_file(DATA, kernel.file, kernel.page(b"abcdefgh"), PAGE, R, precommit=True)
    assert load(kernel, space) == int.from_bytes(b"abcdefgh", "little")


class HostFile:
    """A file of the host as a source of pages."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.asked = 0

    def data_fd(self, start: int, length: int) -> int:
        """Return the descriptor, or fail when there is none."""
        self.asked += 1
        if self.fd < 0:
            raise OSError(errno.ENXIO, "no data there")
        return self.fd


def test_descriptor_may_be_closed(kernel: Kernel) -> None:
    """# P-027; and that descriptors made after the space are good."""
    space = loading_space(kernel)
    fd = os.memfd_create("later", os.MFD_CLOEXEC)
    os.write(fd, b"hostfile".ljust(PAGE))
    space.map_file(DATA, HostFile(fd), 0, PAGE, R)
    os.close(fd)
    assert load(kernel, space) == int.from_bytes(b"hostfile", "little")


def test_no_data_is_the_error(kernel: Kernel) -> None:
    """# P-028."""
    space = loading_space(kernel)
    kernel.map(space, DATA, b"still me")
    with pytest.raises(MapError, match="no data") as error:
        space.map_file(DATA, HostFile(-1), 0, PAGE, R)
    assert error.value.errno == errno.ENXIO
    assert load(kernel, space) == int.from_bytes(b"still me", "little")


def test_host_out_of_memory(kernel: Kernel) -> None:
    """# P-029."""
    before = children()
    space = loading_space(kernel)
    for pid in children() - before:
        resource.prlimit(pid, resource.RLIMIT_AS, (1 << 30, 1 << 30))
    with pytest.raises(MapError) as error:
        space.map_file(DATA, kernel.file, 0, 1 << 30, R)
    assert error.value.errno == errno.ENOMEM
    kernel.map(space, DATA, b"gone on.")
    assert load(kernel, space) == int.from_bytes(b"gone on.", "little")


def test_bad_descriptor(kernel: Kernel) -> None:
    """# P-029: any error of the host's mmap is a MapError with its number."""
    space = loading_space(kernel)
    with pytest.raises(MapError) as error:
        space.map_file(DATA, HostFile(10_000), 0, PAGE, R)
    assert error.value.errno == errno.EBADF


def test_maps_from_many_threads(kernel: Kernel) -> None:
    """# P-030, in small."""
    space = loading_space(kernel)
    pages = [kernel.page(bytes([n]) * 8) for n in range(1, 5)]

    def work(index: int) -> None:
        for _ in range(20):
            space.map_file(DATA + index * PAGE, kernel.file, pages[index], PAGE, R)
            space.unmap(DATA + index * PAGE, PAGE)
        space.map_file(DATA + index * PAGE, kernel.file, pages[index], PAGE, R)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index in range(4):
        assert load(kernel, space, DATA + index * PAGE) == int.from_bytes(bytes([index + 1]) * 8, "little")


def test_last_page_of_user_memory(kernel: Kernel) -> None:
    """# P-006: everything below the limit can be mapped."""
    space = loading_space(kernel)
    last = kernel.platform.max_user_address() - PAGE
    kernel.map(space, last, b"last one")
    assert load(kernel, space, last) == int.from_bytes(b"last one", "little")


def test_batch_is_carried_out_in_order(kernel: Kernel) -> None:
    """AddressSpace.apply(): in order, up to the first that fails."""
    space = loading_space(kernel)
    first, second = kernel.page(b"first..."), kernel.page(b"second..")
    space.apply(
        [
            MapRequest(DATA, PAGE, kernel.file, first, R),
            UnmapRequest(DATA, PAGE),
            MapRequest(DATA, PAGE, kernel.file, second, R),
        ]
    )
    assert load(kernel, space) == int.from_bytes(b"second..", "little")
    batch: list[MapRequest | UnmapRequest] = [
        MapRequest(DATA, PAGE, kernel.file, first, R),
        MapRequest(DATA, PAGE, HostFile(-1), 0, R),
        UnmapRequest(DATA, PAGE),
    ]
    with pytest.raises(MapError):
        space.apply(batch)
    assert load(kernel, space) == int.from_bytes(b"first...", "little")


def test_spaces_are_isolated(kernel: Kernel) -> None:
    """# P-032."""
    spaces = [loading_space(kernel) for _ in range(2)]
    contexts = []
    for number, space in enumerate(spaces):
        kernel.map(space, DATA, bytes([number + 1]) * 8)
        contexts.append(kernel.context(rdi=DATA))
    for _ in range(20):
        for context in contexts:
            set_reg(context, "rip", CODE)
        kernel.run_all(list(zip(contexts, spaces, strict=True)))
        for number, context in enumerate(contexts):
            assert reg(context, "r10") == int.from_bytes(bytes([number + 1]) * 8, "little")


def test_mapping_serves_a_space_with_a_running_guest(kernel: Kernel) -> None:
    """A map does not wait for the guest threads of its space."""
    if kernel.path != SUBMIT:
        pytest.skip("switch() blocks the thread that would map")
    space = kernel.space(guest.SPIN)
    context = kernel.context()
    kernel.platform.submit(context, space)
    kernel.map(space, DATA)
    context.interrupt()
    assert kernel.wait().event.kind == EventKind.INTERRUPTED
