"""The regime user_resume with its means taken out: the plays of tests/blobs/test_signals_anywhere.py find each of them.

These are no defects of upstream's, whose handler blocks SIGCHLD; but what is shown of ours counts only if its absence is seen.
"""

import pytest

from tests.blobs.test_signals_anywhere import REWOUND, TRAPPED, Kind, Play, least_room
from tests.defects.mutants import REGIME, stub_of

WHERE = {
    "no mark at entry": (TRAPPED, 0),
    "the entry is taken for a way out": (TRAPPED, 0),
    "NONE is not put back": (REWOUND, 0),
    "no second look": (REWOUND, 0),
    "not in memory before NONE": (REWOUND, 0),
}
"""Which play finds it, and who is interrupted in it."""


def play_all(name: str | None, kind: Kind, victim: int) -> None:
    """Interrupt ``victim`` at every place."""
    with stub_of(name, user_resume=True) as stub:
        play = Play(stub, kind, second_spins=victim == 1)
        for point in play.points():
            with play.begin() as tracer:
                tracer.run_to(point, play.last)
                play.interrupt(victim, tracer)
            play.end(victim)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", WHERE)
def test_each_means_is_needed(name: str) -> None:
    """S-038, S-041, P-074."""
    kind, victim = WHERE[name]
    with pytest.raises(AssertionError):
        play_all(name, kind, victim)


@pytest.mark.slow
def test_the_stack_fills_up_if_signals_nest_without_end() -> None:
    """P-074: see test_signals_before_every_instruction, which shows that ours does not."""
    with stub_of("SIGCHLD nests in its handler", user_resume=True) as stub:
        play = Play(stub, TRAPPED, second_spins=True)
        assert least_room(play, play.sighandler) < stub.world.fp_len


def test_every_mutant_of_the_regime_is_tried() -> None:
    assert set(REGIME) == {*WHERE, "SIGCHLD nests in its handler"}
