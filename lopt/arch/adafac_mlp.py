"""`adafac_mlp`: a tiny per-parameter MLP with Adam-like and Adafactor-like inputs and learned decays."""

import dataclasses
import math

import numpy as np

from lopt.arch.factored import COLUMNS, factored_moments, factoring
from lopt.arch.mlp_optimizer import PerParameterOptimizer, update_momenta
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
from lopt.lanes import entry_point, kernel, lane, lanes, sync
from lopt.layout import Layout
from lopt.optimizer import STEP_SIG, register_optimizer

N_DECAYS = 3  # momenta, and factored second moments; one full second moment beside them
N_FEATURES = 28

# data.sizes = (hidden,), n_tensors, COLUMNS per tensor, then per parameter the place of its row and column mean
# data.hyper = (step_mult, mag_rate, log(1 - d0) of momenta (3), of v, of factored moments (3))
# state = m (3 N) | v (N) | per decay: rows and columns (or full moment) of all tensors | t


@kernel
def learned_decay(log_one_minus, shift):
    """1 - exp(10 (log(1 - d0) / 10 + theta)): the initial decay d0 at theta = 0."""
    return 1.0 - math.exp(10.0 * (log_one_minus / 10.0 + np.float64(shift)))


@kernel
def row_factors(factors, rows, table, at):
    """factors = 1 / sqrt(max(row / (mean of the rows over axis b + 1e-9), 1e-9)); same shape as rows."""
    cast = rows.dtype.type
    nb, rest = table[at + 5], table[at + 7] * table[at + 9]
    for r in range(lane(), rest, lanes()):
        mean = cast(0.0)
        for j in range(nb):
            mean += rows[r * nb + j]
        mean = mean / cast(nb) + cast(1e-9)
        for j in range(nb):
            factors[r * nb + j] = cast(1.0) / np.sqrt(max(rows[r * nb + j] / mean, cast(1e-9)))
    sync()


@kernel
def adam_like_features(rows, params, grad, m, v, offset):
    """Rows 0-8: g, w, m (3), v, m / sqrt(v + 1e-6) (3) and row 9: 1 / sqrt(v + 1e-6)."""
    n, count = params.size, rows.shape[1]
    one, eps = params.dtype.type(1.0), params.dtype.type(1e-6)
    for i in range(lane(), count, lanes()):
        r = one / np.sqrt(v[offset + i] + eps)
        rows[0, i] = grad[offset + i]
        rows[1, i] = params[offset + i]
        rows[5, i] = v[offset + i]
        rows[9, i] = r
    for k in range(N_DECAYS):
        for i in range(lane(), count, lanes()):
            rows[2 + k, i] = m[k * n + offset + i]
            rows[6 + k, i] = m[k * n + offset + i] * rows[9, i]
    sync()


@kernel
def factored_features(rows, k, moments, factors, row_of, column_of, n_rows):
    """Rows 10-27 of decay k for a factored tensor: preconditioned g, means, 1 / sqrt of means, preconditioned m."""
    cast = rows.dtype.type
    one, small, floor = cast(1.0), cast(1e-8), cast(1e-9)
    for i in range(lane(), rows.shape[1], lanes()):
        row, column = moments[row_of[i]], moments[n_rows + column_of[i]]
        both = factors[row_of[i]] * (one / np.sqrt(max(column, floor)))
        rows[10 + k, i] = rows[0, i] * both
        rows[13 + k, i] = row
        rows[16 + k, i] = column
        rows[19 + k, i] = one / np.sqrt(row + small)
        rows[22 + k, i] = one / np.sqrt(column + small)
        rows[25 + k, i] = rows[2 + k, i] * both
    sync()


@kernel
def full_features(rows, k, moments, start):
    """The same rows for a tensor with fewer than two axes: its full second moment in both places."""
    cast = rows.dtype.type
    one, small, floor = cast(1.0), cast(1e-8), cast(1e-9)
    for i in range(lane(), rows.shape[1], lanes()):
        moment = moments[start + i]
        r = one / np.sqrt(moment + small)
        rows[10 + k, i] = rows[0, i] / np.sqrt(max(moment + floor, floor))
        rows[13 + k, i] = moment
        rows[16 + k, i] = moment
        rows[19 + k, i] = r
        rows[22 + k, i] = r
        rows[25 + k, i] = rows[2 + k, i] / np.sqrt(moment + cast(1e-6))
    sync()


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
def update_moments(grad, moments, table, at, decay):
    """Factored or full second moments of one tensor for one decay."""
    cast = grad.dtype.type
    offset, size, eps = table[at], table[at + 1], cast(1e-30)
    d, a = cast(decay), cast(1.0 - decay)
    if table[at + 2] != 0:
        n_rows = table[at + 7] * table[at + 9] * table[at + 5]
        factored_moments(grad, moments[:n_rows], moments[n_rows:], table, at, d, eps, offset)
    else:
        for i in range(lane(), size, lanes()):
            moments[i] = d * moments[i] + a * (grad[offset + i] * grad[offset + i] + eps)
        sync()


