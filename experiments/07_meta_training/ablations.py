"""Meta-train with one thing changed at a time, at equal inner steps, and compare on validation families.

python experiments/07_meta_training/ablations.py --out runs/ablations          (mpirun -n N before it: on N ranks)

Killed and started again it goes on where it was.  `table.py` writes what came out into LOG.md.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from lopt import config as cfg
from lopt.comm import aborting, get_comm
from lopt.comparison import compare
from lopt.config import Section
from lopt.experiment import begin, command_line
from lopt.sweep import folder_name, trained

HERE = Path(__file__).parent


class Config(Section, kw_only=True):
    """ablations.toml; a variant is a table of keys of the recipe that it replaces, `tasks` a file to take them from."""

    recipe: str
    outer_steps: int
    comparison: dict[str, Any]
    variants: dict[str, dict[str, Any]]


def main() -> int:
    """Runs, then curves.h5 of all of them on the validation tasks."""
    args, config = begin(command_line(__doc__), HERE, Config, "ablations.toml")
    folder, comm = args.config.parent, get_comm()
    recipe = tomllib.loads((folder / config.recipe).read_text())
    recipe["train"]["outer_steps"] = config.outer_steps
    with aborting(comm):
        for name, changes in config.variants.items():
            trained(variant(recipe, changes, folder), args.out / folder_name(name), comm)
        if comm.rank == 0:
            write_comparison(config, folder, args.out)
        comm.barrier()
        compare(args.out / "comparison.toml", args.out / "ablations.h5", comm)
    return 0


def variant(recipe: dict[str, Any], changes: dict[str, Any], folder: Path) -> cfg.Config:
    """The recipe with changes, which reach into its tables."""
    changes = dict(changes)
    if "tasks" in changes:
        changes["tasks"] = tomllib.loads((folder / changes["tasks"]).read_text())["tasks"]
    return cfg.convert(merged(recipe, changes), cfg.Config)


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A tree of tables with other values."""
    deeper = {k: merged(tree.get(k, {}), v) for k, v in changes.items() if isinstance(v, dict)}
    return {**tree, **changes, **deeper}


def write_comparison(config: Config, folder: Path, out: Path) -> None:
    """comparison.toml: the rivals of ablations.toml, whose files lie beside it, and the weights of every variant."""
    tree = dict(config.comparison)
    tree["tasks"] = str((folder / tree["tasks"]).resolve())
    rivals = [
        {**e, "weights": str((folder / e["weights"]).resolve())} if "weights" in e else e
        for e in tree["entrants"]
    ]
    runs = [{"family": n, "weights": f"{folder_name(n)}/weights.h5"} for n in config.variants]
    tree["entrants"] = [*rivals, *runs]
    (out / "comparison.toml").write_text(tomli_w.dumps(tree))


if __name__ == "__main__":
    sys.exit(main())
