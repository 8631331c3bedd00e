"""What noisy losses add to the variance of an estimate, and what common random numbers take away.

Bounds and false alarms are those of test_strategy_statistics.py: 5 standard errors of a mean or of
a variance, a false alarm once in a million with fresh seeds; negative controls are off by 10.
"""

import dataclasses

import numpy as np
import pytest
from helpers.strategy_runs import estimates, losses_of, node, placed
from helpers.strategy_statistics import (
    CENTRE,
    SIGMA,
    SIGMAS,
    WRONG,
    D,
    G,
    N,
    P,
    linear,
    off,
    off_variance,
    raw,
)

TAU = 1.5


def noisy(f, seed: int, common: bool = False):
    """f with independent normal noise on every row, or the same on both points of a pair."""
    chance = np.random.default_rng(seed)

    def g(x: np.ndarray) -> np.ndarray:
        if common:
            return f(x) + TAU * np.repeat(chance.normal(size=len(x) // 2), 2)
        return f(x) + TAU * chance.normal(size=len(x))

    return g


ADDED = {  # to the variance (D + 1) |g|^2 / pairs of a linear loss
    "antithetic": ((D + 1) * (G @ G) / P, D * TAU**2 / (2 * P * SIGMA**2)),
    "one_point": ((D + 1) * (G @ G) / (2 * P - 1), D * TAU**2 / ((2 * P - 1) * SIGMA**2)),
}


@pytest.mark.parametrize("name", ADDED)
def test_noise_of_each_evaluation_adds_to_the_variance(name):
    """D tau^2 / (2 P sigma^2) in pairs; N points with a leave-one-out baseline: D tau^2 / ((N - 1) sigma^2)."""
    strat, (own, added) = raw(name), ADDED[name]
    found = estimates(strat, placed(strat, CENTRE), noisy(linear, 1), N)
    assert off(found, G).max() < SIGMAS
    assert off_variance(found, G, own + added) < SIGMAS
    assert off_variance(found, G, own) > WRONG


def test_common_random_numbers_take_it_away():
    strat = raw("antithetic")
    found = estimates(strat, placed(strat, CENTRE), noisy(linear, 2, common=True), N)
    own, added = ADDED["antithetic"]
    assert off_variance(found, G, own) < SIGMAS
    assert off_variance(found, G, own + added) > WRONG
    alone = estimates(strat, placed(strat, CENTRE), linear, N)
    np.testing.assert_allclose(found, alone, atol=1e-4)


def test_a_larger_sigma_lets_less_noise_through():
    """Its share falls as 1 / sigma^2, the rest stays."""
    for sigma in (SIGMA, 3 * SIGMA):
        strat = raw("antithetic", sigma=sigma)
        found = estimates(strat, placed(strat, CENTRE), noisy(linear, 3), N)
        share = D * TAU**2 / (2 * P * sigma**2)
        assert off_variance(found, G, (D + 1) * (G @ G) / P + share) < SIGMAS


@pytest.mark.parametrize("pairs", [2, 8])
def test_noise_in_a_curvature(pairs):
    """A flat loss: tau^2 / ((P - 1) sigma^4) a coordinate, steeper in sigma than a gradient's."""
    strat = raw("second_order", pairs=pairs)
    state, flat = placed(strat, CENTRE), noisy(lambda x: np.zeros(len(x)), 4)
    shared, found = node(D), np.empty((2 * N, D))
    for step in range(len(found)):
        at = dataclasses.replace(state, step=step)
        found[step] = strat.curvature(at, losses_of(strat, at, flat), shared)
    variance = TAU**2 / ((pairs - 1) * SIGMA**4)
    assert off(found, np.zeros(D)).max() < SIGMAS
    assert off(found**2, np.full(D, variance)).max() < SIGMAS
    assert off(found**2, np.full(D, 3 * variance)).min() > WRONG
