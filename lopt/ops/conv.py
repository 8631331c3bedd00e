"""Two-dimensional convolution of image batches, forward and backward.

    y[b, i, j, d] = bias[d] + sum_{u, v, c} x[b, i s + u - top, j s + v - left, c] w[u, v, c, d]

with x = 0 outside the image: a cross-correlation in the layout (batch, height, width, channels), stride s, kernel
(kh, kw, cin, cout) of any size.  Source: task set specification 1.6 (TensorFlow's paddings).

    "valid"   oh = floor((h - kh) / s) + 1, needs h >= kh; no padding
    "same"    oh = ceil(h / s); max((oh - 1) s + kh - h, 0) rows of zeros in all, the smaller half (rounded down) on top

In both, the number of rows of zeros is max((oh - 1) s + kh - h, 0), so the kernels read the padding off the shapes.

Patches of x are laid out as the rows of a matrix (one output position each, kh kw cin numbers) and multiplied with
the kernel, a chunk of output rows at a time: the scratch stays in the cache, whatever the batch.  Pixels are the
patches of a 1 x 1 kernel of stride 1 as they are.
"""

import numpy as np

from lopt.lanes import kernel, lane, lanes, matmul, sync

CHUNK = 24576  # numbers in a chunk of patches

PADDINGS = ("same", "valid")


