"""Meta-train a new optimizer several times, each time with another optimizer on its meta-parameters.

python experiments/14_self_training/run.py --out runs/self_training

Killed and started again it goes on where it was.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from plot import PICTURE, draw, report

from lopt import config as cfg
from lopt import store
from lopt.comm import Comm, aborting, get_comm
from lopt.comparison import Entrant, EntrantSpec, entrants_of
from lopt.config import Section
from lopt.experiment import begin, command_line, rounded, save_results
from lopt.sweep import folder_name, meta_losses, trained

HERE = Path(__file__).parent


class Config(Section, kw_only=True):
    """config.toml; `lopt` is a configuration of `lopt train`."""

    smoothing: int
    horizon: int
    entrants: tuple[EntrantSpec, ...]
    lopt: dict[str, Any]


def main() -> int:
    """Runs, picture, table; the exit code says whether expected.toml was met."""
    args, config = begin(command_line(__doc__), HERE, Config)
    comm, runs, specs = get_comm(), {}, []
    steps = cfg.convert(config.lopt, cfg.Config).train.outer_steps
    with aborting(comm):
        for entrant in entrants_of(config.entrants, args.config.parent, steps):
            runs[name_of(entrant)] = meta_train(entrant, config, args.out, comm)
            specs.append(entrant.info.spec)
    if comm.rank != 0:
        return 0
    losses = [rounded(meta_losses(folder).astype(np.float32)) for folder in runs.values()]
    save_results(
        args.out / "meta_losses.h5",
        {"meta_loss": losses},  # (outer optimizer, outer step)
        entrants=list(runs),
        specs=specs,
        smoothing=config.smoothing,
        horizon=config.horizon,
    )
    draw(args.out, args.out / PICTURE)
    return report(args.out)


def name_of(entrant: Entrant) -> str:
    """Family, and the learning rate where several are tried."""
    tried = entrant.info.variant == "tuned"
    return entrant.info.family + (f", rate {entrant.opt.learning_rate:g}" if tried else "")


def meta_train(entrant: Entrant, config: Config, out: Path, comm: Comm) -> Path:
    """`lopt train` with that optimizer on theta; the folder of the run."""
    name = folder_name(name_of(entrant))
    outer = {**config.lopt.get("outer", {})}
    if entrant.info.variant != "learned" and hasattr(entrant.opt, "learning_rate"):
        options = entrant.opt.config()
        outer |= {"optimizer": options.pop("name"), "options": options}
    else:
        outer["weights"] = str(out / f"{name}.h5")
        if comm.rank == 0:
            origin = store.provenance(0, comm.size, "cpu")
            store.save_weights(outer["weights"], entrant.opt, entrant.theta, origin)
        comm.barrier()
    return trained(cfg.convert({**config.lopt, "outer": outer}, cfg.Config), out / name, comm)


if __name__ == "__main__":
    sys.exit(main())
