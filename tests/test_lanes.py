"""Barriers: the lane scheduler finds planted mistakes, and every registered kernel passes it."""

import numpy as np
import pytest
from helpers import lane_scheduler
from helpers.kernel_arguments import SCRATCH, optimizer_arguments, task_arguments
from helpers.lane_scheduler import LANE_COUNTS, LaneError

from lopt import arch, rng, tasks  # noqa: F401 - importing registers
from lopt.lanes import entry_point, kernel, lane, lanes, matmul, sum32, sync
from lopt.optimizer import OPTIMIZERS, Optimizer
from lopt.task import TASKS, Task

TASK_EXAMPLES = [t for _, cls in sorted(TASKS.items()) for t in cls.examples()]
OPTIMIZER_CASES = [
    (opt, is_valid)
    for _, cls in sorted(OPTIMIZERS.items())
    for opt in cls.examples()
    for is_valid in range(1 + opt.uses_valid_loss)
]


@kernel
def neighbours(x, out, work):
    """out[i] = 2 x[i] + 2 x[i + 1], right."""
    n = x.size
    for i in range(lane(), n, lanes()):
        work[i] = x.dtype.type(2.0) * x[i]
    sync()
    for i in range(lane(), n, lanes()):
        out[i] = work[i] + work[(i + 1) % n]
    sync()


@kernel
def neighbours_without_sync(x, out, work):
    n = x.size
    for i in range(lane(), n, lanes()):
        work[i] = x.dtype.type(2.0) * x[i]
    for i in range(lane(), n, lanes()):
        out[i] = work[i] + work[(i + 1) % n]
    sync()


@kernel
def overwrites_what_others_read(x, out, work):
    """The partial sums are reused without a barrier behind the last reading."""
    n = x.size
    for i in range(lane(), n, lanes()):
        work[i] = x[i]
    sync()
    s = x.dtype.type(0.0)
    for i in range(n):
        s += work[i]
    for i in range(lane(), n, lanes()):
        work[i] = x.dtype.type(0.0)
        out[i] = s
    sync()


@kernel
def barrier_in_a_branch(x, out, work):
    if lane() == 0:
        sync()
    out[0] = x[0]


@kernel
def early_return(x, out, work):
    if lane() >= 2:
        return
    sync()
    out[0] = x[0]


@kernel
def one_barrier_or_the_other(x, out, work):
    if lane() % 2 == 0:
        sync()
        out[0] = x[0]
    else:
        out[0] = x[0]
        sync()


@kernel
def lane_dependent_result(x, out, work):
    return lane()


@kernel
def overlapping_matmul(x, out, work):
    matmul(x.reshape(1, x.size), x.reshape(x.size, 1), x[:1].reshape(1, 1))


def vectors(seed: int = 0, n: int = 40):
    """Arguments of the planted kernels, new at every call."""
    x = rng.normals(n, rng.stream(seed), rng.TASK)
    return lambda: (x.copy(), np.zeros(n, np.float32), np.zeros(n, np.float32))


def test_right_kernels_pass_and_compute_what_the_compiled_ones_do() -> None:
    lane_scheduler.check(neighbours, vectors(), scratch=(2,))
    compiled, interpreted = vectors()(), vectors()()
    neighbours(*compiled)
    lane_scheduler.run(neighbours, interpreted, 7)
    np.testing.assert_array_equal(interpreted[1], compiled[1])
    assert compiled[1][0] == 2 * compiled[0][0] + 2 * compiled[0][1]


@pytest.mark.parametrize("planted", [neighbours_without_sync, overwrites_what_others_read])
def test_a_missing_barrier_is_found_20_of_20_times(planted) -> None:
    for seed in range(20):
        with pytest.raises(LaneError, match="missing barrier"):
            lane_scheduler.check(planted, vectors(seed, 3 + seed), scratch=(2,), lane_counts=(1, 3))


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (barrier_in_a_branch, r"lane 0 waits in barrier_in_a_branch \(line \d+\), lane 1 has fin"),
        (early_return, r"lane 0 waits in early_return \(line \d+\), lane 2 has finished"),
        (one_barrier_or_the_other, r"lane 0 waits in one_b.*\(line \d+\), lane 1 waits in one_b"),
    ],
)
def test_a_divergent_barrier_is_named(planted, message: str) -> None:
    with pytest.raises(LaneError, match="divergent barrier: " + message):
        lane_scheduler.check(planted, vectors(), scratch=(2,))


