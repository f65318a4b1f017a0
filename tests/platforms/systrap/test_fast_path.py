"""The fast-path controller by itself: histograms in, decisions out (P-083, P-084, P-090, P-091; 20-platform §7)."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.platforms.systrap import fast_path
from systrap.platforms.systrap.fast_path import BUCKET_TICKS, BUCKETS, Controller, Path, State, median


def histogram(bucket: int, samples: int = 20) -> list[int]:
    """All samples in one bucket."""
    found = [0] * BUCKETS
    found[bucket] = samples
    return found


NOTHING = [0] * BUCKETS
SLOW, FAST, WORSE = histogram(20), histogram(2), histogram(60)


# ---- the median (P-091) ----


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0] * BUCKETS, 0),
        (histogram(30, 4), 0),  # too few samples to tell
        (histogram(0, 5), BUCKET_TICKS),
        (histogram(30, 1000), 30 * BUCKET_TICKS),
        (histogram(BUCKETS - 1, 7), (BUCKETS - 1) * BUCKET_TICKS),
        ([3, 0, 0, 0, 3] + [0] * (BUCKETS - 5), BUCKET_TICKS),  # counted from the slow end first
    ],
)
def test_median(counts: Sequence[int], expected: int) -> None:
    """P-091."""
    assert abs(median(counts) - expected) <= BUCKET_TICKS
    assert (median(counts) == 0) == (expected == 0)


@given(st.lists(st.integers(0, 50), min_size=BUCKETS, max_size=BUCKETS))
def test_half_of_the_samples_lie_on_each_side_of_the_median(counts: list[int]) -> None:
    """P-091: whatever the histogram, the answer is a bucket between the two halves."""
    found = median(counts)
    total = sum(counts)
    if total < fast_path.MIN_SAMPLES:
        assert found == 0
        return
    bucket = found // BUCKET_TICKS
    assert sum(counts[:bucket]) <= (total + max(counts)) / 2 + max(counts)
    assert sum(counts[bucket + 1 :]) <= (total + max(counts)) / 2 + max(counts)


# ---- one path: two strikes, and longer and longer pauses ----


def test_a_path_needs_two_strikes_and_waits_longer_each_time() -> None:
    """P-090: off after the second bad period in a row, then for 1, 2, 4 … 512 periods."""
    path = Path()
    waited = []
    for _ in range(12):
        path.switch_on()
        assert not path.fail()
        assert path.fail()
        assert not path.is_on
        waited.append(path.backoff)
    assert waited == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 512, 512]
    assert path.disabled == 12


def test_a_good_period_makes_good() -> None:
    """P-090: one success wipes out a strike, and a failure of old."""
    path = Path()
    path.switch_on()
    path.fail()
    path.succeed()
    assert not path.fail()
    assert path.fail()
    assert path.failures == 1
    path.succeed()
    assert path.failures == 0


# ---- the states ----


def run(controller: Controller, stub: Sequence[int], sentry: Sequence[int], periods: int = 1) -> State:
    for _ in range(periods):
        controller.period(stub, sentry, controller.stub.is_on, controller.sentry.is_on)
    return controller.state


def climb(controller: Controller, to: State, sentry: Sequence[int]) -> None:
    """Let periods pass in which spinning does no harm, until the controller is in a state."""
    for _ in range(100):
        if run(controller, SLOW, sentry) is to:
            return
    raise AssertionError(f"never came to {to}")


def switched_on() -> Controller:
    """Return a controller that has found spinning good on both sides."""
    controller = Controller(2)
    run(controller, SLOW, SLOW, 20)
    while controller.state is not State.BOTH:
        run(controller, FAST, FAST)
    return controller


def test_nothing_is_switched_on_without_measurements() -> None:
    """P-083: an idle sentry stays with both paths off."""
    controller = Controller(2)
    assert run(controller, NOTHING, NOTHING, 100) is State.OFF
    assert not controller.sentry.is_on
    assert not controller.stub.is_on


def test_the_way_up() -> None:
    """P-090: the sentry's path first, after a backoff; the stubs' next; both when the newcomer did well."""
    controller = Controller(2)
    seen: list[State] = []
    for _ in range(10):
        state = run(controller, SLOW, SLOW)
        if state is not (seen[-1] if seen else None):
            seen.append(state)
    assert seen == [State.OFF, State.SENTRY, State.BOTH_LAST_STUB, State.BOTH]
    assert controller.sentry.is_on
    assert controller.stub.is_on


def test_periods_without_samples_change_nothing() -> None:
    controller = switched_on()
    assert run(controller, NOTHING, NOTHING, 50) is State.BOTH
    assert run(controller, histogram(5, 3), histogram(5, 3)) is State.BOTH


def test_a_sentry_that_starves_its_stubs_stops_spinning() -> None:
    """P-090: contexts wait longer for a stub thread than they did before, and the sentry's gain does not pay for it."""
    controller = Controller(2)
    climb(controller, State.SENTRY, SLOW)
    assert run(controller, WORSE, FAST) is State.SENTRY
    assert run(controller, WORSE, FAST) is State.OFF
    assert controller.sentry.disabled == 1


