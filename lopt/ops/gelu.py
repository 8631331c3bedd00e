"""GELU in its tanh form, the activation of transformers and mixers (Hendrycks & Gimpel 2016, "Gaussian error linear
units", section 2), not the one with the error function:

    gelu(x) = x (1 + tanh u) / 2 = x / (1 + e^-2u)   with u = sqrt(2 / pi) (x + 0.044715 x^3)
"""

import math

import numpy as np

from lopt.lanes import kernel, lane, lanes, sync
from lopt.ops.elementary import sigmoid

SLOPE = 2.0 * math.sqrt(2.0 / math.pi)  # of 2u at 0
CUBIC = 0.044715 * SLOPE


@kernel
def gelu_fwd(x, y):
    """y = gelu(x), elementwise.  Shapes: x (n,), y (n,) OVERWRITTEN, distinct from x."""
    a, b = x.dtype.type(SLOPE), x.dtype.type(CUBIC)
    for i in range(lane(), x.size, lanes()):
        y[i] = x[i] * sigmoid(x[i] * (a + b * x[i] * x[i]))
    sync()


@kernel
def gelu_bwd(x, d):
    """d *= gelu'(x), elementwise.  Shapes: x (n,), d (n,) UPDATED.  NaN where x^2 overflows."""
    a, b, b3 = x.dtype.type(SLOPE), x.dtype.type(CUBIC), x.dtype.type(3.0 * CUBIC)
    one = x.dtype.type(1.0)
    for i in range(lane(), x.size, lanes()):
        # y = x s,  s = sigmoid(a x + b x^3)
        square = x[i] * x[i]
        s = sigmoid(x[i] * (a + b * square))
        d[i] *= s + x[i] * s * (one - s) * (a + b3 * square)
    sync()


def gelu_reference(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """gelu(x) and gelu'(x) in plain NumPy, from the tanh formula."""
    c = math.sqrt(2.0 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t**2) * c * (
        1.0 + 3.0 * 0.044715 * x**2
    )
