"""Gradient descent, heavy-ball and Nesterov momentum."""

import dataclasses
import math

import numpy as np

from lopt.arch.schedules import check_total_steps, falling
from lopt.errors import OptimizerError
from lopt.lanes import kernel, lane, lanes, sync
from lopt.layout import Layout
from lopt.optimizer import Optimizer, register_optimizer

TINY = 1e-30  # accumulators below it become 0: subnormal arithmetic is many times slower


@kernel
def sgd_step(theta, params, grad, state, loss, is_valid, data, work):
    """w <- w - lr g; theta = (log lr,)."""
    if is_valid != 0:
        return 0
    rate = params.dtype.type(math.exp(np.float64(theta[0])))
    for i in range(lane(), params.size, lanes()):
        params[i] -= rate * grad[i]
    sync()
    return 0


@kernel
def count_step(state, n):
    """One more step in state[n]; returns their number before."""
    t = np.float64(state[n])
    sync()
    if lane() == 0:
        state[n] = state.dtype.type(t + 1.0)
    sync()
    return t


@kernel
def momentum_step(theta, params, grad, state, loss, is_valid, data, work):
    """m <- b m + g; w <- w - lr m.  theta = (log lr, log(1 - b)); state = m | t; data.hyper = steps of a cosine or 0."""
    if is_valid != 0:
        return 0
    one = params.dtype.type
    share = falling(count_step(state, params.size), np.float64(data.hyper[0]))
    rate, b = one(share * math.exp(np.float64(theta[0]))), one(-math.expm1(np.float64(theta[1])))
    tiny = one(TINY)
    for i in range(lane(), params.size, lanes()):
        m = b * state[i] + grad[i]
        m = m if abs(m) > tiny else one(0.0)
        state[i] = m
        params[i] -= rate * m
    sync()
    return 0


@kernel
def nesterov_step(theta, params, grad, state, loss, is_valid, data, work):
    """m <- b m + g; w <- w - lr (g + b m).  theta, state and data as of `momentum_step`."""
    if is_valid != 0:
        return 0
    one = params.dtype.type
    share = falling(count_step(state, params.size), np.float64(data.hyper[0]))
    rate, b = one(share * math.exp(np.float64(theta[0]))), one(-math.expm1(np.float64(theta[1])))
    tiny = one(TINY)
    for i in range(lane(), params.size, lanes()):
        m = b * state[i] + grad[i]
        m = m if abs(m) > tiny else one(0.0)
        state[i] = m
        params[i] -= rate * (grad[i] + b * m)
    sync()
    return 0


def check_positive(name: str, **values: float) -> None:
    """Refuse options that must be positive and finite.

    Raises:
        OptimizerError: names the option and its value.
    """
    for key, value in values.items():
        if not 0 < value < math.inf:
            raise OptimizerError(f"{name}: {key} must be positive and finite, got {value}")


def check_decay(name: str, **values: float) -> None:
    """Refuse decays outside [0, 1).

    Raises:
        OptimizerError: names the option and its value.
    """
    for key, value in values.items():
        if not 0 <= value < 1:
            raise OptimizerError(f"{name}: {key} must be in [0, 1), got {value}")


@register_optimizer("sgd")
@dataclasses.dataclass(frozen=True)
class Sgd(Optimizer):
    """Gradient descent: w <- w - lr g."""

    learning_rate: float = 0.1

    core = staticmethod(sgd_step)
    hand_made = True

    def __post_init__(self) -> None:
        check_positive(self.name, learning_rate=self.learning_rate)

    @property
    def theta_layout(self) -> Layout:
        return Layout((("log_learning_rate", ()),))

    def init_theta(self, seed: int = 0) -> np.ndarray:
        return np.array([math.log(self.learning_rate)], np.float32)

    def state_size(self, layout: Layout) -> int:
        return 0

    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        return np.zeros(self.state_size(layout), np.float32)


@register_optimizer("momentum")
@dataclasses.dataclass(frozen=True)
class Momentum(Sgd):
    """Heavy ball (Polyak 1964), the form without (1 - b): m <- b m + g; w <- w - lr m.

    total_steps   length of a cosine decay of the learning rate to 0 (Loshchilov & Hutter 2017, one cycle); 0: none
    """

    learning_rate: float = 0.01
    momentum: float = 0.9
    total_steps: int = 0

    core = staticmethod(momentum_step)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(self.name, momentum=self.momentum)
        check_total_steps(self.name, self.total_steps)

    @property
    def theta_layout(self) -> Layout:
        return Layout((("log_learning_rate", ()), ("log_one_minus_momentum", ())))

    def init_theta(self, seed: int = 0) -> np.ndarray:
        return np.array([math.log(self.learning_rate), math.log1p(-self.momentum)], np.float32)

    def hyper(self) -> np.ndarray:
        return np.array([self.total_steps], np.float32)

    def state_size(self, layout: Layout) -> int:
        return layout.size + 1


@register_optimizer("nesterov")
@dataclasses.dataclass(frozen=True)
class Nesterov(Momentum):
    """Nesterov momentum in the form of Sutskever et al. 2013: m <- b m + g; w <- w - lr (g + b m)."""

    core = staticmethod(nesterov_step)
