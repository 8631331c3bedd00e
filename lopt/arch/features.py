"""What the hierarchical optimizer looks at: accumulators, inputs per parameter and per tensor (methods 1.2)."""

import math

import numpy as np

from lopt.arch.per_parameter import TIMES, TINY, clear_rows
from lopt.lanes import add_row_squares, fold_partials, kernel, lane, lanes, sync
from lopt.ops.elementary import log
from lopt.optimizer import TABLE_COLUMNS

N_TIMES = len(TIMES)
CONSTANTS = N_TIMES + 3  # inputs per parameter that are constant over a tensor, besides the message
TENSOR_FEATURES = 18  # inputs per tensor besides the messages
PAST_STEPS = 100


@kernel
def update_accumulators(count, grad, memory, decays, n_decays, offset):
    """m_k <- d_k m_k + (1 - d_k) g; v_k <- d_k v_k + (1 - d_k) g^2, for `count` parameters; no bias correction."""
    g = grad[offset : offset + count]
    tiny, zero = grad.dtype.type(TINY), grad.dtype.type(0.0)
    for k in range(n_decays):
        start = k * grad.size + offset
        mk, vk = memory.m[start : start + count], memory.v[start : start + count]
        d = grad.dtype.type(decays[k])
        a = grad.dtype.type(1.0) - d
        for i in range(lane(), count, lanes()):
            new_m = d * mk[i] + a * g[i]
            new_v = d * vk[i] + a * (g[i] * g[i])
            mk[i] = new_m if abs(new_m) > tiny else zero
            vk[i] = new_v if new_v > tiny else zero
    sync()


@kernel
def snapshot(params, old, new, calls):
    """Keep parameters of the past: every 100 training calls old <- new <- w, so `old` is 100 to 199 calls old.

    Before call 100 it is the first parameters.  Two copies of the parameters instead of the hundred of a ring.
    """
    if calls % PAST_STEPS == 0:
        for i in range(lane(), params.size, lanes()):
            old[i] = params[i] if calls == 0 else new[i]
            new[i] = params[i]
    sync()


@kernel
def parameter_features(rows, count, params, grad, memory, n_decays, offset):
    """Inputs of `count` parameters from `offset`, before normalisation; rows (F, >= count).

    Order: g, w, log(|w| + 1e-8), m, v, m / sqrt(v + 1e-6), 1 / sqrt(v + 1e-6) [each for all decays], past w if kept.
    """
    n, m, v, past = params.size, memory.m, memory.v, memory.past
    one, eps, small = params.dtype.type(1.0), params.dtype.type(1e-6), params.dtype.type(1e-8)
    w, g = params[offset : offset + count], grad[offset : offset + count]
    row_g, row_w, row_log = rows[0], rows[1], rows[2]
    for i in range(lane(), count, lanes()):
        row_g[i] = g[i]
        row_w[i] = w[i]
        row_log[i] = log(abs(w[i]) + small)
    for k in range(n_decays):
        start = k * n + offset
        mk, vk = m[start : start + count], v[start : start + count]
        row_m, row_v = rows[3 + k], rows[3 + n_decays + k]
        row_normalised, row_inverse = rows[3 + 2 * n_decays + k], rows[3 + 3 * n_decays + k]
        for i in range(lane(), count, lanes()):
            r = one / math.sqrt(vk[i] + eps)
            row_m[i] = mk[i]
            row_v[i] = vk[i]
            row_normalised[i] = mk[i] * r
            row_inverse[i] = r
    if past.size > 0:
        row_past, old = rows[3 + 4 * n_decays], past[offset : offset + count]
        for i in range(lane(), count, lanes()):
            row_past[i] = old[i]
    sync()


@kernel
def clip_rows(rows, count, factors):
    """Paper switch: `count` parameters of rows (F, >= count) normalised by factors (F, 1) and clipped to +-10."""
    bound = rows.dtype.type(10.0)
    for c in range(rows.shape[0]):
        row, f = rows[c], factors[c, 0]
        for i in range(lane(), count, lanes()):
            row[i] = min(max(f * row[i], -bound), bound)
    sync()


