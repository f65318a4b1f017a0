"""A driver on one page: one thread, one request after the other. docs/porting.md walks through it."""

import json
import re
import sys
from itertools import count, takewhile
from threading import Timer
from typing import Any

from systrap import arch, platform
from systrap.memory import MemoryFile

CPU, PAGE, MEMORY, NUMBERS, LATE = arch.current(), 4096, MemoryFile("tutorial"), count(1), "no event in time"
PLATFORM = platform.lookup("ptrace").new(platform.Options())
VA = range(PLATFORM.min_user_address(), PLATFORM.max_user_address())
SPACES: dict[int, Any] = {}  # an address space, and for each of its pages the place in MEMORY
CONTEXTS: dict[int, Any] = {}  # a context, and the address space that it runs in
FIELDS = {  # the operations, and what their fields are; a question mark: it may be missing
    "hello": "protocol:int suite:str", "bye": "", "new_space": "", "release_space": "space:int",
    "map": "space:int addr:word len:int prot:prot src:dict", "new_context": "space:int regs:regs tls:word?",
    "write": "space:int addr:word data:hex", "read": "space:int addr:word len:int", "release_context": "context:int",
    "get_regs": "context:int", "set_regs": "context:int regs:regs", "interrupt": "context:int",
    "switch": "context:int timeout_ms:int? interrupt_after_us:int?",
}  # fmt: skip
LATER = ("unmap", "protect", "fill", "digest", "get_fp", "set_fp", "stats")


class No(Exception):
    """What an answer holds in place of a result: a kind of error, and why. The kind "cap" means unsupported."""


def field(kind: str, value: Any) -> Any:
    if kind == "word" and type(value) is str and re.fullmatch("0x[0-9a-fA-F]{1,16}", value):
        return int(value, 16)
    if kind == "hex" and type(value) is str and re.fullmatch("([0-9a-f]{2}){0,4096}", value):
        return bytes.fromhex(value)
    if kind == "prot" and type(value) is str and re.fullmatch("r?w?x?", value):
        return platform.Access(sum({"r": 1, "w": 2, "x": 4}[letter] for letter in value))
    if kind == "regs" and type(value) is dict and value.keys() <= set(CPU.REG_NAMES):
        return {CPU.REG_NAMES.index(name): field("word", word) for name, word in value.items()}
    if type(value).__name__ == kind:
        return value
    raise No("protocol", f"{value!r} is no {kind}")


def carry_out(op: str, given: Any) -> Any:
    kinds = dict(one.split(":") for one in FIELDS[op].split())
    if given.keys() - kinds or any(name not in given for name in kinds if not kinds[name].endswith("?")):
        raise No("protocol", f"{op} has the fields {FIELDS[op]}")
    f = {name: field(kinds[name].strip("?"), value) for name, value in given.items()}
    if f.get("space") not in (None, *SPACES) or f.get("context") not in (None, *CONTEXTS):
        raise No("handle", "no such space or context")
    (space, pages), (context, home) = SPACES.get(f.get("space"), (0, {})), CONTEXTS.get(f.get("context"), (0, 0))
    if op == "hello" and f["protocol"] != 1:
        raise No("version", "this driver speaks version 1")
    if op == "hello":
        own = {"impl": {"name": "tutorial", "version": "1", "language": "Python"}, "arch": CPU.NAME, "page_size": PAGE}
        size = {"va_bits": VA.stop.bit_length(), "va_min": hex(VA.start), "va_max": hex(VA.stop)}
        return {"protocol": 1, **own, **size, "caps": [], "limits": {}, "host": {}}
    if op == "new_space":
        SPACES[number := next(NUMBERS)] = PLATFORM.new_address_space(), {}
        return {"space": number}
    if op == "map" and f["src"] != {"anon": True}:
        raise No("cap", "objects")
    if op == "map" and (f["addr"] % PAGE or f["len"] % PAGE or not VA.start <= f["addr"] < f["addr"] + f["len"] <= VA.stop):
        raise No("range", "not whole pages, or not a guest's")
    if op == "map":
        place = MEMORY.allocate(f["len"])
        space.map_file(f["addr"], MEMORY, place, f["len"], f["prot"])
        pages.update((f["addr"] + at, place + at) for at in range(0, f["len"], PAGE))
    if op in ("read", "write"):
        wanted = range(f["addr"], f["addr"] + len(f["data"]) if op == "write" else f["addr"] + f["len"])
        there = [pages[at - at % PAGE] + at % PAGE for at in takewhile(lambda at: at - at % PAGE in pages, wanted)]
        for place, byte in zip(there, f.get("data", b""), strict=False):
            MEMORY.data[place] = byte
        short = {"error": {"kind": "unmapped", "message": "a gap"}} if len(there) < len(wanted) else {}
        data = {"data": bytes(MEMORY.data[place] for place in there).hex()} if op == "read" else {}
        return {"n": len(there), **data, **short}
    if op == "new_context":
        context = PLATFORM.new_context()
        CPU.start_regs(context.regs, 0, 0)
        context.regs[CPU.TLS] = f.get("tls", 0)
    for index, value in f.get("regs", {}).items():
        context.regs[index] = value
    if op == "new_context":
        CONTEXTS[number := next(NUMBERS)] = context, space
        return {"context": number}
    if op in ("get_regs", "set_regs"):
        return {"regs": {name: hex(value) for name, value in zip(CPU.REG_NAMES, context.regs, strict=True)}}
    if op == "switch":
        return switch(context, home, f.get("timeout_ms", 10_000), f.get("interrupt_after_us"))
    if op == "interrupt":
        context.interrupt()
    if op.startswith("release"):
        (SPACES.pop(f["space"]) if op == "release_space" else CONTEXTS.pop(f["context"]))[0].release()
    return {}
