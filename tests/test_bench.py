"""What `lopt bench` counts; what it times is nobody's promise here."""

import pytest

from lopt import bench


def test_bytes_of_a_pair():
    """Two float64 losses a pair, and nothing else crosses the network."""
    assert bench.bytes_of_a_pair(pairs=7) == bench.bytes_of_a_pair(pairs=50) == 16


@pytest.mark.parametrize("pairs", [2, 128])
def test_memory_of_a_step_knows_nothing_of_the_pairs(pairs):
    """Peak of a process of its own: some 5 floats a coordinate, where all perturbations would be 128."""
    assert bench.floats_of_a_step(1_000_000, pairs) < 10
