"""RMSProp, Adagrad and Lion: one accumulator per parameter."""

import dataclasses
import math

import numpy as np

from lopt.arch.sgd import TINY, check_decay, check_positive
from lopt.errors import OptimizerError
from lopt.lanes import kernel, lane, lanes, sync
from lopt.layout import Layout
from lopt.optimizer import Optimizer, register_optimizer


@kernel
def rmsprop_step(theta, params, grad, state, loss, is_valid, data, work):
    """v <- d v + (1-d) g^2; w <- w - lr g / (sqrt(v) + eps).  theta = (log lr, log(1-d), log eps); state = v."""
    if is_valid != 0:
        return 0
    cast = params.dtype.type
    rate, eps = cast(math.exp(np.float64(theta[0]))), cast(math.exp(np.float64(theta[2])))
    u = math.exp(np.float64(theta[1]))
    a, d = cast(u), cast(1.0 - u)
    tiny, zero = cast(TINY), cast(0.0)
    for i in range(lane(), params.size, lanes()):
        v = d * state[i] + a * (grad[i] * grad[i])
        v = v if v > tiny else zero
        state[i] = v
        params[i] -= rate * grad[i] / (math.sqrt(v) + eps)
    sync()
    return 0


@kernel
def adagrad_step(theta, params, grad, state, loss, is_valid, data, work):
    """a <- a + g^2; w <- w - lr g / sqrt(a), no step where a is 0.  theta = (log lr, log a_0); state = a."""
    if is_valid != 0:
        return 0
    cast = params.dtype.type
    rate, zero, one = cast(math.exp(np.float64(theta[0]))), cast(0.0), cast(1.0)
    for i in range(lane(), params.size, lanes()):
        a = state[i] + grad[i] * grad[i]
        state[i] = a
        safe = a if a > zero else one
        params[i] -= rate * grad[i] / math.sqrt(safe)
    sync()
    return 0


@kernel
def lion_step(theta, params, grad, state, loss, is_valid, data, work):
    """w <- w - lr (sign(b1 m + (1-b1) g) + wd w); m <- b2 m + (1-b2) g.

    theta = (log lr, log(1-b1), log(1-b2), weight decay); state = m.
    """
    if is_valid != 0:
        return 0
    cast = params.dtype.type
    rate = math.exp(np.float64(theta[0]))
    u1, u2 = math.exp(np.float64(theta[1])), math.exp(np.float64(theta[2]))
    a1, b1, a2, b2 = cast(u1), cast(1.0 - u1), cast(u2), cast(1.0 - u2)
    step, shrink = cast(rate), cast(1.0 - rate * np.float64(theta[3]))
    tiny, zero = cast(TINY), cast(0.0)
    for i in range(lane(), params.size, lanes()):
        c = b1 * state[i] + a1 * grad[i]
        m = b2 * state[i] + a2 * grad[i]
        state[i] = m if abs(m) > tiny else zero
        sign = step if c > zero else (-step if c < zero else zero)
        params[i] = shrink * params[i] - sign
    sync()
    return 0


class OneAccumulator(Optimizer):
    """What the three share: as much state as parameters, zero at first."""

    hand_made = True

    def state_size(self, layout: Layout) -> int:
        return layout.size

    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        return np.zeros(layout.size, np.float32)


@register_optimizer("rmsprop")
@dataclasses.dataclass(frozen=True)
class RmsProp(OneAccumulator):
    """RMSProp (Tieleman & Hinton 2012) as PyTorch has it: uncentred, eps outside the root, no bias correction."""

    learning_rate: float = 1e-2
    decay: float = 0.99
    epsilon: float = 1e-8

    core = staticmethod(rmsprop_step)

    def __post_init__(self) -> None:
        check_positive(self.name, learning_rate=self.learning_rate, epsilon=self.epsilon)
        check_decay(self.name, decay=self.decay)

    @property
    def theta_layout(self) -> Layout:
        return Layout((n, ()) for n in ("log_learning_rate", "log_one_minus_decay", "log_epsilon"))

    def init_theta(self, seed: int = 0) -> np.ndarray:
        logs = [math.log(self.learning_rate), math.log1p(-self.decay), math.log(self.epsilon)]
        return np.array(logs, np.float32)


@register_optimizer("adagrad")
@dataclasses.dataclass(frozen=True)
class Adagrad(OneAccumulator):
    """Adagrad (Duchi et al. 2011) with an initial accumulator and no epsilon (task set specification 9.5)."""

    learning_rate: float = 1e-2
    initial_accumulator: float = 0.1

    core = staticmethod(adagrad_step)

    def __post_init__(self) -> None:
        check_positive(
            self.name,
            learning_rate=self.learning_rate,
            initial_accumulator=self.initial_accumulator,
        )

    @property
    def theta_layout(self) -> Layout:
        return Layout((("log_learning_rate", ()), ("log_initial_accumulator", ())))

    def init_theta(self, seed: int = 0) -> np.ndarray:
        logs = [math.log(self.learning_rate), math.log(self.initial_accumulator)]
        return np.array(logs, np.float32)

    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        return np.full(layout.size, np.exp(theta[1]), np.float32)


@register_optimizer("lion")
@dataclasses.dataclass(frozen=True)
class Lion(OneAccumulator):
    """Lion (Chen et al. 2023, algorithm 2): the sign of an interpolated momentum, decoupled weight decay."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    core = staticmethod(lion_step)

    def __post_init__(self) -> None:
        check_positive(self.name, learning_rate=self.learning_rate)
        check_decay(self.name, beta1=self.beta1, beta2=self.beta2)
        if not 0 <= self.weight_decay < math.inf:
            raise OptimizerError(f"{self.name}: weight_decay must be >= 0, got {self.weight_decay}")

    @property
    def theta_layout(self) -> Layout:
        names = ("log_learning_rate", "log_one_minus_beta1", "log_one_minus_beta2", "weight_decay")
        return Layout((n, ()) for n in names)

    def init_theta(self, seed: int = 0) -> np.ndarray:
        logs = [math.log(self.learning_rate), math.log1p(-self.beta1), math.log1p(-self.beta2)]
        return np.array([*logs, self.weight_decay], np.float32)
