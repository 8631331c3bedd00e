"""Statistics of comparisons against closed forms; intervals against their stated coverage."""

import math

import numpy as np
import pytest

from lopt import scores

STEPS = np.arange(0.0, 1001.0, 20.0)
DECAY = np.exp(-STEPS / 300)


def rates(scale: float = 1.0) -> np.ndarray:
    """A fast rate that stalls, a slow one that does not: their envelope has a kink and never rises."""
    return scale * np.stack([0.3 + 0.7 * np.exp(-STEPS / 30), DECAY])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("at", [20.0, 130.0, 500.0, 1000.0])
def test_the_envelope_against_itself_is_one(scale: float, at: float) -> None:
    best = scores.envelope(rates(scale))
    assert scores.speed_up(STEPS, best, best, at) == (pytest.approx(1.0, rel=1e-9), False)


@pytest.mark.parametrize("at", [20.0, 500.0, 1000.0])
def test_equals_are_equally_fast_where_both_stand_still(at: float) -> None:
    flat = np.maximum(DECAY, 0.5)
    assert scores.speed_up(STEPS, flat, flat, at) == (pytest.approx(1.0, rel=1e-9), False)


def test_the_envelope_is_the_lowest_loss_so_far() -> None:
    curves = np.array([[5.0, 1.0, 3.0, 3.0], [4.0, 4.0, 2.0, 0.5]])
    np.testing.assert_array_equal(scores.envelope(curves), [4, 1, 1, 0.5])
    assert (np.diff(scores.envelope(rates())) <= 0).all()


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.5, 2.0])
def test_time_stretched_by_a_factor_is_a_speed_up_of_that_factor(factor: float) -> None:
    """A curve exp(-f t / 300) beside exp(-t / 300); 20 steps between points: interpolation costs 1e-3."""
    fast = np.exp(-factor * STEPS / 300)
    found = scores.speed_up(STEPS, fast, DECAY, 500)
    assert not found.saturated
    assert found.value == pytest.approx(factor, rel=2e-3)


def test_a_known_speed_up() -> None:
    """The loss 3 of step 10 is met by the line from (20, 4) to (40, 2) at 30."""
    steps = np.array([0.0, 10, 20, 40])
    found = scores.speed_up(steps, np.array([9.0, 3, 3, 3]), np.array([9.0, 6, 4, 2]), 10)
    assert found == (pytest.approx(3.0), False)


def test_speed_ups_rise_as_losses_fall() -> None:
    best = scores.envelope(rates())
    found = [scores.speed_up(STEPS, best * f, best, 500).value for f in np.linspace(1.5, 0.1, 29)]
    assert (np.diff(found) >= 0).all()
    assert found[0] < 1 < found[-1]


def test_saturation_is_flagged_and_not_extrapolated() -> None:
    assert scores.speed_up(STEPS, 0.1 * DECAY, DECAY, 500) == (2.0, True)
    just = DECAY * DECAY[-1] / DECAY[25]  # at 500 the baseline's last loss, exactly
    assert scores.speed_up(STEPS, just, DECAY, 500) == (pytest.approx(2.0), False)
    with pytest.raises(ValueError, match="at = 1001"):
        scores.speed_up(STEPS, DECAY, DECAY, 1001)


def test_a_search_reports_what_validation_chose() -> None:
    """Trial 2 has the best report, trial 1 the best validation; NaN never wins."""
    selection = np.array([[3.0, 3.0], [1.0, 1.2], [2.0, 2.0], [np.nan, 0.0]])
    report = np.array([[5.0, 5.5], [4.0, 4.5], [1.0, 1.0], [0.0, 0.0]])
    for trials, wanted in ((1, [5.0, 5.5]), (2, [4.0, 4.5]), (4, [4.0, 4.5])):
        np.testing.assert_array_equal(scores.best_of(selection, report, trials), wanted)
    with pytest.raises(ValueError, match="trials = 5: there are 4"):
        scores.best_of(selection, report, 5)


def test_ratios_and_wins() -> None:
    assert scores.log_ratio(3.0, 2.0, lowest=1.0) == pytest.approx(math.log(2))
    assert math.isnan(scores.log_ratio(-2.0, 3.0))
    assert math.isnan(scores.log_ratio(1.0, 3.0, lowest=-math.inf))
    assert scores.win_rate([1, 2, 3, 4], [2, 2, 2, 5]) == 0.625


@pytest.mark.parametrize("n", [1, 4, 63])
def test_intervals_of_win_rates_solve_wilsons_equation(n: int) -> None:
    """The ends p of k wins of n are where |k / n - p| is 1.96 standard errors sqrt(p (1 - p) / n)."""
    z = 1.959963984540054
    for k in range(n + 1):
        low, high = scores.win_interval([0.0] * k + [2.0] * (n - k), [1.0] * n)
        assert 0 <= low <= k / n <= high <= 1
        for p in (low, high):
            assert (k / n - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / n, abs=1e-9)
    assert low == pytest.approx(n / (n + z**2)) and high == 1  # all won


def test_a_tie_widens_the_interval_of_a_win_rate() -> None:
    """A win and a tie lie between one win of two and two; two ties are one win."""
    one, two = (scores.win_interval([0, x], [1, 1]) for x in (2, 0))
    assert scores.win_interval([0, 1], [1, 1]) == (one[0], two[1])
    assert scores.win_interval([1, 1], [1, 1]) == one
    assert all(math.isnan(x) for x in scores.win_interval([], []))


def test_quartiles_and_the_interquartile_mean() -> None:
    """Of 0..7 and an outlier the middle half does not see; NaN is no task."""
    found = scores.summary([0, 1, 2, 3, 4, 5, 6, 1e9, np.nan])
    assert found.n == 8
    assert (found.median, found.iqm) == (3.5, 3.5)
    assert (found.q25, found.q75) == (1.75, 5.25)
    assert found.low < 3.5 < found.high
    alone = scores.summary([2.0])
    assert (alone.n, alone.median, alone.iqm) == (1, 2.0, 2.0)
    assert math.isnan(alone.low)
    assert scores.summary([]).n == 0


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """60 tasks, exponential: the interquartile mean of the law is known.

    Percentile intervals of 60 values cover a little less than 95 %; 200 repetitions have a standard error of 1.5 %:
    outside [0.89, 0.99] one time in 1000 at most.  An interval for half the truth must fail.
    """
    q = np.linspace(0.25, 0.75, 100001)
    truth = float(np.mean(-np.log1p(-q)))
    r = np.random.default_rng(1)
    found = [scores.summary(x, seed=k) for k, x in enumerate(r.exponential(size=(200, 60)))]
    held = np.mean([s.low <= truth <= s.high for s in found])
    assert 0.89 <= held <= 0.99
    assert np.mean([s.low <= truth / 2 <= s.high for s in found]) < 0.05
