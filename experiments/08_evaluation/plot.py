"""Pictures of a comparison's curves file.

python experiments/08_evaluation/plot.py runs/evaluation/config.h5
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from lopt.experiment import path_argument
from lopt.judgement import duel, median_curve, speed_ups
from lopt.plots import FONT, STYLES, band, legend_below, new_figure, new_panels
from lopt.store import Curves, read_curves
from lopt.sweep import folder_name

COLUMNS = 5
FAR = 1e3  # times the lowest loss of a panel: what is above leaves the picture


def main() -> None:
    """Draw what a file holds, beside it."""
    path = path_argument(__doc__, "curves")
    curves = read_curves(path)
    (draw_long if path.stem == "long" else draw)(curves, path.parent)


def draw(curves: Curves, folder: Path) -> None:
    """curves.png, overfitting.png; with a learned optimizer also wins.png and families.png."""
    learned = curves.kinds("learned")
    loss_curves(curves).savefig(folder / "curves.png")
    train_and_held_out(curves).savefig(folder / "overfitting.png")
    for name in learned:
        wins(curves, name).savefig(folder / f"wins_{folder_name(name)}.png")
        families(curves, name).savefig(folder / f"families_{folder_name(name)}.png")


def draw_long(curves: Curves, folder: Path) -> None:
    """long.png: the same curves far beyond the horizon of meta-training."""
    loss_curves(curves).savefig(folder / "long.png")


def chosen(curves: Curves, task: int) -> dict[str, int]:
    """Entrants to draw on one task: learned ones, default Adam, and the best trial of the first two searches."""
    found = {
        f: curves.members(f)[0] for f in (*curves.kinds("learned"), *curves.kinds("default")[:1])
    }
    if not curves.kinds("learned"):
        found |= {f: curves.members(f)[0] for f in curves.kinds("default")}
    for search in curves.kinds("tuned")[:2]:
        finals = {}
        for entrant in curves.members(search):
            curve = median_curve(curves, task, entrant)
            if curve is not None:
                finals[entrant] = float(curve[-1])
        if finals:
            found[f"{search}: best"] = min(finals, key=finals.__getitem__)
    return found


def panels(curves: Curves) -> tuple:
    """A panel for the first task of every family of tasks; (figure, [(axes, task)])."""
    tasks = [curves.families.index(f) for f in dict.fromkeys(curves.families)]
    figure, axes = new_panels(len(tasks), COLUMNS, 2.9, 2.3, margin=0.9)
    pairs = list(zip(axes, tasks, strict=True))
    for ax, task in pairs:
        ax.set_title(curves.families[task], fontsize=FONT)
        ax.tick_params(which="both", labelsize=FONT - 2)
    return figure, pairs


def scale(ax: Axes, curves: Curves, task: int, shown: list[np.ndarray]) -> None:
    """From the lowest loss to the initial one; logarithmic where losses are positive."""
    values = np.concatenate([np.ravel(s) for s in shown])
    start = float(np.median(curves.runs["valid"][curves.runs["task"] == task, 0]))
    low = float(values.min())
    if low > 0:
        ax.set_yscale("log")
        top = min(start, FAR * low)
        margin = (top / low) ** 0.05
        ax.set_ylim(low / margin, top * margin)
    else:
        ax.set_ylim(low - 0.05 * (start - low), start + 0.1 * (start - low))


def loss_curves(curves: Curves):
    """Outer-validation loss on a task of every family: median of the seeds, band from lowest to highest."""
    figure, pairs = panels(curves)
    for ax, task in pairs:
        shown = []
        for entrant, style in zip(chosen(curves, task).values(), STYLES, strict=False):
            runs = curves.runs["valid"][curves.rows(task, entrant)]
            shown.append(band(ax, curves.steps, runs, style))
        scale(ax, curves, task, shown)
    seeds = curves.runs["seed"].max() + 1
    figure.suptitle(
        f"Outer-validation loss over inner steps: median and range of {seeds} seeds",
        fontsize=FONT + 1,
    )
    legend(figure, curves)
    return figure


def train_and_held_out(curves: Curves):
    """Loss of training batches (thin) beside outer-validation loss (thick): where they part is overfitting.

    A training loss is a mean since the point before, so it stands half way between the two.
    """
    middle = curves.steps - np.diff(curves.steps, prepend=0) / 2
    figure, pairs = panels(curves)
    for ax, task in pairs:
        shown = []
        for (_, entrant), (colour, dash) in zip(chosen(curves, task).items(), STYLES, strict=False):
            for column, width in (("train", 0.6), ("valid", 1.6)):
                shown.append(median_curve(curves, task, entrant, column))
                x = middle if column == "train" else curves.steps
                ax.plot(x, shown[-1], color=colour, ls=dash, lw=width)
        scale(ax, curves, task, shown)
    figure.suptitle(
        "Training loss (thin) beside outer-validation loss (thick), medians of the seeds",
        fontsize=FONT + 1,
    )
    legend(figure, curves)
    return figure


def legend(figure, curves: Curves) -> None:
    """One for all panels: every entrant looks the same in each."""
    lines = [ax.lines for ax in figure.axes if ax.lines]
    names = list(chosen(curves, 0))
    step = len(lines[0]) // len(names)
    legend_below(figure, 4, lines[0][step - 1 :: step], names)


def wins(curves: Curves, learned: str):
    """Share of the tasks on which the learned optimizer's test loss is lower: two fights, side by side."""
    defaults = [(f, duel(curves, learned, f, 1)) for f in curves.kinds("default")]
    searches = []
    for f in curves.kinds("tuned"):
        n = len(curves.members(f))
        searches += [
            (f"{f}, {k} trials", duel(curves, learned, f, k))
            for k in sorted({1, 10, 100, n})
            if k <= n
        ]
    figure, axes = new_figure(11, 1.4 + 0.3 * max(len(defaults), len(searches)), 1, 2)
    titles = "default against default", "equal trials (or as many as there are)"
    for ax, rows, title in zip(axes[0], (defaults, searches), titles, strict=True):
        share = [100 * d["win_rate"] for _, d in rows]
        bars = ax.barh(
            [name for name, _ in rows], share, color="#9ec4dd", edgecolor="black", lw=0.6
        )
        labels = [
            f"{s:.0f} %   ({d['log_ratio']['median']:+.2f})"
            for s, (_, d) in zip(share, rows, strict=True)
        ]
        ax.bar_label(bars, labels, fontsize=FONT - 1, padding=3)
        ax.axvline(50, color="#606060", lw=0.8, zorder=0)
        ax.set(xlim=(0, 125), xlabel="% of tasks won (median log ratio of test losses)")
        ax.set_title(title, fontsize=FONT)
        ax.invert_yaxis()
        ax.tick_params(labelsize=FONT - 1)
    figure.suptitle(f"{learned}: tasks won, {curves.steps[-1]} steps", fontsize=FONT + 1)
    return figure


