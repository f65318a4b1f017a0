"""The tutorial driver: a page, of nothing but the standard library, that passes what it claims and says what it cannot do."""

import ast
import os
import sys
import time
from pathlib import Path

import pytest

from conformance.client import Driver
from conformance.runner import Runner
from conformance.selection import everything
from conformance.verdict import Status
from tests.programs.leftovers import is_alive

PATH = Path(__file__).parents[2] / "conformance" / "drivers" / "tutorial.py"
COMMAND = [sys.executable, str(PATH)]
GAPS = ("not on one page", "no async", "async is not claimed")
"""How it says that it leaves something out; besides, there are cases that need a capability."""

needs_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the tutorial driver is for x86-64")


def test_it_is_a_page_and_needs_nothing_else() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    imported = {
        alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported <= sys.stdlib_module_names
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(ast.parse(text)))


@needs_x86
def test_it_passes_what_it_claims() -> None:
    """Tiers 0 and 1: system calls and integer state (P-040, P-041, P-042), and the protocol."""
    runner = Runner(COMMAND)
    try:
        verdicts = list(runner.run([item for item in everything("x86_64") if item.tier <= 1]))
    finally:
        runner.close()
    bad = [verdict for verdict in verdicts if verdict.status not in (Status.PASS, Status.UNSUPPORTED)]
    assert not bad, "\n".join((bad[0].reason, *bad[0].transcript))
    lacking = [verdict for verdict in verdicts if verdict.status is Status.UNSUPPORTED and not verdict.case.need]
    assert all(verdict.reason.endswith(GAPS) for verdict in lacking), lacking
    assert "PROTO-RANGE-001" in {verdict.case.id for verdict in lacking}
    # Of the tier that it is made for it leaves out nothing.
    assert all(verdict.case.tier == 0 for verdict in lacking), lacking


@needs_x86
def test_its_stubs_end_with_it() -> None:
    """P-107, as far as a page goes: SIGKILL of the driver leaves no stub."""
    driver = Driver(COMMAND)
    try:
        driver.hello(10)
        spaces = [driver.call("new_space", 10) for _ in range(3)]
        stubs = [int(str(reply["result"]["space"])) for reply in spaces if isinstance(reply["result"], dict)]
        assert all(Path(f"/proc/{stub}").exists() for stub in stubs)
    finally:
        driver.kill()
    deadline = time.monotonic() + 10
    while any(is_alive(stub) for stub in stubs):
        assert time.monotonic() < deadline, "a stub outlived its driver"
        time.sleep(0.01)


@needs_x86
def test_a_lost_stub_is_an_error() -> None:
    driver = Driver(COMMAND)
    try:
        driver.hello(10)
        made = driver.call("new_space", 10)["result"]
        assert isinstance(made, dict)
        context = driver.call("new_context", 10, space=made["space"], regs={})["result"]
        assert isinstance(context, dict)
        os.kill(int(str(made["space"])), 9)
        reply = driver.call("switch", 10, timeout_ms=100, **context)
        assert reply["error"] == {"kind": "state", "message": "its space is gone"}
    finally:
        driver.kill()
