"""What the anchored optimizer looks at: moving averages and thirteen inputs per parameter, none with a scale of its own.

Each input is divided by its RMS over the tensor, so gradients, parameters and losses may have any unit.
"""

import math

import numpy as np

from lopt.arch.per_parameter import TINY
from lopt.lanes import PARTIALS, kernel, lane, lanes, sync

M_DECAYS = (0.9, 0.99, 0.999)
V_DECAYS = (0.999, 0.95)
PLANES = len(M_DECAYS) + len(V_DECAYS)
EPS = 1e-16  # beside sqrt(v): Adam's epsilon, far below any gradient that matters
FLOOR = 0.01  # of the RMS of sqrt(v), added before it is inverted: a parameter without gradient stays finite
# rows of the inputs
G, CLIPPED, W, M, ROOT, NORMALISED, INVERSE, FAST_G, FAST_M, FEATURES = (
    0,
    1,
    2,
    3,
    6,
    7,
    10,
    11,
    12,
    13,
)


@kernel
def update_averages(grad, m, v):
    """m_k <- d m_k + (1 - d) g; v_k <- d v_k + (1 - d) g^2, planes of N, not bias corrected."""
    n = grad.size
    cast = grad.dtype.type
    tiny, zero, one = cast(TINY), cast(0.0), cast(1.0)
    for k in range(len(M_DECAYS)):
        mk, d = m[k * n : k * n + n], cast(M_DECAYS[k])
        a = one - d
        for i in range(lane(), n, lanes()):
            new = d * mk[i] + a * grad[i]
            mk[i] = new if abs(new) > tiny else zero
    for k in range(len(V_DECAYS)):
        vk, d = v[k * n : k * n + n], cast(V_DECAYS[k])
        a = one - d
        for i in range(lane(), n, lanes()):
            new = d * vk[i] + a * (grad[i] * grad[i])
            vk[i] = new if new > tiny else zero
    sync()


@kernel
def parameter_rows(rows, params, grad, m, v, rms_g, rms_v, eps, offset):
    """Inputs of `rows.shape[1]` parameters from `offset`, before division by their RMS; rows (13, count).

    Order: g, g / (|g| + rms g), w, m (3 decays), sqrt v, m / sqrt v (3), 1 / (sqrt v + FLOOR rms), g / sqrt u, m_1 / sqrt u;
    u is the faster second moment.
    """
    n, count = params.size, rows.shape[1]
    cast = params.dtype.type
    one, typical, floor, small = cast(1.0), cast(max(rms_g, TINY)), cast(FLOOR * rms_v), cast(eps)
    end = offset + count
    g, w, v0, v1 = grad[offset:end], params[offset:end], v[offset:end], v[n + offset : n + end]
    m0, m1, m2 = m[offset:end], m[n + offset : n + end], m[2 * n + offset : 2 * n + end]
    for i in range(lane(), count, lanes()):
        root = math.sqrt(v0[i]) + small
        r, fast = one / root, one / (math.sqrt(v1[i]) + small)
        rows[0, i] = g[i]
        rows[1, i] = g[i] / (abs(g[i]) + typical)
        rows[2, i] = w[i]
        rows[3, i] = m0[i]
        rows[4, i] = m1[i]
        rows[5, i] = m2[i]
        rows[6, i] = root
        rows[7, i] = m0[i] * r
        rows[8, i] = m1[i] * r
        rows[9, i] = m2[i] * r
        rows[10, i] = one / (root + floor)
        rows[11, i] = g[i] * fast
        rows[12, i] = m0[i] * fast
    sync()


@kernel
def add_products(a, b, partials):
    """Add a[i] b[i] to partial i % 32 of partials (32,).  No barrier."""
    n = a.size
    whole = n - n % PARTIALS
    for base in range(0, whole, PARTIALS):
        for k in range(lane(), PARTIALS, lanes()):
            partials[k] += a[base + k] * b[base + k]
    for k in range(lane(), n - whole, lanes()):
        partials[k] += a[whole + k] * b[whole + k]


@kernel
def inverse_root(mean_square):
    """1 / sqrt of a mean square; 0 where it is 0."""
    return 1.0 / math.sqrt(mean_square) if mean_square > 0.0 else 0.0


@kernel
def bounded_log(x, low, high):
    """log x between two bounds; the lower one where x is 0."""
    return min(max(math.log(x), low), high) if x > 0.0 else np.float64(low)
