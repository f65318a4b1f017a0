"""A shared anonymous mapping can be enlarged, but there is nothing behind its old end: SIGBUS."""

import mmap

area = mmap.mmap(-1, 1 << 16)
area[0:5] = b"first"
area.resize(1 << 18)
print(area[0:5], len(area), area[(1 << 16) - 1])
print(area[-1])
