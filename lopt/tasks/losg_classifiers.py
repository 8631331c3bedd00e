"""The two classifiers of the `losg` family: a small MLP and a sum of embeddings.

Both end in two logits of which only the first enters the loss: the mean sigmoid cross-entropy of
logit 0 plus 1e-3 times the mean over the parameter tensors of their squared norms, biases included.
The second logit feels the penalty only.  Source: task set specification 4.1 and trap 22.

Conventions as in `lopt.tasks.losg_kernels`; data.ints are labels 0 or 1.
"""

import numpy as np

from lopt.lanes import PARTIALS, kernel, lane, lanes, matmul, sync
from lopt.ops.dense import gather_fwd
from lopt.ops.losses import cross_entropy
from lopt.ops.mlp_stack import stack_bwd, stack_fwd
from lopt.tasks.quadratic import squared_norm

PENALTY = 1e-3


@kernel
def first_logit_loss(logits, labels, rows, losses, partials):
    """Mean sigmoid cross-entropy of logits[:, 0]; logits (B, 2) OVERWRITTEN with its gradient.

    It is the softmax cross-entropy of the logits (0, z).  losses (B,), partials (32,) scratch.
    """
    zero = logits.dtype.type(0.0)
    for r in range(lane(), logits.shape[0], lanes()):
        logits[r, 1] = logits[r, 0]
        logits[r, 0] = zero
    sync()
    loss = cross_entropy(logits, labels, rows, losses, partials)
    for r in range(lane(), logits.shape[0], lanes()):
        logits[r, 0] = logits[r, 1]
        logits[r, 1] = zero
    sync()
    return np.float64(loss)


@kernel
def penalty(x, grad, tensors, partials, with_grad):
    """1e-3 |x|^2 / tensors; its gradient is ADDED to grad."""
    c = np.float64(PENALTY) / tensors
    if with_grad:
        slope = x.dtype.type(2.0 * c)
        # c |x|^2
        for i in range(lane(), x.size, lanes()):
            grad[i] += slope * x[i]
        sync()
    return c * np.float64(squared_norm(x, partials))


@kernel
def classifier_loss(x, grad, data, rows, work, with_grad):
    """An MLP on rows of data, see `lopt.ops.mlp_stack`, or one dense layer on sums of embeddings.

    With embeddings x = E (2, n) | w (n, 2) | b (2,), and a row of data says how often each of the
    two ids occurs in the sample: the layer's input is counts E.
    data.sizes: whether there are embeddings, activation code, widths.
    work: the stack's x ... z_L | counts (B, 2) | losses (B,) | partials (32,).
    """
    embeds, code, widths, batch = data.sizes[0], data.sizes[1], data.sizes[2:], rows.size
    n, layers = widths[0], widths.size - 1
    one, zero = x.dtype.type(1.0), x.dtype.type(0.0)
    end = batch * (n + 2)
    for k in range(1, layers):
        end += 2 * batch * widths[k]
    inputs, logits = work[: batch * n].reshape(batch, n), work[end - 2 * batch : end]
    counts = work[end : end + 2 * batch].reshape(batch, 2)
    losses = work[end + 2 * batch : end + 3 * batch]
    partials = work[end + 3 * batch : end + 3 * batch + PARTIALS]
    skip = 2 * n * embeds
    if embeds:
        gather_fwd(data.floats, rows, one, zero, counts)
        matmul(counts, x[:skip].reshape(2, n), inputs)
    else:
        gather_fwd(data.floats, rows, one, zero, inputs)
    stack_fwd(x[skip:], widths, code, batch, work)
    loss = first_logit_loss(logits.reshape(batch, 2), data.ints, rows, losses, partials)
    if with_grad:
        dinputs = work[: batch * n * embeds]
        stack_bwd(x[skip:], grad[skip:], widths, code, batch, work[:end], dinputs)
        if embeds:
            # inputs = counts E
            matmul(counts.T, inputs, grad[:skip].reshape(2, n))
    return loss + penalty(x, grad, 2 * layers + embeds, partials, with_grad)
