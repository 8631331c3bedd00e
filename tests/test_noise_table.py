"""The shared table of normals: its bits on any ranks, and what overlapping slices cost.

Statistics are over fixed tables: a test that passes once always does.  With fresh ones a mean may
be off by 5 of its standard errors: a false alarm about once in a million runs.  Negative controls
are off by 10.
"""

import math

import numpy as np
import pytest
from helpers.es_problems import Drift, Plain, run_drift, settings
from helpers.node_ranks import NodeRank
from helpers.strategy_statistics import SIGMAS, WRONG, off

from lopt import rng
from lopt.comm import SerialComm
from lopt.errors import UsageError
from lopt.es import ESTIMATORS, make_estimator, minimize
from lopt.es.noise import Counter, Table, shared_table, table
from lopt.es.perturbation import NodeSum, streams, sum_rows

M = 1000


def slices(numbers, n, places):
    return np.stack([numbers[p : p + n] for p in places])


def test_the_table_holds_independent_normals():
    numbers = table(M)
    np.testing.assert_array_equal(numbers, rng.normals(M, rng.stream(0), rng.TABLE))
    assert numbers is table(M) is shared_table(M, SerialComm())
    big = table(2**20).astype(np.float64)
    np.testing.assert_array_equal(big[:M], numbers)  # a longer one begins alike
    assert off(big[:, None], np.zeros(1))[0] < SIGMAS
    assert off(big[:, None] ** 2, np.ones(1))[0] < SIGMAS
    assert off((big[1:] * big[:-1])[:, None], np.zeros(1))[0] < SIGMAS


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("m", [1, 5, M])
def test_ranks_of_a_node_make_it_together(size, m):
    memory = np.full(m, np.nan, np.float32)
    for r in range(size):
        found = shared_table(m, NodeRank(r, size, memory))
    np.testing.assert_array_equal(found, rng.normals(m, rng.stream(0), rng.TABLE))


def test_places_are_even_and_follow_the_address():
    noise, n = Table(table(M), M - 9), 5000
    places = noise.places(streams(3, 5, n))
    counts = np.bincount(places, minlength=10)
    assert counts.size == 10  # the last slice ends with the table
    assert (np.abs(counts - n / 10) < SIGMAS * math.sqrt(n * 0.09)).all()
    again = noise.places(streams(3, np.full(n, 5), n)[::-1])[::-1]
    np.testing.assert_array_equal(places, again)
    assert (noise.places(streams(4, 5, n)) != places).mean() == pytest.approx(0.9, abs=0.02)
    assert (Table(table(M), M).places(streams(3, 5, 9)) == 0).all()


@pytest.mark.parametrize("n", [1, 6, 5000])
@pytest.mark.parametrize("size", [1, 3])
def test_sums_on_a_node_are_those_of_the_rows_to_the_bit(n, size):
    """5000 coordinates cross a block of the sum."""
    noise, pairs = Table(table(20_000), n), streams(9, np.array([4, 4, 2, 0]), 4)
    coefs = np.array([0.3, 0.0, -1.7, 1e-6], np.float32)
    rows = slices(table(20_000), n, noise.places(pairs))
    for row, address in zip(rows, pairs, strict=True):
        z = np.empty(n, np.float32)
        noise.fill(z, address)
        np.testing.assert_array_equal(z, row)
    plain, memory = np.zeros(n, np.float32), np.full(n, np.nan, np.float32)
    sum_rows(plain, coefs, rows)
    for r in range(size):
        node = NodeSum(NodeRank(r, size, memory), n)
        got = node.rebuild(lambda out, start: noise.add(out, start, coefs, pairs))
    np.testing.assert_array_equal(got, plain)


