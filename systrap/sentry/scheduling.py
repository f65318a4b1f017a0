"""How a task wants to be scheduled. The host schedules: this is remembered, inherited and told, not obeyed."""

from typing import Final, NamedTuple

SCHED_OTHER: Final = 0
SCHED_FIFO: Final = 1
SCHED_RR: Final = 2
SCHED_BATCH: Final = 3
SCHED_IDLE: Final = 5
SCHED_DEADLINE: Final = 6
REALTIME: Final = (SCHED_FIFO, SCHED_RR)


class Scheduling(NamedTuple):
    """The scheduling parameters of a task. Immutable: a change makes a new object (``_replace``).

    ``affinity`` is a mask of CPUs, 0 for all that this process may use; ``ioprio`` is in ioprio_get's form.
    """

    policy: int = SCHED_OTHER
    priority: int = 0
    nice: int = 0
    affinity: int = 0
    ioprio: int = 0
    reset_on_fork: bool = False

    def inherited(self) -> "Scheduling":
        """Return what a child starts with."""
        if not self.reset_on_fork:
            return self
        nice = max(self.nice, 0) if self.policy not in REALTIME else 0
        policy = SCHED_OTHER if self.policy in REALTIME else self.policy
        return self._replace(policy=policy, priority=0, nice=nice, reset_on_fork=False)


DEFAULT: Final = Scheduling()
