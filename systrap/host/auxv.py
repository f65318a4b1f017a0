"""The auxiliary vector the host kernel gave this process: hardware capabilities and sizes."""

import functools
import struct


@functools.cache
def auxiliary_vector() -> dict[int, int]:
    """Return the vector as {AT_…: value}. Raises OSError where /proc is not mounted."""
    with open("/proc/self/auxv", "rb") as file:
        data = file.read()
    return {key: value for key, value in struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]) if key}
