"""The per-parameter network of learned optimizers: a ReLU MLP over blocks of parameters, and its inputs.

Features are rows, parameters columns (structure of arrays), so every elementwise loop vectorises and the layers are
matrix products of (hidden x inputs) (inputs x block).  Inputs that are constant over a tensor enter through the bias,
the RMS normalisation through the rows of the first matrix, and messages are read from the mean hidden layer, since the
last layer is linear: the same numbers to rounding for about half the multiply-adds.
"""

import math

import numpy as np

from lopt.lanes import (
    add_square_partials,
    clear_partials,
    fold_partials,
    kernel,
    lane,
    lanes,
    matmul,
    sync,
)
from lopt.ops.elementary import exp

BLOCK = 2048  # parameters processed together: three blocks of rows stay in a core's second-level cache
TIMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)  # steps
TINY = 1e-30  # accumulators below it become 0: subnormal arithmetic is many times slower


@kernel
def relu_rows(z, bias):
    """z <- max(z + bias, 0), one bias a row; z (rows, n) in place."""
    rows, n = z.shape
    zero = z.dtype.type(0.0)
    for j in range(rows):
        b = bias[j]
        for i in range(lane(), n, lanes()):
            v = z[j, i] + b
            z[j, i] = v if v > zero else zero
    sync()


@kernel
def apply_direction(params, heads, bias, step_mult, mag_rate):
    """w <- w - step_mult a exp(mag_rate b), (a, b) = heads + bias; heads (2, n), params (n,)."""
    n = params.size
    a0, b0 = bias[0], bias[1]
    for i in range(lane(), n, lanes()):
        params[i] -= step_mult * (heads[0, i] + a0) * exp(mag_rate * (heads[1, i] + b0))
    sync()


@kernel
def hidden_layers(features, w_first, bias, w_second, bias_second, first, second):
    """second = relu(w_second^T relu(w_first^T features + bias) + bias_second).

    Shapes: features (F, n), w_first (F, H), w_second (H, H), first and second (H, n) OVERWRITTEN.
    """
    matmul(w_first.T, features, first)
    relu_rows(first, bias)
    matmul(w_second.T, first, second)
    relu_rows(second, bias_second)


@kernel
def normalise_first_layer(scaled, w, sums, size):
    """scaled = rows of w divided by sqrt(1e-5 + mean of the squared input); sums (F, 32) partial sums of squares."""
    one = w.dtype.type(1.0)
    for c in range(scaled.shape[0]):
        total = fold_partials(sums[c])
        factor = one / np.sqrt(w.dtype.type(1e-5) + total / w.dtype.type(size))
        for j in range(lane(), scaled.shape[1], lanes()):
            scaled[c, j] = factor * w[c, j]
        if lane() == 0:
            sums[c, 0] = factor  # kept for clip_normalised
        sync()


@kernel
def add_row_squares(rows, sums):
    """Add the squares of each row to its 32 partial sums; rows (F, n), sums (F, 32)."""
    for c in range(rows.shape[0]):
        add_square_partials(rows[c], rows.shape[1], sums[c])
    sync()


@kernel
def clear_rows(sums):
    """Clear the partial sums of every row."""
    for c in range(sums.shape[0]):
        clear_partials(sums[c])


@kernel
def tanh_time_bias(bias, w, b, first, t):
    """bias = b + the first layer's response to tanh(t / tau - 1), whose weights start at row `first` of w."""
    for j in range(lane(), bias.size, lanes()):
        s = np.float64(b[j])
        for i in range(len(TIMES)):
            s += math.tanh(t / TIMES[i] - 1.0) * w[first + i, j]
        bias[j] = w.dtype.type(s)
    sync()


@kernel
def small_network_step(params, rows, scaled, bias, theta, at, hidden, heads_w, step_mult, mag_rate, work):
    """Second layer, last layer and update of a block; theta[at:] holds w1 (H, H), b1 (H,), w2 (H, 2), b2 (2,)."""
    count = params.size
    first = work[: hidden * count].reshape(hidden, count)
    second = work[hidden * count : 2 * hidden * count].reshape(hidden, count)
    w1 = theta[at : at + hidden * hidden].reshape(hidden, hidden)
    b1 = theta[at + hidden * hidden : at + hidden * hidden + hidden]
    hidden_layers(rows, scaled, bias, w1, b1, first, second)
    at += hidden * hidden + hidden
    for j in range(lane(), hidden, lanes()):
        heads_w[0, j] = theta[at + 2 * j]
        heads_w[1, j] = theta[at + 2 * j + 1]
    sync()
    heads = work[: 2 * count].reshape(2, count)  # the first layer is not needed any more
    matmul(heads_w, second, heads)
    apply_direction(params, heads, theta[at + 2 * hidden :], step_mult, mag_rate)
