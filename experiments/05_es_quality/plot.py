"""The picture of `run.py`'s files: median of the lowest value against evaluations, a row a dimension.

python experiments/05_es_quality/plot.py runs/es_quality
"""

from pathlib import Path

import numpy as np
from functions import SOLVED
from table import interval, results

from lopt.experiment import path_argument
from lopt.plots import FONT, STYLES, legend_below, new_figure


def main() -> None:
    """Draw what is there."""
    draw(path_argument(__doc__, "folder"))


def draw(folder: Path) -> None:
    """quality.png: lines are medians over seeds, bands 95 % intervals of the median."""
    found = results(folder)
    names = list(dict.fromkeys(name for r in found for name in r.searches))
    looks = dict(zip(names, [*STYLES, ("#5b8ff9", (0, (1, 2)))], strict=False))
    figure, axes = new_figure(13, 3 * len(found) + 0.8, len(found), len(found[0].functions))
    for row, r in zip(axes, found, strict=True):
        for ax, function, best in zip(row, r.functions, r.best, strict=True):
            for name, runs in zip(r.searches, best, strict=True):
                colour, dash = looks[name]
                values = np.maximum([interval(column) for column in runs.T], SOLVED)
                middle, low, high = values.T
                ax.loglog(r.evaluations, middle, color=colour, ls=dash, lw=1.4, label=name)
                ax.fill_between(r.evaluations, low, high, color=colour, alpha=0.15, lw=0)
            ax.set_title(f"{function}, {r.dimensions} dimensions", fontsize=FONT)
            ax.tick_params(which="both", labelsize=FONT - 1)
        row[0].set_ylabel("lowest value")
    for ax in axes[-1]:
        ax.set_xlabel("evaluations")
    title = "Lowest value so far: median of the seeds, band: 95 % interval of the median; below 1e-10: solved"
    figure.suptitle(title, fontsize=FONT + 1)
    handles = {t.get_label(): t for row in axes for ax in row for t in ax.lines}
    legend_below(figure, 5, handles.values(), handles)
    figure.savefig(folder / "quality.png")


if __name__ == "__main__":
    main()