@kernel
def adafac_mlp_step(theta, params, grad, state, loss, is_valid, data, work):
    """One step; validation calls change nothing."""
    if is_valid != 0:
        return 0
    hyper, n, hidden = data.hyper, params.size, data.sizes[0]
    table = data.sizes[1:]
    n_tensors = table[0]
    row_of = table[1 + COLUMNS * n_tensors : 1 + COLUMNS * n_tensors + n]
    column_of = table[1 + COLUMNS * n_tensors + n :]
    t = np.float64(state[state.size - 1])
    n_first = N_FEATURES + len(TIMES)
    w0 = theta[: n_first * hidden].reshape(n_first, hidden)
    rest = n_first * hidden + hidden
    shifts = theta[theta.size - (2 * N_DECAYS + 1) :]
    m, v = state[: N_DECAYS * n], state[N_DECAYS * n : (N_DECAYS + 1) * n]
    all_moments = state[(N_DECAYS + 1) * n : state.size - 1]
    stride = all_moments.size // N_DECAYS

    bias = work[:hidden]
    scaled = work[hidden : hidden + N_FEATURES * hidden].reshape(N_FEATURES, hidden)
    at = hidden + N_FEATURES * hidden
    heads_w = work[at : at + 2 * hidden].reshape(2, hidden)
    at += 2 * hidden
    sums = work[at : at + 32 * N_FEATURES].reshape(N_FEATURES, 32)
    at += 32 * N_FEATURES
    decays = work[at : at + N_DECAYS]
    at += N_DECAYS
    factors = work[at : at + all_moments.size]
    at += all_moments.size

    for k in range(lane(), N_DECAYS, lanes()):
        decays[k] = work.dtype.type(learned_decay(np.float64(hyper[2 + k]), shifts[k]))
    sync()
    update_momenta(grad, m, decays, N_DECAYS)
    update_second_moment(grad, v, learned_decay(np.float64(hyper[5]), shifts[N_DECAYS]))
    tanh_time_bias(bias, w0, theta[n_first * hidden : rest], N_FEATURES, t)
    step_mult, mag_rate = params.dtype.type(hyper[0]), params.dtype.type(hyper[1])
    for j in range(n_tensors):
        entry = 1 + COLUMNS * j
        offset, size, own = table[entry], table[entry + 1], table[entry + 11]
        factored = table[entry + 2] != 0
        n_rows = table[entry + 7] * table[entry + 9] * table[entry + 5]
        length = size
        if factored:
            length = n_rows + table[entry + 7] * table[entry + 9] * table[entry + 3]
        for k in range(N_DECAYS):
            decay = learned_decay(np.float64(hyper[6 + k]), shifts[N_DECAYS + 1 + k])
            moments = all_moments[k * stride + own : k * stride + own + length]
            update_moments(grad, moments, table, entry, decay)
            if factored:
                row_factors(factors[k * stride + own :], moments[:n_rows], table, entry)
        clear_rows(sums)
        for second_pass in range(2):
            for start in range(0, size, BLOCK):
                count = min(BLOCK, size - start)
                first = offset + start
                rows = work[at : at + N_FEATURES * count].reshape(N_FEATURES, count)
                adam_like_features(rows, params, grad, m, v, first)
                for k in range(N_DECAYS):
                    moments = all_moments[k * stride + own : k * stride + own + length]
                    if factored:
                        factored_features(
                            rows, k, moments, factors[k * stride + own :], row_of[first:],
                            column_of[first:], n_rows,
                        )  # fmt: skip
                    else:
                        full_features(rows, k, moments, start)
                if second_pass == 0:
                    add_row_squares(rows, sums)
                else:
                    small_network_step(
                        params[first : first + count], rows, scaled, bias, theta, rest, hidden,
                        heads_w, step_mult, mag_rate, work[at + N_FEATURES * count :],
                    )  # fmt: skip
            if second_pass == 0:
                normalise_first_layer(scaled, w0, sums, size)
    if lane() == 0:
        state[state.size - 1] = state.dtype.type(t + 1.0)
    sync()
    return 0


@entry_point(STEP_SIG)
def adafac_mlp_entry(theta, params, grad, state, loss, is_valid, data, work):
    return adafac_mlp_step(theta, params, grad, state, loss, is_valid, data, work)


@register_optimizer("adafac_mlp")
@dataclasses.dataclass(frozen=True)
class AdafacMlp(PerParameterOptimizer):
    """Small fully-connected learned optimizer of Metz et al. 2022 (arXiv 2203.11860), 197 meta-parameters.

    The form of the public JAX code: 28 inputs normalised over the tensor, tanh(t / tau - 1) for eleven tau, and seven
    learned decays, d = 1 - exp(10 (log(1 - d0) / 10 + theta)).  Tensors with fewer than two axes are not factored.
    """

    hidden: int = 4
    momentum_decays: tuple[float, float, float] = (0.9, 0.99, 0.999)
    rms_decay: float = 0.999
    factored_decays: tuple[float, float, float] = (0.9, 0.99, 0.999)
    step_mult: float = 1e-3
    mag_rate: float = 1e-3

    core = staticmethod(adafac_mlp_step)
    entry = adafac_mlp_entry

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
            axes = factoring(shape)
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
        return super().work_size(layout) + N_DECAYS + N_DECAYS * self._n_moments(layout)


def _moments(shape: tuple[int, ...], size: int) -> int:
    axes = factoring(shape)
    return size if axes is None else size // axes[0] + size // axes[2]


def _places(axes: tuple[int, ...] | None, size: int) -> np.ndarray:
    """(2, size) index of each parameter's row mean and column mean within its tensor; 0 where unfactored."""
    if axes is None:
        return np.zeros((2, size), np.int64)
    na, sa, nb, sb, n1, s1, n2, s2 = axes
    at = np.arange(size)
    along = [(at // s) % n if s else np.zeros(size, np.int64) for n, s in ((na, sa), (nb, sb), (n1, s1), (n2, s2))]
    rest = along[2] * n2 + along[3]
    return np.stack([rest * nb + along[1], rest * na + along[0]])
