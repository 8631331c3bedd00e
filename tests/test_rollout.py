"""Inner training: closed forms, both surfaces give the same numbers, truncation changes nothing, divergence is data."""

import dataclasses
import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.reference_learned import LossStatistics

import lopt
from lopt import rng
from lopt.arch.hierarchical_views import memory_of
from lopt.arch.sgd import Sgd
from lopt.errors import DeviceError, OptimizerError, UsageError
from lopt.lanes import entry_point
from lopt.layout import Layout
from lopt.optimizer import OPTIMIZERS, STEP_SIG
from lopt.rollout import CEILING, DIVERGED, EVALUATIONS, FLAG, FLAG_STEP, Runner, Schedule
from lopt.task import EVALUATE_SIG, INNER_VALID, OUTER_VALID, TRAIN, TaskData
from lopt.tasks.quadratic import Quadratic

SMALL = {"data": "digits", "hidden": (8,), "batch_size": 16}


def batch_rows(task, split: int, step: int, seed: int = 0) -> np.ndarray:
    lo, hi = task.splits[split]
    return rng.integers(task.batch_size, lo, hi, rng.stream(seed), rng.BATCH + split, step)


def evaluate(task, params: np.ndarray, split: int, step: int) -> tuple[float, np.ndarray]:
    """Loss and gradient at a batch address, through the task's own entry."""
    grad = np.zeros_like(params)
    work = np.zeros(task.work_size(task.batch_size), np.float32)
    rows = batch_rows(task, split, step)
    loss = task.entry(params, grad, task.arrays, rows, rng.stream(0), split, step, work, 1)
    return loss, grad


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_update_on_a_dict_equals_the_fused_rollout(name: str) -> None:
    """12 steps crossing a validation call; the bits agree because both surfaces run the same kernels in the same order."""
    task, opt, steps = lopt.task("mlp", **SMALL), lopt.optimizer(name), 12
    theta = opt.init_theta()
    trace = lopt.rollout(task, opt, theta, steps=steps, schedule=Schedule(valid_every=5))
    params = task.layout.views(task.init(rng.stream(0)))
    state = opt.init(params, theta)
    losses = []
    for t in range(steps):
        flat = task.layout.flatten(params)
        loss, grad = evaluate(task, flat, TRAIN, t)
        valid = evaluate(task, flat, INNER_VALID, t)[0] if t % 5 == 0 else None
        losses.append(loss)
        params, state = opt.update(
            params, task.layout.views(grad), state, loss=loss, valid_loss=valid
        )
    np.testing.assert_array_equal(trace.train_loss, losses)
    for key, value in params.items():
        np.testing.assert_array_equal(trace.params[key], value)


@pytest.mark.parametrize("name", ["adam", "hierarchical"])
def test_windows_give_the_bits_of_one_run(name: str) -> None:
    task, opt = lopt.task("mlp", **SMALL), lopt.optimizer(name)
    schedule = Schedule(valid_every=4, outer_every=3, outer_batches=2)
    theta, stream = opt.init_theta(), rng.stream(3)
    runner = Runner(task, opt, schedule)
    whole = runner.start(theta, stream)
    train, outer = runner.advance(theta, whole, 21, stream)
    parts = runner.start(theta, stream)
    pieces = [runner.advance(theta, parts, n, stream) for n in (1, 7, 4, 9)]
    np.testing.assert_array_equal(np.concatenate([p[0] for p in pieces]), train)
    np.testing.assert_array_equal(np.concatenate([p[1] for p in pieces]), outer)
    np.testing.assert_array_equal(parts.params, whole.params)
    np.testing.assert_array_equal(parts.state, whole.state)
    assert outer.size == 7


def test_the_first_loss_is_the_loss_at_initialisation() -> None:
    task = lopt.task("mlp", **SMALL)
    trace = lopt.rollout(task, lopt.optimizer("sgd"), steps=3, seed=0)
    reference, _ = task.reference(
        task.init(rng.stream(0)).astype(np.float64),
        batch_rows(task, TRAIN, 0),
        rng.stream(0),
        TRAIN,
        0,
    )
    assert trace.train_loss[0] == pytest.approx(reference, rel=1e-5)


