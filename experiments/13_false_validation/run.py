"""Show optimizers validation losses that rise or fall by a false factor, and measure the steps they then take.

python experiments/13_false_validation/run.py --out runs/false_validation
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from plot import PICTURE, draw, report

from lopt import rng
from lopt.comparison import Entrant, EntrantSpec, entrants_of
from lopt.config import Section
from lopt.experiment import begin, command_line, save_results
from lopt.lanes import pin_blas_threads
from lopt.task import INNER_VALID, TRAIN, Task
from lopt.tasks import parse_task

HERE = Path(__file__).parent


class Config(Section, kw_only=True):
    """config.toml."""

    task: str
    steps: int
    seeds: int
    valid_every: int
    begin: int
    every: int
    feeds: dict[str, float]
    entrants: tuple[EntrantSpec, ...]


class Training(NamedTuple):
    """Of every step: its RMS over parameters, and the training loss before it; both (steps,).  Final params (N,)."""

    step_rms: np.ndarray
    train_loss: np.ndarray
    params: np.ndarray


def main() -> int:
    """All trainings, picture, table; the exit code says whether expected.toml was met."""
    args, config = begin(command_line(__doc__), HERE, Config)
    entrants = entrants_of(config.entrants, args.config.parent, config.steps)
    task, kept = parse_task(config.task), []
    for entrant in entrants:
        runs = [
            [train(task, entrant, config, growth, seed) for seed in range(config.seeds)]
            for growth in config.feeds.values()
        ]
        kept.append([[(r.step_rms, r.train_loss) for r in seeds] for seeds in runs])
    # (entrant, feed, seed, quantity, point)
    means = np.array(kept).reshape(*np.shape(kept)[:-1], -1, config.every).mean(axis=-1)
    rms, losses = np.moveaxis(means, -2, 0).astype(np.float32)
    save_results(
        args.out / "responses.h5",
        {
            "steps": np.arange(config.every, config.steps + 1, config.every),
            "step_rms": rms,  # (entrant, feed, seed, point)
            "train_loss": losses,
        },
        entrants=[e.info.label for e in entrants],
        specs=[e.info.spec for e in entrants],
        begin=config.begin,
        feeds=list(config.feeds),
        task=config.task,
    )
    draw(args.out, args.out / PICTURE)
    return report(args.out)


def train(task: Task, entrant: Entrant, config: Config, growth: float, seed: int) -> Training:
    """A training with the batches of a rollout; each validation loss from `begin` on has one more factor `growth`."""
    pin_blas_threads()
    opt, theta, stream = entrant.opt, entrant.theta, rng.stream(seed)
    params, data = task.init(stream), opt.opt_data(task.layout)
    state, grad = opt.init_state(theta, task.layout), np.zeros_like(params)
    work = np.zeros(opt.work_size(task.layout), np.float32)
    scratch = np.zeros(task.work_size(task.batch_size), np.float32)

    def loss(split: int, t: int, with_grad: int) -> float:
        rows = rng.integers(
            task.batch_size, *task.splits[split], stream, rng.BATCH + split, t
        ).astype(np.int64)
        return task.entry(params, grad, task.arrays, rows, stream, split, t, scratch, with_grad)

    rms, losses = np.zeros(config.steps), np.zeros(config.steps)
    for t in range(config.steps):
        if opt.uses_valid_loss and t % config.valid_every == 0:
            calls = max(0, t - config.begin) // config.valid_every
            shown = loss(INNER_VALID, t, 0) * growth**calls
            opt.step(theta, params, grad, state, shown, 1, data, work)
        losses[t] = loss(TRAIN, t, 1)
        before = params.copy()
        opt.step(theta, params, grad, state, losses[t], 0, data, work)
        rms[t] = np.sqrt(np.mean((params - before).astype(np.float64) ** 2))
    return Training(rms, losses, params)


if __name__ == "__main__":
    sys.exit(main())
