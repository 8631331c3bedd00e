"""Noise made from its address against noise looked up in a shared table: speed, memory, error.

python -m lopt.bench.noise > docs/noise_table.md
"""

from collections.abc import Callable, Iterator

import numpy as np

from lopt import rng
from lopt.bench.measure import CLOCK, Figure, median_seconds, sgemm_rate
from lopt.comm import SerialComm
from lopt.es.noise import Counter, Noise, Table, table
from lopt.es.perturbation import NodeSum, streams
from lopt.es.strategies.sums import dots

SIZES = (2**20, 2**24, 2**26)  # numbers of a table: 4, 64 and 256 MiB
SHAPES = ((35_000, 256), (1_000_000, 64))  # coordinates and pairs
SMALL, COORDINATES = 2**12, 64  # of the table whose errors are measured, and of its gradients
RATIOS = (0.25, 1.0, 4.0)  # pairs for each number of that table
REPEATS = 100  # of an error
GRADIENTS: dict[str, Callable[[], np.ndarray]] = {
    "coordinates of random sign": lambda: np.sign(
        np.random.default_rng(0).normal(size=COORDINATES)
    ),
    "equal coordinates": lambda: np.ones(COORDINATES),
}


def figures() -> Iterator[Figure]:
    """Speed and memory of both ways, then the errors of means over pairs."""
    yield from speed()
    yield from errors()


def speed() -> list[Figure]:
    """Nanoseconds of one core for a coordinate of a pair, and memory of a node."""
    found = []
    for n, pairs in SHAPES:
        for label, source in sources(n):
            sums, one = seconds_of_a_sum(source, n, pairs), seconds_of_a_perturbation(source, n)
            found += [
                Figure(f"{label}: sum, {n} x {pairs}", 1e9 * sums / n / pairs, "ns/element"),
                Figure(f"{label}: one perturbation of {n}", 1e9 * one / n, "ns/element"),
            ]
    for size in SIZES:
        numbers = np.empty(size, np.float32)
        made = median_seconds(
            lambda numbers=numbers: rng.normals_into(numbers, 0, rng.stream(0), rng.TABLE, 0),
            3,
            CLOCK,
        )
        found += [
            Figure(f"{name_of(size)}: memory of a node", size * 4 / 2**20, "MiB"),
            Figure(f"{name_of(size)}: making it, one core", made, "s"),
        ]
    return found


def name_of(size: int) -> str:
    """How a table is called in the figures."""
    return f"table of 2^{size.bit_length() - 1}"


def sources(n: int) -> list[tuple[str, Noise]]:
    """Both ways of making n normals, tables that are too short left out."""
    tables = [(name_of(size), Table(table(size), n)) for size in SIZES if size >= n]
    return [("made anew", Counter()), *tables]


def seconds_of_a_sum(source: Noise, n: int, pairs: int) -> float:
    """Of a gradient's rebuilding: every perturbation once, added up."""
    node, addresses = NodeSum(SerialComm(), n), streams(0, 0, pairs)
    coefs = np.full(pairs, 0.1, np.float32)
    return median_seconds(
        lambda: node.rebuild(lambda out, start: source.add(out, start, coefs, addresses)), 3, CLOCK
    )


def seconds_of_a_perturbation(source: Noise, n: int, count: int = 16) -> float:
    """Of one z written down; a new one every time."""
    z, addresses = np.empty(n, np.float32), streams(0, 1, count)

    def fill() -> None:
        for address in addresses:
            source.fill(z, address)

    return median_seconds(fill, 3, CLOCK) / count


def errors() -> list[Figure]:
    """|mean of z (z.g) over N pairs - g|^2 / |g|^2, times M / D; its closed form is expected.

    In these units N independent perturbations leave M / N.  "error" is the figure's own standard error.
    """
    found, unit = [], SMALL / COORDINATES
    for kind, make in GRADIENTS.items():
        g = make()
        for ratio in RATIOS:
            pairs = int(ratio * SMALL)
            for how, size in (("made anew", 0), ("looked up", SMALL)):
                each = [unit * relative_error(size, g, pairs, k) for k in range(REPEATS)]
                label = f"error, {how}, {kind}, {ratio:g} M pairs"
                closed_form = unit * predicted(g, pairs, size)
                own = float(np.std(each)) / REPEATS**0.5
                found.append(
                    Figure(label, float(np.mean(each)), "D/M", expected=closed_form, error=own)
                )
    return found


def relative_error(size: int, g: np.ndarray, pairs: int, seed: int) -> float:
    """Of one mean over pairs; every seed has a table of its own, of `size` numbers (0: none)."""
    d = g.size
    addresses, node = streams(seed, 0, pairs), NodeSum(SerialComm(), d)
    if size:
        numbers = rng.normals(size, rng.stream(seed), rng.TABLE)
        source: Noise = Table(numbers, d)
        rows = np.lib.stride_tricks.sliding_window_view(numbers, d)
        slopes = (rows @ g)[Table(numbers, d).places(addresses)]
    else:
        source, slopes = Counter(), dots(addresses, g.astype(np.float32), node)
    coefs = (slopes / pairs).astype(np.float32)
    mean = node.rebuild(lambda out, start: source.add(out, start, coefs, addresses))
    return float(np.sum((mean - g) ** 2) / (g @ g))


