"""Where the anchored optimizer keeps its things: views of theta, state and scratch, and their sizes."""

import math
from typing import NamedTuple

import numpy as np

from lopt.arch.anchored_features import FEATURES, M_DECAYS, PLANES
from lopt.arch.anchored_head import INPUTS, LOSS_SLOTS
from lopt.arch.per_parameter import BLOCK, KEPT
from lopt.lanes import PARTIALS, Returned, kernel, lane, sync
from lopt.optimizer import TABLE_COLUMNS

# data.sizes: these slots, then the tensor table; data.hyper: rate, weight decay.  HEAD: 1 if step sizes are learned.
# GROWS: 1 if the scale of a tensor that starts small follows it upwards.
# MATRIX, SQUARE: elements of the largest matrix and of its smaller side's square, 0 if matrices are not looked at.
HIDDEN, LSTM, HEAD, TOTAL_STEPS, DECAY_STEPS, SEES_VALID, GROWS, MATRIX, SQUARE, TABLE = range(10)
RATE, DECAY = range(2)


class Weights(NamedTuple):
    """Meta-parameters; H hidden units, Q cells of the LSTM, either may be 0."""

    direct: np.ndarray  # (13,) from the inputs to the direction
    hidden: np.ndarray  # (13, H)
    bias: np.ndarray  # (H,)
    outer: np.ndarray  # (H,) from the hidden units to the direction
    rate: np.ndarray  # (14,) from the tensor's inputs to its log step size, or empty
    recurrent: np.ndarray  # (Q,) from the LSTM to the log step size
    lstm: np.ndarray  # (14 + Q, 4 Q)
    lstm_bias: np.ndarray  # (4 Q,)
    orthogonal: np.ndarray  # (1,) from the orthogonal factor to the direction, or empty


class Memory(NamedTuple):
    """State; N parameters, T tensors."""

    m: np.ndarray  # (3 N,)
    v: np.ndarray  # (2 N,)
    scales: np.ndarray  # (T,) initial RMS of the layer
    cosines: np.ndarray  # (T, 2) averaged cosine of the gradient with two momenta
    hidden: np.ndarray  # (T, Q)
    cell: np.ndarray  # (T, Q)
    losses: np.ndarray  # (LOSS_SLOTS,)


class Work(NamedTuple):
    """Scratch."""

    partials: np.ndarray  # (32,)
    squares: np.ndarray  # (13, 32)
    products: np.ndarray  # (2, 32)
    rms: np.ndarray  # (13,) of one tensor's inputs
    factors: np.ndarray  # (T, 13) 1 / RMS
    norms: np.ndarray  # (T, 2) RMS of the gradient and of sqrt v
    inputs: np.ndarray  # (T, 14 + Q)
    gates: np.ndarray  # (T, 4 Q)
    rates: np.ndarray  # (T,)
    typical: np.ndarray  # (1,) RMS of all parameters at the start
    mixed: np.ndarray  # (1 + H, 13)
    matrix: np.ndarray  # (2, largest matrix) the orthogonal factor is in the second row
    grams: np.ndarray  # (2 squares,) of its smaller side
    out: np.ndarray  # ((1 + H) block,)
    rows: np.ndarray  # (13 N,) if N <= KEPT, else (13 block,)


@kernel
def weights_of(theta, sizes):
    """The Weights in theta, in the order of theta_layout."""
    h, q = sizes[HIDDEN], sizes[LSTM]
    a = FEATURES
    b = a + FEATURES * h
    c = b + h
    d = c + h
    e = d + INPUTS * sizes[HEAD]
    f = e + q
    g = f + (INPUTS + q) * 4 * q
    return Weights(
        theta[:a],
        theta[a:b].reshape(FEATURES, h),
        theta[b:c],
        theta[c:d],
        theta[d:e],
        theta[e:f],
        theta[f:g].reshape(INPUTS + q, 4 * q),
        theta[g : g + 4 * q],
        theta[g + 4 * q :],
    )


@kernel
def memory_of(state, sizes, n):
    """The Memory in a state of n parameters."""
    tensors, q = sizes[TABLE], sizes[LSTM]
    a = len(M_DECAYS) * n
    b = PLANES * n
    c = b + tensors
    d = c + 2 * tensors
    e = d + q * tensors
    f = e + q * tensors
    return Memory(
        state[:a],
        state[a:b],
        state[b:c],
        state[c:d].reshape(tensors, 2),
        state[d:e].reshape(tensors, q),
        state[e:f].reshape(tensors, q),
        state[f : f + LOSS_SLOTS],
    )


@kernel
def work_of(work, sizes, n):
    """The Work in the scratch for n parameters."""
    tensors, q, h = sizes[TABLE], sizes[LSTM], sizes[HIDDEN]
    a = PARTIALS
    b = a + FEATURES * PARTIALS
    c = b + 2 * PARTIALS
    d = c + FEATURES
    e = d + tensors * FEATURES
    f = e + tensors * 2
    g = f + tensors * (INPUTS + q)
    i = g + tensors * 4 * q
    j = i + tensors
    k = j + 1
    p = k + (1 + h) * FEATURES
    r = p + (1 + h) * min(n, BLOCK)
    s = r + 2 * sizes[MATRIX]
    u = s + 2 * sizes[SQUARE]
    return Work(
        work[:a],
        work[a:b].reshape(FEATURES, PARTIALS),
        work[b:c].reshape(2, PARTIALS),
        work[c:d],
        work[d:e].reshape(tensors, FEATURES),
        work[e:f].reshape(tensors, 2),
        work[f:g].reshape(tensors, INPUTS + q),
        work[g:i].reshape(tensors, 4 * q),
        work[i:j],
        work[j:k],
        work[k:p].reshape(1 + h, FEATURES),
        work[r:s].reshape(2, sizes[MATRIX]),
        work[s:u],
        work[p:r],
        work[u:],
    )


@kernel
def rows_of(work, n, start, count):
    """Rows (13, count) of the parameters [start, start + count); blocks share them if there are too many to keep."""
    at = FEATURES * start if n <= KEPT else 0
    return Returned(work.rows[at : at + FEATURES * count].reshape(FEATURES, count))


@kernel
def typical_scale(typical, scales, table):
    """typical (1,) <- RMS of the tensors' initial scales, weighted by their sizes."""
    if lane() == 0:
        total, n = 0.0, 0
        for k in range(table[0]):
            size = table[2 + TABLE_COLUMNS * k]
            total += size * np.float64(scales[k]) ** 2
            n += size
        typical[0] = typical.dtype.type(math.sqrt(total / n))
    sync()


def state_elements(sizes: np.ndarray, n: int) -> int:
    """Elements of state that `memory_of` reads."""
    return int(PLANES * n + sizes[TABLE] * (3 + 2 * sizes[LSTM]) + LOSS_SLOTS)


def work_elements(sizes: np.ndarray, n: int) -> int:
    """Elements of scratch that `work_of` reads."""
    per_tensor = FEATURES + 2 + INPUTS + 5 * sizes[LSTM] + 1
    fixed = (3 + FEATURES) * PARTIALS + FEATURES + 1
    mixing = (1 + sizes[HIDDEN]) * (FEATURES + min(n, BLOCK))
    matrices = 2 * (sizes[MATRIX] + sizes[SQUARE])
    rows = FEATURES * (n if n <= KEPT else BLOCK)
    return int(fixed + sizes[TABLE] * per_tensor + mixing + matrices + rows)
