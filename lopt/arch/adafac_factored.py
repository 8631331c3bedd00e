"""The 16 inputs of `adafac_mlp` that differ between the parameters of a factored tensor: products that are never stored.

In the order of the first layer's weights, for the three decays k: g, w, m_k, v, m_k r, r, g f_k, m_k f_k, where
r = 1 / sqrt(v + 1e-6), and f_k is the factor of the parameter's row times that of its column.  To write 16 numbers a
parameter and to read them again takes longer than all that is done with them; r and f_k are all that is kept of a block.
"""

import math

from lopt.arch.adafac_features import N_DECAYS, spread_over_block
from lopt.arch.per_parameter import BLOCK
from lopt.lanes import kernel, lane, lanes, sync


@kernel
def multipliers(rows, count, v, moments, tensor, starts, start):
    """Rows of `count` parameters from `start`: 0-2 the factors f_k, 3: r."""
    factors, r = rows[:N_DECAYS], rows[N_DECAYS]
    spread_over_block(factors, moments.factors, tensor.own, tensor, starts, start, count, True)
    u, one, eps = v[start : start + count], v.dtype.type(1.0), v.dtype.type(1e-6)
    for i in range(lane(), count, lanes()):
        r[i] = one / math.sqrt(u[i] + eps)
    sync()


@kernel
def add_input_squares(sums, rows, count, params, grad, state, start):
    """Add the squares of the inputs of `count` parameters from `start` to sums; rows: their multipliers.

    Shape: sums (16 BLOCK,), for each input one for every place in a block; flat, so that the distances between what a
    loop writes are known when it is compiled, and it vectorises.
    """
    n = params.size
    w, g = params[start : start + count], grad[start : start + count]
    v = state[N_DECAYS * n + start : N_DECAYS * n + start + count]
    r = rows[N_DECAYS]
    for i in range(lane(), count, lanes()):
        sums[i] += g[i] * g[i]
        sums[BLOCK + i] += w[i] * w[i]
        sums[5 * BLOCK + i] += v[i] * v[i]
        sums[9 * BLOCK + i] += r[i] * r[i]
    for k in range(N_DECAYS):
        m, f = state[k * n + start : k * n + start + count], rows[k]
        own = sums[k * BLOCK :]
        for i in range(lane(), count, lanes()):
            square, factor = m[i] * m[i], f[i] * f[i]
            own[2 * BLOCK + i] += square
            own[6 * BLOCK + i] += square * (r[i] * r[i])
            own[10 * BLOCK + i] += (g[i] * g[i]) * factor
            own[13 * BLOCK + i] += square * factor
    sync()


@kernel
def first_layer_of_inputs(out, rows, count, weights, params, grad, state, start):
    """out <- relu(out + weights^T inputs) for `count` parameters from `start`; rows: their multipliers.

    Shapes: out (H, BLOCK) biases, then the layer; weights (16, H), the normalisation folded in.
    """
    n, zero = params.size, out.dtype.type(0.0)
    w, g = params[start : start + count], grad[start : start + count]
    m0, m1 = state[start : start + count], state[n + start : n + start + count]
    m2 = state[2 * n + start : 2 * n + start + count]
    v = state[N_DECAYS * n + start : N_DECAYS * n + start + count]
    f0, f1, f2, r = rows[0], rows[1], rows[2], rows[N_DECAYS]
    for h in range(out.shape[0]):
        own, of = out[h], weights[:, h]
        of_g, of_w, of_m0, of_m1, of_m2, of_v = of[0], of[1], of[2], of[3], of[4], of[5]
        of_m0r, of_m1r, of_m2r, of_r = of[6], of[7], of[8], of[9]
        of_gf0, of_gf1, of_gf2 = of[10], of[11], of[12]
        of_m0f, of_m1f, of_m2f = of[13], of[14], of[15]
        for i in range(lane(), count, lanes()):
            z = own[i] + (of_w * w[i] + (of_v * v[i] + of_r * r[i]))
            z += g[i] * (of_g + of_gf0 * f0[i] + of_gf1 * f1[i] + of_gf2 * f2[i])
            z += m0[i] * (of_m0 + of_m0r * r[i] + of_m0f * f0[i])
            z += m1[i] * (of_m1 + of_m1r * r[i] + of_m1f * f1[i])
            z += m2[i] * (of_m2 + of_m2r * r[i] + of_m2f * f2[i])
            own[i] = z if z > zero else zero
    sync()