def test_stubs_that_starve_the_sentry_stop_spinning() -> None:
    """P-090: the same for the other side; it is the newcomer that is blamed."""
    controller = Controller(2)
    climb(controller, State.SENTRY, SLOW)
    climb(controller, State.BOTH_LAST_STUB, FAST)
    assert run(controller, FAST, WORSE, 2) is State.SENTRY
    assert controller.sentry.is_on
    assert not controller.stub.is_on


@pytest.mark.parametrize(("stub", "sentry", "left"), [(FAST, WORSE, State.SENTRY), (WORSE, FAST, State.STUB)])
def test_in_both_each_path_is_judged(stub: list[int], sentry: list[int], left: State) -> None:
    """P-090, BOTH-MEDIANS: upstream judges the sentry's path by histograms it has just emptied, so it never leaves here."""
    controller = switched_on()
    run(controller, stub, sentry, 2)
    assert controller.state is left


def test_a_path_that_was_not_used_is_not_blamed() -> None:
    """Latencies that grow while nobody spun have other reasons."""
    controller = switched_on()
    for _ in range(5):
        controller.period(WORSE, WORSE, False, False)
    assert controller.state is State.BOTH


def test_one_bucket_is_no_difference() -> None:
    """Latencies about the grain of the measurement: half as much again may be the next bucket."""
    controller = Controller(2)
    run(controller, histogram(1), histogram(1), 30)
    assert run(controller, histogram(2), histogram(2), 30) is State.BOTH
    assert controller.stub.disabled == controller.sentry.disabled == 0


def test_hostile_latencies_lead_nowhere_else() -> None:
    """S-141: whatever a guest writes for times, the controller has one of its six states and bounded backoffs."""
    controller = Controller(2)
    for step in range(400):
        run(controller, histogram(step * 37 % BUCKETS, step % 9 * 1000), histogram(step * 11 % BUCKETS, 10))
        assert 0 <= controller.sentry.backoff <= 512
        assert 0 <= controller.stub.backoff <= 512


def test_statistics_sort_latencies() -> None:
    controller = Controller(2)
    controller.period(histogram(0, 3), histogram(79, 4), False, False)
    found = controller.statistics()
    assert found["stub_latency_1us"] == 3
    assert found["sentry_latency_more"] == 4
    assert found["sentry_fast_path_on"] == 0


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [
        (fast_path.NOMINAL_HZ, (1000, 40_000, 8_000_000)),  # x86-64, whatever its real frequency
        (1_000_000_000, (500, 20_000, 4_000_000)),  # ARMv8.6 and later
        (24_000_000, (12, 480, 96_000)),
        (62_500_000, (31, 1250, 250_000)),  # an emulated machine
        (1, (1, 1, 1)),
    ],
)
def test_times_follow_the_counters_frequency(frequency: int, expected: tuple[int, int, int]) -> None:
    """S-073: 500 ns, 20 µs and 4 ms in ticks, and never less than one; the original's numbers at its nominal 2 GHz (§4.6)."""
    assert fast_path.ticks(frequency) == expected
