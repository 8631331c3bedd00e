"""Losses over a batch."""

import numpy as np

from lopt.lanes import kernel, lane, lanes, sum32, sync
from lopt.ops.elementary import exp, log


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
