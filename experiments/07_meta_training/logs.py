"""What is kept of runs of meta-training: a small file of blocks of outer steps, and its picture.

    python experiments/07_meta_training/logs.py add NAME runs/wide/run.h5     into runs.h5
    python experiments/07_meta_training/logs.py draw runs.png                 from runs.h5

A run log of some MB becomes some kB: means over blocks of 100 outer steps, the configuration, the cost.
"""

import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from matplotlib.figure import Figure

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
    """The picture of the kept file."""
    with h5py.File(KEPT) as file:
        picture(file).savefig(path)


def picture(file: h5py.File) -> Figure:
    """A row for each list of tasks, whose losses alone can be compared: meta-loss and norm of theta over outer steps."""
    configs = {name: tomllib.loads(group.attrs["config"]) for name, group in file.items()}
    lists: list[list[str]] = []
    for name, config in configs.items():
        same = (row for row in lists if configs[row[0]]["tasks"] == config["tasks"])
        row = next(same, None)
        lists.append([name]) if row is None else row.append(name)
    figure, axes = new_figure(11, 0.4 + 3.1 * len(lists), len(lists), 2)
    for (losses, norms), names in zip(axes, lists, strict=True):
        for name, (colour, dash) in zip(names, STYLES[: len(names)], strict=True):
            group = file[name]
            steps = BLOCK * (1 + np.arange(group["meta_loss"].size))
            norm = np.sqrt((group["theta_norm"][()] ** 2).sum(axis=1))
            losses.plot(steps, group["meta_loss"][()], color=colour, ls=dash, lw=1.4)
            label = described(name, configs[name], int(group.attrs["inner_steps"]))
            norms.plot(steps, norm, color=colour, ls=dash, lw=1.4, label=label)
        families = Counter(task["family"] for task in configs[names[0]]["tasks"])
        tasks = ", ".join(f"{n} {family}" for family, n in families.most_common())
        losses.set_title(f"tasks of {', '.join(names)}: {tasks}", fontsize=FONT)
        losses.set_ylabel("meta-loss: mean log held-out loss", fontsize=FONT)
        norms.set_ylabel("norm of theta", fontsize=FONT)
        for ax in (losses, norms):
            ax.set_xlabel(f"outer step, blocks of {BLOCK}", fontsize=FONT)
            ax.tick_params(labelsize=FONT - 1)
        norms.legend(frameon=False, fontsize=FONT, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def described(name: str, config: dict[str, Any], inner_steps: int) -> str:
    """Legend of a run: horizon, seed, cost."""
    low, high = config["es"]["horizon"]
    horizon = f"{low}" if low == high else f"{low} to {high}"
    return f"{name}: horizon {horizon}, seed {config['train']['seed']},\n{inner_steps / 1e6:.1f}e6 inner steps"


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"] and len(sys.argv) == 4:
        add(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["draw"] and len(sys.argv) == 3:
        draw(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
