"""The picture of `run.py`'s runs: meta-loss over outer steps, by outer optimizer."""

from pathlib import Path

import numpy as np

from lopt.plots import FONT, STYLES, new_figure, smooth
from lopt.sweep import meta_losses


def draw(runs: dict[str, Path], smoothing: int, horizon: int, path: Path) -> None:
    """Moving means, a line for each outer optimizer."""
    figure, axes = new_figure(7.4, 4.2)
    ax = axes[0, 0]
    for (name, folder), (colour, dash) in zip(runs.items(), STYLES, strict=False):
        losses = meta_losses(folder)
        whole = slice(
            smoothing // 2, losses.size - smoothing // 2
        )  # the ends would be means of less
        steps = np.arange(1, losses.size + 1)
        shown = smooth(losses, smoothing)[whole]
        ax.plot(steps[whole], shown, color=colour, ls=dash, lw=1.4, label=name)
    ax.axvline(horizon, color="#606060", lw=0.8)
    ax.set(xlabel="outer step", ylabel="meta-loss (1 = untrained task, 0 = lowest loss)")
    ax.set_title(
        f"Training a new optimizer: moving mean of {smoothing}; grey: longest training the learned one knew",
        fontsize=FONT,
    )
    ax.legend(frameon=False, fontsize=FONT - 1)
    figure.savefig(path)
