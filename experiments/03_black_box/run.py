"""Search for policies, a classifier and the bottom of a valley, none of which has a gradient.

python experiments/03_black_box/run.py --out runs/black_box [--only pendulum] [--seeds 3]
mpirun -n 2 python experiments/03_black_box/run.py --out runs/black_box        # the same numbers
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from classifier import Classifier
from control import Control
from landscape import Landscape

import lopt
from lopt.comm import Comm, aborting, get_comm
from lopt.experiment import command_line, toml
from lopt.lanes import pin_blas_threads
from lopt.store import SearchReader

HERE = Path(__file__).parent


def problem(name: str, options: dict[str, Any]) -> Any:
    """An objective with x0, search(x, key) and test(x)."""
    if name == "classifier":
        return Classifier(**options)
    return Landscape(**options) if name == "landscape" else Control(name, **options)


def main() -> int:
    """Searches that are not there yet, then a table; the exit code says whether expected.toml was met."""
    config, parser = toml(HERE / "config.toml"), command_line(__doc__)
    parser.add_argument("--only", choices=config)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    pin_blas_threads()
    names = [args.only] if args.only else list(config)
    comm = get_comm()
    with aborting(comm):
        for name in names:
            for seed in range(args.seeds):
                search(name, config[name], args.out / name / f"seed{seed}", seed, comm)
    return report(names, config, args) if comm.rank == 0 else 0


def search(name: str, config: dict[str, Any], out: Path, seed: int, comm: Comm) -> None:
    """One search; that of the landscape also keeps its points, for the picture."""
    if comm.bcast((out / "search.h5").exists()):
        return
    made = problem(name, config["problem"])
    path = [made.x0]

    def note(result: Any) -> None:
        path.append(result.x_last)

    common = {"seed": seed, "out": out, "comm": comm, **config["search"]}
    lopt.es.minimize(
        made.search, made.x0, keyed=True, callback=note if name == "landscape" else None, **common
    )
    if name == "landscape" and comm.rank == 0:
        with h5py.File(out / "path.h5", "w") as file:
            file["centre"] = np.array(path)
            file["points"] = points(np.array(path[:-1]), seed, config["search"])
            file.attrs["terraces"] = made.terraces


def points(centres: np.ndarray, seed: int, options: dict[str, Any]) -> np.ndarray:
    """All points of all steps, (steps, 2 P, D): functions of the seed, so nobody had to keep them."""
    strat = lopt.es.strategy("antithetic", **{k: v for k, v in options.items() if k != "steps"})
    made = np.empty((len(centres), 2 * options["pairs"], centres.shape[1]), np.float32)
    arrays = strat.arrays(strat.init(centres.shape[1], seed))
    for step, centre in enumerate(centres):
        theta = (centre - centres[0]).astype(np.float32)
        counters = np.array([seed, step], np.int64)
        state = strat.load({**arrays, "centre": theta, "counters": counters})
        for i in range(made.shape[1]):
            strat.point(state, i, made[step, i])
    return made + centres[0]


def report(names: list[str], config: dict[str, Any], args: argparse.Namespace) -> int:
    """Print the losses of the answers on unseen cases, and the verdict."""
    expected = toml(HERE / "expected.toml")
    met = True
    for name in names:
        made, losses = problem(name, config[name]["problem"]), []
        for seed in range(args.seeds):
            found = SearchReader(args.out / name / f"seed{seed}" / "search.h5")
            losses.append(made.test(found.x))
        good = max(losses) <= expected[name]
        met = met and good
        print(
            f"{name:<11} {made.x0.size:>5} coordinates, {found['evaluations'][-1]:>6} evaluations, "
            f"{found['wall_s'][-1]:6.1f} s: {made.test(made.x0):.3f} -> "
            f"{', '.join(f'{v:.3f}' for v in losses)} {'as' if good else 'NOT as'} expected "
            f"(at most {expected[name]:g})"
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
