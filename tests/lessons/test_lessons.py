"""docs/lessons: every file runs and leaves nothing, pages show what is so, and the exercises' answers are right."""

import ast
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "lessons"
LESSONS = sorted(FOLDER.glob("lesson*.py"))
ANSWERS = sorted((FOLDER / "answers").glob("answer*.py"))
PAGES = sorted(FOLDER.glob("[0-9][0-9]-*.md"))
RUNS_HERE = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the lessons' machine code is x86-64's")
DEADLINE = 90
"""Seconds; the lessons need one or two on an idle machine, and end themselves after 60."""

EXPECTED = {
    "00": "42\n",
    "01": "True\n",
    "02": "4711 True\nTrue\n",
    "03": "the sentry died of SIGKILL\nand the stub is gone: True\n",
    "04": "orders: 6\nwait_until loses the wake-up in: []\n"
    "wait_wrongly loses the wake-up in: [('look', 'store', 'wake', 'sleep')]\n",
    "05": "the second call is 42\n",
    "06": "SIGILL, and eax is 7\n",
    "07": "read at the other address: b'hi, gues'; faults: 2\n",
    "08": "['SIGCHLD', 'SIGSYS']\n",
    "09": "True\nTrue\n",
    "10": "a thousand in order: True\nthe oldest of 65 is now: 64\n",
    "11": "a signal for somebody else's thread: -ESRCH\n",
}


def run(file: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Run a file in a session of its own, with an environment that has nothing of ours."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(FOLDER), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*before, sys.executable, str(file)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE, env=environment, start_new_session=True, check=False
    )


def masked(text: str) -> str:
    """Replace what differs from run to run: process ids, addresses of the host's choice, times, counts."""
    text = re.sub(r"getpid says \d+", "getpid says N", text)
    text = re.sub(r"0x7[0-9a-f]{11}\b", "ADDRESS", text)
    return re.sub(r"\d+ µs|count \d+", "NUMBER", text)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in this language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return found


def lesson_of(page: Path) -> Path:
    """Return the file that a page is about."""
    (found,) = FOLDER.glob(f"lesson{page.name[:2]}_*.py")
    return found


def processes_with(text: str) -> list[int]:
    """Return the processes whose command line has ``text``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if text.encode() in line:
            found.append(int(folder.name))
    return found


def test_there_are_twelve_of_everything() -> None:
    numbers = [f"{number:02}" for number in range(12)]
    assert [file.name[6:8] for file in LESSONS] == numbers
    assert [file.name[:2] for file in PAGES] == numbers
    assert [file.name[6:8] for file in ANSWERS] == numbers == sorted(EXPECTED)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_is_short_and_needs_nothing(lesson: Path) -> None:
    """At most 120 lines; imports the standard library and earlier lessons only."""
    text = lesson.read_text("utf-8")
    assert len(text.splitlines()) <= 120
    for node in ast.walk(ast.parse(text)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names or (top.startswith("lesson") and top[:8] < lesson.stem[:8]), name


@RUNS_HERE
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_output_of_a_page_is_that_of_a_run(page: Path) -> None:
    """Also: it ends well, says nothing else, and no process of it is left."""
    (shown,) = blocks(page, "console")
    command, _, output = shown.partition("\n")
    lesson = lesson_of(page)
    assert command == f"$ python3 {lesson.relative_to(ROOT)}"
    done = run(lesson)
    assert (done.returncode, done.stderr) == (0, "")
    assert masked(done.stdout) == masked(output)
    deadline = time.monotonic() + 30
    while processes_with(str(lesson)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with(str(lesson)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_code_of_a_page_is_that_of_its_file(page: Path) -> None:
    source = lesson_of(page).read_text("utf-8")
    shown = blocks(page, "python")
    assert shown
    for block in shown:
        assert block in source or textwrap.indent(block, "    ") in source, block


@RUNS_HERE
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda p: p.stem)
def test_an_answer_is_right(answer: Path) -> None:
    done = run(answer)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == EXPECTED[answer.stem[6:]]


@RUNS_HERE
def test_the_lost_wake_up_is_lost_every_time() -> None:
    """Not by luck: the hand-over is made to fall between look and sleep. The right wait survives the same."""
    code = (
        "import lesson04_futex as l\n"
        "print([l.is_it_lost(l.wait_wrongly) for _ in range(3)], [l.is_it_lost(l.wait_until) for _ in range(20)])"
    )
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, env=environment, check=True
    )
    assert done.stdout == f"{[True] * 3} {[False] * 20}\n"


@RUNS_HERE
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda p: p.stem)
def test_elsewhere_a_lesson_says_what_it_needs(lesson: Path) -> None:
    """The kernel can be asked to pretend to be a 32-bit one (personality PER_LINUX32)."""
    pretend = "import ctypes,os,sys; ctypes.CDLL(None).personality(8); os.execv(sys.executable, sys.argv[1:])"
    done = run(lesson, sys.executable, "-c", pretend)
    assert done.returncode == 1
    assert re.fullmatch(r"the lessons need 64-bit Linux on x86-64; this is linux on i686\n", done.stderr)
    assert done.stdout == ""
