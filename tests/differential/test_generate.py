"""The generator: its encoder against objdump, what snippets are made of, and that a seed tells everything."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.differential import generate
from tests.differential.campaign import reductions
from tests.differential.encoder import Instr
from tests.differential.generate import OPTIONAL, from_seed
from tests.differential.snippet import CODE, CODE_PAGES, PAGE, Layout, Loop, Unit, flatten, listing

EVERYTHING = frozenset(OPTIONAL)


def instructions(count: int) -> list[Instr]:
    """Return one of each different instruction of many snippets."""
    found = {instr.code: instr for i in range(count) for instr in flatten(from_seed(1, i, EVERYTHING).nodes)}
    return list(found.values())


def mnemonic(text: str) -> str:
    """Return the operation of an instruction's text; synonyms become one."""
    words = text.split()
    while words[0] in ("rep", "lock") or words[0].startswith("rex"):
        words.pop(0)
    name = words[0].rstrip(",")
    return {"movabs": "mov", "icebp": "int1", "pushf": "pushf", "popf": "popf", "wait": "fwait"}.get(name, name)


def test_encoding(tmp_path: Path) -> None:
    """Every instruction is read back by objdump as one instruction of that name and length."""
    if shutil.which("objdump") is None:
        pytest.skip("there is no objdump")
    instrs = [instr for instr in instructions(400) if "(bad)" not in instr.text and "…" not in instr.text]
    assert len(instrs) > 1000
    path = tmp_path / "code"
    # A row of nops behind each keeps a wrong length from spoiling what follows.
    path.write_bytes(b"".join(instr.code.ljust(32, b"\x90") for instr in instrs))
    command = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--insn-width=16", str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    read = {
        int(m[1], 16): (m[2], m[3])
        for m in re.finditer(r"^\s*([0-9a-f]+):\t([0-9a-f ]+?)\s*\t(.*)$", out, re.MULTILINE)
    }
    for index, instr in enumerate(instrs):
        code, text = read[index * 32]
        assert bytes.fromhex(code) == instr.code, (instr, text)
        assert mnemonic(text) == mnemonic(instr.text), (instr, text)


def test_a_seed_tells_everything() -> None:
    assert from_seed(7, 3, EVERYTHING) == from_seed(7, 3, EVERYTHING)
    assert from_seed(7, 3, EVERYTHING) != from_seed(7, 4, EVERYTHING)
    assert from_seed(7, 3, EVERYTHING) != from_seed(8, 3, EVERYTHING)


def test_every_recipe_is_used() -> None:
    names: Counter[str] = Counter()
    for index in range(500):
        for node in from_seed(2, index, EVERYTHING).nodes:
            names.update(unit.name for unit in (node.body if isinstance(node, Loop) else (node,)))
    assert set(names) == {recipe.__name__ for _, recipe in generate.recipes(EVERYTHING)}


def test_what_is_excluded_stays_out() -> None:
    """No recipe touches the reserved registers or the numbers that do not reach a filter."""
    for index in range(300):
        snippet = from_seed(3, index, EVERYTHING)
        for instr in flatten(snippet.nodes):
            assert not re.match(r"(mov|movabs|pop|xchg|inc|dec|lea|add|sub|xor)\w* (rbp|r13|r15d)\b", instr.text)
            assert instr.text not in ("mov eax,0x14f", "mov eax,0x150", "cpuid", "rdtsc")


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_layout(random: Random) -> None:
    """Addresses, boundaries and listing fit together, for anything that can be drawn and any reduction of it."""
    snippet = generate.generate(random, EVERYTHING)
    for each in (snippet, *list(reductions(snippet))[:20]):
        layout = Layout(each)
        assert layout.fits()
        assert layout.start >= CODE
        assert layout.end <= CODE + CODE_PAGES * PAGE
        assert layout.code == b"".join(instr.code for instr in flatten(each.nodes))
        steps = [layout.start]
        while (following := layout.follows(steps[-1])) is not None:
            steps.append(following)
        assert steps == layout.addresses
        shown = re.findall(r"^(0x[0-9a-f]+): ([0-9a-f]+)", listing(each), re.MULTILINE)
        assert [int(address, 16) for address, _ in shown] == layout.addresses
        assert "".join(code for _, code in shown) == layout.code.hex()


def test_reductions_get_smaller() -> None:
    """Shrinking ends: each step takes something away."""

    def size(nodes: "tuple[Unit | Loop, ...]") -> int:
        return sum(
            5 + node.turns + sum(len(unit.instrs) for unit in node.body) if isinstance(node, Loop) else len(node.instrs)
            for node in nodes
        )

    for index in range(40):
        snippet = from_seed(4, index, EVERYTHING)
        for smaller in reductions(snippet):
            before = (size(snippet.nodes), snippet.twins, snippet.start, snippet.pull)
            after = (size(smaller.nodes), smaller.twins, smaller.start, smaller.pull)
            assert all(a <= b for a, b in zip(after, before, strict=True))
            assert after != before
