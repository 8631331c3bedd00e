"""Follow optimizers on f(x, y) = (x - y)^2 / 2 from a grid of starts: every point of the diagonal is a minimum.

python experiments/09_implicit_regularisation/run.py --out runs/implicit
"""

import sys
from pathlib import Path

import numpy as np
from plot import PICTURE, draw, report

from lopt.comparison import Entrant, EntrantSpec, entrants_of
from lopt.config import Section
from lopt.experiment import begin, command_line, save_results

HERE = Path(__file__).parent


class Config(Section, kw_only=True):
    """config.toml."""

    low: float
    high: float
    per_side: int
    steps: int
    every: int
    valid_every: int
    entrants: tuple[EntrantSpec, ...]


def main() -> int:
    """Trajectories, picture, a line per optimizer; the exit code says whether expected.toml was met."""
    args, config = begin(command_line(__doc__), HERE, Config)
    entrants = entrants_of(config.entrants, args.config.parent, config.steps)
    side = np.linspace(config.low, config.high, config.per_side)
    starts = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    points = [[trajectory(e, start, config) for start in starts] for e in entrants]
    save_results(
        args.out / "trajectories.h5",
        {
            "starts": starts,
            "steps": np.arange(0, config.steps + 1, config.every),
            "points": np.array(points, np.float32),  # (entrant, start, point, coordinate)
        },
        entrants=[e.info.label for e in entrants],
        specs=[e.info.spec for e in entrants],
    )
    draw(args.out, args.out / PICTURE)
    return report(args.out)


def trajectory(entrant: Entrant, start: np.ndarray, config: Config) -> np.ndarray:
    """Points every so many steps, (M, 2) float32, the start first."""
    params = {"xy": start.astype(np.float32)}
    state, kept = entrant.opt.init(params, entrant.theta), [params["xy"]]
    for t in range(config.steps):
        x, y = params["xy"]
        loss, grad = 0.5 * float(x - y) ** 2, np.array([x - y, y - x])
        seen = loss if t % config.valid_every == 0 else None
        params, state = entrant.opt.update(params, {"xy": grad}, state, loss=loss, valid_loss=seen)
        if (t + 1) % config.every == 0:
            kept.append(params["xy"])
    return np.array(kept)


if __name__ == "__main__":
    sys.exit(main())
