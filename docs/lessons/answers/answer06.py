"""Answer to lesson 06: a device that is no memory. The sentry does what the instruction would have done, and steps over it."""

import signal

from lesson00_call import require_this_machine
from lesson06_faults import GUEST_CODE, MappingSentry

if __name__ == "__main__":
    require_this_machine()
    with MappingSentry(GUEST_CODE) as guest:
        guest.resume()
        guest["rax"] = 7
        guest["rip"] += 2  # mov eax, [rbx] is two bytes long
        guest.resume()
        guest["rip"] += 3  # and the addition three
        print(f"{signal.Signals(guest.resume()).name}, and eax is {guest['rax']}")
