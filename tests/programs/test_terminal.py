"""A guest on a terminal: Ctrl-C, Ctrl-Z, window sizes, and the terminal's settings afterwards (issue 2, "Bad input")."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator

import pytest

from tests.programs.leftovers import is_alive
from tests.programs.support import ROOT, SLOWNESS, command, environment, need_platform


class Terminal:
    """A process on a pseudo-terminal, as a user has it: keys go in, text comes out."""

    def __init__(self, argv: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir("/")
                os.execve(argv[0], argv, environment({"TERM": "xterm", "PS1": "$ "}) | {"PYTHONPATH": str(ROOT)})
            finally:
                os._exit(127)
        self.text = b""
        self.status: int | None = None

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def read_until(self, pattern: bytes, seconds: float = 20 * SLOWNESS) -> bytes:
        """Return what came up to and with a match of ``pattern``, and drop it."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text, re.DOTALL)
            if found:
                seen, self.text = self.text[: found.end()], self.text[found.end() :]
                return seen
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} within {seconds} s in {self.text!r}"
            if select.select([self.fd], [], [], left)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    data = b""
                assert data, f"the end, and no {pattern!r} in {self.text!r}"
                self.text += data

    def wait(self, seconds: float = 20 * SLOWNESS) -> int:
        """Return the exit status, draining the output."""
        deadline = time.monotonic() + seconds
        while self.status is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.status = os.waitstatus_to_exitcode(status)
                break
            assert time.monotonic() < deadline, f"it does not end; {self.text!r}"
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.text += os.read(self.fd, 65536)
                except OSError:
                    time.sleep(0.05)
        return self.status

    def close(self) -> None:
        if self.status is None and is_alive(self.pid):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def on_terminal(terminals: list[Terminal], *argv: str) -> Terminal:
    need_platform("systrap")
    terminal = Terminal(command("systrap", argv))
    terminals.append(terminal)
    return terminal


def test_ctrl_c_ends_the_foreground_and_a_trap_survives(terminals: list[Terminal]) -> None:
    terminal = on_terminal(
        terminals, "/bin/bash", "-c", "trap 'echo caught' INT; echo ready; sleep 30; echo after; exit 5"
    )
    terminal.read_until(b"ready")
    time.sleep(0.3)
    terminal.type(b"\x03")
    terminal.read_until(b"caught.*after")
    assert terminal.wait() == 5


def test_ctrl_c_kills_a_program_that_does_not_trap_it(terminals: list[Terminal]) -> None:
    terminal = on_terminal(terminals, "/bin/sh", "-c", "echo ready; exec sleep 30")
    terminal.read_until(b"ready")
    time.sleep(0.3)
    terminal.type(b"\x03")
    assert terminal.wait() in (128 + signal.SIGINT, -signal.SIGINT)


def test_three_times_ctrl_c_ends_everything(terminals: list[Terminal]) -> None:
    terminal = on_terminal(terminals, "/bin/bash", "-c", "trap '' INT; echo ready; while :; do sleep 1; done")
    terminal.read_until(b"ready")
    for _ in range(3):
        time.sleep(0.3)
        terminal.type(b"\x03")
    assert terminal.wait() != 0


def test_an_interactive_shell(terminals: list[Terminal]) -> None:
    terminal = on_terminal(terminals, "/bin/bash", "--norc", "--noprofile", "-i")
    terminal.read_until(rb"\$ ")
    terminal.type(b"echo $((40 + 2)); tty\r")
    seen = terminal.read_until(rb"42\r\n.*\$ ")
    assert b"/dev/" in seen, seen
    terminal.type(b"sleep 30\r")
    time.sleep(0.7)
    terminal.type(b"\x1a")
    terminal.read_until(rb"Stopped.*\$ ")
    terminal.type(b"jobs\r")
    terminal.read_until(rb"Stopped +sleep 30.*\$ ")
    terminal.type(b"fg\r")
    terminal.read_until(rb"sleep 30\r\n")
    time.sleep(0.3)
    terminal.type(b"\x03")
    terminal.read_until(rb"\$ ")
    terminal.type(b"exit 9\r")
    assert terminal.wait() == 9


def test_ctrl_z_stops_the_guest_and_then_the_sentry(terminals: list[Terminal]) -> None:
    """As from a shell with job control: the whole run stops, and goes on with SIGCONT."""
    need_platform("systrap")
    terminal = Terminal(["/bin/bash", "--norc", "--noprofile", "-i"])
    terminals.append(terminal)
    terminal.read_until(rb"\$ ")
    line = " ".join(command("systrap", ("/bin/sh", "-c", "'echo rea''dy; sleep 1; echo a''fter'")))
    terminal.type(line.encode() + b"\r")
    terminal.read_until(b"ready\r\n")
    terminal.type(b"\x1a")
    terminal.read_until(rb"Stopped.*\$ ")
    terminal.type(b"fg\r")
    terminal.read_until(rb"after\r\n.*\$ ")
    terminal.type(b"exit 0\r")
    assert terminal.wait() == 0


def test_window_sizes_arrive(terminals: list[Terminal]) -> None:
    terminal = on_terminal(
        terminals, "/bin/bash", "-c", "trap 'stty size' WINCH; stty size; echo ready; sleep 2 & wait; wait"
    )
    terminal.read_until(b"ready")
    fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    terminal.read_until(b"33 77")
    terminal.wait()


def test_settings_come_back(terminals: list[Terminal]) -> None:
    terminal = on_terminal(terminals, "/bin/sh", "-c", "echo ready; read x; stty raw -echo; echo changed; kill -9 $$")
    terminal.read_until(b"ready")
    before = termios.tcgetattr(terminal.fd)
    terminal.type(b"\r")
    terminal.read_until(b"changed")
    assert terminal.wait() != 0
    # The last holder of the other side is gone; settings are asked on ours.
    assert termios.tcgetattr(terminal.fd)[:4] == before[:4]


def test_input_by_lines_and_end_of_file(terminals: list[Terminal]) -> None:
    terminal = on_terminal(terminals, "/bin/cat")
    terminal.type(b"hello\r")
    terminal.read_until(b"hello\r\nhello\r\n")
    terminal.type(b"\x04")
    assert terminal.wait() == 0
