"""The activations of TaskSet as forward and backward pairs (task set specification 1.2).

A code picks the function once per call, so that each loop is branch-free and vectorises.
"""

import numpy as np

from lopt.lanes import Returned, kernel, lane, lanes, sync
from lopt.ops.elementary import cos, exp, sigmoid, sin, tanh

ACTIVATIONS = (
    "linear", "relu", "tanh", "cos", "elu", "sigmoid", "swish",
    "leaky_relu1", "leaky_relu2", "leaky_relu4",
)  # fmt: skip
LINEAR, RELU, TANH, COS, ELU, SIGMOID, SWISH, LEAKY1, LEAKY2, LEAKY4 = range(len(ACTIVATIONS))
_OF_ARGUMENT = (COS, SWISH)  # whose derivative is no function of the result


@kernel
def leak(code):
    """Slope of a (leaky) ReLU at and below 0."""
    if code == LEAKY1:
        return 0.1
    if code == LEAKY2:
        return 0.2
    if code == LEAKY4:
        return 0.4
    return 0.0


@kernel
def activate_fwd(x, y, code):
    """y = f(x), elementwise.  Shapes: x (n,), y (n,) OVERWRITTEN, distinct from x."""
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


def held(activation: str) -> int:
    """Numbers per unit that a tape holds of y = f(x): y, which goes on, and x where f' is not a function of y."""
    return 2 if ACTIVATIONS.index(activation) in _OF_ARGUMENT else 1


@kernel
def reads_argument(code):
    """Whether `activate_bwd` reads x; else it reads y."""
    return code in _OF_ARGUMENT


@kernel
def spare(x, y, code):
    """The one of x and y = f(x) that `activate_bwd` does not read: room for the gradient of y.  Shapes: (n,) all."""
    return Returned(y if reads_argument(code) else x)


@kernel
def activate_bwd(x, y, d, code):
    """d *= f'(x), elementwise: turns the gradient of y into that of x, in place.

    Shapes: x and y (n,) as `activate_fwd` left them, d (n,) UPDATED; it may lie in `spare(x, y, code)`.  In place by
    design: two names for one array would make LLVM's overlap check send every call to the scalar loop.
    """
    zero, one = x.dtype.type(0.0), x.dtype.type(1.0)
    n = x.size
    if code == TANH:
        # y = tanh(x)
        for i in range(lane(), n, lanes()):
            d[i] *= one - y[i] * y[i]
    elif code == COS:
        # y = cos(x)
        for i in range(lane(), n, lanes()):
            d[i] *= -sin(x[i])
    elif code == ELU:
        # y = x if x >= 0 else exp(x) - 1
        for i in range(lane(), n, lanes()):
            d[i] *= one if y[i] >= zero else y[i] + one
    elif code == SIGMOID:
        # y = 1 / (1 + exp(-x))
        for i in range(lane(), n, lanes()):
            d[i] *= y[i] * (one - y[i])
    elif code == SWISH:
        # y = x s, s = 1 / (1 + exp(-x))
        for i in range(lane(), n, lanes()):
            s = sigmoid(x[i])
            d[i] *= s + x[i] * s * (one - s)
    elif code != LINEAR:
        # y = x if x > 0 else slope x
        slope = x.dtype.type(leak(code))
        for i in range(lane(), n, lanes()):
            d[i] *= one if y[i] > zero else slope
    sync()


def activate_reference(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f(x) and f'(x) in plain NumPy, the table of the specification: the oracle of the kernels."""
    s = np.exp(-np.logaddexp(0.0, -x))  # 1 / (1 + e^-x) without overflow
    below = np.minimum(x, 0.0)
    slope = leak(ACTIVATIONS.index(name))
    return {
        "linear": (x, np.ones_like(x)),
        "tanh": (np.tanh(x), 1.0 - np.tanh(x) ** 2),
        "cos": (np.cos(x), -np.sin(x)),
        "elu": (np.where(x >= 0.0, x, np.expm1(below)), np.exp(below)),
        "sigmoid": (s, s * (1.0 - s)),
        "swish": (x * s, s + x * s * (1.0 - s)),
    }.get(name, (np.where(x > 0.0, x, slope * x), np.where(x > 0.0, 1.0, slope)))
