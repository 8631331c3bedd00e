"""The anchored optimizer again: plain NumPy float64, one tensor at a time, written from its equations."""

import math

import numpy as np
from helpers.reference_learned import as32, sigmoid

DECAYS, FAST = (0.9, 0.99, 0.999), 0.95


def rms(x: np.ndarray) -> float:
    """Root of the mean square."""
    return math.sqrt(float((x**2).mean()))


def unit(x: np.ndarray) -> np.ndarray:
    """x divided by its RMS; zeros stay."""
    return x / rms(x) if rms(x) > 0 else np.zeros_like(x)


def log_within(x: float, low: float, high: float) -> float:
    """log x between bounds."""
    return low if x <= 0 else min(max(math.log(x), low), high)


def usual(p: np.ndarray) -> float:
    """1 / sqrt(fan in); 1 without one."""
    return math.sqrt(p.shape[-1] / p.size) if p.ndim >= 2 else 1.0


def scales(params: dict) -> list[float]:
    """RMS of every tensor; zeros and next to zeros take that of the tensor before, or the first one there is, or 0.1."""
    every = rms(np.concatenate([p.ravel() for p in params.values()]))
    least = [0.01 * max(every, usual(p) if p.ndim >= 2 else 0.0) for p in params.values()]
    found = [rms(p) for p in params.values()]
    found = [s if s > low else 0.0 for s, low in zip(found, least, strict=True)]
    first = next((s for s in found if s > 0), 0.1)
    for k, s in enumerate(found):
        if s == 0:
            found[k] = found[k - 1] if k > 0 else first
    return found


def orthogonal(m: np.ndarray) -> np.ndarray:
    """Five Newton-Schulz steps on a tensor seen as the matrix (all axes but the last, last)."""
    x = m.reshape(-1, m.shape[-1])
    x = x / np.linalg.norm(x) if x.any() else x
    for _ in range(5):
        g = x @ x.T
        x = 3.4445 * x - 4.7750 * g @ x + 2.0315 * g @ g @ x
    return x.reshape(m.shape)


