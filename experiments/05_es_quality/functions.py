"""Test functions of D coordinates, lowest value 0, and a record of the lowest value that a search has seen."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from lopt import rng

SOLVED = 1e-10  # below this the packages stop, and nothing is compared


def sphere(x: np.ndarray) -> np.ndarray:
    """sum x_i^2; x (n, D) -> (n,), as all of them."""
    return np.sum(x * x, axis=1)


def ellipsoid(x: np.ndarray) -> np.ndarray:
    """sum 10^(6 i / (D - 1)) x_i^2: axes along the coordinates, condition number 1e6."""
    return (x * x) @ 10 ** np.linspace(0, 6, x.shape[1])


def rotated(x: np.ndarray) -> np.ndarray:
    """The ellipsoid with its axes in random directions."""
    return ellipsoid(x @ rotation(x.shape[1]))


def rosenbrock(x: np.ndarray) -> np.ndarray:
    """sum 100 (x_(i+1) - x_i^2)^2 + (1 - x_i)^2: a bent valley, each coordinate tied to the next."""
    head, tail = x[:, :-1], x[:, 1:]
    return np.sum(100 * (tail - head**2) ** 2 + (1 - head) ** 2, axis=1)


def rastrigin(x: np.ndarray) -> np.ndarray:
    """sum 10 + x_i^2 - 10 cos(2 pi x_i): about 10^D minima."""
    return np.sum(10 + x * x - 10 * np.cos(2 * np.pi * x), axis=1)


@functools.cache
def rotation(n: int) -> np.ndarray:
    """An orthogonal matrix of n dimensions, always the same."""
    normals = rng.normals(n * n, rng.stream(0), rng.TASK).astype(np.float64)
    return np.linalg.qr(normals.reshape(n, n))[0]


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    f.__name__: f for f in (sphere, ellipsoid, rotated, rosenbrock, rastrigin)
}


@dataclasses.dataclass
class Record:
    """A function that counts its evaluations and notes the lowest value after each of `marks`."""

    f: Callable[[np.ndarray], np.ndarray]
    marks: np.ndarray

    def __post_init__(self) -> None:
        self.best = np.full(self.marks.size, np.inf)
        self.count = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values at points (n, D), evaluated one after another."""
        values = self.f(x)
        number = self.count + 1 + np.arange(values.size)
        first = np.searchsorted(self.marks, number)  # the first mark at which a value counts
        inside = first < self.marks.size
        np.minimum.at(self.best, first[inside], values[inside])
        self.count += values.size
        return values

    def lowest(self) -> np.ndarray:
        """Lowest value up to each mark, (marks,)."""
        return np.minimum.accumulate(self.best)
