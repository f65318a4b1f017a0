"""Documents must not rot: links lead somewhere, named things exist, commands parse."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from systrap.cli import disasm, doctor, run, trace
from systrap.cli import map as map_command
from systrap.cli.main import COMMANDS
from systrap.cli.options import parse

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "conformance").rglob("*.md")])
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def links(document: Path) -> list[tuple[str, str]]:
    """Return (text, target) of each link outside of fenced blocks."""
    return _LINK.findall(_FENCE.sub("", document.read_text(encoding="utf-8")))


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(plain.replace(" ", "-"))
    return found


def names_in(file: Path) -> set[str]:
    """Return what a source file defines: functions, classes, methods, constants; for C and assembly every word."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return set(re.findall(r"\w+", text))
    names = {file.name}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(t.id for t in targets if isinstance(t, ast.Name))
    return names


def test_there_are_documents() -> None:
    assert {"README.md", "tour.md", "limits.md", "design.md", "sentry.md", "images.md"} <= {d.name for d in DOCUMENTS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for text, target in links(document):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(f"[{text}]({target})")
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_things_that_are_named_exist(document: Path) -> None:
    """A link whose text is code, like [`submit`](../systrap/platform.py), names something that the file defines."""
    missing = []
    for text, target in links(document):
        name = re.fullmatch(r"`([\w.]+?)(\(\))?`", text)
        file = (document.parent / target.partition("#")[0]).resolve()
        if name is None or file.suffix not in (".py", ".c", ".h", ".S") or not file.is_file():
            continue
        known = names_in(file)
        if name[1] not in known and not all(part in known for part in name[1].split(".")):
            missing.append(f"{name[1]} in {file.relative_to(ROOT)}")
    assert missing == []


def commands(document: Path) -> list[str]:
    """Return the shell commands of a document's console blocks ("$ " before each)."""
    return [
        line[2:]
        for language, body in _FENCE.findall(document.read_text(encoding="utf-8"))
        if language == "console"
        for line in body.splitlines()
        if line.startswith("$ ")
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_commands_are_ones_that_exist(document: Path) -> None:
    tables = {
        "run": run.OPTIONS,
        "trace": trace.OPTIONS,
        "doctor": doctor.OPTIONS,
        "map": map_command.OPTIONS,
        "disasm": disasm.OPTIONS,
    }
    for command in commands(document):
        words = shlex.split(command)
        if words[:3] == ["python3", "-m", "systrap"]:
            assert words[3] in COMMANDS or words[3].startswith("--")
            if words[3] in tables:
                parsed = parse(tables[words[3]], words[4:])
                assert parsed.rest or words[3] not in ("run", "trace")
        else:
            assert (ROOT / words[0]).exists() or words[0] in ("python3", "git", "cd", "pip", "apt"), command


def test_every_document_is_in_the_index() -> None:
    index = {(ROOT / "docs" / target).resolve() for _, target in links(ROOT / "docs" / "README.md")}
    here = {document.resolve() for document in (ROOT / "docs").glob("*.md")} - {(ROOT / "docs" / "README.md").resolve()}
    assert here - index == set()


def test_the_licence_is_the_whole_of_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert len(text) == 11358
    assert "Version 2.0, January 2004" in text
    assert text.rstrip().endswith("limitations under the License.")
