"""Second moments kept as row and column means over the two largest axes of a tensor (Shazeer & Stern 2018)."""

import math

from lopt.lanes import kernel, lane, lanes, sync

COLUMNS = 12  # offset, size, factored, na, stride_a, nb, stride_b, n1, stride_1, n2, stride_2, state offset


@kernel
def factored_moments(grad, rows, columns, table, at, beta, eps, offset):
    """Update the means of g^2 + eps over axis a (`rows`) and over axis b (`columns`) of one tensor."""
    cast = grad.dtype.type
    na, sa, nb, sb = table[at + 3], table[at + 4], table[at + 5], table[at + 6]
    n1, s1, n2, s2 = table[at + 7], table[at + 8], table[at + 9], table[at + 10]
    mix = cast(1.0) - beta
    for r in range(lane(), n1 * n2 * nb, lanes()):
        rest, j = r // nb, r % nb
        base = offset + (rest // n2) * s1 + (rest % n2) * s2 + j * sb
        s = cast(0.0)
        for i in range(na):
            g = grad[base + i * sa]
            s += g * g + eps
        rows[r] = beta * rows[r] + mix * (s / cast(na))
    for r in range(lane(), n1 * n2 * na, lanes()):
        rest, i = r // na, r % na
        base = offset + (rest // n2) * s1 + (rest % n2) * s2 + i * sa
        s = cast(0.0)
        for j in range(nb):
            g = grad[base + j * sb]
            s += g * g + eps
        columns[r] = beta * columns[r] + mix * (s / cast(nb))
    sync()


def factoring(shape: tuple[int, ...], skip_unit_axes: bool = False) -> tuple[int, ...] | None:
    """(na, stride_a, nb, stride_b, n1, stride_1, n2, stride_2): the largest axis, the second largest, the other two.

    Of equal axes the later counts as larger.  None for tensors with fewer than two axes (with
    `skip_unit_axes`: longer than 1), or more than four, which keep their full second moment.
    """
    long = sum(d > 1 for d in shape) if skip_unit_axes else len(shape)
    if long < 2 or len(shape) > 4:
        return None
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    order = sorted(range(len(shape)), key=lambda i: (shape[i], i), reverse=True)
    axes = [(shape[i], strides[i]) for i in order] + [(1, 0)] * (4 - len(shape))
    return tuple(x for axis in axes for x in axis)
