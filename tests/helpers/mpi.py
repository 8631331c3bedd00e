"""Real mpirun in a subprocess: a deadlock becomes a failure, not a hang."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lopt.bench import launcher


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
    return subprocess.Popen(
        [*launcher(ranks), sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )


def counted(world: Any) -> Any:
    """A communicator of mpi4py like `world` whose `bytes` counts all buffers that this rank gives to its methods.

    Those that would pickle are refused.
    """
    from mpi4py import MPI

    class Counted(MPI.Intracomm):
        bytes = 0

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name in ("send", "recv", "bcast", "gather", "scatter", "allgather", "allreduce"):
                raise AssertionError(f"{name} pickles")
            if not name[0].isupper() or not callable(found):
                return found

            def call(*arguments: Any, **named: Any) -> Any:
                given = (*arguments, *named.values())
                self.bytes += sum(a.nbytes for a in given if isinstance(a, np.ndarray))
                return found(*arguments, **named)

            return call

    return Counted(world)


def kill_group(process: subprocess.Popen) -> None:
    """SIGKILL for the launcher and every rank."""
    os.killpg(process.pid, signal.SIGKILL)


def lopt(ranks: int, *arguments: str, timeout: float = 300.0, **environment: str) -> Finished:
    """Run the `lopt` command."""
    return launch(ranks, ["-m", "lopt", *arguments], timeout, **environment)
