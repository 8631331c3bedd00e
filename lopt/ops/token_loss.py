"""Linear readout to a vocabulary and its softmax cross-entropy, a block of positions at a time.

Logits of all positions at once would be the largest array of a word model by far (B L V numbers);
in blocks they stay in the cache, and a block's gradient is used up before the next is made.
"""

from lopt.lanes import PARTIALS, inlined, kernel, lane, lanes, matmul, single_use, sum32, sync
from lopt.ops.elementary import exp, log
from lopt.ops.recurrent_parts import add_into, add_row

BLOCK_LOGITS = 2**16  # logits of a block, unless that is fewer than BLOCK_ROWS positions
BLOCK_ROWS = 64
WIDE = 8  # accumulators per row: one would wait for each sum before it starts the next


@kernel
def block_rows(positions, vocab):
    """Positions whose logits are in memory at the same time."""
    return min(positions, max(BLOCK_ROWS, BLOCK_LOGITS // vocab))


def readout_work(positions: int, width: int, vocab: int) -> int:
    """Numbers of scratch that `readout` needs."""
    return block_rows(positions, vocab) * vocab + width * vocab + positions + PARTIALS


@inlined
def _row_max(row, b):
    """Adds b to the row; the largest of the sums, NaN passed over."""
    n = row.size
    whole = n - n % WIDE
    m0 = m1 = m2 = m3 = m4 = m5 = m6 = m7 = row[0] + b[0]
    for q in range(n):
        row[q] += b[q]
    for q in range(0, whole, WIDE):
        m0, m1 = max(m0, row[q]), max(m1, row[q + 1])
        m2, m3 = max(m2, row[q + 2]), max(m3, row[q + 3])
        m4, m5 = max(m4, row[q + 4]), max(m5, row[q + 5])
        m6, m7 = max(m6, row[q + 6]), max(m7, row[q + 7])
    top = max(max(max(m0, m1), max(m2, m3)), max(max(m4, m5), max(m6, m7)))
    for q in range(whole, n):
        top = max(top, row[q])
    return top


@inlined
def _row_sum(row):
    n = row.size
    whole = n - n % WIDE
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = row.dtype.type(0.0)
    for q in range(0, whole, WIDE):
        s0 += row[q]
        s1 += row[q + 1]
        s2 += row[q + 2]
        s3 += row[q + 3]
        s4 += row[q + 4]
        s5 += row[q + 5]
        s6 += row[q + 6]
        s7 += row[q + 7]
    total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
    for q in range(whole, n):
        total += row[q]
    return total


@single_use
def token_cross_entropy(logits, b, targets, losses, scale):
    """losses[i] = log sum_v exp(l_iv + b_v) - l_i,target - b_target.

    logits are OVERWRITTEN with scale (softmax - onehot).  Shapes: logits (m, V), b (V,), targets
    (m,) token ids as floats, losses (m,) OVERWRITTEN.  NaN and +inf logits give a loss of NaN.
    Loss and gradient keep their relative precision where the target is certain.
    """
    vocab = logits.shape[1]
    one = logits.dtype.type(1.0)
    factor = logits.dtype.type(scale)
    for i in range(lane(), logits.shape[0], lanes()):
        row, target = logits[i], int(targets[i])
        top = _row_max(row, b)
        below = top - row[target]
        for v in range(vocab):
            row[v] = exp(row[v] - top)
        true = row[target]
        row[target] = logits.dtype.type(0.0)
        rest = _row_sum(row)
        total = true + rest
        lost = rest - (total - true)  # what the sum rounded off, exact where true >= rest
        losses[i] = below + (log(total) + lost / total)
        # loss = log sum_v exp(l_v) - l_target
        share = factor * (one / total)
        for v in range(vocab):
            row[v] *= share
        row[target] = -rest * share  # softmax - 1 without the cancellation
    sync()


@single_use
def readout(h, w, b, targets, dh, dw, db, work, with_grad):
    """Mean cross-entropy of the targets under softmax(h w + b), and its gradients if asked for.

    Shapes: h (n, H), w (H, V), b (V,), targets (n,) token ids as floats; dh, dw, db like h, w, b,
    OVERWRITTEN if with_grad, else untouched; work (readout_work(n, H, V),) scratch.
    """
    n, width, vocab = h.shape[0], h.shape[1], w.shape[1]
    rows = block_rows(n, vocab)
    o = rows * vocab
    part = work[o : o + width * vocab]
    losses = work[o + width * vocab : o + width * vocab + n]
    partials = work[o + width * vocab + n : o + width * vocab + n + PARTIALS]
    scale = h.dtype.type(1.0) / h.dtype.type(n)
    flat = dw.reshape(width * vocab)
    if with_grad != 0:
        for v in range(lane(), vocab, lanes()):
            db[v] = h.dtype.type(0.0)
    for first in range(0, n, rows):
        last = min(first + rows, n)
        logits = work[: (last - first) * vocab].reshape(last - first, vocab)
        matmul(h[first:last], w, logits)
        token_cross_entropy(logits, b, targets[first:last], losses[first:last], scale)
        if with_grad != 0:
            # logits = h w + b
            matmul(logits, w.T, dh[first:last])
            if first == 0:
                matmul(h[first:last].T, logits, dw)
            else:
                matmul(h[first:last].T, logits, part.reshape(width, vocab))
                add_into(flat, part)
            for i in range(last - first):
                add_row(db, logits[i])
            sync()
    return sum32(losses, n, partials) * scale
