"""The kernel of `learned_optimizer`: inner trainings inside an evolution-strategies estimate."""

import math
from typing import NamedTuple

import numpy as np

from lopt import rng
from lopt.arch.adam import adam_step
from lopt.arch.mlp_optimizer import mlp_optimizer_step
from lopt.arch.sgd import momentum_step, sgd_step
from lopt.lanes import has_nonfinite, kernel, lane, lanes, sync
from lopt.optimizer import OptData
from lopt.task import TRAIN, TaskData
from lopt.tasks.mlp import mlp_evaluate

INSIDE = ("sgd", "momentum", "adam", "mlp")  # by code; their states start at 0
SGD, MOMENTUM, ADAM, MLP = range(len(INSIDE))

# data.sizes: these, then sizes of the inner task, of the optimizer
UNROLL, PAIRS, SEED, CODE, PARAMS, STATE, BATCH, TASK_WORK, OPT_WORK = range(9)
TASK_SIZES, OPT_SIZES, TASK_HYPER, OPT_HYPER, LIMITS = range(9, 14)
HEADER = LIMITS + 8  # row limits of the inner task's four splits
# data.hyper: these, hyper of the inner task and of the optimizer, then (problems, N) initial parameters
SIGMA, CEILING, SHIFT, FACTOR, CONSTANTS = range(5)


class Inner(NamedTuple):
    """One inner training: views of the task's constants and of the scratch.

    The integers are 4-byte views of the scratch, so that any float32 slice is aligned for them.
    """

    data: TaskData
    opt_data: OptData
    limits: np.ndarray  # (8,) int64 row limits of the splits
    starts: np.ndarray  # (problems * N,) initial parameters
    stream: np.ndarray  # (3,) uint32 address of the inner batches
    rows: np.ndarray  # (B,) int32 rows of an inner batch
    params: np.ndarray  # (N,)
    state: np.ndarray  # (S,)
    grad: np.ndarray  # (N,)
    task_work: np.ndarray
    opt_work: np.ndarray


@kernel
def inner_of(data, work):
    """The Inner at the beginning of work."""
    sizes, hyper = data.sizes, data.hyper
    n, batch = sizes[PARAMS], sizes[BATCH]
    a = HEADER + sizes[TASK_SIZES]
    b = CONSTANTS + sizes[TASK_HYPER]
    c = b + sizes[OPT_HYPER]
    d = 3 + batch
    e = d + n
    f = e + sizes[STATE]
    g = f + n
    h = g + sizes[TASK_WORK]
    return Inner(
        TaskData(data.floats, data.ints, sizes[HEADER:a], hyper[CONSTANTS:b]),
        OptData(sizes[a : a + sizes[OPT_SIZES]], hyper[b:c]),
        sizes[LIMITS:HEADER],
        hyper[c:],
        work[:3].view(np.uint32)[:3],
        work[3:d].view(np.int32)[:batch],
        work[d:e],
        work[e:f],
        work[f:g],
        work[g:h],
        work[h : h + sizes[OPT_WORK]],
    )


@kernel
def start(inner, seed, problem):
    """Set an inner training to its beginning."""
    n = inner.params.size
    first = inner.starts[problem * n : (problem + 1) * n]
    for i in range(lane(), n, lanes()):
        inner.params[i] = first[i]
    for i in range(lane(), inner.state.size, lanes()):
        inner.state[i] = inner.state.dtype.type(0.0)
    if lane() == 0:
        inner.stream[0] = seed
        inner.stream[1] = problem
        inner.stream[2] = 0
    sync()


@kernel
def draw_rows(inner, split, t):
    """The rows of the batch of a split at inner step t."""
    rng.integers_into(
        inner.rows, inner.limits[2 * split], inner.limits[2 * split + 1], inner.stream,
        rng.BATCH + split, t,
    )  # fmt: skip
    sync()


@kernel
def perturb(theta, params, scale, first, stream, purpose, step):
    """theta = params + scale * normals from number `first` on."""
    for i in range(lane(), params.size, lanes()):
        theta[i] = params[i]
    sync()
    if scale != 0.0:
        rng.add_normals(theta, scale, first, stream, purpose, step)
        sync()


@kernel
def learned_optimizer_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Meta-loss at theta = params and its estimated gradient; see `lopt.task.Task` and `LearnedOptimizer`.

    Member 0 is theta itself, members 2p + 1 and 2p + 2 are theta + sigma z_p and theta - sigma z_p; number i of z_p is
    normal p D + i of the address (stream, ES_DIRECTION + split, step).  Scratch: theta of a member (D,) | Inner.

    The inner loop is that of `lopt.rollout.inner_training`, which is given its kernels at run time: Numba cannot store
    on disk what hands it constant ones.  All in one function, with the inner task called in one place: each further
    level of calls, and each further place, would compile all the kernels once more.
    """
    sizes, hyper, size = data.sizes, data.hyper, params.size
    theta, inner = work[:size], inner_of(data, work[size:])
    w, g, state = inner.params, inner.grad, inner.state
    opt, opt_work = inner.opt_data, inner.opt_work
    sigma, ceiling = np.float64(hyper[SIGMA]), np.float64(hyper[CEILING])
    purpose, code, pairs = rng.ES_DIRECTION + split, sizes[CODE], sizes[PAIRS]
    steps = sizes[UNROLL]
    calls = 1 if split == TRAIN else 2  # of a step: the training batch; one that counts
    loss, plus = 0.0, 0.0
    if with_grad != 0:
        for i in range(lane(), size, lanes()):
            grad[i] = grad.dtype.type(0.0)
    for member in range(1 + 2 * pairs if with_grad != 0 else 1):
        first = size * ((member - 1) // 2)
        sign = 0.0 if member == 0 else (1.0 if member % 2 == 1 else -1.0)
        perturb(theta, params, sign * sigma, first, stream, purpose, step)
        total = 0.0
        for r in range(rows.size):
            start(inner, sizes[SEED], rows[r])
            alive = True
            for call in range(steps * calls):
                training, counts = call % calls == 0, (call + 1) % calls == 0
                which, t = TRAIN if training else split, call // calls
                value = ceiling
                if alive:
                    draw_rows(inner, which, t)
                    value = np.float64(mlp_evaluate(
                        w, g, inner.data, inner.rows, inner.stream, which, t, inner.task_work,
                        int(training),
                    ))  # fmt: skip
                    sync()
                if counts:
                    total += value if value <= ceiling else ceiling
                if alive and training:
                    alive = math.isfinite(value) and not has_nonfinite(g)
                    sync()
                if alive and training:
                    if code == SGD:
                        status = sgd_step(theta, w, g, state, value, 0, opt, opt_work)
                    elif code == MOMENTUM:
                        status = momentum_step(theta, w, g, state, value, 0, opt, opt_work)
                    elif code == ADAM:
                        status = adam_step(theta, w, g, state, value, 0, opt, opt_work)
                    else:
                        status = mlp_optimizer_step(theta, w, g, state, value, 0, opt, opt_work)
                    alive = status == 0 and not has_nonfinite(w)
                    sync()
        found = total / (rows.size * steps)
        found = (found - np.float64(hyper[SHIFT])) * np.float64(hyper[FACTOR])
        if member == 0:
            loss = found
        elif member % 2 == 1:
            plus = found
        else:
            # g = mean over pairs of z (f(theta + sigma z) - f(theta - sigma z)) / (2 sigma)
            slope = (plus - found) / (2.0 * sigma * pairs)
            rng.add_normals(grad, slope, first, stream, purpose, step)
    sync()
    return loss
