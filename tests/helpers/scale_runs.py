"""Every estimator and every strategy of the registries on several ranks; as a program, one rank of it.

    python -m helpers.scale_runs ends FOLDER     where they end; rank 0 writes
    python -m helpers.scale_runs numbers         normals made after the exchange of losses

What a rank hands to MPI is counted at the communicator itself, not by those who call it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers.es_problems import Drift, Plain, settings
from helpers.mpi import counted
from helpers.strategy_runs import SEARCHES, bowl

from lopt import rng
from lopt.comm import Comm, SerialComm, aborting, get_comm
from lopt.es import ESTIMATORS, STRATEGIES, make_estimator, minimize, strategy
from lopt.es.gradient_strategy import GradientStrategy
from lopt.es.perturbation import NodeSum

PAIRS, D = 5, 240  # of counted steps
OPTIONS = {"low_rank": {"shapes": ((16, 15),)}, "noise_table": {"numbers": 1024}}


def least(name: str) -> dict[str, int]:
    """Settings for as few points as a strategy allows."""
    if not issubclass(STRATEGIES[name], GradientStrategy):
        return {"population": 4}
    return {"pairs": 2 if name == "second_order" else 1}


def ends(comm: Comm) -> dict[str, np.ndarray]:
    """Gradients of every estimator, last point and losses of every strategy's search: also with fewer points than ranks.

    Each search and each outer step is held to 8 bytes an evaluation, 16 a pair.
    """
    found = {}
    for name in ESTIMATORS:
        cfg = settings(estimator=name, pairs=3, truncation=2, difference="normalised")
        estimator = make_estimator(cfg, Drift(37, 2), comm, 11)
        theta, grads = np.linspace(-1, 1, 37, dtype=np.float32), []
        state = estimator.init(theta)
        for t in range(4):
            before = handed_over(comm)
            estimate, state = estimator.step(theta, t, state)
            assert handed_over(comm) - before == estimate.bytes_sent == 16 * 3, name
            theta = theta - np.float32(1e-3) * estimate.grad
            grads.append(estimate.grad)
        found[f"estimator {name}"] = np.array(grads)
    searches = {key: (name, 7, options) for key, (name, options) in SEARCHES.items()}
    searches |= {f"{name}, least": (name, 3, least(name)) for name in STRATEGIES}
    for key, (name, n, options) in searches.items():
        before = handed_over(comm)
        r = minimize(bowl, np.zeros(n), strategy=name, steps=3, seed=3, comm=comm, **options)
        assert r.bytes_sent == 8 * r.nfev, key
        start = 10 if comm.size > 1 else 0  # length and text of what was wrong with f(x0): ""
        assert handed_over(comm) - before == r.bytes_sent + start, key
        found[key] = np.append(r.x_last, [r.fun, r.nfev])
    return found


def handed_over(comm: Comm) -> int:
    """Bytes that this rank gave to collectives so far."""
    return comm._world.bytes if comm.size > 1 else sum(comm.sent.values())


def numbers_made(run: Callable[[], Any]) -> int:
    """Normals that this process makes in a call; kernels must be plain Python."""
    made, before = 0, {name: getattr(rng, name) for name in ("normals_into", "add_normals")}

    def counting(function: Callable) -> Callable:
        def call(out: np.ndarray, *arguments: Any) -> None:
            nonlocal made
            made += out.size
            function(out, *arguments)

        return call

    try:
        for name, function in before.items():
            setattr(rng, name, counting(function))
        run()
    finally:
        for name, function in before.items():
            setattr(rng, name, function)
    return made


def tells(comm: Comm) -> dict[str, int]:
    """Normals this rank makes in the second `tell` of every strategy, and in a step of every estimator.

    Also the pairs that it asks the estimators' problem about.
    """
    found, node = {}, NodeSum(comm, D)
    for key, name, options in [
        *((name, name, OPTIONS.get(name, {})) for name in STRATEGIES),
        ("orthogonal, chi", "orthogonal", {"radius": "chi"}),
    ]:
        size = {"pairs": PAIRS} if "pairs" in least(name) else {"population": 2 * PAIRS}
        strat = strategy(name, **size, **options)
        state = strat.init(D, 0)
        losses = np.random.default_rng(0).normal(size=strat.n_points(state))
        state = strat.tell(state, losses, node)
        found[key] = numbers_made(lambda s=strat, t=state, y=losses: s.tell(t, y, node))
    for name in ESTIMATORS:
        problem = Asked(lambda theta: float(theta @ theta), D)
        estimator = make_estimator(settings(estimator=name, pairs=PAIRS), problem, comm, 0)
        theta = np.ones(D, np.float32)
        state = estimator.init(theta)
        found[f"estimator {name}"] = numbers_made(
            lambda e=estimator, s=state, th=theta: e.step(th, 0, s)
        )
        found[f"asked by {name}"] = problem.asked
    return found


class Asked(Plain):
    """A function of theta that counts the pairs it was asked about."""

    asked = 0

    def cost(self, episode: int, pair: int) -> float:
        """All equal."""
        self.asked += 1
        return 1.0


def main(what: str, folder: str = "") -> None:
    """One rank."""
    comm = get_comm()
    if comm.size > 1:
        comm._world = counted(comm._world)
    with aborting(comm, debug=True):
        if what == "ends":
            found = ends(comm)
            if comm.rank == 0:
                np.savez(Path(folder) / "ends.npz", **found)
            return
        mine, plain = tells(comm), tells(SerialComm())
        for key in plain:
            every = np.zeros(comm.size)
            every[comm.rank] = mine[key]
            comm.allreduce_scalars(every, "control")
            if comm.rank == 0:
                print(key, plain[key], *every.astype(int), sep=";", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