def predicted(g: np.ndarray, pairs: int, size: int) -> float:
    """(D + 1) / N, and what a table of `size` numbers (0: none) adds; see `lopt.es.noise`."""
    alone = (g.size + 1) / pairs
    if size == 0:
        return alone
    ordered = (g[::2].sum() ** 2 + g[1::2].sum() ** 2) / (g @ g)
    return float(alone + (1 - 1 / pairs) * (g.size + ordered) / (size - g.size + 1))


def page(figures: list[Figure], sgemm: float) -> str:
    """The text of docs/noise_table.md."""
    by_name = {f.name: f for f in figures}
    return "\n".join(
        [
            _PREAMBLE.format(sgemm=sgemm),
            *_speed_table(by_name),
            "",
            _ABOUT_ERRORS.format(m=SMALL, d=COORDINATES, repeats=REPEATS),
            *_error_table(by_name),
            "",
            _ADVICE,
        ]
    )


def _speed_table(by_name: dict[str, Figure]) -> list[str]:
    heads = [f"{what}, {n} x {p}" for n, p in SHAPES for what in ("sum", "one")]
    lines = ["| perturbations | " + " | ".join(heads) + " | MiB of a node | s to make |"]
    lines.append("|---" * (len(heads) + 3) + "|")
    for label in ["made anew", *(name_of(size) for size in SIZES)]:
        cells = []
        for n, p in SHAPES:
            keys = f"{label}: sum, {n} x {p}", f"{label}: one perturbation of {n}"
            cells += [f"{by_name[k].value:.2f}" if k in by_name else "" for k in keys]
        memory, made = f"{label}: memory of a node", f"{label}: making it, one core"
        cells.append(f"{by_name[memory].value:.0f}" if memory in by_name else "0")
        cells.append(f"{by_name[made].value:.2f}" if made in by_name else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _error_table(by_name: dict[str, Figure]) -> list[str]:
    lines = ["| gradient | perturbations | " + " | ".join(f"{r:g} M" for r in RATIOS) + " |"]
    lines.append("|---" * (len(RATIOS) + 2) + "|")
    for kind in GRADIENTS:
        for how in ("made anew", "looked up"):
            row = [by_name[f"error, {how}, {kind}, {ratio:g} M pairs"] for ratio in RATIOS]
            cells = [f"{f.value:.2f} ± {f.error:.2f} ({f.expected:.2f})" for f in row]
            lines.append(f"| {kind} | {how} | " + " | ".join(cells) + " |")
    return lines


_PREAMBLE = """\
# Noise made anew, or looked up in a table

Written by `python -m lopt.bench.noise > docs/noise_table.md`; `lopt bench --suite es` shows the same figures.

A perturbation is D standard normals. By default they are made from their address by the counter-based generator
whenever someone needs them. The alternative (Salimans et al. 2017) is one table of M normals on every node: a
perturbation is D neighbours in it, from a random place on. Choose it with

    lopt.es.minimize(f, x0, strategy="noise_table", numbers=2**24, ...)
    lopt train --config F.toml --out DIR --set es.noise_table=16777216

## Speed and memory

Nanoseconds of a core for a coordinate of a pair, medians of 3: "sum" is a gradient's rebuilding, all perturbations
added up; "one" is a single perturbation written down. The same process multiplied 2048 x 2048 matrices at
{sgemm:.0f} GFLOP/s. Made anew, a perturbation takes no memory.
"""

_ABOUT_ERRORS = """\
## Error

Slices overlap. For two of them at places d apart the estimates z (z.g) of a linear loss have a covariance of
sum_j g_(j+d) g_(j-d), and of (D + 1) |g|^2 at the same place. Over all places that adds up to

    |mean over N pairs - g|^2 / |g|^2 = (D + 1) / N + c (D + 1) / (M - D + 1),   c = (D + (E^2 + O^2) / |g|^2) / (D + 1)

with E and O the sums of g's even and odd coordinates: c = 1 if the coordinates of g have no order, 3/2 if all are equal.
The second term is the bias of the table at hand; no number of pairs takes it away. Measured ± its standard error
(predicted) for M = {m} and D = {d}, means over {repeats} tables, in units of D / M, for N a multiple of M:
"""

_ADVICE = """\
A table of M numbers is worth about M pairs, whatever D is. As long as all pairs that a run averages over in
effect (a few hundred outer steps of them, for an optimizer with momentum) are far fewer than M, the table does no harm.
It pays when making noise takes a noticeable share of a run: evaluations of a few nanoseconds per coordinate, on nodes
whose memory is not busy otherwise. Ranks of a node share one table, and also the memory bandwidth to read it."""


if __name__ == "__main__":
    print(page(list(figures()), sgemm_rate(clock=CLOCK)))
