"""`adafac_mlp`: a tiny per-parameter MLP with Adam-like and Adafactor-like inputs and learned decays."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from lopt.arch.adafac_factored import add_input_squares, first_layer_of_inputs, multipliers
from lopt.arch.adafac_features import (
    DECAYS,
    FACTORED,
    FULL,
    N_DECAYS,
    N_FEATURES,
    TABLE,
    VECTORS,
    Moments,
    features,
    spread_over_block,
    tensor_of,
    update_accumulators,
    update_tensor_moments,
)
from lopt.arch.factored import factoring, runs_of
from lopt.arch.mlp_optimizer import PerParameterOptimizer
from lopt.arch.per_parameter import (
    BLOCK,
    KEPT,
    TIMES,
    Scratch,
    apply_direction,
    clear_rows,
    hidden_layers,
    inverse_rms,
    network,
    place_of,
    scratch_of,
    scratch_size,
    second_layer,
    tanh_time_bias,
)
from lopt.errors import OptimizerError
from lopt.lanes import (
    add_row_squares,
    add_row_sums,
    add_square_partials,
    clear_partials,
    fold_partials,
    kernel,
    lane,
    lanes,
    matmul,
    sync,
)
from lopt.layout import Layout
from lopt.optimizer import register_optimizer

# data.sizes = (hidden, most means of a factored tensor), n_tensors, TABLE per tensor, then the starts of runs
# data.hyper = (step_mult, mag_rate, log(1 - d0) of momenta (3), of v, of factored moments (3))
# state = m (3 N) | v (N) | per decay: rows and columns (or full moment) of all tensors | t


class Folded(NamedTuple):
    """Scratch of the first layer."""

    totals: np.ndarray  # (FULL, 1) inverse RMS of the inputs
    vector_totals: np.ndarray  # (4, 3) of row means, column means and their inverse roots
    bias: np.ndarray  # (H,) of time
    means: np.ndarray  # (H, rows and columns) bias of every row and column
    squares: np.ndarray  # (16, BLOCK) partial sums of the squares of a factored tensor's inputs


class Views(NamedTuple):
    """Scratch, and the moments of the state."""

    decays: np.ndarray  # (7, 2) d and 1 - d of m (3), of v, of factored moments (3)
    fresh: np.ndarray  # (all means,) moments of this step
    moments: Moments
    folded: Folded
    scratch: Scratch


@kernel
def learned_decay(log_one_minus, shift):
    """max(1 - exp(10 (log(1 - d0) / 10 + theta)), 0): the initial decay d0 at theta = 0."""
    return max(1.0 - math.exp(10.0 * (np.float64(log_one_minus) / 10.0 + np.float64(shift))), 0.0)


@kernel
def inverse_rms_of(values, partials):
    """1 / sqrt(1e-5 + mean square), on every lane; partials is scratch of 32."""
    cast = values.dtype.type
    clear_partials(partials)
    add_square_partials(values, values.size, partials)
    return cast(1.0) / math.sqrt(cast(1e-5) + fold_partials(partials) / cast(values.size))


@kernel
def fold_means(folded, moments, tensor, w, partials):
    """Bias of every row and column of a factored tensor: what its means and their inverse roots add to the first layer."""
    n_rows, end = tensor.n_rows, tensor.n_moments
    totals = folded.vector_totals
    for k in range(N_DECAYS):
        values = moments.values[k, tensor.own : tensor.own + end]
        inverses = moments.inverses[k, tensor.own : tensor.own + end]
        a = inverse_rms_of(values[:n_rows], partials)
        b = inverse_rms_of(values[n_rows:], partials)
        c = inverse_rms_of(inverses[:n_rows], partials)
        d = inverse_rms_of(inverses[n_rows:], partials)
        if lane() == 0:
            totals[0, k], totals[1, k], totals[2, k], totals[3, k] = a, b, c, d
    sync()
    for h in range(folded.bias.size):
        out, start = folded.means[h], folded.bias[h]
        for i in range(lane(), end, lanes()):
            out[i] = start if i < n_rows else out.dtype.type(0.0)
        for k in range(N_DECAYS):
            values = moments.values[k, tensor.own : tensor.own + end]
            inverses = moments.inverses[k, tensor.own : tensor.own + end]
            row, row_inverse = w[13 + k, h] * totals[0, k], w[19 + k, h] * totals[2, k]
            column, column_inverse = w[16 + k, h] * totals[1, k], w[22 + k, h] * totals[3, k]
            for i in range(lane(), end, lanes()):
                a = row if i < n_rows else column
                b = row_inverse if i < n_rows else column_inverse
                out[i] += a * values[i] + b * inverses[i]
    sync()


@kernel
def fold_weights(scaled, w, totals, factored):
    """First matrix for the rows of `features`, their 1 / RMS (FULL, 1) folded in; see the note at the top."""
    hidden = scaled.shape[1]
    for c in range(FACTORED if factored else FULL):
        row, f = scaled[c], totals[c, 0]
        source = w[c] if c < 13 else w[c + 12] if c < FACTORED else w[c - 3] if c < 19 else w[c]
        if c < FACTORED:
            for j in range(lane(), hidden, lanes()):
                row[j] = f * source[j]
        else:
            twin = w[c] if c < 19 else w[c + 3]
            for j in range(lane(), hidden, lanes()):
                row[j] = f * (source[j] + twin[j])
    sync()


@kernel
def first_layer(net, scratch, folded, moments, tensor):
    """Weights and biases of a tensor's first layer, from the sums of squares of its inputs."""
    matmul(scratch.squares, scratch.ones, folded.totals)
    inverse_rms(folded.totals, folded.totals, tensor.size)
    fold_weights(scratch.scaled, net.first, folded.totals, tensor.n_rows > 0)
    if tensor.n_rows > 0:
        fold_means(folded, moments, tensor, net.first, scratch.squares[0])