class Anchored:
    """Reference of lopt's "anchored": params and theta are dicts of float64 arrays."""

    def __init__(self, opt, theta: dict, params: dict) -> None:
        self.opt, self.theta, self.t = opt, theta, 0
        self.m = {k: [np.zeros(p.shape) for _ in DECAYS] for k, p in params.items()}
        self.v = {k: [np.zeros(p.shape) for _ in range(2)] for k, p in params.items()}
        self.cosines = {k: np.zeros(2) for k in params}
        self.h = {k: np.zeros(opt.lstm_hidden) for k in params}
        self.c = {k: np.zeros(opt.lstm_hidden) for k in params}
        self.scale = dict(zip(params, scales(params), strict=True))
        total = sum(p.size * self.scale[k] ** 2 for k, p in params.items())
        self.typical = math.sqrt(total / sum(p.size for p in params.values()))
        self.valid: float | None = None
        self.spread = 0.0

    def see_loss(self, loss: float) -> None:
        """Averages of the training loss."""
        if self.t == 0:
            self.first = self.fast = self.slow = loss
        self.spread = 0.99 * self.spread + 0.01 * abs(loss - self.slow)
        self.fast = 0.9 * self.fast + 0.1 * loss
        self.slow = 0.99 * self.slow + 0.01 * loss

    def inputs(self, k: str, w: np.ndarray, g: np.ndarray) -> list[np.ndarray]:
        """The thirteen inputs of every parameter, each of unit RMS, and the RMS of Adam's direction."""
        m, (v, u) = self.m[k], self.v[k]
        correct = math.sqrt(1 - 0.999 ** (self.t + 1))
        root, fast = np.sqrt(v) + 1e-16 * correct, np.sqrt(u) + 1e-16 * correct
        columns = [g, g / (abs(g) + rms(g)), w, *m, root, *(x / root for x in m)]
        columns += [1 / (root + 0.01 * math.sqrt(v.mean())), g / fast, m[0] / fast]
        self.adam = rms(m[0] / (1 - 0.9 ** (self.t + 1)) / (root / correct))
        return [unit(c) for c in columns]

    def log_multiple(self, k: str, w: np.ndarray, g: np.ndarray) -> float:
        """The head: log of the step size's multiple."""
        new = [
            float((g * m).mean()) / (rms(g) * rms(m)) if rms(g) > 0 else 0.0 for m in self.m[k][:2]
        ]
        self.cosines[k] = 0.9 * self.cosines[k] + 0.1 * np.array(new)
        rms_v, gap = math.sqrt(self.v[k][0].mean()), 0.0
        if self.valid is not None:
            scale = abs(self.first - self.fast) + self.spread
            gap = min(max((self.valid - self.fast) / scale, -3.0), 3.0) if scale > 0 else 0.0
        fall = self.slow - self.fast
        x = np.array([
            1.0, (math.log(w.size) - 5) / 5, log_within(self.scale[k] / self.typical, -3, 3),
            log_within(self.adam, -5, 3), *self.cosines[k],
            math.tanh(fall / self.spread) if self.spread > 0 else 0.0,
            log_within(self.fast / self.first, -8, 2) if min(self.first, self.fast) > 0 else 0.0,
            *(math.tanh(self.t / tau) for tau in (10, 100, 1000)), float(w.ndim <= 1),
            log_within(rms(self.m[k][1]) / rms_v if rms_v > 0 else 0.0, -5, 1), gap,
        ])  # fmt: skip
        total = x @ self.theta["rate/direct"] if self.opt.head else 0.0
        if self.opt.lstm_hidden:
            z = np.concatenate([x, self.h[k]]) @ self.theta["rate/lstm"]
            i, j, f, o = np.split(z + self.theta["rate/lstm_bias"], 4)
            self.c[k] = sigmoid(f + 1) * self.c[k] + sigmoid(i) * np.tanh(j)
            self.h[k] = sigmoid(o) * np.tanh(self.c[k])
            total += self.h[k] @ self.theta["rate/recurrent"]
        return float(min(max(total, -12.0), 5.0))

    def step(self, params: dict, grads: dict, loss: float, is_valid: bool) -> dict:
        """Parameters after one call."""
        if is_valid and not self.opt.valid_loss:
            return params
        if is_valid:
            self.valid = loss if self.valid is None else 0.9 * self.valid + 0.1 * loss
            return params
        self.see_loss(loss)
        opt, moved = self.opt, {}
        schedule = 1.0
        if opt.total_steps:
            schedule = 0.5 * (1 + math.cos(math.pi * min(self.t / opt.total_steps, 1)))
        elif opt.decay_steps:
            schedule = (1 + self.t / opt.decay_steps) ** -0.5
        for k, w in params.items():
            g = grads[k]
            self.m[k] = [d * m + (1 - d) * g for d, m in zip(DECAYS, self.m[k], strict=True)]
            self.v[k] = [
                d * v + (1 - d) * g**2 for d, v in zip((0.999, FAST), self.v[k], strict=True)
            ]
            x = self.inputs(k, w, g)
            direction = x[7] + sum(
                c * f for c, f in zip(self.theta["direction/direct"], x, strict=True)
            )
            for j in range(opt.hidden):
                z = sum(a * f for a, f in zip(self.theta["direction/w0"][:, j], x, strict=True))
                z = np.maximum(z + self.theta["direction/b0"][j], 0)
                direction = direction + self.theta["direction/w1"][j] * z
            if opt.orthogonal and w.ndim > 1 and 1 < w.shape[-1] < w.size:
                share = float(self.theta["direction/orthogonal"][0])
                direction = direction + share * unit(orthogonal(self.m[k][0]))
            scale = max(self.scale[k], min(rms(w), usual(w))) if opt.grow else self.scale[k]
            rate = schedule * as32(opt.rate) * scale * math.exp(self.log_multiple(k, w, g))
            moved[k] = w - rate * (unit(direction) + as32(opt.weight_decay) * w)
        self.t += 1
        return moved
