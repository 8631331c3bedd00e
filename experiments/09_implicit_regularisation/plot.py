"""Picture, lines and verdict of `run.py`'s file: paths to the diagonal, and x + y along them.

python experiments/09_implicit_regularisation/plot.py                    what is committed, into docs/
python experiments/09_implicit_regularisation/plot.py runs/implicit
"""

import sys
from pathlib import Path

import h5py
import numpy as np

from lopt.experiment import results_and_picture, toml, verdict
from lopt.plots import FONT, new_figure

HERE = Path(__file__).parent
PICTURE = "implicit.png"


def main() -> int:
    """Draw and judge what a folder holds."""
    folder, picture = results_and_picture(__doc__, HERE, "results", PICTURE)
    draw(folder, picture)
    return report(folder)


def draw(folder: Path, picture: Path) -> None:
    """A column for each optimizer."""
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
    figure.savefig(picture)


def report(folder: Path) -> int:
    """What became of x + y and of x - y; the verdict."""
    expected = toml(HERE / "expected.toml")
    missed = []
    with h5py.File(folder / "trajectories.h5") as file:
        names, points, steps = file.attrs["entrants"], file["points"][()], int(file["steps"][-1])
    print("optimizer                         x+y kept   towards 0 in   |x-y| left")
    for name, own in zip(names, points.astype(np.float64), strict=True):
        total, gap = own.sum(axis=-1), np.abs(own[..., 0] - own[..., 1])
        moved = (np.abs(total[:, 0]) > 1e-9) & (gap[:, 0] > 1e-9)
        share = total[moved, -1] / total[moved, 0]
        left = gap[gap[:, 0] > 0, -1] / gap[gap[:, 0] > 0, 0]
        nearer = 100 * np.mean(share < 1 - 1e-4)
        print(
            f"{name:30s} {100 * np.median(share):9.2f} % {nearer:11.0f} % {100 * np.median(left):10.3g} %"
        )
        if name in expected["shrinks"]:
            known = total[:, 0] * (1 - expected["shrinks"][name]) ** steps
            error = np.abs(total[:, -1] - known).max()
            if not error <= expected["error_at_most"]["sum"]:
                missed.append(f"{name}: x + y is off by {error:.2g}")
        for key, values in (("sum_left", np.abs(total)), ("gap_left", gap)):
            begun = values[:, 0] > 1e-9
            most = (values[begun, -1] / values[begun, 0]).max()
            if name in expected[key] and not most <= expected[key][name]:
                missed.append(f"{name}: {key} {most:.3g}")
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
