"""Show optimizers validation losses that rise or fall by a false factor, and measure the steps they then take.

python experiments/13_false_validation/run.py --out runs/false_validation
"""

import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from plot import draw

from lopt import rng
from lopt.comparison import Entrant, EntrantSpec, entrants_of
from lopt.config import Section
from lopt.experiment import begin, command_line, toml, verdict
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
    with h5py.File(args.out / "responses.h5", "w") as file:
        file.attrs.update({"entrants": [e.info.label for e in entrants], "begin": config.begin})
        file.attrs.update({"feeds": list(config.feeds), "task": config.task})
        file["steps"] = np.arange(config.every, config.steps + 1, config.every)
        file["step_rms"], file["train_loss"] = np.moveaxis(means, -2, 0)
    draw(args.out)
    return report(args.out / "responses.h5")


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


def report(path: Path) -> int:
    """Steps under false losses over those under true ones, from where on they are false; the verdict."""
    with h5py.File(path) as file:
        names, feeds = list(file.attrs["entrants"]), list(file.attrs["feeds"])
        late = file["steps"][()] > file.attrs["begin"]
        rms, losses = file["step_rms"][()], file["train_loss"][()]
    same = {name: bool((own == own[:1]).all()) for name, own in zip(names, rms, strict=True)}
    print("| optimizer | validation losses | step over that of true ones | final training loss |")
    print("|---|---|---|---|")
    for name, own, final in zip(names, rms, losses[..., -1], strict=True):
        size = own[..., late].mean(axis=-1)  # (feed, seed)
        for feed, ratio, end in zip(feeds, size / size[0], final, strict=True):
            print(f"| {name} | {feed} | {np.median(ratio):.4f} | {np.median(end):.4g} |")
    expected = toml(HERE / "expected.toml")
    missed = [f"{n}: steps differ" for n in expected["blind"] if not same[n]]
    missed += [f"{n}: no answer" for n in expected["answers"] if same[n]]
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
