"""Matrices and synthetic data sets of the `losg` family, keyed by the instance seed.

Source: task set specification 4.2.  Laws are the published ones, bits are this library's own.
"""

import math

import numpy as np

from lopt import rng

TEACHER_LAYERS, TEACHER_WIDTH = 6, 20
CONTEXT_IDS, FLIP_PROBABILITY = 5, 0.25

# Inner addresses of one stream's numbers.
_ROWS, _TEACHER, _FLIPS = 0, 1, 2 + TEACHER_LAYERS


def matrix_and_target(n: int, seed: int) -> np.ndarray:
    """W (n, n) and y (n,) of standard normals, one after the other, (n (n + 1),) float32."""
    return rng.normals(n * (n + 1), rng.stream(seed), rng.TASK)


def random_mlp(features: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal rows x (rows, features) float32, and labels (rows,) int32 of a random ReLU network.

    Six layers of width 20 without biases, weights N(0, 2 / features) in all of them; the label is 1
    where the first unit of the last layer is positive.
    """
    stream = rng.stream(seed)
    x = rng.normals(rows * features, stream, rng.DATA, _ROWS).reshape(rows, features)
    h = x.astype(np.float64)
    for k in range(TEACHER_LAYERS):
        size = h.shape[1] * TEACHER_WIDTH
        w = rng.normals(size, stream, rng.DATA, _TEACHER + k).reshape(h.shape[1], TEACHER_WIDTH)
        h = np.maximum(h @ w.astype(np.float64) * math.sqrt(2.0 / features), 0.0)
    return x, (h[:, 0] > 0.0).astype(np.int32)


def random_symmetric(features: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """rows / 2 normal rows, then their negatives, (rows, features) float32; labels 0; rows even."""
    half = rows // 2
    x = rng.normals(half * features, rng.stream(seed), rng.DATA, _ROWS).reshape(half, features)
    return np.concatenate([x, -x]), np.zeros(rows, np.int32)


def noisy_parity(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Five coins per row; returned as counts of (zeros, ones), (rows, 2) float32, and labels int32.

    The label is the parity of the ones, flipped with probability 1/4.  The counts hold all that the
    model, a sum of embeddings, can see.
    """
    stream = rng.stream(seed)
    coins = rng.integers(rows * CONTEXT_IDS, 0, 2, stream, rng.DATA, _ROWS)
    ones = coins.reshape(rows, CONTEXT_IDS).sum(axis=1)
    flips = rng.uniforms(rows, stream, rng.DATA, _FLIPS) < FLIP_PROBABILITY
    counts = np.stack([CONTEXT_IDS - ones, ones], axis=1).astype(np.float32)
    return counts, ((ones + flips) % 2).astype(np.int32)
