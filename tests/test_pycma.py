"""The package cma behind a strategy: the same search as by its own loop, replayed from what it was told."""

import sys

import numpy as np
import pytest
from helpers.strategy_runs import bowl, node, points

from lopt import rng
from lopt.errors import UsageError
from lopt.es import minimize, strategy


def f(rows):
    return np.array([bowl(x) for x in rows])


def states(strat, steps, n=5, seed=3):
    """States before each of some steps and after the last."""
    found = [strat.init(n, seed)]
    for _ in range(steps):
        found.append(strat.tell(found[-1], f(points(strat, found[-1])), node(n)))
    return found


def test_it_is_the_package_s_own_loop():
    """Ask, evaluate, tell: the same mean and points after 30 steps."""
    cma = pytest.importorskip("cma")
    calls = []

    def randn(*shape):
        calls.append(shape)
        numbers = rng.normals(int(np.prod(shape)), rng.stream(3), rng.PERTURB, len(calls) - 1)
        return numbers.reshape(shape).astype(np.float64)

    options = {"randn": randn, "seed": np.nan, "verbose": -9, "CMA_active": False}
    es = cma.CMAEvolutionStrategy(5 * [0.0], 0.3, options)
    for _ in range(30):
        xs = es.ask()
        es.tell(xs, list(f(np.array(xs))))
    strat = strategy("pycma", options={"CMA_active": False})
    state = states(strat, 30)[-1]
    np.testing.assert_array_equal(state.theta, es.mean)
    np.testing.assert_array_equal(state.points, np.array(es.ask()))
    assert (state.points != states(strategy("pycma"), 30)[-1].points).any()


def test_an_earlier_state_is_as_good_as_the_last_pycma():
    """The package's object has gone on; the old state's step is made again, and the new one stays."""
    strat = strategy("pycma")
    before = states(strat, 6)
    last = {k: v.copy() for k, v in strat.arrays(before[6]).items()}
    again = strat.tell(before[2], f(points(strat, before[2])), node(5))
    np.testing.assert_array_equal(again.points, before[3].points)
    other = strat.tell(before[2], -f(points(strat, before[2])), node(5))
    assert (other.points != again.points).any()
    for key, array in strat.arrays(before[6]).items():
        np.testing.assert_array_equal(array, last[key])
    on = strat.tell(before[6], f(points(strat, before[6])), node(5))
    np.testing.assert_array_equal(on.points, states(strat, 7)[-1].points)


def test_any_increasing_function_of_the_loss_makes_the_same_run_pycma():
    strat, bent = strategy("pycma"), strategy("pycma").init(5, 3)
    for _ in range(6):
        bent = strat.tell(bent, np.arctan(1e-3 * f(points(strat, bent))) - 2, node(5))
    np.testing.assert_array_equal(bent.points, states(strat, 6)[-1].points)


def test_a_step_without_losses_draws_new_points_pycma():
    strat = strategy("pycma")
    state = states(strat, 2)[-1]
    after = strat.tell(state, np.full(strat.n_points(state), np.nan), node(5))
    np.testing.assert_array_equal(after.theta, state.theta)
    assert (after.points != state.points).all()
    fresh = strat.load(strat.arrays(after))
    np.testing.assert_array_equal(fresh.points, after.points)


def test_a_lost_point_counts_as_the_median_pycma():
    strat = strategy("pycma", population=5)
    state = strat.init(5, 0)
    told = np.array([3.0, np.nan, 1.0, 2.0, 9.0])
    lost = strat.tell(state, told, node(5))
    filled = strat.tell(state, np.array([3.0, 2.5, 1.0, 2.0, 9.0]), node(5))
    np.testing.assert_array_equal(lost.points, filled.points)
    assert np.isnan(strat.arrays(lost)["told"][0, 1])


def test_numpy_s_own_random_numbers_are_left_alone_pycma():
    before = np.random.get_state()[1].copy()  # noqa: NPY002, the package could touch them
    minimize(bowl, np.zeros(3), strategy="pycma", steps=3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(UsageError, match=r"needs the package cma: pip install 'lopt\[cma\]'"):
        strategy("pycma")
