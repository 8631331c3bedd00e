"""Strategies run step by step, for tests; as a program: a search with each of them on several ranks."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lopt.comm import SerialComm
from lopt.es import STRATEGIES, Strategy, minimize
from lopt.es.perturbation import NodeSum

Loss = Callable[[np.ndarray], np.ndarray]  # (n, D) float64 -> (n,)

SEARCHES = {  # name of a search: strategy and settings
    **{name: (name, {}) for name in STRATEGIES},
    "one_point, none": ("one_point", {"baseline": "none", "shaping": "raw", "pairs": 5}),
    "orthogonal, 2 sets, chi": ("orthogonal", {"pairs": 9, "radius": "chi"}),
    "surrogate, few": ("surrogate", {"pairs": 4}),
    "surrogate, quadratic": ("surrogate", {"model": "quadratic"}),
    "low_rank, 2 pieces": ("low_rank", {"shapes": ((2, 3), (1,)), "rank": 2}),
    "reuse, normalised": ("reuse", {"normalised": True, "sigma": 1.0}),
    "importance, normalised": ("importance", {"normalised": True}),
    "guided, 3": ("guided", {"subspace": 3, "shaping": "ranks"}),
    "control_variate, few": ("control_variate", {"pairs": 3}),
    "snes, 20": ("snes", {"population": 20}),
    "pycma, diagonal": ("pycma", {"options": {"CMA_diagonal": True}}),
}
if importlib.util.find_spec("cma") is None:
    SEARCHES = {key: kind for key, kind in SEARCHES.items() if kind[0] != "pycma"}


def node(n: int) -> NodeSum:
    """A node of one rank."""
    return NodeSum(SerialComm(), n)


def points(strat: Strategy, state) -> np.ndarray:
    """All points of the next step, (n_points, D) of theta's dtype."""
    out = np.empty((strat.n_points(state), state.theta.size), state.theta.dtype)
    for i, row in enumerate(out):
        strat.point(state, i, row)
    return out


def losses_of(strat: Strategy, state, f: Loss) -> np.ndarray:
    """Their losses."""
    return f(points(strat, state).astype(np.float64))


def placed(strat: Strategy, centre: np.ndarray, seed: int = 0, **memory: np.ndarray):
    """State of a gradient strategy at a centre, with some of its memory replaced."""
    state = strat.init(centre.size, seed)
    centre = centre.astype(np.float32)
    return dataclasses.replace(
        state, theta=centre, centre=centre, memory={**state.memory, **memory}
    )


def estimates(strat: Strategy, state, f: Loss, n: int) -> np.ndarray:
    """Gradients of n independent steps from the same state, (n, D) float64."""
    shared, found = node(state.theta.size), np.empty((n, state.theta.size))
    for step in range(n):
        state = dataclasses.replace(state, step=step + 1)
        found[step] = strat.gradient(state, losses_of(strat, state, f), shared)
    return found


def bowl(x: np.ndarray) -> float:
    """A quadratic with its minimum off the start, different curvatures, coordinates that interact."""
    y = x - 0.3 * np.arange(1, x.size + 1)
    return float(np.sum(np.arange(1, x.size + 1) * y**2) + 0.1 * np.sum(y) ** 2)


def main(folder: str) -> None:
    """Search the bowl with every strategy on all ranks of the launcher; rank 0 saves where they end."""
    ends = {}
    for key, (name, options) in SEARCHES.items():
        ends[key] = minimize(bowl, np.zeros(7), strategy=name, steps=5, seed=3, **options)
    if _rank() == 0:
        last = {k: np.append(r.x_last, [r.fun, r.nfev]) for k, r in ends.items()}
        np.savez(Path(folder) / "ends.npz", **last)


def _rank() -> int:
    """This rank of the launcher's."""
    from mpi4py import MPI

    return MPI.COMM_WORLD.rank


if __name__ == "__main__":
    main(*sys.argv[1:])