def conv_size(n: int, kernel_size: int, stride: int, padding: str) -> int:
    """Output rows (columns) of an image of n rows (columns); less than 1: the kernel does not fit."""
    if padding == "same":
        return -(-n // stride)
    return (n - kernel_size) // stride + 1


def conv_scratch(
    batch: int, out_shape: tuple[int, int], kernel_shape: tuple[int, int, int, int]
) -> int:
    """Numbers of scratch all three kernels need: a chunk of patches and a gradient of the kernel."""
    kh, kw, cin, cout = kernel_shape
    oh, ow = out_shape
    depth = kh * kw * cin
    rows = min(batch * oh, max(1, CHUNK // (ow * depth)))
    return rows * ow * depth + depth * cout


@kernel
def _chunk_rows(rows, width, depth):
    """Output rows in a chunk; at least 1."""
    return min(rows, max(1, CHUNK // (width * depth)))


@kernel
def _pixelwise(w, stride):
    """Whether the patches are the pixels of x, in order."""
    return w.shape[0] * w.shape[1] * stride == 1


@kernel
def margin(n, out, k, stride):
    """Rows of zeros before the first row of the image."""
    return max((out - 1) * stride + k - n, 0) // 2


@kernel
def _gather(x, w, out_rows, stride, first, patches):
    """patches[p, (u, v, c)] = x[b, i s + u - top, j s + v - left, c], p-th position from output row `first` on.

    Output rows are numbered b oh + i.  Shapes: x (B, H, W, C), w only for its shape, out_rows = oh,
    patches (rows, ow, kh kw C) OVERWRITTEN.
    """
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    kh, span, ow = w.shape[0], w.shape[1] * channels, patches.shape[1]
    top = margin(height, out_rows, kh, stride)
    left = margin(width, ow, w.shape[1], stride)
    flat, line, zero = x.reshape(x.size), width * channels, x.dtype.type(0.0)
    for p in range(lane(), patches.shape[0] * ow, lanes()):
        r = p // ow
        j = p - r * ow
        b = (first + r) // out_rows
        i = first + r - b * out_rows
        begin = (j * stride - left) * channels  # in a row of x, may lie before it
        lo, hi = max(0, -begin), min(span, line - begin)  # what lies inside
        row = patches[r, j]
        for u in range(kh):
            target = row[u * span : u * span + span]
            y = i * stride + u - top
            if 0 <= y < height:
                start = (b * height + y) * line + begin + lo
                source, inside = flat[start : start + hi - lo], target[lo:hi]
                for q in range(lo):
                    target[q] = zero
                for q in range(hi - lo):
                    inside[q] = source[q]
                for q in range(hi, span):
                    target[q] = zero
            else:
                for q in range(span):
                    target[q] = zero
    sync()


@kernel
def _scatter(patches, w, out_rows, stride, first, dx):
    """The adjoint of `_gather`: dx += what the patches hold of each pixel.

    Each pixel has one lane, which adds in ascending order of output positions.
    """
    height, width, channels = dx.shape[1], dx.shape[2], dx.shape[3]
    kh, kw, ow = w.shape[0], w.shape[1], patches.shape[1]
    top = margin(height, out_rows, kh, stride)
    left = margin(width, ow, kw, stride)
    target_of, source_of = dx.reshape(dx.size), patches.reshape(patches.size)
    end = first + patches.shape[0]
    b = first // out_rows
    low = b * height + max((first - b * out_rows) * stride - top, 0)
    b = (end - 1) // out_rows
    high = b * height + min((end - 1 - b * out_rows) * stride - top + kh, height)
    for p in range(lane(), (high - low) * width, lanes()):
        r = low + p // width
        b = r // height
        y = r - b * height + top  # = i s + u
        x = p - (r - low) * width + left  # = j s + v
        start = (r * width + x - left) * channels
        target = target_of[start : start + channels]
        i_low = max((y - kh) // stride + 1, 0, first - b * out_rows)
        i_high = min(y // stride + 1, out_rows, end - b * out_rows)
        j_low, j_high = max((x - kw) // stride + 1, 0), min(x // stride + 1, ow)
        for i in range(i_low, i_high):
            u = y - i * stride
            for j in range(j_low, j_high):
                place = ((b * out_rows + i - first) * ow + j) * kh + u
                start = (place * kw + x - j * stride) * channels
                source = source_of[start : start + channels]
                for c in range(channels):
                    target[c] += source[c]
    sync()


@kernel
def conv_fwd(x, w, bias, y, stride, work):
    """y = bias + the convolution of x with w.

    Shapes: x (B, H, W, cin), w (kh, kw, cin, cout), bias (cout,) or empty, y (B, oh, ow, cout) OVERWRITTEN; work
    (conv_scratch,).
    """
    batch, oh, ow, cout = y.shape
    depth = w.shape[0] * w.shape[1] * w.shape[2]
    out, matrix = y.reshape(batch * oh * ow, cout), w.reshape(depth, cout)
    pixels, pixelwise = x.reshape(x.size), _pixelwise(w, stride)
    step = _chunk_rows(batch * oh, ow, depth)
    for first in range(0, batch * oh, step):
        last = min(first + step, batch * oh)
        n = (last - first) * ow
        if pixelwise:
            patches = pixels[first * ow * depth : last * ow * depth]
        else:
            patches = work[: n * depth]
            _gather(x, w, oh, stride, first, patches.reshape(last - first, ow, depth))
        part = out[first * ow : last * ow]
        matmul(patches.reshape(n, depth), matrix, part)
        if bias.size > 0:
            for p in range(lane(), n, lanes()):
                row = part[p]
                for d in range(cout):
                    row[d] += bias[d]
    sync()


@kernel
def conv_bwd(x, dy, dw, dbias, stride, work):
    """dw and dbias OVERWRITTEN with the gradients of w and, unless it is empty, bias.  Shapes as in `conv_fwd`."""
    batch, oh, ow, cout = dy.shape
    depth = dw.shape[0] * dw.shape[1] * dw.shape[2]
    flat, zero = dw.reshape(depth * cout), dy.dtype.type(0.0)
    d = dy.reshape(batch * oh * ow, cout)
    pixels, pixelwise = x.reshape(x.size), _pixelwise(dw, stride)
    step = _chunk_rows(batch * oh, ow, depth)
    more = work[step * ow * depth : (step * ow + cout) * depth]
    for first in range(0, batch * oh, step):
        last = min(first + step, batch * oh)
        n = (last - first) * ow
        if pixelwise:
            patches = pixels[first * ow * depth : last * ow * depth]
        else:
            patches = work[: n * depth]
            _gather(x, dw, oh, stride, first, patches.reshape(last - first, ow, depth))
        # y = patches w
        rows = patches.reshape(n, depth)
        if first == 0:
            matmul(rows.T, d[:n], dw.reshape(depth, cout))
        else:
            matmul(rows.T, d[first * ow : last * ow], more.reshape(depth, cout))
            for q in range(lane(), depth * cout, lanes()):
                flat[q] += more[q]
            sync()
    # y += bias
    if dbias.size > 0:
        for q in range(lane(), cout, lanes()):
            dbias[q] = zero
        for p in range(batch * oh * ow):
            row = d[p]
            for q in range(lane(), cout, lanes()):
                dbias[q] += row[q]
    sync()


@kernel
def conv_bwd_input(w, dy, dx, stride, work):
    """dx OVERWRITTEN with the gradient of x: the transposed convolution of dy.  Shapes as in `conv_fwd`."""
    batch, oh, ow, cout = dy.shape
    depth = w.shape[0] * w.shape[1] * w.shape[2]
    flat, zero = dx.reshape(dx.size), dx.dtype.type(0.0)
    d, matrix = dy.reshape(batch * oh * ow, cout), w.reshape(depth, cout)
    if _pixelwise(w, stride):
        # y = x w
        matmul(d, matrix.T, flat.reshape(batch * oh * ow, depth))
        return
    for q in range(lane(), dx.size, lanes()):
        flat[q] = zero
    step = _chunk_rows(batch * oh, ow, depth)
    for first in range(0, batch * oh, step):
        last = min(first + step, batch * oh)
        n = (last - first) * ow
        patches = work[: n * depth]
        # y = patches w
        matmul(d[first * ow : last * ow], matrix.T, patches.reshape(n, depth))
        _scatter(patches.reshape(last - first, ow, depth), w, oh, stride, first, dx)


def _padded(x: np.ndarray, kernel_shape: tuple[int, ...], stride: int, padding: str) -> tuple:
    """x (B, H, W, C) with its zeros around it, and the slice of x in it."""
    pads = [(0, 0), (0, 0), (0, 0), (0, 0)]
    if padding == "same":
        for axis in (1, 2):
            n, k = x.shape[axis], kernel_shape[axis - 1]
            total = max((-(-n // stride) - 1) * stride + k - n, 0)
            pads[axis] = (total // 2, total - total // 2)
    inside = tuple(slice(lo, lo + n) for (lo, _), n in zip(pads, x.shape, strict=True))
    return np.pad(x, pads), inside


def _positions(padded: np.ndarray, kernel_shape: tuple[int, ...], stride: int) -> list[tuple]:
    """For each kernel position (u, v): (u, v), and the slices of the pixels it meets."""
    kh, kw = kernel_shape[:2]
    spans = [padded.shape[1] - kh + 1, padded.shape[2] - kw + 1]
    return [
        ((u, v), np.s_[:, u : u + spans[0] : stride, v : v + spans[1] : stride])
        for u in range(kh)
        for v in range(kw)
    ]


def conv_reference(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, stride: int, padding: str
) -> np.ndarray:
    """The convolution in plain NumPy, one kernel position after the other; shapes as in `conv_fwd`."""
    padded, _ = _padded(x, w.shape, stride, padding)
    y = sum(padded[pixels] @ w[uv] for uv, pixels in _positions(padded, w.shape, stride))
    return y if bias is None else y + bias


def conv_bwd_reference(
    x: np.ndarray, w: np.ndarray, dy: np.ndarray, stride: int, padding: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of x, w and bias in plain NumPy, one kernel position after the other."""
    padded, inside = _padded(x, w.shape, stride, padding)
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for uv, pixels in _positions(padded, w.shape, stride):
        dw[uv] = np.einsum("bijc,bijd->cd", padded[pixels], dy)
        dpadded[pixels] += dy @ w[uv].T
    return dpadded[inside], dw, dy.sum(axis=(0, 1, 2))
