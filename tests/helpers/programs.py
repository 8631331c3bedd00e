"""Experiments run as programs."""

import os
import subprocess
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"


def run(folder: str, *args: str, program: str = "run.py") -> str:
    """Standard output of an experiment's program, which must end well."""
    command = [sys.executable, str(EXPERIMENTS / folder / program), *args]
    paths = os.pathsep.join([str(EXPERIMENTS.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    """All HDF5 files below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*.h5")}
