"""Means and variances of strategies' estimates, measured against their closed forms.

Seeds are fixed, so nothing here fails by chance.  The bounds say what chance a new seed would have:
a mean may be off by `SIGMAS` = 5 of its standard errors in any coordinate, a variance (of a sum over
coordinates) by as many of its own.  A test of 6 coordinates then raises a false alarm with a
probability of about 4e-6, the whole file below 3e-4.  Negative controls demand that a wrong formula
is off by more than 10 standard errors.
"""

import dataclasses
import math

import numpy as np
import pytest
from helpers.strategy_runs import estimates, losses_of, node, placed, points

from lopt.es import strategy
from lopt.es.gradient_strategy import GradientStrategy
from lopt.es.perturbation import streams
from lopt.es.strategies.guided import orthonormal
from lopt.es.strategies.importance import shifted_weights
from lopt.es.strategies.reuse import balance_weights, baselines
from lopt.es.strategies.sums import dots, left_out, shared_scalars, squares
from lopt.es.strategies.surrogate import jump
from lopt.rng import PERTURB, normals, stream

SIGMAS, WRONG = 5.0, 10.0
N = 1500  # steps of a measurement
D, P, SIGMA = 6, 4, 0.3
CENTRE = np.float32([0.5, -0.2, 0.1, 0.0, -0.4, 0.3])
G = np.array([1.0, -2.0, 0.5, 3.0, 0.0, -1.0])
CURVED = np.random.default_rng(5).normal(size=(D, D))
H = CURVED @ CURVED.T / D + np.diag([3.0, -1.0, 0.0, 1.0, 2.0, -2.0])
AT = H @ CENTRE.astype(np.float64) + G  # gradient of `quadratic` at CENTRE


def linear(x):
    return 0.7 + x @ G


def quadratic(x):
    return 0.7 + x @ G + np.einsum("ni,ij,nj->n", x, H, x) / 2


def off(samples: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Distance of the samples' mean from the expected one, in standard errors, per coordinate."""
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    return np.abs(samples.mean(axis=0) - mean) / error


def off_variance(samples: np.ndarray, mean: np.ndarray, variance: float) -> float:
    """The same for the total variance."""
    return float(off(np.sum((samples - mean) ** 2, axis=1)[:, None], np.array([variance]))[0])


def raw(name: str, **options) -> GradientStrategy:
    given = {"shaping": "raw", "sigma": SIGMA, "pairs": P, "weight_decay": 0.0, **options}
    return strategy(name, **given)


# Table: name, settings, total variance for a linear f of gradient g, over |g|^2

F0 = 0.7 + CENTRE @ G  # `linear` at the centre
VARIANCES = [
    ("antithetic", {}, (D + 1) / P),
    ("one_point", {}, (D + 1) / (2 * P - 1)),
    ("one_point", {"baseline": "none"}, ((D + 1) + D * F0**2 / SIGMA**2 / (G @ G)) / (2 * P)),
    ("forward", {}, (D + 1) / (2 * P - 1)),
    ("orthogonal", {}, D / P - 1),
    ("orthogonal", {"radius": "chi"}, (D + 2) / P - 1),
    ("second_order", {}, (D + 1) / P),
    ("control_variate", {}, (D + 1) / P),
    ("importance", {}, (D + 1) / P),
    ("reuse", {}, (D + 1) / P),
    ("guided", {}, (D + 1) / P),
    ("annealed", {"final_sigma": 0.1}, (D + 1) / P),
    ("low_rank", {}, (D + 1) / P),
    ("low_rank", {"shapes": ((2, 3),)}, (6 + 1 + 12 / 1) / P),
    ("low_rank", {"shapes": ((2, 3),), "rank": 2}, (6 + 1 + 12 / 2) / P),
]


@pytest.mark.parametrize(("name", "options", "variance"), VARIANCES)
def test_mean_and_variance_for_a_linear_loss(name, options, variance):
    strat = raw(name, **options)
    state = placed(strat, CENTRE)
    if name == "second_order":  # its gradient is that of the pairs, before it becomes a step
        strat, state = raw("antithetic"), placed(raw("antithetic"), CENTRE)
    found = estimates(strat, state, linear, N)
    assert off(found, G).max() < SIGMAS
    assert off_variance(found, G, variance * (G @ G)) < SIGMAS


def test_a_wrong_variance_is_seen():
    """Negative control of the whole table: D / P in place of (D + 1) / P, with 10 times the steps."""
    strat = raw("antithetic")
    found = estimates(strat, placed(strat, CENTRE), linear, 10 * N)
    assert off_variance(found, G, (D + 1) / P * (G @ G)) < SIGMAS
    assert off_variance(found, G, D / P * (G @ G)) > WRONG


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("antithetic", {}),
        ("one_point", {}),
        ("one_point", {"baseline": "none"}),
        ("forward", {}),
        ("orthogonal", {}),
        ("orthogonal", {"radius": "chi"}),
        ("orthogonal", {"radius": "chi", "pairs": 8}),
        ("sobol", {}),
        ("control_variate", {}),
        ("low_rank", {"shapes": ((2, 3),)}),
        ("annealed", {}),
    ],
)
def test_unbiased_for_a_quadratic(name, options):
    strat = raw(name, **options)
    found = estimates(strat, placed(strat, CENTRE), quadratic, N)
    assert off(found, AT).max() < SIGMAS


