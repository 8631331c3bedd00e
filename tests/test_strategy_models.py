"""Means and variances of strategies that weight old points, fit a model, or shape their noise.

Bounds and false alarms are those of test_moments.py.
"""

import dataclasses
import math

import numpy as np
import pytest
from helpers.moments import reused
from helpers.strategy_runs import estimates, losses_of, node, placed, points
from helpers.strategy_statistics import (
    AT,
    CENTRE,
    SIGMA,
    SIGMAS,
    WRONG,
    D,
    G,
    N,
    directions,
    linear,
    off,
    off_variance,
    quadratic,
    raw,
)

from lopt.es.strategies import reuse
from lopt.es.strategies.guided import orthonormal
from lopt.es.strategies.importance import shifted_weights
from lopt.es.strategies.reuse import balance_weights, baselines
from lopt.es.strategies.surrogate import jump
from lopt.rng import PERTURB, normals, stream

# Importance sampling and reuse


def test_moments_of_shifted_weights():
    """E w = 1, E w^2 = exp(|mu|^2 / sigma^2)."""
    z = normals(400_000, stream(1), PERTURB).astype(np.float64)
    for length in (0.0, 0.3, 0.7):
        w = shifted_weights(length * z, length)
        for column in w.T if length else ():
            assert off(column[:, None], np.ones(1))[0] < SIGMAS
            assert off(column[:, None] ** 2, np.array([math.exp(length**2)]))[0] < SIGMAS
        if not length:
            np.testing.assert_array_equal(w, 1.0)


@pytest.mark.parametrize("f", [linear, quadratic])
def test_importance_sampling_is_unbiased(f):
    """Around a shifted centre; the weights are needed."""
    strat = raw("importance", reach=0.7)
    move = np.float32([0.1, 0.1, -0.1, 0.05, 0.0, 0.2])
    state = placed(strat, CENTRE, move=move)
    shift = strat.shift(state)
    assert math.isclose(np.linalg.norm(shift), 0.7 * SIGMA, rel_tol=1e-6)
    middle = points(strat, state).astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(middle, CENTRE + shift, atol=1e-6)
    found = estimates(strat, state, f, 2 * N)
    assert off(found, G if f is linear else AT).max() < SIGMAS


@pytest.mark.parametrize("old", [0.25, 0.5])
def test_balance_weights(old):
    """At most 1 / (1 - a); 1 without a move; mean 1 over the union; the plain ratio has no bound."""
    np.testing.assert_allclose(balance_weights(np.zeros(3), old), 1, rtol=1e-12)
    extreme = balance_weights(np.array([-np.inf, -800.0, 800.0, np.inf]), old)
    np.testing.assert_allclose(extreme, [0, 0, 1 / (1 - old), 1 / (1 - old)], atol=1e-12)
    z, length = normals(400_000, stream(2), PERTURB).astype(np.float64), 1.0
    of_old = balance_weights(length * z - length**2 / 2, old)
    of_new = balance_weights(length * z + length**2 / 2, old)
    assert max(of_old.max(), of_new.max()) <= 1 / (1 - old) * (1 + 1e-12)
    mixed = old * of_old + (1 - old) * of_new
    assert off(mixed[:, None], np.ones(1))[0] < SIGMAS
    assert np.exp(length * z - length**2 / 2).max() > 10 / (1 - old)


def test_reuse_stops_beyond_its_reach():
    move = 1.1 * SIGMA * np.eye(D)[0]
    plain = raw("antithetic")
    state = placed(plain, CENTRE)
    expected = [
        estimates(plain, dataclasses.replace(state, step=0), linear, 2 * k + 3)[-1]
        for k in range(3)
    ]
    np.testing.assert_array_equal(reused(move, linear, 3), expected)


