"""Seconds of a step and bytes of state of every optimizer, the gradient given.

python experiments/11_cost/run.py --out runs/cost
"""

import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from plot import PICTURE, draw, report

from lopt import rng
from lopt.comparison import Entrant, EntrantSpec, entrants_of
from lopt.config import Section
from lopt.experiment import begin, command_line, save_results
from lopt.lanes import pin_blas_threads
from lopt.layout import Layout
from lopt.optimizer import OPTIMIZERS

HERE = Path(__file__).parent


class Config(Section, kw_only=True):
    """config.toml."""

    parameters: tuple[int, ...]
    repeats: int
    at_least: float
    entrants: tuple[EntrantSpec, ...] = ()


def main() -> int:
    """Measurements, picture, table; the exit code says whether expected.toml was met."""
    args, config = begin(command_line(__doc__), HERE, Config)
    pin_blas_threads()
    specs = [*(EntrantSpec(optimizer=name) for name in OPTIMIZERS), *config.entrants]
    entrants = entrants_of(specs, args.config.parent, steps=1)  # where a cosine ends costs nothing
    layouts = [matrix(n) for n in config.parameters]
    save_results(
        args.out / "cost.h5",
        {
            "parameters": config.parameters,
            "seconds": [[step_seconds(e, x, config) for x in layouts] for e in entrants],
            "state_bytes": [[4 * e.opt.state_size(x) for x in layouts] for e in entrants],
            "scratch_bytes": [[4 * e.opt.work_size(x) for x in layouts] for e in entrants],
        },
        entrants=[e.info.label for e in entrants],
        learned=[not hasattr(e.opt, "learning_rate") for e in entrants],
    )
    draw(args.out, args.out / PICTURE)
    return report(args.out)


def matrix(n: int) -> Layout:
    """One matrix of n elements."""
    rows = next(d for d in range(math.isqrt(n), 0, -1) if n % d == 0)
    return Layout([("w", (rows, n // rows))])


def step_seconds(entrant: Entrant, layout: Layout, config: Config) -> float:
    """The thread's own seconds of a step; median of the repeats."""
    opt, theta, data = entrant.opt, entrant.theta, entrant.opt.opt_data(layout)
    state, work = opt.init_state(theta, layout), np.zeros(opt.work_size(layout), np.float32)
    params = rng.normals(layout.size, rng.stream(0), rng.INIT)
    noise = np.float32(0.01) * rng.normals(layout.size, rng.stream(1), rng.INIT)

    def seconds(steps: int) -> float:
        grad = noise.copy()  # optimizers may use it as scratch
        begin = time.thread_time()
        for _ in range(steps):
            opt.step(theta, params, grad, state, 1.0, 0, data, work)
        return time.thread_time() - begin

    seconds(1)
    steps = 1
    while seconds(steps) < config.at_least:
        steps *= 2
    return statistics.median(seconds(steps) / steps for _ in range(config.repeats))


if __name__ == "__main__":
    sys.exit(main())
