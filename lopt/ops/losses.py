"""Losses over a batch."""

import numpy as np

from lopt.lanes import kernel, lane, lanes, sum32, sync
from lopt.ops.elementary import exp, log, sigmoid


@kernel
def cross_entropy(logits, labels, rows, losses, partials):
    """Mean softmax cross-entropy of a batch; logits are OVERWRITTEN with the gradient of that mean.

    Math: loss = mean_r (log sum_j exp(l_rj) - l_r,label), the row maximum subtracted first, and
    dl = (softmax - onehot) / B, both to relative precision also where the true class is certain.
    Logits of NaN or +inf give a loss of NaN.
    Shapes: logits (B, C); labels (all rows,) int32; rows (B,) int64; scratch losses (B,) and
    partials (32,).

    exp runs over the whole batch at once: a row of a few classes would not fill the vector unit.
    """
    batch, classes = logits.shape
    scale = logits.dtype.type(1.0) / logits.dtype.type(batch)
    for r in range(lane(), batch, lanes()):
        row = logits[r]
        top = row[0]
        for j in range(1, classes):
            top = max(top, row[j])
        for j in range(classes):
            row[j] -= top
        losses[r] = -row[labels[rows[r]]]
    sync()
    flat = logits.reshape(batch * classes)
    for i in range(lane(), batch * classes, lanes()):
        flat[i] = exp(flat[i])
    sync()
    for r in range(lane(), batch, lanes()):
        row, label = logits[r], labels[rows[r]]
        true = row[label]
        row[label] = logits.dtype.type(0.0)
        rest = logits.dtype.type(0.0)
        for j in range(classes):
            rest += row[j]
        total = true + rest
        lost = rest - (total - true)  # what the sum rounded off, exact where true >= rest
        losses[r] += log(total) + lost / total
        # loss = mean_r (log sum_j exp(l_rj - top) - (l_r,label - top))
        factor = scale / total
        for j in range(classes):
            row[j] *= factor
        row[label] = -rest * factor  # softmax - 1 without the cancellation
    sync()
    return sum32(losses, batch, partials) * scale


@kernel
def sigmoid_squares(logits, labels, rows, losses, partials):
    """Mean over batch and classes of (onehot - sigmoid(l))^2; logits are OVERWRITTEN with its gradient.

    Shapes as in `cross_entropy`.  The true class's logit changes its sign for the time being:
    1 - sigmoid(l) = sigmoid(-l), so that no term cancels.
    """
    batch, classes = logits.shape
    two = logits.dtype.type(2.0)
    scale = logits.dtype.type(1.0) / logits.dtype.type(batch * classes)
    for r in range(lane(), batch, lanes()):
        row, label = logits[r], labels[rows[r]]
        row[label] = -row[label]
        total = logits.dtype.type(0.0)
        for j in range(classes):
            s = sigmoid(row[j])
            total += s * s
            # d s^2 / dl = 2 s^2 (1 - s)
            row[j] = two * scale * (s * s * sigmoid(-row[j]))
        row[label] = -row[label]
        losses[r] = total
    sync()
    return sum32(losses, batch, partials) * scale


def sigmoid_squares_reference(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The same loss and gradient in plain NumPy float64; shapes as in `cross_entropy_reference`."""
    sign = np.ones_like(logits)
    sign[np.arange(labels.size), labels] = -1.0
    s, rest = (np.exp(-np.logaddexp(0.0, -x * sign * logits)) for x in (1.0, -1.0))
    return float((s**2).mean()), sign * 2.0 * s**2 * rest / logits.size


def cross_entropy_reference(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The same loss and gradient in plain NumPy float64: the oracle of the kernel.

    Shapes: logits (B, C), labels (B,).
    """
    each = np.arange(labels.size)
    losses = np.logaddexp.reduce(logits - logits[each, labels][:, None], axis=1)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    gradient = p / p.sum(axis=1, keepdims=True)
    gradient[each, labels] = 0.0  # then minus the others' sum: p - 1 would cancel
    gradient[each, labels] = -gradient.sum(axis=1)
    return float(losses.mean()), gradient / labels.size
