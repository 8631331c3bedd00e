"""Pictures of a comparison's curves file.

python experiments/08_evaluation/plot.py runs/evaluation/config.h5
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from lopt.errors import UsageError, unknown
from lopt.experiment import path_argument
from lopt.judgement import TaskResult, best_runs, judge, speed_ups, task_results
from lopt.plots import FONT, STYLES, band, legend_below, new_figure, new_panels
from lopt.scores import win_rate
from lopt.store import Curves, read_curves
from lopt.sweep import folder_name

COLUMNS = 5
FEW_DECADES = 50
BAR, MEDIAN, LINE = "#9ec4dd", "#ca5a00", "#606060"


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


def shown(curves: Curves, learned: Sequence[str] | None) -> list[str]:
    """Families to draw: learned ones, the first default, the first two searches; without a learned one all defaults.

    Args:
        learned: which learned ones; None: the first of the file, as many as there are line styles.

    Raises:
        UsageError: no such learned optimizer in the file, or too many of them.
    """
    known, defaults = curves.kinds("learned"), curves.kinds("default")
    searches = curves.kinds("tuned")[:2]
    others = [*(defaults[:1] if known else defaults[: len(STYLES) - len(searches)]), *searches]
    room = len(STYLES) - len(others)
    chosen = known[:room] if learned is None else list(learned)
    if missing := [name for name in chosen if name not in known]:
        raise UsageError(unknown("learned entrant", missing[0], known))
    if len(chosen) > room:
        raise UsageError(f"{len(chosen)} learned entrants: a picture has lines for {room}")
    return [*chosen, *others]


def entries(curves: Curves, task: int, families: Sequence[str]) -> list[tuple[str, tuple, Any]]:
    """Name, style and runs of each family on a task; of several trials those of the best."""
    found = []
    for family, style in zip(families, STYLES[: len(families)], strict=True):
        trials = len(curves.members(family))
        name = family if trials == 1 else f"{family}: best"
        rows = best_runs(curves, task, family, trials)
        if rows.size:
            found.append((name, style, rows))
    return found


def loss_curves(curves: Curves, learned: Sequence[str] | None = None) -> Figure:
    """Outer-validation loss on a task of every family: median of the seeds, band from lowest to highest."""

    def one(ax: Axes, name: str, style: tuple, rows: np.ndarray) -> list[np.ndarray]:
        return [band(ax, curves.steps, curves.runs["valid"][rows], style, label=name)]

    seeds = int(curves.runs["seed"].max()) + 1
    title = f"Outer-validation loss, first task of each family: median and range of {seeds} seeds"
    return panels(curves, shown(curves, learned), one, title)


def train_and_held_out(curves: Curves, learned: Sequence[str] | None = None) -> Figure:
    """Loss of training batches (thin) beside outer-validation loss (thick): where they part is overfitting.

    A training loss is a mean since the point before, so it stands half way between the two.
    """
    middle = curves.steps - np.diff(curves.steps, prepend=0) / 2

    def one(ax: Axes, name: str, style: tuple, rows: np.ndarray) -> list[np.ndarray]:
        return [
            band(ax, middle, curves.runs["train"][rows], style, 0.6),
            band(ax, curves.steps, curves.runs["valid"][rows], style, 1.6, name),
        ]

    title = (
        "Training loss (thin) beside outer-validation loss (thick): medians and ranges of the seeds"
    )
    return panels(curves, shown(curves, learned), one, title)


def panels(curves: Curves, families: Sequence[str], one: Callable, title: str) -> Figure:
    """A panel for the first task of every family of tasks; `one` draws an optimizer and returns its medians."""
    tasks = [curves.families.index(f) for f in dict.fromkeys(curves.families)]
    figure, axes = new_panels(len(tasks), COLUMNS, 2.9, 2.3, margin=0.9)
    handles = {}
    for ax, task in zip(axes, tasks, strict=True):
        medians = [line for entry in entries(curves, task, families) for line in one(ax, *entry)]
        start = float(np.median(curves.runs["valid"][curves.runs["task"] == task, 0]))
        limits(ax, min(float(line.min()) for line in medians), start)
        ax.set_title(curves.families[task], fontsize=FONT)
        ax.tick_params(which="both", labelsize=FONT - 2)
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    for ax in axes[-COLUMNS:]:
        ax.set_xlabel("inner step", fontsize=FONT)
    figure.supylabel("loss", fontsize=FONT)
    figure.suptitle(title, fontsize=FONT + 1)
    legend_below(figure, 4, handles.values(), handles)
    return figure


def limits(ax: Axes, low: float, start: float) -> None:
    """From the lowest loss to the initial one; logarithmic where losses are positive, few decades with plain numbers."""
    if low <= 0:
        ax.set_ylim(low - 0.05 * (start - low), start + 0.1 * (start - low))
        return
    ax.set_yscale("log")
    margin = (start / low) ** 0.05
    ax.set_ylim(low / margin, start * margin)
    if start < FEW_DECADES * low:
        near = start < 3 * low
        ax.yaxis.set_major_locator(MaxNLocator(5) if near else LogLocator(subs=(1, 2, 3, 4, 6)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def wins(curves: Curves, learned: str) -> Figure:
    """Share of the tasks on which the learned optimizer's test loss is lower, with its interval: two fights, side by side."""
    found = judge(curves, learned)
    defaults = list(found["default_against_default"].items())
    searches = [
        (f"{f}: {d['trials'][0]} trial{'s' * (d['trials'][0] > 1)} against {d['trials'][1]}", d)
        for f, by in found["equal_trials"].items()
        for d in by.values()
    ]
    figure, axes = new_figure(12, 1.6 + 0.3 * max(len(defaults), len(searches)), 1, 2)
    titles = "default against default", "searches: its trials against theirs"
    for ax, rows, title in zip(axes[0], (defaults, searches), titles, strict=True):
        share, low, high = (
            100 * np.array([d[k] for _, d in rows], float)
            for k in ("win_rate", "win_low", "win_high")
        )
        names = [name for name, _ in rows]
        ax.barh(names, share, color=BAR, edgecolor="black", lw=0.6)
        ends = np.maximum([share - low, high - share], 0)
        ax.errorbar(share, names, xerr=ends, fmt="none", ecolor="black", lw=0.9, capsize=2)
        for place, (_, d) in enumerate(rows):
            text = f"{100 * d['win_rate']:.0f} %"
            if d["log_ratio"]["n"]:
                text += f"   ({d['log_ratio']['median']:+.2f})"
            ax.text(102, place, text, va="center", fontsize=FONT - 1)
        known = sorted({d["log_ratio"]["n"] for _, d in rows})
        of = f"{known[0]}" if len(known) == 1 else "those"
        ax.axvline(50, color=LINE, lw=0.8, zorder=0)
        ax.set(xlim=(0, 128), xticks=range(0, 101, 20))
        ax.set_xlabel(
            f"% of {found['tasks']} tasks won, 95 % intervals\n"
            f"(median log ratio of test losses, over {of} with a known lowest loss)",
            fontsize=FONT - 1,
        )
        ax.set_title(title, fontsize=FONT)
        ax.invert_yaxis()
        ax.tick_params(labelsize=FONT - 1)
    figure.suptitle(f"{learned}: tasks won, {found['steps']} steps", fontsize=FONT + 1)
    return figure


