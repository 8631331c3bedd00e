"""Inner training: task x optimizer x theta x seeds -> Trace.

One compiled loop serves every task and every optimizer: their kernels enter as first-class functions of declared
signature, so compiled code grows as tasks + optimizers.  Divergence is data: a loss above the declared ceiling is clipped
and flagged, a non-finite value ends the particle's training, and a NaN never leaves a rollout.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numba import types

from lopt import rng
from lopt.augment import (
    AUGMENT_DATA_TYPE,
    NOTHING,
    evaluate_augmented,
    memory_size,
)
from lopt.augment import work_size as augment_work_size
from lopt.borrowed import borrowed
from lopt.config import DEVICES
from lopt.errors import UsageError, unknown
from lopt.lanes import (
    apart,
    entry_point,
    has_nonfinite,
    kernel,
    lane,
    lanes,
    pin_blas_threads,
    sync,
)
from lopt.optimizer import OPT_DATA_TYPE, STEP_SIG, Optimizer
from lopt.subnormals import flush, restore
from lopt.task import EVALUATE_SIG, INNER_VALID, OUTER_VALID, TASK_DATA_TYPE, TRAIN, Task

OK, CEILING, DIVERGED = range(3)
STATUS_NAMES = ("ok", "ceiling", "diverged")

# Slots of the int64 status array: flag, inner step at which it was first set, evaluations spent.
FLAG, FLAG_STEP, EVALUATIONS = range(3)


class Buffers(NamedTuple):
    """Scratch of one runner, reused by every call."""

    grad: np.ndarray  # (N,) float32
    rows: np.ndarray  # (B,) int64
    task_work: np.ndarray  # float32
    opt_work: np.ndarray  # float32
    augment_work: np.ndarray  # float32


@kernel
def zero_nonfinite(x):
    """Set the elements of x that are NaN or infinite to 0."""
    big = x.dtype.type(3.0e38)
    for i in range(lane(), x.size, lanes()):
        if not (abs(x[i]) <= big):
            x[i] = x.dtype.type(0.0)
    sync()


@kernel
def one_step(step, theta, params, grad, state, loss, is_valid, opt_data, work):
    """`step` of an optimizer; callers pass a typed `is_valid`: CUDA compiles anew for each literal."""
    apart()
    return step(theta, params, grad, state, loss, is_valid, opt_data, work)


@kernel
def split_loss(
    evaluate, params, task_data, augment, splits, stream, split, first, count, ceiling, buffers
):
    """Mean loss over `count` batches of a split, addresses first, first + 1, ...; the ceiling if not finite."""
    total = 0.0
    for j in range(first, first + count):
        rng.integers_into(
            buffers.rows, splits[2 * split], splits[2 * split + 1], stream, rng.BATCH + split, j
        )
        sync()
        loss = evaluate_augmented(
            evaluate, params, buffers.grad, task_data, buffers.rows, stream, np.int64(split), np.int64(j),
            buffers.task_work, np.int64(0), augment, buffers.grad, buffers.augment_work,
        )  # fmt: skip
        if not (loss <= ceiling):
            loss = ceiling
        total += loss
    return total / count


@kernel
def inner_training(
    evaluate,
    step,
    theta,
    params,
    state,
    memory,
    task_data,
    opt_data,
    augment,
    plan,
    stream,
    splits,
    ceiling,
    train_loss,
    outer_loss,
    status,
    buffers,
):
    """Advance one particle from inner step t0 by n steps.

    Shapes
        memory      float32 (memory_size,) UPDATED: what the augmentation keeps between steps
        plan        int64 (t0, n, valid_every, outer_every, outer_batches); valid_every 0: no validation calls
        splits      int64 (8,), the four row ranges
        train_loss  (n,) float64 OVERWRITTEN: loss at the parameters before step t
        outer_loss  (m,) float64 OVERWRITTEN: outer-validation loss after the steps t with (t+1) % outer_every == 0
        status      int64 (3,) UPDATED: flag, step of the flag, evaluations spent
    """
    t0, n, valid_every, outer_every, outer_batches = plan[0], plan[1], plan[2], plan[3], plan[4]
    first_outer = t0 // outer_every
    for t in range(t0, t0 + n):
        alive = status[FLAG] != DIVERGED
        if alive and valid_every > 0 and t % valid_every == 0:
            valid = split_loss(
                evaluate,
                params,
                task_data,
                augment,
                splits,
                stream,
                INNER_VALID,
                t,
                1,
                ceiling,
                buffers,
            )
            one_step(
                step,
                theta,
                params,
                buffers.grad,
                state,
                valid,
                np.int64(1),
                opt_data,
                buffers.opt_work,
            )
        loss = ceiling
        if alive:
            rng.integers_into(buffers.rows, splits[0], splits[1], stream, rng.BATCH + TRAIN, t)
            sync()
            loss = evaluate_augmented(
                evaluate, params, buffers.grad, task_data, buffers.rows, stream, np.int64(TRAIN), np.int64(t),
                buffers.task_work, np.int64(1), augment, memory, buffers.augment_work,
            )  # fmt: skip
            alive = math.isfinite(loss) and not has_nonfinite(buffers.grad)
            clipped = not (loss <= ceiling)
            if clipped:
                loss = ceiling
            if alive:
                code = one_step(
                    step,
                    theta,
                    params,
                    buffers.grad,
                    state,
                    loss,
                    np.int64(0),
                    opt_data,
                    buffers.opt_work,
                )
                alive = code == 0 and not has_nonfinite(params)
            sync()
            if lane() == 0:
                status[EVALUATIONS] += 1
                if not alive:
                    status[FLAG] = DIVERGED
                    status[FLAG_STEP] = t
                elif clipped and status[FLAG] == OK:
                    status[FLAG] = CEILING
                    status[FLAG_STEP] = t
            sync()
            if not alive:
                zero_nonfinite(params)
        if lane() == 0:
            train_loss[t - t0] = loss
        if (t + 1) % outer_every == 0:
            outer = ceiling
            if alive:
                outer = split_loss(
                    evaluate, params, task_data, augment, splits, stream, OUTER_VALID,
                    t * outer_batches, outer_batches, ceiling, buffers,
                )  # fmt: skip
            if lane() == 0:
                outer_loss[(t + 1) // outer_every - 1 - first_outer] = outer
    sync()


_F32, _F64, _I64 = types.float32[::1], types.float64[::1], types.int64[::1]
_BUFFERS = types.NamedTuple([_F32, _I64, _F32, _F32, _F32], Buffers)
_EVALUATE, _STEP = types.FunctionType(EVALUATE_SIG), types.FunctionType(STEP_SIG)
_TRAINING_SIG = types.void(
    _EVALUATE, _STEP, _F32, _F32, _F32, _F32, TASK_DATA_TYPE, OPT_DATA_TYPE, AUGMENT_DATA_TYPE, _I64,
    types.uint32[::1], _I64, types.float64, _F64, _F64, _I64, _BUFFERS,
)  # fmt: skip
_SPLIT_LOSS_SIG = types.float64(
    _EVALUATE, _F32, TASK_DATA_TYPE, AUGMENT_DATA_TYPE, _I64, types.uint32[::1], types.int64, types.int64,
    types.int64, types.float64, _BUFFERS,
)  # fmt: skip


@entry_point(_TRAINING_SIG)
def _inner_training_cpu(
    evaluate, step, theta, params, state, memory, task_data, opt_data, augment, plan, stream, splits,
    ceiling, train_loss, outer_loss, status, buffers,
):  # fmt: skip
    before = flush()
    inner_training(
        evaluate, step, borrowed(theta), borrowed(params), borrowed(state), borrowed(memory),
        borrowed(task_data), borrowed(opt_data), borrowed(augment), plan, borrowed(stream), splits, ceiling,
        train_loss, outer_loss, status, borrowed(buffers),
    )  # fmt: skip
    restore(before)


@entry_point(_SPLIT_LOSS_SIG)
def _split_loss_cpu(
    evaluate, params, task_data, augment, splits, stream, split, first, count, ceiling, buffers
):
    return split_loss(
        evaluate, params, task_data, augment, splits, stream, split, first, count, ceiling, buffers
    )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a rollout looks at which split, and where losses are clipped.

    valid_every    training steps between validation calls to the optimizer (paper: 10); only for optimizers that use them
    outer_every    training steps between outer-validation evaluations
    outer_batches  batches averaged in each of them (paper: 5)
    ceiling        losses above it are recorded as it, and flagged
    """

    valid_every: int = 10
    outer_every: int = 10
    outer_batches: int = 1
    ceiling: float = 1e10

    def n_outer(self, t0: int, steps: int) -> int:
        """Outer-validation evaluations that fall in inner steps [t0, t0 + steps)."""
        return (t0 + steps) // self.outer_every - t0 // self.outer_every


