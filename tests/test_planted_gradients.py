"""The gradient check has teeth in every family: a backward pass that is 1 % wrong anywhere is found.

The kernels run as plain Python with one of the functions they call replaced: it does its work, then multiplies every
gradient among its arguments (their names begin with d) by 1.01.
"""

import inspect
from collections.abc import Callable

import numpy as np
import pytest
from helpers import finite_differences, ptx
from helpers.finite_differences import GradientError
from helpers.lane_scheduler import interpreted

from lopt import rng
from lopt.task import TASKS, TRAIN, Task, TaskData

VISIBLE = 1e-4  # relative change of the gradient that must be found; some parts change it by rounding only
STREAM = rng.stream(3, 1, 5)
EXAMPLES = {family: cls.examples()[0] for family, cls in sorted(TASKS.items())}
CHECKED = [family for family, t in EXAMPLES.items() if not t.noisy_gradient]


def start_of(t: Task) -> np.ndarray:
    noise = rng.normals(t.layout.size, STREAM, rng.TASK)
    return (t.init(STREAM) + np.float32(0.1) * noise).astype(np.float64)


def evaluate(
    t: Task, kernel: Callable, params: np.ndarray, with_grad: int
) -> tuple[float, np.ndarray]:
    floats, ints, sizes, hyper = t.arrays
    data = TaskData(floats.astype(np.float64), ints, sizes, hyper.astype(np.float64))
    rows = rng.integers(t.batch_size, *t.splits[TRAIN], STREAM, rng.BATCH, 0)
    grad, work = np.zeros_like(params), np.zeros(t.work_size(rows.size))
    return kernel(params, grad, data, rows, STREAM, TRAIN, 0, work, with_grad), grad


def check(t: Task, grad: np.ndarray) -> None:
    finite_differences.check(lambda x: evaluate(t, type(t).core, x, 0)[0], start_of(t), grad)


def backward_parts(t: Task) -> list[Callable]:
    """The functions below a family's kernel that pass gradients back."""
    parts = ptx.reachable(type(t).core) - {type(t).core}
    found = [p for p in parts if any(n.startswith("d") for n in gradients(p))]
    return sorted(found, key=lambda p: p.py_func.__qualname__)


def gradients(part: Callable) -> list[str]:
    """Names of the arguments that hold gradients: dx, dw, db, ...; not data, dims, delay."""
    names = inspect.signature(part.py_func).parameters
    return [
        n
        for n in names
        if n.startswith("d") and n not in ("data", "dims", "delay", "draws", "depth")
    ]


def broken(part: Callable) -> Callable:
    """The same, with every gradient 1 % too long afterwards."""
    names = list(inspect.signature(part.py_func).parameters)

    def wrong(*arguments):
        result = part(*arguments)
        for name, value in zip(names, arguments, strict=True):
            if name in gradients(part) and isinstance(value, np.ndarray) and value.size:
                value *= 1.01
        return result

    return wrong


@pytest.mark.parametrize("family", CHECKED)
def test_a_wrong_part_of_the_backward_pass_is_found(family: str) -> None:
    t = EXAMPLES[family]
    core = type(t).core
    _, right = evaluate(t, interpreted(core, {}), start_of(t), 1)
    check(t, right)
    planted = 0
    with np.errstate(all="ignore"):
        for part in backward_parts(t):
            _, grad = evaluate(t, interpreted(core, {part: broken(part)}), start_of(t), 1)
            if np.linalg.norm(grad - right) > VISIBLE * np.linalg.norm(right):
                planted += 1
                with pytest.raises(GradientError):
                    check(t, grad)
    if planted == 0:  # written out in the family's own kernel
        for tensor in t.layout.views(right).values():
            tensor *= 1.01
            with pytest.raises(GradientError):
                check(t, right)
            break
