"""A network of step functions on the embedded digits, scored by its share of wrong answers.

Both the hidden units (0 or 1) and the score (right or wrong) are step functions: the slope is 0 almost
everywhere, and backpropagation has nothing to work with.
"""

import dataclasses
import functools

import numpy as np

from lopt import rng
from lopt.data import datasets
from lopt.layout import Layout


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Error of the network 64 - step(hidden) - 10 as a function of its weights."""

    hidden: int
    batch: int

    @functools.cached_property
    def _data(self):
        return datasets.load("digits")

    @functools.cached_property
    def layout(self) -> Layout:
        """Blocks of the weights."""
        h = self.hidden
        return Layout((("w0", (64, h)), ("b0", (h,)), ("w1", (h, 10)), ("b1", (10,))))

    @functools.cached_property
    def x0(self) -> np.ndarray:
        """Normal weights, biases 0; inputs are centred."""
        x = rng.normals(self.layout.size, rng.stream(0), rng.INIT)
        views = self.layout.views(x)
        views["b0"][:], views["b1"][:] = 0, 0
        views["w1"][:] /= np.float32(np.sqrt(self.hidden))
        return x.astype(np.float64)

    def search(self, weights: np.ndarray, key: int) -> float:
        """Share of wrong answers on the batch of a key."""
        lo, hi = self._data.splits[0]
        return self._error(weights, rng.integers(self.batch, lo, hi, rng.stream(0, key), rng.BATCH))

    def test(self, weights: np.ndarray) -> float:
        """Share of wrong answers on the test split."""
        return self._error(weights, np.arange(*self._data.splits[3]))

    def _error(self, weights: np.ndarray, rows: np.ndarray) -> float:
        w = self.layout.views(weights.astype(np.float32))
        on = self._inputs[rows] @ w["w0"] + w["b0"] > 0
        scores = on.astype(np.float32) @ w["w1"] + w["b1"]
        return float((scores.argmax(axis=1) != self._data.y[rows]).mean())

    @functools.cached_property
    def _inputs(self) -> np.ndarray:
        x = np.asarray(self._data.x, np.float32)
        train = x[slice(*self._data.splits[0])]
        return (x - train.mean(axis=0)) / np.float32(train.std() * 8)
