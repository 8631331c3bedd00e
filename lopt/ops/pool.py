"""Pooling of a map over all its positions, as forward and backward pairs.

A map has shape (B, P, C): batch, positions, channels; an image batch (B, H, W, C) is one with P = H W.
Source: task set specification 3.5 and 13.
"""

import numpy as np

from lopt.lanes import kernel, lane, lanes, sync

POOLINGS = ("mean", "max", "squared_mean")
MEAN, MAX, SQUARED_MEAN = range(len(POOLINGS))


@kernel
def pool_fwd(x, y, code):
    """y[b, c] = mean, maximum or mean square of x[b, :, c]; a NaN makes all three NaN.

    Shapes: x (B, P, C), y (B, C) OVERWRITTEN.  Each lane owns channels, so nothing waits.
    """
    batch, positions, channels = x.shape
    share = x.dtype.type(1.0) / x.dtype.type(positions)
    for b in range(batch):
        out = y[b]
        if code == MAX:
            _largest(x[b], out)
        else:
            for c in range(lane(), channels, lanes()):
                out[c] = x.dtype.type(0.0)
            for p in range(positions):
                row = x[b, p]
                if code == MEAN:
                    for c in range(lane(), channels, lanes()):
                        out[c] += row[c]
                else:
                    for c in range(lane(), channels, lanes()):
                        out[c] += row[c] * row[c]
            for c in range(lane(), channels, lanes()):
                out[c] *= share
    sync()


@kernel
def pool_bwd(x, dy, dx, code, scratch):
    """dx OVERWRITTEN with the gradient of x; positions that share the maximum share its gradient equally.

    Shapes: x, dx (B, P, C), which may be x; dy (B, C); scratch (2, C), used by the maximum.
    """
    batch, positions, channels = x.shape
    zero, one, two = x.dtype.type(0.0), x.dtype.type(1.0), x.dtype.type(2.0)
    share = one / x.dtype.type(positions)
    top, part = scratch[0], scratch[1]
    for b in range(batch):
        d = dy[b]
        if code == MAX:
            _largest(x[b], top)
            for c in range(lane(), channels, lanes()):
                part[c] = zero
            for p in range(positions):
                row = x[b, p]
                for c in range(lane(), channels, lanes()):
                    part[c] += one if row[c] == top[c] else zero
            for c in range(lane(), channels, lanes()):
                part[c] = d[c] / part[c]
        for p in range(positions):
            row, out = x[b, p], dx[b, p]
            if code == MAX:
                # y = max_p x
                for c in range(lane(), channels, lanes()):
                    out[c] = part[c] if row[c] == top[c] else zero
            elif code == MEAN:
                # y = sum_p x / P
                for c in range(lane(), channels, lanes()):
                    out[c] = share * d[c]
            else:
                # y = sum_p x^2 / P
                for c in range(lane(), channels, lanes()):
                    out[c] = two * share * row[c] * d[c]
    sync()


@kernel
def _largest(x, top):
    """top[c] = the largest x[:, c], or NaN if there is one.  No barrier: each lane owns channels."""
    positions, channels = x.shape
    for c in range(lane(), channels, lanes()):
        top[c] = x[0, c]
    for p in range(1, positions):
        row = x[p]
        for c in range(lane(), channels, lanes()):
            t = top[c]
            top[c] = row[c] if row[c] > t or row[c] != row[c] else t


def pool_reference(x: np.ndarray, pooling: str) -> tuple[np.ndarray, np.ndarray]:
    """y (B, C) and dy/dx (B, P, C) in plain NumPy: the oracle of the kernels."""
    if pooling == "max":
        ties = x == x.max(axis=1, keepdims=True)
        return x.max(axis=1), ties / ties.sum(axis=1, keepdims=True)
    if pooling == "mean":
        return x.mean(axis=1), np.full_like(x, 1.0 / x.shape[1])
    return (x**2).mean(axis=1), 2.0 * x / x.shape[1]
