"""Estimators against closed forms, a slow formula and each other; lost pairs; refusals.

Statistics are over fixed addresses: a test that passes once always does.  For fresh addresses a
bound of 5 standard errors would raise a false alarm about once in a million.
"""

import math

import numpy as np
import pytest
from helpers.episodes import episodes_of
from helpers.es_problems import Balance, Drift, Plain, one_step, settings, z_of

from lopt import config, rng
from lopt.comm import SerialComm
from lopt.errors import ConfigError, LostPairsError, UsageError
from lopt.es import ESTIMATORS, make_estimator

TRUE_BALANCE = 3571.63  # d(total loss)/d(theta) of influence balancing at theta = 0.5, T = 100
SCALES = (1e-6, 1.0, 1e3)


# Closed forms of one function evaluation


def per_pair(f, theta, pairs, sigma):
    """Gradient of every pair on its own, (P, D) float64, from the losses of a `full` estimate."""
    estimate = one_step(Plain(f, len(theta)), theta, pairs=pairs, sigma=sigma)
    slopes = (estimate.losses[:, 0] - estimate.losses[:, 1]) / (2 * sigma)
    each = np.stack([slopes[i] * z_of(0, 0, i, len(theta)) for i in range(pairs)])
    np.testing.assert_allclose(estimate.grad, each.mean(axis=0), rtol=1e-3, atol=1e-4)
    return each


@pytest.mark.parametrize("scale", SCALES)
def test_linear_is_unbiased_with_variance_p_plus_one(scale):
    """Trace of the covariance of one pair: (D + 1) |g|**2 (methods 2.1)."""
    g = scale * np.array([1.0, -2.0, 0.5, 3.0, 0.0, 1.5])
    each = per_pair(lambda th: g @ th, np.zeros(6), 10_000, 0.1) / scale
    se = each.std(axis=0) / np.sqrt(len(each))
    assert (np.abs(each.mean(axis=0) - g / scale) < 5 * se).all()
    variance = each.var(axis=0).sum()
    assert variance == pytest.approx(7 * (g @ g) / scale**2, rel=0.08)


def test_quadratic_has_the_exact_mean():
    """Smoothing does not bias a quadratic, whatever sigma is; even terms cancel in each pair."""
    h, b, theta = np.array([4.0, 1.0, -0.5]), np.array([1.0, 0.0, -1.0]), np.array([0.5, -1.0, 2.0])
    each = per_pair(lambda th: 0.5 * th @ (h * th) + b @ th + 7.0, theta, 10_000, 0.8)
    g = h * theta + b
    se = each.std(axis=0) / np.sqrt(len(each))
    assert (np.abs(each.mean(axis=0) - g) < 5 * se).all()
    assert each.var(axis=0).sum() == pytest.approx(4 * (g @ g), rel=0.08)


@pytest.mark.parametrize("sigma", [0.1, 0.7])
def test_sine_is_smoothed_by_the_gaussian(sigma):
    """grad of the smoothed sin(a x) is a exp(-a**2 sigma**2 / 2) cos(a x)."""
    a, x = 1.5, 0.4
    each = per_pair(lambda th: math.sin(a * th[0]), [x], 10_000, sigma)
    smoothed = a * math.exp(-0.5 * (a * sigma) ** 2) * math.cos(a * x)
    se = each.std() / 100
    assert abs(each.mean() - smoothed) < 5 * se
    if sigma > 0.5:  # and the test can tell it from the gradient without smoothing
        assert abs(each.mean() - a * math.cos(a * x)) > 20 * se