def test_other_broken_rules_are_named() -> None:
    with pytest.raises(LaneError, match="2 lanes, ascending: lane 1 returned 1, lane 0 0"):
        lane_scheduler.check(lane_dependent_result, vectors())
    with pytest.raises(LaneError, match="out shares memory with a"):
        lane_scheduler.check(overlapping_matmul, vectors())


def test_an_error_inside_a_lane_reaches_the_caller() -> None:
    with pytest.raises(IndexError):
        lane_scheduler.check(neighbours, lambda: (*vectors()()[:2], np.zeros(3, np.float32)))


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 257])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_sum32_has_the_same_bits_for_any_number_of_lanes(n: int, scale: float) -> None:
    """... which are those of the definition: 32 partial sums, added in order."""
    x = np.float32(scale) * rng.normals(n, rng.stream(1), rng.TASK)
    partials = [np.float32(0.0)] * 32
    for i, value in enumerate(x):
        partials[i % 32] += value
    expected = np.float32(0.0)
    for p in partials:
        expected += p
    for count in (*LANE_COUNTS, 64):
        for order in lane_scheduler.ORDERS:
            work = np.full(32, np.nan, np.float32)
            assert lane_scheduler.run(sum32, (x, n, work), count, order) == [expected] * count
    assert sum32(x, n, np.full(32, np.nan, np.float32)) == expected
    assert abs(expected - x.sum(dtype=np.float64)) <= 1e-6 * abs(x).sum()


@pytest.mark.parametrize("transposed_a", [False, True])
@pytest.mark.parametrize("transposed_b", [False, True])
def test_matmul_takes_transposed_operands(transposed_a: bool, transposed_b: bool) -> None:
    m, k, n = 5, 33, 4
    a = rng.normals(m * k, rng.stream(2), rng.TASK).reshape(m, k)
    b = rng.normals(k * n, rng.stream(3), rng.TASK).reshape(k, n)
    a = np.asfortranarray(a) if transposed_a else a
    b = np.asfortranarray(b) if transposed_b else b
    expected = a.astype(np.float64) @ b.astype(np.float64)
    compiled = np.full((m, n), np.nan, np.float32)
    call_matmul(a, b, compiled)
    np.testing.assert_allclose(compiled, expected, rtol=0, atol=33 * 6e-8 * 10)
    lane_scheduler.check(call_matmul, lambda: (a, b, np.full((m, n), np.nan, np.float32)))


@kernel
def call_matmul(a, b, out):
    matmul(a, b, out)


@pytest.mark.parametrize("task", TASK_EXAMPLES, ids=lambda t: t.name)
def test_tasks_do_not_depend_on_the_lanes(task: Task) -> None:
    core = type(task).core
    lane_scheduler.check(core, task_arguments(task), scratch=(SCRATCH,))
    arguments, compiled = task_arguments(task)(), task_arguments(task)()
    loss = lane_scheduler.run(core, arguments, 3)[0]
    assert loss == pytest.approx(task.entry(*compiled), rel=1e-5)
    np.testing.assert_array_equal(arguments[0], compiled[0])
    scale = abs(compiled[1]).max()
    np.testing.assert_allclose(arguments[1], compiled[1], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("task", TASK_EXAMPLES, ids=lambda t: t.name)
def test_tasks_leave_the_gradient_alone_unless_asked(task: Task) -> None:
    lane_scheduler.check(
        type(task).core, task_arguments(task, 0), scratch=(SCRATCH,), lane_counts=(1, 3)
    )
    arguments = task_arguments(task, 0)()
    lane_scheduler.run(type(task).core, arguments, 3)
    assert (arguments[1] == 7.0).all()


@pytest.mark.parametrize(("opt", "is_valid"), OPTIMIZER_CASES, ids=str)
def test_optimizers_do_not_depend_on_the_lanes(opt: Optimizer, is_valid: int) -> None:
    core = type(opt).core
    make = optimizer_arguments(opt, is_valid)
    lane_scheduler.check(core, make, scratch=(SCRATCH,))
    arguments, compiled = make(), make()
    assert lane_scheduler.run(core, arguments, 3)[0] == opt.entry(*compiled) == 0
    moved = abs(compiled[1] - make()[1]).max()
    assert (moved == 0.0) == bool(is_valid)
    np.testing.assert_allclose(arguments[1], compiled[1], rtol=0, atol=1e-5 * moved + 1e-7)
    np.testing.assert_allclose(arguments[3], compiled[3], rtol=1e-4, atol=1e-6)


def test_entry_points_compile_on_first_use() -> None:
    point = entry_point("float64(float64)")(lambda x: 2.0 * x)
    assert "compiled" not in vars(point)
    assert point.compiled(3.0) == 6.0
