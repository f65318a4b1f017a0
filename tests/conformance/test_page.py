"""The HTML report: whole and self-contained by its text; in a real browser, where there is one, without errors and legible."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from conformance.__main__ import main
from conformance.case import load_all
from conformance.checks import CHECKS
from conformance.verdict import Status
from tests.conformance.fakes import fake

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=5000 --dump-dom"
).split()
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

PROBE = """
<script>
function channels(text) {
  const numbers = text.match(/-?[0-9.]+/g).map(Number);
  const scale = text.startsWith("color(") ? 1 : 255;
  return [...numbers.slice(0, 3).map(n => n / scale), numbers.length > 3 ? numbers[3] : 1];
}
function light(colour) {
  const [r, g, b] = colour.slice(0, 3).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = channels(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0.99) return colour;
  }
  return [1, 1, 1, 1];
}
function pale() {
  const found = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const [a, b] = [light(channels(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const least = element.classList.contains("mark") ? 3 : 4.5;
    if (ratio < least) found.push(element.className + " " + walker.currentNode.data.trim().slice(0, 20) + " " + ratio.toFixed(2));
  }
  return [...new Set(found)].slice(0, 9);
}
const seen = element => element.checkVisibility() && element.getBoundingClientRect().height > 0;
const visible = selector => [...document.querySelectorAll(selector)].filter(seen).length;
const whole = document.documentElement;
const told = {
  overflow: whole.scrollWidth - whole.clientWidth, dark: matchMedia("(prefers-color-scheme: dark)").matches,
  headings: visible("h1, h2"), tiers: visible(".tier"), cards: visible(".case"), marks: visible(".mark"),
  rows: visible("#cases tbody tr"), requests: performance.getEntriesByType("resource").length, pale: pale(),
};
input.value = "sys-nostack";
input.dispatchEvent(new Event("input"));
told.filtered = visible("#cases tbody tr");
told.shown = shown.textContent;
location.hash = "#SYS-NR-001";
setTimeout(() => {
  told.revealed = visible("#cases tbody tr");
  buttons[0].click();
  told.pressed = [visible("#cases tbody tr"), buttons[0].getAttribute("aria-pressed")];
  const probe = document.createElement("pre");
  probe.id = "probe";
  probe.textContent = JSON.stringify(told);
  document.body.append(probe);
}, 100);
</script>
"""


class Seen(NamedTuple):
    """What a browser made of a page."""

    told: dict[str, object]
    console: list[str]


PAGES = ("good", "bad", "dead", "huge")
HUGE = 900


def huge() -> str:
    """Return a report of many cases in all tiers, with every verdict, long words and every kind of character."""
    plan = [
        {
            "id": f"SYS-NOSTACK-{i:04}",
            "title": f"{'long' * 40} <{i}> ü",
            "level": "must",
            "tier": i % 7,
            "require": ["P-040"],
        }
        for i in range(HUGE - 1)
    ]
    plan.append({**plan[0], "id": "SYS-NR-001"})
    header = {
        "kind": "header",
        "suite": "9",
        "protocol": 1,
        "spec": "2",
        "command": ["x y"],
        "seed": 1,
        "started": "noon",
    }
    statuses = [status.value for status in Status]
    talk = ["> " + "a" * 400, "< {}", "! <script>alert(1)</script> \ufffe"]
    rows = [
        {"kind": "case", **case, "status": statuses[i % 9], "reason": "0" * 900, "transcript": talk, "seconds": i}
        for i, case in enumerate(plan)
    ]
    return "".join(json.dumps(line) + "\n" for line in ({**header, "host": {}, "plan": plan}, *rows))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return pages by kind: nothing wrong, some failures, a driver that does not start, and a big one."""
    folder = tmp_path_factory.mktemp("pages")
    habits = {
        "good": ("pass", "SYS-N*-001"),
        "bad": ('if r["op"] == "switch" and handles % 3 == 0: sys.exit(1)', "SYS-*"),
        "dead": ("sys.exit(1)", "*"),
    }
    skips = folder / "skips"
    skips.write_text("SYS-NR-001 <no> & never\nSYS-NR-002 why not\n")
    (folder / "huge.jsonl").write_text(huge())
    for name, (habit, only) in habits.items():
        (folder / name).mkdir()
        command = " ".join(fake(folder / name, habit))
        report = ["--report", str(folder / f"{name}.jsonl"), "--skip-file", str(skips)]
        arguments = ["--timeout", "2", "--no-second-look", "--arch", "x86_64", "--seed", "3"]
        main(["run", "--driver", command, "--only", only, *report, *arguments])
    for name in PAGES:
        assert main(["report", str(folder / f"{name}.jsonl"), "--html", "--output", str(folder / f"{name}.html")]) == 0
    return {name: folder / f"{name}.html" for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_nothing_but_itself(pages: dict[str, Path], name: str) -> None:
    text = pages[name].read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href|action)="(?!#)[^"]*"', text) == []
    assert "@import" not in text
    assert "url(" not in text
    assert name == "huge" or "&lt;no&gt; &amp; never" in text
    assert "<script>alert" not in text
    anchors = set(re.findall(r'href="#([^"]+)"', text))
    assert anchors <= set(re.findall(r' id="([^"]+)"', text))
    assert ("What is not good" in text) == (name != "good")


def look(page: Path, folder: Path, *flags: str) -> Seen:
    """Open a page in the browser, with a script that looks around in it."""
    assert CHROMIUM is not None
    probed = folder / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line or "Uncaught" in line]
    return Seen(json.loads(html.unescape(found[1])), console)


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("good", 1200, "light"),
        ("good", 500, "dark"),
        ("bad", 1200, "dark"),
        ("bad", 500, "light"),
        ("dead", 1200, "light"),
        ("huge", 1200, "light"),
        ("huge", 500, "dark"),
    ],
)
def test_in_a_browser(pages: dict[str, Path], tmp_path: Path, name: str, width: int, scheme: str) -> None:
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    told, console = look(pages[name], tmp_path, f"--window-size={width},1000", *dark)
    assert console == []
    assert told["requests"] == 0
    assert told["dark"] == (scheme == "dark")
    assert told["overflow"] == 0, "the page is wider than the window"
    assert told["pale"] == [], "text that is hard to read"
    every = list(load_all("x86_64"))
    plan = {"good": 2, "bad": sum(case.id.startswith("SYS-") for case in every), "huge": HUGE}
    count = told["rows"]
    assert count == plan.get(name, len(every) + len(CHECKS))
    assert told["headings"] == (5 if name == "good" else 6)
    assert told["tiers"] == {"good": 1, "bad": told["tiers"]}.get(name, 7)
    marks, cards = told["marks"], told["cards"]
    assert isinstance(marks, int)
    assert isinstance(cards, int)
    assert marks >= count
    assert cards == 0 if name == "good" else 0 < cards <= 26
    # The filter leaves what it should; a link to another case takes the filter away; a button leaves its verdict's cases.
    assert told["filtered"] == (HUGE - 1 if name == "huge" else 1)
    assert told["shown"] == f"{told['filtered']} of {count} cases"
    assert told["revealed"] == count
    pressed = told["pressed"]
    assert isinstance(pressed, list)
    assert pressed[1] == "true"
    assert 0 < pressed[0] < count
