"""Real mpirun in a subprocess: a deadlock becomes a failure, not a hang."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from lopt.bench import mpirun


class Finished(NamedTuple):
    """How a launched program ended."""

    code: int
    out: str
    err: str


def launch(
    ranks: int, arguments: list[str], timeout: float = 300.0, **environment: str
) -> Finished:
    """Run `python ARGUMENTS` on some ranks (1: without mpirun); kill the whole process group at the timeout."""
    process = start(ranks, arguments, **environment)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_group(process)
        out, err = process.communicate()
        raise AssertionError(f"no end within {timeout} s\n{out}\n{err}") from None
    return Finished(process.returncode, out, err)


def start(ranks: int, arguments: list[str], **environment: str) -> subprocess.Popen:
    """The same, without waiting."""
    launcher = [mpirun(), "-n", str(ranks)] if ranks > 1 else []
    return subprocess.Popen(
        [*launcher, sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )


def kill_group(process: subprocess.Popen) -> None:
    """SIGKILL for the launcher and every rank."""
    os.killpg(process.pid, signal.SIGKILL)


def lopt(ranks: int, *arguments: str, timeout: float = 300.0, **environment: str) -> Finished:
    """Run the `lopt` command."""
    return launch(ranks, ["-m", "lopt", *arguments], timeout, **environment)
