"""The head of the anchored optimizer: one learned log step size per tensor, from what the whole tensor and the loss show."""

import math

import numpy as np

from lopt.arch.anchored_features import bounded_log
from lopt.arch.lstm import lstm_step
from lopt.lanes import add_square_partials, clear_partials, fold_partials, kernel, lane, lanes, sync
from lopt.optimizer import TABLE_COLUMNS

INPUTS = 14  # per tensor
FAST, SLOW, VALID = 0.9, 0.99, 0.9  # decays of the loss averages
COSINE = 0.9  # decay of the averaged cosines
LOWEST, HIGHEST = -12.0, 5.0  # bounds of the log multiple
NO_SCALE = 0.1  # where all parameters start at 0
AS_ZERO = 1e-2  # of the RMS of all parameters or a usual one: below it is as good as 0
# slots of the loss averages
FIRST, FAST_MEAN, SLOW_MEAN, SPREAD, VALID_MEAN, N_TRAIN, N_VALID, LOSS_SLOTS = range(8)


@kernel
def update_train_loss(memory, loss):
    """Averages of the training loss; the first loss starts them.  memory (LOSS_SLOTS,)."""
    fast, slow = np.float64(memory[FAST_MEAN]), np.float64(memory[SLOW_MEAN])
    spread, count = np.float64(memory[SPREAD]), np.float64(memory[N_TRAIN])
    sync()
    if lane() == 0:
        cast = memory.dtype.type
        if count == 0.0:
            memory[FIRST] = cast(loss)
            fast = slow = loss
        memory[SPREAD] = cast(SLOW * spread + (1.0 - SLOW) * abs(loss - slow))
        memory[FAST_MEAN] = cast(FAST * fast + (1.0 - FAST) * loss)
        memory[SLOW_MEAN] = cast(SLOW * slow + (1.0 - SLOW) * loss)
        memory[N_TRAIN] = cast(count + 1.0)
    sync()


@kernel
def update_valid_loss(memory, loss):
    """Average of the validation loss; the first one starts it."""
    mean, count = np.float64(memory[VALID_MEAN]), np.float64(memory[N_VALID])
    sync()
    if lane() == 0:
        mean = loss if count == 0.0 else VALID * mean + (1.0 - VALID) * loss
        memory[VALID_MEAN] = memory.dtype.type(mean)
        memory[N_VALID] = memory.dtype.type(count + 1.0)
    sync()


@kernel
def loss_trend(memory):
    """tanh of the recent fall of the loss in units of its usual change."""
    fall = np.float64(memory[SLOW_MEAN]) - np.float64(memory[FAST_MEAN])
    spread = np.float64(memory[SPREAD])
    return math.tanh(fall / spread) if spread > 0.0 else 0.0


@kernel
def loss_progress(memory):
    """log(loss / first loss) where both are positive, else 0; in [-8, 2]."""
    first, now = np.float64(memory[FIRST]), np.float64(memory[FAST_MEAN])
    return bounded_log(now / first, -8.0, 2.0) if first > 0.0 and now > 0.0 else 0.0


@kernel
def generalisation_gap(memory):
    """(validation - training loss) / (first - training loss), in [-3, 3]; 0 before the first validation loss."""
    if memory[N_VALID] == 0:
        return 0.0
    now = np.float64(memory[FAST_MEAN])
    scale = abs(np.float64(memory[FIRST]) - now) + np.float64(memory[SPREAD])
    gap = np.float64(memory[VALID_MEAN]) - now
    return min(max(gap / scale, -3.0), 3.0) if scale > 0.0 else 0.0


