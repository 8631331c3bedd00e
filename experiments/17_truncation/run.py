"""Measure the bias of meta-gradients by truncation length, then meta-train a learning rate with each of them.

python experiments/17_truncation/run.py --out runs/truncation

Killed and started again it goes on where it was.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from exact import fixed_points, gradient, lowest, meta_loss
from measure import Bias, bowl_of, of_balance, of_bowl
from plot import PICTURE, draw
from table import report

from lopt import config as cfg
from lopt import store
from lopt.comm import Comm, aborting, get_comm
from lopt.config import Section
from lopt.es import ESTIMATORS
from lopt.experiment import begin, command_line, save_results
from lopt.sweep import folder_name, trained

HERE = Path(__file__).parent


class Balance(Section, kw_only=True):
    """Influence balancing, and the estimate."""

    theta: float
    horizon: int
    truncations: tuple[int, ...]
    sigma: float
    pairs: int


class BowlGradient(Section, kw_only=True):
    """Where the meta-gradient is measured."""

    rate: float
    pairs: int


class Exact(Section, kw_only=True):
    """Simulated trainings."""

    episodes: int
    rates: tuple[float, float]
    points: int
    grid_episodes: int


class Config(Section, kw_only=True):
    """config.toml; `lopt` is a configuration of `lopt train`, but for what depends on the truncation."""

    estimators: tuple[str, ...]
    truncations: tuple[int, ...]
    starts: tuple[float, ...]
    inner_steps: int
    outer_rate: float
    averaged: int
    expected: str
    balance: Balance
    bowl: BowlGradient
    exact: Exact
    lopt: dict[str, Any]


def main() -> int:
    """Gradients, meta-trainings, picture, tables; the exit code says whether expected.toml was met."""
    args, config = begin(command_line(__doc__), HERE, Config)
    comm = get_comm()
    with aborting(comm):
        if comm.rank == 0:
            gradients(config, args.out)
        learned = meta_train(config, args.out, comm)
    if comm.rank != 0:
        return 0
    found = {**gathered(config, args.out), **rates(config, learned)}
    save_results(args.out / "truncation.h5", found, expected=config.expected)
    draw(args.out, args.out / PICTURE)
    return report(args.out)


def gradients(config: Config, out: Path) -> None:
    """What is not there yet of DIR/gradient_PROBLEM_ESTIMATOR_K.h5."""
    at = config.balance
    for name, truncation in itertools.product(config.estimators, at.truncations):
        if not (path := out / f"gradient_balance_{name}_{truncation}.h5").exists():
            found = of_balance(name, truncation, at.horizon, at.theta, pairs=at.pairs, sigma=at.sigma)  # fmt: skip
            keep(path, found)
    for name, truncation in itertools.product(config.estimators, config.truncations):
        if not (path := out / f"gradient_bowl_{name}_{truncation}.h5").exists():
            theta, lopt = np.log(config.bowl.rate), run_config(config, name, truncation, 1.0)
            keep(path, of_bowl(name, lopt, theta, config.bowl.pairs, config.exact.episodes))


def run_config(config: Config, name: str, truncation: int, start: float) -> cfg.Config:
    """`lopt train` with an estimator and a truncation: equal inner steps, and equal steps of theta per episode."""
    base = cfg.convert(config.lopt, cfg.Config)
    pairs, episode = base.es.pairs, truncation / base.es.horizon[1]
    members = getattr(ESTIMATORS[name], "runs", 2)
    changes = {
        "es.estimator": f"'{name}'",
        "es.truncation": truncation,
        "optimizer.options.learning_rate": start,
        "outer.options.learning_rate": config.outer_rate * episode,
        "outer.ema": 1.0 - episode / config.averaged,
        "train.outer_steps": config.inner_steps // (members * pairs * truncation),
    }
    return cfg.apply_overrides(base, [f"{key}={value}" for key, value in changes.items()])


def meta_train(config: Config, out: Path, comm: Comm) -> np.ndarray:
    """Averaged theta of every run, (estimator, truncation, start)."""
    found = np.zeros((len(config.estimators), len(config.truncations), len(config.starts)))
    for (i, name), (j, truncation), (k, start) in itertools.product(
        enumerate(config.estimators), enumerate(config.truncations), enumerate(config.starts)
    ):
        folder = out / folder_name(f"{name} {truncation} from {start:g}")
        trained(run_config(config, name, truncation, start), folder, comm)
        found[i, j, k] = store.load_weights(folder / "weights.h5").theta[0]
    return found


def rates(config: Config, learned: np.ndarray) -> dict[str, np.ndarray]:
    """Learned rates, what they cost, the best rate, and where truncated ES is to come to rest."""
    base = run_config(config, "full", config.truncations[-1], 1.0)
    bowl, exact = bowl_of(base), config.exact
    grid = np.linspace(*np.log(exact.rates), exact.points)
    losses = np.array([meta_loss(bowl, theta, exact.grid_episodes).value for theta in grid])
    best = lowest(grid, losses)
    least = meta_loss(bowl, best, exact.episodes).value
    excess = [meta_loss(bowl, theta, exact.episodes).value - least for theta in learned.ravel()]
    rest = []
    for truncation in config.truncations:
        slopes = [
            gradient(bowl, theta, "truncated", truncation, base.es.sigma, exact.grid_episodes).value
            for theta in grid
        ]
        rest.append((fixed_points(grid, np.array(slopes)) or [np.nan])[0])
    return {
        "starts": np.array(config.starts),
        "theta": learned,
        "excess": np.reshape(excess, learned.shape),
        "best": np.array(best),
        "rest": np.array(rest),
    }


def keep(path: Path, bias: Bias) -> None:
    """One measured gradient."""
    save_results(
        path, {"measured": bias.measured, "deviation": bias.deviation, "exact": bias.exact}
    )


def gathered(config: Config, out: Path) -> dict[str, np.ndarray]:
    """All gradients of a problem: measured, its error, deviation of an episode, exact, its error; by estimator and K."""
    found = {"estimators": np.array(config.estimators, "S")}
    for problem, lengths in (
        ("balance", config.balance.truncations),
        ("bowl", config.truncations),
    ):
        rows = [
            [kept(out, problem, name, truncation) for truncation in lengths]
            for name in config.estimators
        ]
        found |= {problem: np.array(rows), f"{problem}_truncations": np.array(lengths)}
    return found


def kept(out: Path, problem: str, name: str, truncation: int) -> np.ndarray:
    """What `keep` has written, (5,)."""
    with h5py.File(out / f"gradient_{problem}_{name}_{truncation}.h5") as file:
        return np.hstack([file[key][()] for key in ("measured", "deviation", "exact")])


if __name__ == "__main__":
    sys.exit(main())
