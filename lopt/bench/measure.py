"""What a measured number is, and the yardsticks beside it.

Machines differ and are shared: a figure is a median of repeats, by the thread's own time wherever one thread does all the
work, with the 2048^3 sgemm rate of the same moment beside it.  A floor is what arithmetic alone allows: operations at
that rate, bytes at the rate of a copy of equal size.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lopt import rng
from lopt.lanes import pin_blas_threads
from lopt.task import TRAIN, Task

REPEATS = 5
ENOUGH_S = 1.0  # stop repeating a step after so many seconds
CLOCK = time.thread_time
JAX = "google/learned_optimization (JAX)"


class Measured(NamedTuple):
    """The outcome of a measurement."""

    value: float | None  # None: it could not be measured, and `note` says why
    sgemm: float | None = None  # GFLOP/s of this moment
    floor: float | None = None  # the value that operations and bytes alone allow
    note: str = ""


class Figure(NamedTuple):
    """One row of the table."""

    name: str
    value: float | None
    unit: str
    asked: float | None = None
    at_most: bool = False  # whether smaller is better
    peer: str = ""
    peer_value: float | None = None  # recorded on another machine of equal sgemm rate
    sgemm: float | None = None
    floor: float | None = None
    expected: float | None = None  # by a closed form
    error: float | None = None  # standard error of the value
    note: str = ""

    @property
    def share(self) -> float | None:
        """How much of what arithmetic alone allows was reached, at most 1."""
        if self.floor is None or not self.value:
            return None
        return self.floor / self.value if self.at_most else self.value / self.floor

    @property
    def reached(self) -> bool | None:
        """Whether the value is what was asked; None where nothing was."""
        if self.asked is None or self.value is None:
            return None
        return self.value <= self.asked if self.at_most else self.value >= self.asked


class Row(NamedTuple):
    """What is known of a row before it is measured."""

    name: str
    unit: str
    measure: Callable[[], Measured]
    asked: float | None = None
    at_most: bool = False
    peer: str = ""
    peer_value: float | None = None

    def figure(self) -> Figure:
        """Measure it."""
        return self.filled(self.measure())

    def filled(self, m: Measured) -> Figure:
        """The row with its outcome."""
        return Figure(
            self.name, m.value, self.unit, self.asked, self.at_most, self.peer, self.peer_value,
            m.sgemm, m.floor, note=m.note,
        )  # fmt: skip


def number(x: float) -> str:
    """Three digits, or all before the point."""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def median_seconds(
    run: Callable[[], object], repeats: int = 7, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median time of a call, after one warm-up; wall time unless another clock is given."""
    run()
    times = []
    for _ in range(repeats):
        begin = clock()
        run()
        times.append(clock() - begin)
    return statistics.median(times)


def sgemm_rate(
    n: int = 2048, clock: Callable[[], float] = time.perf_counter, repeats: int = 5
) -> float:
    """GFLOP/s of an n x n x n float32 matrix product on one thread: the yardstick."""
    pin_blas_threads()
    a, b = (np.random.default_rng(i).random((n, n), np.float32) for i in range(2))
    out = np.empty((n, n), np.float32)
    return 2 * n**3 / median_seconds(lambda: np.dot(a, b, out), repeats, clock) / 1e9


def copy_rate(n_bytes: float) -> float:
    """Bytes per second that a copy reads and writes, both together, where both together take `n_bytes`."""
    source = np.ones(max(1, int(n_bytes) // 8), np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: np.copyto(target, source), 9, CLOCK)


def beside_sgemm(run: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Thread's seconds of a call and GFLOP/s of sgemm, medians of repeats that alternate."""
    run()
    seconds, rates = [], []
    for _ in range(repeats):
        rates.append(sgemm_rate(clock=CLOCK, repeats=1))
        begin = CLOCK()
        run()
        seconds.append(CLOCK() - begin)
    return statistics.median(seconds), statistics.median(rates)


def step_ms(task: Task) -> float:
    """Milliseconds of a core for one loss and gradient on a training batch: lower quartile of calls after the first.

    The thread's own time, so that other processes on the machine hardly count.
    """
    pin_blas_threads()
    stream = rng.stream(0)
    params, rows = task.init(stream), np.empty(task.batch_size, np.int64)
    grad = np.empty_like(params)
    work = np.zeros(task.work_size(rows.size), np.float32)
    times: list[float] = []
    for step in range(REPEATS + 1):
        rows[:] = rng.integers(rows.size, *task.splits[TRAIN], stream, rng.BATCH + TRAIN, step)
        begin = CLOCK()
        task.entry(params, grad, task.arrays, rows, stream, TRAIN, step, work, 1)
        times.append(CLOCK() - begin)
        if sum(times) > ENOUGH_S and step > 0:
            break
    return 1e3 * float(np.quantile(times[1:], 0.25))