def test_even_terms_cancel_in_pairs_only():
    """Antithetic: the variance of (D + 1) |g|^2 / P for any quadratic; one point: more."""
    strat, alone = raw("antithetic", sigma=1.0), raw("one_point", sigma=1.0)
    pairs = estimates(strat, placed(strat, CENTRE), quadratic, N)
    single = estimates(alone, placed(alone, CENTRE), quadratic, N)
    assert off_variance(pairs, AT, (D + 1) / P * (AT @ AT)) < SIGMAS
    assert off_variance(single, AT, (D + 1) / (2 * P - 1) * (AT @ AT)) > WRONG


@pytest.mark.parametrize("name", ["antithetic", "sobol", "control_variate", "one_point"])
def test_smoothing_of_a_sine(name):
    """f_sigma of sin(a x) is sin(a x) exp(-a^2 sigma^2 / 2)."""
    a, sigma, x = 1.7, 0.5, 0.3
    strat = raw(name, sigma=sigma)
    state = placed(strat, np.array([x]))
    found = estimates(strat, state, lambda y: np.sin(a * y[:, 0]), N)
    smooth = a * math.exp(-((a * sigma) ** 2) / 2) * math.cos(a * x)
    assert off(found, np.array([smooth])).max() < SIGMAS
    assert off(found, np.array([a * math.cos(a * x)])).max() > WRONG


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


def test_curvature_of_a_sine():
    a, sigma, x = 1.7, 0.5, 0.9
    strat = raw("second_order", sigma=sigma, pairs=8)
    good, _ = curvatures(strat, placed(strat, np.array([x])), lambda y: np.sin(a * y[:, 0]), N)
    true = -(a**2) * math.exp(-((a * sigma) ** 2) / 2) * math.sin(a * x)
    assert off(good, np.array([true])).max() < SIGMAS


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


def test_variance_with_a_guess():
    """(D + 1) |g - h|^2 / P for any h that knows nothing of the samples."""
    strat = raw("control_variate")
    guess = np.float32([0.8, -1.5, 1.0, 2.0, 0.5, -1.0])
    found = estimates(strat, placed(strat, CENTRE, guess=guess), linear, N)
    left = G - guess
    assert off(found, G).max() < SIGMAS
    assert off_variance(found, G, (D + 1) / P * (left @ left)) < SIGMAS


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


def directions(strat, state, n):
    z = np.empty((n, state.theta.size), np.float32)
    for i, row in enumerate(z):
        strat.directions(state, i, row)
    return z.astype(np.float64)


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


