"""Small arguments for the kernel of any registered task or optimizer."""

from collections.abc import Callable

import numpy as np

from lopt import rng
from lopt.layout import Layout
from lopt.optimizer import Optimizer
from lopt.task import TRAIN, Task

SCRATCH = 7  # index of `work` in the arguments of both kernels
TINY = Layout((("w", (3, 2)), ("b", (2,)), ("s", ())))  # what optimizers are tried on


def task_arguments(task: Task, with_grad: int = 1) -> Callable[[], tuple]:
    """Maker of equal, fresh arguments for `task.core`: at most 3 rows, a gradient full of 7."""
    batch, stream = min(task.batch_size, 3), rng.stream(5)
    rows = rng.integers(batch, *task.splits[TRAIN], stream, rng.BATCH + TRAIN)
    params = task.init(stream)
    return lambda: (
        params.copy(),
        np.full_like(params, 7.0),
        task.arrays,
        rows,
        stream,
        TRAIN,
        2,
        np.full(task.work_size(batch), np.nan, np.float32),
        with_grad,
    )


def optimizer_arguments(opt: Optimizer, is_valid: int = 0) -> Callable[[], tuple]:
    """Maker of equal, fresh arguments for `opt.core`: three tensors, a state three steps old."""
    theta = opt.init_theta(1)
    params, grad = (rng.normals(TINY.size, rng.stream(k), rng.TASK) for k in (1, 2))
    state, data = opt.init_state(theta, TINY), opt.opt_data(TINY)

    def work() -> np.ndarray:
        return np.full(opt.work_size(TINY), np.nan, np.float32)

    for t in range(3):
        opt.entry(theta, params, grad.copy(), state, 1.0 / (1 + t), 0, data, work())
    return lambda: (
        theta,
        params.copy(),
        grad.copy(),
        state.copy(),
        0.2,
        is_valid,
        data,
        work(),
    )
