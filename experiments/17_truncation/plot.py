"""The picture of `run.py`'s files: gradients and learned rates over truncation lengths.

python experiments/17_truncation/plot.py runs/truncation
"""

import re
from pathlib import Path

import h5py
import numpy as np
from matplotlib.axes import Axes

from lopt.experiment import path_argument
from lopt.plots import FONT, STYLES, new_figure

ORDER = ("truncated", "pes", "nres")
GREY, MARKERS = "#808080", "ov^s"  # a marker for each start


def main() -> None:
    """Draw what a folder holds."""
    draw(path_argument(__doc__, "folder"))


def draw(folder: Path) -> None:
    """truncation.png: above gradients at rest, below what was learned with them."""
    figure, axes = new_figure(9.4, 6.8, 2, 2)
    gradients(axes[0, 0], folder, "balance", "Influence balancing: gradient by theta at rest")
    gradients(axes[0, 1], folder, "bowl", "Noisy bowl: gradient by the log of the learning rate, at rest")  # fmt: skip
    with h5py.File(folder / "learned.h5") as file:
        found = {name: file[name][()] for name in file}
    learned(axes[1, 0], found)
    excess(axes[1, 1], found)
    for ax in axes.ravel():
        ax.set_xlabel("K, inner steps of a window", fontsize=FONT)
        ax.tick_params(labelsize=FONT - 1)
    axes[0, 0].legend(frameon=False, fontsize=FONT - 1)
    axes[1, 0].legend(frameon=False, fontsize=FONT - 1)
    figure.savefig(folder / "truncation.png")


def gradients(ax: Axes, folder: Path, problem: str, title: str) -> None:
    """Points: mean of the episodes, 2 standard errors.  Lines: exact."""
    found: dict[str, list] = {}
    for path in folder.glob(f"gradient_{problem}_*.h5"):
        name, truncation = re.fullmatch(rf"gradient_{problem}_(\w+)_(\d+)", path.stem).groups()
        with h5py.File(path) as file:
            row = (int(truncation), *file["measured"][()], file["exact"][0])
        found.setdefault(name, []).append(row)
    for k, (name, style) in enumerate(zip(ORDER, STYLES, strict=False)):
        if name not in found:
            continue
        lengths, mean, error, exact = np.array(sorted(found[name])).T
        shifted = lengths * 1.06 ** (k - 1)
        ax.plot(lengths, exact, color=style[0], ls=style[1], lw=1.2)
        ax.errorbar(shifted, mean, 2 * error, color=style[0], ls="none", marker="o", ms=3.5, label=name)  # fmt: skip
        label_lengths(ax, lengths)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set_title(f"{title}\npoints: measured, 2 standard errors; lines: exact", fontsize=FONT)


def label_lengths(ax: Axes, lengths: np.ndarray) -> None:
    """A logarithmic axis with a tick at every truncation."""
    ax.set_xscale("log")
    ax.set_xticks(lengths, [f"{n:g}" for n in lengths])
    ax.set_xticks([], minor=True)


def learned(ax: Axes, found: dict[str, np.ndarray]) -> None:
    """Learned rates; where truncated ES should come to rest, and the best rate."""
    lengths = found["truncations"]
    for k, name in enumerate(found["estimators"].astype(str)):
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


def excess(ax: Axes, found: dict[str, np.ndarray]) -> None:
    """What the learned rates cost."""
    lengths = found["truncations"]
    for k, name in enumerate(found["estimators"].astype(str)):
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
    main()
