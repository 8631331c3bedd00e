"""Runs of meta-training that are compared with each other, each in a folder of its own.

Killed and started again, a sweep goes on where it was: finished runs are kept, a begun one is resumed.
"""

import re
import sys
from pathlib import Path

import numpy as np

from lopt import config as cfg
from lopt import store
from lopt.comm import Comm
from lopt.store.checkpoint import NEWEST, PREVIOUS
from lopt.train import train

NEW, BEGUN, DONE = range(3)


def folder_name(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"\W+", "_", label).strip("_")


def trained(config: cfg.Config, folder: Path, comm: Comm) -> Path:
    """Meta-train into a folder, or go on with the run that is there; returns the folder.  Collective.

    Raises:
        SystemExit: a signal has ended the run; the runs after it shall not begin.
        ConfigError, StoreError, LostPairsError: as `lopt.train.train`; ConfigError also if the folder holds a run of
            another configuration.
    """
    state = comm.bcast(_state(config, folder) if comm.rank == 0 else NEW)
    if state == DONE:
        return folder
    outcome = train(config, folder, comm, resume=state == BEGUN)
    if outcome.reason == "signal":
        if comm.rank == 0:
            print(f"stopped by a signal in {folder}; started again, it goes on")
        sys.exit(0)
    return folder


def meta_losses(folder: Path) -> np.ndarray:
    """(outer steps,) meta-loss of every outer step of a run."""
    with store.RunReader(folder / "run.h5") as run:
        return run["meta_loss"]


def _state(config: cfg.Config, folder: Path) -> int:
    """Whether the run of a folder is to be begun, to be gone on with, or finished as configured."""
    if not any((folder / name).exists() for name in (NEWEST, PREVIOUS)):
        # killed before its first checkpoint: no step yet
        (folder / "run.h5").unlink(missing_ok=True)
        return NEW
    with store.RunReader(folder / "run.h5") as run:
        same = not cfg.diff(cfg.loads(run.config_text), config)
        return DONE if same and run.state == "finished" else BEGUN
