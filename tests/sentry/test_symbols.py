"""The nearest symbol of an address in a file."""

import ctypes
import os

import pytest

from systrap.sentry.symbols import nearest


def test_libc_symbol() -> None:
    """What the dynamic linker says about a function of libc, seen from the file."""
    address = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p).value or 0
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split()
            start, end = (int(x, 16) for x in fields[0].split("-"))
            if start <= address < end and len(fields) > 5 and os.path.exists(fields[5]):
                with open(fields[5], "rb") as file:
                    symbol = nearest(
                        lambda at, n: os.pread(file.fileno(), n, at), int(fields[2], 16) + address - start + 3
                    )
                assert symbol.endswith("getppid+0x3")
                return
    pytest.skip("libc is not a file here")


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF" + b"\xff" * 500, b"\x7fELF" + b"\0" * 500])
def test_garbage(data: bytes) -> None:
    assert nearest(lambda at, n: data[at : at + n], 10) == ""
