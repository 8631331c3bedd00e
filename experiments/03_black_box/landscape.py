"""A curved valley cut into terraces: flat almost everywhere, and yet a landscape for whoever looks around."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Landscape:
    """log(1 + (1 - x)^2 + 10 (y - x^2)^2), rounded down to steps of 1 / terraces; lowest at (1, 1)."""

    terraces: int

    @property
    def x0(self) -> np.ndarray:
        """Beyond the bend of the valley."""
        return np.array([-1.4, 0.2])

    def search(self, x: np.ndarray, key: int = 0) -> float:
        """Height of the terrace."""
        return float(self.height(x[0], x[1]))

    test = search

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The same for arrays."""
        smooth = np.log1p((1 - x) ** 2 + 10 * (y - x**2) ** 2)
        return np.floor(self.terraces * smooth) / self.terraces
