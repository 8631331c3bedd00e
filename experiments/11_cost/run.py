"""Seconds of a step and bytes of state of every optimizer, the gradient given.

python experiments/11_cost/run.py --out runs/cost
"""

import math
import statistics
import sys
import time
from pathlib import Path

import h5py
import numpy as np
from plot import draw

from lopt import rng
from lopt.comparison import Entrant, EntrantSpec, entrants_of
from lopt.config import Section
from lopt.experiment import begin, command_line, toml, verdict
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
    with h5py.File(args.out / "cost.h5", "w") as file:
        file.attrs["entrants"] = [e.info.label for e in entrants]
        file.attrs["learned"] = [not hasattr(e.opt, "learning_rate") for e in entrants]
        file["parameters"] = config.parameters
        file["seconds"] = [[step_seconds(e, x, config) for x in layouts] for e in entrants]
        file["state_bytes"] = [[4 * e.opt.state_size(x) for x in layouts] for e in entrants]
        file["scratch_bytes"] = [[4 * e.opt.work_size(x) for x in layouts] for e in entrants]
    draw(args.out)
    return report(args.out / "cost.h5")


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


def report(path: Path) -> int:
    """A line per optimizer, and the verdict on bytes of state."""
    with h5py.File(path) as file:
        names, n = list(file.attrs["entrants"]), file["parameters"][()]
        seconds, state, scratch = (file[k][()] for k in ("seconds", "state_bytes", "scratch_bytes"))
    stored = dict(zip(names, state[:, -1] / n[-1], strict=True))
    print(
        f"| optimizer | us a call with {n[0]} | ns per parameter of {n[-1]} | state, bytes each | scratch, bytes each |"
    )
    print("|---|---|---|---|---|")
    for k, name in enumerate(names):
        us, ns = 1e6 * seconds[k, 0], 1e9 * seconds[k, -1] / n[-1]
        print(
            f"| {name} | {us:.1f} | {ns:.2f} | {stored[name]:.2f} | {scratch[k, -1] / n[-1]:.2f} |"
        )
    expected = toml(HERE / "expected.toml")
    missed = [
        f"{name}: {stored[name]:.2f} bytes of state per parameter, not {known}"
        for name, known in expected["state_bytes"].items()
        if not abs(stored[name] - known) <= 0.01 * max(known, 1)
    ]
    missed += [
        f"{name}: {stored[name]:.2f} bytes of state per parameter, not {times} times those of Adam"
        for name, times in expected["at_least_adam"].items()
        if stored[name] < times * stored["adam"]
    ]
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
