"""Diagonal curvature from the same antithetic pairs, and a damped Newton step.

Stein's second identity, exact for any f: d^2 f_sigma / d theta_j^2 = E[(z_j^2 - 1) f] / sigma^2.
With pairs, f becomes (f+ + f-)/2 minus any constant (the weight has mean 0).  The "-1" multiplies f:
the shorter z_j^2 (f+ - f(theta)) / sigma^2 often quoted is off by tr(H) / 2.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from lopt.es.facts import Facts
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.perturbation import NodeSum
from lopt.es.strategies.sums import averaged, left_out, means, squares
from lopt.es.strategy import register_strategy


@register_strategy("second_order")
@dataclasses.dataclass(frozen=True)
class SecondOrder(Antithetic):
    """Antithetic gradient divided by an average of curvatures, no less than a floor.

    The Newton step is shortened by P / (P + D + 1): what brings a quadratic loss down most when the
    gradient's relative error squared is (D + 1) / P.  That is handed to the outer optimizer.

    floor            least curvature of a coordinate, as a fraction of the root mean square of all
    curvature_decay  per step, of the average of curvatures
    reach            largest magnitude of a Newton step's coordinate, in sigmas
    """

    shaping: str = "raw"
    optimizer: str = "sgd"
    learning_rate: float = 1.0
    floor: float = 0.1
    curvature_decay: float = 0.9
    reach: float = 10.0

    facts: ClassVar[Facts] = Facts(
        "g as antithetic; h_j = 1/P sum (z_ij^2 - 1) (m_i - b_i) / sigma^2, m = (f+ + f-)/2, b_i = mean of "
        "the other m; step g_j / max(average h_j, floor)",
        "g: grad f_sigma; h: diagonal of the Hessian of f_sigma; any f.  The step is a ratio: biased",
        "g as antithetic; h_j, f = sum a_j x_j^2 / 2: (|a|^2 + 13 a_j^2) / P + (|a|^2 + a_j^2) / (P (P - 1)). "
        "Evaluation noise tau^2 enters h as tau^2 / ((P - 1) sigma^4)",
        '2 P evaluations, P >= 2; D floats of memory; shaping "raw"',
        "coordinates differ in scale, P is not far below D, and the loss is not noisy; sigma larger than for g",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._demand("shaping", self.shaping == "raw", "'raw', curvature is lost by the others")
        self._demand("pairs", self.pairs >= 2, "at least 2, one has no baseline")
        self._demand("floor", 0 < self.floor < np.inf, "a finite number above 0")
        self._demand("curvature_decay", 0 <= self.curvature_decay < 1, "in [0, 1)")
        self._demand("reach", self.reach > 0, "above 0")

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """Average of curvatures and their number."""
        return {"curvature": np.zeros(n, np.float32), "count": np.zeros(1, np.int64)}

    def tell(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> GradientState:
        """The curvature is averaged first, the step uses the new average."""
        count = state.memory["count"] + 1
        fresh = self.curvature(state, losses, node)
        average = averaged(state.memory["curvature"], fresh, self.curvature_decay, int(count[0]))
        memory = {"curvature": average, "count": count}
        return super().tell(dataclasses.replace(state, memory=memory), losses, node)

    def curvature(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> np.ndarray:
        """Estimate of the Hessian's diagonal, (D,) float32, from losses (2 P,); collective."""
        weights = left_out(means(losses)) / self.sigma_of(state) ** 2
        return squares(state.seed, state.step, weights, node)

    def gradient(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> np.ndarray:
        """The damped Newton step, (D,) float32."""
        g, h = super().gradient(state, losses, node), state.memory["curvature"]
        kept = int((~np.isnan(means(losses))).sum())
        floor = self.floor * float(np.sqrt(np.mean(np.square(h, dtype=np.float64))))
        if floor == 0:  # no curvature seen at all: nothing says how far to go
            return np.zeros_like(g)
        step = g / np.maximum(h, np.float32(floor)) * np.float32(kept / (kept + g.size + 1))
        reach = np.float32(self.reach * self.sigma_of(state))
        return np.clip(step, -reach, reach)
