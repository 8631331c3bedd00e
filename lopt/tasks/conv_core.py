"""The kernel of convolutional classifiers: 3 x 3 convolutions, each followed by the activation,

    h_0 = images,  z_k = h_{k-1} * w_k + b_k,  h_k = f(z_k),  k = 1..L,

or with batch norm h_k = f(y_k), y_k = norm(z_k) + beta_k; then h_L flattened or pooled, an MLP on that, and softmax
cross-entropy.

Sizes of the convolutions are the rows (height, width, channels, stride) of `maps`, row 0 the image (stride 0).  Their
parameters lie in the order w_1 b_1 beta_1 w_2 ..., w_k (3, 3, cin, cout), biases and betas only where asked for; those
of the MLP follow.  The activations of a batch lie in `work` as h_0 | z_1 h_1 | ... | z_L h_L, each (B, height, width,
channels); with batch norm as h_0 | xhat_1 y_1 h_1 | ..., xhat what is left of z when mean and deviation are gone.
Source: task set specification 3.4 and 3.5.
"""

from lopt.lanes import kernel, single_use
from lopt.ops.activations import activate_bwd, activate_fwd, spare
from lopt.ops.conv import conv_bwd, conv_bwd_input, conv_fwd
from lopt.ops.images import IMAGE_SIZES, gather_images
from lopt.ops.losses import cross_entropy
from lopt.ops.mlp_stack import stack_bwd, stack_fwd
from lopt.ops.norm import batch_norm_bwd, batch_norm_fwd, norm_work
from lopt.ops.pool import POOLINGS, pool_bwd, pool_fwd

SIDE = 3  # of the kernels
BATCH_EPS = 1e-3  # added to the variance by batch norm

HEADS = (*POOLINGS, "flatten")  # what becomes of the last map
FLATTEN = HEADS.index("flatten")

# Behind the image block of data.sizes; maps (L + 1, 4) and the widths of the MLP follow.
_ACTIVATION, _BIAS, _NORM, _HEAD, _LAYERS, _CONV_PARAMS, _CONV_UNITS = (
    IMAGE_SIZES + k for k in range(7)
)
_MLP, _MLP_UNITS, _NORM_SIZE, _MAPS = (IMAGE_SIZES + k for k in range(7, 11))


@kernel
def norm_size(maps, norm):
    """Numbers of scratch for batch norm: deviations of all channels, and sums over the widest map."""
    total, widest = 0, 0
    for k in range(1, maps.shape[0]):
        total += maps[k, 2]
        widest = max(widest, maps[k, 2])
    return norm * (total + norm_work(widest))


@single_use
def conv_stack_fwd(params, maps, code, bias, norm, batch, work, room, scratch):
    """Fills `work` behind h_0.

    room (norm_size,) begins with the reciprocal deviations of all channels and ends with sums of batch norm; scratch:
    conv_scratch of any layer.
    """
    h, p, c = (
        0,
        0,
        0,
    )  # offsets of the layer's input in work, its kernel in params, its channels in room
    for k in range(maps.shape[0] - 1):
        height, width, cin = maps[k, 0], maps[k, 1], maps[k, 2]
        rows, columns, cout = maps[k + 1, 0], maps[k + 1, 1], maps[k + 1, 2]
        z, m = h + batch * height * width * cin, batch * rows * columns * cout
        n, nb = SIDE * SIDE * cin * cout, bias * cout
        conv_fwd(
            work[h:z].reshape(batch, height, width, cin),
            params[p : p + n].reshape(SIDE, SIDE, cin, cout),
            params[p + n : p + n + nb],
            work[z : z + m].reshape(batch, rows, columns, cout),
            maps[k + 1, 3],
            scratch,
        )
        p += n + nb
        if norm != 0:
            sums, shape = room[room.size - norm_work(cout) :], (batch * rows * columns, cout)
            xhat, y = work[z : z + m].reshape(shape), work[z + m : z + 2 * m].reshape(shape)
            batch_norm_fwd(
                xhat, shape[0], params[:0], params[p : p + cout], BATCH_EPS, xhat, room[c : c + cout],
                y, sums,
            )  # fmt: skip
            p += cout
            c += cout
            z += m
        h = z + m
        activate_fwd(work[z:h], work[h : h + m], code)


