"""Rollouts and updates on a GPU."""

from collections.abc import Iterator

from lopt.bench.measure import Figure


def figures() -> Iterator[Figure]:
    """Nothing to measure: rollouts on a GPU are not built yet."""
    yield Figure("GPU rollouts", None, "inner steps/s", note="not available in this version")
