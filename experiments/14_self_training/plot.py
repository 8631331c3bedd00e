"""Picture, table and verdict of `run.py`'s runs: meta-loss over outer steps, by outer optimizer.

python experiments/14_self_training/plot.py                          what is committed, into docs/
python experiments/14_self_training/plot.py runs/self_training
"""

import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from lopt.experiment import results_and_picture, toml, verdict
from lopt.plots import FONT, STYLES, new_figure, smooth

HERE = Path(__file__).parent
PICTURE = "self_training.png"


class Kept(NamedTuple):
    """Meta-losses (outer steps,) by outer optimizer; the longest training that the learned one knew; steps of a mean."""

    losses: dict[str, np.ndarray]
    horizon: int
    smoothing: int


def main() -> int:
    """Draw and judge what a folder holds."""
    folder, picture = results_and_picture(__doc__, HERE, "results", PICTURE)
    draw(folder, picture)
    return report(folder)


def kept(folder: Path) -> Kept:
    """What `run.py` has written."""
    with h5py.File(folder / "meta_losses.h5") as file:
        losses = file["meta_loss"][()].astype(np.float64)
        named = dict(zip(file.attrs["entrants"], losses, strict=True))
        return Kept(named, int(file.attrs["horizon"]), int(file.attrs["smoothing"]))


def draw(folder: Path, picture: Path) -> None:
    """Moving means, a line for each outer optimizer."""
    runs = kept(folder)
    figure, axes = new_figure(7.4, 4.2)
    ax, half = axes[0, 0], runs.smoothing // 2
    for (name, losses), (colour, dash) in zip(runs.losses.items(), STYLES, strict=False):
        whole = slice(half, losses.size - half)  # the ends would be means of less
        steps = np.arange(1, losses.size + 1)
        shown = smooth(losses, runs.smoothing)[whole]
        ax.plot(steps[whole], shown, color=colour, ls=dash, lw=1.4, label=name)
    ax.axvline(runs.horizon, color="#606060", lw=0.8)
    ax.set(xlabel="outer step", ylabel="meta-loss (1 = untrained task, 0 = lowest loss)")
    ax.set_title(
        f"Training a new optimizer, one seed: moving mean of {runs.smoothing}; "
        "grey: longest training the learned one knew",
        fontsize=FONT,
    )
    ax.legend(frameon=False, fontsize=FONT - 1)
    figure.savefig(picture)


def report(folder: Path) -> int:
    """Meta-losses at the horizon and at the end, and the verdict."""
    losses, at, width = kept(folder)
    ends = {n: (x[max(0, at - width) : at].mean(), x[-width:].mean()) for n, x in losses.items()}
    print(f"| outer optimizer | meta-loss, outer step {at} | at the end |\n|---|---|---|")
    for name, (early, late) in ends.items():
        print(f"| {name} | {early:.4f} | {late:.4f} |")
    tuned = {n for n in losses if n.startswith("Adam, rate")}
    best = np.min([ends[n] for n in tuned], axis=0)
    bound = toml(HERE / "expected.toml")["over_adam"]
    missed = [n for n in losses if n not in tuned and not ends[n][0] - best[0] <= bound]
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
