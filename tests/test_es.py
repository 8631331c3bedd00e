"""Estimators against closed forms, a slow formula, each other, interruptions and rank counts.

Statistics are over fixed addresses: a test that passes once always does.  Bounds of 5 standard
errors had a false-alarm rate below 1e-6 when they were first tried.
"""

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.es_problems import Balance, Drift, Plain, all_estimators, run_drift, settings
from helpers.mpi import mpirun

from lopt import config, rng
from lopt.comm import SerialComm
from lopt.errors import ConfigError, LostPairsError, UsageError
from lopt.es import ESTIMATORS, Shaping, make_estimator
from lopt.es.pairs import share_out
from lopt.es.perturbation import NodeSum, perturbed, streams, sum_normals, sum_rows
from lopt.es.shaping import CLIP, DECAY

TRUE_BALANCE = 3571.63  # d(total loss)/d(theta) of influence balancing at theta = 0.5, T = 100
SCALES = (1e-6, 1.0, 1e3)


def z_of(seed: int, outer: int, pair: int, n: int) -> np.ndarray:
    """The perturbation of a pair, (n,) float32, units of sigma."""
    return rng.normals(n, rng.stream(seed, outer, pair), rng.PERTURB)


def one_step(problem, theta, outer_step=0, seed=0, **cfg):
    """First estimate of an estimator."""
    estimator = make_estimator(settings(**cfg), problem, SerialComm(), seed)
    theta = np.asarray(theta, np.float32)
    return estimator.step(theta, outer_step, estimator.init(theta))[0]


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


def episodes_of(name, truncation, pairs, horizon=100, sigma=0.1, problem=None):
    """Total gradient estimate of each complete episode, from losses and addresses alone.

    Checks on the way that the estimator's gradient is the mean of the pairs' contributions.
    """
    cfg = settings(estimator=name, pairs=pairs, truncation=truncation, sigma=sigma)
    problem = problem or Balance(horizon, truncation)
    estimator = make_estimator(cfg, problem, SerialComm(), 1)
    theta = np.array([0.5], np.float32)
    state = estimator.init(theta)
    n = horizon // truncation
    xi, total, count, complete = np.zeros(pairs), np.zeros(pairs), np.zeros(pairs, int), []
    for t in range(2 * n):
        t0 = state.t.copy()
        estimate, state = estimator.step(theta, t, state)
        drawn = state.episode if name == "nres" else np.full(pairs, t)
        z = np.array([z_of(1, int(drawn[i]), i, 1)[0] for i in range(pairs)])
        xi = z + (xi if name == "pes" else 0) * (t0 > 0)
        slopes = (estimate.losses[:, 0] - estimate.losses[:, 1]) / (2 * sigma)
        contribution = slopes * xi
        assert estimate.grad[0] == pytest.approx(contribution.mean(), rel=1e-3, abs=1e-3)
        total = contribution + total * (t0 > 0)
        count = 1 + count * (t0 > 0)
        complete += list(truncation * total[count == n])
    assert len(complete) >= pairs
    return np.array(complete)


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
    each = episodes_of(name, truncation, 500 if truncation == 1 else 2500)
    se = each.std() / np.sqrt(len(each))
    assert abs(each.mean() - TRUE_BALANCE) < 5 * se
    assert each.mean() > 10 * se  # the sign is beyond doubt
    assert each.std() == pytest.approx(std, rel=0.15)


@pytest.mark.parametrize(("truncation", "mean"), [(1, -26), (5, -85), (20, -367)])
def test_truncated_es_has_the_wrong_sign(truncation, mean):
    """The negative control: the same harness sees a bias where there is one."""
    each = episodes_of("truncated", truncation, 500 if truncation == 1 else 2500)
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
@pytest.mark.parametrize("name", ["pes", "nres"])
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
    assert steps == {"full": 84, "truncated": 27, "pes": 18, "nres": 18}


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


@pytest.mark.parametrize("name", ["full", "pes", "nres"])
def test_an_exception_in_start_loses_the_pair(name):
    estimate = one_step(RaisesAtStart(np.sum, 2), np.ones(2), estimator=name, pairs=3)
    assert estimate.n_lost == 1 and estimate.fault == "RuntimeError: no data"


@pytest.mark.parametrize("name", ["truncated", "pes", "nres"])
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


# Exchange, ranks, resume