def families(curves: Curves, learned: str) -> Figure:
    """By family of tasks, a dot a task: speed-up over the first search, log ratios to a default and to a tuned rival."""
    names, searches = list(dict.fromkeys(curves.families)), curves.kinds("tuned")
    rivals = [*curves.kinds("default")[:1], *searches[:2][-1:]]
    figure, axes = new_figure(14, 1.8 + 0.32 * len(names), 1, 1 + len(rivals))
    speeds(axes[0, 0], curves, learned, searches[0], names)
    for ax, rival in zip(axes[0, 1:], rivals, strict=True):
        trials = len(curves.members(rival))
        title = (
            f"against default {rival}" if trials == 1 else f"against {rival}, the best of {trials}"
        )
        ratios(ax, task_results(curves, learned, rival, trials), names)
        ax.set_title(title, fontsize=FONT)
    for ax in axes[0]:
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_yticks(range(len(names)), names if ax is axes[0, 0] else [""] * len(names))
        ax.grid(axis="y", color="#e6e6e6", lw=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=FONT - 1)
    figure.suptitle(
        f"{learned}, by family of tasks: a dot a task, an orange line their median",
        fontsize=FONT + 1,
    )
    return figure


def speeds(ax: Axes, curves: Curves, learned: str, search: str, names: Sequence[str]) -> None:
    """Speed-ups; triangles stand for lower bounds."""
    found = speed_ups(curves, learned, search)
    of_task = dict(zip(curves.tasks, curves.families, strict=True))
    for place, family in enumerate(names):
        own = [s for task, s in found.items() if of_task[task] == family]
        markers = [">" if s.saturated else "o" for s in own]
        dots(ax, place, [s.value for s in own], markers)
    ax.axvline(1, color=LINE, lw=0.8, zorder=0)
    ax.set_xlim(left=0)
    ax.set_title(f"speed-up over {search}", fontsize=FONT)
    ax.set_xlabel(
        "steps of the search's envelope over steps used\n(triangle: it does not get there, at least so many)",
        fontsize=FONT - 1,
    )


def ratios(ax: Axes, results: Sequence[TaskResult], names: Sequence[str]) -> None:
    """Log ratios of test losses, and the share of tasks won."""
    for place, family in enumerate(names):
        own = [r for r in results if r.family == family]
        known = [r.log_ratio for r in own if np.isfinite(r.log_ratio)]
        dots(ax, place, known, ["o"] * len(known))
        if own:
            share = win_rate([r.loss for r in own], [r.rival_loss for r in own])
            text = f"{100 * share:.0f} %" + ("" if known else ", no log ratio")
            ax.text(
                1.02,
                place,
                text,
                transform=ax.get_yaxis_transform(),
                va="center",
                fontsize=FONT - 1,
            )
    ax.axvline(0, color=LINE, lw=0.8, zorder=0)
    ax.set_xscale("symlog", linthresh=0.1)
    ax.margins(x=0.06)
    ax.set_xlabel(
        "log ratio of test losses (below 0: the learned one is lower)\nright: tasks won",
        fontsize=FONT - 1,
    )


def dots(ax: Axes, place: int, values: Sequence[float], markers: Sequence[str]) -> None:
    """A row of tasks, spread over its height so that equal values stay apart, and their median."""
    heights = place + 0.28 * (
        np.linspace(-1, 1, len(values)) if len(values) > 1 else np.zeros(len(values))
    )
    if len(values):
        ax.plot([np.median(values)] * 2, [place - 0.38, place + 0.38], color=MEDIAN, lw=2.0)
    for value, height, marker in zip(values, heights, markers, strict=True):
        ax.plot(value, height, marker, ms=4, color="black", alpha=0.7, mew=0, zorder=3)


if __name__ == "__main__":
    main()
