"""Fully connected layer, and the batch it starts from."""

import numpy as np

from lopt.lanes import inlined, kernel, lane, lanes, matmul, sync


@inlined
def from_byte(value):
    """What a stored byte stands for, float32 in [0, 1]: the same bits as on the host (`Dataset.take`)."""
    return np.float32(value) / np.float32(255.0)


@kernel
def gather_examples(examples, in_bytes, rows, scale, shift, x):
    """`gather_fwd` of examples as a `Dataset` has them: floats, or if in_bytes four bytes in each float's place."""
    if in_bytes == 0:
        gather_fwd(examples, rows, scale, shift, x)
        return
    batch, n = x.shape
    stored = examples.view(np.uint8)
    for r in range(lane(), batch, lanes()):
        start = rows[r] * n
        source, target = stored[start : start + n], x[r]
        for j in range(n):
            target[j] = scale * from_byte(source[j]) + shift
    sync()


@kernel
def gather_fwd(examples, rows, scale, shift, x):
    """x[r] = scale * examples[rows[r]] + shift; no gradient: data is not trained.

    Shapes: examples (all rows * n,) row-major; rows (B,) int64; x (B, n) OVERWRITTEN.
    """
    batch, n = x.shape
    for r in range(lane(), batch, lanes()):
        start = rows[r] * n
        source, target = examples[start : start + n], x[r]  # slices: the inner loop then vectorises
        for j in range(n):
            target[j] = scale * source[j] + shift
    sync()


@kernel
def dense_fwd(x, w, b, y):
    """y = x w + b.  Shapes: x (B, n), w (n, m), b (m,), y (B, m) OVERWRITTEN."""
    matmul(x, w, y)
    batch, m = y.shape
    for r in range(lane(), batch, lanes()):
        row = y[r]
        for j in range(m):
            row[j] += b[j]
    sync()


@kernel
def dense_bwd(x, dy, dw, db):
    """dw = x^T dy and db = sum of the rows of dy, both OVERWRITTEN; dx: `dense_bwd_input`."""
    # y = x w
    matmul(x.T, dy, dw)
    # y += b
    batch, m = dy.shape
    for j in range(lane(), m, lanes()):
        db[j] = dy.dtype.type(0.0)
    for r in range(batch):
        row = dy[r]
        for j in range(lane(), m, lanes()):
            db[j] += row[j]
    sync()


@kernel
def dense_bwd_input(w, dy, dx):
    """dx = dy w^T, OVERWRITTEN.  Shapes as in `dense_fwd`."""
    # y = x w
    matmul(dy, w.T, dx)
