"""The kernel of residual networks: convolutions with norms in blocks, a shortcut around each block.

    unit     u(x) = norm(x * w), a convolution with "same" padding and its norm
    stem     h_0 = f_0(u(images)), then perhaps the maximum over 3 x 3 windows of stride 2
    block    h = f(u_n(... f(u_1(x)) ...) + s(x)), n = 2 (basic) or 3 (bottleneck) units; the shortcut s is the identity,
             or a unit of its own, 1 x 1, where the block changes the shape of the map
    head     mean over positions, a linear layer, softmax cross-entropy

All units and blocks are rows of two tables in data.sizes, so that one loop runs networks of any depth.  A unit's
parameters are w (side, side, cin, cout) | gamma (cout,) | beta (cout,); without a norm there is no gamma.  It keeps
xhat | rstd | y | h for the backward pass, h = f(y), where a shortcut has been added to y; the shortcut's own unit
keeps xhat | rstd.  Under virtual batch norm the reference batch goes through the network on top of the batch.
Source: He et al. 2016, "Deep residual learning for image recognition", section 3.3 and figure 5.
"""

from typing import NamedTuple

import numpy as np

from lopt.lanes import entry_point, kernel, lane, lanes, sync
from lopt.ops.activations import activate_bwd, activate_fwd
from lopt.ops.conv import conv_bwd, conv_bwd_input, conv_fwd
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd
from lopt.ops.images import IMAGE_HYPER, IMAGE_SIZES, gather_images
from lopt.ops.losses import cross_entropy
from lopt.ops.pool import MEAN, pool_bwd, pool_fwd
from lopt.ops.recurrent_parts import add_into
from lopt.ops.window_pool import max_pool_bwd, max_pool_fwd
from lopt.task import EVALUATE_SIG, TRAIN
from lopt.tasks.norm_core import NONE, norm_layer_bwd, norm_layer_fwd

POOL_SIDE, POOL_STRIDE = 3, 2  # of the maximum behind the stem
BUFFERS = 3  # gradients of maps alive at a time: of a block's chain two, of its shortcut one

# Behind the image block of data.sizes: norm, rows R of the reference batch, codes of the activations behind the stem and
# in the blocks, whether there is a maximum, classes, numbers of units and blocks, numbers the network keeps per image
# and besides, largest map.  The two tables follow, then the reference batch's rows.  data.hyper: images, eps.
_NORM, _REFERENCE, _STEM, _ACTIVATION, _POOL, _CLASSES, _N_UNITS, _N_BLOCKS = (
    IMAGE_SIZES + k for k in range(8)
)
_KEPT, _KEPT_FIXED, _LARGEST, TABLES = (IMAGE_SIZES + k for k in range(8, 12))
EPS = IMAGE_HYPER

# A unit: side of the kernel, stride, its input's height, width, channels, its own, where its parameters begin, and
# where its input and what it keeps begin in the scratch: images * first + second.
SIDE, STRIDE, HEIGHT, WIDTH, INPUTS, ROWS, COLUMNS, OUTPUTS, PARAMS = range(9)
SOURCE, SOURCE_FIXED, KEPT, KEPT_FIXED, UNIT = range(9, 14)
# A block: its first unit, the one behind its last, its shortcut.  A projection is the unit behind the last.
FIRST, END, SHORTCUT, BLOCK = range(4)
WITHOUT, IDENTITY, PROJECTION = range(3)


class Net(NamedTuple):
    """What all parts of the network share."""

    units: np.ndarray  # (U, UNIT) int64
    kind: int  # of the norms
    images: int  # R + B
    counted: int  # images that statistics of virtual and batch norm are taken over
    eps: float
    work: np.ndarray  # begins with the images
    scratch: np.ndarray  # for a convolution or a norm at a time


@kernel
def input_of(net, unit):
    """The unit's input (images, height, width, channels)."""
    shape = (net.images, unit[HEIGHT], unit[WIDTH], unit[INPUTS])
    start = net.images * unit[SOURCE] + unit[SOURCE_FIXED]
    size = shape[0] * shape[1] * shape[2] * shape[3]
    return net.work[start : start + size].reshape(shape)


@kernel
def kept_of(net, unit):
    """xhat and rstd of a unit, in one; its y; its h: three vectors.  Of a shortcut's unit only the first is there."""
    m = net.images * unit[ROWS] * unit[COLUMNS]
    c = unit[OUTPUTS]
    kept = net.images * unit[KEPT] + unit[KEPT_FIXED]
    y = kept + m * c + m + c
    h = y + m * c
    return net.work[kept:y], net.work[y:h], net.work[h : h + m * c]


@kernel
def ends_of(net, unit):
    """Where a unit's kernel, gamma and beta begin in the parameters, and where they end."""
    a, c = unit[PARAMS], unit[OUTPUTS]
    b = a + unit[SIDE] * unit[SIDE] * unit[INPUTS] * c
    d = b if net.kind == NONE else b + c
    return a, b, d, d + c


