"""Evolution strategies: noise, sums over it, whole steps, memory and bytes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from lopt import rng
from lopt.bench import noise
from lopt.bench.measure import CLOCK, Figure, Measured, Row, median_seconds, sgemm_rate
from lopt.comm import SerialComm
from lopt.es import minimize, strategy
from lopt.es.perturbation import NodeSum, streams, sum_normals

SHAPES = ((35_000, 256), (1_000_000, 64))  # coordinates, and pairs or points
COORDINATES = 2_000_000  # of the search whose memory is measured
EVOSAX = "evosax Open_ES"


def figures() -> Iterator[Figure]:
    """Rows of issue 4's numbers, then both ways of making noise."""
    for row in ROWS:
        yield row.figure()
    yield from noise.figures()


def accumulation(n: int, pairs: int) -> Measured:
    """Nanoseconds per element of a gradient's rebuilding: every perturbation made once and added up."""
    seconds = median_seconds(_sum_over_pairs(n, pairs), 3, CLOCK)
    return Measured(1e9 * seconds / n / pairs, sgemm_rate(clock=CLOCK, repeats=3))


def whole_step(n: int, points: int) -> Measured:
    """Nanoseconds per element of asking for all points and telling their losses."""
    seconds = median_seconds(ask_and_tell(n, points // 2), 3, CLOCK)
    return Measured(1e9 * seconds / n / points, sgemm_rate(clock=CLOCK, repeats=3))


def _sum_over_pairs(n: int, pairs: int) -> Callable[[], object]:
    """The gradient of `pairs` losses: every perturbation made once and added up."""
    node = NodeSum(SerialComm(), n)
    table, coefs = streams(0, 0, pairs), np.full(pairs, 0.1, np.float32)
    return lambda: node.rebuild(
        lambda out, start: sum_normals(out, start, coefs, table, rng.PERTURB)
    )


def ask_and_tell(n: int, pairs: int) -> Callable[[], object]:
    """A step without evaluations: all points made one by one, then the next state."""
    strat, node = strategy("antithetic", pairs=pairs), NodeSum(SerialComm(), n)
    state, point = strat.init(n, 0), np.empty(n, np.float32)
    losses = np.random.default_rng(0).random(2 * pairs)

    def step() -> None:
        for i in range(2 * pairs):
            strat.point(state, i, point)
        strat.tell(state, losses, node)

    return step


# What a process of its own takes for a step beyond what it had before, in bytes.
_MEMORY = """
import sys
from lopt.bench.es import ask_and_tell
from lopt.memory import forget_peak, peak_memory
n, pairs = int(sys.argv[1]), int(sys.argv[2])
ask_and_tell(5000, 2)()
forget_peak()
before = peak_memory()
ask_and_tell(n, pairs)()
print(peak_memory() - before)
"""


def floats_of_a_step(n: int, pairs: int) -> float:
    """Peak memory of a process that makes and tells all points of n coordinates, in floats (4 bytes) for each."""
    ask_and_tell(5000, 2)()  # so that the other process finds its kernels on disk
    command = [sys.executable, "-c", _MEMORY, str(n), str(pairs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / (4 * n)


def bytes_of_a_pair(pairs: int = 7, steps: int = 10) -> float:
    """Bytes that a rank gives to the exchange in a step, per pair: a long search less a short one."""
    sent = []
    for n in (1, 1 + steps):
        comm = SerialComm()
        minimize(
            lambda x: float(x @ x),
            np.ones(3),
            strategy="antithetic",
            pairs=pairs,
            steps=n,
            comm=comm,
        )
        sent.append(sum(comm.sent.values()))
    return (sent[1] - sent[0]) / (steps * pairs)


ROWS = (
    *(
        Row(f"noise + accumulation, {n} x {p} pairs", "ns/element", partial(accumulation, n, p), 4.0, True, EVOSAX, 22.0)
        for n, p in SHAPES
    ),
    *(
        Row(f"ask + tell of antithetic ES, {n} x {p} points", "ns/element", partial(whole_step, n, p), None, True, EVOSAX, 22.0)
        for n, p in SHAPES
    ),
    *(
        Row(
            f"peak memory of its step, {COORDINATES} x {2 * p} points", "floats/coordinate",
            lambda p=p: Measured(floats_of_a_step(COORDINATES, p)), 12.0, True,
        )
        for p in (4, 64)
    ),
    Row("allreduced bytes of an outer step", "/pair", lambda: Measured(bytes_of_a_pair()), 16.0, True),
)  # fmt: skip
