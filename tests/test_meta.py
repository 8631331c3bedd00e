"""The meta-problem: normalisation, what a window's loss is, and what follows from an episode's address."""

import math

import numpy as np
import pytest

import lopt
from lopt import rng
from lopt.comm import SerialComm
from lopt.errors import ConfigError, TaskError
from lopt.meta import MetaProblem, Objective, Scale, initial_scale
from lopt.rollout import Runner, Schedule
from lopt.task import OUTER_VALID

SCHEDULE = Schedule(outer_every=2, outer_batches=1)
QUADRATIC = lopt.task("quadratic", dims=3, condition=4.0)
LOSS = Objective(False, (-1.0, 2.0))


def problem(
    tasks=(QUADRATIC,),
    weights=(1.0,),
    rate=0.1,
    horizon=(8, 8),
    truncation=4,
    schedule=SCHEDULE,
    objective=LOSS,
) -> MetaProblem:
    opt = lopt.optimizer("sgd", learning_rate=rate)
    return MetaProblem(tasks, weights, opt, schedule, horizon, truncation, objective, seed=5)


def test_normalised_losses_are_1_before_training_and_0_at_the_lowest() -> None:
    normalised = Scale(2.0, 6.0).normalise(np.array([6.0, 2.0, 4.0, 1e9, -1e9]))
    assert LOSS.of(normalised).tolist() == [1.0, 0.0, 0.5, 2.0, -1.0]


def test_log_losses_count_orders_of_magnitude() -> None:
    found = Objective(True, (-1.0, 2.0)).of(np.array([1.0, math.exp(-3.0), 0.0, -7.0, 1e9]))
    assert found == pytest.approx([0.0, -3.0, math.log(1e-6), math.log(1e-6), math.log(2.0)])


def test_the_scale_is_the_mean_loss_of_four_initialisations() -> None:
    """Eight outer-validation batches of each, by the reference; addresses of no run's seed."""
    task = lopt.task("logistic", batch_size=8, init_std=0.5)
    losses = []
    for pair in range(4):
        stream = rng.stream(2**32 - 1, pair=pair)
        params = task.init(stream).astype(np.float64)
        for step in range(8):
            purpose = rng.BATCH + OUTER_VALID
            rows = rng.integers(8, *task.splits[OUTER_VALID], stream, purpose, step)
            losses.append(task.reference(params, rows, stream, OUTER_VALID, step)[0])
    scale = initial_scale(Runner(task, lopt.optimizer("sgd"), SCHEDULE))
    assert scale.low == task.lowest_loss
    assert scale.high == pytest.approx(np.mean(losses), rel=1e-6)


def test_a_task_that_starts_at_its_minimum_is_refused() -> None:
    task = lopt.task("quadratic", dims=2, start=("normal", 0.0, 0.0))
    with pytest.raises(TaskError, match=r"quadratic.* cannot be normalised: initial loss 0\.0"):
        problem([task])


@pytest.mark.parametrize("rate", [0.1, 3.0])
def test_windows_add_up_to_the_mean_over_the_episode_in_units_of_k(rate: float) -> None:
    """Every outer-validation loss weighs outer_every / K, whatever the windows; 3.0 climbs into the clip."""
    meta, stream = problem(rate=rate), rng.stream(5, 3, 1)
    theta = meta.opt.init_theta()
    runner = Runner(QUADRATIC, meta.opt, SCHEDULE)
    outer = runner.advance(theta, runner.start(theta, stream), 12, stream)[1]
    scale = initial_scale(runner)
    normalised = np.clip((outer - scale.low) / (scale.high - scale.low), *LOSS.clip)
    assert (normalised.max() == 2.0) == (rate > 1.0)
    for windows in ((12,), (4, 4, 4), (2, 6, 4), (10, 2)):
        state, t0, total = meta.start(theta, 3, 1), 0, 0.0
        for steps in windows:
            window = meta.run(theta, state, 3, 1, t0, steps)
            assert (window.lost, window.inner_steps) == (False, steps)
            state, t0, total = window.state, t0 + steps, total + window.loss
        assert total == pytest.approx(normalised.sum() * 2 / 4, rel=1e-12)


