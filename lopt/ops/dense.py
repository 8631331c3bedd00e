"""Fully connected layer."""

from lopt.lanes import kernel, lane, lanes, matmul, sync


@kernel
def dense_fwd(x, w, b, y):
    """y = x w + b.  Shapes: x (B, n), w (n, m), b (m,), y (B, m) OVERWRITTEN."""
    matmul(x, w, y)
    rows, m = y.shape
    for r in range(lane(), rows, lanes()):
        for j in range(m):
            y[r, j] += b[j]
    sync()


@kernel
def dense_bwd(x, dy, dw, db):
    """Gradients of the weights; all OVERWRITTEN.  Shapes as in `dense_fwd`; see `dense_bwd_input` for dx."""
    # y = x w + b
    matmul(x.T, dy, dw)
    rows, m = dy.shape
    for j in range(lane(), m, lanes()):
        db[j] = dy.dtype.type(0.0)
    for r in range(rows):
        for j in range(lane(), m, lanes()):
            db[j] += dy[r, j]
    sync()


@kernel
def dense_bwd_input(w, dy, dx):
    """dx = dy w^T, OVERWRITTEN."""
    # y = x w + b
    matmul(dy, w.T, dx)
