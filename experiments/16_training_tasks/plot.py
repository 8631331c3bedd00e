"""The picture of `run.py`'s comparison: scores on tasks seen and unseen, over the number of training tasks."""

from pathlib import Path

import numpy as np

from lopt.plots import FONT, STYLES, legend_below, new_figure


def draw(found: dict[str, np.ndarray], counts: tuple[int, ...], path: Path) -> None:
    """Left means over tasks, right interquartile means; a line through the means of the runs, a point for each run."""
    figure, axes = new_figure(9.6, 4.4, 1, 2)
    for kind, (ax, title) in enumerate(
        zip(axes[0], ("mean over tasks", "interquartile mean over tasks"), strict=True)
    ):
        ax.axhline(0.0, color="#606060", lw=0.8)
        for (group, values), (colour, dash) in zip(found.items(), STYLES, strict=False):
            own = values[kind]
            ax.plot(counts, own.mean(axis=1), color=colour, ls=dash, lw=1.6, label=group)
            ax.plot(counts, own, color=colour, ls="none", marker="o", ms=3.5)
        ax.set_xscale("log")
        ax.set_xticks(counts, [str(c) for c in counts])
        ax.minorticks_off()
        ax.set_xlabel("training tasks, at equal inner steps")
        ax.set_title(title, fontsize=FONT)
    axes[0, 0].set_ylabel("log of the loss over that of theta = 0")
    legend_below(figure, 3, *axes[0, 0].get_legend_handles_labels())
    figure.suptitle("Gain of meta-training, averaged over a training; points: runs", fontsize=FONT + 1)  # fmt: skip
    figure.savefig(path)