@kernel
def sum_squares(scratch, folded, params, grad, state, decays, moments, tensor, j, starts):
    """First pass over tensor j: its accumulators, and the sums of the squares of its inputs."""
    n, offset, factored = params.size, tensor.offset, tensor.n_rows > 0
    v, end = state[N_DECAYS * n :], offset + tensor.size
    squares = folded.squares.reshape(FACTORED * BLOCK)
    clear_rows(scratch.squares)
    clear_rows(folded.squares)
    for start in range(offset, end, BLOCK):
        rows, count = scratch.rows[place_of(n, offset, j, start)], min(BLOCK, end - start)
        update_accumulators(grad, state, decays, start, count)
        if factored:
            multipliers(rows, count, v, moments, tensor, starts, start)
            add_input_squares(squares, rows, count, params, grad, state, start)
        else:
            features(rows, count, params, grad, state, moments, tensor, start)
            add_row_squares(rows, count, scratch.squares)
            sync()
    if factored:
        add_row_sums(folded.squares, BLOCK, scratch.squares[:FACTORED])


@kernel
def move(params, grad, state, moments, tensor, j, starts, net, scratch, folded, hyper):
    """Second pass over tensor j: the MLP of every parameter."""
    n, offset, factored = params.size, tensor.offset, tensor.n_rows > 0
    v, end = state[N_DECAYS * n :], offset + tensor.size
    step_mult, mag_rate = params.dtype.type(hyper[0]), params.dtype.type(hyper[1])
    for start in range(offset, end, BLOCK):
        rows, count = scratch.rows[place_of(n, offset, j, start)], min(BLOCK, end - start)
        if factored:
            out = scratch.first
            # biases early: what is on its way to memory is slow to read
            spread_over_block(out, folded.means, 0, tensor, starts, start, count, False)
            if n > KEPT:
                multipliers(rows, count, v, moments, tensor, starts, start)
            first_layer_of_inputs(out, rows, count, scratch.scaled, params, grad, state, start)
            second_layer(scratch, count, net)
        else:
            if n > KEPT:
                features(rows, count, params, grad, state, moments, tensor, start)
            hidden_layers(scratch, rows, count, scratch.scaled, folded.bias, net)
        apply_direction(params[start : start + count], scratch, net, step_mult, mag_rate)


