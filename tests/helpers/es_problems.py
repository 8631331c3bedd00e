"""Unrolled problems with known gradients, for the tests of `lopt.es`.

As a program it is one rank of a rank-invariance run:
    python -m helpers.es_problems FOLDER [CHECKPOINT_FOLDER]
makes six outer steps of `Drift` with every estimator and saves gradients, losses and a checkpoint
taken after three; given the folder of other checkpoints it starts from those.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lopt import rng
from lopt.comm import Comm, SerialComm, aborting, get_comm
from lopt.es import ESTIMATORS, Window, make_estimator
from lopt.lanes import kernel

BALANCE_SIZE = 23


def settings(**changes: object) -> SimpleNamespace:
    """Estimator settings with the names of `lopt.config.EsConfig`."""
    defaults = {
        "estimator": "full", "pairs": 4, "sigma": 0.1, "truncation": 1, "resample": 0,
        "difference": "raw", "diverged": "drop", "noise_table": 0,
    }  # fmt: skip
    return SimpleNamespace(**{**defaults, **changes})


class Plain:
    """A function of theta alone, as an unroll of one inner step."""

    def __init__(self, f: Callable[[np.ndarray], float], n_theta: int) -> None:
        self.f, self.n_theta = f, n_theta

    def horizon(self, episode, pair):
        return 1

    def group(self, episode, pair):
        return 0

    def cost(self, episode, pair):
        return 1.0

    def start(self, theta, episode, pair):
        return {}

    def run(self, theta, state, episode, pair, t0, steps):
        return Window(float(self.f(theta.astype(np.float64))), state, False, steps)


@kernel
def balance(theta, state, steps):
    """s <- A s + theta e, loss (s[0] - 1)**2 / 2 after each step; returns their sum."""
    total, n = 0.0, state.size
    for _ in range(steps):
        for i in range(n):
            after = state[i + 1] if i + 1 < n else 0.0
            state[i] = 0.5 * state[i] + 0.5 * after + (theta if i < 10 else -theta)
        total += 0.5 * (state[0] - 1.0) ** 2
    return total


class Balance(Plain):
    """Influence balancing (Tallec & Ollivier 2017): one step's gradient has the wrong sign."""

    def __init__(self, horizon: int, truncation: int) -> None:
        self.n_theta, self._horizon, self._truncation = 1, horizon, truncation

    def horizon(self, episode, pair):
        return self._horizon

    def start(self, theta, episode, pair):
        return {"s": np.ones(BALANCE_SIZE)}

    def run(self, theta, state, episode, pair, t0, steps):
        total = balance(float(theta[0]), state["s"], steps)
        return Window(total / self._truncation, state, False, steps)


class Memory(Plain):
    """s <- s / 2 + theta, loss c_t.s with a direction c_t for every inner step: linear in all thetas.

    final: only the last step counts; a window's loss is the change of c.s from its start to its end.
    """

    def __init__(self, truncation: int, horizon: int = 12, final: bool = False) -> None:
        self.n_theta, self._truncation, self._horizon, self._final = 3, truncation, horizon, final

    def horizon(self, episode, pair):
        return self._horizon

    def start(self, theta, episode, pair):
        return {"s": np.zeros(3)}

    def run(self, theta, state, episode, pair, t0, steps):
        s, total = state["s"], 0.0
        before = self._loss(t0 - 1, s)
        for t in range(t0, t0 + steps):
            s = 0.5 * s + theta
            total += self._loss(t, s)
        loss = self._loss(t0 + steps - 1, s) - before if self._final else total
        return Window(loss / self._truncation, {"s": s}, False, steps)

    @staticmethod
    def _loss(t, s):
        return float(np.cos([0.3 * t, 0.5 * t + 1, t]) @ s)


