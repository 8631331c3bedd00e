"""The per-tensor network of the hierarchical optimizer: one LSTM, shared by all tensors, and its messages."""

from lopt.lanes import kernel, lane, lanes, matmul, sync
from lopt.ops.elementary import sigmoid, tanh


@kernel
def lstm_step(inputs, hidden, cell, gates, w, b):
    """One LSTM step for all tensors.

    Math: [i, j, f, o] = [x, h] w + b; c' = sigmoid(f + 1) c + sigmoid(i) tanh(j); h' = sigmoid(o) tanh(c').
    Shapes: inputs (T, X + H), its last H columns are h; hidden, cell (T, H) UPDATED; gates (T, 4 H) scratch.
    """
    matmul(inputs, w, gates)
    tensors, width = cell.shape
    one = cell.dtype.type(1.0)
    for r in range(tensors):
        row, h, c = gates[r], hidden[r], cell[r]
        for q in range(lane(), width, lanes()):
            i = row[q] + b[q]
            j = row[width + q] + b[width + q]
            f = row[2 * width + q] + b[2 * width + q]
            o = row[3 * width + q] + b[3 * width + q]
            new = sigmoid(f + one) * c[q] + sigmoid(i) * tanh(j)
            c[q] = new
            h[q] = sigmoid(o) * tanh(new)
    sync()


@kernel
def mean_message(hidden, w, b, message, mean, product):
    """message (M,) = mean over tensors of h w + b.  Scratch: mean (1, H), product (1, M)."""
    tensors, width = hidden.shape
    cast = hidden.dtype.type
    for q in range(lane(), width, lanes()):
        s = cast(0.0)
        for k in range(tensors):
            s += hidden[k, q]
        mean[0, q] = s / cast(tensors)
    matmul(mean, w, product)
    for i in range(lane(), message.size, lanes()):
        message[i] = product[0, i] + b[i]
    sync()
