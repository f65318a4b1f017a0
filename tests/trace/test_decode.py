"""Calls as text: flags, structures, strings, arrays, results; and memory that does not make sense."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systrap.sentry.syscalls import load_all
from systrap.sentry.syscalls.numbers import NUMBERS
from systrap.sentry.syscalls.table import TABLE
from systrap.trace.call import Style
from systrap.trace.calls import CALLS, SETS
from systrap.trace.decode import quote
from tests.trace.guest_memory import BASE, Memory, text

NOWHERE = 0xDEAD000
MINUS_ONE = (1 << 64) - 1


def test_every_call_has_a_shape() -> None:
    assert set(CALLS) == set(NUMBERS)


def test_shapes_have_as_many_arguments_as_handlers_take() -> None:
    """But where one decoder shows several registers, or the kernel's own calls take more than the handler looks at."""
    several = {"clone", "prctl", "futex", "membarrier", "preadv2", "pwritev2"}
    load_all()
    for entry in TABLE.values():
        if entry.name not in several:
            assert len(CALLS[entry.name].arguments) >= len(entry.takes), entry.name


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain", '"plain"'),
        (b'a"b\\c', '"a\\"b\\\\c"'),
        (b"\n\t\r\v\f", '"\\n\\t\\r\\v\\f"'),
        (b"\0", '"\\0"'),
        (b"\x007", '"\\0007"'),
        (b"\x7fELF", '"\\177ELF"'),
        ("é".encode(), '"\\303\\251"'),
    ],
)
def test_strings(data: bytes, shown: str) -> None:
    assert quote(data) == shown


def test_hexadecimal_strings() -> None:
    assert quote(b"plain\n", 1) == '"plain\\n"'
    assert quote(b"a\xff", 1) == '"\\x61\\xff"'
    assert quote(b"ab", 2) == '"\\x61\\x62"'


def test_files() -> None:
    memory = Memory()
    path = memory.put(b"/etc/passwd\0")
    assert text("openat", -100, path, 0o2000000, memory=memory, result=3) == (
        'openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3'
    )
    assert text("openat", -100, path, 0o1102, 0o644, memory=memory, result=-2) == (
        'openat(AT_FDCWD, "/etc/passwd", O_RDWR|O_CREAT|O_TRUNC, 0644) = error 2'
    )
    styled = text("openat", -100, path, 0, memory=memory, result=3, style=Style(paths=True))
    assert styled == 'openat(AT_FDCWD</here>, "/etc/passwd", O_RDONLY) = 3</file/3>'
    assert text("openat", 7, NOWHERE, 0x40000000, result=-14) == "openat(7, 0xdead000, O_RDONLY|0x40000000) = error 14"
    assert text("umask", 0o22, result=0o77) == "umask(022) = 077"
    assert text("fcntl", 3, 3, result=0x8002) == "fcntl(3, F_GETFL) = 0x8002 (flags O_RDWR|O_LARGEFILE)"
    assert text("fcntl", 3, 2, 1) == "fcntl(3, F_SETFD, FD_CLOEXEC) = 0"
    assert text("lseek", 3, MINUS_ONE, 2, result=9) == "lseek(3, -1, SEEK_END) = 9"
    assert text("lseek", 3, 0, 77, result=-22) == "lseek(3, 0, 0x4d /* SEEK_??? */) = error 22"


def test_buffers() -> None:
    memory = Memory()
    buffer = memory.put(b"x" * 40)
    assert text("read", 0, buffer, 100, memory=memory, result=5) == 'read(0, "xxxxx", 100) = 5'
    assert text("read", 0, buffer, 100, memory=memory, result=-11) == f"read(0, {buffer:#x}, 100) = error 11"
    assert text("write", 1, buffer, 40, memory=memory, result=40) == f'write(1, "{"x" * 32}"..., 40) = 40'
    short = text("write", 1, buffer, 40, memory=memory, result=40, style=Style(limit=2))
    assert short == 'write(1, "xx"..., 40) = 40'
    vector = memory.put(struct.pack("<QQQQ", buffer, 3, NOWHERE, 4))
    assert text("writev", 1, vector, 2, memory=memory, result=3) == (
        'writev(1, [{iov_base="xxx", iov_len=3}, {iov_base=0xdead000, iov_len=4}], 2) = 3'
    )
    assert text("readv", 1, vector, 1, memory=memory, result=2) == 'readv(1, [{iov_base="xx", iov_len=3}], 1) = 2'


def test_memory_calls() -> None:
    assert text("mmap", 0, 8192, 3, 0x22, MINUS_ONE, 0, result=0x7F0000000000) == (
        "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000"
    )
    assert text("mprotect", 0x1000, 4096, 0) == "mprotect(0x1000, 4096, PROT_NONE) = 0"
    assert text("mremap", 0x1000, 1, 2, 1, result=0x2000) == "mremap(0x1000, 1, 2, MREMAP_MAYMOVE) = 0x2000"
    assert text("madvise", 0x1000, 1, 4) == "madvise(0x1000, 1, MADV_DONTNEED) = 0"