@kernel
def head_inputs(row, table, at, memory, scale, typical_scale, rms_adam, cosines, noise_share, t):
    """The 14 inputs of one tensor into row[:14].

    They are 1, log size, log(initial scale / typical one), log rms(Adam direction), averaged cosines of the gradient with
    two momenta, loss trend, loss progress, tanh(t / 10, 100, 1000), whether it has at most one axis, log signal share
    rms(m) / rms(sqrt v), generalisation gap.
    """
    if lane() == 0:
        cast = row.dtype.type
        row[0] = cast(1.0)
        row[1] = cast((math.log(np.float64(table[at + 1])) - 5.0) / 5.0)
        row[2] = cast(bounded_log(scale / typical_scale, -3.0, 3.0))
        row[3] = cast(bounded_log(rms_adam, -5.0, 3.0))
        row[4] = cosines[0]
        row[5] = cosines[1]
        row[6] = cast(loss_trend(memory))
        row[7] = cast(loss_progress(memory))
        row[8] = cast(math.tanh(t / 10.0))
        row[9] = cast(math.tanh(t / 100.0))
        row[10] = cast(math.tanh(t / 1000.0))
        row[11] = cast(1.0 if table[at + 2] <= 1 else 0.0)
        row[12] = cast(bounded_log(noise_share, -5.0, 1.0))
        row[13] = cast(generalisation_gap(memory))
    sync()


@kernel
def log_multiples(multiples, inputs, gates, hidden, cell, direct, lstm, lstm_bias, recurrent):
    """multiples (T,) <- x . direct + h . recurrent, bounded; h the LSTM's answer to x, if there is an LSTM.

    Shapes: inputs (T, 14 + Q), gates (T, 4 Q) scratch, hidden and cell (T, Q) UPDATED, direct (14,) or empty,
    recurrent (Q,).
    """
    tensors, width = hidden.shape
    if width > 0:
        for k in range(tensors):
            for q in range(lane(), width, lanes()):
                inputs[k, INPUTS + q] = hidden[k, q]
        sync()
        lstm_step(inputs, hidden, cell, gates, lstm, lstm_bias)
    for k in range(lane(), tensors, lanes()):
        s = 0.0
        for i in range(direct.size):
            s += np.float64(inputs[k, i]) * np.float64(direct[i])
        for q in range(width):
            s += np.float64(hidden[k, q]) * np.float64(recurrent[q])
        multiples[k] = multiples.dtype.type(min(max(s, LOWEST), HIGHEST))
    sync()


@kernel
def usual_scale(table, at):
    """1 / sqrt(fan in), the RMS of a usual initialisation, of the tensor whose row begins at table[at].

    Its fan in is the product of all axes but the last; 1 of a tensor with fewer than two axes.
    """
    rank = min(table[at + 2], 4)
    return math.sqrt(table[at + 2 + rank] / table[at + 1]) if rank >= 2 else 1.0


@kernel
def initial_scales(scales, params, table, partials):
    """scales (T,) <- RMS of each tensor; one of zeros (a bias) takes that of the tensor before it.

    As zero counts what is below AS_ZERO of the RMS of all parameters, or of a matrix's usual scale: steps relative to it
    would move nothing.  Zeros at the beginning take the first scale there is; if there is none, all scales are NO_SCALE.
    """
    total, n = 0.0, 0
    for k in range(table[0]):
        offset, size = table[1 + TABLE_COLUMNS * k], table[2 + TABLE_COLUMNS * k]
        clear_partials(partials)
        add_square_partials(params[offset : offset + size], size, partials)
        squares = np.float64(fold_partials(partials))
        total, n = total + squares, n + size
        if lane() == 0:
            scales[k] = scales.dtype.type(math.sqrt(squares / size))
    sync()
    first, last, typical = 0.0, 0.0, math.sqrt(total / n)
    for k in range(table[0]):
        at, own = 1 + TABLE_COLUMNS * k, np.float64(scales[k])
        usual = usual_scale(table, at) if table[at + 2] >= 2 else 0.0
        last = own if own > AS_ZERO * max(typical, usual) else last
        first = last if first == 0.0 else first
        sync()
        if lane() == 0:
            scales[k] = scales.dtype.type(last)
    sync()
    for k in range(lane(), table[0], lanes()):
        if scales[k] == 0.0:
            scales[k] = scales.dtype.type(first if first > 0.0 else NO_SCALE)
    sync()


@kernel
def grown_scale(initial, inverse_rms, usual):
    """Scale of a tensor now: initial RMS, or the present one if it is larger, but then at most the usual one.

    inverse_rms: of the tensor now; 0 where it is 0.
    """
    return max(initial, min(1.0 / inverse_rms, usual)) if inverse_rms > 0.0 else initial
