"""Pooling of a sequence of outputs over time: the last, their mean, their maximum."""

from lopt.lanes import kernel, lane, lanes, sync

POOLINGS = ("last", "avg", "max")
LAST, AVERAGE, MAXIMUM = range(3)


@kernel
def pool_fwd(outputs, pooled, code):
    """pooled = pooling of the rows of outputs.  Shapes: outputs (T, n), pooled (n,) OVERWRITTEN."""
    steps, n = outputs.shape
    last = outputs[steps - 1]
    for i in range(lane(), n, lanes()):
        pooled[i] = last[i]
    for t in range(steps - 1):
        row = outputs[t]
        if code == AVERAGE:
            for i in range(lane(), n, lanes()):
                pooled[i] += row[i]
        elif code == MAXIMUM:
            for i in range(lane(), n, lanes()):
                pooled[i] = row[i] if row[i] > pooled[i] or row[i] != row[i] else pooled[i]
    if code == AVERAGE:
        share = pooled.dtype.type(1.0) / pooled.dtype.type(steps)
        for i in range(lane(), n, lanes()):
            pooled[i] *= share
    sync()


@kernel
def pool_bwd(outputs, pooled, dpooled, doutputs, code):
    """doutputs (T, n) OVERWRITTEN from dpooled (n,), which is OVERWRITTEN too.

    Equal largest outputs share the gradient equally.
    """
    steps, n = outputs.shape
    zero, one = dpooled.dtype.type(0.0), dpooled.dtype.type(1.0)
    if code == MAXIMUM:
        # pooled = max over time
        ties = doutputs[0]  # a free row until the gradients themselves are written
        for i in range(lane(), n, lanes()):
            ties[i] = zero
        for t in range(steps):
            row = outputs[t]
            for i in range(lane(), n, lanes()):
                ties[i] += one if row[i] == pooled[i] else zero
        for i in range(lane(), n, lanes()):
            dpooled[i] /= ties[i]
        for t in range(steps):
            row, d = outputs[t], doutputs[t]
            for i in range(lane(), n, lanes()):
                d[i] = dpooled[i] if row[i] == pooled[i] else zero
    else:
        # pooled = mean over time, or the last
        for t in range(steps):
            share = one / dpooled.dtype.type(steps) if code == AVERAGE else one
            d = doutputs[t]
            if code == LAST and t < steps - 1:
                share = zero
            for i in range(lane(), n, lanes()):
                d[i] = dpooled[i] * share
    sync()