def test_every_loss_is_that_of_its_split_at_its_address() -> None:
    """theta = 0 moves nothing, so all losses follow from the reference at the initial parameters."""
    task, opt = lopt.task("mlp", **SMALL), lopt.optimizer("hierarchical")
    stream, theta = rng.stream(0), np.zeros(opt.theta_layout.size, np.float32)
    runner = Runner(task, opt, Schedule(valid_every=3, outer_every=4, outer_batches=2))
    particle = runner.start(theta, stream)
    params = particle.params.copy()

    def loss(split: int, step: int) -> float:
        rows = batch_rows(task, split, step)
        return task.reference(params.astype(np.float64), rows, stream, split, step)[0]

    train, outer = runner.advance(theta, particle, 13, stream)
    np.testing.assert_array_equal(particle.params, params)
    np.testing.assert_allclose(train, [loss(TRAIN, t) for t in range(13)], rtol=1e-5)
    # after the steps 3, 7 and 11, each the mean of two batches of its own
    wanted = [(loss(OUTER_VALID, 2 * t) + loss(OUTER_VALID, 2 * t + 1)) / 2 for t in (3, 7, 11)]
    np.testing.assert_allclose(outer, wanted, rtol=1e-5)
    assert particle.status[EVALUATIONS] == 13
    # what the optimizer was shown, as its statistics remember it
    memory = memory_of(particle.state, opt.sizes(task.layout), task.layout.size)
    for found, decay, split, steps in (
        (memory.train, 0.9, TRAIN, range(13)),
        (memory.valid, 0.95, INNER_VALID, (0, 3, 6, 9, 12)),
    ):
        statistics = LossStatistics(decay)
        for t in steps:
            statistics.update(loss(split, t))
        np.testing.assert_allclose(
            found, [statistics.mean, statistics.var, statistics.n], rtol=1e-4
        )


