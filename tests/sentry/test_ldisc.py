"""The line discipline, compared with the host's on a pseudo-terminal of the host."""

import os
import pty
import select
import termios

import pytest

from systrap.sentry.ldisc import ECHO, ICANON, LineDiscipline, Termios

TYPED = [
    b"hello\x7fO\n",
    b"one two\x17three\x15four\n",
    b"tab\there\x7f\x7f\x7f\x7f\x7f\n",
    b"a\x16\x03b\n",
    b"\x01\x7f\x02\n",
    b"cr\rnl\n",
    b"end\x04",
    b"\x04",
    b"x\x12y\n",
    b"gone\x03kept\n",
]


def _host(typed: bytes) -> tuple[bytes, list[bytes]]:
    """Return what the host's terminal shows for what is typed, and the lines it gives."""
    master, slave = pty.openpty()
    try:
        settings = termios.tcgetattr(slave)
        settings[0] = termios.ICRNL | termios.IXON
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        os.write(master, typed)
        lines = []
        poll = select.poll()
        poll.register(slave, select.POLLIN)
        while poll.poll(100):
            lines.append(os.read(slave, 4096))
        shown = b""
        poll = select.poll()
        poll.register(master, select.POLLIN)
        while poll.poll(100):
            shown += os.read(master, 4096)
    finally:
        os.close(slave)
        os.close(master)
    return shown, lines


def _ours(typed: bytes) -> tuple[bytes, list[bytes], list[int]]:
    shown: list[bytes] = []
    signals: list[int] = []

    def signal(signo: int) -> None:
        # As pty_pair.py: what was to be shown is flushed.
        shown.clear()
        signals.append(signo)

    discipline = LineDiscipline(shown.append, signal)
    discipline.input(typed)
    lines: list[bytes] = []
    while (line := discipline.read(4096)) is not None:
        lines.append(line)
    return b"".join(shown), lines, signals


@pytest.mark.parametrize("typed", TYPED)
def test_as_on_the_host(typed: bytes) -> None:
    shown, lines, _ = _ours(typed)
    assert (shown, lines) == _host(typed)


def test_keys_that_signal() -> None:
    assert _ours(b"\x03\x1c\x1a")[2] == [2, 3, 20]


def test_raw_input_passes_unchanged_and_edited_input_survives_the_change() -> None:
    shown: list[bytes] = []
    discipline = LineDiscipline(shown.append, lambda signo: None)
    discipline.input(b"half")
    raw = Termios()
    raw.iflag = raw.oflag = 0
    raw.lflag &= ~(ICANON | ECHO | 1)
    discipline.set(raw)
    discipline.input(b"\x03\r\n")
    assert discipline.read(99) == b"half\x03\r\n"
    assert discipline.output(b"a\n") == b"a\n"


def test_a_line_longer_than_the_buffer_is_cut() -> None:
    discipline = LineDiscipline(lambda data: None, lambda signo: None)
    discipline.input(b"x" * 5000 + b"\n")
    assert discipline.read(9999) == b"x" * 4095 + b"\n"
