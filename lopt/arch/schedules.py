"""How step sizes fall in the course of a run."""

import math

from lopt.errors import OptimizerError
from lopt.lanes import kernel


@kernel
def falling(t, total):
    """Share of the learning rate after t of `total` steps: from 1 to 0 along half a cosine; 1 if `total` is 0."""
    return 0.5 * (1.0 + math.cos(math.pi * min(t / total, 1.0))) if total > 0.0 else 1.0


def check_total_steps(name: str, total_steps: int) -> None:
    """Refuse lengths of a decay that are negative or not exact in float32.

    Raises:
        OptimizerError: names the value.
    """
    if not 0 <= total_steps <= 2**24:
        raise OptimizerError(f"{name}: total_steps must be 0 to 2^24, got {total_steps}")