@single_use
def conv_stack_bwd(params, grad, maps, code, bias, norm, batch, work, room, scratch):
    """grad OVERWRITTEN with the gradient of params.

    Shapes: params, grad of the stack alone; room as `conv_stack_fwd` left it; work too, save that the gradient of h_L
    lies in `last_spare`; OVERWRITTEN behind h_0; scratch: conv_scratch of any layer.
    """
    layers = maps.shape[0] - 1
    h, p, c = work.size, params.size, 0
    for k in range(layers):
        c += maps[k + 1, 2]
    h -= batch * maps[layers, 0] * maps[layers, 1] * maps[layers, 2]
    for back in range(layers):
        k = layers - 1 - back
        height, width, cin = maps[k, 0], maps[k, 1], maps[k, 2]
        rows, columns, cout = maps[k + 1, 0], maps[k + 1, 1], maps[k + 1, 2]
        size, m = batch * height * width * cin, batch * rows * columns * cout
        n, nb = SIDE * SIDE * cin * cout, bias * cout
        p -= n + nb + norm * cout
        z, after = work[h - m : h], work[h : h + m]
        d = spare(z, after, code).array
        # h_{k+1} = f(z_{k+1})
        activate_bwd(z, after, d, code)
        h -= m
        if norm != 0:
            # y = norm(z) + beta
            sums, shape = room[room.size - norm_work(cout) :], (batch * rows * columns, cout)
            xhat, dbeta = work[h - m : h].reshape(shape), grad[p + n + nb : p + n + nb + cout]
            c -= cout
            batch_norm_bwd(
                xhat, shape[0], room[c : c + cout], params[:0], d.reshape(shape), grad[:0], dbeta, sums
            )  # fmt: skip
            h -= m
        h -= size  # h_k
        x, dz = work[h : h + size], d.reshape(batch, rows, columns, cout)
        # z_{k+1} = h_k * w + b
        conv_bwd(
            x.reshape(batch, height, width, cin),
            dz,
            grad[p : p + n].reshape(SIDE, SIDE, cin, cout),
            grad[p + n : p + n + nb],
            maps[k + 1, 3],
            scratch,
        )
        if k > 0:
            conv_bwd_input(
                params[p : p + n].reshape(SIDE, SIDE, cin, cout),
                dz,
                spare(work[h - size : h], x, code).array.reshape(batch, height, width, cin),
                maps[k + 1, 3],
                scratch,
            )


@kernel
def last_spare(maps, code, batch, work):
    """Room for the gradient of h_L, the last thing in `work`."""
    last = maps.shape[0] - 1
    m, end = batch * maps[last, 0] * maps[last, 1] * maps[last, 2], work.size
    return spare(work[end - 2 * m : end - m], work[end - m : end], code)


@kernel
def conv_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean softmax cross-entropy of a convolutional classifier and its gradient; see `lopt.task.Task`.

    data.sizes: image block, activation code, biases of the convolutions (0, 1), batch norm (0, 1), head, layers L,
    parameters and units of the stack, unit where the MLP begins, its units, size of the norms' scratch, maps, widths of
    the MLP.
    Scratch: the stack's activations | the MLP's, from its inputs (h_L itself if flattened) to the logits |
    losses (B,) | partials (32,) | scratch of the norms | scratch of a convolution.
    """
    sizes, batch = data.sizes, rows.size
    code, bias, norm = sizes[_ACTIVATION], sizes[_BIAS], sizes[_NORM]
    head, layers = sizes[_HEAD], sizes[_LAYERS]
    middle, end = sizes[_CONV_PARAMS], batch * sizes[_CONV_UNITS]
    maps = sizes[_MAPS : _MAPS + 4 * (layers + 1)].reshape(layers + 1, 4)
    widths = sizes[_MAPS + 4 * (layers + 1) :]
    positions, channels = maps[layers, 0] * maps[layers, 1], maps[layers, 2]
    m = batch * positions * channels
    begin = batch * sizes[_MLP]
    free = begin + batch * sizes[_MLP_UNITS]
    stack, mlp = work[:end], work[begin:free]
    partials = free + batch
    behind = partials + 32 + sizes[_NORM_SIZE]
    room, scratch = work[partials + 32 : behind], work[behind:]
    final = work[end - m : end].reshape(batch, positions, channels)

    x = work[: batch * maps[0, 0] * maps[0, 1] * maps[0, 2]]
    gather_images(data, rows, stream, split, step, x.reshape(batch, x.size // batch))
    conv_stack_fwd(params[:middle], maps, code, bias, norm, batch, stack, room, scratch)
    pooled = mlp[: batch * widths[0]]
    if head != FLATTEN:
        pool_fwd(final, pooled.reshape(batch, channels), head)
    stack_fwd(params[middle:], widths, code, batch, mlp)
    classes = widths[widths.size - 1]
    loss = cross_entropy(
        work[free - batch * classes : free].reshape(batch, classes),
        data.ints,
        rows,
        work[free:partials],
        work[partials : partials + 32],
    )
    if with_grad != 0:
        # logits = mlp(pooled)
        d = last_spare(maps, code, batch, stack).array
        dx = d if head == FLATTEN else pooled
        stack_bwd(params[middle:], grad[middle:], widths, code, batch, mlp, dx)
        if head != FLATTEN:
            # pooled = pool(h_L)
            pool_bwd(
                final,
                pooled.reshape(batch, channels),
                d.reshape(batch, positions, channels),
                head,
                scratch[: 2 * channels].reshape(2, channels),
            )
        conv_stack_bwd(
            params[:middle], grad[:middle], maps, code, bias, norm, batch, stack, room, scratch
        )
    return loss
