"""Follow optimizers on f(x, y) = (x - y)^2 / 2 from a grid of starts: every point of the diagonal is a minimum.

python experiments/09_implicit_regularisation/run.py --out runs/implicit
"""

import sys
from pathlib import Path

import h5py
import numpy as np
from plot import draw

from lopt.comparison import Entrant, EntrantSpec, entrants_of
from lopt.config import Section
from lopt.experiment import begin, command_line, toml, verdict

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
    with h5py.File(args.out / "trajectories.h5", "w") as file:
        file.attrs["entrants"] = [e.info.label for e in entrants]
        file.attrs["specs"] = [e.info.spec for e in entrants]
        file["starts"] = starts
        file["steps"] = np.arange(0, config.steps + 1, config.every)
        file["points"] = np.array(points, np.float32)  # (entrant, start, point, coordinate)
    draw(args.out)
    return report(args.out / "trajectories.h5")


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


def report(path: Path) -> int:
    """What became of x + y and of x - y; the verdict."""
    expected = toml(HERE / "expected.toml")
    missed = []
    with h5py.File(path) as file:
        names, points, steps = file.attrs["entrants"], file["points"][()], int(file["steps"][-1])
    print("optimizer                         x+y kept   towards 0 in   |x-y| left")
    for name, own in zip(names, points.astype(np.float64), strict=True):
        total, gap = own.sum(axis=-1), np.abs(own[..., 0] - own[..., 1])
        moved = (np.abs(total[:, 0]) > 1e-9) & (gap[:, 0] > 1e-9)
        share = total[moved, -1] / total[moved, 0]
        left = gap[gap[:, 0] > 0, -1] / gap[gap[:, 0] > 0, 0]
        nearer = 100 * np.mean(share < 1 - 1e-4)
        print(
            f"{name:30s} {100 * np.median(share):9.2f} % {nearer:11.0f} % {100 * np.median(left):10.3g} %"
        )
        if name in expected["shrinks"]:
            known = total[:, 0] * (1 - expected["shrinks"][name]) ** steps
            error = np.abs(total[:, -1] - known).max()
            if not error <= expected["error_at_most"]["sum"]:
                missed.append(f"{name}: x + y is off by {error:.2g}")
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