@kernel
def unit_fwd(params, net, unit, y):
    """y = norm(x * w), (images * rows * columns * channels,) OVERWRITTEN."""
    a, b, c, end = ends_of(net, unit)
    kept, _, _ = kept_of(net, unit)
    positions, outputs = unit[ROWS] * unit[COLUMNS], unit[OUTPUTS]
    conv_fwd(
        input_of(net, unit),
        params[a:b].reshape(unit[SIDE], unit[SIDE], unit[INPUTS], outputs),
        params[:0],
        kept[: y.size].reshape(net.images, unit[ROWS], unit[COLUMNS], outputs),
        unit[STRIDE],
        net.scratch,
    )
    norm_layer_fwd(
        net.kind, net.counted * positions, net.eps, params[b:c], params[c:end], kept,
        y.reshape(y.size // outputs, outputs), net.scratch,
    )  # fmt: skip


@kernel
def unit_bwd(params, grad, net, unit, d, dx):
    """grad of the unit's parameters OVERWRITTEN; d, the gradient of y, becomes that of x * w.

    dx OVERWRITTEN with the gradient of x unless it is empty.  Shapes: vectors, as y and x.
    """
    a, b, c, end = ends_of(net, unit)
    kept, _, _ = kept_of(net, unit)
    positions, outputs = unit[ROWS] * unit[COLUMNS], unit[OUTPUTS]
    # y = norm(z)
    norm_layer_bwd(
        net.kind, net.counted * positions, net.eps, params[b:c], kept,
        d.reshape(d.size // outputs, outputs), grad[b:c], grad[c:end], net.scratch,
    )  # fmt: skip
    # z = x * w
    x, shape = input_of(net, unit), (unit[SIDE], unit[SIDE], unit[INPUTS], outputs)
    dz = d.reshape(net.images, unit[ROWS], unit[COLUMNS], outputs)
    conv_bwd(x, dz, grad[a:b].reshape(shape), grad[:0], unit[STRIDE], net.scratch)
    if dx.size > 0:
        conv_bwd_input(
            params[a:b].reshape(shape), dz, dx.reshape(x.shape), unit[STRIDE], net.scratch
        )


@kernel
def block_fwd(params, net, block, code, buffer):
    """The maps of a block's units from that of the block before.  buffer (largest map,) is scratch."""
    for k in range(block[FIRST], block[END]):
        _, y, h = kept_of(net, net.units[k])
        unit_fwd(params, net, net.units[k], y)
        if k == block[END] - 1:
            if block[SHORTCUT] == IDENTITY:
                x = input_of(net, net.units[block[FIRST]])
                add_into(y, x.reshape(x.size))
            elif block[SHORTCUT] == PROJECTION:
                unit_fwd(params, net, net.units[block[END]], buffer[: y.size])
                add_into(y, buffer[: y.size])
        activate_fwd(y, h, code)


@kernel
def block_bwd(params, grad, net, block, code, d_maps, at):
    """Gradient of a block's parameters into grad (OVERWRITTEN), that of its input into d_maps.

    Shapes: d_maps (3, largest map); row `at`, 0 or 1, begins with the gradient of the block's map.  Returns the row, 0
    or 1, that begins with the gradient of its input; a block without a shortcut, the stem, has none.
    """
    units, first, last = net.units, block[FIRST], block[END] - 1
    x = input_of(net, units[first])
    _, y, h = kept_of(net, units[last])
    d = d_maps[at, : y.size]
    around = d_maps[2, : x.size]
    # h = f(y), y = u_n(...) + s(x)
    activate_bwd(y, h, d, code)
    if block[SHORTCUT] == IDENTITY:
        copy(d, around)
    elif block[SHORTCUT] == PROJECTION:
        dy = d_maps[1 - at, : y.size]
        copy(d, dy)
        unit_bwd(params, grad, net, units[block[END]], dy, around)
    for k in range(last, first, -1):
        # y = u_k(f(y of the unit before))
        _, y, h = kept_of(net, units[k - 1])
        dh = d_maps[1 - at, : y.size]
        unit_bwd(params, grad, net, units[k], d, dh)
        activate_bwd(y, h, dh, code)
        d, at = dh, 1 - at
    # y = u_1(x)
    inputs = x.size if block[SHORTCUT] != WITHOUT else 0
    dx = d_maps[1 - at, :inputs]
    unit_bwd(params, grad, net, units[first], d, dx)
    if block[SHORTCUT] != WITHOUT:
        add_into(dx, around)
    return 1 - at


@kernel
def copy(x, y):
    """y = x.  Shapes: (n,) both."""
    for i in range(lane(), x.size, lanes()):
        y[i] = x[i]
    sync()


@kernel
def resnet_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean softmax cross-entropy of a residual network and its gradient; see `lopt.task.Task`.

    params: units in the order of their table | w_out (C, classes) | b_out (classes,).
    Scratch: images | what the units keep, in their order, the maximum's map behind that of the stem | means (B, C),
    their gradient | logits (B, classes) | losses (B,) | partials (32,) | three maps for gradients | scratch of a
    convolution or a norm.
    """
    sizes, batch, reference = data.sizes, rows.size, data.sizes[_REFERENCE]
    classes, pooled = sizes[_CLASSES], sizes[_POOL]
    images = reference + batch
    begin = TABLES + UNIT * sizes[_N_UNITS]
    units = sizes[TABLES:begin].reshape(sizes[_N_UNITS], UNIT)
    blocks = sizes[begin : begin + BLOCK * sizes[_N_BLOCKS]].reshape(sizes[_N_BLOCKS], BLOCK)
    last = units[blocks[blocks.shape[0] - 1, END] - 1]
    channels, positions = last[OUTPUTS], last[ROWS] * last[COLUMNS]
    pixels, largest = units[0, HEIGHT] * units[0, WIDTH] * units[0, INPUTS], sizes[_LARGEST]

    o = images * sizes[_KEPT] + sizes[_KEPT_FIXED]
    p = o + batch * channels
    q = p + batch * channels
    r = q + batch * classes
    s = r + batch + 32
    e = s + BUFFERS * images * largest
    means, dmeans = work[o:p].reshape(batch, channels), work[p:q].reshape(batch, channels)
    logits = work[q:r].reshape(batch, classes)
    d_maps, scratch = work[s:e].reshape(BUFFERS, images * largest), work[e:]
    counted = reference if reference > 0 else images
    net = Net(units, sizes[_NORM], images, counted, data.hyper[EPS], work, scratch)

    top = work[: reference * pixels].reshape(reference, pixels)
    gather_images(data, sizes[sizes.size - reference :], stream, TRAIN, 0, top)
    x = work[reference * pixels : images * pixels].reshape(batch, pixels)
    gather_images(data, rows, stream, split, step, x)
    _, _, stem = kept_of(net, units[0])
    map_shape = (images, units[0, ROWS], units[0, COLUMNS], units[0, OUTPUTS])
    block_fwd(params, net, blocks[0], sizes[_STEM], d_maps[0])
    if pooled != 0:
        smaller = input_of(net, units[1])
        max_pool_fwd(stem.reshape(map_shape), POOL_SIDE, POOL_STRIDE, smaller)
    for k in range(1, blocks.shape[0]):
        block_fwd(params, net, blocks[k], sizes[_ACTIVATION], d_maps[0])
    _, _, h = kept_of(net, last)
    h = h[reference * positions * channels :].reshape(batch, positions, channels)
    pool_fwd(h, means, MEAN)
    a = params.size - (channels + 1) * classes
    b = params.size - classes
    w = params[a:b].reshape(channels, classes)
    dense_fwd(means, w, params[b:], logits)
    loss = cross_entropy(logits, data.ints, rows, work[r : r + batch], work[r + batch : s])
    if with_grad == 0:
        return loss
    # logits = means w_out + b_out
    dense_bwd(means, logits, grad[a:b].reshape(channels, classes), grad[b:])
    dense_bwd_input(w, logits, dmeans)
    # means = mean over the positions of h, the reference batch left out
    d, above = d_maps[0], reference * positions * channels
    zero(d[:above])
    dh = d[above : images * positions * channels].reshape(batch, positions, channels)
    pool_bwd(h, dmeans, dh, MEAN, scratch[: 2 * channels].reshape(2, channels))
    at = 0
    for k in range(blocks.shape[0] - 1, 0, -1):
        at = block_bwd(params, grad, net, blocks[k], sizes[_ACTIVATION], d_maps, at)
    if pooled != 0:
        # input of the first block = max_pool(h of the stem)
        smaller = input_of(net, units[1])
        dy, dx = d_maps[at, : smaller.size], d_maps[1 - at, : stem.size]
        max_pool_bwd(
            stem.reshape(map_shape), smaller, dy.reshape(smaller.shape), POOL_SIDE, POOL_STRIDE,
            dx.reshape(map_shape), scratch[: map_shape[3]],
        )  # fmt: skip
        at = 1 - at
    block_bwd(params, grad, net, blocks[0], sizes[_STEM], d_maps, at)
    return loss


@kernel
def zero(x):
    """x = 0."""
    for i in range(lane(), x.size, lanes()):
        x[i] = x.dtype.type(0.0)
    sync()


@entry_point(EVALUATE_SIG)
def resnet_entry(params, grad, data, rows, stream, split, step, work, with_grad):
    return resnet_evaluate(params, grad, data, rows, stream, split, step, work, with_grad)