@kernel
def adafac_mlp_step(theta, params, grad, state, loss, is_valid, data, work):
    """One step; validation calls change nothing."""
    if is_valid != 0:
        return 0
    hyper, n, hidden, most = data.hyper, params.size, data.sizes[0], data.sizes[1]
    table = data.sizes[2:]
    starts = table[1 + TABLE * table[0] :]
    t = np.float64(state[state.size - 1])
    net = network(theta, N_FEATURES + len(TIMES), hidden, 2)
    decays, fresh, moments, folded, scratch = views_of(state, work, n, hidden, most)
    for k in range(lane(), DECAYS, lanes()):
        decay = learned_decay(hyper[2 + k], theta[theta.size - DECAYS + k])
        rounded = work.dtype.type(decay)
        decays[k, 0] = rounded
        decays[k, 1] = 1.0 - (rounded if k < N_DECAYS else decay)
    tanh_time_bias(folded.bias, net.first, net.first_bias, N_FEATURES, t)
    for j in range(table[0]):
        at = 1 + TABLE * j
        tensor = tensor_of(table, at)
        update_tensor_moments(
            grad, moments, fresh, table, at, tensor, starts, decays, scratch.squares
        )
        sum_squares(scratch, folded, params, grad, state, decays, moments, tensor, j, starts)
        first_layer(net, scratch, folded, moments, tensor)
        move(params, grad, state, moments, tensor, j, starts, net, scratch, folded, hyper)
    if lane() == 0:
        state[state.size - 1] = state.dtype.type(t + 1.0)
    sync()
    return 0


@kernel
def views_of(state, work, n, hidden, most):
    """The Views of a state of n parameters, and of work."""
    stride = (state.size - 1 - (N_DECAYS + 1) * n) // N_DECAYS
    a = 2 * DECAYS
    b = a + stride
    c = b + N_DECAYS * stride
    d = c + N_DECAYS * stride
    e = d + FULL
    f = e + 4 * N_DECAYS
    g = f + hidden
    h = g + hidden * most
    k = h + FACTORED * BLOCK
    values = state[(N_DECAYS + 1) * n : state.size - 1].reshape(N_DECAYS, stride)
    factors, inverses = work[b:c].reshape(N_DECAYS, stride), work[c:d].reshape(N_DECAYS, stride)
    folded = Folded(
        work[d:e].reshape(FULL, 1), work[e:f].reshape(4, N_DECAYS), work[f:g],
        work[g:h].reshape(hidden, most), work[h:k].reshape(FACTORED, BLOCK),
    )  # fmt: skip
    scratch = scratch_of(work[k:], FULL, hidden)
    return Views(
        work[:a].reshape(DECAYS, 2), work[a:b], Moments(values, factors, inverses), folded, scratch
    )


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
        table, starts, own, runs, most = [], [], 0, 0, 0
        for shape, offset, size in zip(layout.shapes, layout.offsets, layout.sizes, strict=True):
            axes, count = (factoring(shape) if size > 0 else None), _moments(shape, size)
            steps, first = runs_of(shape, axes) if axes else ((1, 0, 0), np.zeros((0, 2), np.int64))
            table += [offset, size, int(axes is not None), *(axes or (0,) * 8), own, *steps, runs]
            starts.append(first)
            own, runs = own + count, runs + len(first)
            most = max(most, count) if axes else most
        head = np.array([self.hidden, most, len(layout), *table], np.int64)
        return np.concatenate([head, *(first.reshape(-1) for first in starts)])

    def _n_moments(self, layout: Layout) -> int:
        return sum(_moments(s, n) for s, n in zip(layout.shapes, layout.sizes, strict=True))

    def state_size(self, layout: Layout) -> int:
        return (N_DECAYS + 1) * layout.size + N_DECAYS * self._n_moments(layout) + 1

    def work_size(self, layout: Layout) -> int:
        most = int(self.sizes(layout)[1])
        vectors = 1 + VECTORS * N_DECAYS  # this step's moments, and what is derived for each decay
        small = 2 * DECAYS + FULL + 4 * N_DECAYS + self.hidden * (1 + most) + FACTORED * BLOCK
        network_size = scratch_size(FULL, self.hidden, layout.size, len(layout))
        return small + vectors * self._n_moments(layout) + network_size


def _moments(shape: tuple[int, ...], size: int) -> int:
    axes = factoring(shape)
    return size if axes is None or size == 0 else size // axes[0] + size // axes[2]
