"""The kernel of the `losg` family: one objective chosen by its code, then its wrapper."""

import math

from lopt import rng
from lopt.lanes import kernel, lane, lanes, sync
from lopt.task import TaskData
from lopt.tasks.functions2d import evaluate_function2d
from lopt.tasks.losg_classifiers import classifier_loss
from lopt.tasks.losg_kernels import (
    EPS,
    dependency_chain_loss,
    min_max_well_loss,
    norm_loss,
    outward_snake_loss,
    projection_quadratic_loss,
    quadratic_loss,
    sum_of_quadratics_loss,
)

# The options each kind reads, in the order of the kernel's codes.
KINDS = {
    "bowl": ("condition", "angle"),
    "optimization_test_problems": ("function",),
    "quadratic": ("dims",),
    "norm": ("dims", "power"),
    "dependency_chain": ("dims",),
    "min_max_well": ("dims",),
    "sum_of_quadratics": ("dims", "samples", "batch_size"),
    "projection_quadratic": ("dims", "samples", "batch_size"),
    "outward_snake": ("dims", "samples", "batch_size"),
    "sparse_softmax_regression": ("features", "samples", "batch_size"),
    "fully_connected": ("features", "hidden", "activation", "samples", "batch_size"),
}
BOWL, TEST, QUADRATIC, NORM, CHAIN, WELL, SUM, PROJECTION, SNAKE, SPARSE_SOFTMAX, CONNECTED = range(
    len(KINDS)
)
WRAPPERS = {"none": (), "rescale": ("scale",), "log": ("upstream",), "sparse": ("zero_prob",)}
NONE, RESCALE, LOG, SPARSE = range(len(WRAPPERS))
HEAD = 3  # entries of TaskData.sizes and .hyper in front of the objective's own


@kernel
def log_of(f, upstream):
    """(L, dL/df) of the log wrapper; see `Losg`."""
    if upstream:
        value = math.log(f + EPS) - math.log(EPS) if f + EPS > 0.0 else math.nan
        return value, 1.0 / (f + EPS)
    # L = sign(f) log(1 + |f| / eps): dL = 1 / (|f| + eps)
    return math.copysign(math.log1p(abs(f) / EPS), f), 1.0 / (abs(f) + EPS)


@kernel
def drop_entries(grad, probability, stream, purpose, step, work):
    """Set each entry of grad to 0 with that probability; work (N,) scratch.

    Its uniforms lie behind the N normals of the gradient noise, in blocks of their own.
    """
    n = grad.size
    mask = work[:n]
    rng.uniforms_into(mask, 4 * ((n + 3) // 4), stream, purpose, step)
    sync()
    for i in range(lane(), n, lanes()):
        if mask[i] < probability:
            grad[i] = grad.dtype.type(0.0)
    sync()


@kernel
def losg_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Loss and gradient, see `Task`.

    data.sizes: kind, wrapper, upstream, then the objective's own.
    data.hyper: gradient noise, scale, probability of a dropped entry, then the objective's own.
    work: x (N,) if the wrapper is rescale, then the objective's; at least N elements if sparse.
    """
    kind, wrapper, upstream = data.sizes[0], data.sizes[1], data.sizes[2]
    noise, scale = data.hyper[0], data.hyper[1]
    inner = TaskData(data.floats, data.ints, data.sizes[HEAD:], data.hyper[HEAD:])
    n, purpose, cast = params.size, rng.NOISE + split, params.dtype.type
    x, scratch = params, work
    if wrapper == RESCALE:
        x, scratch = work[:n], work[n:]
        # x = params / scale
        for i in range(lane(), n, lanes()):
            x[i] = params[i] / scale
        sync()
    # the dispatch stands here, not in a function of its own, which would be compiled twice over
    if kind == QUADRATIC:
        f = quadratic_loss(x, grad, inner, scratch, with_grad)
    elif kind == NORM:
        f = norm_loss(x, grad, inner, scratch, with_grad)
    elif kind == CHAIN:
        f = dependency_chain_loss(x, grad, scratch, with_grad)
    elif kind == WELL:
        f = min_max_well_loss(x, grad, scratch, with_grad)
    elif kind == SUM:
        f = sum_of_quadratics_loss(x, grad, inner, rows, scratch, with_grad)
    elif kind == PROJECTION:
        f = projection_quadratic_loss(x, grad, inner, rows, scratch, with_grad)
    elif kind == SNAKE:
        f = outward_snake_loss(x, grad, inner, rows, scratch, with_grad)
    elif kind in (SPARSE_SOFTMAX, CONNECTED):
        f = classifier_loss(x, grad, inner, rows, scratch, with_grad)
    else:
        f = evaluate_function2d(x, grad, inner, rows, stream, split, step, scratch, with_grad)
    value, slope = f, 1.0
    if wrapper == LOG:
        value, slope = log_of(f, upstream)
    if with_grad == 0:
        return value
    if noise > 0:
        rng.add_normals(grad, noise, 0, stream, purpose, step)
        sync()
    if wrapper == RESCALE:
        for i in range(lane(), n, lanes()):
            grad[i] /= scale
    elif wrapper == LOG:
        factor = cast(slope)
        for i in range(lane(), n, lanes()):
            grad[i] *= factor
    elif wrapper == SPARSE:
        drop_entries(grad, data.hyper[2], stream, purpose, step, work)
    sync()
    return value
