"""Walks through the protocol's state, against a model: any order of operations on real drivers, on both platforms.

P-020…P-024 (what mappings do), P-070 (interrupts), P-110 (release), and the protocol's rules for handles and running contexts.
"""

import sys
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from conformance.client import Driver, Message
from systrap import platform
from systrap.platform import RequirementError

PAGE = 4096
CODE, DATA, PAGES = 0x10000000, 0x20000000, 6
CALL, LOOP, LOAD, STORE = CODE, CODE + 0x10, CODE + 0x20, CODE + 0x30
PROGRAM = bytes.fromhex("48ffc70f05ebf9").ljust(16, b"\x90") + bytes.fromhex("ebfe").ljust(16, b"\x90")
PROGRAM += bytes.fromhex("8a060f05").ljust(16, b"\x90") + bytes.fromhex("8806 0f05")
"""1: inc rdi; syscall; jmp 1b · 2: jmp 2b · mov al, [rsi]; syscall · mov [rsi], al; syscall"""
PROTS = ("", "r", "rw", "rx", "rwx")
INTERRUPTED = {"kind": "interrupted"}


class Space:
    """What a space must look like: its data pages by number, each with its protection and bytes."""

    def __init__(self, handle: object) -> None:
        self.handle = handle
        self.pages: dict[int, tuple[str, bytearray]] = {}
        self.gone = False


class Context:
    """What a context must be like. ``request``: its switch; ``looping``: that runs until an interrupt comes."""

    def __init__(self, handle: object, space: Space) -> None:
        self.handle = handle
        self.space = space
        self.rdi = 0
        self.request: int | None = None
        self.looping = False
        self.interrupted = False