@pytest.mark.parametrize("name", ESTIMATORS)
def test_sixteen_bytes_per_pair_and_nothing_else(name):
    comm = SerialComm()
    cfg = settings(estimator=name, pairs=7, truncation=2)
    estimator = make_estimator(cfg, Drift(6, 2), comm, 0)
    theta = np.zeros(6, np.float32)
    state = estimator.init(theta)
    for t in range(3):
        estimate, state = estimator.step(theta, t, state)
        assert estimate.bytes_sent == 16 * 7
    assert comm.sent == {"scalars": 3 * 16 * 7, "control": 0, "gather": 0}


@pytest.mark.parametrize("difference", ["raw", "normalised"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_resume_in_mid_episode_has_the_same_bits(name, difference):
    cfg = settings(estimator=name, pairs=5, truncation=2, difference=difference)
    whole = run_drift(SerialComm(), cfg)
    if name != "full":
        assert (whole["saved"]["t"] > 0).any()
    resumed = run_drift(SerialComm(), cfg, whole["saved"])
    np.testing.assert_array_equal(whole["grad"][3:], resumed["grad"])
    np.testing.assert_array_equal(whole["losses"][3:], resumed["losses"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Folders with what 2, 3 and 4 ranks found for 3 pairs, and 3 ranks that resumed the 2."""
    folders = {}
    for ranks, start in (("2", ()), ("3", ()), ("4", ()), ("3 after 2", ("2",))):
        folders[ranks] = tmp_path_factory.mktemp("ranks")
        before = [str(folders[name]) for name in start]
        mpirun(int(ranks[0]), ["-m", "helpers.es_problems", str(folders[ranks]), *before])
    return folders


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    return all_estimators(SerialComm())


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", ["2", "3", "4", "3 after 2"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_any_number_of_ranks_has_the_same_bits(runs, alone, name, ranks):
    """Also more ranks than pairs, and a run that two ranks saved and three resumed."""
    first = 3 if ranks == "3 after 2" else 0
    with np.load(runs[ranks] / f"{name}.npz") as found:
        assert found["size"] == int(ranks[0])
        assert len(found["grad"]) == 6 - first
        np.testing.assert_array_equal(alone[name]["grad"][first:], found["grad"])
        np.testing.assert_array_equal(alone[name]["losses"][first:], found["losses"])


class NodeRank(SerialComm):
    """One of several ranks of a node that share memory, run one after the other."""

    def __init__(self, rank: int, size: int, memory: np.ndarray) -> None:
        super().__init__()
        self.node_rank, self.node_size, self.memory = rank, size, memory

    def shared_array(self, n, dtype=np.float32):
        assert self.memory.shape == (n,) and self.memory.dtype == dtype
        return self.memory


@pytest.mark.parametrize("n", [1, 3, 4, 4097, 10_001])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_node_shared_sum_equals_the_plain_one_to_the_bit(n, size):
    coefs = np.array([0.3, 0.0, -1.7, 1e-6], np.float32)
    table = streams(9, np.array([4, 4, 2, 0]), 4)
    plain = np.zeros(n, np.float32)
    sum_normals(plain, 0, coefs, table, rng.PERTURB)
    memory = np.full(n, np.nan, np.float32)
    for r in range(size):
        node = NodeSum(NodeRank(r, size, memory), n)
        assert node.lo % 4 == 0 or node.lo == n
        got = node.rebuild(lambda out, start: sum_normals(out, start, coefs, table, rng.PERTURB))
    np.testing.assert_array_equal(got, plain)
    rows = np.stack([rng.normals(n, address, rng.PERTURB) for address in table])
    by_rows = np.zeros(n, np.float32)
    sum_rows(by_rows, coefs, rows)
    np.testing.assert_array_equal(by_rows, plain)


def test_perturbed_is_symmetric():
    theta = np.linspace(-3, 3, 11, dtype=np.float32)
    plus, minus = perturbed(theta, 0.25, rng.stream(1, 2, 3))
    z = z_of(1, 2, 3, 11)
    assert plus.dtype == np.float32
    np.testing.assert_array_equal(plus, theta + np.float32(0.25) * z)
    np.testing.assert_array_equal(minus, theta - np.float32(0.25) * z)


def test_work_is_shared_out_by_cost():
    assert share_out([7, 6, 5, 4, 3, 2], [0, 0]) == [0, 1, 1, 0, 0, 1]
    assert share_out([1, 1, 1], [5, 0, 1.5]) == [1, 1, 2]
    cost = 10.0 ** rng.uniforms(200, rng.stream(0), rng.TASK) ** 3  # 1 to 10, most of them small
    cost[:3] = 1000 * cost[3:6]
    for ranks in (2, 5, 300):
        loads = np.bincount(share_out(cost.tolist(), [0.0] * ranks), cost, ranks)
        assert loads.max() <= (4 / 3) * max(cost.sum() / ranks, cost.max())  # Graham 1969


def test_pairs_stay_with_their_rank_for_an_episode():
    """Of three ranks one is asked; episodes of other pairs do not move a pair in mid-episode."""

    class OneOfThree(SerialComm):
        size, rank = 3, 1

    cfg = settings(estimator="nres", pairs=20, truncation=2)
    estimator = make_estimator(cfg, Drift(3, 2), OneOfThree(), 0)
    theta = np.zeros(3, np.float32)
    state, moved = estimator.init(theta), 0
    for t in range(8):
        before, going = state.owner.copy(), state.t > 0
        estimator._begin_episodes(state, t)
        np.testing.assert_array_equal(before[going], state.owner[going])
        moved += int((before[~going] != state.owner[~going]).sum())
        state.t = np.minimum(state.t + 2, state.end) % state.end
    assert moved > 0
    assert set(state.owner.tolist()) == {0, 1, 2}


# Shaping


def test_raw_and_sign():
    slopes, groups = np.array([2.0, -3.0, np.nan, 0.0]), np.zeros(4, int)
    assert Shaping("raw").apply(slopes, groups, Shaping().init())[0].tolist() == [2, -3, 0, 0]
    assert Shaping("sign").apply(slopes, groups, Shaping().init())[0].tolist() == [1, -1, 0, 0]


@pytest.mark.parametrize("scale", SCALES)
def test_normalised_slopes_have_unit_rms_in_each_group(scale):
    slopes, groups = np.array([3.0, 4.0, -1.0, np.nan, 5.0]), np.array([0, 0, 2, 2, 4])
    shaped, state = Shaping("normalised").apply(scale * slopes, groups, Shaping().init())
    rms = math.sqrt(12.5)
    np.testing.assert_allclose(shaped, [3 / rms, 4 / rms, -1, 0, 1], rtol=1e-12)
    np.testing.assert_allclose(state.mean_square / scale**2, [12.5, 0, 1, 0, 25], rtol=1e-12)
    assert state.count.tolist() == [1, 0, 1, 0, 1]


def test_running_rms_is_the_bias_corrected_average():
    shaping = Shaping("normalised")
    values, state = [2.0, 5.0, 1.0, 0.5], shaping.init()
    for k, value in enumerate(values):
        shaped, state = shaping.apply(np.array([value]), np.array([0]), state)
        weights = DECAY ** np.arange(k, -1, -1)
        mean_square = (weights * np.square(values[: k + 1])).sum() / weights.sum()
        assert shaped[0] == pytest.approx(value / math.sqrt(mean_square), rel=1e-12)
    lost, after = shaping.apply(np.array([np.nan]), np.array([0]), state)
    assert lost[0] == 0
    np.testing.assert_array_equal(after.mean_square, state.mean_square)
    np.testing.assert_array_equal(after.count, state.count)


def test_normalised_zeros_stay_zero():
    shaped, _ = Shaping("normalised").apply(np.zeros(3), np.zeros(3, int), Shaping().init())
    assert shaped.tolist() == [0, 0, 0]


def test_clipped_bounds_what_one_pair_can_do():
    slopes = np.ones(50)
    slopes[7] = -1000.0
    shaped, state = Shaping("clipped").apply(slopes, np.zeros(50, int), Shaping().init())
    assert shaped[7] == -CLIP * math.sqrt(state.mean_square[0])
    assert (np.delete(shaped, 7) == 1).all()


def test_normalised_linear_estimates_the_unit_gradient():
    g = 50.0 * np.array([3.0, 0.0, -4.0])
    problem = Plain(lambda th: g @ th, 3)
    grad = one_step(problem, np.zeros(3), pairs=10_000, difference="normalised").grad
    np.testing.assert_allclose(grad, g / 250.0, atol=5 * 2 / 100)


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
