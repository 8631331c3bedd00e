"""Estimates of whole episodes from losses and addresses alone, and the variance they should have."""

from types import SimpleNamespace

import numpy as np
from helpers.es_problems import z_of

from lopt.comm import SerialComm
from lopt.es import make_estimator


def windows_of_a_block(cfg: SimpleNamespace, windows: int) -> int:
    """Windows of an episode that share a perturbation."""
    every = {"truncated": 1, "pes": 1, "nres": windows, "gpes": cfg.resample // cfg.truncation}
    return every[cfg.estimator] or windows


def episodes_of(cfg: SimpleNamespace, problem, theta, seed: int = 1) -> np.ndarray:
    """Total gradient estimate of each complete episode of a pair, (n, D) float64; n >= P.

    Checks on the way that the estimator's gradient is the mean of the pairs' contributions.
    """
    theta = np.asarray(theta, np.float32)
    estimator = make_estimator(cfg, problem, SerialComm(), seed)
    state, horizon = estimator.init(theta), problem.horizon(0, 0)
    n = -(-horizon // cfg.truncation)
    block = windows_of_a_block(cfg, n)
    drawn, count, found = np.zeros(cfg.pairs, int), np.zeros(cfg.pairs, int), []
    xi, total, z = np.zeros((3, cfg.pairs, theta.size))
    for t in range(2 * n):
        window = state.t // cfg.truncation
        estimate, state = estimator.step(theta, t, state)
        drawn[window % block == 0] = t
        for i in np.flatnonzero(window % block == 0):
            z[i] = z_of(seed, int(drawn[i]), int(i), theta.size)
        xi[(window == 0) | (cfg.estimator == "truncated")] = 0
        xi[window % block == 0] += z[window % block == 0]
        slopes = (estimate.losses[:, 0] - estimate.losses[:, 1]) / (2 * cfg.sigma)
        each = slopes[:, None] * xi
        np.testing.assert_allclose(estimate.grad, each.mean(axis=0), rtol=1e-3, atol=1e-3)
        total = each + total * (window > 0)[:, None]
        count = 1 + count * (window > 0)
        found += list(cfg.truncation * total[count == n])
    assert len(found) >= cfg.pairs
    return np.array(found)


def window_gradients(problem, theta, truncation: int) -> np.ndarray:
    """Gradient of window w's loss by the theta used in window v, (w, v, D) float64.

    Central differences with a step of 1: exact where losses are linear or quadratic.
    """
    theta = np.asarray(theta, np.float64)
    horizon = problem.horizon(0, 0)
    n = -(-horizon // truncation)
    found = np.zeros((n, n, theta.size))
    for v in range(n):
        for j in range(theta.size):
            for sign in (1, -1):
                state = problem.start(theta, 0, 0)
                for w in range(n):
                    used = theta + sign * np.eye(theta.size)[j] * (w == v)
                    steps = min(truncation, horizon - w * truncation)
                    window = problem.run(used, state, 0, 0, w * truncation, steps)
                    found[w, v, j] += sign * truncation * window.loss / 2
                    state = window.state
    return found


def spread(gradients: np.ndarray, block: int) -> float:
    """Total variance of an episode's estimate by one pair, perturbed anew every `block` windows.

    With A_bc the gradient by the theta of block b of the losses from block max(b, c) on:
    sum_b (D + 1) |A_bb|^2 + sum_(b < c) D |A_bc|^2 + D |A_cb|^2 + 2 A_bc.A_cb.
    """
    n, _, d = gradients.shape
    first = range(0, n, block)
    a = np.array(
        [[gradients[max(b, c) :, b : b + block].sum(axis=(0, 1)) for c in first] for b in first]
    )
    total = 0.0
    for b in range(len(first)):
        total += (d + 1) * a[b, b] @ a[b, b]
        for c in range(b + 1, len(first)):
            total += d * (a[b, c] @ a[b, c] + a[c, b] @ a[c, b]) + 2 * a[b, c] @ a[c, b]
    return float(total)
