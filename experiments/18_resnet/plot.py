"""Picture, tables and verdict of `run.py`'s files: losses in the course of training, and test losses over learning rates.

python experiments/18_resnet/plot.py                  what is committed, into docs/
python experiments/18_resnet/plot.py runs/resnet
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lopt.experiment import results_and_picture, toml, verdict
from lopt.judgement import best_losses, best_runs
from lopt.plots import FONT, STYLES, legend_below, new_figure
from lopt.rollout import DIVERGED
from lopt.store import Curves, read_curves
from lopt.tasks import parse_task_spec

HERE = Path(__file__).parent
PICTURE = "resnet.png"


class Panel(NamedTuple):
    """A network: title, task and curves file."""

    title: str
    task: str
    path: Path


class Trial(NamedTuple):
    """Entrant of a curves file, and its learning rate as text; "" if it is none of a search."""

    entrant: int
    rate: str


def main() -> int:
    """Draw and judge what a folder holds."""
    folder, picture = results_and_picture(__doc__, HERE, "results", PICTURE)
    panels = sorted((panel_of(path) for path in folder.glob("*.h5")), key=network_of)
    draw(panels, picture)
    return report(panels)


def panel_of(path: Path) -> Panel:
    """The network of a file, under the name of its data."""
    (name,) = read_curves(path).tasks
    _, options, _ = parse_task_spec(name)
    title = Path(options["data"]).stem
    if "stands_for" in options:
        title = f"{options['stands_for']}, stand-in: {title}"
    return Panel(title, name, path)


def network_of(panel: Panel) -> str:
    """What panels are put in order by: the published network."""
    return parse_task_spec(panel.task)[1].get("network", "")


def trials(curves: Curves) -> Iterator[tuple[str, Trial]]:
    """Every entrant with its family, in the file's order."""
    for k, entrant in enumerate(curves.entrants):
        rate = json.loads(entrant.spec).get("learning_rate") if entrant.variant == "tuned" else None
        yield entrant.family, Trial(k, "" if rate is None else f"{rate:g}")


def families(curves: Curves) -> list[str]:
    """Families in the file's order."""
    return list(dict.fromkeys(e.family for e in curves.entrants))


def draw(panels: list[Panel], picture: Path) -> None:
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
        seeds = len(set(curves.runs["seed"].tolist()))
        of = "one seed" if seeds == 1 else f"median and range of {seeds} seeds"
        row[2].set_title(f"test loss, {of}", fontsize=FONT)
    legend_below(figure, 3, *axes[0, 0].get_legend_handles_labels())
    figure.savefig(picture)


def course(ax: Axes, curves: Curves, task: int, column: str, label: str) -> None:
    """A line for each family: median of the seeds."""
    for family, (colour, dash) in zip(families(curves), STYLES, strict=False):
        rows = best_runs(curves, task, family, len(curves.members(family)))
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


def report(panels: list[Panel]) -> int:
    """Losses of every trial, and the verdict."""
    expected = toml(HERE / "expected.toml")
    missed = []
    for panel in panels:
        curves = read_curves(panel.path)
        i = curves.tasks.index(panel.task)
        print(f"\n{panel.title}: after {curves.steps[-1]} steps, medians of the seeds\n")
        print("| optimizer | rate | test loss | validation loss | training loss | diverged |")
        print("|---|---|---|---|---|---|")
        lost = {}
        for family, trial in trials(curves):
            rows = curves.rows(i, trial.entrant)
            columns = {
                n: np.median(curves.runs[n][rows], axis=0) for n in ("test", "valid", "train")
            }
            test, valid, train_loss = columns["test"], columns["valid"][-1], columns["train"][-1]
            lost[family] = float(np.mean(curves.runs["status"][rows] == DIVERGED))
            losses = f"{test:.4f} | {valid:.4f} | {train_loss:.4f}"
            print(f"| {family} | {trial.rate} | {losses} | {100 * lost[family]:.0f} % |")
        ends = {f: float(np.median(best_losses(curves, i, f))) for f in lost}
        tuned = min(ends[f] for f in curves.kinds("tuned"))
        for family in (*curves.kinds("learned"), *curves.kinds("default")):
            ratio = float(np.log(ends[family] / tuned))
            print(f"{family}: log ratio to the best of all searches {ratio:+.3f}")
            if not (ratio <= expected["log_ratio"] and lost[family] <= expected["diverged"]):
                missed.append(f"{family} on {panel.title}: {ratio:+.3f}")
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
