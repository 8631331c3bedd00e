"""Meta-train learned optimizers with and without their parts, at equal inner steps, and compare what they learn.

python experiments/15_architectures/run.py --out runs/architectures

Killed and started again it goes on where it was.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from plot import PICTURE, draw, report

from lopt import config as cfg
from lopt.comm import Comm, aborting, get_comm
from lopt.config import Section
from lopt.experiment import begin, command_line, rounded, save_results
from lopt.store import load_weights
from lopt.sweep import folder_name, meta_losses, trained

HERE = Path(__file__).parent


class Config(Section, kw_only=True):
    """config.toml; a panel is a configuration of `lopt train` without tasks, and options of its variants."""

    seeds: int
    smoothing: int
    tasks: tuple[dict[str, Any], ...]
    panels: dict[str, dict[str, Any]]


def main() -> int:
    """Runs, picture, table; the exit code says whether expected.toml was met."""
    args, config = begin(command_line(__doc__), HERE, Config)
    comm, runs = get_comm(), {}
    with aborting(comm):
        for panel, given in config.panels.items():
            for variant, options in given["variants"].items():
                runs[panel, variant] = [
                    meta_train(panel, variant, options, seed, config, args.out, comm)
                    for seed in range(config.seeds)
                ]
    if comm.rank != 0:
        return 0
    losses = {
        f"{panel}/{variant}": rounded(np.array([meta_losses(f) for f in folders], np.float32))
        for (panel, variant), folders in runs.items()  # (seed, outer step)
    }
    save_results(
        args.out / "meta_losses.h5",
        losses,
        runs=list(losses),
        meta_parameters=[number_of_meta_parameters(folders[0]) for folders in runs.values()],
        smoothing=config.smoothing,
    )
    draw(args.out, args.out / PICTURE)
    return report(args.out)


def meta_train(
    panel: str,
    variant: str,
    options: dict[str, Any],
    seed: int,
    config: Config,
    out: Path,
    comm: Comm,
) -> Path:
    """`lopt train` of one variant; every variant meets the same tasks, starting points and batches.  The run's folder."""
    tree = {k: v for k, v in config.panels[panel].items() if k != "variants"}
    optimizer = {**tree["optimizer"], "options": {**tree["optimizer"]["options"], **options}}
    train = {**tree["train"], "seed": seed}
    tree |= {"tasks": config.tasks, "optimizer": optimizer, "train": train}
    folder = out / folder_name(f"{panel} {variant} seed{seed}")
    return trained(cfg.convert(tree, cfg.Config), folder, comm)


def number_of_meta_parameters(folder: Path) -> int:
    """D of a run."""
    return load_weights(folder / "weights.h5").theta.size


if __name__ == "__main__":
    sys.exit(main())
