"""The kernel of residual networks: convolutions with norms in blocks, a shortcut around each block.

    unit     u(x) = norm(x * w), a convolution with "same" padding and its norm
    stem     h_0 = f_0(u(images)), then perhaps the maximum over 3 x 3 windows of stride 2
    block    h = f(u_n(... f(u_1(x)) ...) + s(x)), n = 2 (basic) or 3 (bottleneck) units; the shortcut s is the identity,
             or a unit of its own, 1 x 1, where the block changes the shape of the map
    head     mean over positions, a linear layer, softmax cross-entropy

The units are rows of a table in data.sizes, in the order of evaluation: stem, then the units of each block, the
shortcut's first.  One loop runs networks of any depth.  A unit's parameters are w (side, side, cin, cout) | gamma
(cout,) | beta (cout,).  It keeps xhat | rstd | y | h for the backward pass, h = f(y), where the shortcut has been added
to y at the end of a block; a shortcut's unit keeps xhat | rstd | y.  Under virtual batch norm the reference batch goes
through the network on top of the batch.
Source: He et al. 2016, "Deep residual learning for image recognition", section 3.3 and figure 5.
"""

from typing import NamedTuple

import numpy as np

from lopt.lanes import Returned, kernel, lane, lanes, single_use, sync
from lopt.ops.activations import activate_bwd, activate_fwd
from lopt.ops.conv import conv_bwd, conv_bwd_input, conv_fwd
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd
from lopt.ops.images import IMAGE_SIZES, gather_images
from lopt.ops.losses import cross_entropy
from lopt.ops.norm import (
    LAYER_EPS,
    batch_norm_bwd,
    batch_norm_fwd,
    layer_norm_bwd,
    layer_norm_fwd,
)
from lopt.ops.pool import MEAN, pool_bwd, pool_fwd
from lopt.ops.recurrent_parts import add_into
from lopt.ops.window_pool import max_pool_bwd, max_pool_fwd
from lopt.task import TRAIN

POOL_SIDE, POOL_STRIDE = 3, 2  # of the maximum behind the stem
BUFFERS = 3  # gradients of maps alive at a time: two of a block's chain, one of its shortcut

# Behind the image block of data.sizes: whether norms are layer norms, rows R of the reference batch, whether there is a
# maximum, classes, number of units, numbers the network keeps per image and besides, largest map.  The table follows,
# then the reference batch's rows.
_LAYER_NORM, _REFERENCE, _POOL, _CLASSES, _N_UNITS, _KEPT, _KEPT_FIXED, _LARGEST, _TABLE = (
    IMAGE_SIZES + k for k in range(9)
)

# A unit: side of the kernel, stride, its input's height, width, channels, its own, where its parameters begin; where
# its input, what it keeps and what is added to it begin in the scratch (images * first + second); its role, f; which of
# the maps for gradients have that of what it makes and that of its input.
SIDE, STRIDE, HEIGHT, WIDTH, INPUTS, ROWS, COLUMNS, OUTPUTS, PARAMS = range(9)
SOURCE, KEPT, ADDED, ROLE, ACTIVATION, D_OWN, D_INPUT, UNIT = 9, 11, 13, 15, 16, 17, 18, 19
# CHAIN: h = f(y).  END of a block: h = f(y + what is added).  BEGIN of a block whose input is added at its end.
# SKIP: what is added is y.
CHAIN, END, BEGIN, SKIP = range(4)
D_ADDED = 2  # the map for the gradient of what is added; those of the chain are 0 and 1
OTHERS = 0 + 1 + D_ADDED  # less two of the three: the third


class Net(NamedTuple):
    """What all parts of the network share."""

    units: np.ndarray  # (U, UNIT) int64
    layer_norm: int  # or batch norm
    images: int  # R + B
    counted: int  # images that the statistics of batch norm are taken over
    pooled: int  # whether there is a maximum behind the stem
    work: np.ndarray  # begins with the images
    scratch: np.ndarray  # for a convolution, a norm or the maximum at a time


@kernel
def place(net, unit, slot):
    """Where something of a unit begins in the scratch."""
    return net.images * unit[slot] + unit[slot + 1]


@kernel
def input_of(net, unit):
    """The unit's input (images, height, width, channels)."""
    shape = (net.images, unit[HEIGHT], unit[WIDTH], unit[INPUTS])
    start = place(net, unit, SOURCE)
    size = shape[0] * shape[1] * shape[2] * shape[3]
    return Returned(net.work[start : start + size].reshape(shape))


