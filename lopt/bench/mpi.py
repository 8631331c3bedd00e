"""Whole processes: start-up with an empty and a warm cache, memory of a rank, two ranks against one."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lopt.bench.measure import JAX, Figure, Measured, Row
from lopt.errors import CommError
from lopt.store import RunReader

EXAMPLE_CONFIG = Path(__file__).parents[2] / "experiments" / "01_digits" / "config.toml"
RUNS = 3  # of each of one and two ranks, in turn


class Process(NamedTuple):
    """What a finished command took."""

    seconds: float  # from its start to its end
    cpu_s: float  # of all its processes: other work on the machine hardly counts
    peak: float  # MiB of one rank


def figures() -> Iterator[Figure]:
    """Start-up to the second outer step and memory, cold and warm; two ranks against one."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cache = {"NUMBA_CACHE_DIR": str(folder / "cache")}
        for label, asked in (("empty", 60.0), ("warm", 3.0)):
            run = _train(folder / label, 1, 2, cache)
            for name, value, unit, limit, peer in (
                ("start to the 2nd outer step", run.seconds, "s", asked, 75.0),
                ("core time to the 2nd outer step", run.cpu_s, "s", asked, 75.0),
                ("peak memory of a rank", run.peak, "MiB", 250.0, 600.0),
            ):
                row = _row(f"{name}, {label} cache", unit, value, limit, True, JAX, peer)
                yield row.figure()
        try:
            rates = [_inner_rate(folder / f"run{k}", 1 + k % 2, cache) for k in range(2 * RUNS)]
        except CommError as error:
            ask = _row("meta-training, two ranks over one", "x", None, 1.9, False)
            yield ask.filled(Measured(None, note=str(error)))
            return
    one, two = float(np.median(rates[0::2])), float(np.median(rates[1::2]))
    yield _row("meta-training, one rank", "inner steps/s", one, None, False, JAX, 966.0).figure()
    yield _row("meta-training, two ranks over one", "x", two / one, 1.9, False).figure()


def _row(name: str, unit: str, value: float | None, *rest) -> Row:
    return Row(name, unit, lambda: Measured(value), *rest)


def launcher(ranks: int) -> list[str]:
    """What a command for some ranks begins with: mpirun, that beside this Python or on the path; nothing for one.

    Raises:
        CommError: there is no mpirun.
    """
    if ranks == 1:
        return []
    beside = Path(sys.executable).parent / "mpirun"
    found = os.environ.get("LOPT_MPIRUN") or (
        str(beside) if beside.exists() else shutil.which("mpirun")
    )
    if not found:
        raise CommError("no mpirun: install lopt[mpi] or set LOPT_MPIRUN")
    return [found, "-n", str(ranks)]


# The command, telling at its end how much memory its own process took at most.
_COMMAND = """
import sys
from lopt.memory import peak_memory
from lopt.cli import main
try:
    main(sys.argv[1:])
finally:
    print(peak_memory(), file=sys.stderr)
"""


def _train(out: Path, ranks: int, outer_steps: int, env: dict[str, str]) -> Process:
    """Run `lopt train` on the example's configuration."""
    settings = {
        "train.outer_steps": outer_steps,
        "train.minutes": 0,
        "train.checkpoint_minutes": 60,
    }
    sets = [x for k, v in settings.items() for x in ("--set", f"{k}={v}")]
    command = [sys.executable, "-c", _COMMAND, "train", "--config", str(EXAMPLE_CONFIG)]
    begin, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [*launcher(ranks), *command, "--out", str(out), *sets],
        env={**os.environ, **env},
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, after = time.perf_counter() - begin, os.times()
    cpu_s = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return Process(seconds, cpu_s, int(done.stderr.split()[-1]) / 2**20)


def _inner_rate(out: Path, ranks: int, env: dict[str, str]) -> float:
    """Inner steps per second of meta-training: the median outer step after the first three."""
    _train(out, ranks, 15, env)
    run = RunReader(out / "run.h5")
    return float(np.median(np.diff(run["inner_steps"])[2:] / np.diff(run["wall_s"])[2:]))
