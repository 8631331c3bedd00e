"""Black-box search: closed forms, the same bits on any ranks and after a kill, faults, bounds, refusals."""

import functools
import json
import math
import textwrap
import tracemalloc
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import scipy.optimize
from helpers.mpi import launch, start

import lopt
from lopt import store
from lopt.comm import SerialComm
from lopt.errors import StoreError, UsageError
from lopt.es import STRATEGIES, Fitness, minimize, strategy
from lopt.es.coordinates import Coordinates
from lopt.es.fitness import CLIP, RULES, centred_ranks
from lopt.es.perturbation import NodeSum


def sphere(x: np.ndarray) -> float:
    return float(x @ x) / 2


quick = functools.partial(minimize, pairs=8, steps=5)


# Closed forms


def one_step(f: Any, dims: int, pairs: int, seeds: int, rate: float, **options: Any) -> np.ndarray:
    """Answers after one step of plain gradient descent from ones, (seeds, D)."""
    settings = {"shaping": "raw", "optimizer": "sgd", "learning_rate": rate, **options}
    run = functools.partial(minimize, f, np.ones(dims), steps=1, pairs=pairs, **settings)
    return np.stack([run(seed=s).x_last for s in range(seeds)])


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_the_mean_step_on_a_linear_loss_is_the_gradient(size: float) -> None:
    """5 coordinates, 4 standard errors: a false alarm once in 3,000 runs; ranks fail it, they forget the size."""
    g = size * np.array([3.0, -1.0, 0.5, 0.0, 2.0])
    pairs, seeds = 4, 300

    def gradients(shaping: str) -> np.ndarray:
        rate = 1e-3 / size  # x moves by float32 steps around x0 = 1
        x = one_step(lambda x: float(g @ x), 5, pairs, seeds, rate, shaping=shaping)
        return (1 - x) / rate

    estimate = gradients("raw")
    error = np.abs(estimate.mean(axis=0) - g) / (estimate.std(axis=0) / math.sqrt(seeds))
    assert error.max() < 4
    # total variance (D + 1) |g|^2 / P
    variance = estimate.var(axis=0).sum() / ((5 + 1) * (g @ g) / pairs)
    assert variance == pytest.approx(1, abs=0.25)
    ranked = gradients("ranks")
    error = np.abs(ranked.mean(axis=0) - g) / (ranked.std(axis=0) / math.sqrt(seeds) + 1e-300)
    assert error.max() > 8


def test_the_mean_decrease_on_the_sphere_is_the_closed_form() -> None:
    """E |x'|^2 / |x|^2 = 1 - 2 a + a^2 (1 + (D + 1) / P); without the variance's part it is rejected."""
    dims, pairs, rate, seeds = 6, 3, 0.3, 400
    x = one_step(sphere, dims, pairs, seeds, rate)
    ratio = np.square(x).sum(axis=1) / dims
    error = ratio.std() / math.sqrt(seeds)
    assert abs(ratio.mean() - (1 - 2 * rate + rate**2 * (1 + (dims + 1) / pairs))) < 4 * error
    assert abs(ratio.mean() - (1 - rate) ** 2) > 8 * error


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("x0", [0.0, 1e6])
def test_scale_and_distance_from_zero_do_not_matter(scale: float, x0: float) -> None:
    """The same search in other units; x has about 16 digits, of which x0 takes its share."""
    lost_digits = 2.0**-52 * max(1.0, x0 / scale) * 10

    def f(x: np.ndarray) -> float:
        return sphere((x - x0) / scale - 1)

    kind = {"pairs": 8, "steps": 60, "shaping": "raw", "learning_rate": 0.1, "seed": 3}
    found = minimize(f, np.full(4, x0), scale=scale, **kind)
    plain = minimize(lambda x: sphere(x - 1), np.zeros(4), **kind)
    assert np.allclose((found.x - x0) / scale, plain.x, rtol=0, atol=1e-5 + 100 * lost_digits)
    assert plain.fun < 0.01 * sphere(np.ones(4))


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_one_pair_and_one_coordinate_are_enough(dims: int, rule: str) -> None:
    kind = {"pairs": 1, "steps": 200, "shaping": rule, "optimizer": "sgd"}
    rate = 0.3 if rule in ("raw", "clip") else 0.02
    found = minimize(lambda x: sphere(x - 1), np.zeros(dims), learning_rate=rate, **kind)
    assert found.fun < 0.02


