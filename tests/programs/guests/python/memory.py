"""Big allocations, deep stacks, thread stacks, protections, remapping."""

import ctypes
import mmap
import sys
import threading

block = bytearray(30_000_000)
block[::4096] = b"a" * len(block[::4096])
print(block.count(b"a"))
numbers = list(range(300_000))
del block
print(len(numbers))

sys.setrecursionlimit(9000)


def deep(n: int) -> int:
    return n and 1 + deep(n - 1)


print(deep(4000))
threading.stack_size(64 << 20)
thread = threading.Thread(target=lambda: print(deep(8000)))
thread.start()
thread.join()

area = mmap.mmap(-1, 1 << 20)
area[0:5] = b"first"
area.resize(4 << 20)
print(area[0:5], len(area))
libc = ctypes.CDLL(None, use_errno=True)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
print(libc.mprotect(ctypes.c_void_p(address), 4096, 1), area[0:5])
print(libc.mprotect(ctypes.c_void_p(4096 * 3), 4096, 1), ctypes.get_errno())
print(libc.madvise(ctypes.c_void_p(address + 8192), 4096, 4), area[8192])
print(libc.munmap(ctypes.c_void_p(1), 4096), ctypes.get_errno())
area[0:1] = b"!"  # into a page that may only be read
