"""The conformance driver: its protocol, line by line, on the ptrace platform."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from systrap import platform
from systrap.cli.driver_ops import OPERATIONS
from systrap.cli.driver_wire import Fields, ProtocolError, decode, encode, word
from systrap.platform import RequirementError

Message = dict[str, object]
LOOP, CALLS = "ebfe", "0f05ebfc"
PAGE = 4096


class Peer:
    """The other end of a driver."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "systrap.cli.driver", "--platform", "ptrace"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._next = 0
        self._kept: dict[object, Message] = {}

    def line(self, line: bytes) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, op: str, **fields: object) -> int:
        """Send a request, and return its id."""
        self._next += 1
        self.line(json.dumps({"id": self._next, "op": op, **fields}).encode())
        return self._next

    def reply(self, number: int | None) -> Message:
        """Return the reply with this id."""
        assert self.process.stdout is not None
        while number not in self._kept:
            message = json.loads(self.process.stdout.readline())
            self._kept[message["id"]] = message
        return self._kept.pop(number)

    def ask(self, op: str, **fields: object) -> Message:
        """Send a request, and return its reply."""
        return self.reply(self.send(op, **fields))

    def result(self, op: str, **fields: object) -> Message:
        """Send a request, and return its result."""
        reply = self.ask(op, **fields)
        result = reply.get("result")
        assert isinstance(result, dict), reply
        return result

    def error(self, op: str, **fields: object) -> str:
        """Send a request, and return the kind of its error."""
        error = self.ask(op, **fields)["error"]
        assert isinstance(error, dict)
        assert error["message"]
        return str(error["kind"])

    def guest(self, code: str) -> tuple[object, object]:
        """Return space and context of a guest with this code."""
        space = self.result("new_space")["space"]
        self.map(space, "0x10000000", "rx")
        self.result("write", space=space, addr="0x10000000", data=code)
        return space, self.result("new_context", space=space, regs={"rip": "0x10000000"})["context"]

    def map(self, space: object, addr: str, prot: str, length: int = PAGE) -> None:
        """Map anonymous memory."""
        self.result("map", space=space, addr=addr, len=length, prot=prot, src={"anon": True})


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Return the other end of a new driver."""
    try:
        platform.lookup("ptrace").new(platform.Options()).close()
    except RequirementError as error:
        pytest.skip(f"the ptrace platform does not run on this host: {error}")
    peer = Peer()
    yield peer
    peer.process.kill()
    peer.process.communicate()


def test_hello(peer: Peer) -> None:
    found = peer.result("hello", protocol=1, suite="1.0.0")
    assert found["protocol"] == 1
    assert found["arch"] == "x86_64"
    assert found["va_max"] == "0x7f0000000000" or int(str(found["va_max"]), 16) > 1 << 47
    caps = found["caps"]
    assert isinstance(caps, list)
    assert {"async", "fp.legacy"} <= set(caps)
    assert peer.error("hello", protocol=2, suite="1.0.0") == "version"


def test_bye(peer: Peer) -> None:
    assert peer.result("bye") == {}
    assert peer.process.wait(10) == 0


def test_end_of_input(peer: Peer) -> None:
    peer.guest(LOOP)
    assert peer.process.stdin is not None
    peer.process.stdin.close()
    assert peer.process.wait(10) == 0
    peer.process.stdin = None


@pytest.mark.parametrize(
    "line",
    [b"hello", b"[]", b"5", b'"x"', b"{}", b'{"id": "1", "op": "stats"}', b'{"id": true, "op": "stats"}', b"\xff\xfe"],
)
def test_lines_without_an_id(peer: Peer, line: bytes) -> None:
    peer.line(line)
    error = peer.reply(None)["error"]
    assert isinstance(error, dict)
    assert error["kind"] == "protocol"
    peer.result("stats")


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("dance", {}),
        ("stats", {"more": 1}),
        ("new_space", {"space": 1}),
        ("hello", {"protocol": 1}),
        ("hello", {"protocol": "1", "suite": "x"}),
        ("hello", {"protocol": 1, "suite": 5}),
        ("release_space", {"space": "1"}),
        ("release_space", {"space": True}),
        ("release_space", {"space": -1}),
        ("release_space", {"space": 1.0}),
    ],
)
def test_bad_requests(peer: Peer, op: str, fields: Message) -> None:
    assert peer.error(op, **fields) == "protocol"


@pytest.mark.parametrize(
    "wrong",
    [
        {"addr": 5},
        {"addr": "10000000"},
        {"addr": "0x1_0000"},
        {"addr": "0x10000000000000000"},
        {"addr": "0x-1"},
        {"len": "many"},
        {"prot": "rr"},
        {"prot": "rwz"},
        {"src": {}},
        {"src": {"anon": False}},
        {"src": {"anon": True, "offset": "0x0"}},
        {"src": {"object": "x"}},
        {"src": "anon"},
    ],
)
def test_bad_maps(peer: Peer, wrong: Message) -> None:
    good: Message = {"addr": "0x10000000", "len": PAGE, "prot": "r", "src": {"anon": True}}
    space = peer.result("new_space")["space"]
    assert peer.error("map", **{"space": space, **good, **wrong}) == "protocol"
    assert peer.ask("map", space=space, **good) == {"id": 3, "result": {}}


@pytest.mark.parametrize(
    ("addr", "length"),
    [("0x10000001", PAGE), ("0x10000000", 1), ("0x10000000", 0), ("0x0", PAGE), ("0xfffffffffffff000", PAGE)],
)
def test_ranges(peer: Peer, addr: str, length: int) -> None:
    space = peer.result("new_space")["space"]
    assert peer.error("map", space=space, addr=addr, len=length, prot="r", src={"anon": True}) == "range"
    assert peer.error("unmap", space=space, addr=addr, len=length) == "range"


def test_handles(peer: Peer) -> None:
    space, context = peer.guest(CALLS)
    assert peer.error("release_space", space=context) == "handle"
    assert peer.error("get_regs", context=space) == "handle"
    peer.result("release_context", context=context)
    assert peer.error("release_context", context=context) == "handle"
    peer.result("release_space", space=space)
    assert peer.error("release_space", space=space) == "handle"


def test_memory(peer: Peer) -> None:
    space = peer.result("new_space")["space"]
    peer.map(space, "0x10000000", "r", 2 * PAGE)
    assert peer.result("write", space=space, addr="0x10000ffe", data="01020304") == {"n": 4}
    assert peer.result("read", space=space, addr="0x10000ffd", len=6) == {"data": "000102030400", "n": 6}
    peer.result("unmap", space=space, addr="0x10001000", len=PAGE)
    short = peer.result("read", space=space, addr="0x10000ffe", len=4)
    assert (short["data"], short["n"]) == ("0102", 2)
    assert "error" in short
    assert peer.result("write", space=space, addr="0x10000ffe", data="01020304")["n"] == 2
    assert peer.result("fill", space=space, addr="0x10000000", len=PAGE, pattern="abcd") == {"n": PAGE}
    found = peer.result("digest", space=space, addr="0x10000000", len=PAGE)
    assert found["sha256"] == hashlib.sha256(bytes.fromhex("abcd") * (PAGE // 2)).hexdigest()
    assert peer.error("read", space=space, addr="0x10000000", len=PAGE + 1) == "protocol"
    assert peer.error("write", space=space, addr="0x10000000", data="AB") == "protocol"


def test_protect_needs_a_mapping(peer: Peer) -> None:
    space = peer.result("new_space")["space"]
    peer.map(space, "0x10000000", "r")
    peer.result("protect", space=space, addr="0x10000000", len=PAGE, prot="")
    peer.result("protect", space=space, addr="0x10000000", len=PAGE, prot="rw")
    assert peer.error("protect", space=space, addr="0x10000000", len=2 * PAGE, prot="r") == "platform"


def test_objects_are_shared(peer: Peer) -> None:
    one, two = (peer.result("new_space")["space"] for _ in range(2))
    for space, offset in ((one, "0x0"), (two, "0x1000")):
        source = {"object": "shared", "offset": offset}
        peer.result("map", space=space, addr="0x10000000", len=2 * PAGE, prot="rw", src=source)
    peer.result("write", space=one, addr="0x10001000", data="5a")
    assert peer.result("read", space=two, addr="0x10000000", len=1)["data"] == "5a"


def test_registers(peer: Peer) -> None:
    _space, context = peer.guest(CALLS)
    found = peer.result("set_regs", context=context, regs={"rax": "0xffffffffffffffff", "r15": "0x1"})["regs"]
    assert isinstance(found, dict)
    assert (found["rax"], found["r15"], len(found)) == ("0xffffffffffffffff", "0x1", 27)
    assert peer.error("set_regs", context=context, regs={"rax": "0x5", "eax": "0x1"}) == "protocol"
    unchanged = peer.result("get_regs", context=context)["regs"]
    assert isinstance(unchanged, dict)
    assert unchanged["rax"] == "0xffffffffffffffff"


def test_switch_blocks_nothing(peer: Peer) -> None:
    _space, context = peer.guest(LOOP)
    _other, calling = peer.guest(CALLS)
    request = peer.send("switch", context=context, timeout_ms=20000)
    event = peer.ask("switch", context=calling)["event"]
    assert isinstance(event, dict)
    assert event["kind"] == "syscall"
    for op in ("get_regs", "release_context", "switch"):
        assert peer.error(op, context=context) == "state"
    assert peer.error("release_space", space=_space) == "state"
    peer.result("interrupt", context=context)
    assert peer.reply(request)["event"] == {"kind": "interrupted"}


def test_timeout_of_a_switch(peer: Peer) -> None:
    _space, context = peer.guest(LOOP)
    for _ in range(2):
        start = time.monotonic()
        assert peer.error("switch", context=context, timeout_ms=50) == "timeout"
        assert time.monotonic() - start >= 0.05
    event = peer.ask("switch", context=context, interrupt_after_us=1000)["event"]
    assert event == {"kind": "interrupted"}


def test_fp_parts(peer: Peer) -> None:
    _space, context = peer.guest(CALLS)
    assert "unsupported" in peer.ask("get_fp", context=context, part="x88")
    data = str(peer.result("get_fp", context=context, part="legacy")["data"])
    assert (data[:4], data[48:56], len(data)) == ("7f03", "801f0000", 928)
    changed = data[:320] + "5a" * 16
    peer.result("set_fp", context=context, part="legacy", data=changed)
    peer.ask("switch", context=context)
    assert str(peer.result("get_fp", context=context, part="legacy")["data"])[320:352] == "5a" * 16
    assert peer.error("set_fp", context=context, part="legacy", data="00" * 465) == "protocol"


def test_context_with_state(peer: Peer) -> None:
    space, _context = peer.guest(CALLS)
    fp = {"legacy": "7f03" + "00" * 22 + "801f0000"}
    context = peer.result("new_context", space=space, regs={}, tls="0x1234", fp=fp)["context"]
    regs = peer.result("get_regs", context=context)["regs"]
    assert isinstance(regs, dict)
    assert regs["fs_base"] == "0x1234"
    assert peer.error("new_context", space=space, regs={"nope": "0x1"}) == "protocol"
    assert "unsupported" in peer.ask("new_context", space=space, regs={}, fp={"nope": ""})


def test_released_space(peer: Peer) -> None:
    space, context = peer.guest(CALLS)
    peer.result("release_space", space=space)
    assert peer.error("switch", context=context) == "state"


def test_death(peer: Peer) -> None:
    _space, context = peer.guest(LOOP)
    request = peer.send("switch", context=context)
    peer.result("stats")
    children: set[int] = set()
    for task in Path(f"/proc/{peer.process.pid}/task").iterdir():
        children.update(int(pid) for pid in (task / "children").read_text().split())
    os.kill(max(children), signal.SIGKILL)
    event = peer.reply(request)["event"]
    assert isinstance(event, dict)
    assert event["kind"] == "death"
    assert event["detail"]


def test_stats_count(peer: Peer) -> None:
    before = peer.result("stats")
    peer.guest(CALLS)
    after = peer.result("stats")
    assert (before["stubs"], after["stubs"]) == (0, 1)
    assert {"fds", "vmas", "rss", "threads"} <= after.keys()


def test_a_stub_that_is_killed(peer: Peer) -> None:
    """x.kill_stub: what runs in that space dies. This platform has no workers."""
    space, context = peer.guest(LOOP)
    request = peer.send("switch", context=context)
    assert peer.ask("x.kill_stub", space=space, part="worker")["unsupported"]
    peer.result("x.kill_stub", space=space, part="process")
    event = peer.reply(request)["event"]
    assert isinstance(event, dict)
    assert event["kind"] == "death"


def test_every_operation_of_the_protocol_is_there() -> None:
    protocol = """hello new_space release_space map unmap protect write read fill digest new_context release_context
                  get_regs set_regs get_fp set_fp switch interrupt stats x.kill_stub x.freeze_stub x.thaw_stub
                  x.words bye"""
    assert set(OPERATIONS) == set(protocol.split())


def test_wire() -> None:
    assert encode(5, {"result": {}}) == b'{"id":5,"result":{}}\n'
    assert word(-1) == "0xffffffffffffffff"
    request = decode(b'{"id": 7, "op": "x", "a": {"b": "0x10"}}')
    assert (request.id, request.op, request.fields.fields("a").word("b")) == (7, "x", 16)
    with pytest.raises(ProtocolError, match="op: field 'c' is missing"):
        Fields({}, "op").check(frozenset("c"), frozenset())
