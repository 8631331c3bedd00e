"""Antithetic pairs whose noise is never made, only looked up (Salimans et al. 2017, section 2.1).

What it costs and saves is measured in docs/noise_table.md.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from lopt import rng
from lopt.comm import Comm
from lopt.errors import UsageError
from lopt.es.facts import Facts
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.noise import Table, shared_table, table
from lopt.es.perturbation import NodeSum, streams
from lopt.es.strategy import register_strategy


@register_strategy("noise_table")
@dataclasses.dataclass(frozen=True)
class NoiseTable(Antithetic):
    """Antithetic pairs along slices of one table of normals that all steps share.

    numbers  M, of the table; 4 M bytes on every node

    Raises:
        UsageError: more coordinates than numbers.
    """

    numbers: int = 2**24

    facts: ClassVar[Facts] = Facts(
        "as antithetic, z_i = D neighbours in a table of M normals, from a random place on",
        "grad f_sigma, any f, over random tables; with the table at hand off by sqrt(c (D + 1) / (M - D + 1)) |g|, "
        "however many pairs",
        "(D + 1) |g|^2 (1 / P + c / (M - D + 1)), 1 <= c <= 3/2: 1 if coordinates of g have no order, 3/2 if all are equal",
        "2 P evaluations; a table of 4 M bytes on each node, M >= D",
        "D is large, evaluations are cheap against making noise, and a run has far fewer pairs than M; not to save "
        "memory",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._demand("numbers", self.numbers >= 1, "at least 1")

    def prepare(self, n: int, comm: Comm) -> None:
        """The table once per node; see `Strategy.prepare`."""
        shared_table(self.numbers, comm)

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """None, but n must fit."""
        if n > self.numbers:
            raise UsageError(
                f"noise_table: numbers = {self.numbers} for {n} coordinates, valid: at least {n}"
            )
        return {}

    def directions(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """The slice of pair i."""
        Table(table(self.numbers), out.size).fill(out, rng.stream(state.seed, state.step, i))

    def sum_directions(
        self, state: GradientState, weights: np.ndarray, node: NodeSum
    ) -> np.ndarray:
        """Weighted sum of slices."""
        noise = Table(table(self.numbers), state.theta.size)
        coefs, pairs = weights.astype(np.float32), streams(state.seed, state.step, weights.size)
        return node.rebuild(lambda out, start: noise.add(out, start, coefs, pairs))
