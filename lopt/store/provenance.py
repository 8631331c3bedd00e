"""Where results come from: code version, machine, library versions, time."""

import datetime
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numba
import numpy as np


def provenance(seed: int, ranks: int, device: str) -> dict[str, Any]:
    """A JSON-able record of this process, for the `provenance` attributes.

    git_commit is None when lopt does not run from a source checkout.
    """
    from lopt import __version__

    commit, dirty = _git_state()
    return {
        "lopt": __version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "start_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "seed": seed,
        "ranks": ranks,
        "device": device,
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }


def _git_state() -> tuple[str | None, bool | None]:
    """Commit and whether tracked files differ from it; (None, None) outside a checkout or without git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None, None
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        commit, status = (
            subprocess.run(
                ["git", "-C", str(root), *c], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for c in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(status)
