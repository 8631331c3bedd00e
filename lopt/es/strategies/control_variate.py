"""Antithetic ES around a guess: only what the guess does not explain is estimated."""

import dataclasses
from typing import ClassVar

import numpy as np

from lopt.es.facts import Facts
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.perturbation import NodeSum, streams
from lopt.es.strategies.sums import averaged, dots, halves
from lopt.es.strategy import register_strategy


@register_strategy("control_variate")
@dataclasses.dataclass(frozen=True)
class ControlVariate(Antithetic):
    """The guess h is the average of the estimates so far; the step's own samples are not in it.

    guess_decay  per step, of that average
    """

    shaping: str = "raw"
    guess_decay: float = 0.9

    facts: ClassVar[Facts] = Facts(
        "1/P sum z_i ((f+ - f-) / (2 sigma) - z_i.h) + h, h = average of past estimates",
        "grad f_sigma, any f",
        "(D + 1) |g - h|^2 / P",
        '2 P evaluations; 2 D floats of memory; P scalar products of D; shaping "raw"',
        "the gradient turns slowly, |g - h| < |g|: small learning rate, D well below 19 P at decay 0.9",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._demand("shaping", self.shaping == "raw", "'raw', the guess has the unit of a slope")
        self._demand("guess_decay", 0 <= self.guess_decay < 1, "in [0, 1)")

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """Average of estimates and their number."""
        return {"guess": np.zeros(n, np.float32), "count": np.zeros(1, np.int64)}

    def gradient(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> np.ndarray:
        """What the guess leaves over, estimated, plus the guess."""
        guess = state.memory["guess"]
        table = streams(state.seed, state.step, self.pairs)
        slopes = halves(losses) / self.sigma_of(state)
        kept = ~np.isnan(slopes)
        left_over = np.where(kept, slopes - dots(table, guess, node), 0.0)
        return self.sum_directions(state, left_over / max(int(kept.sum()), 1), node) + guess

    def next_memory(
        self, state: GradientState, losses: np.ndarray, grad: np.ndarray, centre: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The guess with one more estimate in it."""
        count = state.memory["count"] + 1
        guess = averaged(state.memory["guess"], grad, self.guess_decay, int(count[0]))
        return {"guess": guess, "count": count}
