"""Answer to lesson 04: all orders of four steps. What a test needs luck for, a model of ten lines finds every time."""

from itertools import permutations


def is_lost(order: tuple[str, ...], expected_is_read_anew: bool) -> bool:
    """Play one order; True when the waiter sleeps at the end. The word is 0, and becomes 1."""
    word, seen, asleep = 0, 0, False
    for step in order:
        if step == "look":
            seen = word
        elif step == "sleep" and seen == 0:
            asleep = word == (word if expected_is_read_anew else seen)
        elif step == "store":
            word = 1
        elif step == "wake":
            asleep = False
    return asleep


ORDERS = [
    order
    for order in permutations(("look", "sleep", "store", "wake"))
    if order.index("look") < order.index("sleep") and order.index("store") < order.index("wake")
]

if __name__ == "__main__":
    print(f"orders: {len(ORDERS)}")
    for name, anew in (("wait_until", False), ("wait_wrongly", True)):
        print(f"{name} loses the wake-up in: {[order for order in ORDERS if is_lost(order, anew)]}")
