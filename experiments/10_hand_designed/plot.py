"""Table, histograms and verdict of the optimizers in a curves file, by how much they were tuned.

python experiments/10_hand_designed/plot.py                                the committed file of 08_evaluation, into docs/
python experiments/10_hand_designed/plot.py runs/evaluation/config.h5
"""

import sys
from pathlib import Path

import numpy as np
from table import Config, markdown, normalised

from lopt.bench.page import filled
from lopt.comparison import read
from lopt.experiment import results_and_picture, toml, verdict
from lopt.plots import FONT, new_panels
from lopt.store import read_curves

HERE = Path(__file__).parent
CURVES, PICTURE, PAGE = "../08_evaluation/results/config.h5", "hand_designed.png", "experiments.md"
COLUMNS = 4


def main() -> int:
    """Draw and judge what a file holds; beside the docs' picture is the page that has the table."""
    path, picture = results_and_picture(__doc__, HERE, CURVES, PICTURE)
    config = read(HERE / "config.toml", Config)
    losses = normalised(read_curves(path), config.trials)
    draw(losses, config, picture)
    page = picture.parent / PAGE
    if page.exists():
        page.write_text(filled(page.read_text(), {"hand_designed": markdown(losses)}))
    print(markdown(losses))
    return report(losses)


def draw(losses: dict[str, np.ndarray], config, path: Path) -> None:
    """A panel for each row but the first, which all are compared with; rows of the same numbers share one."""
    shown: dict[bytes, str] = {}
    for name, values in losses.items():
        if not np.isnan(values).all():
            shown.setdefault(values.tobytes(), name)
    (reference, base), *others = [(name, losses[name]) for name in shown.values()]
    figure, axes = new_panels(len(others), COLUMNS, 2.9, 1.7, margin=0.7)
    edge = -np.log10(config.resolution)
    bins = np.linspace(-edge, edge, config.bins + 1)
    for ax, (name, values) in zip(axes, others, strict=True):
        both = ~np.isnan(values) & ~np.isnan(base)
        ratio = np.log10((values[both] + config.resolution) / (base[both] + config.resolution))
        ax.hist(ratio, bins, color="#9ec4dd", edgecolor="black", lw=0.5)
        ax.axvline(0, color="black", lw=0.8)
        ax.axvline(np.median(ratio), color="#ca5a00", lw=1.3, ls="--")
        ax.set_title(f"{name} ({both.sum()} tasks)", fontsize=FONT - 1)
        ax.tick_params(labelsize=FONT - 2)
        ax.set_xlim(-edge, edge)
    figure.suptitle(
        f"log10 of normalised test loss over that of {reference}; left: lower; dashes: median",
        fontsize=FONT + 1,
    )
    figure.savefig(path)


def report(losses: dict[str, np.ndarray]) -> int:
    """The verdict: pairs of expected.toml that are in the table are that way round."""
    pairs = toml(HERE / "expected.toml")["lower"]
    known = [(a, b) for a, b in pairs if a in losses and b in losses]
    missed = [
        f"{a} is not below {b}"
        for a, b in known
        if not np.nanmean(losses[a]) < np.nanmean(losses[b])
    ]
    print(f"{len(known)} of {len(pairs)} expected pairs are in the table")
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
