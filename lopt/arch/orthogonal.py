"""The orthogonal factor of a matrix, roughly: its singular values are brought near to one.

Newton-Schulz: X <- a X + b (X X^T) X + c (X X^T)^2 X, five times, from X = M / |M|; singular values above 0.002 of the
norm end between 0.7 and 1.2.  Coefficients: Jordan et al. 2024, Muon; also in Celo2 (arXiv 2602.19142).
"""

from lopt.lanes import kernel, lane, lanes, matmul, sync
from lopt.layout import Layout
from lopt.optimizer import TABLE_COLUMNS, nonempty_table

LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
STEPS = 5  # odd: the last one writes where the second buffer is


@kernel
def columns_of(table, at):
    """Length of the last axis of the tensor whose row begins at table[at]; 0 if the tensor is no matrix.

    A tensor of more axes is one of (all but the last, last); a matrix has more than one row and column.
    """
    rank = min(table[at + 2], 4)
    columns = table[at + 2 + rank] if rank >= 2 else 0
    return columns if columns > 1 and table[at + 1] > columns else 0


@kernel
def orthogonal_factor(matrix, columns, inverse_norm, first, second, squares):
    """second <- the rough orthogonal factor of a matrix; 0 where the matrix is 0.

    Shapes: matrix (size,) in rows of length `columns`, inverse_norm 1 / its Frobenius norm, first and second (size,) and
    squares (2 s^2,) OVERWRITTEN, s the smaller of the numbers of rows and columns.
    """
    size, cast = matrix.size, matrix.dtype.type
    rows, scale = size // columns, cast(inverse_norm)
    tall, s = rows >= columns, min(rows, columns)
    gram, poly = squares[: s * s].reshape(s, s), squares[s * s : 2 * s * s].reshape(s, s)
    a, b, c = cast(LINEAR), cast(CUBIC), cast(QUINTIC)
    for i in range(lane(), size, lanes()):
        first[i] = scale * matrix[i]
    sync()
    now, then = first, second
    for _ in range(STEPS):
        x, y = now.reshape(rows, columns), then.reshape(rows, columns)
        # G = X^T X, or X X^T if that is smaller; P = a + b G + c G^2
        if tall:
            matmul(x.T, x, gram)
        else:
            matmul(x, x.T, gram)
        matmul(gram, gram, poly)
        for i in range(lane(), s, lanes()):
            for j in range(s):
                poly[i, j] = b * gram[i, j] + c * poly[i, j]
            poly[i, i] += a
        sync()
        # X <- X P, or P X
        if tall:
            matmul(x, poly, y)
        else:
            matmul(poly, x, y)
        now, then = then, now


def orthogonal_sizes(layout: Layout) -> tuple[int, int]:
    """Elements of the largest matrix among some tensors, and of the largest square on a matrix's smaller side."""
    table = nonempty_table(layout)
    size, square = 0, 0
    for at in range(1, len(table), TABLE_COLUMNS):
        columns = int(columns_of(table, at))
        if columns > 0:
            size = max(size, int(table[at + 1]))
            square = max(square, min(int(table[at + 1]) // columns, columns) ** 2)
    return size, square
