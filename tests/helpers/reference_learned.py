"""The learned optimizers again: plain NumPy float64, one tensor and one matrix at a time.

Written from the equations (Metz et al. 2020 and 2022, methods 1.2-1.5 and 6.1), without any of the shortcuts of
lopt.arch: every input column is built and goes through the whole network.  Constants are rounded to
float32 where lopt hands them to its kernels as float32, so float64 kernels must agree to rounding.
"""

import math

import numpy as np

TAUS = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])


def as32(x: float) -> float:
    """x as the kernel's constants hold it."""
    return float(np.float32(x))


def divided_by_rms(columns: list[np.ndarray]) -> np.ndarray:
    """(n, F) columns, each divided by sqrt(1e-5 + mean of its square)."""
    x = np.stack([np.ravel(c) for c in columns], axis=1)
    return x / np.sqrt(1e-5 + (x**2).mean(axis=0))


def mlp(x: np.ndarray, theta: dict, prefix: str = "") -> np.ndarray:
    """Two ReLU layers and a linear one."""
    for i in range(2):
        x = np.maximum(x @ theta[f"{prefix}w{i}"] + theta[f"{prefix}b{i}"], 0.0)
    return x @ theta[f"{prefix}w2"] + theta[f"{prefix}b2"]


def moved(w: np.ndarray, out: np.ndarray, opt) -> np.ndarray:
    """w - step_mult direction exp(mag_rate magnitude)."""
    step = as32(opt.step_mult) * out[:, 0] * np.exp(as32(opt.mag_rate) * out[:, 1])
    return w - step.reshape(w.shape)


