"""`mlp`: a small per-parameter MLP on the gradient, the parameter and six momenta."""

import dataclasses
import math

import numpy as np

from lopt import rng
from lopt.arch.per_parameter import (
    BLOCK,
    KEPT,
    TIMES,
    TINY,
    apply_direction,
    clear_rows,
    hidden_layers,
    inverse_rms,
    network,
    place_of,
    scale_rows,
    scratch_of,
    scratch_size,
    tanh_time_bias,
)
from lopt.errors import OptimizerError
from lopt.lanes import add_row_squares, kernel, lane, lanes, matmul, sync
from lopt.layout import Layout
from lopt.optimizer import TABLE_COLUMNS, Optimizer, register_optimizer, tensor_table

# data.sizes = (hidden, n_decays), tensor table; data.hyper = (step_mult, mag_rate), decays
# state = momenta (planes of N) | t


@kernel
def momentum_features(rows, count, params, grad, m, n_decays, offset):
    """g, w, m_k of `count` parameters from `offset`; rows (2 + n_decays, >= count)."""
    n = params.size
    w, g = params[offset : offset + count], grad[offset : offset + count]
    row_g, row_w = rows[0], rows[1]
    for i in range(lane(), count, lanes()):
        row_g[i] = g[i]
        row_w[i] = w[i]
    for k in range(n_decays):
        row, mk = rows[2 + k], m[k * n + offset : k * n + offset + count]
        for i in range(lane(), count, lanes()):
            row[i] = mk[i]
    sync()


@kernel
def update_momenta(grad, m, decays, n_decays):
    """m_k <- d_k m_k + (1 - d_k) g."""
    n = grad.size
    tiny, zero = grad.dtype.type(TINY), grad.dtype.type(0.0)
    for k in range(n_decays):
        mk = m[k * n : k * n + n]
        d = grad.dtype.type(decays[k])
        a = grad.dtype.type(1.0) - d
        for i in range(lane(), n, lanes()):
            new = d * mk[i] + a * grad[i]
            mk[i] = new if abs(new) > tiny else zero
    sync()


@kernel
def normalise(net, scratch, totals, size):
    """First matrix with the RMS normalisation of a tensor of `size` parameters folded in; totals (F, 1) scratch."""
    matmul(scratch.squares, scratch.ones, totals)
    inverse_rms(totals, totals, size)
    scale_rows(scratch.scaled, net.first, totals)


@kernel
def mlp_optimizer_step(theta, params, grad, state, loss, is_valid, data, work):
    """One step; validation calls change nothing."""
    if is_valid != 0:
        return 0
    sizes, hyper, n = data.sizes, data.hyper, params.size
    hidden, n_decays = sizes[0], sizes[1]
    features = 2 + n_decays
    t = np.float64(state[state.size - 1])
    net = network(theta, features + len(TIMES), hidden, 2)
    bias, totals = work[:hidden], work[hidden : hidden + features].reshape(features, 1)
    scratch = scratch_of(work[hidden + features :], features, hidden)
    update_momenta(grad, state[: n_decays * n], hyper[2:], n_decays)
    tanh_time_bias(bias, net.first, net.first_bias, features, t)
    step_mult, mag_rate = params.dtype.type(hyper[0]), params.dtype.type(hyper[1])
    for k in range(sizes[2]):
        offset, size = sizes[3 + TABLE_COLUMNS * k], sizes[4 + TABLE_COLUMNS * k]
        clear_rows(scratch.squares)
        for start in range(offset, offset + size, BLOCK):
            rows = scratch.rows[place_of(n, offset, k, start)]
            count = min(BLOCK, offset + size - start)
            momentum_features(rows, count, params, grad, state, n_decays, start)
            add_row_squares(rows, count, scratch.squares)
            sync()
        normalise(net, scratch, totals, size)
        for start in range(offset, offset + size, BLOCK):
            count = min(BLOCK, offset + size - start)
            rows = scratch.rows[place_of(n, offset, k, start)]
            if n > KEPT:
                momentum_features(rows, count, params, grad, state, n_decays, start)
            hidden_layers(scratch, rows, count, scratch.scaled, bias, net)
            apply_direction(params[start : start + count], scratch, net, step_mult, mag_rate)
    if lane() == 0:
        state[state.size - 1] = state.dtype.type(t + 1.0)
    sync()
    return 0


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
                raise OptimizerError(
                    f"{self.name}: {key} must be positive, got {getattr(self, key)}"
                )

    @property
    def n_features(self) -> int:
        """Inputs that are normalised over the tensor."""
        raise TypeError("a leaf class says how many features it has")

    @property
    def theta_layout(self) -> Layout:
        h, n_first = self.hidden, self.n_features + len(TIMES)
        layers = (
            ("w0", (n_first, h)),
            ("b0", (h,)),
            ("w1", (h, h)),
            ("b1", (h,)),
            ("w2", (h, 2)),
            ("b2", (2,)),
        )
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
        sizes = self.n_features, self.hidden, layout.size, len(layout)
        return self.hidden + self.n_features + scratch_size(*sizes)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decays or any(not 0 <= d < 1 for d in self.decays):
            raise OptimizerError(f"{self.name}: decays must lie in [0, 1), got {self.decays}")

    @property
    def n_features(self) -> int:
        return 2 + len(self.decays)

    def sizes(self, layout: Layout) -> np.ndarray:
        return np.concatenate(
            [np.array([self.hidden, len(self.decays)], np.int64), tensor_table(layout)]
        )

    def hyper(self) -> np.ndarray:
        return np.array([self.step_mult, self.mag_rate, *self.decays], np.float32)

    def state_size(self, layout: Layout) -> int:
        return len(self.decays) * layout.size + 1
