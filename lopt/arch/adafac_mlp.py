"""`adafac_mlp`: a tiny per-parameter MLP with Adam-like and Adafactor-like inputs and learned decays."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from lopt.arch.factored import COLUMNS, factored_moments, factoring
from lopt.arch.mlp_optimizer import PerParameterOptimizer, normalise, update_momenta
from lopt.arch.per_parameter import (
    BLOCK,
    KEPT,
    TIMES,
    TINY,
    apply_direction,
    clear_rows,
    hidden_layers,
    network,
    place_of,
    scratch_of,
    tanh_time_bias,
)
from lopt.errors import OptimizerError
from lopt.lanes import add_row_squares, kernel, lane, lanes, sync
from lopt.layout import Layout
from lopt.optimizer import register_optimizer

N_DECAYS = 3  # momenta, and factored second moments; one full second moment beside them
N_FEATURES = 28
VECTORS = 2  # derived from each factored moment: its factor and 1 / sqrt(moment + 1e-8)

# data.sizes = (hidden,), n_tensors, COLUMNS per tensor, then per parameter the place of its row and column mean
# data.hyper = (step_mult, mag_rate, log(1 - d0) of momenta (3), of v, of factored moments (3))
# state = m (3 N) | v (N) | per decay: rows and columns (or full moment) of all tensors | t


class Tensor(NamedTuple):
    """One tensor: its place, and how its second moment is factored."""

    offset: int
    size: int
    own: int  # place of its moments among those of all tensors
    n_rows: int  # row means; 0 if not factored
    n_moments: int  # row and column means, or the full moment


@kernel
def tensor_of(table, at):
    """The Tensor that starts at an entry of the table."""
    rest, factored = table[at + 7] * table[at + 9], table[at + 2] != 0
    n_rows = rest * table[at + 5] if factored else 0
    n_moments = n_rows + rest * table[at + 3] if factored else table[at + 1]
    return Tensor(table[at], table[at + 1], table[at + 11], n_rows, n_moments)


@kernel
def learned_decay(log_one_minus, shift):
    """max(1 - exp(10 (log(1 - d0) / 10 + theta)), 0): the initial decay d0 at theta = 0."""
    return max(1.0 - math.exp(10.0 * (np.float64(log_one_minus) / 10.0 + np.float64(shift))), 0.0)


@kernel
def update_second_moment(grad, v, decay):
    """v <- d v + (1 - d) g^2."""
    cast = grad.dtype.type
    d, a, tiny, zero = cast(decay), cast(1.0 - decay), cast(TINY), cast(0.0)
    for i in range(lane(), grad.size, lanes()):
        new = d * v[i] + a * (grad[i] * grad[i])
        v[i] = new if new > tiny else zero
    sync()


@kernel
def new_moments(fresh, grad, table, at, tensor):
    """fresh = row and column means of g^2 + 1e-30 of one tensor, or all of it if not factored."""
    cast = grad.dtype.type
    eps, g = cast(1e-30), grad[tensor.offset : tensor.offset + tensor.size]
    for i in range(lane(), tensor.n_moments, lanes()):
        fresh[i] = cast(0.0)
    sync()
    if tensor.n_rows > 0:
        rows, columns = fresh[: tensor.n_rows], fresh[tensor.n_rows : tensor.n_moments]
        factored_moments(grad, rows, columns, table, at, cast(0.0), eps, tensor.offset)
    else:
        for i in range(lane(), tensor.size, lanes()):
            fresh[i] = g[i] * g[i] + eps
        sync()


@kernel
def mix_moments(moments, fresh, decay):
    """moments <- d moments + (1 - d) fresh."""
    cast = moments.dtype.type
    d, a = cast(decay), cast(1.0 - decay)
    for i in range(lane(), moments.size, lanes()):
        moments[i] = d * moments[i] + a * fresh[i]
    sync()


@kernel
def derive(factors, inverses, moments, n_rows, nb):
    """Per row and column mean, what features need: factors, and inverses = 1 / sqrt(moment + 1e-8).

    Factor of a row: 1 / sqrt(max(row / (mean of the rows over axis b + 1e-9), 1e-9)), of a column
    1 / sqrt(max(column, 1e-9)).  nb: length of axis b, along which rows are contiguous.
    """
    cast = moments.dtype.type
    one, floor = cast(1.0), cast(1e-9)
    for i in range(lane(), moments.size, lanes()):
        inverses[i] = one / math.sqrt(moments[i] + cast(1e-8))
    for i in range(n_rows + lane(), moments.size, lanes()):
        factors[i] = one / math.sqrt(max(moments[i], floor))
    for r in range(lane(), n_rows // nb, lanes()):
        mean = cast(0.0)
        for j in range(nb):
            mean += moments[r * nb + j]
        mean = mean / cast(nb) + floor
        for j in range(nb):
            factors[r * nb + j] = one / math.sqrt(max(moments[r * nb + j] / mean, floor))
    sync()


@kernel
def adam_like_features(rows, count, params, grad, m, v, offset):
    """Rows 0-9: g, w, m (3), v, m / sqrt(v + 1e-6) (3), 1 / sqrt(v + 1e-6)."""
    n = params.size
    one, eps = params.dtype.type(1.0), params.dtype.type(1e-6)
    w, g, u = (
        params[offset : offset + count],
        grad[offset : offset + count],
        v[offset : offset + count],
    )
    row_g, row_w, row_v, row_inverse = rows[0], rows[1], rows[5], rows[9]
    for i in range(lane(), count, lanes()):
        row_g[i] = g[i]
        row_w[i] = w[i]
        row_v[i] = u[i]
        row_inverse[i] = one / math.sqrt(u[i] + eps)
    for k in range(N_DECAYS):
        row_m, row_normalised = rows[2 + k], rows[6 + k]
        mk = m[k * n + offset : k * n + offset + count]
        for i in range(lane(), count, lanes()):
            row_m[i] = mk[i]
            row_normalised[i] = mk[i] * row_inverse[i]
    sync()


@kernel
def factored_features(rows, count, k, moments, factors, inverses, row_of, column_of, n_rows):
    """Rows 10-27 of decay k of a factored tensor: preconditioned g, means, 1 / sqrt of means, preconditioned m."""
    g, m = rows[0], rows[2 + k]
    preconditioned_g, row_mean, column_mean = rows[10 + k], rows[13 + k], rows[16 + k]
    row_inverse, column_inverse, preconditioned_m = rows[19 + k], rows[22 + k], rows[25 + k]
    for i in range(lane(), count, lanes()):
        r, c = row_of[i], n_rows + column_of[i]
        both = factors[r] * factors[c]
        preconditioned_g[i] = g[i] * both
        row_mean[i] = moments[r]
        column_mean[i] = moments[c]
        row_inverse[i] = inverses[r]
        column_inverse[i] = inverses[c]
        preconditioned_m[i] = m[i] * both
    sync()


@kernel
def full_features(rows, count, k, moments):
    """The same rows for a tensor with fewer than two axes: its full second moment in both places."""
    cast = rows.dtype.type
    one, small, floor, eps = cast(1.0), cast(1e-8), cast(1e-9), cast(1e-6)
    g, m = rows[0], rows[2 + k]
    preconditioned_g, row_mean, column_mean = rows[10 + k], rows[13 + k], rows[16 + k]
    row_inverse, column_inverse, preconditioned_m = rows[19 + k], rows[22 + k], rows[25 + k]
    for i in range(lane(), count, lanes()):
        moment = moments[i]
        r = one / math.sqrt(moment + small)
        preconditioned_g[i] = g[i] / math.sqrt(max(moment + floor, floor))
        row_mean[i] = moment
        column_mean[i] = moment
        row_inverse[i] = r
        column_inverse[i] = r
        preconditioned_m[i] = m[i] / math.sqrt(moment + eps)
    sync()


@kernel
def all_features(rows, count, params, grad, state, derived, tensor, places, start):
    """The 28 rows of `count` parameters from `start`; derived (per decay: factors, inverses), places (2 N,)."""
    n = params.size
    adam_like_features(rows, count, params, grad, state, state[N_DECAYS * n :], start)
    moments = state[(N_DECAYS + 1) * n : state.size - 1]
    stride = moments.size // N_DECAYS
    for k in range(N_DECAYS):
        own = moments[k * stride + tensor.own : k * stride + tensor.own + tensor.n_moments]
        if tensor.n_rows > 0:
            at = VECTORS * k * stride + tensor.own
            factored_features(
                rows, count, k, own, derived[at:], derived[at + stride :], places[start : start + count],
                places[n + start : n + start + count], tensor.n_rows,
            )  # fmt: skip
        else:
            first = start - tensor.offset
            full_features(rows, count, k, own[first : first + count])


@kernel
def update_tensor_moments(grad, state, derived, fresh, table, at, tensor, hyper, shifts):
    """Factored moments of one tensor for all decays, and what is derived from them."""
    moments = state[(N_DECAYS + 1) * grad.size : state.size - 1]
    stride = moments.size // N_DECAYS
    new_moments(fresh, grad, table, at, tensor)
    for k in range(N_DECAYS):
        own = moments[k * stride + tensor.own : k * stride + tensor.own + tensor.n_moments]
        mix_moments(own, fresh, learned_decay(hyper[6 + k], shifts[N_DECAYS + 1 + k]))
        if tensor.n_rows > 0:
            at_k = VECTORS * k * stride + tensor.own
            derive(derived[at_k:], derived[at_k + stride :], own, tensor.n_rows, table[at + 5])


@kernel
def adafac_mlp_step(theta, params, grad, state, loss, is_valid, data, work):
    """One step; validation calls change nothing."""
    if is_valid != 0:
        return 0
    hyper, n, hidden = data.hyper, params.size, data.sizes[0]
    table = data.sizes[1:]
    places = table[1 + COLUMNS * table[0] :]
    t = np.float64(state[state.size - 1])
    net = network(theta, N_FEATURES + len(TIMES), hidden, 2)
    shifts = theta[theta.size - (2 * N_DECAYS + 1) :]
    stride = (state.size - 1 - (N_DECAYS + 1) * n) // N_DECAYS
    a = hidden + N_FEATURES
    bias, totals = work[:hidden], work[hidden:a].reshape(N_FEATURES, 1)
    decays, fresh = work[a : a + N_DECAYS], work[a + N_DECAYS : a + N_DECAYS + stride]
    a += N_DECAYS + stride
    derived = work[a : a + VECTORS * N_DECAYS * stride]
    scratch = scratch_of(work[a + derived.size :], N_FEATURES, hidden)

    for k in range(lane(), N_DECAYS, lanes()):
        decays[k] = work.dtype.type(learned_decay(hyper[2 + k], shifts[k]))
    sync()
    update_momenta(grad, state[: N_DECAYS * n], decays, N_DECAYS)
    v = state[N_DECAYS * n : (N_DECAYS + 1) * n]
    update_second_moment(grad, v, learned_decay(hyper[5], shifts[N_DECAYS]))
    tanh_time_bias(bias, net.first, net.first_bias, N_FEATURES, t)
    step_mult, mag_rate = params.dtype.type(hyper[0]), params.dtype.type(hyper[1])
    for j in range(table[0]):
        tensor = tensor_of(table, 1 + COLUMNS * j)
        offset, size = tensor.offset, tensor.size
        update_tensor_moments(
            grad, state, derived, fresh, table, 1 + COLUMNS * j, tensor, hyper, shifts
        )
        clear_rows(scratch.squares)
        for start in range(offset, offset + size, BLOCK):
            rows = scratch.rows[place_of(n, offset, j, start)]
            count = min(BLOCK, offset + size - start)
            all_features(rows, count, params, grad, state, derived, tensor, places, start)
            add_row_squares(rows, count, scratch.squares)
            sync()
        normalise(net, scratch, totals, size)
        for start in range(offset, offset + size, BLOCK):
            count = min(BLOCK, offset + size - start)
            rows = scratch.rows[place_of(n, offset, j, start)]
            if n > KEPT:
                all_features(rows, count, params, grad, state, derived, tensor, places, start)
            hidden_layers(scratch, rows, count, scratch.scaled, bias, net)
            apply_direction(params[start : start + count], scratch, net, step_mult, mag_rate)
    if lane() == 0:
        state[state.size - 1] = state.dtype.type(t + 1.0)
    sync()
    return 0


@register_optimizer("adafac_mlp")
@dataclasses.dataclass(frozen=True)
class AdafacMlp(PerParameterOptimizer):
    """Small fully-connected learned optimizer of Metz et al. 2022 (arXiv 2203.11860), 197 meta-parameters.

    The form of the public JAX code: 28 inputs normalised over the tensor, tanh(t / tau - 1) for eleven tau, and seven
    learned decays, d = 1 - exp(10 (log(1 - d0) / 10 + theta)).  Tensors with fewer than two axes are not factored.
    Differs: a decay that theta would make negative is 0 (second moments stay positive), and tensors with more
    than four axes are not factored.
    """

    hidden: int = 4
    momentum_decays: tuple[float, float, float] = (0.9, 0.99, 0.999)
    rms_decay: float = 0.999
    factored_decays: tuple[float, float, float] = (0.9, 0.99, 0.999)
    step_mult: float = 1e-3
    mag_rate: float = 1e-3

    core = staticmethod(adafac_mlp_step)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("momentum_decays", "factored_decays"):
            if len(getattr(self, key)) != N_DECAYS:
                raise OptimizerError(
                    f"{self.name}: {key} must have {N_DECAYS} values, got {getattr(self, key)}"
                )
        decays = (*self.momentum_decays, self.rms_decay, *self.factored_decays)
        if any(not 0 <= d < 1 for d in decays):
            raise OptimizerError(
                f"{self.name}: momentum_decays, rms_decay, factored_decays must lie in [0, 1), got {decays}"
            )

    @property
    def n_features(self) -> int:
        return N_FEATURES

    @property
    def theta_layout(self) -> Layout:
        names = (("momentum_decays", (3,)), ("rms_decays", (1,)), ("factored_decays", (3,)))
        return Layout((*super().theta_layout, *names))

    def hyper(self) -> np.ndarray:
        decays = (*self.momentum_decays, self.rms_decay, *self.factored_decays)
        logs = [math.log1p(-d) for d in decays]
        return np.array([self.step_mult, self.mag_rate, *logs], np.float32)

    def sizes(self, layout: Layout) -> np.ndarray:
        table, own = [self.hidden, len(layout)], 0
        places = []
        for shape, offset, size in zip(layout.shapes, layout.offsets, layout.sizes, strict=True):
            axes = factoring(shape) if size > 0 else None
            table += [offset, size, int(axes is not None), *(axes or (0,) * 8), own]
            own += _moments(shape, size)
            places.append(_places(axes, size))
        maps = np.concatenate(places, axis=1).reshape(-1) if places else np.zeros(0, np.int64)
        return np.concatenate([np.array(table, np.int64), maps])

    def _n_moments(self, layout: Layout) -> int:
        return sum(_moments(s, n) for s, n in zip(layout.shapes, layout.sizes, strict=True))

    def state_size(self, layout: Layout) -> int:
        return (N_DECAYS + 1) * layout.size + N_DECAYS * self._n_moments(layout) + 1

    def work_size(self, layout: Layout) -> int:
        vectors = 1 + VECTORS * N_DECAYS  # this step's moments, and what is derived for each decay
        return super().work_size(layout) + N_DECAYS + vectors * self._n_moments(layout)


def _moments(shape: tuple[int, ...], size: int) -> int:
    axes = factoring(shape)
    return size if axes is None or size == 0 else size // axes[0] + size // axes[2]


def _places(axes: tuple[int, ...] | None, size: int) -> np.ndarray:
    """(2, size) index of each parameter's row mean and column mean within its tensor; 0 where unfactored."""
    if axes is None:
        return np.zeros((2, size), np.int64)
    na, sa, nb, sb, n1, s1, n2, s2 = axes
    at = np.arange(size)
    along = [
        (at // s) % n if s else np.zeros(size, np.int64)
        for n, s in ((na, sa), (nb, sb), (n1, s1), (n2, s2))
    ]
    rest = along[2] * n2 + along[3]
    return np.stack([rest * nb + along[1], rest * na + along[0]])
