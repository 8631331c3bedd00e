"""Pictures of run and evaluation files: one function a figure, numbers in, matplotlib Figure out.

Every line has its own dash pattern and luminance, so the pictures survive a greyscale printer.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lopt import store
from lopt.errors import StoreError, UsageError

# (colour, dash pattern), dark to light: ordered by luminance so that greyscale keeps them apart.
STYLES = (
    ("#000000", "-"),
    ("#7b3294", "--"),
    ("#0571b0", "-."),
    ("#ca5a00", ":"),
    ("#2c8c4a", (0, (5, 1, 1, 1, 1, 1))),
    ("#d6608a", (0, (8, 2))),
    ("#8c8c8c", (0, (1, 1))),
    ("#c9a400", (0, (3, 3))),
)
FONT = 9
SMOOTHING = 5  # evaluations averaged in loss curves


def new_figure(
    width: float = 6.4, height: float = 4.0, rows: int = 1, columns: int = 1, **grid: Any
):
    """An empty Figure (no window, no global state) and its axes; `grid`: more of `Figure.subplots`."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=grid)


def new_panels(count: int, columns: int, width: float, height: float, margin: float = 0.0):
    """An empty Figure of `count` panels, width x height inches each, in rows of at most `columns`, and their axes.

    margin: inches for what stands above and below all of them.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = new_figure(width * columns, height * rows + margin, rows, columns)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return figure, axes.flat[:count]


def band(
    ax: Axes,
    x: np.ndarray,
    runs: np.ndarray,
    style: tuple,
    width: float = 1.3,
    label: str | None = None,
    middle: Callable[..., np.ndarray] = np.median,
) -> np.ndarray:
    """Draw runs (n, M) as their middle in a band from the lowest to the highest; returns the middle, (M,)."""
    colour, dash = style
    line = middle(runs, axis=0)
    ax.plot(x, line, color=colour, ls=dash, lw=width, label=label)
    ax.fill_between(x, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.12, lw=0)
    return line


def legend_below(figure: Figure, columns: int, handles: Iterable, labels: Iterable[str]) -> None:
    """One legend for all panels of a figure."""
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=FONT)  # fmt: skip


def smooth(y: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean; near the ends the window shrinks symmetrically, so no shift and no padding."""
    total = np.concatenate(([0.0], np.cumsum(y, dtype=np.float64)))
    i = np.arange(y.size)
    half = np.minimum(np.minimum(i, y.size - 1 - i), window // 2)
    return (total[i + half + 1] - total[i - half]) / (2 * half + 1)


def meta_loss(run: store.RunReader) -> Figure:
    """Meta-loss per outer step: mean over pairs, its moving mean, and the spread over pairs."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    step, mean, spread = run["outer_step"] + 1, run["meta_loss"], run["meta_loss_std"]
    window = max(1, step.size // 25)
    centre, band = smooth(mean, window), smooth(spread, window)
    ax.fill_between(
        step, centre - band, centre + band, color="#d9d9d9", lw=0, label="spread over pairs"
    )
    ax.plot(step, mean, color="#a0a0a0", lw=0.6, label="mean over pairs")
    ax.plot(step, centre, color="black", lw=1.8, label=f"moving mean of {2 * (window // 2) + 1}")
    ax.set(xlabel="outer step", ylabel="meta-loss (1 = untrained task, 0 = lowest loss)")
    ax.set_title("Meta-loss", fontsize=FONT + 1)
    ax.legend(frameon=False, fontsize=FONT)
    ax.margins(x=0.01)
    return figure


def gradient_norm(run: store.RunReader) -> Figure:
    """Norm of the outer gradient before clipping, and of the step taken."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    step = run["outer_step"] + 1
    series = (("grad_norm", "gradient estimate"), ("update_norm", "change of theta"))
    for (name, label), (colour, dash) in zip(series, STYLES, strict=False):
        ax.semilogy(step, np.maximum(run[name], 1e-12), color=colour, ls=dash, lw=1.2, label=label)
    ax.set(xlabel="outer step", ylabel="Euclidean norm")
    ax.set_title("Outer gradient and step", fontsize=FONT + 1)
    ax.legend(frameon=False, fontsize=FONT)
    ax.margins(x=0.01)
    return figure


def theta_norms(run: store.RunReader) -> Figure:
    """RMS of each block of theta over the run, the eight that moved most labelled."""
    figure, axes = new_figure(7.2, 4.2)
    ax = axes[0, 0]
    step, norms = run["outer_step"] + 1, run["theta_norm"]
    names, sizes = run.theta_layout.names, np.maximum(1, run.theta_layout.sizes)
    rms = norms / np.sqrt(sizes)
    moved = np.argsort(-np.abs(rms[-1] - rms[0]))
    for k in moved[len(STYLES) :]:
        ax.plot(step, rms[:, k], color="#dddddd", lw=0.8, zorder=1)
    for k, (colour, dash) in zip(moved, STYLES, strict=False):
        ax.plot(step, rms[:, k], color=colour, ls=dash, lw=1.3, label=names[k])
    ax.set(xlabel="outer step", ylabel="RMS of the block", yscale="symlog")
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.set_title("Blocks of theta (labelled: those that moved most)", fontsize=FONT + 1)
    ax.legend(frameon=False, fontsize=FONT - 1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.margins(x=0.01)
    return figure


def where_the_time_went(run: store.RunReader) -> Figure:
    """Share of wall time by phase, per outer step (moving mean) and in total."""
    figure, axes = new_figure(7.2, 3.8, 1, 2)
    step, seconds = run["outer_step"] + 1, run["phase_s"]
    names = run.phases
    window = max(1, step.size // 25)
    share = np.stack([smooth(seconds[:, k], window) for k in range(len(names))])
    shades = [str(g) for g in np.linspace(0.25, 0.95, len(names))]
    hatches = ("", "//", "..", "xx", "\\\\", "++")
    axes[0, 0].stackplot(step, share, colors=shades)
    axes[0, 0].set(xlabel="outer step", ylabel="seconds per outer step")
    axes[0, 0].margins(x=0, y=0)
    total = seconds.sum(axis=0)
    bars = axes[0, 1].barh(names, total, color=shades, edgecolor="black", lw=0.6)
    for bar, hatch in zip(bars, hatches, strict=False):
        bar.set_hatch(hatch)
    axes[0, 1].bar_label(
        bars, [f"{100 * t / total.sum():.1f} %" for t in total], fontsize=FONT - 1, padding=2
    )
    axes[0, 1].set(xlabel="seconds, rank 0")
    axes[0, 1].invert_yaxis()
    axes[0, 1].margins(x=0.18)
    figure.suptitle("Where the time went", fontsize=FONT + 1)
    return figure


def loss_curves(results: store.EvalReader, task: int) -> Figure:
    """Outer-validation loss over inner steps for one task: median over seeds, band from lowest to highest seed."""
    figure, axes = new_figure(7.6, 4.4)
    ax = axes[0, 0]
    draw_curves(ax, results, task)
    ax.set(xlabel="inner step", ylabel="outer-validation loss")
    ax.set_title(
        f"{results.tasks[task]}, {results.seeds} seeds (band: all seeds; moving mean of {SMOOTHING} evaluations)",
        fontsize=FONT,
    )
    ax.legend(frameon=False, fontsize=FONT - 1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def curve_grid(results: store.EvalReader, columns: int = 5) -> Figure:
    """The curves of every task side by side, each with scales of its own."""
    figure, axes = new_panels(len(results.tasks), columns, 2.5, 2.1)
    for i, ax in enumerate(axes):
        draw_curves(ax, results, i)
        ax.set_title(results.tasks[i], fontsize=FONT - 2)
        ax.tick_params(which="both", labelsize=FONT - 3)
    handles, labels = axes[0].get_legend_handles_labels()
    entrants = dict(zip((re.sub(r" \(.*", "", t) for t in labels), handles, strict=True))
    legend_below(figure, 4, entrants.values(), entrants)
    figure.suptitle(
        f"Outer-validation loss over {results.steps[-1]} inner steps, {results.seeds} seeds "
        "(band: all seeds)", fontsize=FONT + 1,
    )  # fmt: skip
    return figure


def draw_curves(ax: Axes, results: store.EvalReader, task: int) -> None:
    """The loss curves of one task: learned first, then the table's order."""
    rows = [r for r in results.rows if r.task == results.tasks[task]]
    order = sorted(rows, key=lambda r: (r.variant != "learned", r.mean))
    kinds = dict.fromkeys((r.variant != "learned", r.family, r.variant) for r in results.rows)
    for row in order:  # a kind of entrant looks the same in every picture of a file
        kind = sorted(kinds).index((row.variant != "learned", row.family, row.variant))
        curves = np.stack([smooth(c, SMOOTHING) for c in results.outer_loss[task, row.entrant]])
        width = 2.2 if row.variant == "learned" else 1.3
        band(ax, results.steps, curves, STYLES[kind % len(STYLES)], width, label(row))
    top = float(np.median(results.outer_loss[task, :, :, 0]))
    shown = results.outer_loss[task, [r.entrant for r in order]]
    if (shown > 0).all():
        ax.set_yscale("log")
        ax.set_ylim(max(shown.min() * 0.8, 1e-12), max(3 * top, float(shown[..., 0].min()) * 2))
    ax.margins(x=0.01)


def label(row) -> str:
    """Legend text of a final-loss row."""
    if row.variant == "learned":
        return "learned"
    return f"{row.family}, {row.variant}" + (
        f" (lr {row.rate:g})" if row.variant == "tuned" else ""
    )


def final_table(results: store.EvalReader) -> Figure:
    """Table of the test loss after the last step, best first in each task."""
    rows = sorted(results.rows, key=lambda r: (results.tasks.index(r.task), r.mean))
    figure, axes = new_figure(7.6, 0.8 + 0.21 * len(rows))
    ax = axes[0, 0]
    ax.axis("off")
    text = []
    for r in rows:
        flagged = f"{r.n_bad} of {results.seeds}" if r.n_bad else "none"
        text.append(
            [
                r.task if len(r.task) < 40 else r.task[:37] + "...",
                label(r),
                f"{r.mean:.4g}",
                f"{r.se:.2g}",
                flagged,
            ]
        )
    headers = ["task", "optimizer", "test loss", "s.e.", "bad runs"]
    drawn = ax.table(
        text, colLabels=headers, loc="center", cellLoc="left", colWidths=[0.4, 0.28, 0.12, 0.1, 0.1]
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(FONT - 1)
    for (i, _), cell in drawn.get_celld().items():
        cell.set_linewidth(0.3)
        bold = i == 0 or rows[i - 1].variant == "learned"
        cell.get_text().set_fontweight("bold" if bold else "normal")
    ax.set_title(
        f"Test loss after {results.steps[-1]} inner steps, {results.seeds} seeds (bad run: clipped or diverged)",
        fontsize=FONT + 1,
    )
    return figure


RUN_FIGURES = {
    "meta_loss": meta_loss,
    "gradient_norm": gradient_norm,
    "theta_norms": theta_norms,
    "time": where_the_time_went,
}


def task_times(times: store.TimesReader) -> Figure:
    """Share of the tasks below a cost: all of them, and one line per family with at least ten."""
    figure, axes = new_figure(7.6, 4.4)
    ax = axes[0, 0]
    counts = Counter(times.families)
    families = [f for f, n in sorted(counts.items()) if n >= 10]
    for i, family in enumerate(families):
        ms = np.sort(times.ms[[f == family for f in times.families]])
        colour, dash = STYLES[1:][i % (len(STYLES) - 1)]
        share = 100 * np.arange(1, ms.size + 1) / ms.size
        ax.step(ms, share, where="post", color=colour, ls=dash, lw=1.0, label=family)
    ms = np.sort(times.ms)
    share = 100 * np.arange(1, ms.size + 1) / ms.size
    ax.step(ms, share, where="post", color="black", lw=2.2, label=f"all {ms.size}")
    ax.axvline(100, color="#606060", lw=0.8)
    ax.set(
        xscale="log",
        xlabel="ms per training step (loss and gradient, one core)",
        ylabel="% of tasks",
        ylim=(0, 101),
    )
    ax.set_title(
        f"{100 * times.share_below(100):.1f} % of the tasks take less than 100 ms",
        fontsize=FONT + 1,
    )
    ax.legend(fontsize=FONT - 2, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def search_loss(search: store.SearchReader) -> Figure:
    """Loss against evaluations of a black-box search: mean and lowest of each step, lowest so far."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    evaluations = search["evaluations"]
    series = (("best", "lowest so far", 1.8), ("mean", "mean of the step", 1.0))
    for (name, text, width), (colour, dash) in zip(series, STYLES, strict=False):
        ax.plot(evaluations, search[name], color=colour, ls=dash, lw=width, label=text)
    ax.plot(evaluations, search["lowest"], ".", ms=2, color="#8c8c8c", label="lowest of the step")
    values = np.concatenate([search[name] for name in ("best", "mean", "lowest")])
    values = values[np.isfinite(values)]
    if values.min() > 0 and values.max() > 30 * values.min():
        ax.set_yscale("log")
    ax.set(xlabel="evaluations", ylabel="loss")
    settings = search.settings
    title = f"{settings['strategy']}, {search.x.size} coordinates, seed {settings['seed']}"
    ax.set_title(f"{title} ({search.state})", fontsize=FONT + 1)
    ax.legend(frameon=False, fontsize=FONT)
    ax.margins(x=0.01)
    return figure


def figures_of(path: Path) -> dict[str, Figure]:
    """All figures of a run, evaluation, timing or search file, or of the JSON of a bench, by name.

    Raises:
        UsageError: the file is of another kind.  StoreError: unreadable, or no rows yet.
    """
    if path.suffix == ".json":
        from lopt.bench import load, roofline

        return {"roofline": roofline.draw(load(path))}
    kind = store.kind_of(path)
    if kind == "run":
        with store.RunReader(path) as run:
            if run.rows == 0:
                raise StoreError(f"{path} has no complete rows yet")
            return {name: draw(run) for name, draw in RUN_FIGURES.items()}
    if kind == "eval":
        results = store.EvalReader(path)
        curves = {f"curves_{i}": loss_curves(results, i) for i in range(len(results.tasks))}
        several = {"grid": curve_grid(results)} if len(results.tasks) > 1 else {}
        return {**curves, **several, "final": final_table(results)}
    if kind == "times":
        return {"distribution": task_times(store.TimesReader(path))}
    if kind == "search":
        search = store.SearchReader(path)
        if search.rows == 0:
            raise StoreError(f"{path} has no complete rows yet")
        return {"loss": search_loss(search)}
    raise UsageError(
        f"{path} is a {kind} file; plots are made of run, eval, times and search files"
    )


def draw_all(path: Path, out: Path) -> list[Path]:
    """Write every figure of a file as PNG and PDF into a directory; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures_of(path).items():
        for suffix in ("png", "pdf"):
            target = out / f"{path.stem}_{name}.{suffix}"
            figure.savefig(target)
            written.append(target)
    return written


def terminal_text(run: store.RunReader, width: int, height: int) -> str:
    """The meta-loss so far as a plot made of characters, with a line of figures below."""
    import uniplot

    step, loss = run["outer_step"] + 1, run["meta_loss"]
    drawn = uniplot.plot_to_string(
        xs=step,
        ys=smooth(loss, max(1, step.size // 25)),
        lines=True,
        width=width,
        height=height,
        title="meta-loss, moving mean",
        x_unit=" outer steps",
    )
    wall, inner = run["wall_s"][-1], run["inner_steps"][-1]
    line = f"outer step {step[-1]}  meta-loss {loss[-1]:.4f}  {inner:.3g} inner steps  {wall:.0f} s"
    return f"{drawn}\n{line}"


def watch(
    directory: Path, once: bool = False, seconds: float = 2.0, size: Sequence[int] = (72, 18)
) -> None:
    """Redraw a growing run in the terminal until its run file says it ended.

    Raises:
        StoreError: there is no run file in the directory.
    """
    path = directory / "run.h5"
    while True:
        with store.RunReader(path) as run:
            text = terminal_text(run, *size) if run.rows else f"{path}: no complete rows yet"
            ended = run.ended
        print(text if once else f"\033[2J\033[H{text}", flush=True)
        if once or ended:
            return
        time.sleep(seconds)