def test_seeds_change_the_run_and_repeat_it() -> None:
    task, opt = lopt.task("mlp", **SMALL), lopt.optimizer("adam")
    a, b, c = (lopt.rollout(task, opt, steps=20, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.train_loss, b.train_loss)
    assert abs(a.train_loss - c.train_loss).max() > 1e-3


def test_batches_of_different_splits_never_overlap() -> None:
    task = lopt.task("mlp", **SMALL)
    seen = [
        set(np.concatenate([batch_rows(task, split, t) for t in range(200)])) for split in range(4)
    ]
    for i in range(4):
        for j in range(i):
            assert not seen[i] & seen[j]


def test_divergence_is_flagged_and_no_nan_leaves() -> None:
    """Gradient descent on a quadratic with a step far beyond 2 / eigenvalue overflows within a few dozen steps."""
    task = lopt.task("quadratic", dims=5, condition=10.0)
    trace = lopt.rollout(
        task, lopt.optimizer("sgd", learning_rate=1e6), steps=200, schedule=Schedule(ceiling=1e12)
    )
    assert trace.status == "diverged"
    assert 0 < trace.status_step < 200
    assert np.isfinite(trace.train_loss).all()
    assert np.isfinite(trace.outer_loss).all()
    assert (trace.train_loss[trace.status_step + 1 :] == 1e12).all()
    assert all(np.isfinite(v).all() for v in trace.params.values())


def test_a_loss_above_the_ceiling_is_clipped_and_flagged() -> None:
    task = lopt.task("quadratic", dims=5, condition=10.0)
    runner = Runner(task, lopt.optimizer("sgd", learning_rate=1e-6), Schedule(ceiling=1e-3))
    particle = runner.start(runner.opt.init_theta(), rng.stream(0))
    train, _ = runner.advance(runner.opt.init_theta(), particle, 4, rng.stream(0))
    assert (train == 1e-3).all()
    assert particle.status[FLAG] == CEILING
    assert particle.status[FLAG_STEP] == 0


def test_a_diverged_particle_stays_diverged() -> None:
    task = lopt.task("quadratic", dims=3, condition=2.0)
    runner = Runner(task, lopt.optimizer("sgd"), Schedule())
    theta = runner.opt.init_theta()
    particle = runner.start(theta, rng.stream(0))
    particle.params[:] = np.inf
    runner.advance(theta, particle, 5, rng.stream(0))
    assert particle.status[FLAG] == DIVERGED
    before = particle.params.copy()
    runner.advance(theta, particle, 5, rng.stream(0))
    np.testing.assert_array_equal(particle.params, before)


FAULTS = ("nan loss", "inf loss", "nan gradient", "inf gradient", "refused step", "nan parameter")


@entry_point(EVALUATE_SIG)
def faulty_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Loss 1 and gradient 0; from step 3 on of the training what data.sizes ends with."""
    fault = data.sizes[data.sizes.size - 1] if with_grad != 0 and step >= 3 else -1
    if with_grad != 0:
        grad[:] = 0.0
        if fault == 2 or fault == 3:
            grad[1] = np.nan if fault == 2 else np.inf
    return np.nan if fault == 0 else (np.inf if fault == 1 else 1.0)


@entry_point(STEP_SIG)
def faulty_step(theta, params, grad, state, loss, is_valid, data, work):
    """No movement; in the fourth call what data.sizes says."""
    state[0] += 1.0
    if state[0] == 4.0 and data.sizes[0] == 5:
        params[1] = np.nan
    return 1 if state[0] == 4.0 and data.sizes[0] == 4 else 0


@dataclasses.dataclass(frozen=True)
class FaultyTask(Quadratic):
    fault: int = 0
    entry = faulty_evaluate

    @functools.cached_property
    def arrays(self) -> TaskData:
        arrays = super().arrays
        return arrays._replace(sizes=np.append(arrays.sizes, self.fault))


@dataclasses.dataclass(frozen=True)
class FaultyOptimizer(Sgd):
    fault: int = 0
    entry = faulty_step

    def sizes(self, layout: Layout) -> np.ndarray:
        return np.array([self.fault], np.int64)

    def state_size(self, layout: Layout) -> int:
        return 1


@pytest.mark.parametrize("fault", range(len(FAULTS)), ids=FAULTS)
def test_whatever_is_not_finite_ends_a_training_where_it_happens(fault: int) -> None:
    """The loss of that step still counts if there was one; later ones are the ceiling."""
    trace = lopt.rollout(
        FaultyTask(dims=3, fault=fault), FaultyOptimizer(fault=fault), steps=6,
        schedule=Schedule(outer_every=1, ceiling=1e3),
    )  # fmt: skip
    assert (trace.status, trace.status_step) == ("diverged", 3)
    last = 1e3 if fault < 2 else 1.0
    np.testing.assert_array_equal(trace.train_loss, [1.0, 1.0, 1.0, last, 1e3, 1e3])
    np.testing.assert_array_equal(trace.outer_loss, [1.0, 1.0, 1.0, 1e3, 1e3, 1e3])
    assert np.isfinite(trace.params["x"]).all()


def test_an_antithetic_pair_with_zero_perturbation_is_identical() -> None:
    """Negative control beside it: a perturbation of 1e-2 separates the members."""
    task, opt = lopt.task("mlp", **SMALL), lopt.optimizer("hierarchical")
    theta = opt.init_theta()
    eps = rng.normals(theta.size, rng.stream(0), rng.PERTURB) * np.float32(1e-2)
    runs = [lopt.rollout(task, opt, theta + s * eps, steps=15) for s in (0.0, -0.0, 1.0, -1.0)]
    np.testing.assert_array_equal(runs[0].train_loss, runs[1].train_loss)
    assert abs(runs[2].train_loss - runs[3].train_loss).max() > 1e-6


# Threads of every BLAS in the process, before and after a rollout; NumPy and SciPy bring one each.
THREADS = """
import numpy, scipy.linalg, threadpoolctl
def threads():
    return [b["num_threads"] for b in threadpoolctl.threadpool_info() if b["user_api"] == "blas"]
before = threads()
import lopt
lopt.rollout(lopt.task("quadratic", dims=3), lopt.optimizer("sgd"), steps=1)
print(max(before), max(threads()), len(threads()))
"""


def test_one_blas_thread_whatever_the_environment_says() -> None:
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, "2")}
    command = [sys.executable, "-c", THREADS]
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    before, after, libraries = (int(word) for word in out.stdout.split())
    assert before == min(2, os.cpu_count() or 1)
    assert after == 1
    assert libraries >= 1


def subnormals(x: np.ndarray) -> int:
    """How many numbers lie between 0 and the smallest normal one."""
    return int(np.count_nonzero((x != 0.0) & (np.abs(x) < np.finfo(np.float32).tiny)))


@pytest.mark.parametrize(
    ("name", "options"),
    [("sgd", {"learning_rate": 0.5}), ("momentum", {"learning_rate": 0.05}), ("adam", {})],
)
def test_converging_ends_at_zero_not_in_the_subnormal_range(name: str, options: dict) -> None:
    """Gradient descent of rate 1/2 halves the parameters of |x|^2 / 2 at each step; plain float32 gets stuck."""
    task, opt = Quadratic(dims=3, condition=1.0), lopt.optimizer(name, **options)
    runner = Runner(task, opt, Schedule(outer_every=10**6))
    theta, stream = opt.init_theta(), rng.stream(0)
    particle = runner.start(theta, stream)
    found = []
    for steps in (100, 20, 20, 20, 5000):
        runner.advance(theta, particle, steps, stream)
        found.append(subnormals(particle.params) + subnormals(particle.state))
    assert found == [0] * 5
    if name == "sgd":
        assert 0 < np.abs(particle.params).max() < 1e-37  # steps from here on would be subnormal
        x = np.ones(3, np.float32)
        for _ in range(200):
            x -= np.float32(0.5) * x
        assert subnormals(x) == 3  # without flushing


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (UsageError, "steps must be at least 1, got 0", {"steps": 0}),
        (UsageError, "did you mean 'cuda'", {"device": "cudo"}),
        (DeviceError, "'cuda'", {"device": "cuda"}),
        (OptimizerError, "needs", {"theta": np.zeros(3)}),
        (OptimizerError, "non-finite", {"theta": np.array([np.nan])}),
    ],
)
def test_bad_arguments_are_refused(error: type, message: str, arguments: dict) -> None:
    with pytest.raises(error, match=message):
        lopt.rollout(lopt.task("quadratic", dims=3), lopt.optimizer("sgd"), **arguments)
