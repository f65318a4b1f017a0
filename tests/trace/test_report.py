"""The report: one page that a real browser opens without an error, in whatever light and width."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from systrap.trace.report import document, write_report
from systrap.trace.timeline import build
from tests.trace.browser import CHROMIUM, Browser
from tests.trace.native import ROOT, environment
from tests.trace.test_timeline import NAMES, one_call

STUB = [(0, 4096, "hole", "nothing", "---", ""), (4096, 8192, "guest", "guest memory", "rwx", "")]


def page(tmp_path: Path, title: str = "a run") -> Path:
    from systrap.trace import events

    happened: list[events.Event] = [events.TaskBegan(1000, 2, 2, 1, "</script><b>x"), *one_call(2000), *one_call(3000)]
    path = tmp_path / "page.html"
    with path.open("w", encoding="utf-8") as out:
        write_report(build(happened, NAMES), title, STUB, 0, out)
    return path


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    text = page(tmp_path).read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "http" not in text
    assert "/*RUN*/null" not in text


def test_names_that_guests_choose_end_no_script(tmp_path: Path) -> None:
    text = page(tmp_path, "<!--<script>").read_text()
    assert "</script><b>" not in text
    assert text.count("</script>") == 1


def test_what_the_page_shows() -> None:
    from systrap.trace import events

    happened: list[events.Event] = [events.TaskBegan(1000, 2, 2, 1, "sh"), *one_call(2000), *one_call(2090)]
    shown = document(build(happened, NAMES), "t", STUB, 7)
    assert shown["dropped"] == 7
    assert isinstance(shown["calls"], list)
    (row,) = shown["calls"]
    assert (row["name"], row["calls"], row["errors"]) == ("getpid", 2, 0)
    assert sum(row["histogram"]) == 1, "the second call's round trip is not over"
    assert shown["stub"] == [
        ["0", "1000", "hole", "nothing", "---", ""],
        ["1000", "2000", "guest", "guest memory", "rwx", ""],
    ]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: apt-get install chromium")
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True)])
def test_a_browser_opens_it(width: int, dark: bool, tmp_path: Path) -> None:
    """No exception and no console message, also when a reader zooms, points, presses keys and asks for all calls."""
    target = page(tmp_path)
    if os.uname().machine == "x86_64":
        subprocess.run(
            [sys.executable, "-m", "systrap", "run", "--report", str(target), "--", "/bin/sh", "-c", "ls /etc | sort | head -1"],
            cwd=ROOT, env=environment(), timeout=120, capture_output=True, check=True,
        )  # fmt: skip
    with Browser(tmp_path / "profile", width, 900, dark) as browser:
        browser.open(target)
        before = browser.look("to - from")
        browser.look("document.getElementById('in').click(); document.getElementById('time').focus()")
        assert browser.look("to - from") != before
        at = browser.look("(r => [r.left + label + 40, r.top + TOP + ROW * 1.5])(canvas.getBoundingClientRect())")
        assert isinstance(at, list)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            browser.send("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)
        browser.send("Input.dispatchMouseEvent", type="mouseWheel", x=at[0], y=at[1], deltaX=0, deltaY=-120)
        browser.send("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
        browser.look("document.querySelector('#more button')?.click()")
        assert browser.look("document.querySelectorAll('#calls tr[hidden]').length") == 0
        assert "round trips, half of them below" in str(browser.look("document.getElementById('median').textContent"))
        # Nothing sticks out of the window: what is wider scrolls in its own box.
        assert browser.look("document.documentElement.scrollWidth <= window.innerWidth") is True
        background = browser.look("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(21, 23, 26)" if dark else "rgb(251, 251, 250)")
        assert browser.complaints == []