@pytest.mark.parametrize("name", ESTIMATORS)
def test_even_function_at_its_centre_has_gradient_exactly_zero(name):
    estimate = one_step(Plain(lambda th: np.cos(th @ th), 5), np.zeros(5), estimator=name)
    assert (estimate.losses != np.cos(0)).all()
    assert (estimate.grad == 0).all()


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("scale", SCALES)
def test_equals_a_slow_formula_on_the_same_draws(name, scale):
    """Bit for bit, in float32, on all draws of one outer step."""
    d, pairs, sigma = 4099, 3, np.float32(0.05)  # crosses a block of the sum

    def f(th):
        return scale * np.sin(th).sum()

    theta = np.linspace(-1, 1, d, dtype=np.float32)
    estimate = one_step(Plain(f, d), theta, 7, 3, estimator=name, pairs=pairs, sigma=float(sigma))
    grad = np.zeros(d, np.float32)
    for i in range(pairs):
        z = z_of(3, 7, i, d)
        plus, minus = (theta + sigma * z).astype(float), (theta - sigma * z).astype(float)
        slope = (f(plus) - f(minus)) / (2 * float(sigma))
        grad += np.float32(slope / pairs) * z
    np.testing.assert_array_equal(estimate.grad, grad)


# Unrolled problems


def balanced(name, truncation, pairs):
    """Total gradient estimates of complete episodes of influence balancing, (n,) float64."""
    cfg = settings(estimator=name, truncation=truncation, pairs=pairs)
    return episodes_of(cfg, Balance(100, truncation), [0.5])[:, 0]


def test_influence_balancing_has_the_stated_gradient():
    problem, h = Balance(100, 1), 1e-4
    losses = [
        problem.run(np.array([0.5 + s]), problem.start(None, 0, 0), 0, 0, 0, 100).loss
        for s in (h, -h)
    ]
    assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(TRUE_BALANCE, abs=0.01)


@pytest.mark.parametrize(
    ("name", "truncation", "std"),
    [
        ("pes", 1, 6262), ("nres", 1, 5087),
        ("pes", 5, 6408), ("nres", 5, 4998),
        ("pes", 20, 6572), ("nres", 20, 5083),
        ("pes", 100, 5070), ("nres", 100, 5070), ("truncated", 100, 5070),
    ],
)  # fmt: skip
def test_pes_and_nres_are_unbiased_with_the_stated_spread(name, truncation, std):
    """Total gradient of an episode of influence balancing (methods 2.9)."""
    each = balanced(name, truncation, 500 if truncation == 1 else 2500)
    se = each.std() / np.sqrt(len(each))
    assert abs(each.mean() - TRUE_BALANCE) < 5 * se
    assert each.mean() > 10 * se  # the sign is beyond doubt
    assert each.std() == pytest.approx(std, rel=0.15)


@pytest.mark.parametrize(("truncation", "mean"), [(1, -26), (5, -85), (20, -367)])
def test_truncated_es_has_the_wrong_sign(truncation, mean):
    """The negative control: the same harness sees a bias where there is one."""
    each = balanced("truncated", truncation, 500 if truncation == 1 else 2500)
    se = each.std() / np.sqrt(len(each))
    assert each.mean() < -5 * se
    assert abs(each.mean() - mean) < 5 * se + 1


