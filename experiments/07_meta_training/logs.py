"""What is kept of runs of meta-training: a small file of blocks of outer steps, and its picture.

    python experiments/07_meta_training/logs.py add NAME runs/wide/run.h5     into runs.h5
    python experiments/07_meta_training/logs.py draw runs.png                 from runs.h5

A run log of some MB becomes some kB: means over blocks of 100 outer steps, the configuration, the cost.
"""

import sys
from pathlib import Path

import h5py
import numpy as np

from lopt import store
from lopt.plots import FONT, STYLES, new_figure

KEPT = Path(__file__).parent / "runs.h5"
BLOCK = 100
MEANS = ("meta_loss", "grad_norm", "update_norm", "learning_rate", "n_clipped", "pairs_lost")


def add(name: str, log: Path) -> None:
    """Blocks of a run into the kept file, in place of those of that name."""
    with store.RunReader(log) as run, h5py.File(KEPT, "a") as file:
        if name in file:
            del file[name]
        group, n = file.create_group(name), run["meta_loss"].size // BLOCK
        for column in MEANS:
            blocks = run[column][: n * BLOCK].reshape(n, BLOCK)
            group[column] = blocks.mean(axis=1).astype(np.float32)
        group["theta_norm"] = run["theta_norm"][BLOCK - 1 : n * BLOCK : BLOCK].astype(np.float32)
        group.attrs["config"] = run.config_text
        group.attrs["inner_steps"] = int(run["inner_steps"][-1])
        group.attrs["core_seconds"] = float(run["wall_s"][-1])


def draw(path: Path) -> None:
    """Meta-loss and clipped coordinates of every kept run over outer steps."""
    figure, axes = new_figure(9.6, 4.2, 1, 2)
    with h5py.File(KEPT) as file:
        for (name, group), (colour, dash) in zip(file.items(), STYLES, strict=False):
            steps = BLOCK * (1 + np.arange(group["meta_loss"].size))
            label = f"{name}: {group.attrs['inner_steps'] / 1e6:.1f}e6 inner steps"
            axes[0, 0].plot(
                steps, group["meta_loss"][()], color=colour, ls=dash, lw=1.4, label=label
            )
            norm = np.sqrt((group["theta_norm"][()] ** 2).sum(axis=1))
            axes[0, 1].plot(steps, norm, color=colour, ls=dash, lw=1.4)
    axes[0, 0].set_title("mean log held-out loss of the training tasks", fontsize=FONT)
    axes[0, 1].set_title("norm of theta", fontsize=FONT)
    for ax in axes[0]:
        ax.set_xlabel(f"outer steps, blocks of {BLOCK}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=FONT)  # fmt: skip
    figure.savefig(path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"] and len(sys.argv) == 4:
        add(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["draw"] and len(sys.argv) == 3:
        draw(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
