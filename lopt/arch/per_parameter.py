"""The per-parameter network of learned optimizers: a ReLU MLP over blocks of parameters.

Features are rows, parameters columns (structure of arrays), so every elementwise loop vectorises and the layers are
matrix products of (hidden x inputs) (inputs x block).  Inputs that are constant over a tensor enter through the bias,
the RMS normalisation through the rows of the first matrix, and messages are read from the mean hidden layer, since the
last layer is linear: the same numbers to rounding for about half the multiply-adds.
"""

import math
from typing import NamedTuple

import numpy as np

from lopt.lanes import PARTIALS, kernel, lane, lanes, layer, sync
from lopt.ops.elementary import exp

BLOCK = 128  # parameters processed together: a block's layers stay in a core's first-level cache
KEPT = 4096  # up to so many parameters, all feature rows are kept between the two passes; else computed twice
TIMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)  # steps
TINY = 1e-30  # accumulators below it become 0: subnormal arithmetic is many times slower


class Network(NamedTuple):
    """Weights of the MLP, views of theta; y = x w + b."""

    first: np.ndarray  # (I, H)
    first_bias: np.ndarray  # (H,)
    second: np.ndarray  # (H, H)
    second_bias: np.ndarray  # (H,)
    last: np.ndarray  # (H, O); its first two outputs are direction and magnitude
    last_bias: np.ndarray  # (O,)


class Scratch(NamedTuple):
    """Views of the scratch that the network needs; F normalised features."""

    ones: np.ndarray  # (32, 1)
    sums: np.ndarray  # (F, 32) partial sums of the features
    squares: np.ndarray  # (F, 32) partial sums of their squares
    hidden_sums: np.ndarray  # (H, 32) partial sums of the second hidden layer
    scaled: np.ndarray  # (F, H) first matrix with the normalisation folded in
    first: np.ndarray  # (H, BLOCK) hidden layers of a block
    second: np.ndarray  # (H, BLOCK)
    heads: np.ndarray  # (2, BLOCK) direction and magnitude
    rows: np.ndarray  # (blocks, F, BLOCK) features; one block for all if N > KEPT


def scratch_size(features: int, hidden: int, n: int, tensors: int) -> int:
    """Elements of work that `scratch_of` reads, for n parameters in some tensors."""
    blocks = n // BLOCK + tensors if n <= KEPT else 1
    fixed = PARTIALS * (1 + 2 * features + hidden) + features * hidden
    return fixed + (2 * hidden + 2 + features * blocks) * BLOCK


@kernel
def network(theta, inputs, hidden, outputs):
    """The Network at the beginning of theta."""
    a = inputs * hidden
    b = a + hidden
    c = b + hidden * hidden
    d = c + hidden
    e = d + hidden * outputs
    return Network(
        theta[:a].reshape(inputs, hidden),
        theta[a:b],
        theta[b:c].reshape(hidden, hidden),
        theta[c:d],
        theta[d:e].reshape(hidden, outputs),
        theta[e : e + outputs],
    )


@kernel
def scratch_of(work, features, hidden):
    """The Scratch that fills work; sets the ones."""
    a = PARTIALS
    b = a + PARTIALS * features
    c = b + PARTIALS * features
    d = c + PARTIALS * hidden
    e = d + features * hidden
    f = e + hidden * BLOCK
    g = f + hidden * BLOCK
    h = g + 2 * BLOCK
    blocks = (work.size - h) // (features * BLOCK)
    ones = work[:a].reshape(PARTIALS, 1)
    for i in range(lane(), PARTIALS, lanes()):
        ones[i, 0] = work.dtype.type(1.0)
    sync()
    return Scratch(
        ones,
        work[a:b].reshape(features, PARTIALS),
        work[b:c].reshape(features, PARTIALS),
        work[c:d].reshape(hidden, PARTIALS),
        work[d:e].reshape(features, hidden),
        work[e:f].reshape(hidden, BLOCK),
        work[f:g].reshape(hidden, BLOCK),
        work[g:h].reshape(2, BLOCK),
        work[h : h + blocks * features * BLOCK].reshape(blocks, features, BLOCK),
    )


@kernel
def place_of(n, offset, k, start):
    """Index in scratch.rows for the block of tensor k, at `offset`, that begins at parameter `start` of n."""
    return offset // BLOCK + k + (start - offset) // BLOCK if n <= KEPT else 0


@kernel
def clear_rows(partials):
    """Set partial sums, those of each feature in a row, to 0."""
    for c in range(partials.shape[0]):
        for k in range(lane(), partials.shape[1], lanes()):
            partials[c, k] = partials.dtype.type(0.0)
    sync()


@kernel
def inverse_rms(factors, squares, size):
    """factors (F, 1) <- 1 / sqrt(1e-5 + mean square), in place of the sums of squares over `size` parameters."""
    cast = factors.dtype.type
    for c in range(lane(), factors.shape[0], lanes()):
        factors[c, 0] = cast(1.0) / math.sqrt(cast(1e-5) + squares[c, 0] / cast(size))
    sync()


@kernel
def scale_rows(scaled, w, factors):
    """scaled = rows of w times factors (F, 1); w may have more rows."""
    features, hidden = scaled.shape
    for c in range(features):
        row, source, f = scaled[c], w[c], factors[c, 0]
        for j in range(lane(), hidden, lanes()):
            row[j] = f * source[j]
    sync()


@kernel
def hidden_layers(scratch, rows, count, first, bias, net):
    """scratch.second = relu(second^T relu(first^T rows + bias) + second_bias) for `count` parameters.

    Shapes: rows (F, BLOCK), first (F, H), bias (H,).
    """
    layer(rows, first, bias, scratch.first, count, bias.dtype.type(0.0))
    second_layer(scratch, count, net)


@kernel
def second_layer(scratch, count, net):
    """scratch.second = relu(second^T scratch.first + second_bias) for `count` parameters."""
    zero = net.second.dtype.type(0.0)
    layer(scratch.first, net.second, net.second_bias, scratch.second, count, zero)


@kernel
def apply_direction(params, scratch, net, step_mult, mag_rate):
    """Output head: w <- w - step_mult a exp(mag_rate b), (a, b) the first two outputs of the network."""
    low = params.dtype.type(-np.inf)
    layer(scratch.second, net.last, net.last_bias, scratch.heads, params.size, low)
    a, b = scratch.heads[0], scratch.heads[1]
    for i in range(lane(), params.size, lanes()):
        params[i] -= step_mult * a[i] * exp(mag_rate * b[i])
    sync()


@kernel
def tanh_time_bias(bias, w, b, first, t):
    """bias = b + the first layer's response to tanh(t / tau - 1), whose weights start at row `first` of w."""
    cast = w.dtype.type
    for j in range(lane(), bias.size, lanes()):
        bias[j] = b[j]
    for i in range(len(TIMES)):
        wave, row = cast(math.tanh(t / TIMES[i] - 1.0)), w[first + i]
        for j in range(lane(), bias.size, lanes()):
            bias[j] += wave * row[j]
    sync()
