"""The picture of `run.py`'s comparison: scores on tasks seen and unseen, over the number of training tasks."""

from pathlib import Path

import numpy as np

from lopt.plots import FONT, STYLES, new_figure


def draw(found: dict[str, np.ndarray], counts: tuple[int, ...], path: Path) -> None:
    """A line through the means for each group of tasks, a point for each run."""
    figure, axes = new_figure(6.4, 4.2)
    ax = axes[0, 0]
    ax.axhline(0.0, color="#606060", lw=0.8)
    for (group, values), (colour, dash) in zip(found.items(), STYLES, strict=False):
        ax.plot(counts, values.mean(axis=1), color=colour, ls=dash, lw=1.6, label=group)
        for own in values.T:
            ax.plot(counts, own, color=colour, ls="none", marker="o", ms=3.5)
    ax.set_xscale("log")
    ax.set_xticks(counts, [str(c) for c in counts])
    ax.minorticks_off()
    ax.set(xlabel="training tasks, equal inner steps", ylabel="log of test loss over that of theta = 0")  # fmt: skip
    ax.set_title("Interquartile mean over tasks; points: runs; below 0: better than untrained", fontsize=FONT)  # fmt: skip
    ax.legend(frameon=False, fontsize=FONT)
    figure.savefig(path)
