"""Losses over a batch."""

from lopt.lanes import kernel, lane, lanes, sum32, sync
from lopt.ops.elementary import exp, log


@kernel
def cross_entropy(logits, labels, rows, losses, partials):
    """Mean softmax cross-entropy over the batch; logits are OVERWRITTEN with the gradient of that mean.

    Math: loss = mean_r (log sum_j exp(l_rj) - l_r,y), the row maximum subtracted first; dl = (softmax - onehot) / B.
    Shapes: logits (B, C); labels (all rows,) int32; rows (B,) int64; losses (B,) and partials (32,) scratch.
    """
    batch, classes = logits.shape
    one = logits.dtype.type(1.0)
    scale = one / logits.dtype.type(batch)
    for r in range(lane(), batch, lanes()):
        top = logits[r, 0]
        for j in range(1, classes):
            top = max(top, logits[r, j])
        label = labels[rows[r]]
        true = logits[r, label] - top
        total = logits.dtype.type(0.0)
        for j in range(classes):
            e = exp(logits[r, j] - top)
            logits[r, j] = e
            total += e
        # loss_r = log(total) - (l_y - top)
        losses[r] = log(total) - true
        inverse = scale / total
        for j in range(classes):
            logits[r, j] *= inverse
        logits[r, label] -= scale
    sync()
    return sum32(losses, batch, partials) * scale
