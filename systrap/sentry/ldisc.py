"""The line discipline of pseudo-terminals: what happens to bytes between the keyboard's side and the program's side.

Input is edited and echoed in lines (canonical mode) or handed on as it comes; output is translated. Pure: what is to be
shown, and signals, are returned through the two callbacks.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

VINTR: Final = 0
VQUIT: Final = 1
VERASE: Final = 2
VKILL: Final = 3
VEOF: Final = 4
VTIME: Final = 5
VMIN: Final = 6
VSTART: Final = 8
VSTOP: Final = 9
VSUSP: Final = 10
VEOL: Final = 11
VREPRINT: Final = 12
VWERASE: Final = 14
VLNEXT: Final = 15
VEOL2: Final = 16

ISTRIP: Final = 0o40
INLCR: Final = 0o100
IGNCR: Final = 0o200
ICRNL: Final = 0o400
IUCLC: Final = 0o1000
IXON: Final = 0o2000
IXANY: Final = 0o4000
IMAXBEL: Final = 0o20000
IUTF8: Final = 0o40000

OPOST: Final = 0o1
OLCUC: Final = 0o2
ONLCR: Final = 0o4
OCRNL: Final = 0o10
ONOCR: Final = 0o20
ONLRET: Final = 0o40
XTABS: Final = 0o14000

ISIG: Final = 0o1
ICANON: Final = 0o2
ECHO: Final = 0o10
ECHOE: Final = 0o20
ECHOK: Final = 0o40
ECHONL: Final = 0o100
NOFLSH: Final = 0o200
TOSTOP: Final = 0o400
ECHOCTL: Final = 0o1000
ECHOKE: Final = 0o4000
IEXTEN: Final = 0o100000

SIGINT: Final = 2
SIGQUIT: Final = 3
SIGTSTP: Final = 20

LINE_MAX: Final = 4096
"""So many bytes of an unfinished line are kept; what is typed beyond is lost."""

_NL: Final = 10
_CR: Final = 13
_TAB: Final = 9
_DISABLED: Final = 0
_DEFAULT_CC: Final = bytes([3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0])


class Termios:
    """Settings: the flag words and control characters of struct termios."""

    __slots__ = ("cc", "cflag", "iflag", "lflag", "line", "oflag")

    def __init__(self) -> None:
        """Start as a fresh terminal of Linux: canonical, with echo, 38400 baud."""
        self.iflag = ICRNL | IXON
        self.oflag = OPOST | ONLCR
        self.cflag = 0xBF
        self.lflag = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN
        self.line = 0
        self.cc = _DEFAULT_CC


class LineDiscipline:
    """One terminal's. ``show`` takes bytes for the screen (already translated), ``signal`` a signal for the foreground."""

    __slots__ = ("_column", "_edited", "_literal", "_show", "_signal", "lines", "raw", "stopped", "termios")

    def __init__(self, show: Callable[[bytes], None], signal: Callable[[int], None]) -> None:
        self.termios = Termios()
        self.lines: deque[bytes] = deque()
        """Finished lines; b"" is an end of file."""
        self.raw = bytearray()
        """Input outside canonical mode."""
        self.stopped = False
        self._edited = bytearray()
        self._literal = False
        self._column = 0
        self._show = show
        self._signal = signal

    # The program's side: reading.

    @property
    def canonical(self) -> bool:
        """Input comes in lines."""
        return bool(self.termios.lflag & ICANON)

    def available(self) -> int:
        """Return how many bytes a read could get now (an end of file alone counts none)."""
        return sum(map(len, self.lines)) if self.canonical else len(self.raw)

    def readable(self) -> bool:
        """Tell whether poll says so: a finished line, or as many bytes as VMIN wants (one, if there is a VTIME)."""
        if self.canonical:
            return bool(self.lines)
        cc = self.termios.cc
        wanted = 1 if cc[VTIME] or not cc[VMIN] else cc[VMIN]
        return len(self.raw) >= wanted

    def read(self, count: int) -> bytes | None:
        """Take input, at most one line of it in canonical mode; b"" is the end of file, None that there is nothing yet."""
        if self.canonical:
            if not self.lines:
                return None
            line = self.lines.popleft()
            if len(line) > count:
                self.lines.appendleft(line[count:])
                line = line[:count]
            return line
        cc = self.termios.cc
        if not self.raw or (len(self.raw) < min(cc[VMIN], count) and not cc[VTIME]):
            return b"" if not (cc[VMIN] or cc[VTIME]) else None
        data = bytes(self.raw[:count])
        del self.raw[:count]
        return data

    def flush_input(self) -> None:
        """Forget what was typed and not read."""
        self.lines.clear()
        self.raw.clear()
        self._edited.clear()

    def set(self, termios: Termios) -> None:
        """Change the settings; input that is there stays readable when the mode changes."""
        was = self.canonical
        self.termios = termios
        if was and not self.canonical:
            self.raw += b"".join(self.lines) + self._edited
            self.lines.clear()
            self._edited.clear()
        elif not was and self.canonical and self.raw:
            self.lines.append(bytes(self.raw))
            self.raw.clear()
        if not termios.iflag & IXON:
            self.stopped = False

    # The program's side: writing.

    def output(self, data: bytes) -> bytes:
        """Return what the screen gets for what a program writes."""
        flags = self.termios.oflag
        if not flags & OPOST:
            return data
        if flags & (OLCUC | OCRNL | ONOCR | ONLRET) or (flags & XTABS) == XTABS:
            return bytes(self._slow_output(data, flags))
        translated = data.replace(b"\n", b"\r\n") if flags & ONLCR else data
        self._note_column(translated)
        return translated

    def _note_column(self, data: bytes) -> None:
        start = data.rfind(b"\r") + 1
        if start:
            self._column = 0
        for char in data[start:] if len(data) - start < LINE_MAX else b"":
            self._advance(char)

    def _advance(self, char: int) -> None:
        if char == _TAB:
            self._column = (self._column | 7) + 1
        elif char == 8:
            self._column = max(0, self._column - 1)
        elif char >= 32 and not (self.termios.iflag & IUTF8 and char & 0xC0 == 0x80):
            self._column += 1

    def _slow_output(self, data: bytes, flags: int) -> bytearray:
        out = bytearray()
        for char in data:
            if char == _NL:
                if flags & ONLCR:
                    out.append(_CR)
                if flags & (ONLCR | ONLRET):
                    self._column = 0
                out.append(_NL)
            elif char == _CR:
                if flags & ONOCR and not self._column:
                    continue
                if flags & OCRNL:
                    out.append(_NL)
                    self._column = 0 if flags & ONLRET else self._column
                else:
                    out.append(_CR)
                    self._column = 0
            elif char == _TAB and flags & XTABS == XTABS:
                spaces = 8 - (self._column & 7)
                out += b" " * spaces
                self._column += spaces
            else:
                if flags & OLCUC and 97 <= char <= 122:
                    char -= 32
                out.append(char)
                self._advance(char)
        return out

    # The keyboard's side.

    def input(self, data: bytes) -> None:
        """Take what was typed."""
        termios = self.termios
        plain = not termios.lflag & (ICANON | ECHO | ISIG) and not termios.iflag & ~(IMAXBEL | IUTF8)
        if plain and not self._literal:
            self.raw += data
            return
        for char in data:
            self._input_char(char)

    def _input_char(self, char: int) -> None:
        termios = self.termios
        iflag, lflag, cc = termios.iflag, termios.lflag, termios.cc
        if iflag & ISTRIP:
            char &= 0x7F
        if iflag & IUCLC and lflag & IEXTEN and 65 <= char <= 90:
            char += 32
        if self._literal:
            self._literal = False
            self._ordinary(char)
            return
        if iflag & IXON and char != _DISABLED and char in (cc[VSTART], cc[VSTOP]):
            self.stopped = char == cc[VSTOP] and char != cc[VSTART]
            return
        if self.stopped and iflag & IXANY:
            self.stopped = False
        if lflag & ISIG and char != _DISABLED:
            for index, signo in ((VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)):
                if char == cc[index]:
                    self._interrupt(char, signo)
                    return
        if char == _CR:
            if iflag & IGNCR:
                return
            if iflag & ICRNL:
                char = _NL
        elif char == _NL and iflag & INLCR:
            char = _CR
        if not lflag & ICANON or not self._edit(char):
            self._ordinary(char)

    def _interrupt(self, char: int, signo: int) -> None:
        if not self.termios.lflag & NOFLSH:
            self.flush_input()
        self.stopped = False
        # The signal flushes what was to be shown; its own echo comes after.
        self._signal(signo)
        if self.termios.lflag & ECHO:
            self._echo(char)

    def _edit(self, char: int) -> bool:
        """Carry out an editing character of canonical mode. Returns False when it is none."""
        lflag, cc = self.termios.lflag, self.termios.cc
        extended = lflag & IEXTEN
        if char == _NL:
            if lflag & (ECHO | ECHONL):
                self._put(b"\n")
            self._finish(b"\n")
            return True
        if char == _DISABLED:
            return False
        if char == cc[VERASE] or char == cc[VKILL] or (extended and char == cc[VWERASE]):
            self._erase(char)
        elif extended and char == cc[VLNEXT]:
            self._literal = True
            if lflag & ECHO and lflag & ECHOCTL:
                self._put(b"^\b")
        elif extended and char == cc[VREPRINT] and lflag & ECHO:
            self._echo(char)
            self._put(b"\n")
            for kept in bytes(self._edited):
                self._echo(kept)
        elif char == cc[VEOF]:
            self._finish(b"")
        elif char == cc[VEOL] or (extended and char == cc[VEOL2]):
            if lflag & ECHO:
                self._echo(char)
            self._finish(bytes([char]))
        else:
            return False
        return True

    def _finish(self, end: bytes) -> None:
        self.lines.append(bytes(self._edited) + end)
        self._edited.clear()

    def _ordinary(self, char: int) -> None:
        lflag = self.termios.lflag
        if lflag & ICANON:
            if len(self._edited) >= LINE_MAX - 1:
                if self.termios.iflag & IMAXBEL:
                    self._show(b"\a")
                return
            self._edited.append(char)
        else:
            self.raw.append(char)
        if lflag & ECHO:
            self._echo(char)

    # Echo.

    def _put(self, text: bytes) -> None:
        self._show(self.output(text))

    def _echo(self, char: int) -> None:
        """Show a character as typed: control characters as ^X, if so set."""
        if self._is_control(char):
            self._put(b"^" + bytes([char ^ 0x40]))
        else:
            self._put(bytes([char]))

    def _is_control(self, char: int) -> bool:
        control = char < 32 or char == 127
        return bool(self.termios.lflag & ECHOCTL) and control and char not in (_TAB, _NL)

    def _erase(self, char: int) -> None:
        """Erase a character, a word or the line, on the screen, too."""
        cc, lflag = self.termios.cc, self.termios.lflag
        if not self._edited:
            return
        if char == cc[VKILL] and char != cc[VERASE]:
            if not (lflag & ECHO and lflag & ECHOK and lflag & ECHOKE and lflag & ECHOE):
                self._edited.clear()
                if lflag & ECHO:
                    self._echo(char)
                    if lflag & ECHOK:
                        self._put(b"\n")
                return
            while self._edited:
                self._erase_one()
        elif char == cc[VERASE]:
            self._erase_one()
        else:
            seen_word = False
            while self._edited:
                alnum = chr(self._edited[-1]).isalnum() or self._edited[-1] == 95
                if seen_word and not alnum:
                    break
                seen_word = seen_word or alnum
                self._erase_one()

    def _erase_one(self) -> None:
        lflag = self.termios.lflag
        removed = self._edited.pop()
        if self.termios.iflag & IUTF8:
            while removed & 0xC0 == 0x80 and self._edited:
                removed = self._edited.pop()
        if not lflag & ECHO:
            return
        if not lflag & ECHOE:
            self._echo(self.termios.cc[VERASE])
        elif removed == _TAB:
            self._erase_tab()
        else:
            width = 2 if self._is_control(removed) else 1
            self._put(b"\b \b" * width)

    def _erase_tab(self) -> None:
        """Move back to where the tab began, as far as the line that is left tells."""
        width = 0
        for char in self._edited:
            width = (width | 7) + 1 if char == _TAB else width + (2 if self._is_control(char) else 1)
        self._put(b"\b" * (8 - width % 8))
