"""Meta-parameters of the members of a pair, made where they are needed: here, or on a device."""

import functools
from typing import NamedTuple

import numpy as np

from lopt.es.noise import Counter, Noise
from lopt.es.perturbation import perturbed


class Perturbed:
    """theta + sigma z and theta - sigma z, z from an address.

    Args:
        theta: (D,) float32.
        stream: uint32 (3,).
    """

    def __init__(self, theta: np.ndarray, sigma: float, noise: Noise, stream: np.ndarray) -> None:
        self.theta, self.sigma, self.noise, self.stream = theta, sigma, noise, stream

    @functools.cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Both, each (D,) float32; z is made once for the two."""
        z = np.empty(self.theta.size, np.float32)
        self.noise.fill(z, self.stream)
        return perturbed(self.theta, self.sigma, z)

    def members(self) -> tuple["Variant", "Variant"]:
        """The two, not made yet."""
        return Variant(self, 1), Variant(self, -1)


class Recipe(NamedTuple):
    """How a device makes a member: base + scale * normals of the address `stream`, purpose PERTURB.

    base (D,) float32, stream uint32 (3,).
    """

    base: np.ndarray
    scale: float
    stream: np.ndarray


class Variant(NamedTuple):
    """One member of a pair: theta + sign * sigma * z; sign 0 is the unperturbed one."""

    pair: Perturbed
    sign: int

    @property
    def array(self) -> np.ndarray:
        """(D,) float32."""
        if self.sign == 0:
            return self.pair.theta
        return self.pair.arrays[0 if self.sign > 0 else 1]

    @property
    def recipe(self) -> Recipe:
        """The numbers of `array` to rounding; where z comes from a table the base is the member itself."""
        if not isinstance(self.pair.noise, Counter):
            return Recipe(self.array, 0.0, self.pair.stream)
        return Recipe(self.pair.theta, self.sign * self.pair.sigma, self.pair.stream)
