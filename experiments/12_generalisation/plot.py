"""Picture, table and verdict of `run.py`'s file: losses along every axis, the training range shaded.

python experiments/12_generalisation/plot.py                                      what is committed, into docs/
python experiments/12_generalisation/plot.py runs/generalisation/config.h5
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lopt import scores
from lopt.experiment import results_and_picture, toml, verdict
from lopt.judgement import best_losses, best_runs, final_train
from lopt.plots import FONT, STYLES, legend_below, new_figure
from lopt.rollout import DIVERGED
from lopt.store import Curves, read_curves
from lopt.tasks import parse_task_spec

HERE = Path(__file__).parent
PICTURE = "generalisation.png"


def main() -> int:
    """Draw and judge what a file holds."""
    path, picture = results_and_picture(__doc__, HERE, "results/config.h5", PICTURE)
    draw(path, picture)
    return report(path)


def coordinates(tasks: tuple[str, ...]) -> list[dict[str, Any]]:
    """Where each task is on every axis."""
    found = []
    for name in tasks:
        _, options, _ = parse_task_spec(name)
        found.append({
            "width": options["hidden"][0],
            "depth": len(options["hidden"]),
            "batch size": options["batch_size"],
            "training examples": options["n_train"],
            "activation": options["activation"],
        })  # fmt: skip
    return found


def along(tasks: tuple[str, ...], axis: str) -> list[int]:
    """The centre and the tasks that differ from it on that axis alone, by value; the centre first among names."""
    where = coordinates(tasks)
    mine = [
        i for i, c in enumerate(where) if all(v == where[0][k] for k, v in c.items() if k != axis)
    ]
    names = isinstance(where[0][axis], str)
    return sorted(mine, key=lambda i: i if names else where[i][axis])


def shown(curves: Curves) -> list[str]:
    """Optimizers that are compared with the search: each with one setting."""
    return [*curves.kinds("learned"), *curves.kinds("default")]


def log_ratio(curves: Curves, task: int, family: str) -> float:
    """log of the median test loss over that of the best trial of the file's search."""
    search = curves.kinds("tuned")[0]
    own, best = (float(np.median(best_losses(curves, task, f))) for f in (family, search))
    return scores.log_ratio(own, best, float(curves.lowest[task]))


def train_losses(curves: Curves, task: int, family: str) -> np.ndarray:
    """Losses of training batches at the end of the runs that `best_losses` takes, by seed."""
    return final_train(curves, best_runs(curves, task, family, len(curves.members(family))))


MEASURES = {"test loss": best_losses, "training loss": train_losses}


def draw(path: Path, picture: Path) -> None:
    """A panel for each axis, test losses above training losses."""
    curves, inside = read_curves(path), toml(HERE / "expected.toml")["inside"]
    centre = coordinates(curves.tasks)[0]
    figure, axes = new_figure(14, 6.4, len(MEASURES), len(centre))
    for row, (name, measure) in zip(axes, MEASURES.items(), strict=True):
        for ax, axis in zip(row, centre, strict=True):
            panel(ax, curves, axis, inside[axis], measure)
        row[0].set_ylabel(name)
    legend_below(figure, 5, *axes[0, 0].get_legend_handles_labels())
    figure.suptitle(
        f"After {curves.steps[-1]} steps: median and range of the seeds; grey: training range of "
        "learned optimizers; searches: trial with the lowest validation loss",
        fontsize=FONT + 1,
    )
    figure.savefig(picture)


def panel(ax: Axes, curves: Curves, axis: str, inside: list, measure: Callable) -> None:
    """Losses of every optimizer along one axis."""
    tasks = along(curves.tasks, axis)
    values = [coordinates(curves.tasks)[i][axis] for i in tasks]
    named = isinstance(values[0], str)
    x = np.arange(len(values)) if named else np.array(values, float)
    families = [*shown(curves), *curves.kinds("tuned")]
    for family, (colour, dash) in zip(families, STYLES, strict=False):
        losses = [measure(curves, i, family) for i in tasks]
        middle, dash = [np.median(v) for v in losses], "none" if named else dash
        label = f"best of {family}" if family in curves.kinds("tuned") else family
        ax.plot(x, middle, color=colour, ls=dash, marker="o", ms=3.5, lw=1.4, label=label)
        ax.vlines(x, [v.min() for v in losses], [v.max() for v in losses], color=colour, lw=0.9)
    if named:
        ax.set_xticks(x, values, rotation=60, ha="right")
        for k, value in enumerate(values):
            if value in inside:
                ax.axvspan(k - 0.5, k + 0.5, color="#ececec", zorder=0)
    else:
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [f"{v:g}" for v in x])
        ax.minorticks_off()
        ax.axvspan(*inside, color="#ececec", zorder=0)
    ax.margins(x=0.08)
    ax.set(yscale="log", xlabel=axis)
    ax.tick_params(which="both", labelsize=FONT - 2)


def report(path: Path) -> int:
    """Log ratios of test losses to the best of the search, task by task, and the verdict."""
    curves, expected = read_curves(path), toml(HERE / "expected.toml")
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
