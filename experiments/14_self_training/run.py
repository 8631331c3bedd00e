"""Meta-train a new optimizer several times, each time with another optimizer on its meta-parameters.

python experiments/14_self_training/run.py --out runs/self_training

Killed and started again it goes on where it was.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from plot import draw

from lopt import config as cfg
from lopt import store
from lopt.comm import Comm, aborting, get_comm
from lopt.comparison import Entrant, EntrantSpec, entrants_of
from lopt.config import Section
from lopt.experiment import begin, command_line, toml, verdict
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
    comm, runs = get_comm(), {}
    steps = cfg.convert(config.lopt, cfg.Config).train.outer_steps
    with aborting(comm):
        for entrant in entrants_of(config.entrants, args.config.parent, steps):
            runs[name_of(entrant)] = meta_train(entrant, config, args.out, comm)
    if comm.rank != 0:
        return 0
    draw(runs, config.smoothing, config.horizon, args.out / "self_training.png")
    return report(runs, config)


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


def report(runs: dict[str, Path], config: Config) -> int:
    """Meta-losses at the horizon and at the end, and the verdict."""
    losses = {name: meta_losses(folder) for name, folder in runs.items()}
    at, width = config.horizon, config.smoothing
    ends = {n: (x[max(0, at - width) : at].mean(), x[-width:].mean()) for n, x in losses.items()}
    print(f"| outer optimizer | meta-loss, outer step {at} | at the end |\n|---|---|---|")
    for name, (early, late) in ends.items():
        print(f"| {name} | {early:.4f} | {late:.4f} |")
    tuned = {n for n in runs if n.startswith("Adam, rate")}
    best = np.min([ends[n] for n in tuned], axis=0)
    bound = toml(HERE / "expected.toml")["over_adam"]
    missed = [n for n in runs if n not in tuned and not ends[n][0] - best[0] <= bound]
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
