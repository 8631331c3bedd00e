"""The per-parameter network of learned optimizers: a ReLU MLP over blocks of parameters, and its inputs.

Features are rows, parameters columns (structure of arrays), so every elementwise loop vectorises and the layers are
matrix products of (hidden x inputs) (inputs x block).  Inputs that are constant over a tensor enter through the bias,
the RMS normalisation through the rows of the first matrix, and messages are read from the mean hidden layer, since the
last layer is linear: the same numbers to rounding for about half the multiply-adds.
"""

from lopt.lanes import kernel, lane, lanes, matmul, sync
from lopt.ops.elementary import exp

BLOCK = 2048  # parameters processed together: three blocks of rows stay in a core's second-level cache


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
