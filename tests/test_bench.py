"""What `lopt bench` counts; what it times is nobody's promise here."""

import re
from pathlib import Path

import numpy as np
import pytest

from lopt import bench, bench_noise


def test_bytes_of_a_pair():
    """Two float64 losses a pair, and nothing else crosses the network."""
    assert bench.bytes_of_a_pair(pairs=7) == bench.bytes_of_a_pair(pairs=50) == 16


@pytest.mark.parametrize("pairs", [2, 128])
def test_memory_of_a_step_knows_nothing_of_the_pairs(pairs):
    """Peak of a process of its own: some 5 floats a coordinate, where all perturbations would be 128."""
    assert bench.floats_of_a_step(1_000_000, pairs) < 10


def test_error_of_a_table_is_what_the_page_predicts():
    """Coordinates of random sign, as many pairs as numbers; the figure's own error is told with it."""
    g = bench_noise.GRADIENTS["coordinates of random sign"]()
    m = bench_noise.SMALL
    found = [bench_noise.relative_error(m, g, m, seed) for seed in range(30)]
    predicted = bench_noise.predicted(g, m, m)
    assert abs(np.mean(found) - predicted) < 5 * np.std(found) / np.sqrt(len(found))
    assert predicted > 1.9 * bench_noise.predicted(g, m, 0)


def test_the_page_about_the_noise_table_has_the_text_and_rows_of_today():
    """Its figures are a machine's; everything else follows from the code."""
    page = (Path(__file__).parent.parent / "docs" / "noise_table.md").read_text()
    tables = [bench_noise.name_of(size) for size in bench_noise.SIZES]
    names = [f"{t}: {what}" for t in tables for what in ("memory of a node", "making it, one core")]
    for label in ("made anew", *tables):
        for n, pairs in bench_noise.SHAPES:
            names += [f"{label}: sum, {n} x {pairs}", f"{label}: one perturbation of {n}"]
    for kind in bench_noise.GRADIENTS:
        for ratio in bench_noise.RATIOS:
            names += [
                f"error, {how}, {kind}, {ratio:g} M pairs" for how in ("made anew", "looked up")
            ]
    blank = [{**bench.figure(name, 0.0, "", 0.0), "error": 0.0} for name in names]
    number = re.compile(r"\d+(\.\d+)?")
    same = [number.sub("0", text) for text in (bench_noise.page(blank, 0.0) + "\n", page)]
    assert same[0] == same[1], "write docs/noise_table.md anew: python -m lopt.bench_noise"