class Walk(RuleBasedStateMachine):
    """A walk; the driver is kept from one to the next, so each must leave it as it found it."""

    driver: ClassVar[Driver]
    spaces: "Bundle[Space]" = Bundle("spaces")
    contexts: "Bundle[Context]" = Bundle("contexts")

    def __init__(self) -> None:
        super().__init__()
        self.all_spaces: list[Space] = []
        self.all_contexts: list[Context] = []

    def runs(self, context: Context) -> bool:
        """Tell whether a context is in a switch for sure. One that ends by itself may have ended: its event is taken first."""
        if context.request is not None and (not context.looping or context.interrupted):
            self.collect(context)
        return context.request is not None

    def ask(self, op: str, **fields: object) -> Message:
        return self.driver.call(op, 20.0, **fields)

    def result(self, op: str, **fields: object) -> Message:
        reply = self.ask(op, **fields)
        assert isinstance(reply.get("result"), dict), (op, fields, reply)
        result = reply["result"]
        assert isinstance(result, dict)
        return result

    def refused(self, kind: str, op: str, **fields: object) -> None:
        error = self.ask(op, **fields).get("error")
        assert isinstance(error, dict), (op, fields)
        assert error["kind"] == kind, (op, fields, error)

    # Spaces and memory.

    @rule(target=spaces)
    def new_space(self) -> Space:
        space = Space(self.result("new_space")["space"])
        self.result("map", space=space.handle, addr=f"{CODE:#x}", len=PAGE, prot="rx", src={"anon": True})
        self.result("write", space=space.handle, addr=f"{CODE:#x}", data=PROGRAM.hex())
        self.all_spaces.append(space)
        return space

    @rule(space=spaces, page=st.integers(0, PAGES - 1), count=st.integers(1, 3), prot=st.sampled_from(PROTS))
    def map(self, space: Space, page: int, count: int, prot: str) -> None:
        fields = {"space": space.handle, "addr": f"{DATA + page * PAGE:#x}", "len": count * PAGE, "prot": prot}
        if space.gone:
            return self.refused("handle", "map", **fields, src={"anon": True})
        self.result("map", **fields, src={"anon": True})
        space.pages.update({number: (prot, bytearray(PAGE)) for number in range(page, page + count)})
        return None

    @rule(space=spaces, page=st.integers(0, PAGES - 1), count=st.integers(1, 3))
    def unmap(self, space: Space, page: int, count: int) -> None:
        fields = {"space": space.handle, "addr": f"{DATA + page * PAGE:#x}", "len": count * PAGE}
        if space.gone:
            return self.refused("handle", "unmap", **fields)
        self.result("unmap", **fields)
        for number in range(page, page + count):
            space.pages.pop(number, None)
        return None

    @rule(space=spaces, page=st.integers(0, PAGES - 1), count=st.integers(1, 3), prot=st.sampled_from(PROTS))
    def protect(self, space: Space, page: int, count: int, prot: str) -> None:
        fields = {"space": space.handle, "addr": f"{DATA + page * PAGE:#x}", "len": count * PAGE, "prot": prot}
        if space.gone:
            return self.refused("handle", "protect", **fields)
        numbers = range(page, page + count)
        if not space.pages.keys() >= set(numbers):
            return self.refused("platform", "protect", **fields)
        self.result("protect", **fields)
        for number in numbers:
            space.pages[number] = (prot, space.pages[number][1])
        return None

    @rule(space=spaces, at=st.integers(0, PAGES * PAGE), data=st.binary(min_size=1, max_size=40))
    def write(self, space: Space, at: int, data: bytes) -> None:
        fields = {"space": space.handle, "addr": f"{DATA + at:#x}"}
        if space.gone:
            return self.refused("handle", "write", **fields, data=data.hex())
        there = 0
        for offset, byte in enumerate(data, at):
            if offset // PAGE not in space.pages:
                break
            space.pages[offset // PAGE][1][offset % PAGE] = byte
            there += 1
        wrote = self.result("write", **fields, data=data.hex())
        assert (wrote["n"], "error" in wrote) == (there, there < len(data))
        return None

    @rule(space=spaces, at=st.integers(0, PAGES * PAGE), length=st.integers(0, 40))
    def read(self, space: Space, at: int, length: int) -> None:
        if space.gone:
            return self.refused("handle", "read", space=space.handle, addr=f"{DATA + at:#x}", len=length)
        found = self.result("read", space=space.handle, addr=f"{DATA + at:#x}", len=length)
        wanted = b""
        for offset in range(at, at + length):
            if offset // PAGE not in space.pages:
                break
            wanted += space.pages[offset // PAGE][1][offset % PAGE : offset % PAGE + 1]
        assert (found["data"], "error" in found) == (wanted.hex(), len(wanted) < length)
        return None

    @rule(space=spaces)
    def release_space(self, space: Space) -> None:
        if space.gone:
            self.refused("handle", "release_space", space=space.handle)
        elif [context for context in self.all_contexts if context.space is space and self.runs(context)]:
            self.refused("state", "release_space", space=space.handle)
        else:
            self.result("release_space", space=space.handle)
            space.gone = True

    # Contexts.

    @rule(target=contexts, space=spaces)
    def new_context(self, space: Space) -> "Context | MultipleResults[Context]":
        if space.gone:
            self.refused("handle", "new_context", space=space.handle, regs={})
            return multiple()
        context = Context(self.result("new_context", space=space.handle, regs={})["context"], space)
        self.all_contexts.append(context)
        return context

    @rule(context=contexts)
    def look(self, context: Context) -> None:
        if self.runs(context):
            self.refused("state", "get_regs", context=context.handle)
            return
        regs = self.result("get_regs", context=context.handle)["regs"]
        assert isinstance(regs, dict)
        assert int(regs["rdi"], 16) == context.rdi

    @rule(context=contexts, looping=st.booleans())
    def start(self, context: Context, looping: bool) -> None:
        if self.runs(context):
            self.refused("state", "switch", context=context.handle)
            return
        self.result("set_regs", context=context.handle, regs={"rip": f"{LOOP if looping else CALL:#x}"})
        if context.space.gone:
            self.refused("state", "switch", context=context.handle)
            return
        context.request = self.driver.send("switch", context=context.handle, timeout_ms=60_000)
        context.looping = looping

    @rule(context=contexts)
    def interrupt(self, context: Context) -> None:
        self.result("interrupt", context=context.handle)
        context.interrupted = True

    @precondition(lambda self: any(context.request is not None for context in self.all_contexts))
    @rule(context=contexts)
    def event(self, context: Context) -> None:
        if context.request is not None:
            self.collect(context)

    def collect(self, context: Context) -> None:
        """Take the event of a switch: one that cannot end by itself is interrupted."""
        assert context.request is not None
        if context.looping and not context.interrupted:
            self.interrupt(context)
        event = self.driver.wait(context.request, 20.0).get("event")
        assert isinstance(event, dict)
        context.request = None
        if event == INTERRUPTED:
            # An interrupt that the last call made needless may end one more run, seldom. Nothing ran, or only the increment.
            regs = self.result("get_regs", context=context.handle)["regs"]
            assert isinstance(regs, dict)
            assert int(regs["rdi"], 16) in (context.rdi, context.rdi + (not context.looping))
            context.rdi = int(regs["rdi"], 16)
            context.interrupted = False
            return
        assert not context.looping, event
        context.rdi += 1
        assert (event["kind"], int(event["args"][0], 16)) == ("syscall", context.rdi)

    @rule(context=contexts, page=st.integers(0, PAGES - 1), offset=st.integers(0, PAGE - 1), store=st.booleans())
    def touch(self, context: Context, page: int, offset: int, store: bool) -> None:
        """Let the guest load or store a byte: it works, or it faults, as the mapping says; and the byte is the right one."""
        if context.request is not None or context.space.gone or context.interrupted:
            return
        at = DATA + page * PAGE + offset
        regs = {"rip": f"{STORE if store else LOAD:#x}", "rsi": f"{at:#x}", "rax": "0x5a"}
        self.result("set_regs", context=context.handle, regs=regs)
        event = self.ask("switch", context=context.handle, timeout_ms=60_000).get("event")
        assert isinstance(event, dict)
        prot, data = context.space.pages.get(page, ("", bytearray(PAGE)))
        if ("w" if store else "r") in prot:
            if store:
                data[offset] = 0x5A
            assert (event["kind"], event["nr"]) == ("syscall", f"{data[offset]:#x}"), event
        else:
            # Without access is not told from not mapped by every implementation: the code may be either.
            assert (event["kind"], event["signo"], event["addr"]) == ("fault", 11, f"{at:#x}"), event

    @rule(context=consumes(contexts))
    def release_context(self, context: Context) -> None:
        if self.runs(context):
            self.refused("state", "release_context", context=context.handle)
            self.collect(context)
        self.result("release_context", context=context.handle)
        self.all_contexts.remove(context)
        self.refused("handle", "get_regs", context=context.handle)

    def teardown(self) -> None:
        for context in self.all_contexts:
            if context.request is not None:
                self.collect(context)
            self.result("release_context", context=context.handle)
        for space in self.all_spaces:
            if not space.gone:
                self.result("release_space", space=space.handle)
        self.driver.check_quiet()


@pytest.mark.parametrize("name", ["systrap", pytest.param("ptrace", marks=pytest.mark.slow)])
def test_any_order_of_operations(name: str) -> None:
    try:
        platform.lookup(name).new(platform.Options()).close()
    except RequirementError as error:
        pytest.skip(f"platform {name} does not run on this host: {error}")
    Walk.driver = Driver([sys.executable, "-m", "systrap.cli.driver", "--platform", name])
    try:
        Walk.driver.hello(20.0)
        run_state_machine_as_test(Walk, settings=settings(max_examples=20, stateful_step_count=40, deadline=None))
        assert Walk.driver.bye() == 0
    finally:
        Walk.driver.kill()
