"""Small drivers with one bad habit each, as programs of their own: they answer as if all was well, but for the habit."""

import sys
from pathlib import Path

# Needs no guests: the one event is what SYS-NOSTACK-001 expects. ``out`` is the answer, ``r`` the request.
_FAKE = """
import json, os, sys, time
rsp = "0x0"
handles = 0
hello = {{
    "protocol": 1, "impl": {{"name": "fake", "version": "1", "language": "Python"}}, "arch": "x86_64", "page_size": 4096,
    "va_bits": 47, "va_min": "0x10000", "va_max": "0x7ffffffff000", "caps": [], "limits": {{}}, "host": {{}},
}}
{start}
for line in sys.stdin:
    r = json.loads(line)
    reply = {{"result": {{}}}}
    if r["op"] == "hello":
        reply = {{"result": dict(hello)}}
    elif r["op"] == "new_space":
        handles += 1
        reply = {{"result": {{"space": handles}}}}
    elif r["op"] == "new_context":
        handles += 1
        reply = {{"result": {{"context": handles}}}}
    elif r["op"] in ("get_regs", "set_regs"):
        rsp = r.get("regs", {{}}).get("rsp", rsp)
        reply = {{"result": {{"regs": {{"rsp": rsp}}}}}}
    elif r["op"] == "write":
        reply = {{"result": {{"n": len(r["data"]) // 2}}}}
    elif r["op"] == "get_fp":
        reply = {{"unsupported": {{"cap": "fp." + r["part"], "reason": "a fake has none"}}}}
    elif r["op"] == "switch":
        reply = {{"event": {{"kind": "syscall", "ip": "0x10000002", "nr": "0x0", "args": ["0x0"] * 6}}}}
    out = {{"id": r["id"], **reply}}
    {habit}
    print(json.dumps(out), flush=True)
    if r["op"] == "bye":
        break
"""


def fake(folder: Path, habit: str = "pass", start: str = "") -> list[str]:
    """Return the command of a fake: ``habit`` is done before each answer, ``start`` at the start."""
    path = folder / "fake.py"
    path.write_text(_FAKE.format(habit=habit, start=start))
    return [sys.executable, str(path)]
