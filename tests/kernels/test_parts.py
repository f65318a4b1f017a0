"""The parts of the machines that need none: archives, apt's sources, what jobs say, the table."""

import io
import json
import stat
from pathlib import Path

import pytest

from tests.kernels import jobs, table
from tests.kernels.catalog import KERNELS, kernel
from tests.kernels.cpio import Archive
from tests.kernels.debian import entries_of
from tests.kernels.image import modules
from tests.kernels.jobs import Cell


def entries(data: bytes) -> list[tuple[str, int, bytes]]:
    """Read an archive: name, mode and content of each entry, the end left out."""
    found: list[tuple[str, int, bytes]] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_end = at + 110 + fields[11]
        name = data[at + 110 : name_end - 1].decode()
        start = -(-name_end // 4) * 4
        if name == "TRAILER!!!":
            assert not any(data[start:])
            return found
        found.append((name, fields[1], data[start : start + fields[6]]))
        at = -(-(start + fields[6]) // 4) * 4


def test_an_archive_holds_what_was_added(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/odd").write_bytes(b"12345")
    (tmp_path / "sub/odd").chmod(0o755)
    (tmp_path / "link").symlink_to("sub/odd")
    (tmp_path / "left").write_text("out")
    file = io.BytesIO()
    archive = Archive(file)
    archive.text("a/b/c", "text")
    archive.add("dev", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.tree(tmp_path, "t", lambda path: path.name != "left")
    archive.close()
    assert len(file.getvalue()) % 512 == 0
    found = entries(file.getvalue())
    assert [name for name, _, _ in found] == ["a", "a/b", "a/b/c", "dev", "t", "t/link", "t/sub", "t/sub/odd"]
    by_name = {name: (mode, content) for name, mode, content in found}
    assert by_name["a/b/c"] == (stat.S_IFREG | 0o644, b"text")
    assert by_name["t/link"] == (stat.S_IFLNK | 0o777, b"sub/odd")
    assert by_name["t/sub/odd"] == (stat.S_IFREG | 0o755, b"12345")


def test_an_archive_refuses_what_it_cannot_say() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(ValueError, match="longer than 4 GiB"):
        Archive(io.BytesIO()).add("x", 0, Huge())


def test_sources_of_both_forms() -> None:
    lines = (
        "# comment\ndeb [signed-by=/k] http://h/debian bookworm main contrib\ndeb-src http://h/debian bookworm main\n"
    )
    assert entries_of(lines, True) == [("deb [signed-by=/k] http://h/debian ", "bookworm", " main contrib")]
    stanzas = "Types: deb\nURIs: http://h\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://i\n"
    ((before, suites, behind),) = entries_of(stanzas, False)
    assert before.endswith("Suites:")
    assert suites.split() == ["bookworm", "bookworm-updates"]
    assert behind == "\nComponents: main"


def test_modules_come_behind_what_they_need(tmp_path: Path) -> None:
    for name, needs in (("virtio", ""), ("virtio_ring", "virtio"), ("virtio-console", "virtio_ring,virtio")):
        (tmp_path / f"{name}.ko").write_bytes(b"\x7fELF\0depends=" + needs.encode() + b"\0")
    order = [name for name, _ in modules(tmp_path, ("virtio_console", "built_in"))]
    assert order == ["virtio.ko", "virtio_ring.ko", "virtio_console.ko"]


def test_kernels_have_names_of_their_own() -> None:
    assert len({one.name for one in KERNELS}) == len(KERNELS)
    assert kernel("aarch64-6.1").arch == "arm64"
    with pytest.raises(KeyError):
        kernel("vax")


def test_reading_a_report() -> None:
    plan: list[dict[str, object]] = [
        {"id": name, "title": "t", "level": "must", "tier": 1, "require": []} for name in ("A-B-001", "A-B-002")
    ]
    header = {
        "kind": "header",
        "suite": "1",
        "protocol": 1,
        "spec": "2",
        "command": [],
        "seed": 1,
        "started": "",
        "host": {},
    }
    case = {**plan[0], "kind": "case", "status": "pass", "reason": "", "transcript": [], "seconds": 1.0, "flaky": False}
    bad = {**case, "id": "A-B-002", "status": "timeout", "reason": "no event\nmore", "flaky": True}
    text = "\n".join(json.dumps(line) for line in ({**header, "plan": plan}, case, bad))
    reading = jobs.read_conformance(1, text)
    assert reading == (False, "1 of 2 (1 timeout)", ("A-B-002: timeout: no event (flaky)",))
    assert not jobs.read_conformance(0, "nonsense").good


def test_reading_programs() -> None:
    assert jobs.read_programs(0, "pass a\nskip b: not here\nnoise\n") == (
        True,
        "1 of 2 (1 skipped)",
        ("skip b: not here",),
    )
    assert jobs.read_programs(1, "pass a\nFAIL b: differs\n") == (False, "1 of 2", ("FAIL b: differs",))
    assert not jobs.read_programs(0, "skip a: all of them\n").good


def test_reading_pytest() -> None:
    assert jobs.read_pytest(0, "....\n======= 4 passed, 1 skipped in 3.20s =======\n") == (
        True,
        "4 passed, 1 skipped",
        (),
    )
    text = "FAILED tests/x.py::test_y - assert\n1 failed, 2 passed in 0.10s\n"
    assert jobs.read_pytest(1, text) == (False, "1 failed, 2 passed", ("FAILED tests/x.py::test_y - assert",))
    assert not jobs.read_pytest(0, "no tests ran").good


def test_reading_doctor() -> None:
    rows = [{"id": "a", "verdict": "ok", "finding": "x"}, {"id": "b", "verdict": "degraded", "finding": "y"}]
    said = {"requirements": rows, "platforms": {"ptrace": {"can_run": True, "trial": ""}}}
    assert jobs.read_doctor(0, json.dumps(said)) == (True, "runs: ptrace; 1 ok, 1 degraded", ("b: y",))
    assert not jobs.read_doctor(0, "Traceback").good


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "RESULTS", tmp_path / "kernels.json")
    monkeypatch.setattr(table, "DOCUMENT", tmp_path / "kernels.md")
    cell = Cell("x86_64-6.1", "doctor", False, "1 | 2", ("a: <b>",), 12.4, "2026-01-02", "6.1.0-1")
    table.keep(cell._replace(kernel="aarch64-6.1", good=True, notes=()))
    table.keep(cell._replace(text="older"))
    table.keep(cell)
    text = (tmp_path / "kernels.md").read_text()
    assert "**not good** 1 \\| 2<br>2026-01-02, 12 s" in text
    assert "x86_64-6.1<br>6.1.0-1<br>4K pages" in text
    assert "`x86_64-6.1`, `doctor` (2026-01-02, 12 s):\n\n* a: &lt;b>" in text
    assert "older" not in text
    assert list(table.cells()) == [("x86_64-6.1", "doctor"), ("aarch64-6.1", "doctor")]


def test_the_document_is_what_was_measured() -> None:
    """docs/kernels.md was not edited by hand."""
    assert table.DOCUMENT.read_text(encoding="utf-8") == table.document(table.cells())
