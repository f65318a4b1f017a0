"""The protocol's reference and schemas: up to date, and what drivers and runner really say is what they describe."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conformance import schema
from conformance.client import Driver
from conformance.protocol import CAPS, OPERATIONS, problem_of
from conformance.runner import Runner
from conformance.selection import everything
from conformance.verdict import Status
from tests.conformance.json_schema import load

ROOT = Path(__file__).parents[2]
DRIVER = [sys.executable, "-m", "systrap.cli.driver", "--platform", "ptrace"]
Message = dict[str, object]

REQUEST, ANSWER, EVENT = load("request.schema.json"), load("answer.schema.json"), load("event.schema.json")


def exchange() -> list[tuple[str, str]]:
    """Return the lines of the example in docs/protocol.md, each with its direction."""
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    block = re.search(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    return [(line[0], line[2:]) for line in block[1].splitlines()]


def test_reference_and_schemas_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main(["--check"]) == 0, capsys.readouterr().out


def test_stale_files_are_told_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = tmp_path / "protocol.md"
    reference.write_text(f"before\n{schema.BEGIN}old\n{schema.END}after\n")
    monkeypatch.setattr(schema, "FOLDER", tmp_path / "schemas")
    monkeypatch.setattr(schema, "REFERENCE", reference)
    assert schema.main(["--check"]) == 1
    assert capsys.readouterr().out.count("is out of date") == len(schema.schemas()) + 1
    assert schema.main([]) == 0
    assert schema.main(["--check"]) == 0
    text = reference.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "### `new_space`" in text


def test_files_are_what_json_schema_wants() -> None:
    for name, text in schema.schemas().items():
        document = json.loads(text)
        assert document["$schema"] == schema.DIALECT
        assert document["$id"] == name
    for operation in OPERATIONS:
        assert load("request.schema.json", operation).problem([]) is not None
        if not OPERATIONS[operation].event:
            assert load("result.schema.json", operation).problem([]) is not None


# The example.


def test_the_example_is_valid() -> None:
    for direction, line in exchange():
        message = json.loads(line)
        if message.get("op") == "dance":
            assert REQUEST.problem(message)
            continue
        assert (REQUEST if direction == ">" else ANSWER).problem(message) is None, line


def test_the_example_happens_again() -> None:
    """The same lines get the same answers, but for what hello says of this host."""
    lines = exchange()
    sent = [line for direction, line in lines if direction == ">"]
    expected = {json.loads(line)["id"]: json.loads(line) for direction, line in lines if direction == "<"}
    driver = Driver(DRIVER)
    try:
        got: dict[object, Message] = {}
        for line in sent:
            driver.send_line(line.encode())
            # The one switch that is not over when the next line comes is the one that this is about.
            if json.loads(line)["id"] != 7:
                for _ in range(2 if json.loads(line)["op"] == "interrupt" else 1):
                    reply = driver.read_reply(20)
                    got[reply["id"]] = reply
    finally:
        driver.kill()
    assert got.keys() == expected.keys()
    assert list(got) == [json.loads(line)["id"] for direction, line in lines if direction == "<"]
    assert ANSWER.problem(got.pop(1)) is None
    del expected[1]
    assert got == expected


# A whole run.


class Recorder(Driver):
    """A driver whose talk is kept."""

    talk: list[tuple[str, bytes]] = []  # noqa: RUF012 - of all recorders together: the runner makes new ones

    def send_line(self, line: bytes) -> None:
        """See Driver."""
        self.talk += [(">", one) for one in line.split(b"\n")]
        super().send_line(line)

    def read_reply(self, timeout: float) -> Message:
        """See Driver."""
        reply = super().read_reply(timeout)
        self.talk.append(("<", json.dumps(reply).encode()))
        return reply


@pytest.fixture(scope="module")
def talk() -> list[tuple[str, Message]]:
    """Return what the first tiers' cases and our driver say to each other, as objects: bad lines left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conformance.runner.Driver", Recorder)
        patch.setattr("conformance.checks.Driver", Recorder)
        Recorder.talk.clear()
        runner = Runner(DRIVER)
        plan = [
            item for item in everything("x86_64") if item.tier == 0 or item.id.startswith(("FLT-A", "FLT-D", "FP-SET"))
        ]
        assert all(verdict.status in (Status.PASS, Status.UNSUPPORTED) for verdict in runner.run(plan))
        runner.close()
    lines: list[tuple[str, Message]] = []
    for direction, line in Recorder.talk:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(message, dict):
            lines.append((direction, message))
    return lines


def _named_well(message: Message) -> bool:
    """Tell whether a request names registers that exist: schemas do not know them."""
    regs = message.get("regs", {})
    return not isinstance(regs, dict) or "raxx" not in regs


def test_what_a_driver_says_is_what_the_schemas_describe(talk: list[tuple[str, Message]]) -> None:
    asked: dict[object, str] = {}
    kinds: set[object] = set()
    for direction, message in talk:
        if direction == ">":
            asked[message.get("id")] = str(message.get("op"))
        elif isinstance(message.get("id"), int):
            assert ANSWER.problem(message) is None, message
            op = asked[message["id"]]
            assert problem_of(op, message) is None
            if "result" in message:
                assert load("result.schema.json", op).problem(message["result"]) is None
            if isinstance(event := message.get("event"), dict):
                assert EVENT.problem(event) is None
                kinds.add(event["kind"])
    assert kinds >= {"syscall", "fault", "interrupted"}


def test_requests_are_refused_if_and_only_if_the_schema_refuses_them(talk: list[tuple[str, Message]]) -> None:
    """What PROTO-FIELD-001 and the like send on purpose is refused by schema and driver alike, and nothing else is."""
    refused: dict[object, bool] = {}
    for direction, message in talk:
        if direction == "<":
            error = message.get("error")
            refused.setdefault(message.get("id"), isinstance(error, dict) and error.get("kind") == "protocol")
    count = 0
    for direction, message in talk:
        if direction == ">" and isinstance(message.get("id"), int) and _named_well(message):
            wrong = REQUEST.problem(message)
            unique = sum(other.get("id") == message["id"] and way == ">" for way, other in talk) == 1
            if unique:
                assert bool(wrong) == refused[message["id"]], (message, wrong)
                count += bool(wrong)
    assert count


def test_capabilities_that_our_driver_claims_are_in_the_table() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "systrap.cli.driver"],
        input=b'{"id": 1, "op": "hello", "protocol": 1, "suite": "x"}\n',
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(done.stderr.decode())
    assert set(json.loads(done.stdout)["result"]["caps"]) <= set(CAPS)
