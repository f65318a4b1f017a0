"""Answer to lesson 05: with two registers changed, the guest's next call is the one that the sentry wants."""

from lesson00_call import require_this_machine
from lesson05_registers import GUEST_CODE, Sentry

if __name__ == "__main__":
    require_this_machine()
    with Sentry(GUEST_CODE) as guest:
        guest.resume()
        guest["rax"], guest["rbx"] = 1, 41
        guest.resume()
        print(f"the second call is {guest['rax']}")