def reused(strat, move, f, n):
    """Estimates at CENTRE after a step at CENTRE - move, whose samples know nothing of the move."""
    before = (CENTRE - np.float32(move)).astype(np.float32)
    state, shared, found = placed(strat, before), node(D), np.empty((n, D))
    for k in range(n):
        old = dataclasses.replace(state, step=2 * k + 2)
        memory = {"losses": losses_of(strat, old, f), "centre": before}
        new = dataclasses.replace(placed(strat, CENTRE), step=2 * k + 3, memory=memory)
        found[k] = strat.gradient(new, losses_of(strat, new, f), shared)
    return found


def test_reuse_without_a_move_doubles_the_pairs():
    found = reused(raw("reuse"), np.zeros(D), linear, N)
    assert off(found, G).max() < SIGMAS
    assert off_variance(found, G, (D + 1) / (2 * P) * (G @ G)) < SIGMAS


@pytest.mark.parametrize("length", [0.3, 0.9])
def test_reuse_after_a_move_is_unbiased(length):
    move = length * SIGMA * np.array([0.5, -0.5, 0.5, 0.5, 0.0, 0.0])
    found = reused(raw("reuse"), move, quadratic, 2 * N)
    assert off(found, AT).max() < SIGMAS


def test_reuse_stops_beyond_its_reach():
    move = 1.1 * SIGMA * np.eye(D)[0]
    plain = raw("antithetic")
    state = placed(plain, CENTRE)
    expected = [
        estimates(plain, dataclasses.replace(state, step=0), linear, 2 * k + 3)[-1]
        for k in range(3)
    ]
    np.testing.assert_array_equal(reused(raw("reuse"), move, linear, 3), expected)


def test_baselines_leave_the_own_pair_out():
    losses = np.array([[1.0, 3.0], [np.nan, 100.0], [5.0, 7.0], [0.0, 2.0]])
    np.testing.assert_allclose(baselines(losses)[[0, 2, 3]], [3.5, 1.5, 4.0])
    np.testing.assert_array_equal(baselines(losses[:2])[0], 0.0)


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


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_variance_of_least_norm(pairs):
    strat = raw("surrogate", pairs=pairs)
    state, shared = placed(strat, CENTRE), node(D)
    fits = np.empty((N, D))
    for step in range(N):
        at = dataclasses.replace(state, step=step)
        fits[step] = strat.fit(at, losses_of(strat, at, linear), shared)[1]
    assert off(fits, G).max() < SIGMAS
    assert off_variance(fits, G, (D / pairs - 1) * (G @ G)) < SIGMAS


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


def test_noise_in_a_fit():
    """P > D + 1: evaluation noise of variance tau^2 leaves D tau^2 / (2 sigma^2 (P - D - 1))."""
    strat, tau, pairs = raw("surrogate", pairs=12), 0.1, 12
    state, shared, fits = placed(strat, CENTRE), node(D), np.empty((2 * N, D))
    noise = np.random.default_rng(1)
    for step in range(len(fits)):
        at = dataclasses.replace(state, step=step)
        losses = losses_of(strat, at, linear)
        fits[step] = strat.fit(at, losses + tau * noise.normal(size=losses.size), shared)[1]
    assert off(fits, G).max() < SIGMAS
    assert off_variance(fits, G, D * tau**2 / (2 * SIGMA**2 * (pairs - D - 1))) < SIGMAS


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


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_guided_mean_and_variance(alpha):
    """Mean C g, variance (|C g|^2 + tr C  g.C g) / P, tr C = D; a descent direction, and a biased one."""
    strat = raw("guided", alpha=alpha)
    rows = np.float32([[1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 2, 0]])
    u = orthonormal(rows)
    c = alpha * np.eye(D) + (1 - alpha) * D / 2 * u.T @ u
    found = estimates(strat, placed(strat, CENTRE, estimates=rows), linear, 2 * N)
    mean = c @ G
    assert off(found, mean).max() < SIGMAS
    assert off_variance(found, mean, (mean @ mean + D * (G @ mean)) / P) < SIGMAS
    assert G @ mean > 0
    assert (off(found, G).max() > WRONG) == (alpha < 1)


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
