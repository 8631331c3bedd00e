"""`mlp`: a small per-parameter MLP on the gradient, the parameter and six momenta."""

import dataclasses
import math

import numpy as np

from lopt import rng
from lopt.arch.per_parameter import (
    BLOCK,
    TIMES,
    TINY,
    add_row_squares,
    clear_rows,
    normalise_first_layer,
    small_network_step,
    tanh_time_bias,
)
from lopt.errors import OptimizerError
from lopt.lanes import entry_point, kernel, lane, lanes, sync
from lopt.layout import Layout
from lopt.optimizer import STEP_SIG, TABLE_COLUMNS, Optimizer, register_optimizer, tensor_table

# data.sizes = (hidden, n_decays), tensor table; data.hyper = (step_mult, mag_rate), decays
# state = momenta (planes of N) | t


@kernel
def momentum_features(rows, params, grad, m, n_decays, offset):
    """g, w, m_k of `rows.shape[1]` parameters from `offset`; rows (2 + n_decays, n)."""
    n, count = params.size, rows.shape[1]
    for i in range(lane(), count, lanes()):
        rows[0, i] = grad[offset + i]
        rows[1, i] = params[offset + i]
    for k in range(n_decays):
        for i in range(lane(), count, lanes()):
            rows[2 + k, i] = m[k * n + offset + i]
    sync()


@kernel
def update_momenta(grad, m, decays, n_decays):
    """m_k <- d_k m_k + (1 - d_k) g."""
    n = grad.size
    tiny, zero = grad.dtype.type(TINY), grad.dtype.type(0.0)
    for k in range(n_decays):
        d = grad.dtype.type(decays[k])
        a = grad.dtype.type(1.0) - d
        for i in range(lane(), n, lanes()):
            new = d * m[k * n + i] + a * grad[i]
            m[k * n + i] = new if abs(new) > tiny else zero
    sync()


@kernel
def mlp_optimizer_step(theta, params, grad, state, loss, is_valid, data, work):
    """One step; validation calls change nothing."""
    if is_valid != 0:
        return 0
    sizes, hyper, n = data.sizes, data.hyper, params.size
    hidden, n_decays = sizes[0], sizes[1]
    t = np.float64(state[state.size - 1])
    n_features = 2 + n_decays
    n_first = n_features + len(TIMES)
    w0 = theta[: n_first * hidden].reshape(n_first, hidden)
    rest = n_first * hidden + hidden
    bias = work[:hidden]
    scaled = work[hidden : hidden + n_features * hidden].reshape(n_features, hidden)
    at = hidden + n_features * hidden
    heads_w = work[at : at + 2 * hidden].reshape(2, hidden)
    at += 2 * hidden
    sums = work[at : at + 32 * n_features].reshape(n_features, 32)
    at += 32 * n_features
    update_momenta(grad, state[: n_decays * n], hyper[2:], n_decays)
    tanh_time_bias(bias, w0, theta[n_first * hidden : rest], n_features, t)
    step_mult, mag_rate = params.dtype.type(hyper[0]), params.dtype.type(hyper[1])
    for k in range(sizes[2]):
        offset, size = sizes[3 + TABLE_COLUMNS * k], sizes[4 + TABLE_COLUMNS * k]
        clear_rows(sums)
        for second_pass in range(2):
            for start in range(0, size, BLOCK):
                count = min(BLOCK, size - start)
                rows = work[at : at + n_features * count].reshape(n_features, count)
                momentum_features(rows, params, grad, state, n_decays, offset + start)
                if second_pass == 0:
                    add_row_squares(rows, sums)
                else:
                    small_network_step(
                        params[offset + start : offset + start + count], rows, scaled, bias, theta,
                        rest, hidden, heads_w, step_mult, mag_rate, work[at + n_features * count :],
                    )  # fmt: skip
            if second_pass == 0:
                normalise_first_layer(scaled, w0, sums, size)
    if lane() == 0:
        state[state.size - 1] = state.dtype.type(t + 1.0)
    sync()
    return 0


@entry_point(STEP_SIG)
def mlp_optimizer_entry(theta, params, grad, state, loss, is_valid, data, work):
    return mlp_optimizer_step(theta, params, grad, state, loss, is_valid, data, work)


class PerParameterOptimizer(Optimizer):
    """What optimizers with one small MLP per parameter share: two hidden ReLU layers, direction and magnitude."""

    hidden: int
    step_mult: float
    mag_rate: float

    def __post_init__(self) -> None:
        if self.hidden < 2:
            raise OptimizerError(f"{self.name}: hidden must be at least 2, got {self.hidden}")
        for key in ("step_mult", "mag_rate"):
            if not 0 < getattr(self, key) < math.inf:
                raise OptimizerError(f"{self.name}: {key} must be positive, got {getattr(self, key)}")

    @property
    def n_features(self) -> int:
        """Inputs that are normalised over the tensor."""
        raise TypeError("a leaf class says how many features it has")

    @property
    def theta_layout(self) -> Layout:
        h, n_first = self.hidden, self.n_features + len(TIMES)
        layers = (("w0", (n_first, h)), ("b0", (h,)), ("w1", (h, h)), ("b1", (h,)), ("w2", (h, 2)), ("b2", (2,)))
        return Layout(layers)

    def init_theta(self, seed: int = 0) -> np.ndarray:
        """Weights N(0, 2 / fan in), the last layer N(0, 1 / fan in); the rest 0."""
        layout = self.theta_layout
        theta, stream = np.zeros(layout.size, np.float32), rng.stream(seed)
        for k, (name, view) in enumerate(layout.views(theta).items()):
            if name in ("w0", "w1", "w2"):
                std = math.sqrt((1.0 if name == "w2" else 2.0) / view.shape[0])
                view[...] = (std * rng.normals(view.size, stream, rng.THETA, k)).reshape(view.shape)
        return theta

    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        return np.zeros(self.state_size(layout), theta.dtype)

    def work_size(self, layout: Layout) -> int:
        h, f, block = self.hidden, self.n_features, min(BLOCK, max(layout.sizes, default=0))
        return h + f * h + 2 * h + 32 * f + (f + 2 * h) * block


@register_optimizer("mlp")
@dataclasses.dataclass(frozen=True)
class MlpOptimizer(PerParameterOptimizer):
    """Per-parameter MLP (Metz et al. 2019, task-specific learned optimizers), in the form of the public JAX code.

    Inputs: g, w, momenta, each divided by its RMS over the tensor; tanh(t / tau - 1) for eleven tau.
    """

    hidden: int = 32
    decays: tuple[float, ...] = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
    step_mult: float = 1e-3
    mag_rate: float = 1e-3

    core = staticmethod(mlp_optimizer_step)
    entry = mlp_optimizer_entry

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decays or any(not 0 <= d < 1 for d in self.decays):
            raise OptimizerError(f"{self.name}: decays must lie in [0, 1), got {self.decays}")

    @property
    def n_features(self) -> int:
        return 2 + len(self.decays)

    def sizes(self, layout: Layout) -> np.ndarray:
        return np.concatenate([np.array([self.hidden, len(self.decays)], np.int64), tensor_table(layout)])

    def hyper(self) -> np.ndarray:
        return np.array([self.step_mult, self.mag_rate, *self.decays], np.float32)

    def state_size(self, layout: Layout) -> int:
        return len(self.decays) * layout.size + 1
