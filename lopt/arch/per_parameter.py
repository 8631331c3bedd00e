"""The per-parameter network of learned optimizers: a ReLU MLP over blocks of parameters.

Features are rows, parameters columns (structure of arrays), so every elementwise loop vectorises and the layers are
matrix products of (hidden x inputs) (inputs x block).  Inputs that are constant over a tensor enter through the bias,
the RMS normalisation through the rows of the first matrix, and messages are read from the mean hidden layer, since the
last layer is linear: the same numbers to rounding for about half the multiply-adds.
"""

import math
from typing import NamedTuple

import numpy as np

from lopt.lanes import PARTIALS, kernel, lane, lanes, matmul, sync
from lopt.ops.elementary import exp

BLOCK = (
    512  # parameters processed together: rows and hidden layers of a block stay in a core's cache
)
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
    """Views of the scratch that the network needs; F normalised features, block <= BLOCK parameters."""

    ones: np.ndarray  # (32, 1)
    sums: np.ndarray  # (F, 32) partial sums of the features
    squares: np.ndarray  # (F, 32) partial sums of their squares
    hidden_sums: np.ndarray  # (H, 32) partial sums of the second hidden layer
    scaled: np.ndarray  # (F, H) first matrix with the normalisation folded in
    head_weights: np.ndarray  # (2, H)
    first: np.ndarray  # (H * block,)
    second: np.ndarray  # (H * block,)
    heads: np.ndarray  # (2 * block,)
    rows: np.ndarray  # (F * N,) if N <= KEPT, else (F * block,)


class Block(NamedTuple):
    """Views of the scratch for a block of n parameters; blocks share all but the rows that are kept."""

    rows: np.ndarray  # (F, n) features
    first: np.ndarray  # (H, n) hidden layers
    second: np.ndarray  # (H, n)
    heads: np.ndarray  # (2, n) direction and magnitude, without bias


def scratch_size(features: int, hidden: int, n: int) -> int:
    """Elements of work that `scratch_of` reads, for n parameters."""
    fixed = PARTIALS * (1 + 2 * features + hidden) + (features + 2) * hidden
    return fixed + (2 * hidden + 2) * min(n, BLOCK) + features * (n if n <= KEPT else BLOCK)


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
def scratch_of(work, features, hidden, n, last):
    """The Scratch at the beginning of work; sets what is constant during a step (ones, head weights)."""
    block = min(n, BLOCK)
    a = PARTIALS
    b = a + PARTIALS * features
    c = b + PARTIALS * features
    d = c + PARTIALS * hidden
    e = d + features * hidden
    f = e + 2 * hidden
    g = f + hidden * block
    h = g + hidden * block
    ones, head_weights = work[:a].reshape(PARTIALS, 1), work[e:f].reshape(2, hidden)
    for i in range(lane(), PARTIALS, lanes()):
        ones[i, 0] = work.dtype.type(1.0)
    for j in range(lane(), hidden, lanes()):
        head_weights[0, j] = last[j, 0]
        head_weights[1, j] = last[j, 1]
    sync()
    return Scratch(
        ones,
        work[a:b].reshape(features, PARTIALS),
        work[b:c].reshape(features, PARTIALS),
        work[c:d].reshape(hidden, PARTIALS),
        work[d:e].reshape(features, hidden),
        head_weights,
        work[f:g],
        work[g:h],
        work[h : h + 2 * block],
        work[h + 2 * block :],
    )


@kernel
def block_of(scratch, n, start, count):
    """The Block of the parameters [start, start + count) of n."""
    features, hidden = scratch.scaled.shape
    at = features * start if n <= KEPT else 0
    return Block(
        scratch.rows[at : at + features * count].reshape(features, count),
        scratch.first[: hidden * count].reshape(hidden, count),
        scratch.second[: hidden * count].reshape(hidden, count),
        scratch.heads[: 2 * count].reshape(2, count),
    )


