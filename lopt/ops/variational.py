"""Gaussian latents and a Gaussian likelihood of quantised images: the two terms of a variational autoencoder's loss.

Source: task set specification 3.3 and 13 (Kingma & Welling 2014, "Auto-encoding variational Bayes").
"""

import math

import numpy as np

from lopt.lanes import inlined, kernel, lane, lanes, sync
from lopt.ops.elementary import exp, tanh

BINS = 255.0  # grey values are multiples of 1 / BINS
CLIP = 10.0  # of the decoder's means and log deviations
PIXEL_CONSTANT = 0.5 * math.log(2.0 * math.pi) + math.log(BINS)  # of minus log p, per pixel


@inlined
def _expm1_twice(x, one):
    """exp(2 x) - 1, to relative precision also near 0, as 2 t / (1 - t) with t = tanh(x)."""
    t = tanh(x)
    near = (t + t) / (one - t)
    return near if abs(x) < one / (one + one) else exp(x + x) - one


@kernel
def latent_fwd(code, noise, z, terms):
    """z = mu + e^l noise; terms[j] = sum over the batch of KL(N(mu, e^2l) || N(0, 1)).

    KL = mu^2 / 2 + expm1(2 l) / 2 - l, from l itself: going through e^l would lose l < -103.
    Shapes: code (B, 2 Z) = (mu, l); noise, z (B, Z), z OVERWRITTEN; terms (Z,) OVERWRITTEN.
    """
    batch, n = z.shape
    half, one = code.dtype.type(0.5), code.dtype.type(1.0)
    for j in range(lane(), n, lanes()):
        terms[j] = code.dtype.type(0.0)
    for r in range(batch):
        mu, log_std = code[r, :n], code[r, n:]
        e, target = noise[r], z[r]
        for j in range(lane(), n, lanes()):
            m, s = mu[j], log_std[j]
            target[j] = m + exp(s) * e[j]
            terms[j] += half * (m * m + _expm1_twice(s, one)) - s
    sync()


@kernel
def latent_bwd(code, noise, dz, scale):
    """code OVERWRITTEN with the gradient of (what gave dz) + scale * KL.

    Shapes: code (B, 2 Z) as in `latent_fwd`; noise, dz (B, Z).
    """
    batch, n = dz.shape
    one = code.dtype.type(1.0)
    for r in range(batch):
        mu, log_std = code[r, :n], code[r, n:]
        e, d = noise[r], dz[r]
        for j in range(lane(), n, lanes()):
            s = log_std[j]
            # z = mu + e^l noise,  KL = mu^2 / 2 + expm1(2 l) / 2 - l
            log_std[j] = d[j] * e[j] * exp(s) + scale * _expm1_twice(s, one)
            mu[j] = d[j] + scale * mu[j]
    sync()


@kernel
def dequantise(x, u):
    """u OVERWRITTEN with x + (u - 1/2) / 255.  Shapes: x (n,), u (n,) uniforms in [0, 1)."""
    half, width = u.dtype.type(0.5), u.dtype.type(1.0 / BINS)
    for i in range(lane(), x.size, lanes()):
        u[i] = x[i] + width * (u[i] - half)
    sync()


@kernel
def quantised_normal(out, x, scale, terms):
    """Minus log likelihood of x under N(m, e^2s), m and s clipped to [-10, 10].

    terms[j] = sum over the rows of q^2 / 2 + s with q = (x - m) e^-s, which is minus log p without
    its constant PIXEL_CONSTANT; out OVERWRITTEN with the gradient of scale * their sum, 0 where the
    clip acts.
    Shapes: out (R, 2 n) = (m, s) before the clip; x (R, n); terms (n,) OVERWRITTEN.
    """
    rows, n = x.shape
    zero, half, one = out.dtype.type(0.0), out.dtype.type(0.5), out.dtype.type(1.0)
    high = out.dtype.type(CLIP)
    for j in range(lane(), n, lanes()):
        terms[j] = zero
    for r in range(rows):
        mean, log_std, y = out[r, :n], out[r, n:], x[r]
        for j in range(lane(), n, lanes()):
            m, s = mean[j], log_std[j]
            cut_m, cut_s = abs(m) > high, abs(s) > high  # a NaN is not cut
            m = (high if m > zero else -high) if cut_m else m
            s = (high if s > zero else -high) if cut_s else s
            w = exp(-s)
            q = (y[j] - m) * w
            terms[j] += half * q * q + s
            # q = (x - m) e^-s
            mean[j] = zero if cut_m else -scale * q * w
            log_std[j] = zero if cut_s else scale * (one - q * q)
    sync()


def latent_reference(
    code: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """z, KL of each example, dz/dl and dKL/dl in plain NumPy; dz/dmu = 1 and dKL/dmu = mu."""
    mu, log_std = np.split(code, 2, axis=1)
    spread = np.exp(log_std) * noise
    kl = (0.5 * mu**2 + 0.5 * np.expm1(2.0 * log_std) - log_std).sum(axis=1)
    return mu + spread, kl, spread, np.expm1(2.0 * log_std)


def quantised_normal_reference(out: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minus log p of each example and its gradient with respect to out, in plain NumPy."""
    mean, log_std = np.split(np.clip(out, -CLIP, CLIP), 2, axis=1)
    q = (x - mean) * np.exp(-log_std)
    losses = (0.5 * q**2 + log_std + PIXEL_CONSTANT).sum(axis=1)
    grad = np.concatenate([-q * np.exp(-log_std), 1.0 - q**2], axis=1)
    return losses, np.where(np.abs(out) > CLIP, 0.0, grad)