class Drift(Plain):
    """A nonlinear recurrence: random horizons, three tasks, start depends on theta, own noise.

    s <- 0.9 s + tanh(theta + w) with w drawn per inner step; loss |s - target|^2 / 2 per step.
    """

    def __init__(self, n_theta: int, truncation: int, seed: int = 5, longest: int = 9) -> None:
        self.n_theta, self._truncation, self._seed, self._longest = (
            n_theta, truncation, seed, longest,
        )  # fmt: skip

    def _draw(self, episode, pair, purpose, high):
        return int(rng.integers(1, 0, high, rng.stream(self._seed, episode, pair), purpose)[0])

    def horizon(self, episode, pair):
        return 1 + self._draw(episode, pair, rng.HORIZON, self._longest)

    def group(self, episode, pair):
        return self._draw(episode, pair, rng.TASK, 3)

    def cost(self, episode, pair):
        return 10.0 ** self.group(episode, pair)

    def start(self, theta, episode, pair):
        return {"s": 0.5 * theta, "seen": np.zeros((), np.int64)}

    def run(self, theta, state, episode, pair, t0, steps):
        if int(state["seen"]) != t0:
            raise AssertionError(f"particle at {state['seen']}, asked for {t0}")
        stream = rng.stream(self._seed, episode, pair)
        target, total = self.group(episode, pair) - 1.0, 0.0
        s = state["s"]
        for t in range(t0, t0 + steps):
            s[:] = 0.9 * s + np.tanh(theta + rng.normals(s.size, stream, rng.NOISE, t))
            total += 0.5 * float(((s - target) ** 2).sum(dtype=np.float64))
        state["seen"] += steps
        return Window(total / self._truncation, state, False, steps)


def z_of(seed: int, outer: int, pair: int, n: int) -> np.ndarray:
    """The perturbation of a pair, (n,) float32, units of sigma."""
    return rng.normals(n, rng.stream(seed, outer, pair), rng.PERTURB)


def one_step(problem, theta, outer_step=0, seed=0, **cfg):
    """First estimate of an estimator."""
    estimator = make_estimator(settings(**cfg), problem, SerialComm(), seed)
    theta = np.asarray(theta, np.float32)
    return estimator.step(theta, outer_step, estimator.init(theta))[0]


def run_drift(comm: Comm, cfg: SimpleNamespace, checkpoint: dict | None = None) -> dict:
    """Six outer steps (three from a checkpoint) with theta moving.

    Returns: grad (n, D), losses (n, P, 2), sent (bytes), and on rank 0 the checkpoint after three.
    """
    problem = Drift(37, cfg.truncation)
    estimator = make_estimator(cfg, problem, comm, seed=11)
    first, theta = 0, np.linspace(-1, 1, 37, dtype=np.float32)
    state = estimator.init(theta)
    if checkpoint is not None:
        first, theta = 3, checkpoint["theta"]
        state = estimator.load_state(checkpoint, theta)
    grads, losses, saved = [], [], None
    for t in range(first, 6):
        if t == 3:
            saved = estimator.gather_state(state)
            if saved is not None:
                saved["theta"] = theta
        estimate, state = estimator.step(theta, t, state)
        theta = theta - np.float32(1e-3) * estimate.grad
        grads.append(estimate.grad)
        losses.append(estimate.losses)
        assert estimate.bytes_sent == 16 * cfg.pairs
    return {"grad": np.array(grads), "losses": np.array(losses), "saved": saved}


def all_estimators(comm: Comm, checkpoints: str | None = None) -> dict[str, dict]:
    """`run_drift` by every estimator with three pairs; optionally from checkpoints in a folder."""
    found = {}
    for name in ESTIMATORS:
        more = {"gpes": {"resample": 4}, "truncated": {"noise_table": 1000}}.get(name, {})
        cfg = settings(estimator=name, pairs=3, truncation=2, difference="normalised", **more)
        saved = None
        if checkpoints is not None:
            with np.load(f"{checkpoints}/{name}.checkpoint.npz") as arrays:
                saved = dict(arrays)
        found[name] = run_drift(comm, cfg, saved)
    return found


def main(folder: str, checkpoints: str | None = None) -> None:
    """One rank of a run; rank 0 writes."""
    comm = get_comm()
    with aborting(comm, debug=True):
        for name, found in all_estimators(comm, checkpoints).items():
            # Every rank must hold the bits of all others.
            mine = found["grad"].view(np.uint32).astype(np.float64).reshape(-1)
            total = mine.copy()
            comm.allreduce_scalars(total, "control")
            assert (total == comm.size * mine).all(), f"{name}: rank {comm.rank} differs"
            if comm.rank == 0:
                arrays = {"grad": found["grad"], "losses": found["losses"], "size": comm.size}
                np.savez(f"{folder}/{name}.npz", **arrays)
                np.savez(f"{folder}/{name}.checkpoint.npz", **found["saved"])


def launch(ranks: int, *folders: str) -> None:
    """Run this file as a program on several ranks, with the mpirun that belongs to this Python."""
    program = Path(sys.executable).parent / "mpirun"
    tests = Path(__file__).parent.parent
    paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [program, "-n", str(ranks), sys.executable, "-m", "helpers.es_problems", *folders],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    main(*sys.argv[1:])