@kernel
def clear_rows(partials):
    """Set (F, 32) partial sums to 0.  No barrier: each lane clears what it adds to."""
    for c in range(partials.shape[0]):
        for k in range(lane(), PARTIALS, lanes()):
            partials[c, k] = partials.dtype.type(0.0)


@kernel
def add_row_sums(rows, partials):
    """Add each row of rows (F, n) to its 32 partial sums (F, 32): element i to partial i % 32.  No barrier.

    Each partial belongs to one lane, so the bits do not depend on the number of lanes.
    """
    n = rows.shape[1]
    by_four, by_one = n - n % (4 * PARTIALS), n - n % PARTIALS
    for c in range(rows.shape[0]):
        x, p = rows[c], partials[c]
        for base in range(
            0, by_four, 4 * PARTIALS
        ):  # four at a time: the partials pass through memory less often
            for k in range(lane(), PARTIALS, lanes()):
                p[k] += (x[base + k] + x[base + 32 + k]) + (x[base + 64 + k] + x[base + 96 + k])
        for base in range(by_four, by_one, PARTIALS):
            for k in range(lane(), PARTIALS, lanes()):
                p[k] += x[base + k]
        for k in range(lane(), n - by_one, lanes()):
            p[k] += x[by_one + k]


@kernel
def add_row_squares(rows, partials):
    """`add_row_sums` of the squares."""
    n = rows.shape[1]
    by_four, by_one = n - n % (4 * PARTIALS), n - n % PARTIALS
    for c in range(rows.shape[0]):
        x, p = rows[c], partials[c]
        for base in range(0, by_four, 4 * PARTIALS):
            for k in range(lane(), PARTIALS, lanes()):
                s, t = x[base + k], x[base + 32 + k]
                u, v = x[base + 64 + k], x[base + 96 + k]
                p[k] += (s * s + t * t) + (u * u + v * v)
        for base in range(by_four, by_one, PARTIALS):
            for k in range(lane(), PARTIALS, lanes()):
                p[k] += x[base + k] * x[base + k]
        for k in range(lane(), n - by_one, lanes()):
            p[k] += x[by_one + k] * x[by_one + k]


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
    for q in range(lane(), features * hidden, lanes()):
        c, j = q // hidden, q % hidden
        scaled[c, j] = factors[c, 0] * w[c, j]
    sync()


@kernel
def relu_rows(z, bias):
    """z <- max(z + bias, 0), one bias a row; z (rows, n) in place."""
    rows, n = z.shape
    zero = z.dtype.type(0.0)
    for j in range(rows):
        row, b = z[j], bias[j]
        for i in range(lane(), n, lanes()):
            v = row[i] + b
            row[i] = v if v > zero else zero
    sync()


@kernel
def hidden_layers(block, first, bias, net):
    """block.second = relu(second^T relu(first^T rows + bias) + second_bias); first (F, H), bias (H,)."""
    matmul(first.T, block.rows, block.first)
    relu_rows(block.first, bias)
    matmul(net.second.T, block.first, block.second)
    relu_rows(block.second, net.second_bias)


@kernel
def apply_direction(params, block, head_weights, head_bias, step_mult, mag_rate):
    """Output head: w <- w - step_mult a exp(mag_rate b), (a, b) = head_weights (2, H) second + bias."""
    matmul(head_weights, block.second, block.heads)
    a, b, a0, b0 = block.heads[0], block.heads[1], head_bias[0], head_bias[1]
    for i in range(lane(), params.size, lanes()):
        params[i] -= step_mult * (a[i] + a0) * exp(mag_rate * (b[i] + b0))
    sync()


@kernel
def tanh_time_bias(bias, w, b, first, t):
    """bias = b + the first layer's response to tanh(t / tau - 1), whose weights start at row `first` of w."""
    for j in range(lane(), bias.size, lanes()):
        s = np.float64(b[j])
        for i in range(len(TIMES)):
            s += math.tanh(t / TIMES[i] - 1.0) * w[first + i, j]
        bias[j] = w.dtype.type(s)
    sync()
