"""Meta-train a new optimizer several times, each time with another optimizer on its meta-parameters.

python experiments/14_self_training/run.py --out runs/self_training

Killed and started again it goes on where it was.
"""

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from plot import draw

from lopt import config as cfg
from lopt import store
from lopt.comm import Comm, aborting, get_comm
from lopt.comparison import Entrant, EntrantSpec, entrants_of, read
from lopt.config import Section
from lopt.sweep import folder_name, meta_losses, trained

HERE = Path(__file__).parent


class Config(Section, kw_only=True):
    """config.toml; `lopt` is a configuration of `lopt train`."""

    smoothing: int
    horizon: int
    entrants: tuple[EntrantSpec, ...]
    lopt: dict[str, Any]
    seeds: int = 1
    steps: int = 1


def main() -> int:
    """Runs, picture, table; the exit code says whether expected.toml was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    args = parser.parse_args()
    config, comm = read(args.config, Config), get_comm()
    runs = {}
    with aborting(comm):
        for spec in config.entrants:
            for entrant in entrants_of(spec, config, args.config.parent):
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
            out.mkdir(parents=True, exist_ok=True)
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
    bound = tomllib.loads((HERE / "expected.toml").read_text())["over_adam"]
    missed = [n for n in runs if n not in tuned and not ends[n][0] - best[0] <= bound]
    print(f"NOT as expected: {', '.join(missed)}" if missed else "as expected")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
