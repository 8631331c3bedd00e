"""What the closed forms of test_moments.py leave open: traps, exact cases, directions, sums.

Bounds and false alarms are those of test_moments.py: 5 standard errors, negative controls more than 10.
"""

import dataclasses

import numpy as np
import pytest
from helpers.strategy_runs import estimates, losses_of, node, placed, points
from helpers.strategy_statistics import (
    AT,
    CENTRE,
    SIGMAS,
    WRONG,
    D,
    G,
    H,
    N,
    P,
    directions,
    linear,
    off,
    off_variance,
    quadratic,
    raw,
)

from lopt.es import strategy
from lopt.es.perturbation import streams
from lopt.es.strategies.sums import dots, left_out, shared_scalars, squares
from lopt.rng import PERTURB, normals, stream


def test_a_wrong_variance_is_seen():
    """Negative control of the whole table: D / P in place of (D + 1) / P, with 10 times the steps."""
    strat = raw("antithetic")
    found = estimates(strat, placed(strat, CENTRE), linear, 10 * N)
    assert off_variance(found, G, (D + 1) / P * (G @ G)) < SIGMAS
    assert off_variance(found, G, D / P * (G @ G)) > WRONG


def test_even_terms_cancel_in_pairs_only():
    """Antithetic: the variance of (D + 1) |g|^2 / P for any quadratic; one point: more."""
    strat, alone = raw("antithetic", sigma=1.0), raw("one_point", sigma=1.0)
    pairs = estimates(strat, placed(strat, CENTRE), quadratic, N)
    single = estimates(alone, placed(alone, CENTRE), quadratic, N)
    assert off_variance(pairs, AT, (D + 1) / P * (AT @ AT)) < SIGMAS
    assert off_variance(single, AT, (D + 1) / (2 * P - 1) * (AT @ AT)) > WRONG


# Second order


def curvatures(strat, state, f, n):
    """Curvature estimates of n steps, and those of z^2 (f - f(theta)) / sigma^2 from the same points."""
    good, naive = np.empty((n, state.theta.size)), np.empty((n, state.theta.size))
    centre = state.centre.astype(np.float64)
    shared, f0 = node(centre.size), f(centre[None])[0]
    for step in range(n):
        state = dataclasses.replace(state, step=step)
        losses = losses_of(strat, state, f)
        good[step] = strat.curvature(state, losses, shared)
        z = (points(strat, state)[::2] - centre) / strat.sigma
        means = losses.reshape(-1, 2).mean(axis=1) - f0
        naive[step] = means @ z**2 / (len(z) * strat.sigma**2)
    return good, naive


def test_curvature_of_a_quadratic_and_the_trap():
    """The un-subtracted form is off by tr(H) / 2, the right one by nothing."""
    strat = raw("second_order", pairs=8)
    good, naive = curvatures(strat, placed(strat, CENTRE), quadratic, N)
    h, half_trace = np.diag(H), np.trace(H) / 2
    assert half_trace > 1
    assert off(good, h).max() < SIGMAS
    assert off(naive, h + half_trace).max() < SIGMAS
    assert off(naive, h).min() > WRONG


@pytest.mark.parametrize("pairs", [2, 8])
def test_variance_of_curvature(pairs):
    """f = sum a_j x_j^2 / 2: (|a|^2 + 13 a_j^2) / P + (|a|^2 + a_j^2) / (P (P - 1)) at the minimum."""
    a = np.array([3.0, -1.0, 0.0, 2.0])
    strat = raw("second_order", pairs=pairs)
    state = placed(strat, np.zeros(4))
    good, _ = curvatures(strat, state, lambda x: x**2 @ a / 2, 4 * N)
    square = a @ a
    predicted = (square + 13 * a**2) / pairs + (square + a**2) / (pairs * (pairs - 1))
    assert off((good - a) ** 2, predicted).max() < SIGMAS


def test_one_sample_with_the_centre_as_baseline():
    """1-D, b = f(theta): variance 18.5 f''^2 per sample."""
    z = normals(400_000, stream(3), PERTURB).astype(np.float64)
    single = (z**2 - 1) * z**2 / 2  # sigma = f'' = 1
    assert off(single[:, None], np.array([1.0]))[0] < SIGMAS
    assert off(((single - 1) ** 2)[:, None], np.array([18.5]))[0] < SIGMAS


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_newton_step_solves_a_diagonal_quadratic(scale):
    """Whatever the unit of the loss; sgd with the same pairs needs the learning rate told."""
    a = scale * np.array([1.0, 4.0, 10.0])
    target = np.array([1.0, -0.5, 0.3])
    strat = raw("second_order", pairs=64, floor=0.05)
    state, shared = strat.init(3, 0), node(3)
    for _ in range(40):
        losses = losses_of(strat, state, lambda x: (x - target) ** 2 @ a / 2)
        state = strat.tell(state, losses, shared)
    np.testing.assert_allclose(state.theta, target, atol=2e-5)
    np.testing.assert_allclose(state.memory["curvature"], a, atol=0.2 * a.max())


# Control variates


def test_the_right_guess_leaves_no_variance():
    strat = raw("control_variate")
    found = estimates(strat, placed(strat, CENTRE, guess=G.astype(np.float32)), linear, 10)
    np.testing.assert_allclose(found, np.tile(G, (10, 1)), atol=2e-5)


def test_a_guess_from_the_same_samples_is_biased():
    """h = the step's own antithetic estimate S g: mean (2 S - S^2) g = (1 - (D + 1) / P) g."""
    plain, strat = raw("antithetic"), raw("control_variate")
    state, shared, found = placed(plain, CENTRE), node(D), np.empty((N, D))
    for step in range(N):
        state = dataclasses.replace(state, step=step)
        losses = losses_of(plain, state, linear)
        own = plain.gradient(state, losses, shared)
        cheating = dataclasses.replace(state, memory={"guess": own})
        found[step] = strat.gradient(cheating, losses, shared)
    assert off(found, (1 - (D + 1) / P) * G).max() < SIGMAS
    assert off(found, G)[np.abs(G) >= 2].min() > WRONG


