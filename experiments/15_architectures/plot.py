"""Picture, table and verdict of `run.py`'s runs: meta-loss over outer steps, a panel for each optimizer.

python experiments/15_architectures/plot.py                          what is committed, into docs/
python experiments/15_architectures/plot.py runs/architectures
"""

import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from lopt.experiment import results_and_picture, toml, verdict
from lopt.plots import FONT, STYLES, band, new_figure, smooth

HERE = Path(__file__).parent
PICTURE = "architectures.png"


class Kept(NamedTuple):
    """Meta-losses (seeds, outer steps) and number of meta-parameters, by panel and variant; outer steps of a mean."""

    losses: dict[tuple[str, str], np.ndarray]
    sizes: dict[tuple[str, str], int]
    smoothing: int


def main() -> int:
    """Draw and judge what a folder holds."""
    folder, picture = results_and_picture(__doc__, HERE, "results", PICTURE)
    draw(folder, picture)
    return report(folder)


def kept(folder: Path) -> Kept:
    """What `run.py` has written."""
    with h5py.File(folder / "meta_losses.h5") as file:
        keys = [tuple(name.split("/")) for name in file.attrs["runs"]]
        losses = {key: file["/".join(key)][()].astype(np.float64) for key in keys}
        sizes = dict(zip(keys, file.attrs["meta_parameters"].tolist(), strict=True))
        return Kept(losses, sizes, int(file.attrs["smoothing"]))


def draw(folder: Path, picture: Path) -> None:
    """A line for each variant: mean and range over seeds of moving means."""
    losses, _, smoothing = kept(folder)
    half = smoothing // 2  # at the ends a mean would be of fewer
    panels = list(dict.fromkeys(panel for panel, _ in losses))
    figure, axes = new_figure(4.8 * len(panels), 4.0, 1, len(panels))
    for ax, panel in zip(axes[0], panels, strict=True):
        own = {variant: x for (p, variant), x in losses.items() if p == panel}
        for (variant, values), style in zip(own.items(), STYLES, strict=False):
            curves = np.array([smooth(x, smoothing)[half : x.size - half] for x in values])
            steps = np.arange(half + 1, half + 1 + curves.shape[1])
            band(ax, steps, curves, style, 1.5, variant, middle=np.mean)
        ax.set(xlabel="outer step", ylabel="meta-loss (1 = untrained task, 0 = lowest loss)")
        ax.set_title(panel, fontsize=FONT + 1)
        ax.legend(frameon=False, fontsize=FONT)
        ax.margins(x=0.01)
    figure.suptitle(f"Equal inner steps; moving mean of {smoothing}, mean and range of seeds", fontsize=FONT)  # fmt: skip
    figure.savefig(picture)


def report(folder: Path) -> int:
    """Mean and range of the last meta-losses, and the verdict in a run of full size."""
    losses, sizes, width = kept(folder)
    ends = {k: own[:, -width:].mean(axis=1) for k, own in losses.items()}
    print("| optimizer | variant | D | meta-loss at the end |\n|---|---|---|---|")
    for (panel, variant), end in ends.items():
        size = sizes[panel, variant]
        print(f"| {panel} | {variant} | {size} | {end.mean():.4f} ({end.min():.4f} to {end.max():.4f}) |")  # fmt: skip
    expected = toml(HERE / "expected.toml")
    missed = []
    if expected.pop("seeds") != len(next(iter(losses.values()))):
        return 0
    for panel, bounds in expected.items():
        whole = ends[panel, bounds["whole"]].mean()
        for variant, bound in bounds["over"].items():
            if not whole - ends[panel, variant].mean() <= bound:
                missed.append(f"{panel}, {bounds['whole']} against {variant}")
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
