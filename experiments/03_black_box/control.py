"""Cart-pole and pendulum swing-up with their own dynamics, steered by small networks that pick an action.

A policy picks the action with the highest score: its return is a step function of its weights, and no
gradient exists.  An episode's start is drawn from a key, so that all candidates of a step of the search
meet the same starts.
"""

import dataclasses
import math
from typing import ClassVar

import numba
import numpy as np

from lopt import rng

TEST_KEY = 2**31  # the search draws from small keys


@numba.njit(cache=True)
def act(weights, inputs, hidden, actions):
    """Index of the action with the highest score of a network inputs - tanh(hidden) - actions.

    Weights in order: (hidden, inputs), (hidden,), (actions, hidden), (actions,).
    """
    n = inputs.size
    scores = weights[hidden * (n + 1) + actions * hidden :].copy()
    for j in range(hidden):
        total = weights[hidden * n + j]
        for i in range(n):
            total += weights[j * n + i] * inputs[i]
        active = math.tanh(total)
        for k in range(actions):
            scores[k] += weights[hidden * (n + 1) + k * hidden + j] * active
    return np.argmax(scores)


@numba.njit(cache=True)
def cart_pole(weights, starts, horizon, hidden):
    """Mean over starts of the share of the horizon in which the pole fell or the cart had left, in [0, 1].

    Physics, limits and Euler step of 0.02 s of Barto, Sutton and Anderson (1983): cart 1 kg, pole 0.1 kg
    and 1 m, force +-10 N; over at 12 degrees or 2.4 m.  Starts: (E, 4) uniform in [0, 1).
    """
    upright = 0
    inputs = np.empty(4)
    for e in range(starts.shape[0]):
        x, v, a, w = 0.1 * starts[e] - 0.05
        for _ in range(horizon):
            inputs[:] = (x, v, 5 * a, w)
            force = 10.0 if act(weights, inputs, hidden, 2) == 1 else -10.0
            push = (force + 0.05 * w * w * math.sin(a)) / 1.1
            turn = (9.8 * math.sin(a) - math.cos(a) * push) / (
                0.5 * (4 / 3 - 0.1 * math.cos(a) ** 2 / 1.1)
            )
            move = push - 0.05 * turn * math.cos(a) / 1.1
            x, v, a, w = x + 0.02 * v, v + 0.02 * move, a + 0.02 * w, w + 0.02 * turn
            if abs(x) > 2.4 or abs(a) > math.pi / 15:
                break
            upright += 1
    return 1 - upright / (horizon * starts.shape[0])


@numba.njit(cache=True)
def pendulum(weights, starts, horizon, hidden):
    """Mean over starts and steps of angle^2 + 0.1 speed^2 + 0.001 torque^2; angle 0 is upright.

    A rod of 1 m and 1 kg, g = 10 m/s^2, steps of 0.05 s, speed at most 8 / s; torques -2, 0 and 2 Nm are
    too weak to lift it: it has to be swung.  Starts: (E, 2) uniform in [0, 1), any angle.
    """
    cost = 0.0
    inputs = np.empty(3)
    for e in range(starts.shape[0]):
        angle, speed = math.pi * (2 * starts[e, 0] - 1), 2 * starts[e, 1] - 1
        for _ in range(horizon):
            inputs[:] = (math.cos(angle), math.sin(angle), speed / 4)
            torque = 2.0 * (act(weights, inputs, hidden, 3) - 1)
            wrapped = (angle + math.pi) % (2 * math.pi) - math.pi
            cost += wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2
            speed += 0.05 * (15 * math.sin(angle) + 3 * torque)
            speed = min(max(speed, -8.0), 8.0)
            angle += 0.05 * speed
    return cost / (horizon * starts.shape[0])


@dataclasses.dataclass(frozen=True)
class Control:
    """A policy's loss as a function of its weights; `search` is a keyed objective of `lopt.es.minimize`."""

    name: str
    hidden: int
    horizon: int
    starts: int
    test_starts: int

    DYNAMICS: ClassVar = {"cart_pole": (cart_pole, 4, 4, 2), "pendulum": (pendulum, 2, 3, 3)}

    @property
    def x0(self) -> np.ndarray:
        """All weights 0: one action for ever."""
        _, _, inputs, actions = self.DYNAMICS[self.name]
        return np.zeros(self.hidden * (inputs + 1) + actions * (self.hidden + 1))

    def search(self, weights: np.ndarray, key: int) -> float:
        """Loss over the starts of a key."""
        return self._loss(weights, key, self.starts)

    def test(self, weights: np.ndarray) -> float:
        """Loss over starts that the search never met."""
        return self._loss(weights, TEST_KEY, self.test_starts)

    def _loss(self, weights: np.ndarray, key: int, episodes: int) -> float:
        run, width, _, _ = self.DYNAMICS[self.name]
        drawn = rng.uniforms(episodes * width, rng.stream(0, key), rng.TASK).reshape(-1, width)
        return run(weights, drawn.astype(np.float64), self.horizon, self.hidden)
