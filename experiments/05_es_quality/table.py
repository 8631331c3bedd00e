"""The table of `run.py`: medians over seeds of the lowest value, with intervals, and whether they are as expected."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from functions import SOLVED
from scipy.stats import binom

INTRODUCTION = """\
# Quality at equal evaluations

Written by `python experiments/05_es_quality/run.py --out DIR --docs`; picture and tables show the same searches.

The lowest value seen: its median over seeds and, in brackets, the order statistics that enclose the true median with
a probability of 95 % at least. Bold: the lowest median of a column, and whose interval reaches that one's. "solved"
and 0: below 1e-10, where the package `cma` stops and nothing is compared. All minima are 0. Starts are uniform in
[-5, 5]^D, and 5 is the unit of length for every search: sigma 0.3 is 1.5 in x. Nothing is tuned: each line is one
setting for all functions and dimensions, defaults unless `experiments/05_es_quality/config.toml` names it.

"lopt antithetic, cosine" is antithetic ES with 32 pairs, sigma 0.1, centred ranks, and Adam with a learning rate of 0.05
that falls to 0 along a cosine over the search; "evosax Open_ES, cosine" is the same written by others, so the two should
agree. The last evaluation of lopt's and evosax's searches is their answer, not perturbed: hence the drop at the end of
their lines. "cma" is the reference package, "cma, diagonal" the same with CMA_diagonal = True. Full matrices are left out
at 1000 dimensions, where they would take an hour for a seed of all functions.

Where no strategy is named `lopt.es.minimize` takes cma below 100 coordinates and sep_cma from there on, and antithetic
where losses are noisy, which none of these are.

![Lowest value against evaluations](es_quality.png)
"""


class Results(NamedTuple):
    """Contents of one d*.h5: best (function, search, seed, mark), evaluations (mark,), names, dimensions."""

    best: np.ndarray
    evaluations: np.ndarray
    functions: list[str]
    searches: list[str]
    dimensions: int


def results(folder: Path) -> list[Results]:
    """All dimensions that are there, in order."""
    found = []
    for path in folder.glob("d*.h5"):
        with h5py.File(path) as file:
            names = [[str(x) for x in file.attrs[k]] for k in ("functions", "searches")]
            arrays = file["best"][()], file["evaluations"][()]
            found.append(Results(*arrays, *names, int(file.attrs["dimensions"])))
    return sorted(found, key=lambda r: r.dimensions)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Median, and the order statistics that enclose the true median with at least 95 % probability.

    The number of seeds below the true median is binomial (n, 1/2), whatever the distribution; with
    fewer than 6 seeds it is the range.
    """
    ordered, n = np.sort(values), values.size
    k = max(int(binom.ppf(0.025, n, 0.5)), 1)
    return float(np.median(values)), float(ordered[k - 1]), float(ordered[n - k])


def markdown(folder: Path) -> str:
    """One table a dimension; the lowest median of a row, and what its interval overlaps, in bold."""
    lines = []
    for r in results(folder):
        count, seeds = int(r.evaluations[-1]), r.best.shape[2]
        lines += ["", f"{r.dimensions} dimensions, {count} evaluations, {seeds} seeds", ""]
        lines.append("| search | " + " | ".join(r.functions) + " |")
        lines.append("|---|" + "---|" * len(r.functions))
        columns = [[interval(best[:, -1]) for best in row] for row in r.best]
        for s, name in enumerate(r.searches):
            cells = [_cell(column, s) for column in columns]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(column: list[tuple[float, float, float]], s: int) -> str:
    winner = min(column)
    middle, low, high = column[s]
    text = "solved" if high < SOLVED else f"{_short(middle)} ({_short(low)} to {_short(high)})"
    return f"**{text}**" if low <= max(winner[2], SOLVED) else text


def _short(x: float) -> str:
    """Two significant digits."""
    if x < SOLVED:
        return "0"
    return (
        f"{x:.1e}".replace("e+0", "e").replace("e-0", "e-")
        if not 0.01 <= x < 1e4
        else f"{x:.2g}"
        if x < 100
        else f"{round(x, 1 - int(math.log10(x))):.0f}"
    )


def missed(folder: Path, expected: dict[str, Any]) -> list[str]:
    """Medians that are not as expected.  Of other budgets or seeds nothing is said."""
    failed = []
    for r in results(folder):
        bounds = expected.get(str(r.dimensions), {})
        if r.best.shape[2] != expected["seeds"] or bounds.get("evaluations") != r.evaluations[-1]:
            continue
        for claim in bounds["at_most"]:
            name, reference, function, factor = claim
            if {name, reference} <= set(r.searches):
                f, s, t = r.functions.index(function), *map(r.searches.index, (name, reference))
                ours, theirs = (max(np.median(r.best[f, k, :, -1]), SOLVED) for k in (s, t))
                if ours > factor * theirs:
                    failed.append(
                        f"{r.dimensions} dimensions, {function}: {name} {ours:.3g}, {reference} {theirs:.3g}"
                    )
    return failed