def test_processes_and_signals() -> None:
    memory = Memory()
    status = memory.put(struct.pack("<i", 9))
    assert text("wait4", MINUS_ONE, status, 1, 0, memory=memory, result=5) == (
        "wait4(-1, [{WIFSIGNALED(s) && WTERMSIG(s) == SIGKILL}], WNOHANG, NULL) = 5"
    )
    assert (
        text("wait4", MINUS_ONE, status, 1, 0, memory=memory, result=0) == f"wait4(-1, {status:#x}, WNOHANG, NULL) = 0"
    )
    action = memory.put(struct.pack("<QQQQ", 0x5000, 0x14000000, 0x6000, MINUS_ONE ^ 0x180000000))
    assert text("rt_sigaction", 2, action, 0, 8, memory=memory) == (
        "rt_sigaction(SIGINT, {sa_handler=0x5000, sa_mask=~[RTMIN RT_1], sa_flags=SA_RESTORER|SA_RESTART, "
        "sa_restorer=0x6000}, NULL, 8) = 0"
    )
    assert text("kill", 1, 64) == "kill(1, SIGRT_32) = 0"
    assert text("clone", 0x1200011, 0, 0, 0x7000, 0, result=9) == (
        "clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7000) = 9"
    )
    argv = memory.put(struct.pack("<QQQ", memory.put(b"ls\0"), memory.put(b"-l\0"), 0))
    assert text("execve", memory.put(b"/bin/ls\0"), argv, argv, memory=memory) == (
        f'execve("/bin/ls", ["ls", "-l"], {argv:#x} /* 2 vars */) = 0'
    )
    assert text("exit_group", 3) == "exit_group(3) = ?"
    assert text("prctl", 38, 1, 0, 0, 0) == "prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) = 0"


def test_sockets() -> None:
    memory = Memory()
    inet = memory.put(struct.pack(">H", 0x200) + struct.pack(">H4B8x", 80, 127, 0, 0, 1))
    assert text("connect", 3, inet, 16, memory=memory) == (
        'connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0'
    )
    unix = memory.put(b"\1\0\0name")
    assert text("bind", 3, unix, 7, memory=memory) == 'bind(3, {sa_family=AF_UNIX, sun_path=@"name"}, 7) = 0'
    length = memory.put(struct.pack("<I", 16))
    assert "[16]" in text("accept", 3, inet, length, memory=memory, result=4)
    assert text("socket", 10, 0o2000001, 6, result=3) == "socket(AF_INET6, SOCK_STREAM|SOCK_CLOEXEC, IPPROTO_TCP) = 3"
    assert text("socket", 16, 3, 0, result=3) == "socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) = 3"
    value = memory.put(struct.pack("<i", 1))
    assert text("setsockopt", 3, 1, 2, value, 4, memory=memory) == "setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0"


def test_waiting() -> None:
    memory = Memory()
    fds = memory.put(struct.pack("<ihhihh", 0, 1, 1, -1, 0, 0))
    assert text("poll", fds, 2, 1000, memory=memory, result=1) == (
        "poll([{fd=0, events=POLLIN}, {fd=-1}], 2, 1000) = 1 ([{fd=0, revents=POLLIN}])"
    )
    assert text("poll", fds, 2, 1000, memory=memory, result=0).endswith("= 0 (Timeout)")
    assert text("futex", 0x1000, 0x81, 1, result=1) == "futex(0x1000, FUTEX_WAKE_PRIVATE, 1) = 1"
    assert text("futex", 0x1000, 0x189, 7, 0, 0, 0xFFFFFFFF) == (
        "futex(0x1000, FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME, 7, NULL, FUTEX_BITSET_MATCH_ANY) = 0"
    )
    pause = memory.put(struct.pack("<qq", 1, 5))
    assert text("nanosleep", pause, 0, memory=memory) == "nanosleep({tv_sec=1, tv_nsec=5}, NULL) = 0"


def test_sets_name_calls_that_are_there() -> None:
    for name, calls in SETS.items():
        assert calls <= set(CALLS), name
        assert calls, name
    assert {"openat", "stat", "getcwd"} <= SETS["file"]
    assert {"read", "openat", "mmap", "poll"} <= SETS["desc"]
    assert not SETS["desc"] & (SETS["pure"] | {"socket", "connect"})


WORDS = st.one_of(
    st.integers(0, 64),
    st.integers(BASE - 8, BASE + 300),
    st.sampled_from([MINUS_ONE, 1 << 63, NOWHERE, 0x7FFFFFFFFFFF, MINUS_ONE - 99, 0xFFFFFFFF]),
    st.integers(0, MINUS_ONE),
)


@settings(max_examples=12, deadline=None)
@given(
    args=st.lists(WORDS, min_size=6, max_size=6),
    data=st.binary(max_size=300),
    result=st.one_of(st.integers(-4095, 4096), st.integers(-(1 << 63), (1 << 63) - 1)),
    limit=st.integers(0, 40),
    options=st.tuples(st.integers(0, 2), st.booleans(), st.booleans()),
)
def test_no_argument_and_no_memory_breaks_a_decoder(
    args: list[int], data: bytes, result: int, limit: int, options: tuple[int, bool, bool]
) -> None:
    """Guest memory is hostile: whatever is in registers and memory, every call has a text, of bounded length (S-141)."""
    style = Style(limit, *options)
    for name in CALLS:
        shown = text(name, *args, result=result, memory=Memory(data), style=style)
        assert shown.startswith(f"{name}(")
        assert len(shown) < 200_000
        assert shown.isprintable(), shown
