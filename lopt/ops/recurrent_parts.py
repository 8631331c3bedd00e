"""What the recurrent cores share: input products, sums over rows.

An input is a row of x, or the one-hot row of a token: then x has no columns, and the product with a
matrix is a lookup of its rows.
"""

from lopt.lanes import inlined, kernel, lane, lanes, matmul, sync
from lopt.ops.embedding import embedding_bwd, embedding_fwd


@inlined
def add_row(y, x):
    """y += x, the lanes side by side; no barrier."""
    for q in range(lane(), y.size, lanes()):
        y[q] += x[q]


@kernel
def add_into(y, x):
    """y += x.  Shapes: (n,) both."""
    for i in range(lane(), y.size, lanes()):
        y[i] += x[i]
    sync()


@kernel
def column_sums(x, total):
    """total = sum of the rows of x, OVERWRITTEN.  Shapes: x (n, m), total (m,)."""
    for q in range(lane(), total.size, lanes()):
        total[q] = x.dtype.type(0.0)
    for r in range(x.shape[0]):
        add_row(total, x[r])
    sync()


@kernel
def inputs_fwd(x, ids, w, y):
    """y = x w.  Shapes: x (n, E) or, one-hot, (n, 0) and ids (n,); w (E, m), y (n, m) OVERWRITTEN."""
    if x.shape[1] == 0:
        embedding_fwd(w, ids, y)
    else:
        matmul(x, w, y)


@kernel
def inputs_bwd(x, ids, dy, dw):
    """dw = x^T dy, OVERWRITTEN.  Shapes as in `inputs_fwd`."""
    # y = x w
    if x.shape[1] == 0:
        embedding_bwd(ids, dy, dw)
    else:
        matmul(x.T, dy, dw)


@kernel
def inputs_grad(w, dy, dx):
    """dx = dy w^T, OVERWRITTEN; nothing for one-hot inputs.  Shapes as in `inputs_fwd`."""
    # y = x w
    if dx.shape[1] > 0:
        matmul(dy, w.T, dx)
