"""Dynamic elementwise gradient clip of Metz et al. 2020 (arXiv 2009.11243; methods 1.4)."""

import math

import numpy as np

from lopt.arch.per_parameter import clear_rows
from lopt.lanes import add_row_squares, fold_partials, kernel, lane, lanes, sync
from lopt.optimizer import TABLE_COLUMNS


@kernel
def clip_gradient(grad, clip_state, table, decay, mult, partials):
    """Clip to +-mult q / (1 - decay^t) with the old state (t, q), then update it with the clipped gradient.

    Math: q <- decay q + (1 - decay) sqrt(1e-8 + mean over tensors of mean(g^2)); t <- t + 1.  partials: 32 of scratch.
    """
    t, q = np.float64(clip_state[0]), np.float64(clip_state[1])
    bound = grad.dtype.type(mult * q / (1.0 - decay**t))
    n_tensors, rows = table[0], partials.reshape(1, partials.size)
    mean = 0.0
    for k in range(n_tensors):
        offset, size = table[1 + TABLE_COLUMNS * k], table[2 + TABLE_COLUMNS * k]
        g = grad[offset : offset + size]
        for i in range(lane(), size, lanes()):
            g[i] = min(max(g[i], -bound), bound)
        clear_rows(rows)  # and wait for all of g
        add_row_squares(g.reshape(1, size), size, rows)
        mean += np.float64(fold_partials(partials)) / max(size, 1)
    if lane() == 0:
        clip_state[0] = grad.dtype.type(t + 1.0)
        clip_state[1] = grad.dtype.type(
            decay * q + (1.0 - decay) * math.sqrt(1e-8 + mean / n_tensors)
        )
    sync()
