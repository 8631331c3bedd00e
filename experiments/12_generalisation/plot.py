"""The picture of `run.py`'s file: test losses along every axis, the training range shaded.

python experiments/12_generalisation/plot.py runs/generalisation/config.h5
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lopt import scores
from lopt.experiment import path_argument, toml
from lopt.judgement import best_losses
from lopt.plots import FONT, STYLES, legend_below, new_figure
from lopt.store import Curves, read_curves
from lopt.tasks import parse_task_spec

HERE = Path(__file__).parent


def main() -> None:
    """Draw what a file holds, beside it."""
    path = path_argument(__doc__, "curves")
    inside = toml(HERE / "expected.toml")["inside"]
    draw(read_curves(path), inside, path.parent / "generalisation.png")


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


def draw(curves: Curves, inside: dict[str, list], path: Path) -> None:
    """A panel for each axis."""
    centre = coordinates(curves.tasks)[0]
    figure, axes = new_figure(14, 3.6, 1, len(centre))
    for ax, axis in zip(axes[0], centre, strict=True):
        panel(ax, curves, axis, inside[axis])
    legend_below(figure, 5, *axes[0, 0].get_legend_handles_labels())
    figure.suptitle(
        f"Test loss after {curves.steps[-1]} steps, median and range of the seeds; grey: training range",
        fontsize=FONT + 1,
    )
    figure.savefig(path)


def panel(ax: Axes, curves: Curves, axis: str, inside: list) -> None:
    """Losses of every optimizer along one axis."""
    tasks = along(curves.tasks, axis)
    values = [coordinates(curves.tasks)[i][axis] for i in tasks]
    named = isinstance(values[0], str)
    x = np.arange(len(values)) if named else np.array(values, float)
    for family, (colour, dash) in zip(
        [*shown(curves), *curves.kinds("tuned")], STYLES, strict=False
    ):
        losses = [best_losses(curves, i, family) for i in tasks]
        middle = [np.median(v) for v in losses]
        label = f"best of {family}" if family in curves.kinds("tuned") else family
        ax.plot(
            x,
            middle,
            color=colour,
            ls="none" if named else dash,
            marker="o",
            ms=3.5,
            lw=1.4,
            label=label,
        )
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


if __name__ == "__main__":
    main()
