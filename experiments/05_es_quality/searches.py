"""One search by lopt, by the package `cma`, or by evosax's OpenES, from the same start with the same unit of length."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from functions import Record

import lopt
from lopt.comm import SerialComm


def by_lopt(
    f: Record, x0: np.ndarray, scale: float, budget: int, seed: int, **settings: Any
) -> None:
    """`lopt.es.minimize`; cosine: the learning rate falls to 0 over the whole search."""
    if settings.pop("cosine", False):
        settings["decay_steps"] = budget // (2 * settings["pairs"])
    lopt.es.minimize(
        f,
        x0,
        scale=scale,
        seed=seed,
        max_evaluations=budget,
        batched=True,
        comm=SerialComm(),
        **settings,
    )


def by_cma(
    f: Record,
    x0: np.ndarray,
    scale: float,
    budget: int,
    seed: int,
    sigma: float,
    options: dict[str, Any] | None = None,
) -> None:
    """`cma.CMAEvolutionStrategy` until it stops by itself or the evaluations are used up."""
    import cma

    given = {"seed": seed + 1, "maxfevals": budget, "verbose": -9, **(options or {})}
    search = cma.CMAEvolutionStrategy(x0, sigma * scale, given)
    while not search.stop():
        points = search.ask()
        search.tell(points, f(np.array(points)).tolist())


def by_evosax(
    f: Record,
    x0: np.ndarray,
    scale: float,
    budget: int,
    seed: int,
    pairs: int,
    sigma: float,
    learning_rate: float,
) -> None:
    """evosax's Open_ES: centred ranks, Adam with a cosine to 0, a constant sigma."""
    import jax

    steps = (budget - 1) // (2 * pairs)
    strat, ask, tell = _open_es(x0.size, pairs, sigma, learning_rate, steps)
    key, params = jax.random.key(seed), strat.default_params
    state = strat.init(key, np.zeros(x0.size, np.float32), params)
    for _ in range(steps):
        key, first, second = jax.random.split(key, 3)
        points, state = ask(first, state, params)
        values = f(x0 + scale * np.asarray(points, np.float64))
        state, _ = tell(second, points, values.astype(np.float32), state, params)
    f(x0[None] + scale * np.asarray(strat.get_mean(state), np.float64))  # as lopt does: its answer


@functools.cache
def _open_es(n: int, pairs: int, sigma: float, learning_rate: float, steps: int) -> tuple:
    """Open_ES and its compiled ask and tell, for all functions and seeds."""
    import jax
    import optax
    from evosax.algorithms import Open_ES

    strat = Open_ES(
        population_size=2 * pairs,
        solution=np.zeros(n, np.float32),
        optimizer=optax.adam(optax.cosine_decay_schedule(learning_rate, steps)),
        std_schedule=optax.constant_schedule(sigma),
    )
    return strat, jax.jit(strat.ask), jax.jit(strat.tell)


RUNS: dict[str, Callable[..., None]] = {"lopt": by_lopt, "cma": by_cma, "evosax": by_evosax}


def installed(run: str) -> bool:
    """Whether the package behind a kind of search is there."""
    return importlib.util.find_spec(run) is not None
