"""Losses over a batch."""

from lopt.lanes import kernel, lane, lanes, sum32, sync
from lopt.ops.elementary import exp, log


@kernel
def cross_entropy(logits, labels, rows, losses, partials):
    """Mean softmax cross-entropy of a batch; logits are OVERWRITTEN with the gradient of that mean.

    Math: loss = mean_r (log sum_j exp(l_rj) - l_r,label), the row maximum subtracted first, and
    dl = (softmax - onehot) / B.  Logits of NaN or +inf give a loss of NaN.
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
        row = logits[r]
        total = logits.dtype.type(0.0)
        for j in range(classes):
            total += row[j]
        losses[r] += log(total)
        # loss = mean_r (log sum_j exp(l_rj - top) - (l_r,y - top))
        factor = scale / total
        for j in range(classes):
            row[j] *= factor
        row[labels[rows[r]]] -= scale
    sync()
    return sum32(losses, batch, partials) * scale
