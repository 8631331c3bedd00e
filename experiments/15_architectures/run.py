"""Meta-train learned optimizers with and without their parts, at equal inner steps, and compare what they learn.

python experiments/15_architectures/run.py --out runs/architectures

Killed and started again it goes on where it was.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from plot import draw

from lopt import config as cfg
from lopt.comm import Comm, aborting, get_comm
from lopt.config import Section
from lopt.experiment import begin, command_line, toml, verdict
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
    losses = {k: np.array([meta_losses(f) for f in folders]) for k, folders in runs.items()}
    sizes = {k: number_of_meta_parameters(folders[0]) for k, folders in runs.items()}
    draw(losses, config.smoothing, args.out / "architectures.png")
    return report(losses, sizes, config.smoothing)


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


def report(losses: dict, sizes: dict[tuple[str, str], int], width: int) -> int:
    """Mean and range of the last meta-losses, and the verdict in a run of full size."""
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