def families(curves: Curves, learned: str):
    """By family of tasks: speed-up over the first search's envelope, and log ratios of test losses, a dot a task."""
    search, rival = curves.kinds("tuned")[0], curves.kinds("default")[0]
    speeds = speed_ups(curves, learned, search)
    names = list(dict.fromkeys(curves.families))
    figure, axes = new_figure(11, 1.6 + 0.3 * len(names), 1, 2)
    place = {f: k for k, f in enumerate(names)}
    of_task = dict(zip(curves.tasks, curves.families, strict=True))
    limit = max((s.value for s in speeds.values() if s.saturated), default=None)
    ratios = duel(curves, learned, rival, 1)["by_family"]
    for ax, values, title in (
        (axes[0, 0], {f: np.median([s.value for t, s in speeds.items() if of_task[t] == f]) for f in names},
         f"median speed-up over {search}"),
        (axes[0, 1], {f: 100 * ratios[f]["win_rate"] for f in names}, f"% of tasks won against default {rival}"),
    ):  # fmt: skip
        ax.barh(list(place), [values[f] for f in names], color="#cfe1ec", edgecolor="black", lw=0.6)
        ax.set_title(title, fontsize=FONT)
        ax.invert_yaxis()
        ax.tick_params(labelsize=FONT - 1)
    for task, s in speeds.items():
        marker = ">" if s.saturated else "o"
        axes[0, 0].plot(s.value, place[of_task[task]], marker, ms=4, color="black", alpha=0.6)
    axes[0, 0].axvline(1, color="#606060", lw=0.8, zorder=0)
    axes[0, 1].axvline(50, color="#606060", lw=0.8, zorder=0)
    if limit is not None:
        axes[0, 0].set_xlabel(
            f"a dot a task; triangles: {search} does not get there, at least {limit:g}",
            fontsize=FONT - 1,
        )
    figure.suptitle(f"{learned}, by family of tasks", fontsize=FONT + 1)
    return figure


if __name__ == "__main__":
    main()
