"""One half at a time: ``conformance stub`` and ``conformance sentry`` (docs/halves.md), as a porter runs them."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import shared
from conformance.__main__ import main
from conformance.commands import STUB_AFFAIRS
from conformance.sentry_half import SENTRY_CHECKS
from systrap import platform
from systrap.arch import x86_64
from systrap.platform import RequirementError
from systrap.platforms.systrap import abi
from tests.foreign import build
from tests.foreign.build import Files

HALF = shlex.join([sys.executable, "-m", "systrap.cli.half"])
IMAGES: dict[str, Callable[[Path], Files]] = {"ours": build.our_image_without_ring, "small": build.small_image}


def need_systrap() -> None:
    """Skip where the platform does not run."""
    try:
        platform.lookup("systrap").new(platform.Options()).close()
    except RequirementError as error:
        pytest.skip(f"the systrap platform does not run on this host: {error}")


def test_our_sentry(tmp_path: Path) -> None:
    """Every check of a sentry alone passes; the report is like any other."""
    report = tmp_path / "report.jsonl"
    assert main(["sentry", "--driver", HALF, "--report", str(report)]) == 0
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert {row["id"]: row["status"] for row in rows if row["kind"] == "case"} == {
        check.id: "pass" for check in SENTRY_CHECKS
    }
    assert rows[-1]["good"] is True
    assert main(["report", str(report), "--tap", "--output", str(tmp_path / "tap")]) == 0


def test_a_driver_of_both_halves_is_no_sentry(capsys: pytest.CaptureFixture[str]) -> None:
    """It refuses the operations that it does not know, and that is told."""
    need_systrap()
    driver = shlex.join([sys.executable, "-m", "systrap", "driver"])
    assert main(["sentry", "--driver", driver, "--only", "SENTRY-QUEUE-001"]) == 1
    assert "unknown operation 'half.attach'" in capsys.readouterr().out


def test_nothing_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sentry", "--driver", HALF, "--only", "SYS-*"]) == 2
    assert "no check of a sentry matches" in capsys.readouterr().err


@pytest.mark.parametrize("name", IMAGES)
def test_stub_images_keep_the_abi(tmp_path: Path, name: str) -> None:
    """Our image as if it were upstream's, and the small one that was written from the specification."""
    need_systrap()
    files = IMAGES[name](tmp_path)
    only = ["--only", "ABI-*", "--only", "SMOKE-*"]
    assert main(["stub", "--blob", str(files.blob), "--manifest", str(files.manifest), *only]) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", IMAGES)
def test_stub_images_pass_everything_that_is_theirs(tmp_path: Path, name: str) -> None:
    need_systrap()
    files = IMAGES[name](tmp_path)
    assert main(["stub", "--blob", str(files.blob), "--manifest", str(files.manifest)]) == 0


def test_a_manifest_that_lacks_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The image is refused, and the verdict says why."""
    need_systrap()
    files = build.our_image_without_ring(tmp_path)
    exports = json.loads(files.manifest.read_text())
    del exports["__export_sighandler"]
    files.manifest.write_text(json.dumps(exports))
    arguments = [
        "stub",
        "--blob",
        str(files.blob),
        "--manifest",
        str(files.manifest),
        "--only",
        "SMOKE-*",
        "--jobs",
        "1",
    ]
    assert main(arguments) == 1
    assert "lacks sighandler" in capsys.readouterr().out


def test_both_write_the_same_layout() -> None:
    """The suite's numbers were written down on their own: they are those of abi.py (S-020)."""
    for name in ("STATE", "INTERRUPT", "THREAD_ID", "LAST_THREAD_ID", "SENTRY_FAST_PATH", "ACKED_TIME", "STATE_CHANGED_TIME",
                 "SIGINFO", "SIGNO", "ERR", "PTREGS", "FPSTATE_CHANGED", "INVALID_ID"):  # fmt: skip
        assert getattr(shared, name) == getattr(abi, name), name
    for name in (
        "END",
        "START",
        "ACTIVE_THREADS",
        "SPINNING_THREADS",
        "THREADS_TO_WAKEUP",
        "ACTIVE_CONTEXTS",
        "RING",
        "ENTRIES",
    ):
        assert getattr(shared, name) == getattr(abi, f"QUEUE_{name}"), name
    assert shared.REGISTERS == x86_64.NAMES
    assert shared.SLOT == abi.CONTEXT_SIZE


def test_a_stub_is_not_asked_for_what_is_the_sentrys() -> None:
    areas = {glob.partition("-")[0] for glob in STUB_AFFAIRS}
    assert not areas & {"PROTO", "DRV", "MEM", "ISO", "KILL", "FREEZE", "LEAK"}
