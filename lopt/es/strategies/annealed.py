"""A sigma that shrinks on a schedule: coarse smoothing first, a sharp picture of the loss at the end."""

import dataclasses
import math
from typing import ClassVar

from lopt.es.facts import Facts
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.strategy import register_strategy


@register_strategy("annealed")
@dataclasses.dataclass(frozen=True)
class Annealed(Antithetic):
    """Antithetic pairs with sigma from `sigma` to `final_sigma`, then constant.

    final_sigma  where the schedule ends
    sigma_steps  steps from one to the other
    schedule     "exponential" (equal ratios), "linear" or "cosine"
    """

    final_sigma: float = 0.01
    sigma_steps: int = 500
    schedule: str = "exponential"

    facts: ClassVar[Facts] = Facts(
        "as antithetic, sigma = sigma_0 (sigma_T / sigma_0)^(t / T), or linear, or a half cosine",
        "grad f_sigma of the step's sigma, any f",
        "(D + 1) |g|^2 / P: no sigma in it; evaluation noise tau^2 adds D tau^2 / (2 P sigma^2)",
        "2 P evaluations",
        "the loss has many shallow minima, and little noise; let the learning rate fall with it (decay_steps)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        good = 0 < self.final_sigma < math.inf
        self._demand("final_sigma", good, "a finite number above 0")
        self._demand("sigma_steps", self.sigma_steps >= 1, "at least 1")
        known = self.schedule in ("exponential", "linear", "cosine")
        self._demand("schedule", known, "'exponential', 'linear' or 'cosine'")

    def sigma_of(self, state: GradientState) -> float:
        """Standard deviation of the next step's perturbations."""
        done = min(state.step / self.sigma_steps, 1.0)
        if self.schedule == "exponential":
            return self.sigma * (self.final_sigma / self.sigma) ** done
        if self.schedule == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.sigma + done * (self.final_sigma - self.sigma)
