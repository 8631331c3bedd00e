"""Losses with known gradients, and how far a measured mean or variance is from its closed form."""

import math

import numpy as np

from lopt.es import strategy
from lopt.es.gradient_strategy import GradientStrategy

SIGMAS, WRONG = 5.0, 10.0
N = 1500  # steps of a measurement
D, P, SIGMA = 6, 4, 0.3
CENTRE = np.float32([0.5, -0.2, 0.1, 0.0, -0.4, 0.3])
G = np.array([1.0, -2.0, 0.5, 3.0, 0.0, -1.0])
CURVED = np.random.default_rng(5).normal(size=(D, D))
H = CURVED @ CURVED.T / D + np.diag([3.0, -1.0, 0.0, 1.0, 2.0, -2.0])
AT = H @ CENTRE.astype(np.float64) + G  # gradient of `quadratic` at CENTRE


def linear(x):
    return 0.7 + x @ G


def quadratic(x):
    return 0.7 + x @ G + np.einsum("ni,ij,nj->n", x, H, x) / 2


def off(samples: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Distance of the samples' mean from the expected one, in standard errors, per coordinate."""
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    return np.abs(samples.mean(axis=0) - mean) / error


def off_variance(samples: np.ndarray, mean: np.ndarray, variance: float) -> float:
    """The same for the total variance."""
    return float(off(np.sum((samples - mean) ** 2, axis=1)[:, None], np.array([variance]))[0])


def raw(name: str, **options) -> GradientStrategy:
    given = {"shaping": "raw", "sigma": SIGMA, "pairs": P, "weight_decay": 0.0, **options}
    return strategy(name, **given)


def directions(strat, state, n):
    z = np.empty((n, state.theta.size), np.float32)
    for i, row in enumerate(z):
        strat.directions(state, i, row)
    return z.astype(np.float64)
