"""Adam with eight hyper-parameters, the baseline of the learned-optimizer papers."""

import dataclasses
import math

import numpy as np

from lopt.arch.sgd import TINY, check_decay, check_positive
from lopt.errors import OptimizerError
from lopt.lanes import kernel, lane, lanes, sync
from lopt.layout import Layout
from lopt.optimizer import Optimizer, register_optimizer

# theta = (log lr, log(1 - b1), log(1 - b2), log eps, l1, l2, linear decay, exponential decay); state = m | v | t


@kernel
def adam8p_step(theta, params, grad, state, loss, is_valid, data, work):
    """Adam on g + 2 l2 w + l1 sign(w) with rate lr max(1 - linear k, 0) exp(-exponential k), k = t - 1."""
    if is_valid != 0:
        return 0
    n = params.size
    cast = params.dtype.type
    k = np.float64(state[2 * n])
    t = k + 1.0
    u1, u2 = math.exp(np.float64(theta[1])), math.exp(np.float64(theta[2]))
    correct1 = -math.expm1(t * math.log1p(-min(u1, 1.0 - 1e-16)))
    correct2 = -math.expm1(t * math.log1p(-min(u2, 1.0 - 1e-16)))
    fade = max(1.0 - np.float64(theta[6]) * k, 0.0) * math.exp(-np.float64(theta[7]) * k)
    step = cast(math.exp(np.float64(theta[0])) * fade / correct1)
    inverse = cast(1.0 / correct2)
    eps, inside = cast(math.exp(np.float64(theta[3]))), cast(1e-10)
    l1, l2 = cast(theta[4]), cast(2.0 * np.float64(theta[5]))
    a1, a2, b1, b2 = cast(u1), cast(u2), cast(1.0 - u1), cast(1.0 - u2)
    tiny, zero = cast(TINY), cast(0.0)
    m, v = state[:n], state[n : 2 * n]
    for i in range(lane(), n, lanes()):
        w = params[i]
        sign = l1 if w > zero else (-l1 if w < zero else zero)
        g = grad[i] + l2 * w + sign
        new_m = b1 * m[i] + a1 * g
        new_v = b2 * v[i] + a2 * (g * g)
        new_m = new_m if abs(new_m) > tiny else zero
        new_v = new_v if new_v > tiny else zero
        m[i] = new_m
        v[i] = new_v
        params[i] = w - step * new_m / (math.sqrt(new_v * inverse + inside) + eps)
    sync()
    if lane() == 0:
        state[2 * n] = cast(t)
    sync()
    return 0


@register_optimizer("adam8p")
@dataclasses.dataclass(frozen=True)
class Adam8p(Optimizer):
    """Adam with l1, l2, linear and exponential learning-rate decay.

    Source: Metz et al. 2020 (arXiv 2009.11243), baseline Adam8p; task set specification 9.3: 1e-10 stands inside the
    bias-corrected root and eps outside, decays are per step (their horizon of 10,000 steps is not rescaled).
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    l1: float = 0.0
    l2: float = 0.0
    linear_decay: float = 0.0
    exponential_decay: float = 0.0

    core = staticmethod(adam8p_step)
    hand_made = True

    def __post_init__(self) -> None:
        check_positive(self.name, learning_rate=self.learning_rate, epsilon=self.epsilon)
        check_decay(self.name, beta1=self.beta1, beta2=self.beta2)
        for key in ("l1", "l2", "linear_decay", "exponential_decay"):
            if not 0 <= getattr(self, key) < math.inf:
                raise OptimizerError(f"{self.name}: {key} must be >= 0, got {getattr(self, key)}")

    @property
    def theta_layout(self) -> Layout:
        logs = ("log_learning_rate", "log_one_minus_beta1", "log_one_minus_beta2", "log_epsilon")
        return Layout((n, ()) for n in (*logs, "l1", "l2", "linear_decay", "exponential_decay"))

    def init_theta(self, seed: int = 0) -> np.ndarray:
        values = [
            math.log(self.learning_rate),
            math.log1p(-self.beta1),
            math.log1p(-self.beta2),
            math.log(self.epsilon),
            self.l1,
            self.l2,
            self.linear_decay,
            self.exponential_decay,
        ]
        return np.array(values, np.float32)

    def state_size(self, layout: Layout) -> int:
        return 2 * layout.size + 1

    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        return np.zeros(self.state_size(layout), np.float32)
