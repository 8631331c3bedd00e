"""The picture of `run.py`'s file: means and variances, measured (dots with bars) on closed forms (squares)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from table import labels, read

from lopt.plots import FONT, new_figure

SHADES = {
    "linear": "#000000",
    "noisy": "#7b3294",
    "quadratic": "#0571b0",
    "sine": "#ca5a00",
    "episode": "#2c8c4a",
}
MARKS = {"linear": "o", "noisy": "v", "quadratic": "s", "sine": "^", "episode": "D"}
BAR = 3  # standard errors


def draw(path: Path, out: Path) -> None:
    """One row a case, top to bottom as in the table."""
    c = read(path)
    n = len(c["name"])
    figure, axes = new_figure(11, 0.21 * n + 1.4, 1, 3)
    mean, variance, ratio = axes[0]
    _rows(mean, c, c["along"], c["along_error"], c["along_closed"])
    mean.set_xlabel("mean along the target (1: no bias)", fontsize=FONT)
    _rows(variance, c, c["variance"], c["variance_error"], c["variance_closed"])
    variance.set_xscale("log")
    variance.set_xlabel("variance over |g|$^2$", fontsize=FONT)
    closed = c["variance_closed"]
    _rows(
        ratio, c, 100 * (c["variance"] / closed - 1), 100 * c["variance_error"] / closed, 0 * closed
    )
    ratio.set_xlabel("variance, measured less closed form, %", fontsize=FONT)
    mean.set_yticks(range(n), labels(c), fontsize=FONT - 2)
    for ax in (variance, ratio):
        ax.set_yticks(range(n), [])
    handles = [
        mean.plot([], [], MARKS[loss], color=SHADES[loss], ms=4, label=loss)[0] for loss in SHADES
    ]
    handles.append(mean.plot([], [], "s", mfc="none", mec="#808080", ms=8, label="closed form")[0])
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False,
                  fontsize=FONT, title=f"bars: {BAR} standard errors", title_fontsize=FONT)  # fmt: skip
    figure.savefig(out)


def _rows(
    ax: Axes, c: dict[str, np.ndarray], x: np.ndarray, error: np.ndarray, closed: np.ndarray
) -> None:
    y = np.arange(x.size)
    ax.plot(closed, y, "s", mfc="none", mec="#808080", ms=8)
    for loss, colour in SHADES.items():
        k = c["loss"] == loss
        ax.errorbar(x[k], y[k], xerr=BAR * error[k], fmt=MARKS[loss], color=colour, ms=3.5, lw=1)
    ax.grid(axis="x", lw=0.4)
    ax.set_ylim(x.size - 0.5, -0.5)
    ax.tick_params(axis="x", labelsize=FONT - 1)
