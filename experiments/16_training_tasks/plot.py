"""Picture, table and verdict of `run.py`'s comparison: scores on tasks seen and unseen, over the number of training tasks.

python experiments/16_training_tasks/plot.py                          what is committed, into docs/
python experiments/16_training_tasks/plot.py runs/training_tasks
"""

import sys
from pathlib import Path

import h5py
import numpy as np

from lopt.experiment import results_and_picture, toml, verdict
from lopt.plots import FONT, STYLES, legend_below, new_figure

HERE = Path(__file__).parent
PICTURE = "training_tasks.png"


def main() -> int:
    """Draw and judge what a folder holds."""
    folder, picture = results_and_picture(__doc__, HERE, "results", PICTURE)
    draw(folder, picture)
    return report(folder)


def kept(folder: Path) -> tuple[dict[str, np.ndarray], list[int]]:
    """Gains (mean | interquartile mean, count, seed) by group of tasks, and the counts."""
    with h5py.File(folder / "gains.h5") as file:
        found = {group: file[group][()] for group in file.attrs["groups"]}
        return found, file.attrs["counts"].tolist()


def draw(folder: Path, picture: Path) -> None:
    """Left means over tasks, right interquartile means; a line through the means of the runs, a point for each run."""
    found, counts = kept(folder)
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
    figure.savefig(picture)


def report(folder: Path) -> int:
    """Mean and range over runs, and the verdict on the change from the fewest to the most tasks, in a run of full size."""
    found, counts = kept(folder)
    for kind, name in enumerate(("mean", "interquartile mean")):
        print(f"| training tasks, {name} | {' | '.join(found)} |\n|---|" + "---|" * len(found))
        for k, count in enumerate(counts):
            own = [v[kind, k] for v in found.values()]
            cells = [f"{x.mean():+.3f} ({x.min():+.3f} to {x.max():+.3f})" for x in own]
            print(f"| {count} | {' | '.join(cells)} |")
    bounds, missed = toml(HERE / "expected.toml"), []
    if bounds.pop("counts") != counts:
        return 0
    for group, own in found.items():
        change, (low, high) = float(np.mean(own[0, -1] - own[0, 0])), bounds[group]
        print(f"{group}: mean {change:+.3f} from {counts[0]} to {counts[-1]} tasks")
        if not low <= change <= high:
            missed.append(f"{group}, {low} to {high}")
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
