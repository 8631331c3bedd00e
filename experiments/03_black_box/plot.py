"""Pictures of `run.py`'s files: losses of all problems, and the descent of the landscape, still and animated.

python experiments/03_black_box/plot.py runs/black_box
"""

from pathlib import Path

import h5py
import numpy as np
from landscape import Landscape
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.patheffects import Normal, Stroke

from lopt.experiment import path_argument
from lopt.plots import FONT, STYLES, new_figure
from lopt.store import SearchReader

AXES = {
    "cart_pole": "share of 10 s not balanced",
    "pendulum": "mean cost of a step",
    "classifier": "share of wrong digits",
}
SHOWN = (0, 8, 20, -1)  # steps whose points are in the still picture
EXTENT = (-2.0, 1.8, -0.8, 2.4)
WINDOW = 9  # steps of the moving mean of a loss
TRAIL = {  # of the centre: seen on light and on dark terraces, in colour and without
    "color": "black",
    "lw": 1.6,
    "path_effects": [Stroke(linewidth=3.6, foreground="white"), Normal()],
}


def main() -> None:
    """Draw what is there."""
    folder = path_argument(__doc__, "folder")
    losses(folder)
    if (folder / "landscape" / "seed0" / "path.h5").exists():
        descent(folder)


def losses(folder: Path) -> None:
    """Moving mean of a step's mean loss against evaluations, one panel a problem, one line a seed."""
    figure, axes = new_figure(9.6, 3.4, 1, len(AXES))
    for ax, (name, label) in zip(axes[0], AXES.items(), strict=True):
        paths = sorted((folder / name).glob("seed*/search.h5"))
        for path, (colour, dash) in zip(paths, STYLES, strict=False):
            search = SearchReader(path)
            mean = np.convolve(search["mean"], np.full(WINDOW, 1 / WINDOW), "valid")
            middle = search["evaluations"][WINDOW // 2 :][: mean.size]
            ax.plot(middle, mean, color=colour, ls=dash, lw=1.4,
                    label=f"seed {search.settings['seed']}")  # fmt: skip
        ax.set(xlabel="evaluations", ylabel=label, xlim=(0, None), ylim=(0, None))
        ax.set_title(name.replace("_", "-"), fontsize=FONT + 1)
        ax.legend(frameon=False, fontsize=FONT - 1)
    title = f"Loss of the perturbed points, mean of {WINDOW} steps"
    figure.suptitle(title, fontsize=FONT + 1)
    figure.savefig(folder / "losses.png")


def background(ax: Axes, land: Landscape) -> None:
    """The terraces, dark is low."""
    x, y = np.linspace(*EXTENT[:2], 400), np.linspace(*EXTENT[2:], 340)
    height = land.height(*np.meshgrid(x, y))
    ax.imshow(height, origin="lower", extent=EXTENT, cmap="Greys_r", aspect="auto")
    ax.contour(x, y, height, np.unique(height), colors="white", linewidths=0.4)
    ax.plot(1, 1, "*", color="white", mec="black", ms=13)  # the minimum before it was terraced
    ax.set(xlim=EXTENT[:2], ylim=EXTENT[2:], xlabel="x", ylabel="y")


def descent(folder: Path) -> None:
    """Still and animated picture of the points walking down."""
    with h5py.File(folder / "landscape" / "seed0" / "path.h5") as file:
        centre, points = file["centre"][()], file["points"][()]
        land = Landscape(int(file.attrs["terraces"]))
    figure, axes = new_figure(6.4, 4.8)
    ax = axes[0, 0]
    background(ax, land)
    ax.plot(*centre.T, label="centre", **TRAIL)
    marks = ("o", "s", "^", "D")
    colours = ("#7b3294", "#0571b0", "#2c8c4a", "#d6608a")
    for step, mark, colour in zip(SHOWN, marks, colours, strict=True):
        at = step % len(points)
        ax.plot(*points[step].T, mark, ms=4.5, mec="white", mew=0.7, color=colour,
                label=f"points of step {at}")  # fmt: skip
    ax.legend(fontsize=FONT - 1, loc="lower left")
    ax.set_title("Every terrace is flat: all gradients are 0, differences are not", fontsize=FONT)
    figure.savefig(folder / "landscape.png")
    animate(folder / "landscape.gif", land, centre, points)


def animate(path: Path, land: Landscape, centre: np.ndarray, points: np.ndarray) -> None:
    """One frame a step."""
    figure, axes = new_figure(5.0, 3.8)
    ax = axes[0, 0]
    background(ax, land)
    (trail,) = ax.plot([], [], **TRAIL)
    (cloud,) = ax.plot([], [], "o", ms=4.5, mec="white", mew=0.7, color="#0571b0")
    title = ax.set_title(" ", fontsize=FONT)

    def frame(step: int) -> tuple:
        trail.set_data(*centre[: step + 1].T)
        cloud.set_data(*points[step].T)
        title.set_text(f"step {step}, height {land.search(centre[step]):.1f}")
        return trail, cloud, title

    made = FuncAnimation(figure, frame, frames=len(points))
    made.save(path, PillowWriter(fps=8), dpi=90)


if __name__ == "__main__":
    main()