@kernel
def kept_of(net, unit):
    """Three vectors: xhat and rstd of a unit, in one; its y; its h, which is not there for a shortcut's unit."""
    rows, c = net.images * unit[ROWS] * unit[COLUMNS], unit[OUTPUTS]
    kept = place(net, unit, KEPT)
    y = kept + rows * c + rows + c
    h = y + rows * c
    return net.work[kept:y], net.work[y:h], net.work[h : h + rows * c]


@kernel
def ends_of(unit):
    """Where a unit's kernel, gamma and beta begin in the parameters, and where they end."""
    a, c = unit[PARAMS], unit[OUTPUTS]
    b = a + unit[SIDE] * unit[SIDE] * unit[INPUTS] * c
    return a, b, b + c, b + 2 * c


@single_use
def unit_fwd(params, net, k):
    """What unit k makes of its input, and the maximum behind the stem."""
    unit = net.units[k]
    a, b, c, end = ends_of(unit)
    kept, y, h = kept_of(net, unit)
    outputs, shape = unit[OUTPUTS], (net.images, unit[ROWS], unit[COLUMNS], unit[OUTPUTS])
    conv_fwd(
        input_of(net, unit).array,
        params[a:b].reshape(unit[SIDE], unit[SIDE], unit[INPUTS], outputs),
        params[:0],
        kept[: y.size].reshape(shape),
        unit[STRIDE],
        net.scratch,
    )
    rows = (y.size // outputs, outputs)
    gamma, beta, xhat, rstd = (
        params[b:c],
        params[c:end],
        kept[: y.size].reshape(rows),
        kept[y.size :],
    )
    if net.layer_norm != 0:
        layer_norm_fwd(xhat, gamma, beta, LAYER_EPS, xhat, rstd, y.reshape(rows))
    else:
        counted = net.counted * unit[ROWS] * unit[COLUMNS]
        batch_norm_fwd(
            xhat, counted, gamma, beta, LAYER_EPS, xhat, rstd, y.reshape(rows), net.scratch
        )
    if unit[ROLE] == END:
        added = place(net, unit, ADDED)
        add_into(y, net.work[added : added + y.size])
    if unit[ROLE] != SKIP:
        activate_fwd(y, h, unit[ACTIVATION])
    if k == 0 and net.pooled != 0:
        max_pool_fwd(h.reshape(shape), POOL_SIDE, POOL_STRIDE, input_of(net, net.units[1]).array)


@single_use
def unit_bwd(params, grad, net, d_maps, k):
    """Gradients of what unit k makes and of its parameters (OVERWRITTEN) from that of its h, or of a shortcut's y.

    Shapes: d_maps (3, images * largest map), whose rows begin with gradients as the table says; grad that of all.
    """
    unit = net.units[k]
    role, x = unit[ROLE], input_of(net, unit).array
    a, b, c, end = ends_of(unit)
    kept, y, h = kept_of(net, unit)
    rows = (y.size // unit[OUTPUTS], unit[OUTPUTS])
    d, dx = d_maps[unit[D_OWN], : y.size], d_maps[unit[D_INPUT], : x.size]
    if role != SKIP:
        # h = f(y)
        activate_bwd(y, h, d, unit[ACTIVATION])
    if role == END:
        # y = u(x) + what is added
        copy(d, d_maps[D_ADDED, : y.size])
    # u(x) = norm(z)
    gamma, xhat, rstd = params[b:c], kept[: y.size].reshape(rows), kept[y.size :]
    dgamma, dbeta = grad[b:c], grad[c:end]
    if net.layer_norm != 0:
        layer_norm_bwd(xhat, rstd, gamma, d.reshape(rows), dgamma, dbeta, net.scratch)
    else:
        counted = net.counted * unit[ROWS] * unit[COLUMNS]
        batch_norm_bwd(xhat, counted, rstd, gamma, d.reshape(rows), dgamma, dbeta, net.scratch)
    # z = x * w
    shape = (unit[SIDE], unit[SIDE], unit[INPUTS], unit[OUTPUTS])
    dz = d.reshape(net.images, unit[ROWS], unit[COLUMNS], unit[OUTPUTS])
    conv_bwd(x, dz, grad[a:b].reshape(shape), grad[:0], unit[STRIDE], net.scratch)
    if k > 0:
        conv_bwd_input(
            params[a:b].reshape(shape), dz, dx.reshape(x.shape), unit[STRIDE], net.scratch
        )
    if role in (BEGIN, SKIP):
        # the block's input has gone two ways
        add_into(dx, d_maps[OTHERS - unit[D_OWN] - unit[D_INPUT], : x.size])
    if k == 1 and net.pooled != 0:
        # x = max_pool(h of the stem)
        stem = net.units[0]
        _, _, h = kept_of(net, stem)
        shape = (net.images, stem[ROWS], stem[COLUMNS], stem[OUTPUTS])
        max_pool_bwd(
            h.reshape(shape), x, dx.reshape(x.shape), POOL_SIDE, POOL_STRIDE,
            d_maps[stem[D_OWN], : h.size].reshape(shape), net.scratch[: stem[OUTPUTS]],
        )  # fmt: skip


@kernel
def copy(x, y):
    """y = x.  Shapes: (n,) both."""
    for i in range(lane(), x.size, lanes()):
        y[i] = x[i]
    sync()


@kernel
def zero(x):
    """x = 0."""
    for i in range(lane(), x.size, lanes()):
        x[i] = x.dtype.type(0.0)
    sync()


@kernel
def resnet_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean softmax cross-entropy of a residual network and its gradient; see `lopt.task.Task`.

    params: units in the order of their table | w_out (C, classes) | b_out (classes,).
    Scratch: images | what the units keep, in their order, the maximum's map behind that of the stem | means (B, C),
    their gradient | logits (B, classes) | losses (B,) | partials (32,) | three maps for gradients | scratch of a
    convolution, a norm or the maximum.
    """
    sizes, batch, reference = data.sizes, rows.size, data.sizes[_REFERENCE]
    classes, images = sizes[_CLASSES], data.sizes[_REFERENCE] + rows.size
    units = sizes[_TABLE : _TABLE + UNIT * sizes[_N_UNITS]].reshape(sizes[_N_UNITS], UNIT)
    last = units[units.shape[0] - 1]
    channels, positions = last[OUTPUTS], last[ROWS] * last[COLUMNS]
    pixels = units[0, HEIGHT] * units[0, WIDTH] * units[0, INPUTS]

    o = images * sizes[_KEPT] + sizes[_KEPT_FIXED]
    p = o + batch * channels
    q = p + batch * channels
    r = q + batch * classes
    s = r + batch + 32
    e = s + BUFFERS * images * sizes[_LARGEST]
    means, dmeans = work[o:p].reshape(batch, channels), work[p:q].reshape(batch, channels)
    logits = work[q:r].reshape(batch, classes)
    d_maps = work[s:e].reshape(BUFFERS, images * sizes[_LARGEST])
    counted = reference if reference > 0 else images
    net = Net(units, sizes[_LAYER_NORM], images, counted, sizes[_POOL], work, work[e:])

    for part in range(2):  # in one place: each kind of call would be compiled anew
        own = part == 1
        which = rows if own else sizes[sizes.size - reference :]
        start = pixels * reference * part
        x = work[start : start + pixels * which.size].reshape(which.size, pixels)
        gather_images(data, which, stream, split if own else TRAIN, step if own else 0, x)
    for k in range(units.shape[0]):
        unit_fwd(params, net, k)
    _, _, h = kept_of(net, last)
    above = reference * positions * channels  # what belongs to the reference batch
    maps = h[above:].reshape(batch, positions, channels)
    pool_fwd(maps, means, MEAN)
    a, b = params.size - (channels + 1) * classes, params.size - classes
    w = params[a:b].reshape(channels, classes)
    dense_fwd(means, w, params[b:], logits)
    loss = cross_entropy(logits, data.ints, rows, work[r : r + batch], work[r + batch : s])
    if with_grad != 0:
        # logits = means w_out + b_out
        dense_bwd(means, logits, grad[a:b].reshape(channels, classes), grad[b:])
        dense_bwd_input(w, logits, dmeans)
        # means = mean over the positions of h
        d = d_maps[last[D_OWN]]
        zero(d[:above])
        dh = d[above : h.size].reshape(maps.shape)
        pool_bwd(maps, dmeans, dh, MEAN, net.scratch[: 2 * channels].reshape(2, channels))
        for k in range(units.shape[0] - 1, -1, -1):
            unit_bwd(params, grad, net, d_maps, k)
    return loss
