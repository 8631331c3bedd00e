"""Hand-made optimizers as their papers print them, in plain NumPy float64: the oracles of the kernels.

Each is a generator: given the optimizer's options, a tensor and its gradients, it yields the tensor after every step.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from lopt.optimizer import Optimizer

Steps = Iterator[np.ndarray]
Gradients = Iterable[np.ndarray]


def sgd(o: Optimizer, w: np.ndarray, grads: Gradients) -> Steps:
    """Steepest descent."""
    for g in grads:
        w = w - o.learning_rate * g
        yield w


def fall(o: Optimizer, t: int) -> float:
    """Loshchilov & Hutter 2017, equation 5, one cycle: share of the learning rate in the step after t others."""
    return (1 + np.cos(np.pi * min(t / o.total_steps, 1))) / 2 if o.total_steps else 1


def momentum(o: Optimizer, w: np.ndarray, grads: Gradients) -> Steps:
    """Polyak 1964, without (1 - b) before the gradient."""
    m = np.zeros_like(w)
    for t, g in enumerate(grads):
        m = o.momentum * m + g
        w = w - fall(o, t) * o.learning_rate * m
        yield w


def nesterov(o: Optimizer, w: np.ndarray, grads: Gradients) -> Steps:
    """Sutskever et al. 2013, at the point that looks ahead."""
    m = np.zeros_like(w)
    for t, g in enumerate(grads):
        m = o.momentum * m + g
        w = w - fall(o, t) * o.learning_rate * (g + o.momentum * m)
        yield w


def rmsprop(o: Optimizer, w: np.ndarray, grads: Gradients) -> Steps:
    """Tieleman & Hinton 2012, epsilon outside the root."""
    v = np.zeros_like(w)
    for g in grads:
        v = o.decay * v + (1 - o.decay) * g**2
        w = w - o.learning_rate * g / (np.sqrt(v) + o.epsilon)
        yield w


def adagrad(o: Optimizer, w: np.ndarray, grads: Gradients) -> Steps:
    """Duchi et al. 2011."""
    a = np.full_like(w, o.initial_accumulator)
    for g in grads:
        a = a + g**2
        w = w - o.learning_rate * g / np.sqrt(a)
        yield w


def lion(o: Optimizer, w: np.ndarray, grads: Gradients) -> Steps:
    """Chen et al. 2023, algorithm 2."""
    m = np.zeros_like(w)
    for g in grads:
        direction = np.sign(o.beta1 * m + (1 - o.beta1) * g)
        w = w - o.learning_rate * (direction + o.weight_decay * w)
        m = o.beta2 * m + (1 - o.beta2) * g
        yield w


def adam(o: Optimizer, w: np.ndarray, grads: Gradients, ahead: bool = False) -> Steps:
    """Kingma & Ba 2015, algorithm 1; decoupled decay of Loshchilov & Hutter 2019; `ahead`: Dozat 2016."""
    m, v, decay = np.zeros_like(w), np.zeros_like(w), getattr(o, "weight_decay", 0.0)
    for t, g in enumerate(grads, 1):
        m = o.beta1 * m + (1 - o.beta1) * g
        v = o.beta2 * v + (1 - o.beta2) * g**2
        n = o.beta1 * m + (1 - o.beta1) * g if ahead else m
        direction = n / (1 - o.beta1**t) / (np.sqrt(v / (1 - o.beta2**t)) + o.epsilon)
        w = w - o.learning_rate * fall(o, t - 1) * (direction + decay * w)
        yield w


def nadamw(o: Optimizer, w: np.ndarray, grads: Gradients) -> Steps:
    """Adam that looks ahead."""
    return adam(o, w, grads, ahead=True)


def adam8p(o: Optimizer, w: np.ndarray, grads: Gradients) -> Steps:
    """Task set specification 9.3: penalties inside the gradient, two fading learning rates, 1e-10 inside the root."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        g = g + 2 * o.l2 * w + o.l1 * np.sign(w)
        m = o.beta1 * m + (1 - o.beta1) * g
        v = o.beta2 * v + (1 - o.beta2) * g**2
        fade = max(1 - o.linear_decay * (t - 1), 0) * math.exp(-o.exponential_decay * (t - 1))
        root = np.sqrt(v / (1 - o.beta2**t) + 1e-10) + o.epsilon
        w = w - o.learning_rate * fade * m / (1 - o.beta1**t) / root
        yield w


def adafactor(o: Optimizer, w: np.ndarray, grads: Gradients) -> Steps:
    """Shazeer & Stern 2018, algorithms 4 and 5, means instead of sums; factored over the two largest axes."""
    rows, columns = 0.0, 0.0
    for t, g in enumerate(grads, 1):
        beta = 1 - t**-o.decay_exponent
        square = g**2 + o.epsilon
        if w.ndim < 2:
            rows = v = beta * rows + (1 - beta) * square
        else:
            second, largest = sorted(range(w.ndim), key=lambda axis: (w.shape[axis], axis))[-2:]
            rows = beta * rows + (1 - beta) * square.mean(axis=largest, keepdims=True)
            columns = beta * columns + (1 - beta) * square.mean(axis=second, keepdims=True)
            v = rows * columns / rows.mean(axis=second, keepdims=True)
        u = g / np.sqrt(v)
        w = w - o.learning_rate * u / max(1, np.sqrt(np.mean(u**2)) / o.clip)
        yield w


TEXTBOOK = {
    f.__name__: f
    for f in (sgd, momentum, nesterov, rmsprop, adagrad, adam, nadamw, adam8p, adafactor, lion)
} | {"adamw": adam}