def test_memory_does_not_grow_with_pairs() -> None:
    dims, peaks = 50_000, []
    minimize(sphere, np.ones(8), pairs=1, steps=1)  # compiles
    for pairs in (2, 64):
        tracemalloc.start()
        minimize(lambda x: float(x[0]), np.ones(dims), pairs=pairs, steps=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4 * dims  # one of the 62 more perturbations would be as large
    assert peaks[0] < 40 * 4 * dims


# Shaping


def test_centred_ranks_share_ties_and_ignore_monotone_changes() -> None:
    f = np.array([5.0, -1.0, 5.0, 2.0, 9.0])
    assert centred_ranks(f).tolist() == [0.125, -0.5, 0.125, -0.25, 0.5]
    assert centred_ranks(np.exp(f)).tolist() == centred_ranks(f).tolist()
    assert centred_ranks(np.ones(4)).tolist() == [0.0] * 4
    assert centred_ranks(np.ones(1)).tolist() == [0.0]


def test_weights_of_pairs() -> None:
    nan, sigma = math.nan, 0.5
    losses = np.array([[3.0, 1.0], [nan, 100.0], [0.0, 2.0], [7.0, 6.0]])
    weights = {rule: Fitness(rule).pairs(losses, sigma).tolist() for rule in RULES}
    assert weights["raw"] == [2.0, 0.0, -2.0, 1.0]
    assert weights["sign"] == [1.0, 0.0, -1.0, 1.0]
    assert weights["clip"] == weights["raw"]  # nothing is beyond 3 root mean squares
    assert np.allclose(weights["ranks"], [0.2, 0, -0.2, 0.1])  # ranks 3 1 0 2 5 4 over 5
    spread = np.std([3, 1, 0, 2, 7, 6])
    assert np.allclose(weights["standardise"], np.array([1, 0, -1, 0.5]) / spread)
    far = np.zeros((20, 2))
    far[:, 0], far[3, 0] = 2.0, 2000.0
    bound = CLIP * np.sqrt((19 * 1.0 + 1e6) / 20)
    assert Fitness("clip").pairs(far, 1.0)[3] == pytest.approx(bound)
    huge = np.array([[1e200, -1e200], [0.0, 1.0]])
    assert np.isfinite(Fitness("standardise").pairs(huge, 0.1)).all()


def test_weights_of_points() -> None:
    losses = np.array([1.0, math.nan, 3.0, 5.0])
    assert Fitness("raw").points(losses, 0.5).tolist() == [-4.0, 0.0, 0.0, 4.0]
    assert Fitness("ranks").points(losses).tolist() == [-0.5, 0.0, 0.0, 0.5]
    assert Fitness("sign").points(losses).tolist() == [-1.0, 0.0, 0.0, 1.0]
    for rule in RULES:
        assert Fitness(rule).points(np.full(3, math.nan)).tolist() == [0.0] * 3
        assert Fitness(rule).pairs(np.full((2, 2), math.nan), 0.1).tolist() == [0.0] * 2
        assert abs(Fitness(rule).points(np.array([2.0, 2.0])).sum()) == 0


def test_weight_decay_pulls_to_the_start_and_the_average_is_the_answer() -> None:
    """f = 0: what moves the centre is the decay alone, x <- (1 - a c) x."""
    strat = strategy("antithetic", pairs=1, optimizer="sgd", learning_rate=0.5, weight_decay=0.4)
    node = NodeSum(SerialComm(), 3)
    state = strat.init(3, 0)
    state = strat.load({**strat.arrays(state), "centre": np.full(3, 2, np.float32)})
    state = strat.tell(state, np.zeros(2), node)
    assert np.allclose(state.theta, 0.8 * 2)
    averaged = strategy("antithetic", pairs=1, optimizer="sgd", learning_rate=1.0, ema=0.5)
    first = averaged.tell(averaged.init(1, 0), np.array([1.0, 0.0]), NodeSum(SerialComm(), 1))
    second = averaged.tell(first, np.array([1.0, 0.0]), NodeSum(SerialComm(), 1))
    assert first.theta == first.centre
    assert second.theta == pytest.approx((0.5 * first.centre + second.centre) / 1.5, rel=1e-6)


def test_learning_rate_warms_up_and_decays() -> None:
    strat = strategy("antithetic", learning_rate=0.1, warmup=2, decay_steps=5, final_fraction=0.1)
    state = strat.init(1, 0)
    rates = []
    for _ in range(6):
        rates.append(strat.learning_rate_of(state))
        state = strat.tell(state, np.zeros(64), NodeSum(SerialComm(), 1))
    assert np.allclose(rates, [0.05, 0.1, 0.1, 0.055, 0.01, 0.01])


# The same bits on any number of ranks, after a kill, batched or not

SCRIPT = textwrap.dedent(
    """
    import json, os, signal, sys
    import numpy as np
    import lopt

    def f(x):
        if x[0] > 1.1:
            raise ValueError("too far")
        return float(((x - 1) ** 2).sum() + 0.1 * np.cos(9 * x).sum())

    comm = lopt.comm.get_comm()

    def search(dims, kill_at=None, **options):
        def callback(result):
            if result.nit == kill_at and comm.rank == comm.size - 1:
                os.kill(os.getpid(), signal.SIGKILL)

        result = lopt.es.minimize(f, np.zeros(dims), comm=comm, callback=callback, **options)
        found = result.x.tobytes().hex(), result.x_last.tobytes().hex(), result.fun, result.nfev
        return [*found, result.lost, result.bytes_sent]

    found = [search(**options) for options in json.loads(sys.argv[1])]
    if comm.rank == 0:
        print(json.dumps(found))
    """
)


def script(ranks: int, *searches: dict[str, Any]) -> list[Any]:
    """What searches one after the other come to on some ranks."""
    done = launch(ranks, ["-c", SCRIPT, json.dumps(searches)], timeout=120)
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.mpi
def test_any_number_of_ranks_gives_the_same_bits() -> None:
    """Several searches in a process; the third has fewer points than ranks, and one coordinate."""
    searches = (
        {"dims": 6, "pairs": 3, "steps": 40, "sigma": 0.3, "seed": 5},
        {"dims": 6, "pairs": 5, "steps": 4, "sigma": 0.3, "bounds": [[-1, 2]] * 6},
        {"dims": 1, "pairs": 1, "steps": 20, "optimizer": "sgd", "learning_rate": 0.02},
    )
    alone = script(1, *searches)
    assert alone[0][4]["raised an exception"] > 0  # lost points too
    assert script(2, *searches) == alone
    assert script(4, *searches) == alone


@pytest.mark.mpi
def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Killed twice, on 1 and on 2 ranks, resumed on 2 and on 1."""
    options = {"dims": 4, "pairs": 3, "steps": 30, "save_seconds": 0.0}
    (whole,) = script(1, {**options, "out": str(tmp_path / "whole")})
    parts = {**options, "out": str(tmp_path / "parts")}
    for ranks, kill_at, resume in ((1, 7, False), (2, 18, True)):
        arguments = json.dumps([{**parts, "kill_at": kill_at, "resume": resume}])
        process = start(ranks, ["-c", SCRIPT, arguments])
        process.communicate(timeout=120)
        assert process.returncode != 0
    (done,) = script(1, {**parts, "resume": True})
    assert done[:5] == whole[:5]
    ends = [store.SearchReader(tmp_path / name / "search.h5") for name in ("whole", "parts")]
    for name in ("step", "evaluations", "mean", "lowest", "best", "lost", "moved"):
        assert ends[0][name].tobytes() == ends[1][name].tobytes()
    assert ends[1].x.tobytes() == ends[0].x.tobytes()
    assert (ends[1].rows, ends[1].state) == (30, "finished")
    assert [p["ranks"] for p in ends[1].provenance] == [1, 2, 1]


def test_interrupted_between_steps_it_goes_on_with_other_limits(tmp_path: Path) -> None:
    kind = {"pairs": 3, "out": tmp_path, "save_seconds": math.inf}
    for k, steps in enumerate((4, 4, 9)):
        found = minimize(sphere, np.ones(3), steps=steps, resume=k > 0, **kind)
    whole = minimize(sphere, np.ones(3), steps=9, pairs=3)
    assert found.x.tobytes() == whole.x.tobytes()
    assert (found.nit, found.nfev, found.fun) == (whole.nit, whole.nfev, whole.fun)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_searches_and_is_interrupted_without_a_trace(
    name: str, tmp_path: Path
) -> None:
    run = functools.partial(minimize, lambda x: sphere(x - 1), np.zeros(4), strategy=name, seed=3)
    whole = run(steps=12, bounds=[(-1, 3)] * 4)
    for steps, resume in ((5, False), (12, True)):
        part = run(steps=steps, bounds=[(-1, 3)] * 4, out=tmp_path, resume=resume)
    assert (part.x.tobytes(), part.fun, part.nfev) == (whole.x.tobytes(), whole.fun, whole.nfev)
    assert whole.fun < sphere(np.ones(4))


def test_eight_bytes_an_evaluation() -> None:
    comm = SerialComm()
    found = minimize(sphere, np.ones(3), pairs=4, steps=6, comm=comm)
    assert found.nfev == 2 + 6 * 8 + 1
    assert found.bytes_sent == comm.sent["scalars"] == 8 * found.nfev
    assert comm.sent["control"] == 0


def test_batches_numba_and_plain_python_agree() -> None:
    @numba.njit
    def compiled(x):
        total = 0.0
        for i in range(x.size):
            total += (x[i] - 1) ** 2
        return total

    def rows(block: np.ndarray) -> np.ndarray:
        sizes.append(len(block))
        return np.array([compiled(x) for x in block])

    sizes: list[int] = []
    one = quick(compiled, np.zeros(3))
    block = quick(rows, np.zeros(3), batched=7)
    assert block.x.tobytes() == one.x.tobytes()
    assert sizes == [1, 1, *[7, 7, 2] * 5, 1]
    assert quick(lambda x: sphere(x - 1) * 2, np.zeros(3)).fun == pytest.approx(one.fun)


# Faults


def faulty(what: Any, threshold: float) -> Any:
    """The sphere around 1, but for x[0] above a threshold."""

    def f(x: np.ndarray) -> Any:
        if x[0] > threshold:
            return what() if callable(what) else what
        return sphere(x - 1)

    return f


def _raise() -> None:
    raise RuntimeError("no mesh")


FAULTS = {
    "raised an exception": _raise,
    "not finite": math.nan,
    "not a real number": np.zeros(2),
}


@pytest.mark.parametrize("policy", ["drop", "penalise", "retry"])
@pytest.mark.parametrize("reason", FAULTS)
def test_a_lost_point_is_counted_by_reason(reason: str, policy: str) -> None:
    found = quick(faulty(FAULTS[reason], 0.15), np.zeros(3), fault=policy, learning_rate=0.01)
    assert found.lost.pop(reason) > 0
    assert set(found.lost.values()) == {0}
    assert found.success and np.isfinite(found.fun)


@pytest.mark.parametrize(
    "value", [None, "0.5", 1j, math.inf, -math.inf, np.zeros((1, 2)), np.array(1j), [], 10**400]
)
def test_what_is_no_finite_real_number_is_lost(value: Any) -> None:
    found = quick(faulty(value, 0.15), np.zeros(3), learning_rate=0.01)
    assert sum(found.lost.values()) > 0


@pytest.mark.parametrize("value", [2, True, np.float32(2), np.array(2), np.array([[2.0]])])
def test_real_numbers_of_any_kind_are_losses(value: Any) -> None:
    found = quick(lambda x: value, np.zeros(3))
    assert found.fun == float(np.asarray(value).item())
    assert sum(found.lost.values()) == 0


def test_dropped_pairs_do_not_count_and_penalised_points_are_the_worst() -> None:
    """One pair of which one member is lost: no movement; penalised: away from it."""
    seen: list[np.ndarray] = []

    def f(x: np.ndarray) -> float:
        seen.append(x)
        return math.nan if len(seen) == 3 else 0.0 if len(seen) < 3 else -1.0

    kind = {"pairs": 1, "steps": 1, "optimizer": "sgd", "learning_rate": 1.0, "noisy": True}
    assert (minimize(f, np.zeros(2), **kind).x == 0).all()
    kind["pairs"] = 2
    losses = iter([0.0, 0.0, math.nan, 1.0, 2.0, 3.0, 0.0])
    points: list[np.ndarray] = []

    def g(x: np.ndarray) -> float:
        points.append(x)
        return next(losses)

    found = minimize(g, np.zeros(2), fault="penalise", **kind)
    first, third = points[2] / 0.1, points[4] / 0.1
    # losses 3 (worst), 1, 2, 3: ranks 2.5, 0, 1, 2.5 of 3; weights (u+ - u-) / 2
    step = (2.5 / 6) * first + (-1.5 / 6) * third
    assert np.allclose(found.x, -step / 2, rtol=1e-4)


def test_a_point_is_tried_again_only_with_retry() -> None:
    calls: dict[bytes, int] = {}

    def flaky(x: np.ndarray) -> float:
        calls[x.tobytes()] = calls.get(x.tobytes(), 0) + 1
        if calls[x.tobytes()] == 1 and x[0] > 0:
            raise OSError("try again")
        return sphere(x)

    found = quick(flaky, -np.full(2, 0.01), fault="retry", learning_rate=0.001)
    assert sum(found.lost.values()) == 0
    calls.clear()
    found = quick(flaky, -np.full(2, 0.01), fault="drop", learning_rate=0.001)
    assert found.lost["raised an exception"] > 0


def test_retried_batches_lose_only_the_bad_row() -> None:
    def f(block: np.ndarray) -> np.ndarray:
        if (block[:, 0] > 0.15).any():
            raise ValueError("bad row")
        return np.square(block - 1).sum(axis=1)

    kind = {"pairs": 16, "steps": 1, "learning_rate": 0.01}
    retried = minimize(f, np.zeros(2), batched=8, fault="retry", **kind)
    assert 0 < sum(retried.lost.values()) < 8
    single = minimize(lambda x: f(x[None])[0], np.zeros(2), **kind)
    assert retried.lost == single.lost
    wrong = faulty(0.0, math.inf)
    with pytest.raises(UsageError, match=r"float .* for 1 points, valid: real \(1,\)"):
        quick(lambda block: wrong(block[0]), np.zeros(2), batched=True)


def test_more_than_half_lost_ends_the_search_with_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="step 0 lost 16 of 16: 16 raised .*no mesh"):
        found = quick(lambda x: _raise() if x.any() else 1.0, np.zeros(3))
    assert not found.success
    assert (found.x == 0).all() and found.fun == 1.0 and found.nit == 0
    # exactly half is not more than half
    half = quick(lambda x: _raise() if x[0] > 0 else 1.0, np.zeros(3))
    assert half.success and half.nit == 5


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: None, "f returned NoneType None, valid: a real number"),
        (lambda x: x, "f returned an array of float64 \\(3,\\)"),
        (lambda x: 1j, "f returned complex 1j"),
        (lambda x: math.nan, "f returned nan"),
        (lambda x: _raise(), "RuntimeError: no mesh"),
        (3, "the objective is int, valid: a callable"),
    ],
)
def test_an_objective_that_never_works_is_refused_at_the_start(f: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quick(f, np.ones(3))


def test_an_objective_that_changes_between_calls_is_refused_unless_said_to_be_noisy() -> None:
    chance = np.random.default_rng(0)

    def noisy(x: np.ndarray) -> float:
        return sphere(x - 1) + 1e-9 * chance.normal()

    with pytest.raises(UsageError, match="noisy=True"):
        quick(noisy, np.zeros(3))
    found = minimize(noisy, np.zeros(3), pairs=8, steps=80, noisy=True)
    assert found.x.tobytes() == found.x_last.tobytes()  # no lucky draw is the answer
    assert found.fun < 0.05


@pytest.mark.mpi
def test_an_objective_that_depends_on_the_rank_or_on_earlier_calls_is_refused() -> None:
    code = textwrap.dedent(
        """
        import numpy as np, lopt
        comm, chance = lopt.comm.get_comm(), np.random.default_rng(0)
        for f in (lambda x: comm.rank, lambda x: chance.normal(), lambda x: 0):
            try:
                lopt.es.minimize(f, np.zeros(2), pairs=2, steps=1, comm=comm)
            except lopt.errors.UsageError as error:
                print("refused" if "when asked again" in str(error) else error, flush=True)
        """
    )
    done = launch(2, ["-c", code], timeout=60)
    assert (done.code, done.out.count("refused")) == (0, 4), done.err


def test_keyed_noise_is_common_to_a_step() -> None:
    keys: list[int] = []

    def f(x: np.ndarray, key: int) -> float:
        keys.append(key)
        return sphere(x - 1) + 100 * math.sin(key)

    found = minimize(f, np.zeros(3), pairs=4, steps=60, keyed=True)
    assert keys == [0, 0] + [1 + k // 8 for k in range(480)] + [61]
    assert sphere(found.x - 1) < 0.05


# Bounds, integers, limits


def test_coordinates_mirror_at_the_bounds() -> None:
    """Bounds 0 and 2, scale 1, margin 0.25: plateaus of that width, then back."""
    map_ = Coordinates([1.0], 1.0, [(0, 2)], margin=0.25)
    theta = np.array([[0.0], [0.75], [1.0], [1.25], [1.5], [2.0], [3.5], [-1.1], [6.0]], np.float32)
    wanted = [1.0, 1.75, 2.0, 2.0, 2.0, 1.5, 0.0, 0.0, 2.0]
    # 2.5 -> 1.5 (mirrored from 2.25: 2 * 2.25 - 3 = 1.5); 4.5 -> 0.0; period 5
    assert map_.x(theta)[:, 0].tolist() == pytest.approx(wanted)
    below = Coordinates([3.0], 2.0, [(1, None)], margin=0.1).x(np.array([[-1.1], [-2.0]], "f4"))
    assert below[:, 0].tolist() == pytest.approx([1.0, 2 * 0.8 + 1.0])
    above = Coordinates([3.0], 2.0, [(None, 4)], margin=0.0).x(np.array([[1.0]], "f4"))
    assert above[0, 0] == 3.0
    assert Coordinates([0.1, 1e6], None, [(0, 1), (None, None)]).scale.tolist() == [1.0, 1.0]
    x0 = np.array([0.1, 1e6, 1 / 3])
    assert Coordinates(x0, 1e-3, [(0, 1), (0, 1e7), (None, None)]).x(
        np.zeros(3, "f4")
    ).tolist() == [*x0]


@pytest.mark.parametrize("start", [0.0, 0.2, 0.5])
def test_an_optimum_at_or_beyond_a_bound_is_found_from_a_bound_too(start: float) -> None:
    bounds = scipy.optimize.Bounds(0, [0.5, 0.5, 2.0])
    seen: list[np.ndarray] = []

    def f(x: np.ndarray) -> float:
        seen.append(x)
        return sphere(x - 1)

    found = minimize(f, np.full(3, start), bounds=bounds, pairs=8, steps=80)
    assert np.allclose(found.x, [0.5, 0.5, 1.0], atol=0.05)
    assert (np.min(seen, axis=0) >= 0).all() and (np.max(seen, axis=0) <= [0.5, 0.5, 2]).all()


def test_integers_are_integers_and_found() -> None:
    best = np.array([7.0, -3.0, 0.25])

    def f(x: np.ndarray) -> float:
        assert (x[:2] == np.rint(x[:2])).all() and 0 <= x[0] <= 9
        return float(np.abs(x - best).sum())

    bounds = [(0, 9), (None, None), (None, None)]
    found = minimize(f, [2, 0, 0.0], integers=[0, 1], bounds=bounds, pairs=16, steps=150)
    assert found.x[:2].tolist() == [7.0, -3.0]
    assert abs(found.x[2] - 0.25) < 0.1
    assert Coordinates([1, 0], None, [(0, 1), (0, 20)], [True, True]).scale.tolist() == [5, 20]
    cells = Coordinates([1], 1.0, [(0, 2)], [0]).x(
        np.linspace(-1.499, 1.499, 3000, dtype="f4")[:, None]
    )
    assert np.bincount(cells[:, 0].astype(int)).tolist() == pytest.approx([1000] * 3, abs=2)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "outside": (
        {"bounds": [(0, 1), (2, 3)]},
        "x0\\[1\\] = 1 is out of its bounds; nearest valid: 2",
    ),
    "short": ({"bounds": [(0, 1)]}, "bounds of 1 entries, valid: 2 pairs"),
    "crossed": ({"bounds": [(0, 1), (3, 0)]}, "bounds\\[1\\] = \\(3.0, 0.0\\)"),
    "none between": ({"bounds": [(0, 1), (0.2, 0.8)], "integers": [1]}, "no integer between"),
    "index": ({"integers": [2]}, "no coordinate 2, valid: 0 to 1"),
    "scale": ({"scale": [1, 0]}, "finite numbers above 0"),
    "scales": ({"scale": [1, 2, 3]}, "scale has shape \\(3,\\)"),
    "name": ({"strategy": "antithetik"}, "did you mean 'antithetic'"),
    "option": ({"sigmas": 1}, "did you mean 'sigma'"),
    "rule": ({"shaping": "rank"}, "did you mean 'ranks'"),
    "optimizer": ({"optimizer": "adm"}, "did you mean 'adam'"),
    "pairs": ({"pairs": 0}, "pairs = 0 is not valid: at least 1"),
    "sigma": ({"sigma": -1.0}, "sigma = -1.0"),
    "fault": ({"fault": "dorp"}, "did you mean 'drop'"),
    "steps": ({"steps": -1}, "steps = -1 is not valid: at least 0"),
    "evaluations": ({"max_evaluations": 2}, "at least 3"),
    "seed": ({"seed": -1}, "seed = -1"),
    "resume": ({"resume": True}, "without out"),
    "made": ({"strategy": strategy("antithetic"), "pairs": 3}, "pairs: settings of a strategy"),
    "class": ({"strategy": 3}, "strategy is int, valid: a name or a Strategy"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_out_of_range_are_refused_by_name(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        minimize(sphere, np.ones(2), **options)


@pytest.mark.parametrize("x0", [[], [[1.0]], "x", [1j], [math.inf], None])
def test_a_start_that_is_no_point_is_refused(x0: Any) -> None:
    with pytest.raises(UsageError, match="x0"):
        minimize(sphere, x0)


def test_limits() -> None:
    assert quick(sphere, np.ones(2), steps=0).nfev == 3
    found = quick(sphere, np.ones(2), steps=None, max_evaluations=50)
    assert (found.nfev, found.nit, found.message) == (35, 2, "the evaluations were used up")
    reached = quick(sphere, np.ones(2), steps=500, target=0.1)
    assert reached.success and reached.fun <= 0.1 and 5 < reached.nit < 100
    missed = quick(sphere, np.ones(2), target=-1.0)
    assert not missed.success and missed.nit == 5
    late = quick(sphere, np.ones(2), steps=None, minutes=0.0)
    assert (late.nit, late.message) == (1, "the minutes were used up")


def test_a_callback_can_end_the_search() -> None:
    seen: list[tuple[int, int, float]] = []

    def note(result: Any) -> bool:
        seen.append((result.nit, result.nfev, result.fun))
        return result.nit == 3

    found = quick(lambda x: sphere(x - 1), np.zeros(2), callback=note)
    assert [s[:2] for s in seen] == [(1, 18), (2, 34), (3, 50)]
    assert seen[0][2] >= seen[1][2] >= seen[2][2] >= found.fun

    def stop(result: Any) -> None:
        raise StopIteration

    assert quick(sphere, np.ones(2), callback=stop).nit == 1


# SciPy


def test_as_a_method_of_scipy() -> None:
    def f(x: np.ndarray, centre: float, factor: float) -> float:
        return factor * sphere(x - centre)

    seen: list[Any] = []

    def callback(intermediate_result: Any) -> None:
        seen.append(intermediate_result.nit)

    call = functools.partial(scipy.optimize.minimize, method=lopt.es.scipy_method)
    options = {"pairs": 8, "maxiter": 60, "seed": 2}
    found = call(
        f, np.zeros(3), (1.0, 4.0), options=options, bounds=[(0, 3)] * 3, callback=callback
    )
    same = minimize(
        lambda x: f(x, 1, 4), np.zeros(3), bounds=[(0, 3)] * 3, pairs=8, steps=60, seed=2
    )
    assert found.x.tobytes() == same.x.tobytes() and found.success
    assert seen == list(range(1, 61))
    points: list[np.ndarray] = []
    call(sphere, np.ones(2), options={"maxfev": 90, "pairs": 32}, callback=points.append)
    assert [p.shape for p in points] == [(2,)]
    with pytest.warns(RuntimeWarning, match="uses no derivatives"):
        call(sphere, np.ones(2), jac=lambda x: x, options={"maxiter": 1})
    with pytest.raises(UsageError, match="no constraints"):
        call(sphere, np.ones(2), constraints={"type": "eq", "fun": sphere})


# Files


def test_the_file_holds_the_search_and_can_be_drawn(tmp_path: Path) -> None:
    from lopt.plots import draw_all

    found = minimize(sphere, np.ones(3), pairs=4, steps=12, out=tmp_path, scale=2.0)
    search = store.SearchReader(tmp_path / "search.h5")
    assert search["step"].tolist() == list(range(1, 13))
    assert search["evaluations"].tolist() == [2 + 8 * k for k in range(1, 13)]
    assert search["best"][-1] == search["best"].min() <= search["lowest"].min()
    assert search["best"][-1] == sphere(search.best_x)
    assert search.x.tobytes() == found.x_last.tobytes()
    assert search.settings["options"]["pairs"] == 4 and search.settings["strategy"] == "antithetic"
    assert {p.suffix for p in draw_all(tmp_path / "search.h5", tmp_path)} == {".png", ".pdf"}


def test_a_search_is_not_overwritten_and_not_resumed_as_another_one(tmp_path: Path) -> None:
    run = functools.partial(quick, out=tmp_path)
    run(sphere, np.ones(3))
    with pytest.raises(StoreError, match="exists already"):
        run(sphere, np.ones(3))
    again = functools.partial(run, resume=True)
    with pytest.raises(UsageError, match="resuming with seed = 1, the search began with 0"):
        again(sphere, np.ones(3), seed=1)
    with pytest.raises(UsageError, match="resuming with x0"):
        again(sphere, np.zeros(3))
    with pytest.raises(UsageError, match="resuming with options"):
        again(sphere, np.ones(3), sigma=0.2)
    with pytest.raises(UsageError, match="resume with the same objective"):
        again(lambda x: 2 * sphere(x), np.ones(3))
    with pytest.raises(StoreError, match="no sound checkpoint"):
        quick(sphere, np.ones(3), out=tmp_path / "other", resume=True)


def test_a_full_disk_or_a_recorder_of_ones_own(tmp_path: Path) -> None:
    """Anything with the methods of a recorder will do."""

    class Memory:
        def __init__(self) -> None:
            self.rows: list[Any] = []
            self.states: list[str] = []
            self.last: Any = None

        def saved(self) -> Any:
            return self.last

        def append(self, row: Any) -> None:
            self.rows.append(row)

        def save(self, snapshot: Any, x: np.ndarray, best_x: np.ndarray, state: str) -> None:
            self.last, self.states = snapshot, [*self.states, state]

    memory = Memory()
    quick(sphere, np.ones(3), out=memory)
    found = quick(sphere, np.ones(3), steps=9, out=memory)
    assert len(memory.rows) == 9 and memory.states == ["running", "finished", "finished"]
    assert found.x.tobytes() == quick(sphere, np.ones(3), steps=9).x.tobytes()


# The strategy where none is named


@pytest.mark.parametrize(
    ("n", "options", "name"),
    [
        (1, {}, "cma"),
        (99, {"sigma": 0.5}, "cma"),
        (100, {"population": 8}, "sep_cma"),
        (3, {"pairs": 8}, "antithetic"),
        (100, {"pairs": 8, "sigma": 0.1}, "antithetic"),
        (3, {"noisy": True}, "antithetic"),
        (3, {"keyed": True}, "antithetic"),
    ],
)
def test_usual_strategy(n, options, name, tmp_path):
    """What is searched with where no name is given."""
    f = (lambda x, key: sphere(x)) if "keyed" in options else sphere
    minimize(f, np.ones(n), steps=1, out=tmp_path, **options)
    assert store.SearchReader(tmp_path / "search.h5").settings["strategy"] == name


def test_a_setting_of_no_strategy_is_refused():
    with pytest.raises(UsageError, match="pairs"):
        minimize(sphere, np.ones(3), pair=8)
