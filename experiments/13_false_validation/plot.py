"""The picture of `run.py`'s file: size of steps and training loss while validation losses are false.

python experiments/13_false_validation/plot.py runs/false_validation
"""

from pathlib import Path

import h5py

from lopt.experiment import path_argument
from lopt.plots import FONT, STYLES, band, new_figure

LEAST = 1.5  # highest over lowest value of an axis


def main() -> None:
    """Draw what a folder holds."""
    draw(path_argument(__doc__, "folder"))


def draw(folder: Path) -> None:
    """responses.png: a column for each optimizer; median and range of the seeds."""
    with h5py.File(folder / "responses.h5") as file:
        names, feeds, begin = (file.attrs[k] for k in ("entrants", "feeds", "begin"))
        steps, rows = file["steps"][()], [file["step_rms"][()], file["train_loss"][()]]
    figure, axes = new_figure(3.4 * len(names), 5.2, 2, len(names))
    for row, (values, text) in enumerate(
        zip(rows, ("RMS of a step", "training loss"), strict=True)
    ):
        for column, name in enumerate(names):
            ax = axes[row, column]
            for feed, own, style in zip(feeds, values[column], STYLES, strict=False):
                band(ax, steps, own, style, label=feed)
            ax.axvline(begin, color="#606060", lw=0.8)
            ax.set(yscale="log", xlabel="step")
            low, high = ax.get_ylim()
            if high < LEAST * low:  # what does not change should look so
                middle = (low * high) ** 0.5
                ax.set_ylim(middle / LEAST**0.5, middle * LEAST**0.5)
            ax.tick_params(which="both", labelsize=FONT - 2)
            if row == 0:
                ax.set_title(name, fontsize=FONT)
        axes[row, 0].set_ylabel(text)
    axes[0, 0].legend(
        frameon=False, fontsize=FONT - 1, title="validation losses", title_fontsize=FONT - 1
    )
    figure.suptitle("Validation losses are false from the grey line on", fontsize=FONT + 1)
    figure.savefig(folder / "responses.png")


if __name__ == "__main__":
    main()