def test_baselines_leave_the_own_pair_out():
    """By hand; of a lost pair nothing counts, and a pair that is alone takes the other step's mean."""
    nan = np.nan
    old, new = np.array([[1.0, 3], [nan, 100], [5, 7]]), np.array([[0.0, 2], [3, 5], [nan, nan]])
    found = baselines(old, new)
    np.testing.assert_allclose(found[[0, 2, 3, 4]], [4.25, 2.25, 4.0, 2.5])
    np.testing.assert_allclose(baselines(old[:1], new[:1]), [1, 2])


def test_baselines_cost_no_bias(monkeypatch):
    """Two pairs, one coordinate, a move of 0.9 sigma downhill; the mean of all other pairs is the control."""
    strat, g = raw("reuse", pairs=2), np.array([2.0])

    def found() -> np.ndarray:
        before, at = np.zeros(1, np.float32), np.array([-0.9 * SIGMA], np.float32)
        shared, drawn = node(1), np.empty((8 * N, 1))
        for k in range(len(drawn)):
            old = dataclasses.replace(placed(strat, before), step=2 * k + 2)
            memory = {"losses": losses_of(strat, old, lambda x: x @ g), "centre": before}
            new = dataclasses.replace(placed(strat, at), step=2 * k + 3, memory=memory)
            drawn[k] = strat.gradient(new, losses_of(strat, new, lambda x: x @ g), shared)
        return drawn

    def of_all_others(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        sums = np.concatenate([old, new]).sum(axis=1)
        return (sums.sum() - sums) / (2 * (len(sums) - 1))

    assert off(found(), g).max() < SIGMAS
    monkeypatch.setattr(reuse, "baselines", of_all_others)
    assert off(found(), g).max() > WRONG


# Surrogate


def test_least_norm_is_a_projection():
    """3 of 6: unbiased after the factor D / P, which takes out the shrinkage to 1/2 (0.49 measured)."""
    strat = raw("surrogate", pairs=3)
    state, shared = placed(strat, CENTRE), node(D)
    fits = np.empty((N, D))
    for step in range(N):
        at = dataclasses.replace(state, step=step)
        fits[step] = strat.fit(at, losses_of(strat, at, linear), shared)[1]
    assert off(fits, G).max() < SIGMAS
    # (D / P - 1) |g|^2; at D / P = 2 not on average only: twice a projection is as far as g is long.
    np.testing.assert_allclose(np.sum((fits - G) ** 2, axis=1), G @ G, rtol=1e-3)
    shrunk = fits / 2 @ G / (G @ G)
    assert abs(shrunk.mean() - 0.5) < 0.02
    assert off(fits / 2, G)[np.abs(G) >= 1].min() > WRONG


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("pairs", [D, D + 5])
def test_fits_are_exact(scale, pairs):
    """P >= D: a linear function and a diagonal quadratic, with no variance at all."""
    a = np.array([3.0, -1.0, 0.5, 2.0, 4.0, 1.0])
    shared = node(D)
    for model, curvature in (("linear", 0 * a), ("quadratic", a)):
        strat = raw("surrogate", pairs=pairs, model=model)
        state = placed(strat, np.zeros(D))
        losses = losses_of(strat, state, lambda x, c=curvature: scale * (linear(x) + x**2 @ c / 2))
        level, g, h = strat.fit(state, losses, shared)
        assert math.isclose(level, 0.7 * scale, rel_tol=1e-9)
        np.testing.assert_allclose(g, scale * G, atol=2e-4 * scale)
        np.testing.assert_allclose(h, scale * curvature, atol=2e-3 * scale)


@pytest.mark.parametrize("pairs", [D - 1, D, D + 3])
def test_ridge_shrinks(pairs):
    """A huge ridge leaves almost nothing, a tiny one changes almost nothing."""
    sizes = []
    for ridge in (0.0, 1e-9, 1e6):
        strat = raw("surrogate", pairs=pairs, ridge=ridge)
        state = placed(strat, CENTRE)
        g = strat.fit(state, losses_of(strat, state, linear), node(D))[1]
        sizes.append(np.linalg.norm(g))
    assert math.isclose(sizes[0], sizes[1], rel_tol=1e-4)
    assert sizes[2] < 1e-4 * sizes[0]


@pytest.mark.parametrize("h", [[1.0, 2.0, 5.0], [1.0, -2.0, 5.0], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("radius", [0.1, 10.0])
def test_jump_is_the_minimum_in_the_region(h, radius):
    """Against 20000 points of the ball; on the edge p satisfies (h + shift) p = -g with one shift >= 0."""
    g, h = np.array([1.0, -0.5, 2.0]), np.array(h)
    p = jump(g, h, radius)
    assert np.linalg.norm(p) <= radius * (1 + 1e-9)
    ball = np.random.default_rng(0).normal(size=(20_000, 3))
    ball *= (
        radius
        * np.random.default_rng(1).random((20_000, 1))
        / np.linalg.norm(ball, axis=1)[:, None]
    )
    model = ball @ g + ball**2 @ h / 2
    assert g @ p + h @ p**2 / 2 <= model.min()
    shift = -g / p - h
    np.testing.assert_allclose(shift, shift[0], atol=1e-6)
    assert shift[0] >= -1e-9


def test_a_quadratic_model_lands_on_the_minimum():
    a, target = np.array([3.0, 1.0, 0.5]), np.array([0.2, -0.1, 0.3])
    strat = raw("surrogate", pairs=8, model="quadratic", sigma=0.5)
    state = strat.tell(
        strat.init(3, 0),
        losses_of(strat, strat.init(3, 0), lambda x: (x - target) ** 2 @ a),
        node(3),
    )
    np.testing.assert_allclose(state.theta, target, atol=1e-5)


def test_the_region_follows_its_promises():
    """Kept promises at the edge double the radius, broken ones halve it; sigma never above the first."""
    strat = raw("surrogate", pairs=8)
    state, shared = strat.init(3, 0), node(3)
    first = float(state.memory["region"][0])
    for _ in range(3):
        state = strat.tell(state, losses_of(strat, state, lambda x: x @ G[:3]), shared)
    assert math.isclose(state.memory["region"][0], 4 * first)
    assert strat.sigma_of(state) == SIGMA
    worse = losses_of(strat, state, lambda x: x @ G[:3]) + 1e6
    state = strat.tell(state, worse, shared)
    assert math.isclose(state.memory["region"][0], 2 * first)


# Guided ES, low-rank noise


def test_orthonormal_basis():
    rows = np.array([[3.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [2, 5, 0, 0], [1, 1, 1e-3, 1]])
    basis = orthonormal(rows.astype(np.float32))
    assert basis.shape == (3, 4)
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)
    assert orthonormal(np.zeros((2, 4), np.float32)).shape == (0, 4)


def test_low_rank_variance():
    """5 x 4: 41 |G|^2 for rank 1, 31 for rank 2, 26 for rank 4 per pair; ordinary noise 21."""
    g = np.random.default_rng(2).normal(size=20)
    for rank, factor in ((1, 41), (2, 31), (4, 26)):
        strat = raw("low_rank", shapes=((5, 4),), rank=rank, pairs=1)
        found = estimates(strat, placed(strat, np.zeros(20)), lambda x: x @ g, 4 * N)
        assert off(found, g).max() < SIGMAS
        assert off_variance(found, g, factor * (g @ g)) < SIGMAS


def test_low_rank_directions_have_their_rank():
    strat = raw("low_rank", shapes=((5, 4), (3,), (4, 6)), rank=2)
    z = directions(strat, placed(strat, np.zeros(47)), 4)
    for row in z:
        for matrix in (row[:20].reshape(5, 4), row[23:].reshape(4, 6)):
            values = np.linalg.svd(matrix, compute_uv=False)
            assert values[1] > 1e-2 and values[2] < 1e-5
    weights = np.array([1.0, -2.0, 0.5, 0.0])
    found = strat.sum_directions(placed(strat, np.zeros(47)), weights, node(47))
    np.testing.assert_allclose(found, weights @ z, atol=1e-5)