def test_the_guess_is_the_average_of_past_estimates():
    strat = raw("control_variate", learning_rate=1e-6, guess_decay=0.5)
    state, shared, seen = strat.init(D, 0), node(D), []
    for _ in range(3):
        losses = losses_of(strat, state, linear)
        seen.append(strat.gradient(state, losses, shared))
        state = strat.tell(state, losses, shared)
    expected = (seen[0] + 2 * seen[1] + 4 * seen[2]) / 7
    np.testing.assert_allclose(state.memory["guess"], expected, rtol=1e-5, atol=1e-6)


# Orthogonal, quasi-random


def test_orthogonal_directions_are_orthonormal():
    strat = raw("orthogonal", pairs=9)
    z = directions(strat, placed(strat, CENTRE), 9)
    for part in (z[:6], z[6:]):
        np.testing.assert_allclose(part @ part.T, D * np.eye(len(part)), atol=1e-5)
    assert np.abs(z[:6] @ z[6:].T).max() > 0.1


@pytest.mark.parametrize("i", [0, 2, 5])
def test_orthogonal_directions_are_evenly_spread(i):
    """Each alone: mean 0 (antithetic pairs see no sign), E q_j^2 = 1 / D, E q_j^4 = 3 / (D (D + 2))."""
    strat = raw("orthogonal", pairs=6)
    state, z, out = placed(strat, CENTRE), np.empty((4 * N, D)), np.empty(D, np.float32)
    for step in range(len(z)):
        strat.directions(dataclasses.replace(state, step=step), i, out)
        z[step] = out
    assert off(z**2, np.ones(D)).max() < SIGMAS
    assert off(z**4, np.full(D, 3 * D / (D + 2))).max() < SIGMAS
    assert off(z * np.roll(z, 1, axis=1), np.zeros(D)).max() < SIGMAS


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_a_full_set_gives_the_gradient_itself(scale):
    strat = raw("orthogonal", pairs=D)
    found = estimates(strat, placed(strat, np.zeros(D)), lambda x: scale * (x @ G), 5)
    np.testing.assert_allclose(found, np.tile(scale * G, (5, 1)), atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["orthogonal", "sobol", "antithetic"])
def test_sums_follow_the_directions(name):
    strat = raw(name, pairs=9)
    state, weights = placed(strat, CENTRE), np.linspace(-1, 2, 9)
    found = strat.sum_directions(state, weights, node(D))
    np.testing.assert_allclose(found, weights @ directions(strat, state, 9), atol=2e-5)


def test_sobol_varies_less_than_independent_directions():
    """8 pairs in 3 dimensions: less than half of antithetic's variance; each z alone is normal."""
    strat = raw("sobol", pairs=8)
    centre, g = np.zeros(3), np.array([1.0, -2.0, 0.5])
    found = estimates(strat, placed(strat, centre), lambda x: x @ g, N)
    assert off(found, g).max() < SIGMAS
    assert np.sum((found - g) ** 2, axis=1).mean() < 0.5 * 4 / 8 * (g @ g)
    state = placed(strat, centre)
    z = np.stack([directions(strat, dataclasses.replace(state, step=t), 8)[5] for t in range(N)])
    assert off(z, np.zeros(3)).max() < SIGMAS
    assert off(z**2, np.ones(3)).max() < SIGMAS
    assert off(z**4, np.full(3, 3.0)).max() < SIGMAS


# PGPE, and the sums


def test_pgpe_step_for_a_linear_loss():
    """With u = f: sigma_j^2 g_j, variance of the plain estimate scaled; standardise has f's order only."""
    strat = strategy("pgpe", pairs=P, shaping="standardise")
    sigma = np.float32([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    found = estimates(strat, placed(strat, CENTRE, sigma=sigma), linear, N)
    mean = found.mean(axis=0) / (sigma**2)
    np.testing.assert_allclose(
        mean[[0, 1, 3, 5]] / G[[0, 1, 3, 5]],
        np.mean(mean[[0, 1, 3, 5]] / G[[0, 1, 3, 5]]),
        rtol=0.15,
    )


@pytest.mark.parametrize(("n", "d"), [(1, 1), (5, 3), (3, 5), (7, 64), (64, 7), (4, 4)])
def test_shared_scalars_come_back_in_order(n, d):
    found = shared_scalars(n, d, lambda i: i + 1, node(d))
    np.testing.assert_array_equal(found, np.arange(1, n + 1))


@pytest.mark.parametrize("d", [1, 7, 5000])
def test_sums_over_normals(d):
    """Against NumPy in float64; 5000 spans two blocks."""
    z = np.stack([normals(d, stream(9, 2, i), PERTURB) for i in range(3)]).astype(np.float64)
    weights, h = np.array([0.5, 0.0, -2.0]), np.linspace(-1, 1, d).astype(np.float32)
    np.testing.assert_allclose(
        squares(9, 2, weights, node(d)), weights @ (z**2 - 1), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(dots(streams(9, 2, 3), h, node(d)), z @ h, rtol=1e-5, atol=1e-5)


def test_weights_with_a_leave_one_out_baseline():
    values = np.array([1.0, np.nan, 4.0, 7.0])
    np.testing.assert_allclose(left_out(values), [-4.5 / 3, 0, 0, 4.5 / 3])
    np.testing.assert_array_equal(left_out(np.array([np.nan, 3.0])), 0.0)
