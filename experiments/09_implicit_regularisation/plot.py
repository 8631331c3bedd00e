"""The picture of `run.py`'s file: paths to the diagonal, and x + y along them.

python experiments/09_implicit_regularisation/plot.py runs/implicit
"""

from pathlib import Path

import h5py
import numpy as np

from lopt.experiment import path_argument
from lopt.plots import FONT, new_figure


def main() -> None:
    """Draw what a folder holds."""
    draw(path_argument(__doc__, "folder"))


def draw(folder: Path) -> None:
    """implicit.png: a column for each optimizer."""
    with h5py.File(folder / "trajectories.h5") as file:
        names, points, steps = file.attrs["entrants"], file["points"][()], file["steps"][()]
    figure, axes = new_figure(2.7 * len(names), 5.4, 2, len(names), height_ratios=(1.3, 1))
    edge = 1.15 * np.abs(points).max()
    for column, (name, own) in enumerate(zip(names, points, strict=True)):
        plane, sums = axes[:, column]
        plane.plot([-edge, edge], [-edge, edge], color="#c0c0c0", lw=1.0)
        for path in own:
            plane.plot(*path.T, color="black", lw=0.8)
        plane.plot(*own[:, 0].T, "o", color="white", mec="black", ms=4, ls="none")
        plane.plot(*own[:, -1].T, "o", color="#ca5a00", ms=4, ls="none")
        plane.plot(0, 0, "+", color="#0571b0", ms=12, mew=1.5)
        plane.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xlabel="x")
        plane.set_title(name, fontsize=FONT)
        sums.plot(steps, own.sum(axis=-1).T, color="black", lw=0.8)
        sums.set(xlabel="step", ylim=(-2 * edge, 2 * edge))
        for ax in (plane, sums):
            ax.tick_params(labelsize=FONT - 2)
    axes[0, 0].set_ylabel("y")
    axes[1, 0].set_ylabel("x + y")
    figure.suptitle(
        "(x - y)^2 / 2 from a grid of starts (white) to where training ends (orange)",
        fontsize=FONT + 1,
    )
    figure.savefig(folder / "implicit.png")


if __name__ == "__main__":
    main()