def test_nres_windows_add_up_to_full_es():
    """Same address, same perturbation: an episode's windows sum to the whole (theta frozen)."""
    theta = np.linspace(-1, 1, 5, dtype=np.float32)
    for seed in range(4):
        cfg = settings(estimator="nres", pairs=1, truncation=2)
        nres = make_estimator(cfg, Drift(5, 2, longest=12), SerialComm(), seed)
        state, sums, t = nres.init(theta), {}, 0
        while len(sums) < 4:
            estimate, state = nres.step(theta, t, state)
            episode = int(state.episode[0])
            sums[episode] = sums.get(episode, 0) + estimate.grad.astype(float)
            t += 1
        for episode in list(sums)[1:3]:  # the first one was cut, the last is not finished
            problem = Drift(5, 2, longest=12)
            full = one_step(problem, theta, episode, seed, pairs=1, truncation=2)
            np.testing.assert_allclose(sums[episode], full.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("longest", [9, 1])
@pytest.mark.parametrize("name", ["pes", "gpes", "nres"])
def test_one_window_per_episode_is_full_es_to_the_bit(name, longest):
    """Also when the horizon is shorter than the truncation."""
    theta, found = np.linspace(-1, 1, 6, dtype=np.float32), {}
    for estimator_name in ("full", name):
        cfg = settings(estimator=estimator_name, pairs=5, truncation=9)
        estimator = make_estimator(cfg, Drift(6, 9, longest=longest), SerialComm(), 2)
        state, grads = estimator.init(theta), []
        for t in range(4):
            estimate, state = estimator.step(theta, t, state)
            grads.append(estimate.grad)
        found[estimator_name] = np.array(grads)
    assert (found["full"] != 0).all()
    np.testing.assert_array_equal(found["full"], found[name])


def test_pes_accumulator_starts_at_the_current_perturbation():
    """xi of a new episode's first window is z; starting it at 0 would give another gradient."""
    cfg = settings(estimator="pes", pairs=1, truncation=2)
    estimator = make_estimator(cfg, Drift(3, 2), SerialComm(), 4)
    theta = np.zeros(3, np.float32)
    state, xi, resets = estimator.init(theta), np.zeros(3, np.float32), 0
    for t in range(12):
        fresh = state.t[0] == 0
        estimate, state = estimator.step(theta, t, state)
        z = z_of(4, t, 0, 3)
        xi = z if fresh else xi + z
        resets += int(fresh)
        slope = np.float32((estimate.losses[0, 0] - estimate.losses[0, 1]) / 0.2)
        np.testing.assert_array_equal(estimate.grad, slope * xi)
        assert (estimate.grad != slope * (xi - z)).all()
    assert 2 < resets < 12


def test_first_episodes_are_cut_at_whole_windows_evenly():
    """Step-unlocked: 5 windows (the last one short), each number of them equally likely."""
    cfg = settings(estimator="nres", pairs=2000, truncation=3)
    estimator = make_estimator(cfg, Balance(14, 3), SerialComm(), 0)
    theta = np.array([0.5], np.float32)
    estimate, state = estimator.step(theta, 0, estimator.init(theta))
    ends, counts = np.unique(state.end, return_counts=True)
    assert ends.tolist() == [3, 6, 9, 12, 14]
    assert (np.abs(counts - 400) < 5 * math.sqrt(400 * 0.8)).all()
    for t in range(1, 5):
        estimate, state = estimator.step(theta, t, state)
    assert set(state.end[state.episode > 0]) == {14}
    assert estimate.inner_steps < 2 * 2000 * 3  # some windows were short


def test_inner_steps_are_counted():
    found = {name: one_step(Balance(14, 3), [0.5], estimator=name, pairs=3, truncation=3)
             for name in ESTIMATORS}  # fmt: skip
    steps = {name: estimate.inner_steps for name, estimate in found.items()}
    assert steps == {"full": 84, "truncated": 27, "pes": 18, "gpes": 18, "nres": 18}


# Lost pairs


class Faulty(Plain):
    """Plain, but member runs of the pairs in `bad` go wrong."""

    def __init__(self, bad: dict[int, str]) -> None:
        super().__init__(lambda th: (th**3).sum(), 3)
        self.bad = bad

    def run(self, theta, state, episode, pair, t0, steps):
        window, kind = super().run(theta, state, episode, pair, t0, steps), self.bad.get(pair)
        if kind == "raise":
            raise ZeroDivisionError("step 3")
        if kind in ("nan", "inf"):
            return window._replace(loss=float(kind))
        if kind == "flag":
            return window._replace(lost=True)
        if kind == "short":
            return window._replace(inner_steps=0)
        if kind == "one member" and theta[0] < 1:
            return window._replace(loss=math.nan)
        return window


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("kind", ["raise", "nan", "inf", "flag", "short", "one member"])
def test_a_lost_pair_is_dropped(name, kind):
    """The gradient is the mean over the others; the loss that cannot be used is NaN."""
    theta = np.ones(3, np.float32)
    cfg = {"estimator": name, "pairs": 3, "difference": "raw"}
    estimate = one_step(Faulty({1: kind}), theta, **cfg)
    whole = one_step(Faulty({}), theta, **cfg)
    assert estimate.n_lost == 1 and whole.n_lost == 0
    assert np.isnan(estimate.losses).any(axis=1).tolist() == [False, True, False]
    expected = np.zeros(3, np.float32)
    for i in (0, 2):
        slope = (whole.losses[i, 0] - whole.losses[i, 1]) / (2 * 0.1)
        expected += np.float32(slope / 2) * z_of(0, 0, i, 3)
    np.testing.assert_array_equal(estimate.grad, expected)
    assert (estimate.grad != whole.grad).all()
    reasons = {
        "raise": "ZeroDivisionError: step 3",
        "short": "ValueError: run made 0 of 1 inner steps",
    }
    assert estimate.fault == reasons.get(kind)


def test_a_diverged_pair_counts_when_its_loss_is_clipped():
    kept = one_step(Faulty({1: "flag"}), np.ones(3), pairs=3, diverged="clip")
    whole = one_step(Faulty({}), np.ones(3), pairs=3)
    assert kept.n_lost == 0
    np.testing.assert_array_equal(kept.grad, whole.grad)
    assert one_step(Faulty({1: "nan"}), np.ones(3), pairs=3, diverged="clip").n_lost == 1


@pytest.mark.parametrize("name", ESTIMATORS)
def test_more_than_half_lost_stops_with_the_reasons(name):
    bad = {0: "raise", 1: "nan"}
    assert one_step(Faulty(bad), np.ones(3), estimator=name, pairs=4).n_lost == 2
    with pytest.raises(LostPairsError) as error:
        one_step(Faulty({**bad, 3: "raise"}), np.ones(3), 5, estimator=name, pairs=4)
    assert str(error.value) == (
        "outer step 5 lost 3 of 4 pairs, at most half may be lost: 2 raised an exception "
        "(first on this rank: ZeroDivisionError: step 3), 1 diverged"
    )


class RaisesAtStart(Plain):
    """Cannot be started where theta is perturbed upwards."""

    def start(self, theta, episode, pair):
        if pair == 2 and theta[0] != 1:
            raise RuntimeError("no data")
        return {}


@pytest.mark.parametrize("name", ["full", "pes", "gpes", "nres"])
def test_an_exception_in_start_loses_the_pair(name):
    estimate = one_step(RaisesAtStart(np.sum, 2), np.ones(2), estimator=name, pairs=3)
    assert estimate.n_lost == 1 and estimate.fault == "RuntimeError: no data"


@pytest.mark.parametrize("name", ["truncated", "pes", "gpes", "nres"])
def test_a_lost_pair_begins_a_new_episode(name):
    class Once(Balance):
        victim = -1

        def run(self, theta, state, episode, pair, t0, steps):
            window = super().run(theta, state, episode, pair, t0, steps)
            return window._replace(lost=(episode, pair, t0) == (0, self.victim, 2))

    theta, problem = np.array([0.5], np.float32), Once(20, 2)
    cfg = settings(estimator=name, pairs=4, truncation=2)
    estimator = make_estimator(cfg, problem, SerialComm(), 3)
    state = estimator.step(theta, 0, estimator.init(theta))[1]
    i = problem.victim = int(np.argmax(state.end))  # its first episode is long enough
    assert state.end[i] > 4
    estimate, state = estimator.step(theta, 1, state)
    assert np.isnan(estimate.losses[:, 0]).tolist() == [k == i for k in range(4)]
    assert i not in state.particles
    estimate, state = estimator.step(theta, 2, state)
    assert np.isfinite(estimate.losses).all()
    assert (state.episode[i], state.t[i]) == (2, 2)
    assert state.end[i] == 20  # only a pair's very first episode is cut


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "nress"}, "did you mean 'nres'"),
        ({"pairs": 0}, "es.pairs = 0"),
        ({"sigma": 0.0}, "es.sigma = 0.0"),
        ({"truncation": 0}, "es.truncation = 0"),
        ({"difference": "rawest"}, "did you mean 'raw'"),
        ({"diverged": "dropped"}, "did you mean 'drop'"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        make_estimator(settings(**change), Plain(np.sum, 2), SerialComm(), 0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_theta_of_the_wrong_kind_is_refused(name):
    estimator = make_estimator(settings(estimator=name), Plain(np.sum, 2), SerialComm(), 0)
    for theta in (np.zeros(3, np.float32), np.zeros(2)):
        with pytest.raises(UsageError, match="the problem needs float32"):
            estimator.init(theta)


def test_one_pair_in_one_dimension():
    for name in ESTIMATORS:
        estimate = one_step(Plain(lambda th: 3 * th[0], 1), [0.0], estimator=name, pairs=1)
        assert estimate.grad[0] == pytest.approx(3 * z_of(0, 0, 0, 1)[0] ** 2, rel=1e-5)
        assert set(estimate.seconds) == {"rollout", "exchange", "rebuild"}


@pytest.mark.parametrize("difference", config.DIFFERENCES)
def test_the_configuration_of_a_run_fits(difference):
    for name in config.ESTIMATORS:
        cfg = config.EsConfig(estimator=name, pairs=3, truncation=2, difference=difference)
        estimator = make_estimator(cfg, Drift(4, 2), SerialComm(), 0)
        theta = np.ones(4, np.float32)
        grad = estimator.step(theta, 0, estimator.init(theta))[0].grad
        assert estimator.name == name and (grad != 0).all()


# Problems that run all members at once


class AllAtOnce(Drift):
    """`Drift` as a device would have it; pair 1 cannot start in episode 2."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.batched, self.batches = True, []

    def start(self, theta, episode, pair):
        if (episode, pair) == (2, 1):
            raise RuntimeError("no start")
        return super().start(theta, episode, pair)

    def run_many(self, requests):
        self.batches.append(len(requests))
        for theta, *_ in requests:
            z = np.empty(theta.array.size, np.float32)
            rng.normals_into(z, 0, theta.recipe.stream, rng.PERTURB, 0)
            made = theta.recipe.base + np.float32(theta.recipe.scale) * z
            np.testing.assert_allclose(made, theta.array, rtol=1e-6, atol=1e-6)
        return [self.run(r.theta.array, *r[1:]) for r in requests]


@pytest.mark.parametrize("table", [0, 100])
@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_all_at_once_or_pair_after_pair_is_the_same(name, table):
    """Bits of losses and gradients; a member that cannot start is left out of the batch and lost."""
    found = []
    for batched in (True, False):
        problem = AllAtOnce(5, 2)
        problem.batched = batched
        cfg = settings(estimator=name, pairs=6, truncation=2, noise_table=table)
        estimator = make_estimator(cfg, problem, SerialComm(), 0)
        theta = np.linspace(-1, 1, 5, dtype=np.float32)
        state = estimator.init(theta)
        for t in range(4):
            estimate, state = estimator.step(theta, t, state)
            found.append((estimate.losses, estimate.grad, estimate.n_lost, estimate.fault))
        assert len(problem.batches) == (4 if batched else 0)
    for a, b in zip(found[:4], found[4:], strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
        assert a[2:] == b[2:]


def test_an_exception_in_a_batch_loses_all_of_it():
    problem = AllAtOnce(3, 2)
    problem.run_many = lambda requests: [] if requests else None
    cfg = settings(estimator="nres", pairs=2, truncation=2)
    estimator = make_estimator(cfg, problem, SerialComm(), 0)
    theta = np.zeros(3, np.float32)
    with pytest.raises(
        LostPairsError, match=r"lost 2 of 2 pairs.*2 raised an exception.*StopIteration"
    ):
        estimator.step(theta, 0, estimator.init(theta))
