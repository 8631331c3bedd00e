"""Initialisers: moments, support, orthogonality, fans."""

import numpy as np
import pytest

from lopt import rng
from lopt.tasks.initialisers import INITIALISERS, TRUNCATED_STD, draw, fans

STREAM = rng.stream(3, 1, 5)
SHAPE = (200, 100)


def standard_deviation(name: str, scale: float) -> float:
    return {
        "he_normal": np.sqrt(2 / 200),
        "he_uniform": np.sqrt(2 / 200),
        "glorot_normal": np.sqrt(2 / 300),
        "glorot_uniform": np.sqrt(2 / 300),
        "variance_scaling": np.sqrt(scale / 200),
        "sonnet": TRUNCATED_STD / np.sqrt(200),
        "random_uniform": scale / np.sqrt(3),
        "random_normal": scale,
        "truncated_normal": scale,
        "orthogonal": scale / np.sqrt(200),
    }[name]


@pytest.mark.parametrize("name", INITIALISERS)
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_initialiser_moments(name: str, scale: float) -> None:
    """Mean 0 and the law's deviation within 5 standard errors of 20,000 draws."""
    w = draw(name, scale, SHAPE, STREAM, 0).astype(np.float64)
    sigma = standard_deviation(name, scale)
    assert w.shape == SHAPE
    assert abs(w.mean()) <= 5.0 * sigma / np.sqrt(w.size)
    assert w.std() == pytest.approx(sigma, rel=5.0 * 0.72 / np.sqrt(w.size))


@pytest.mark.parametrize("name", INITIALISERS)
def test_initialiser_support(name: str) -> None:
    """Largest entry in standard deviations: sqrt(3) uniform, 2 / 0.8796 truncated, > 3.5 normal."""
    w = draw(name, 1.0, SHAPE, STREAM, 0).astype(np.float64)
    largest = np.abs(w).max() / standard_deviation(name, 1.0)
    if name.endswith("uniform"):
        assert 0.999 * np.sqrt(3.0) < largest <= np.sqrt(3.0) * (1.0 + 1e-7)
    elif name in ("he_normal", "glorot_normal", "variance_scaling", "sonnet"):
        assert 0.99 * 2.0 / TRUNCATED_STD < largest <= 2.0 / TRUNCATED_STD * (1.0 + 1e-7)
    else:
        assert 3.5 < largest < 5.0


@pytest.mark.parametrize("shape", [(20, 7), (7, 20), (9, 9), (3, 3, 2, 5)])
def test_orthogonal_is_orthogonal(shape: tuple[int, ...]) -> None:
    w = draw("orthogonal", 2.0, shape, STREAM, 1).astype(np.float64).reshape(-1, shape[-1])
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(gram, 4.0 * np.eye(len(gram)), atol=1e-6)


def test_tensors_of_a_task_are_drawn_apart() -> None:
    a, b = (draw("random_normal", 1.0, (50, 40), STREAM, k) for k in (0, 2))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5.0 / np.sqrt(a.size)


@pytest.mark.parametrize(
    ("shape", "expected"), [((4, 7), (4, 7)), ((3, 3, 5, 6), (45, 54)), ((8,), (8, 8))]
)
def test_fans(shape, expected) -> None:
    assert fans(shape) == expected
