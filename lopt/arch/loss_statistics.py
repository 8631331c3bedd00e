"""Running statistics of a loss, and the bounded features a learned optimizer reads from them.

Source: Metz et al. 2020 (arXiv 2009.11243), as in the public JAX re-implementation; methods 1.3.
An accumulator is three numbers in the state: mean, variance, count.
"""

import math

import numpy as np

from lopt.lanes import kernel, lane, sync

TRAIN_DECAY, VALID_DECAY = 0.9, 0.95
SIZE = 3


@kernel
def update_statistics(acc, loss, decay):
    """mean <- d mean + (1-d) L; var <- d var + (1-d) (mean_new - L)^2; n <- n + 1."""
    mean = decay * np.float64(acc[0]) + (1.0 - decay) * loss
    var = decay * np.float64(acc[1]) + (1.0 - decay) * (mean - loss) ** 2
    count = acc[2] + acc.dtype.type(1.0)
    sync()
    if lane() == 0:
        acc[0] = acc.dtype.type(mean)
        acc[1] = acc.dtype.type(var)
        acc[2] = count
    sync()


@kernel
def correction(acc, decay):
    """c = 1 / (1 - d^n + 1e-8)."""
    return 1.0 / (1.0 - math.exp(np.float64(acc[2]) * math.log(decay)) + 1e-8)


@kernel
def standardised(value, train):
    """clip((value - c mean) / sqrt(c var + 1e-8), -5, 5) with the training statistics."""
    c = correction(train, TRAIN_DECAY)
    z = (value - c * np.float64(train[0])) / math.sqrt(c * np.float64(train[1]) + 1e-8)
    return min(max(z, -5.0), 5.0)


@kernel
def valid_feature(valid, train, artefact):
    """The corrected validation mean in units of the training statistics: positive when overfitting.

    Before the first validation loss it is 0, or what the public code gives if `artefact` is set (methods 1.3).
    """
    if valid[2] == 0 and artefact == 0:
        return 0.0
    return standardised(correction(valid, VALID_DECAY) * np.float64(valid[0]), train)
