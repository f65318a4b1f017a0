"""Answer to lesson 10: a ring that wraps keeps the order, and one that is overfull loses the oldest."""

from lesson00_call import require_this_machine
from lesson03_second_process import Shared
from lesson10_contexts import ENTRIES, Ring

if __name__ == "__main__":
    require_this_machine()
    ring = Ring(Shared(), 0)
    taken = []
    for number in range(1000):
        ring.put(number)
        taken.append(ring.take(1.0))
    print(f"a thousand in order: {taken == list(range(1000))}")
    for number in range(ENTRIES + 1):
        ring.put(number)
    print(f"the oldest of {ENTRIES + 1} is now: {ring.take(1.0)}")
