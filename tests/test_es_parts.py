"""What estimators are made of: exchange, rank counts, resume, node-shared sums, owners, shaping."""

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.es_problems import (
    Drift,
    Plain,
    all_estimators,
    launch,
    one_step,
    run_drift,
    settings,
    z_of,
)
from helpers.node_ranks import NodeRank

from lopt import rng
from lopt.comm import SerialComm
from lopt.es import ESTIMATORS, Shaping, make_estimator
from lopt.es.pairs import share_out
from lopt.es.perturbation import NodeSum, perturbed, streams, sum_normals, sum_rows
from lopt.es.shaping import CLIP, DECAY

SCALES = (1e-6, 1.0, 1e3)


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
        launch(int(ranks[0]), str(folders[ranks]), *before)
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
    z = z_of(1, 2, 3, 11)
    plus, minus = perturbed(theta, 0.25, z)
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
