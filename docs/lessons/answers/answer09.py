"""Answer to lesson 09: without FP registers of their own, all guests add to one sum, and each sees it as it is then."""

from lesson00_call import require_this_machine
from lesson09_fp import ForgetfulStub, FpStub, alternate

if __name__ == "__main__":
    require_this_machine()
    steps, rounds = (1, 10, 100), 4
    print(alternate(FpStub, steps, rounds) == [rounds * step for step in steps])
    before = (rounds - 1) * sum(steps)
    print(alternate(ForgetfulStub, steps, rounds) == [before + sum(steps[: i + 1]) for i in range(len(steps))])
