"""``systrap disasm``: the build's listings, with a note for every routine, and no statement that there is not."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from systrap.cli import disasm
from systrap.cli.main import main
from systrap.platforms.systrap import blob
from systrap.platforms.systrap.routines import PURPOSES, ROUTINES

ROOT = Path(__file__).parent.parent.parent


def test_every_routine_has_a_note_and_every_note_a_routine() -> None:
    seen: dict[str, set[str]] = {image: set() for image in PURPOSES}
    for arch in disasm.ARCHITECTURES:
        for image in PURPOSES:
            for part in disasm.read(arch, image):
                assert part.note is not None, f"{part.name} of {arch}-{image} has no note in routines.py"
                seen[image].add(part.name)
    assert {image: set(table) for image, table in ROUTINES.items()} == seen


def test_notes_name_statements_and_sources_that_exist() -> None:
    known = set(re.findall(r"^\| ([SP]-\d{3}) ", (ROOT / "docs" / "spec.md").read_text(), re.MULTILINE))
    for table in ROUTINES.values():
        for name, note in table.items():
            assert set(note.statements) <= known, name
            for source in note.source.split(", "):
                folders = ("x86_64", "aarch64") if "{arch}" in source else ("",)
                paths = [ROOT / "blobs" / "src" / source.replace("{arch}", folder) for folder in folders]
                assert any(path.exists() for path in paths), (name, source)


@pytest.mark.parametrize("arch", disasm.ARCHITECTURES)
def test_the_listing_is_that_of_the_image(arch: str) -> None:
    for image in PURPOSES:
        exports = blob.load(image, arch).exports
        parts = {part.name: part for part in disasm.read(arch, image)}
        for name, offset in exports.items():
            assert (parts[name].offset, parts[name].exported) == (offset, True)


def test_one_routine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disasm", "--arch", "x86_64", "give_back"]) == 0
    out = capsys.readouterr().out
    assert "# keeps: S-060, S-061" in out
    assert "# source: blobs/src/give_back.c" in out
    assert "rdtsc" in out
    assert "<sighandler>" not in out


def test_list_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disasm", "--arch", "aarch64-64k", "--list", "bootstrap"]) == 0
    assert "begin_thread" in capsys.readouterr().out
    assert main(["disasm", "--arch", "aarch64-64k", "--json", "push_ready"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["image"], found["exported"]) == ("sysmsg", False)
    assert found["instructions"][0].startswith(f"{found['offset']:x}:")


def test_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disasm", "givback"]) == 125
    assert "did you mean give_back?" in capsys.readouterr().err
    assert main(["disasm", "a", "b"]) == 125
    assert "one image or routine at a time" in capsys.readouterr().err


def test_a_listing_of_another_build_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Path(blob.images_folder())
    for path in images.glob("*.bin"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "manifest.txt").write_bytes((images / "manifest.txt").read_bytes())
    (tmp_path / "listing").mkdir()
    monkeypatch.setattr(blob, "images_folder", lambda: str(tmp_path))
    assert main(["disasm", "--arch", "x86_64"]) == 1
    assert "Listings come with the source tree and the wheel" in capsys.readouterr().err
    listing = (images / "listing" / "x86_64-bootstrap.lst").read_text()
    (tmp_path / "listing" / "x86_64-bootstrap.lst").write_text(listing.replace(listing.split()[1], "0" * 64))
    assert main(["disasm", "--arch", "x86_64"]) == 1
    assert "the listing of another build" in capsys.readouterr().err


def test_listings_and_the_page_are_data_of_the_package() -> None:
    """What pyproject.toml names goes into a wheel (.ci/run builds one)."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "listing/*.lst" in data["systrap.blobs"]
    assert "trace/report.html" in data["systrap"]
    assert (ROOT / "systrap" / "trace" / "report.html").exists()