def test_a_diverged_particle_is_lost() -> None:
    meta = problem(rate=1e30)
    theta = meta.opt.init_theta()
    window = meta.run(theta, meta.start(theta, 0, 0), 0, 0, 0, 4)
    assert window.lost and window.loss <= 2.0


def test_tasks_are_drawn_by_their_weights() -> None:
    """Weights 1, 0 and 3: a quarter, never, three quarters of 4000 addresses, within 5 sigma."""
    tasks = [lopt.task("quadratic", dims=n) for n in (2, 3, 4)]
    meta = problem(tasks, (1.0, 0.0, 3.0))
    groups = [[meta.group(episode, pair) for pair in range(200)] for episode in range(20)]
    counts = np.bincount(np.ravel(groups), minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] - 1000) < 5 * math.sqrt(4000 * 0.25 * 0.75)
    assert groups[0] != groups[1] and len({tuple(g) for g in np.transpose(groups)}) > 150
    assert meta.start(meta.opt.init_theta(), 0, 0)["params"].size == 2 + groups[0][0]


def test_costs_are_predicted_by_timing() -> None:
    """A step with a matrix of 10^6 numbers against one of 4: at least 4 times the seconds, calls and all."""
    tasks = [lopt.task("quadratic", dims=n) for n in (2, 1000)]
    schedule = Schedule(outer_every=50)
    meta = problem(tasks, (1.0, 1.0), horizon=(50, 50), truncation=50, schedule=schedule)
    meta.time_tasks(meta.opt.init_theta(), SerialComm())
    by_task = {meta.group(0, pair): meta.cost(0, pair) for pair in range(50)}
    assert 1e-7 < by_task[0] < by_task[1] / 4 < 1.0


def test_horizons_are_log_uniform() -> None:
    """A quarter of 2000 in each quarter of the logarithmic range, within 5 sigma; addresses differ."""
    schedule = Schedule(outer_every=1)
    meta = problem(horizon=(100, 10_000), truncation=1, schedule=schedule)
    found = np.array([[meta.horizon(e, p) for p in range(100)] for e in range(20)])
    assert found.min() >= 100 and found.max() <= 10_000
    counts = np.histogram(np.log(found), bins=np.linspace(np.log(99.9), np.log(10_001), 5))[0]
    assert np.abs(counts - 500).max() < 5 * math.sqrt(2000 * 0.25 * 0.75)
    assert np.unique(found[0]).size > 50 and np.unique(found[:, 0]).size > 10


@pytest.mark.parametrize(
    ("horizon", "truncation", "multiple"), [((8, 40), 8, 8), ((4, 40), 8, 2), ((1, 1), 4, 2)]
)
def test_horizons_are_whole_windows_or_whole_outer_intervals(
    horizon: tuple[int, int], truncation: int, multiple: int
) -> None:
    """Intervals where a window is longer than the shortest episode; never less than one."""
    meta = problem(horizon=horizon, truncation=truncation)
    found = np.array([meta.horizon(0, pair) for pair in range(200)])
    assert (found % multiple == 0).all() and found.min() >= multiple
    if truncation > multiple and horizon[1] > truncation:
        assert (found % truncation != 0).any()


def test_members_of_a_pair_see_the_same_problem_and_other_addresses_another() -> None:
    meta = problem()
    theta = meta.opt.init_theta()

    def start(episode: int, pair: int) -> bytes:
        return meta.start(theta, episode, pair)["params"].tobytes()

    assert start(2, 3) == start(2, 3)
    assert len({start(2, 3), start(3, 3), start(2, 4)}) == 3


def test_a_window_without_an_outer_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"es\.truncation = 3 is no multiple.* = 2"):
        problem(truncation=3)