@kernel
def clamp_log(x):
    """clip(log(1e-8 + |x|), -5, 5)."""
    return min(max(math.log(1e-8 + abs(x)), -5.0), 5.0)


@kernel
def sign(x):
    """-1, 0 or 1."""
    return (1.0 if x > 0 else 0.0) - (1.0 if x < 0 else 0.0)


@kernel
def variance_about(values, mean, centred, partials):
    """Mean of (values - mean)^2, in two passes: a large mean would drown it.  Scratch: centred (1, any), partials (1, 32)."""
    n, about = values.size, values.dtype.type(mean)
    chunk = centred.shape[1]
    clear_rows(partials)
    for start in range(0, n, chunk):
        count = min(chunk, n - start)
        x, y = values[start : start + count], centred[0]
        for i in range(lane(), count, lanes()):
            y[i] = x[i] - about
        sync()
        add_row_squares(centred, count, partials)
        sync()
    return np.float64(fold_partials(partials[0])) / n


@kernel
def pooled_moments(sums, squares, first, n_rows, size):
    """Mean and population variance of rows first, first + 1, ... from their sums (F, 1) and sums of squares (F, 1)."""
    total, square = 0.0, 0.0
    for c in range(first, first + n_rows):
        total += np.float64(sums[c, 0])
        square += np.float64(squares[c, 0])
    mean = total / (n_rows * size)
    return mean, max(square / (n_rows * size) - mean * mean, 0.0)


@kernel
def tensor_features(row, sums, squares, variance_w, n_decays, table, at, train_loss, valid_loss):
    """The 18 inputs of the LSTM for one tensor into `row` (18,), magnitudes clipped to [-5, 5].

    sums, squares (F, 1): sums over the tensor of the parameter features and of their squares; at: the tensor in the table.
    """
    size = table[at + 1]
    mean_m, variance_m = pooled_moments(sums, squares, 3, n_decays, size)
    mean_v, variance_v = pooled_moments(sums, squares, 3 + n_decays, n_decays, size)
    mean_w = np.float64(sums[1, 0]) / size
    if lane() == 0:
        cast = row.dtype.type
        row[0] = cast(clamp_log(math.sqrt(np.float64(squares[0, 0]))))
        row[1] = cast(1.0 if table[at + 2] == 0 else -1.0)
        row[2] = cast(clamp_log(mean_m))
        row[3] = cast(sign(mean_m))
        row[4] = cast(clamp_log(mean_v))
        row[5] = cast(sign(mean_v))
        row[6] = cast(clamp_log(mean_w))
        row[7] = cast(sign(mean_w))
        row[8] = cast(clamp_log(math.sqrt(np.float64(squares[1, 0]))))
        for j in range(4):
            row[9 + j] = cast(math.log(np.float64(table[at + 3 + j])) - 1.0)
        row[13] = cast(train_loss)
        row[14] = cast(valid_loss)
        row[15] = cast(clamp_log(variance_m))
        row[16] = cast(clamp_log(variance_v))
        row[17] = cast(clamp_log(variance_w))
    sync()


@kernel
def constant_inputs(constants, table, norms, messages, message_bias, t):
    """Inputs that are the same for a whole tensor into constants (T, 14 + M).

    They are sin(t / (tau pi)) for eleven tau, log(T) - 1, log(|w| + 1e-8), log(size), the LSTM's message.
    Shapes: norms (T,), messages (T, M) without their bias (M,).
    """
    n_tensors, n_message = messages.shape
    cast = constants.dtype.type
    for i in range(lane(), N_TIMES, lanes()):
        wave = cast(math.sin(t / (TIMES[i] * math.pi)))
        for k in range(n_tensors):
            constants[k, i] = wave
    for k in range(lane(), n_tensors, lanes()):
        constants[k, N_TIMES] = cast(math.log(np.float64(n_tensors)) - 1.0)
        constants[k, N_TIMES + 1] = cast(math.log(np.float64(norms[k]) + 1e-8))
        constants[k, N_TIMES + 2] = cast(math.log(np.float64(table[2 + TABLE_COLUMNS * k])))
    for k in range(n_tensors):
        for i in range(lane(), n_message, lanes()):
            constants[k, CONSTANTS + i] = messages[k, i] + message_bias[i]
    sync()
