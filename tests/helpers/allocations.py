"""Allocations of compiled code per inner step, of every task and every optimizer; as a program, with counting on.

    NUMBA_NRT_STATS=1 python -m helpers.allocations     a JSON object: name of what ran -> [blocks, steps that went well]

Numba counts the blocks that compiled code takes from its allocator.  Arrays handed in from Python take one each per call,
whatever the call does, so what a training of many steps takes more than one of few was taken inside its steps.
"""

import json
from collections.abc import Iterator

import numpy as np
from numba.core.runtime import rtsys

import lopt
from lopt import rng
from lopt.augment import augment
from lopt.lanes import kernel
from lopt.optimizer import OPTIMIZERS, Optimizer
from lopt.rollout import EVALUATIONS, Runner, Schedule
from lopt.task import TASKS, Task
from lopt.tasks.logistic import Logistic
from lopt.tasks.quadratic import Quadratic, evaluate_quadratic

FEW, MANY = 1, 4  # steps
EVERY_STEP = Schedule(valid_every=1, outer_every=1)
STREAM = rng.stream(3, 1, 5)
STILL = lopt.optimizer(
    "sgd", learning_rate=1e-12
)  # nothing diverges, and steps are made all the same
AUGMENTED = {
    "reparameterise": "tensor", "batch_fraction": 0.5, "loss_scale": 2.0, "normalise": True, "gradient_noise": 0.1,
    "zero_probability": 0.5, "delay": 2,
}  # fmt: skip


@kernel
def careless_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """A quadratic that takes its scratch from the allocator."""
    own = np.empty(work.size, work.dtype)
    return evaluate_quadratic(params, grad, data, rows, stream, split, step, own, with_grad)


class Careless(Quadratic):
    """The task of that kernel; the counting must find it."""

    core = staticmethod(careless_evaluate)


def blocks(task: Task, opt: Optimizer) -> tuple[int, int]:
    """Blocks taken per inner step, and evaluations that were made in all."""
    runner = Runner(task, opt, EVERY_STEP)
    theta = opt.init_theta()
    taken = []
    for steps in (FEW, FEW, MANY):  # the first call is not counted
        particle = runner.start(theta, STREAM)
        before = rtsys.get_allocation_stats().alloc
        runner.advance(theta, particle, steps, STREAM)
        taken.append(rtsys.get_allocation_stats().alloc - before)
    return (taken[2] - taken[1]) // (MANY - FEW), int(particle.status[EVALUATIONS])


def cases() -> Iterator[tuple[str, Task, Optimizer]]:
    """Every example of every family and of every optimizer, all augmentations, and one kernel that does allocate."""
    small = Logistic(data="blobs", batch_size=5)  # a matrix and a vector
    for name, cls in sorted(TASKS.items()):
        for k, task in enumerate(cls.examples()):
            yield f"task {name} {k}", task, STILL
    for name, cls in sorted(OPTIMIZERS.items()):
        for k, opt in enumerate(cls.examples()):
            yield f"optimizer {name} {k}", small, opt
    yield "augmentation", augment(small, **AUGMENTED), STILL
    yield "careless", Careless(dims=3), STILL


if __name__ == "__main__":
    print(json.dumps({name: blocks(task, opt) for name, task, opt in cases()}))
