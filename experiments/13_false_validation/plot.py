"""Picture, table and verdict of `run.py`'s file: size of steps and training loss while validation losses are false.

python experiments/13_false_validation/plot.py                            what is committed, into docs/
python experiments/13_false_validation/plot.py runs/false_validation
"""

import sys
from pathlib import Path

import h5py
import numpy as np

from lopt.experiment import results_and_picture, toml, verdict
from lopt.plots import FONT, STYLES, band, new_figure

HERE = Path(__file__).parent
PICTURE = "false_validation.png"
LEAST = 1.5  # highest over lowest value of an axis


def main() -> int:
    """Draw and judge what a folder holds."""
    folder, picture = results_and_picture(__doc__, HERE, "results", PICTURE)
    draw(folder, picture)
    return report(folder)


def draw(folder: Path, picture: Path) -> None:
    """A column for each optimizer; median and range of the seeds."""
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
    figure.savefig(picture)


def report(folder: Path) -> int:
    """Steps under false losses over those under true ones, from where on they are false; the verdict."""
    with h5py.File(folder / "responses.h5") as file:
        names, feeds = list(file.attrs["entrants"]), list(file.attrs["feeds"])
        late = file["steps"][()] > file.attrs["begin"]
        rms, losses = file["step_rms"][()], file["train_loss"][()]
    same = {name: bool((own == own[:1]).all()) for name, own in zip(names, rms, strict=True)}
    print("| optimizer | validation losses | step over that of true ones | final training loss |")
    print("|---|---|---|---|")
    for name, own, final in zip(names, rms, losses[..., -1], strict=True):
        size = own[..., late].mean(axis=-1)  # (feed, seed)
        for feed, ratio, end in zip(feeds, size / size[0], final, strict=True):
            print(f"| {name} | {feed} | {np.median(ratio):.4f} | {np.median(end):.4g} |")
    expected = toml(HERE / "expected.toml")
    missed = [f"{n}: steps differ" for n in expected["blind"] if not same[n]]
    missed += [f"{n}: no answer" for n in expected["answers"] if same[n]]
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
