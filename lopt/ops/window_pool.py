"""Maximum over square windows of a map, forward and backward.

    y[b, i, j, c] = max over u, v < side of x[b, i s + u - top, j s + v - left, c]

with the sizes and margins of a "same" convolution of stride s (`lopt.ops.conv`); what a window has outside of the map
does not count.  Of equal maxima the first one of the window, row by row, gets the gradient, as TensorFlow and XLA have
it; after a ReLU that is the usual case, and those gradients end at the ReLU.
"""

import numpy as np

from lopt.lanes import kernel, lane, lanes, sync
from lopt.ops.conv import conv_size, margin


@kernel
def max_pool_fwd(x, side, stride, y):
    """y = the maxima of the windows of x; a NaN is the maximum of its windows.

    Shapes: x (B, H, W, C), y (B, ceil(H / s), ceil(W / s), C) OVERWRITTEN; side >= stride.
    """
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    rows, columns = y.shape[1], y.shape[2]
    top, left = margin(height, rows, side, stride), margin(width, columns, side, stride)
    for p in range(lane(), y.shape[0] * rows * columns, lanes()):
        b = p // (rows * columns)
        i = p // columns - b * rows
        j = p - (b * rows + i) * columns
        low, across = i * stride - top, j * stride - left
        first = x[b, max(low, 0), max(across, 0)]
        out = y[b, i, j]
        for c in range(channels):
            out[c] = first[c]
        for u in range(max(low, 0), min(low + side, height)):
            for v in range(max(across, 0), min(across + side, width)):
                pixel = x[b, u, v]
                for c in range(channels):
                    t = out[c]
                    out[c] = pixel[c] if pixel[c] > t or pixel[c] != pixel[c] else t
    sync()


@kernel
def max_pool_bwd(x, y, dy, side, stride, dx, left_over):
    """dx OVERWRITTEN with the gradient of x.

    Shapes: x and y as `max_pool_fwd` left them, dy like y, dx like x; scratch left_over (C,).  Each lane owns
    channels, because windows overlap.
    """
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    rows, columns = y.shape[1], y.shape[2]
    top, left = margin(height, rows, side, stride), margin(width, columns, side, stride)
    zero, one = x.dtype.type(0.0), x.dtype.type(1.0)
    for b in range(x.shape[0]):
        for u in range(height):
            for v in range(width):
                d = dx[b, u, v]
                for c in range(lane(), channels, lanes()):
                    d[c] = zero
    for b in range(x.shape[0]):
        for i in range(rows):
            for j in range(columns):
                low, across = i * stride - top, j * stride - left
                best, gradient = y[b, i, j], dy[b, i, j]
                for c in range(lane(), channels, lanes()):
                    left_over[c] = one
                for u in range(max(low, 0), min(low + side, height)):
                    for v in range(max(across, 0), min(across + side, width)):
                        # y = max(..., x, ...)
                        pixel, d = x[b, u, v], dx[b, u, v]
                        for c in range(lane(), channels, lanes()):
                            hit = left_over[c] if pixel[c] == best[c] else zero
                            d[c] += gradient[c] if hit > zero else zero
                            left_over[c] -= hit
    sync()


def max_pool_reference(x: np.ndarray, side: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """y (B, rows, columns, C), and for each of its numbers the place of its maximum in x.ravel(): plain NumPy."""
    batch, height, width, channels = x.shape
    rows, columns = (conv_size(n, side, stride, "same") for n in (height, width))
    index = np.arange(x.size).reshape(x.shape)
    place = np.empty((batch, rows, columns, channels), np.int64)
    top, left = (
        max((out - 1) * stride + side - n, 0) // 2 for out, n in ((rows, height), (columns, width))
    )
    for i in range(rows):
        for j in range(columns):
            down = slice(max(i * stride - top, 0), i * stride - top + side)
            across = slice(max(j * stride - left, 0), j * stride - left + side)
            window = x[:, down, across].reshape(batch, -1, channels)
            inside = index[:, down, across].reshape(batch, -1, channels)
            best = window.argmax(axis=1)[:, None]
            place[:, i, j] = np.take_along_axis(inside, best, axis=1)[:, 0]
    return x.ravel()[place], place
