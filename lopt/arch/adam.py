"""Adam, AdamW and NAdamW."""

import dataclasses
import math

import numpy as np

from lopt.arch.schedules import check_total_steps, falling
from lopt.arch.sgd import TINY, check_decay, check_positive
from lopt.errors import OptimizerError
from lopt.lanes import kernel, lane, lanes, sync
from lopt.layout import Layout
from lopt.optimizer import Optimizer, register_optimizer

# theta = (log lr, log(1 - b1), log(1 - b2), log eps, weight decay); state = m | v | t
# data.hyper = (nesterov flag, steps of a cosine decay or 0)


@kernel
def adam_step(theta, params, grad, state, loss, is_valid, data, work):
    """m, v <- EMAs of g, g^2; w <- w - lr (n / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + wd w).

    n = m, or b1 m + (1 - b1) g with nesterov; lr falls to 0 along half a cosine if data say so.  Bias corrections are
    in float64 by expm1: b2 = 1 - 1e-6 keeps its digits.
    """
    if is_valid != 0:
        return 0
    n = params.size
    cast = params.dtype.type
    t = np.float64(state[2 * n]) + 1.0
    u1, u2 = math.exp(np.float64(theta[1])), math.exp(np.float64(theta[2]))  # 1 - b1, 1 - b2
    correct1 = -math.expm1(t * math.log1p(-min(u1, 1.0 - 1e-16)))
    correct2 = -math.expm1(t * math.log1p(-min(u2, 1.0 - 1e-16)))
    rate = math.exp(np.float64(theta[0])) * falling(t - 1.0, np.float64(data.hyper[1]))
    step = cast(rate / correct1)
    root = cast(1.0 / math.sqrt(correct2))
    eps = cast(math.exp(np.float64(theta[3])))
    shrink = cast(1.0 - rate * np.float64(theta[4]))
    a1, a2, b1, b2 = cast(u1), cast(u2), cast(1.0 - u1), cast(1.0 - u2)
    ahead = data.hyper[0] != 0
    c1, c2 = cast(b1 if ahead else 1.0), cast(a1 if ahead else 0.0)
    tiny, zero = cast(TINY), cast(0.0)
    m, v = state[:n], state[n : 2 * n]
    for i in range(lane(), n, lanes()):
        g = grad[i]
        new_m = b1 * m[i] + a1 * g
        new_v = b2 * v[i] + a2 * (g * g)
        new_m = new_m if abs(new_m) > tiny else zero
        new_v = new_v if new_v > tiny else zero
        m[i] = new_m
        v[i] = new_v
        params[i] = shrink * params[i] - step * (c1 * new_m + c2 * g) / (
            math.sqrt(new_v) * root + eps
        )
    sync()
    if lane() == 0:
        state[2 * n] = cast(t)
    sync()
    return 0


@register_optimizer("adam")
@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1): eps is added outside the bias-corrected root.

    total_steps   length of a cosine decay of the learning rate to 0 (Loshchilov & Hutter 2017, one cycle); 0: none
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    total_steps: int = 0

    core = staticmethod(adam_step)
    hand_made = True

    def __post_init__(self) -> None:
        check_positive(self.name, learning_rate=self.learning_rate, epsilon=self.epsilon)
        check_decay(self.name, beta1=self.beta1, beta2=self.beta2)
        check_total_steps(self.name, self.total_steps)

    @property
    def theta_layout(self) -> Layout:
        names = ("log_learning_rate", "log_one_minus_beta1", "log_one_minus_beta2", "log_epsilon")
        return Layout((n, ()) for n in (*names, "weight_decay"))

    def init_theta(self, seed: int = 0) -> np.ndarray:
        values = [
            math.log(self.learning_rate),
            math.log1p(-self.beta1),
            math.log1p(-self.beta2),
            math.log(self.epsilon),
            self.decay,
        ]
        return np.array(values, np.float32)

    @property
    def decay(self) -> float:
        """Decoupled weight decay; plain Adam has none to begin with."""
        return 0.0

    def hyper(self) -> np.ndarray:
        return np.array([0, self.total_steps], np.float32)

    def state_size(self, layout: Layout) -> int:
        return 2 * layout.size + 1

    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        return np.zeros(self.state_size(layout), np.float32)


@register_optimizer("adamw")
@dataclasses.dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): the decay is multiplied by the learning rate."""

    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight_decay < math.inf:
            raise OptimizerError(f"{self.name}: weight_decay must be >= 0, got {self.weight_decay}")

    @property
    def decay(self) -> float:
        return self.weight_decay


@register_optimizer("nadamw")
@dataclasses.dataclass(frozen=True)
class NAdamW(AdamW):
    """AdamW with a Nesterov look-ahead: the direction is b1 m + (1 - b1) g (Dozat 2016; task set specification 9.4)."""

    def hyper(self) -> np.ndarray:
        return np.array([1, self.total_steps], np.float32)