# In the estimators and in a search


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_take_their_perturbations_from_it(name):
    """One window: the mean of the slices times the slopes; and another gradient than without."""
    theta = np.linspace(-1, 1, 9, dtype=np.float32)
    problem, found = Plain(lambda th: np.sin(th).sum(), 9), []
    for size in (M, 0):
        cfg = settings(estimator=name, pairs=3, noise_table=size)
        estimator = make_estimator(cfg, problem, SerialComm(), 2)
        found.append(estimator.step(theta, 7, estimator.init(theta))[0])
    rows = slices(table(M), 9, Table(table(M), 9).places(streams(2, 7, 3)))
    slopes = (found[0].losses[:, 0] - found[0].losses[:, 1]) / 0.2
    np.testing.assert_allclose(found[0].grad, slopes @ rows / 3, rtol=1e-5, atol=1e-6)
    plus = np.sin((theta + np.float32(0.1) * rows).astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(found[0].losses[:, 0], plus, rtol=1e-7)
    assert (found[0].grad != found[1].grad).all()


@pytest.mark.parametrize("name", ["pes", "gpes"])
def test_resumed_sums_of_slices_have_the_same_bits(name):
    cfg = settings(estimator=name, pairs=5, truncation=2, noise_table=M)
    cfg.resample = 4 if name == "gpes" else 0
    whole = run_drift(SerialComm(), cfg)
    resumed = run_drift(SerialComm(), cfg, whole["saved"])
    np.testing.assert_array_equal(whole["grad"][3:], resumed["grad"])


def test_a_table_shorter_than_theta_is_refused():
    with pytest.raises(UsageError, match="4 numbers for perturbations of 5; valid: 5 to"):
        make_estimator(settings(noise_table=4), Drift(5, 1), SerialComm(), 0)
    with pytest.raises(UsageError, match="numbers = 4 for 5 coordinates"):
        minimize(np.sum, np.ones(5), strategy="noise_table", numbers=4, steps=1)
    with pytest.raises(UsageError, match="at least 1"):
        table(0)


def test_a_search_with_a_table_is_another_one_and_comes_as_far():
    ends = {}
    for name in ("antithetic", "noise_table"):
        ends[name] = minimize(lambda x: float(x @ x), np.ones(20), strategy=name, steps=100, seed=1)
        assert ends[name].fun < 0.5
    assert (ends["antithetic"].x != ends["noise_table"].x).all()


# What overlapping costs


def correlation_sum(g):
    """sum over d > 0 of R(d), and R: sum over j of g_(j + d) g_(j - d)."""
    r = np.array([g[2 * d :] @ g[: g.size - 2 * d] for d in range((g.size + 1) // 2)])
    return r[1:].sum(), r


GRADIENTS = {
    "equal": np.ones(40),
    "no order": np.random.default_rng(0).choice([-1.0, 1.0], 40),
    "waves": np.cos(np.arange(40)),
}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_the_error_that_no_number_of_pairs_takes_away(kind):
    """Mean over all places of z (z.g) against g: (1 / n^2) (n (D + 1) |g|^2 + 2 sum_d (n - d) R(d)), n places."""
    g, tables = GRADIENTS[kind], 3000
    d, errors = g.size, np.empty((tables, 1))
    n = M - d + 1
    for k in range(tables):
        rows = np.lib.stride_tricks.sliding_window_view(
            rng.normals(M, rng.stream(k), rng.TABLE).astype(np.float64), d
        )
        errors[k] = np.sum(((rows @ g) @ rows / n - g) ** 2)
    _, r = correlation_sum(g)
    lags = np.arange(1, r.size)
    predicted = (n * (d + 1) * (g @ g) + 2 * ((n - lags) @ r[1:])) / n**2
    assert off(errors, np.array([predicted]))[0] < SIGMAS
    assert off(errors, np.zeros(1))[0] > WRONG
    if kind == "equal":  # close to 3/2 of what independent slices would have
        assert predicted == pytest.approx(1.5 * (d + 1) * (g @ g) / n, rel=0.05)
        assert off(errors, np.array([(d + 1) * (g @ g) / n]))[0] > WRONG


@pytest.mark.parametrize("shift", [0, 1, 5, 60])
def test_covariance_of_two_pairs_that_overlap(shift):
    """sum_j g_(j + d) g_(j - d) at distance d, (D + 1) |g|^2 at the same place, 0 without overlap."""
    g, n = GRADIENTS["equal"] + 0.5 * GRADIENTS["waves"], 40_000
    d = g.size
    numbers = rng.normals(n * (d + 60), rng.stream(8), rng.TABLE).astype(np.float64)
    rows = numbers.reshape(n, -1)
    one, two = (rows[:, k : k + d] * (rows[:, k : k + d] @ g)[:, None] - g for k in (0, shift))
    expected = g[2 * shift :] @ g[: max(d - 2 * shift, 0)] + (d * (g @ g) if shift == 0 else 0)
    assert off(np.sum(one * two, axis=1)[:, None], np.array([expected]))[0] < SIGMAS


def test_without_a_table_nothing_overlaps():
    """The same mean over as many addresses: its error falls as 1 / N below what a table leaves."""
    g, n = GRADIENTS["equal"], 30_000
    noise, z, total = Counter(), np.empty(g.size, np.float32), np.zeros(g.size)
    for address in streams(1, 0, n):
        noise.fill(z, address)
        total += z * (z @ g)
    error = np.sum((total / n - g) ** 2)
    assert error == pytest.approx((g.size + 1) * (g @ g) / n, rel=0.8)
    assert error < 0.1 * 1.5 * (g.size + 1) * (g @ g) / (M - g.size + 1)
