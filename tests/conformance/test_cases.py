"""Case files: the ones that are there, and mistakes in ones that are not."""

import re
import tomllib
from pathlib import Path

import pytest

from conformance.assemble import AssemblerError, assemble, assembler, hex_lines, main
from conformance.case import CASES, Case, CaseError, load, load_all

SPEC = Path(__file__).parent.parent.parent / "docs" / "spec.md"
STATEMENTS = set(re.findall(r"^\| ([SP]-\d{3}) \|", SPEC.read_text(), re.MULTILINE))

needs_assembler = pytest.mark.skipif(assembler() is None, reason="needs GNU as or clang")

EVERY = list(load_all("x86_64"))

GOOD = """
id = "SYS-TEST-001"
title = "a case"
require = ["P-040"]
level = "must"
tier = 1
arch = "x86_64"
code = "0f05"
map = [{ addr = "0x10000000", len = 4096, prot = "rx", data = "$code" }]

[[step]]
expect = { kind = "syscall" }
"""


def test_every_file_is_a_case() -> None:
    assert len(EVERY) == len(list((CASES / "x86_64").iterdir()))


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.id)
def test_every_case_names_what_it_tests(case: Case) -> None:
    assert case.require or case.id.startswith("PROTO-")
    assert case.title == case.title.strip()
    assert case.code


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.id)
def test_statements_are_there(case: Case) -> None:
    """Cases name statements of docs/spec.md. Those about the protocol alone have none to name."""
    assert set(case.require) <= STATEMENTS


@needs_assembler
@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.id)
def test_code_is_what_the_assembly_says(case: Case) -> None:
    assert assemble(tomllib.loads(case.path.read_text())["asm"]).code == case.code


def test_there_are_cases_of_every_tier_and_topic() -> None:
    assert len(EVERY) >= 150
    assert {case.tier for case in EVERY} == set(range(7))
    areas = {case.id.split("-")[0] for case in EVERY}
    assert areas >= set("SMOKE PROTO SYS REG FLT MEM STEP PATCH FP INT CTX ISO HOST KILL FREEZE LEAK STRESS".split())


# The assembler.


@needs_assembler
def test_labels_and_lines() -> None:
    source = "nop; a: mov eax, 5\n.rept 2\nint3\n.endr\nb: jmp a"
    made = assemble(source)
    assert made.code == bytes.fromhex("90b805000000cccceb f7".replace(" ", ""))
    assert (made.labels["a"], made.labels["b"]) == (1, 8)
    assert hex_lines(source) == "90\nb805000000\ncccc\nebf7"


@needs_assembler
@pytest.mark.parametrize("source", ["mov eax, nobody", "jmp elsewhere", "no such instruction"])
def test_what_cannot_be_assembled_alone(source: str) -> None:
    with pytest.raises(AssemblerError):
        assemble(source)


@needs_assembler
def test_check_and_fill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = GOOD.replace('code = "0f05"', 'code = "90"\nasm = "nop; syscall"')
    path = write(tmp_path, text)
    assert main([str(path)]) == 1
    assert "not what the assembly says" in capsys.readouterr().out
    assert main(["--fill", str(path)]) == 0
    assert main([str(path)]) == 0
    assert load(path).code == b"\x90\x0f\x05"
    assert path.read_text().replace('"""\n90\n0f05\n"""', '"90"') == text


def test_no_assembler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert main([]) == 2
    assert "neither as nor clang" in capsys.readouterr().err


# Reading cases.


def write(folder: Path, text: str, name: str = "sys-test-001.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_good_case(tmp_path: Path) -> None:
    case = load(write(tmp_path, GOOD))
    assert (case.id, case.timeout_ms, case.contexts, case.spaces) == (
        "SYS-TEST-001",
        2000,
        {"main": "main"},
        ("main",),
    )
    assert case.maps[0].data == b"\x0f\x05"
    assert (case.steps[0].do, case.steps[0].repeat) == ("switch", 1)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('title = "a case"', "", "'title' must be there"),
        ("tier = 1", 'tier = "1"', "'tier' must be there, and of type int"),
        ("tier = 1", "tier = true", "'tier' must be there, and of type int"),
        ('level = "must"', 'level = "maybe"', "level must be one of"),
        ("SYS-TEST-001", "sys-1", "must look like"),
        ("SYS-TEST-001", "SYS-OTHER-001", "name the file"),
        ('code = "0f05"', 'code = "0f0"', "code:"),
        ("[[step]]", "[[steps]]", "unknown field 'steps'"),
        ('expect = { kind = "syscall" }', "expects = 1", "unknown field 'expects'"),
        ('expect = { kind = "syscall" }', 'do = "dance"', "no step does 'dance'"),
        ('require = ["P-040"]', "require = 5", "list of strings"),
        ("map = [{", "map = [{ size = 1,", "unknown field 'size'"),
        ("tier = 1", "tier = ", "Invalid value"),
        ("[[step]]", 'context = [{ name = "a", space = "b" }]\n[[step]]', "there is no space 'b'"),
        ("[[step]]", 'context = [{ name = "a#" }]\n[[step]]', "count and # belong together"),
        ("[[step]]", 'space = [{ name = "a", count = 2 }]\n[[step]]', "count and # belong together"),
        ("map = [{", 'map = [{ space = "b*",', "there is no space 'b\\*'"),
        ("[[step]]", '[[step]]\ncontext = "b"', "there is no context 'b'"),
        ("[[step]]", '[[step]]\ndo = "memory"\nspace = "b"\n[[step]]', "there is no space 'b'"),
        ("[[step]]", '[[step]]\ndo = "repeat"\ntimes = 2\n[[step]]', "repeat has steps"),
        ("[[step]]", '[[step]]\ndo = "repeat"\n[[step.step]]\n[[step]]', "'times' must be there"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, old: str, new: str, text: str) -> None:
    assert old in GOOD
    with pytest.raises(CaseError, match=text):
        load(write(tmp_path, GOOD.replace(old, new)))


def test_no_steps(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="without steps"):
        load(write(tmp_path, GOOD.partition("[[step]]")[0]))


def test_families(tmp_path: Path) -> None:
    """A name with # and a count stands for many; a context lives in the space of its number; a map is made in all that match."""
    text = GOOD.replace("map = [{", 'space = [{ name = "s#", count = 2 }]\nmap = [{ space = "s*",').replace(
        "[[step]]", 'context = [{ name = "c#", space = "s#", count = 2 }, { name = "d#", count = 1 }]\n\n[[step]]'
    )
    case = load(write(tmp_path, text))
    assert case.spaces == ("main", "s0", "s1")
    assert case.contexts == {"main": "main", "c0": "s0", "c1": "s1", "d0": "main"}
    assert [mapping.space for mapping in case.maps] == ["s0", "s1"]


def test_repeated_steps(tmp_path: Path) -> None:
    text = GOOD.replace(
        "[[step]]",
        '[[step]]\ndo = "repeat"\ntimes = 3\n[[step.step]]\ndo = "new"\ncontext = "c#"\n[[step.step]]\ncontext = "c#"\n[[step]]',
    )
    block, last = load(write(tmp_path, text)).steps
    assert (block.do, block.times, [step.do for step in block.steps]) == ("repeat", 3, ["new", "switch"])
    assert (last.do, last.times, last.steps) == ("switch", 1, ())
