"""The activations of TaskSet (task set specification 1.2) as forward and backward pairs.

A code picks the function once per call, so that each loop is branch-free and vectorises.  The derivative is written in
terms of the pre-activation x and the activation y, whichever is cheaper.
"""

from lopt.lanes import kernel, lane, lanes, sync
from lopt.ops.elementary import cos, exp, sigmoid, sin, tanh

ACTIVATIONS = (
    "linear", "relu", "tanh", "cos", "elu", "sigmoid", "swish", "leaky_relu1", "leaky_relu2", "leaky_relu4",
)  # fmt: skip
LINEAR, RELU, TANH, COS, ELU, SIGMOID, SWISH, LEAKY1, LEAKY2, LEAKY4 = range(len(ACTIVATIONS))


@kernel
def leak(code):
    """Slope of a (leaky) ReLU below 0."""
    if code == LEAKY1:
        return 0.1
    if code == LEAKY2:
        return 0.2
    if code == LEAKY4:
        return 0.4
    return 0.0


@kernel
def activate_fwd(x, y, code):
    """y = f(x), elementwise; x and y (n,) may be the same array only for codes whose derivative needs y alone."""
    zero, one = x.dtype.type(0.0), x.dtype.type(1.0)
    n = x.size
    if code == TANH:
        for i in range(lane(), n, lanes()):
            y[i] = tanh(x[i])
    elif code == COS:
        for i in range(lane(), n, lanes()):
            y[i] = cos(x[i])
    elif code == ELU:
        for i in range(lane(), n, lanes()):
            y[i] = x[i] if x[i] >= zero else exp(x[i]) - one
    elif code == SIGMOID:
        for i in range(lane(), n, lanes()):
            y[i] = sigmoid(x[i])
    elif code == SWISH:
        for i in range(lane(), n, lanes()):
            y[i] = x[i] * sigmoid(x[i])
    elif code == LINEAR:
        for i in range(lane(), n, lanes()):
            y[i] = x[i]
    else:
        slope = x.dtype.type(leak(code))
        for i in range(lane(), n, lanes()):
            y[i] = x[i] if x[i] > zero else slope * x[i]
    sync()


@kernel
def activate_bwd(x, y, dy, dx, code):
    """dx = dy * f'(x), elementwise; dx OVERWRITTEN and may be dy."""
    zero, one = x.dtype.type(0.0), x.dtype.type(1.0)
    n = x.size
    if code == TANH:
        # y = tanh(x)
        for i in range(lane(), n, lanes()):
            dx[i] = dy[i] * (one - y[i] * y[i])
    elif code == COS:
        # y = cos(x)
        for i in range(lane(), n, lanes()):
            dx[i] = -dy[i] * sin(x[i])
    elif code == ELU:
        # y = x if x >= 0 else exp(x) - 1
        for i in range(lane(), n, lanes()):
            dx[i] = dy[i] if x[i] >= zero else dy[i] * (y[i] + one)
    elif code == SIGMOID:
        # y = 1 / (1 + exp(-x))
        for i in range(lane(), n, lanes()):
            dx[i] = dy[i] * (y[i] * (one - y[i]))
    elif code == SWISH:
        # y = x s(x)
        for i in range(lane(), n, lanes()):
            s = sigmoid(x[i])
            dx[i] = dy[i] * (s + x[i] * s * (one - s))
    elif code == LINEAR:
        # y = x
        for i in range(lane(), n, lanes()):
            dx[i] = dy[i]
    else:
        # y = x if x > 0 else slope x
        slope = x.dtype.type(leak(code))
        for i in range(lane(), n, lanes()):
            dx[i] = dy[i] if x[i] > zero else slope * dy[i]
    sync()
