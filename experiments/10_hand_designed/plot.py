"""Histograms over tasks: how far each row of the table is from the first one."""

from pathlib import Path

import numpy as np

from lopt.plots import FONT, new_panels

COLUMNS = 4


def draw(losses: dict[str, np.ndarray], config, path: Path) -> None:
    """A panel for each row but the first, which all are compared with; rows of the same numbers share one."""
    shown: dict[bytes, str] = {}
    for name, values in losses.items():
        if not np.isnan(values).all():
            shown.setdefault(values.tobytes(), name)
    (reference, base), *others = [(name, losses[name]) for name in shown.values()]
    figure, axes = new_panels(len(others), COLUMNS, 2.9, 1.7, margin=0.7)
    edge = -np.log10(config.resolution)
    bins = np.linspace(-edge, edge, config.bins + 1)
    for ax, (name, values) in zip(axes, others, strict=True):
        both = ~np.isnan(values) & ~np.isnan(base)
        ratio = np.log10((values[both] + config.resolution) / (base[both] + config.resolution))
        ax.hist(ratio, bins, color="#9ec4dd", edgecolor="black", lw=0.5)
        ax.axvline(0, color="black", lw=0.8)
        ax.axvline(np.median(ratio), color="#ca5a00", lw=1.3, ls="--")
        ax.set_title(f"{name} ({both.sum()} tasks)", fontsize=FONT - 1)
        ax.tick_params(labelsize=FONT - 2)
        ax.set_xlim(-edge, edge)
    figure.suptitle(
        f"log10 of normalised test loss over that of {reference}; left: lower; dashes: median",
        fontsize=FONT + 1,
    )
    figure.savefig(path)
