"""The picture of `run.py`'s files: losses in the course of training, and test losses over learning rates.

python experiments/18_resnet/plot.py runs/resnet/FILE.h5 ...
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lopt.judgement import final_valid
from lopt.plots import FONT, STYLES, legend_below, new_figure
from lopt.store import Curves, read_curves


class Panel(NamedTuple):
    """A network: title, task and curves file."""

    title: str
    task: str
    path: Path


class Trial(NamedTuple):
    """Entrant of a curves file, and its learning rate as text; "" if it is none of a search."""

    entrant: int
    rate: str


def main() -> None:
    """Draw what files hold, beside the first; titles are the names of the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    files = parser.parse_args().files
    panels = [Panel(path.stem, read_curves(path).tasks[0], path) for path in files]
    draw(panels, files[0].parent / "resnet.png")


def trials(curves: Curves) -> Iterator[tuple[str, Trial]]:
    """Every entrant with its family, in the file's order."""
    for k, entrant in enumerate(curves.entrants):
        rate = json.loads(entrant.spec).get("learning_rate") if entrant.variant == "tuned" else None
        yield entrant.family, Trial(k, "" if rate is None else f"{rate:g}")


def families(curves: Curves) -> list[str]:
    """Families in the file's order."""
    return list(dict.fromkeys(e.family for e in curves.entrants))


def best_member(curves: Curves, task: int, family: str) -> int:
    """The trial of a family with the lowest final validation loss, mean of the seeds."""
    members = curves.members(family)
    ends = [final_valid(curves, curves.rows(task, k)).mean() for k in members]
    return members[int(np.nanargmin(ends))]


def draw(panels: list[Panel], path: Path) -> None:
    """A row for each network: training and validation losses over steps, test losses over rates."""
    figure, axes = new_figure(12.6, 3.9 * len(panels), len(panels), 3)
    for row, panel in zip(axes, panels, strict=True):
        curves = read_curves(panel.path)
        i = curves.tasks.index(panel.task)
        course(row[0], curves, i, "train", "training loss")
        course(row[1], curves, i, "valid", "validation loss")
        over_rates(row[2], curves, i)
        row[0].set_title(panel.title, fontsize=FONT + 1, loc="left", fontweight="bold")
        row[1].set_title("searches: trial with the lowest validation loss", fontsize=FONT)
        row[2].set_title("test loss, median and range of the seeds", fontsize=FONT)
    legend_below(figure, 3, *axes[0, 0].get_legend_handles_labels())
    figure.savefig(path)


def course(ax: Axes, curves: Curves, task: int, column: str, label: str) -> None:
    """A line for each family: median of the seeds."""
    for family, (colour, dash) in zip(families(curves), STYLES, strict=False):
        rows = curves.rows(task, best_member(curves, task, family))
        middle = np.median(curves.runs[column][rows], axis=0)
        # training losses are means since the step before: there is none at step 0
        begin = int(column == "train")
        ax.plot(curves.steps[begin:], middle[begin:], color=colour, ls=dash, lw=1.3, label=family)
    ax.set(xlabel="step", ylabel=label, yscale="log")


def over_rates(ax: Axes, curves: Curves, task: int) -> None:
    """Searches over their rates; others as horizontal lines."""
    for family, (colour, dash) in zip(families(curves), STYLES, strict=False):
        own = [t for f, t in trials(curves) if f == family]
        ends = [curves.runs["test"][curves.rows(task, t.entrant)] for t in own]
        middle = [np.median(v) for v in ends]
        if not own[0].rate:
            ax.axhline(middle[0], color=colour, ls=dash, lw=1.3)
            continue
        x = np.array([float(t.rate) for t in own])
        order = np.argsort(x)
        ax.plot(x[order], np.array(middle)[order], color=colour, ls=dash, lw=1.3, marker="o", ms=4)
        ax.vlines(x, [v.min() for v in ends], [v.max() for v in ends], color=colour, lw=0.9)
    ax.set(xlabel="learning rate", ylabel="test loss", xscale="log", yscale="log")


if __name__ == "__main__":
    main()
