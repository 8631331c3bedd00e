"""How fast this machine runs lopt, beside what arithmetic alone allows, what was asked and what a peer reached.

A suite is a function that yields figures; a new one is one file and one line of SUITES.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from lopt.bench import cpu, es, gpu, mpi, profile, roofline
from lopt.bench.measure import Figure, number, sgemm_rate, step_ms
from lopt.bench.mpi import launcher
from lopt.errors import UsageError, unknown

__all__ = [
    "SUITES",
    "Figure",
    "launcher",
    "line",
    "load",
    "report",
    "roofline",
    "run_suite",
    "save",
    "sgemm_rate",
    "step_ms",
]

SUITES = {
    "cpu": cpu.figures,
    "profile": profile.figures,
    "es": es.figures,
    "mpi": mpi.figures,
    "gpu": gpu.figures,
}
HEADINGS = ("what", "measured", "unit", "asked", "reached", "of floor", "sgemm", "peer")


def run_suite(suite: str) -> Iterator[Figure]:
    """Figures of a suite, or of all, as they are measured.

    Raises:
        UsageError: there is no such suite.
    """
    if suite != "all" and suite not in SUITES:
        raise UsageError(unknown("suite", suite, (*SUITES, "all")))
    for run in SUITES.values() if suite == "all" else (SUITES[suite],):
        yield from run()


def save(figures: Iterable[Figure], path: Path) -> None:
    """Write figures as JSON: a list of objects with the fields of `Figure`."""
    path.write_text(json.dumps([f._asdict() for f in figures], indent=2) + "\n")


def load(path: Path) -> list[Figure]:
    """Read what `save` wrote.

    Raises:
        UsageError: the file is something else.
    """
    try:
        return [Figure(**entry) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} holds no figures of `lopt bench`: {error}") from error


def report(figures: Iterable[Figure]) -> str:
    """The figures as a table in Markdown."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    return "\n".join(lines + [line(f) for f in figures])


def line(f: Figure) -> str:
    """One row of the table."""
    asked = "" if f.asked is None else f"{'<=' if f.at_most else '>='} {number(f.asked)}"
    asked = asked if f.expected is None else f"{f.expected:.4g} +- {f.error:.2g}"
    share = "" if f.share is None else f"{100 * f.share:.0f} %"
    peer = "" if f.peer_value is None else f"{number(f.peer_value)}, {f.peer}"
    cells = (
        f.name, "-" if f.value is None else number(f.value), f.note or f.unit, asked,
        {True: "yes", False: "no", None: ""}[f.reached], share,
        "" if f.sgemm is None else f"{f.sgemm:.0f}", peer,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"
