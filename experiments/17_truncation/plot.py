"""Picture, tables and verdict of `run.py`'s file: gradients and learned rates over truncation lengths.

python experiments/17_truncation/plot.py                      what is committed, into docs/
python experiments/17_truncation/plot.py runs/truncation
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from table import kept, report

from lopt.experiment import results_and_picture
from lopt.plots import FONT, STYLES, new_figure

HERE = Path(__file__).parent
PICTURE = "truncation.png"
ORDER = ("truncated", "pes", "nres")
GREY, MARKERS = "#808080", "ov^s"  # a marker for each start


def main() -> int:
    """Draw and judge what a folder holds."""
    folder, picture = results_and_picture(__doc__, HERE, "results", PICTURE)
    draw(folder, picture)
    return report(folder)


def draw(folder: Path, picture: Path) -> None:
    """Above gradients at rest, below what was learned with them."""
    found = kept(folder)
    figure, axes = new_figure(9.4, 6.8, 2, 2)
    gradients(axes[0, 0], found, "balance", "Influence balancing: gradient by theta at rest")
    gradients(axes[0, 1], found, "bowl", "Noisy bowl: gradient by the log of the learning rate, at rest")  # fmt: skip
    learned(axes[1, 0], found)
    excess(axes[1, 1], found)
    for ax in axes.ravel():
        ax.set_xlabel("K, inner steps of a window", fontsize=FONT)
        ax.tick_params(labelsize=FONT - 1)
    axes[0, 0].legend(frameon=False, fontsize=FONT - 1)
    axes[1, 0].legend(frameon=False, fontsize=FONT - 1)
    figure.savefig(picture)


def gradients(ax: Axes, found: dict[str, Any], problem: str, title: str) -> None:
    """Points: mean of the episodes, 2 standard errors.  Lines: exact."""
    lengths = found[f"{problem}_truncations"]
    for i, name in enumerate(found["estimators"]):
        k = ORDER.index(name)
        colour, dash = STYLES[k]
        mean, error, _, exact, _ = found[problem][i].T
        shifted = lengths * 1.06 ** (k - 1)
        ax.plot(lengths, exact, color=colour, ls=dash, lw=1.2)
        ax.errorbar(shifted, mean, 2 * error, color=colour, ls="none", marker="o", ms=3.5, label=name)  # fmt: skip
    label_lengths(ax, lengths)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set_title(f"{title}\npoints: measured, 2 standard errors; lines: exact", fontsize=FONT)


def label_lengths(ax: Axes, lengths: np.ndarray) -> None:
    """A logarithmic axis with a tick at every truncation."""
    ax.set_xscale("log")
    ax.set_xticks(lengths, [f"{n:g}" for n in lengths])
    ax.set_xticks([], minor=True)


def learned(ax: Axes, found: dict[str, Any]) -> None:
    """Learned rates; where truncated ES should come to rest, and the best rate."""
    lengths = found["bowl_truncations"]
    for k, name in enumerate(found["estimators"]):
        colour, x = STYLES[ORDER.index(name)][0], lengths * 1.06 ** (k - 1)
        for own, start, marker in zip(found["theta"][k].T, found["starts"], MARKERS, strict=False):
            label = f"{name}, from {start:g}"
            ax.plot(x, np.exp(own), color=colour, ls="none", marker=marker, ms=4, label=label)
    ax.plot(lengths, np.exp(found["rest"]), color=STYLES[0][0], ls=STYLES[0][1], lw=1.2)
    ax.axhline(np.exp(found["best"]), color=GREY, lw=0.8)
    ax.set_yscale("log")
    label_lengths(ax, lengths)
    ax.set_title(
        "Noisy bowl: learned learning rate\nline: where truncated ES comes to rest; grey: best",
        fontsize=FONT,
    )


def excess(ax: Axes, found: dict[str, Any]) -> None:
    """What the learned rates cost."""
    lengths = found["bowl_truncations"]
    for k, name in enumerate(found["estimators"]):
        colour, x = STYLES[ORDER.index(name)][0], lengths * 1.06 ** (k - 1)
        for own, marker in zip(found["excess"][k].T, MARKERS, strict=False):
            ax.plot(x, own, color=colour, ls="none", marker=marker, ms=4)
    ax.axhline(0, color=GREY, lw=0.8)
    label_lengths(ax, lengths)
    ax.set_title(
        "Noisy bowl: mean log loss over the horizon\nwith the learned rate, over that of the best rate",
        fontsize=FONT,
    )


if __name__ == "__main__":
    sys.exit(main())
