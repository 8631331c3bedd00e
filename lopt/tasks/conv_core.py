"""The kernel of convolutional classifiers: 3 x 3 convolutions, each followed by the activation,

    h_0 = images,  z_k = h_{k-1} * w_k + b_k,  h_k = f(z_k),  k = 1..L,

then h_L flattened or pooled, an MLP on that, and softmax cross-entropy.

Sizes of the convolutions are the rows (height, width, channels, stride) of `maps`, row 0 the image (stride 0).  Their
parameters lie in the order w_1 b_1 w_2 ..., w_k (3, 3, cin, cout), or w_1 w_2 ... without biases; those of the MLP
follow.  The activations of a batch lie in `work` as h_0 | z_1 h_1 | ... | z_L h_L, each (B, height, width, channels).
Source: task set specification 3.4 and 3.5.
"""

from lopt.lanes import entry_point, kernel, lane, lanes, sync
from lopt.ops.activations import activate_bwd, activate_fwd
from lopt.ops.conv import conv_bwd, conv_bwd_input, conv_fwd
from lopt.ops.images import IMAGE_SIZES, gather_images
from lopt.ops.losses import cross_entropy
from lopt.ops.mlp_stack import stack_bwd, stack_fwd
from lopt.ops.pool import POOLINGS, pool_bwd, pool_fwd
from lopt.task import EVALUATE_SIG

SIDE = 3  # of the kernels

HEADS = (*POOLINGS, "flatten")  # what becomes of the last map
FLATTEN = HEADS.index("flatten")

# Behind the image block of data.sizes; maps (L + 1, 4) and the widths of the MLP follow.
_ACTIVATION, _BIAS, _HEAD, _LAYERS, _CONV_PARAMS, _CONV_UNITS, _MLP, _MLP_UNITS, _BUFFERS, _MAPS = (
    IMAGE_SIZES + k for k in range(10)
)


@kernel
def conv_stack_fwd(params, maps, code, bias, batch, work, scratch):
    """Fills `work` behind h_0.  Scratch: conv_scratch of any layer."""
    h, p = 0, 0  # offsets of the layer's input in work and of its kernel in params
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
        h = z + m
        activate_fwd(work[z:h], work[h : h + m], code)


@kernel
def conv_stack_bwd(params, grad, maps, code, bias, batch, work, buffers, scratch):
    """grad OVERWRITTEN with the gradient of params.

    Shapes: params, grad of the stack alone; work as `conv_stack_fwd` left it; buffers (2, largest map), the first
    beginning with the gradient of h_L; scratch: conv_scratch of any layer.
    """
    layers = maps.shape[0] - 1
    h, p = work.size, params.size
    h -= batch * maps[layers, 0] * maps[layers, 1] * maps[layers, 2]
    for back in range(layers):
        k = layers - 1 - back
        height, width, cin = maps[k, 0], maps[k, 1], maps[k, 2]
        rows, columns, cout = maps[k + 1, 0], maps[k + 1, 1], maps[k + 1, 2]
        size, m = batch * height * width * cin, batch * rows * columns * cout
        n, nb = SIDE * SIDE * cin * cout, bias * cout
        p -= n + nb
        d = buffers[back % 2, :m]
        # h_{k+1} = f(z_{k+1})
        activate_bwd(work[h - m : h], work[h : h + m], d, code)
        h -= m + size  # h_k
        dz = d.reshape(batch, rows, columns, cout)
        # z_{k+1} = h_k * w + b
        conv_bwd(
            work[h : h + size].reshape(batch, height, width, cin),
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
                buffers[(back + 1) % 2, :size].reshape(batch, height, width, cin),
                maps[k + 1, 3],
                scratch,
            )


@kernel
def conv_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean softmax cross-entropy of a convolutional classifier and its gradient; see `lopt.task.Task`.

    data.sizes: image block, activation code, biases of the convolutions (0, 1), head, layers L, parameters and units
    of the stack, unit where the MLP begins, its units, units of the buffers, maps, widths of the MLP.
    Scratch: the stack's activations | the MLP's, from its inputs (h_L itself if flattened) to the logits | two
    buffers for gradients of maps, which serve the MLP too | losses (B,) | partials (32,) | scratch of a convolution.
    """
    sizes, batch = data.sizes, rows.size
    code, bias, head, layers = sizes[_ACTIVATION], sizes[_BIAS], sizes[_HEAD], sizes[_LAYERS]
    middle, end = sizes[_CONV_PARAMS], batch * sizes[_CONV_UNITS]
    maps = sizes[_MAPS : _MAPS + 4 * (layers + 1)].reshape(layers + 1, 4)
    widths = sizes[_MAPS + 4 * (layers + 1) :]
    positions, channels = maps[layers, 0] * maps[layers, 1], maps[layers, 2]
    m = batch * positions * channels
    begin = batch * sizes[_MLP]
    free = begin + batch * sizes[_MLP_UNITS]
    last = free + batch * sizes[_BUFFERS]
    stack, mlp, buffers = work[:end], work[begin:free], work[free:last]
    partials = last + batch
    scratch = work[partials + 32 :]
    final = work[end - m : end].reshape(batch, positions, channels)

    x = work[: batch * maps[0, 0] * maps[0, 1] * maps[0, 2]]
    gather_images(data, rows, stream, split, step, x.reshape(batch, x.size // batch))
    conv_stack_fwd(params[:middle], maps, code, bias, batch, stack, scratch)
    pooled = mlp[: batch * widths[0]]
    if head != FLATTEN:
        pool_fwd(final, pooled.reshape(batch, channels), head)
    stack_fwd(params[middle:], widths, code, batch, mlp)
    classes = widths[widths.size - 1]
    loss = cross_entropy(
        work[free - batch * classes : free].reshape(batch, classes),
        data.ints,
        rows,
        work[last:partials],
        work[partials : partials + 32],
    )
    if with_grad != 0:
        # logits = mlp(pooled)
        stack_bwd(params[middle:], grad[middle:], widths, code, batch, mlp, buffers, 1)
        d = buffers[:m]
        if head == FLATTEN:
            # pooled = h_L, which lies where its gradient is now: make it again
            for i in range(lane(), m, lanes()):
                d[i] = pooled[i]
            sync()
            activate_fwd(work[end - 2 * m : end - m], pooled, code)
        else:
            # pooled = pool(h_L)
            pool_bwd(
                final,
                pooled.reshape(batch, channels),
                d.reshape(batch, positions, channels),
                head,
                scratch[: 2 * channels].reshape(2, channels),
            )
        pair = buffers.reshape(2, buffers.size // 2)
        conv_stack_bwd(
            params[:middle], grad[:middle], maps, code, bias, batch, stack, pair, scratch
        )
    return loss


@entry_point(EVALUATE_SIG)
def conv_entry(params, grad, data, rows, stream, split, step, work, with_grad):
    return conv_evaluate(params, grad, data, rows, stream, split, step, work, with_grad)