@dataclasses.dataclass
class Particle:
    """One inner training run in progress: all that is needed to go on with it."""

    params: np.ndarray  # (N,) float32
    state: np.ndarray  # (S,) float32
    status: np.ndarray  # (3,) int64, see FLAG, FLAG_STEP, EVALUATIONS
    memory: np.ndarray  # float32, what the task's augmentation keeps between steps
    t: int = 0  # inner steps done

    def copy(self) -> "Particle":
        """An independent copy."""
        return dataclasses.replace(
            self,
            params=self.params.copy(),
            state=self.state.copy(),
            status=self.status.copy(),
            memory=self.memory.copy(),
        )

    @property
    def diverged(self) -> bool:
        """Whether a non-finite value ended this training."""
        return bool(self.status[FLAG] == DIVERGED)


class Runner:
    """A task and an optimizer, with the scratch to run them; advances particles."""

    def __init__(self, task: Task, opt: Optimizer, schedule: Schedule) -> None:
        pin_blas_threads()
        self.task, self.opt, self.schedule = task, opt, schedule
        self._opt_data = opt.opt_data(task.layout)
        self._augment = getattr(task, "augment_data", NOTHING)
        self._splits = np.array(task.splits, np.int64).reshape(-1)
        self._buffers = Buffers(
            np.zeros(task.layout.size, np.float32),
            np.zeros(task.batch_size, np.int64),
            np.zeros(task.work_size(task.batch_size), np.float32),
            np.zeros(opt.work_size(task.layout), np.float32),
            np.zeros(augment_work_size(self._augment, task.layout.size), np.float32),
        )

    def start(self, theta: np.ndarray, stream: np.ndarray) -> Particle:
        """A particle at the task's initial parameters."""
        state = self.opt.init_state(theta, self.task.layout)
        memory = np.zeros(memory_size(self._augment, self.task.layout.size), np.float32)
        return Particle(self.task.init(stream), state, np.zeros(3, np.int64), memory)

    def advance(
        self, theta: np.ndarray, particle: Particle, steps: int, stream: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run `steps` inner steps in place; returns (train losses (steps,), outer losses (m,)), float64."""
        s = self.schedule
        train = np.empty(steps, np.float64)
        outer = np.empty(s.n_outer(particle.t, steps), np.float64)
        valid_every = s.valid_every if self.opt.uses_valid_loss else 0
        plan = np.array([particle.t, steps, valid_every, s.outer_every, s.outer_batches], np.int64)
        _inner_training_cpu.compiled(
            self.task.entry, self.opt.entry, theta, particle.params, particle.state, particle.memory,
            self.task.arrays, self._opt_data, self._augment, plan, stream, self._splits, s.ceiling,
            train, outer, particle.status, self._buffers,
        )  # fmt: skip
        particle.t += steps
        return train, outer

    def split_loss(
        self, params: np.ndarray, split: int, stream: np.ndarray, first: int = 0, batches: int = 1
    ) -> float:
        """Mean loss of (N,) parameters over some batches of a split."""
        return _split_loss_cpu.compiled(
            self.task.entry, params, self.task.arrays, self._augment, self._splits, stream, split, first,
            batches, self.schedule.ceiling, self._buffers,
        )  # fmt: skip


def runner_on(device: str, task: Task, opt: Optimizer, schedule: Schedule) -> Runner:
    """A runner of a device: "cpu", or "cuda" for the GPU of this process.

    Raises:
        UsageError: unknown device name.
        DeviceError: a known device that is not available here; never a silent fallback.
    """
    if device not in DEVICES:
        raise UsageError(unknown("device", device, DEVICES))
    if device == "cpu":
        return Runner(task, opt, schedule)
    from lopt.cuda_rollout import CudaRunner  # numba-cuda is loaded when a GPU is asked for

    return CudaRunner(task, opt, schedule)


@dataclasses.dataclass(frozen=True)
class Trace:
    """What one inner training run did.

    train_loss   (T,) float64, loss of the training batch before each step
    outer_steps  (M,) int64, steps done when the outer-validation loss was taken
    outer_loss   (M,) float64, mean over `outer_batches` batches
    params       final parameters by name
    status       "ok", "ceiling" (a loss was clipped) or "diverged"; `status_step` is where, -1 if ok
    """

    train_loss: np.ndarray
    outer_steps: np.ndarray
    outer_loss: np.ndarray
    params: Mapping[str, np.ndarray]
    status: str
    status_step: int


def rollout(
    task: Task,
    opt: Optimizer,
    theta: np.ndarray | None = None,
    steps: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    schedule: Schedule | None = None,
) -> Trace:
    """Train a task from its initial parameters with an optimizer.

    Args:
        theta: (D,) meta-parameters; only a hand-made optimizer has its own, from its options.
        steps: inner steps T.
        seed: address of initial parameters and batches; equal seeds give equal bits.
        device: "cpu", or "cuda": on one thread block of a GPU; many at once are for meta-training.
        schedule: when validation losses are taken, and the loss ceiling.

    Raises:
        UsageError: steps < 1 or unknown device.  DeviceError: device not available.
        OptimizerError: theta of wrong shape or not finite, or none for a learned optimizer.
    """
    if steps < 1:
        raise UsageError(f"steps must be at least 1, got {steps}")
    theta = opt.theta_or_own(theta)
    runner = runner_on(device, task, opt, schedule or Schedule())
    stream = rng.stream(seed)
    particle = runner.start(theta, stream)
    train, outer = runner.advance(theta, particle, steps, stream)
    every = runner.schedule.outer_every
    flag = int(particle.status[FLAG])
    return Trace(
        train,
        np.arange(1, outer.size + 1) * every,
        outer,
        task.layout.views(particle.params),
        STATUS_NAMES[flag],
        int(particle.status[FLAG_STEP]) if flag != OK else -1,
    )