def clog(x: float) -> float:
    """Clipped log magnitude."""
    return float(np.clip(np.log(1e-8 + abs(x)), -5.0, 5.0))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function."""
    return 1.0 / (1.0 + np.exp(-x))


class LossStatistics:
    """Exponential mean and variance of a loss, with bias correction."""

    def __init__(self, decay: float) -> None:
        self.decay, self.mean, self.var, self.n = decay, 0.0, 0.0, 0

    def update(self, loss: float) -> None:
        """Take in one loss."""
        self.mean = self.decay * self.mean + (1 - self.decay) * loss
        self.var = self.decay * self.var + (1 - self.decay) * (self.mean - loss) ** 2
        self.n += 1

    @property
    def correction(self) -> float:
        """1 / (1 - d^n + 1e-8)."""
        return 1.0 / (1.0 - self.decay**self.n + 1e-8)

    def feature(self, value: float) -> float:
        """The value in units of these statistics, clipped to +-5."""
        c = self.correction
        return float(np.clip((value - c * self.mean) / math.sqrt(c * self.var + 1e-8), -5.0, 5.0))


class Hierarchical:
    """Reference of lopt's "hierarchical": params and theta are dicts of float64 arrays."""

    def __init__(self, opt, theta: dict, params: dict) -> None:
        self.opt, self.theta, self.t = opt, theta, 0
        self.decays = [as32(d) for d in opt.decays]
        self.alpha, self.mult = as32(opt.clip_decay), as32(opt.clip_mult)
        if opt.learn_clip:
            self.alpha, self.mult = 1.0 - math.exp(theta["clip"][0]), math.exp(theta["clip"][1])
        self.clip_t, self.q = 1, 1.0 - self.alpha
        self.train, self.valid = LossStatistics(0.9), LossStatistics(0.95)
        self.m = {k: [np.zeros_like(w) for _ in self.decays] for k, w in params.items()}
        self.v = {k: [np.zeros_like(w) for _ in self.decays] for k, w in params.items()}
        if opt.lstm_hidden > 0:
            self.h = {k: theta["initial/hidden"].copy() for k in params}
            self.c = {k: theta["initial/cell"].copy() for k in params}
            self.from_mlp = {k: theta["initial/from_mlp"].copy() for k in params}
            self.from_lstm = theta["initial/between"].copy()
        self.history: list[dict] = []

    def step(self, params: dict, grads: dict, loss: float, is_valid: bool) -> dict:
        """New parameters after one call."""
        t, self.t = self.t, self.t + 1
        if is_valid:
            self.valid.update(loss)
            return params
        self.train.update(loss)
        self.history.append(params)
        grads = self._clipped(grads)
        for name, g in grads.items():
            for k, d in enumerate(self.decays):
                self.m[name][k] = d * self.m[name][k] + (1 - d) * g
                self.v[name][k] = d * self.v[name][k] + (1 - d) * g**2
        losses = self.train.feature(loss), self._valid_feature()
        if self.opt.lstm_hidden > 0:
            for name, w in params.items():
                self._lstm(name, w, grads[name], losses)
            theta = self.theta
            messages = [h @ theta["between/w"] + theta["between/b"] for h in self.h.values()]
            self.from_lstm = np.mean(messages, axis=0)
        return {
            name: self._move(name, w, grads[name], len(params), t) for name, w in params.items()
        }

    def _clipped(self, grads: dict) -> dict:
        bound = self.mult * self.q / (1.0 - self.alpha**self.clip_t)
        grads = {k: np.clip(g, -bound, bound) for k, g in grads.items()}
        mean = np.mean([(g**2).mean() for g in grads.values()])
        self.q = self.alpha * self.q + (1 - self.alpha) * math.sqrt(1e-8 + mean)
        self.clip_t += 1
        return grads

    def _valid_feature(self) -> float:
        if self.valid.n == 0:
            reference = self.opt.valid_before_first == "reference"
            return self.train.feature(0.0) if reference else 0.0
        return self.train.feature(self.valid.correction * self.valid.mean)

    def _lstm(self, name: str, w: np.ndarray, g: np.ndarray, losses: tuple) -> None:
        m, v, theta = np.stack(self.m[name]), np.stack(self.v[name]), self.theta
        axes = [*w.shape[:3], math.prod(w.shape[3:])] if w.ndim > 4 else [*w.shape]
        x = [
            clog(np.linalg.norm(g)), 1.0 if w.ndim == 0 else -1.0,
            clog(m.mean()), np.sign(m.mean()), clog(v.mean()), np.sign(v.mean()),
            clog(w.mean()), np.sign(w.mean()), clog(np.linalg.norm(w)),
            *(math.log(d) - 1.0 for d in (axes + [1] * 4)[:4]),
            *losses, clog(m.var()), clog(v.var()), clog(w.var()),
        ]  # fmt: skip
        x = np.concatenate([self.from_lstm, self.from_mlp[name], x, self.h[name]])
        i, j, f, o = np.split(x @ theta["lstm/w"] + theta["lstm/b"], 4)
        self.c[name] = sigmoid(f + 1.0) * self.c[name] + sigmoid(i) * np.tanh(j)
        self.h[name] = sigmoid(o) * np.tanh(self.c[name])

    def _move(self, name: str, w: np.ndarray, g: np.ndarray, n_tensors: int, t: int) -> np.ndarray:
        m, v, theta = self.m[name], self.v[name], self.theta
        columns = [g, w, np.log(np.abs(w) + 1e-8), *m, *v]
        columns += [a / np.sqrt(b + 1e-6) for a, b in zip(m, v, strict=True)]
        columns += [1.0 / np.sqrt(b + 1e-6) for b in v]
        if self.opt.past_weights:
            now = len(self.history) - 1
            columns.append(self.history[max(now // 100 - 1, 0) * 100][name])
        x = divided_by_rms(columns)
        if self.opt.clip_normalised:
            x = np.clip(x, -10.0, 10.0)
        same = [
            np.sin(t / (TAUS * math.pi)),
            [math.log(n_tensors) - 1.0, math.log(np.linalg.norm(w) + 1e-8), math.log(w.size)],
        ]
        if self.opt.lstm_hidden > 0:
            same.append(self.h[name] @ theta["to_mlp/w"] + theta["to_mlp/b"])
        same = np.tile(np.concatenate(same), (w.size, 1))
        out = mlp(np.concatenate([x, same], axis=1), theta, "mlp/")
        if self.opt.lstm_hidden > 0:
            self.from_mlp[name] = out[:, 2:].mean(axis=0)
        return moved(w, out, self.opt)


class Mlp:
    """Reference of lopt's "mlp"."""

    def __init__(self, opt, theta: dict, params: dict) -> None:
        self.opt, self.theta, self.t = opt, theta, 0
        self.m = {k: [np.zeros_like(w) for _ in opt.decays] for k, w in params.items()}

    def step(self, params: dict, grads: dict, loss: float, is_valid: bool) -> dict:
        """New parameters after one call."""
        if is_valid:
            return params
        new, time = {}, np.tanh(self.t / TAUS - 1.0)
        for name, w in params.items():
            for k, d in enumerate(as32(d) for d in self.opt.decays):
                self.m[name][k] = d * self.m[name][k] + (1 - d) * grads[name]
            x = divided_by_rms([grads[name], w, *self.m[name]])
            x = np.concatenate([x, np.tile(time, (w.size, 1))], axis=1)
            new[name] = moved(w, mlp(x, self.theta), self.opt)
        self.t += 1
        return new


class AdafacMlp:
    """Reference of lopt's "adafac_mlp"."""

    def __init__(self, opt, theta: dict, params: dict) -> None:
        self.opt, self.theta, self.t = opt, theta, 0
        zeros = {k: np.zeros_like(w) for k, w in params.items()}
        self.m = {k: [z, z, z] for k, z in zeros.items()}
        self.v = zeros
        self.row = {k: [0.0] * 3 for k in params}
        self.column = {k: [0.0] * 3 for k in params}

    def step(self, params: dict, grads: dict, loss: float, is_valid: bool) -> dict:
        """New parameters after one call."""
        if is_valid:
            return params
        new, time = {}, np.tanh(self.t / TAUS - 1.0)
        for name, w in params.items():
            x = divided_by_rms(self._columns(name, w, grads[name]))
            x = np.concatenate([x, np.tile(time, (w.size, 1))], axis=1)
            new[name] = moved(w, mlp(x, self.theta), self.opt)
        self.t += 1
        return new

    def _decays(self, initial: tuple, shifts: np.ndarray) -> list[float]:
        logs = [as32(math.log1p(-d)) for d in initial]
        return [1.0 - math.exp(10 * (x / 10 + s)) for x, s in zip(logs, shifts, strict=True)]

    def _columns(self, name: str, w: np.ndarray, g: np.ndarray) -> list[np.ndarray]:
        opt, theta = self.opt, self.theta
        (dv,) = self._decays((opt.rms_decay,), theta["rms_decays"])
        momenta = self._decays(opt.momentum_decays, theta["momentum_decays"])
        m = [d * a + (1 - d) * g for d, a in zip(momenta, self.m[name], strict=True)]
        v = dv * self.v[name] + (1 - dv) * g**2
        self.m[name], self.v[name] = m, v
        r = 1.0 / np.sqrt(v + 1e-6)
        direct, rows, columns, through = [], [], [], []
        for k, d in enumerate(self._decays(opt.factored_decays, theta["factored_decays"])):
            square = g**2 + 1e-30
            if w.ndim < 2:
                full = d * self.row[name][k] + (1 - d) * square
                self.row[name][k] = full
                rows.append(full)
                columns.append(full)
                direct.append(g / np.sqrt(np.maximum(full + 1e-9, 1e-9)))
                through.append(m[k] / np.sqrt(full + 1e-6))
                continue
            second, largest = sorted(range(w.ndim), key=lambda axis: (w.shape[axis], axis))[-2:]
            row = d * self.row[name][k] + (1 - d) * square.mean(axis=largest, keepdims=True)
            column = d * self.column[name][k] + (1 - d) * square.mean(axis=second, keepdims=True)
            self.row[name][k], self.column[name][k] = row, column
            scaled = row / (row.mean(axis=second, keepdims=True) + 1e-9)
            factor = 1.0 / np.sqrt(np.maximum(scaled, 1e-9)) / np.sqrt(np.maximum(column, 1e-9))
            rows.append(np.broadcast_to(row, w.shape))
            columns.append(np.broadcast_to(column, w.shape))
            direct.append(g * factor)
            through.append(m[k] * factor)
        inverse = [1.0 / np.sqrt(x + 1e-8) for x in (*rows, *columns)]
        return [g, w, *m, v, *(a * r for a in m), r, *direct, *rows, *columns, *inverse, *through]


REFERENCES = {"hierarchical": Hierarchical, "mlp": Mlp, "adafac_mlp": AdafacMlp}
