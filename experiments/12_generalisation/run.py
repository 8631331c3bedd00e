"""Train perceptrons inside and far outside the training range of learned optimizers, one thing changed at a time.

python experiments/12_generalisation/run.py --out runs/generalisation
"""

import sys
from pathlib import Path

import numpy as np
from plot import coordinates, draw, log_ratio, shown

from lopt.comm import aborting, get_comm
from lopt.comparison import ComparisonConfig, compare
from lopt.experiment import begin, command_line, toml, verdict
from lopt.rollout import DIVERGED
from lopt.store import Curves, read_curves

HERE = Path(__file__).parent


def main() -> int:
    """Curves, picture, table; the exit code says whether expected.toml was met."""
    args, _ = begin(command_line(__doc__), HERE, ComparisonConfig)
    comm, path = get_comm(), args.out / f"{args.config.stem}.h5"
    with aborting(comm):
        notes = compare(args.config, path, comm)
    if comm.rank != 0:
        return 0
    print("\n".join(notes))
    curves = read_curves(path)
    expected = toml(HERE / "expected.toml")
    draw(curves, expected["inside"], args.out / "generalisation.png")
    return report(curves, expected)


def report(curves: Curves, expected: dict) -> int:
    """Log ratios of test losses to the best of the search, task by task, and the verdict."""
    where, missed = coordinates(curves.tasks), []
    inside = [all(is_inside(expected["inside"][k], v) for k, v in c.items()) for c in where]
    print(f"| {' | '.join(where[0])} | inside | {' | '.join(shown(curves))} |")
    print("|" + "---|" * (len(where[0]) + 1 + len(shown(curves))))
    for i, place in enumerate(where):
        ratios = [f"{log_ratio(curves, i, f):+.2f}" for f in shown(curves)]
        print(
            f"| {' | '.join(map(str, place.values()))} | {'yes' if inside[i] else 'no'} | {' | '.join(ratios)} |"
        )
    for family in (f for f in shown(curves) if f != "adam"):
        ratio = np.median([log_ratio(curves, i, family) for i in np.flatnonzero(inside)])
        own = np.isin(curves.runs["entrant"], curves.members(family)[:1])
        own &= np.isin(curves.runs["task"], np.flatnonzero(inside))
        lost = float(np.mean(curves.runs["status"][own] == DIVERGED))
        print(f"{family}, inside: median log ratio {ratio:+.3f}, diverged {100 * lost:.0f} %")
        good = ratio <= expected["log_ratio_inside"] and lost <= expected["diverged_inside"]
        if family in curves.kinds("learned") and not good:
            missed.append(family)
    return verdict(missed)


def is_inside(known: list, value: object) -> bool:
    """Whether a value is in a range of numbers, or one of some names."""
    return value in known if isinstance(value, str) else known[0] <= value <= known[1]


if __name__ == "__main__":
    sys.exit(main())
