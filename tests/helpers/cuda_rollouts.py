"""Runs `lopt.cuda_rollout` and `lopt.cuda_update` in Numba's CUDA simulator, and the same on the CPU, as plain Python.

The simulator is chosen when Numba is imported, so this is a program of its own:

    NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1 python -m helpers.cuda_rollouts OUT.npz

It writes "<device>/<case>/<what>" for the devices "cpu" and "cuda".
"""

import functools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from helpers.lane_scheduler import interpreted
from helpers.simulator import HOOKS, entry, plain

import lopt
from lopt import cuda_device, cuda_rollout, cuda_update, gpu_check, rng
from lopt.augment import augment
from lopt.comm import SerialComm
from lopt.errors import OptimizerError
from lopt.es import make_estimator
from lopt.meta import MetaProblem, Objective
from lopt.rollout import Particle, Schedule, runner_on

LANES = 2
WINDOWS = (1, 2)  # inner steps
SCALES = (0.0, 0.05, -0.05, 0.05, -0.05)  # of the perturbations of a batch's particles
SCHEDULE = Schedule(valid_every=2, outer_every=1)
TINY = {"lstm_hidden": 3, "mlp_hidden": 4, "to_lstm": 2, "to_mlp": 2, "between": 2}
MLP = {"data": "digits", "hidden": (2,), "batch_size": 2}
CASES = {
    "quadratic with hierarchical": lambda: (
        lopt.task("quadratic", dims=3), lopt.optimizer("hierarchical", **TINY),
    ),
    "quadratic with adafac_mlp": lambda: (lopt.task("quadratic", dims=3), lopt.optimizer("adafac_mlp")),
    "quadratic with anchored": lambda: (lopt.task("quadratic", dims=3), lopt.optimizer("anchored")),
    "mlp with adam": lambda: (lopt.task("mlp", **MLP), lopt.optimizer("adam")),
    "augmented quadratic with adam": lambda: (
        augment(lopt.task("quadratic", dims=5), delay=1, reparameterise="parameter", gradient_noise=0.1, normalise=True),
        lopt.optimizer("adam"),
    ),
}  # fmt: skip
ESTIMATORS = ("nres", "full", "truncated")
UPDATES = ("adam", "hierarchical")
REFUSED = {  # parameters and gradients
    "gradient": ([1, 1, 1], [0, np.nan, 0]),
    "parameter": ([1, 1, np.inf], [0, 0, 0]),
    "too large": ([1, 1, 1], [1, -2e19, 1]),
}


def simulated_entry(evaluate, step):
    """What `lopt.cuda_rollout.compiled` makes: kernels as plain Python, arrays as NumPy's."""
    e, s = (interpreted(core, HOOKS) for core in (evaluate, step))
    return entry(interpreted(cuda_rollout.training_kernel(e, s), HOOKS))


def simulated_update(step):
    """What `lopt.cuda_update.compiled` makes."""
    return entry(interpreted(cuda_update.update_kernel(interpreted(step, HOOKS)), HOOKS))


def batch(device: str, case: str) -> dict[str, np.ndarray]:
    """Two windows; one of four particles is lost after the first, another is born."""
    task, opt = CASES[case]()
    runner = runner_on(device, task, opt, SCHEDULE)
    theta, found = opt.init_theta(1), {}
    held: dict[int, object] = {}
    for w, steps in enumerate(WINDOWS):
        members = range(4) if w == 0 else (0, 2, 3, 4)  # 1 is lost
        held = {i: held.get(i) for i in members}
        for i, (losses, particle) in _run(device, runner, theta, held, w, steps).items():
            held[i] = particle
            found |= {f"{case}/{w}/{i}/loss": losses}
            found |= {f"{case}/{w}/{i}/{k}": np.array(v) for k, v in _arrays(particle).items()}
    return found


def _arrays(particle) -> dict[str, np.ndarray]:
    if not isinstance(particle, Particle):
        return dict(particle)
    return {k: getattr(particle, k) for k in ("params", "state", "status", "memory")}


def _run(device: str, runner, theta, held: dict, w: int, steps: int) -> dict:
    address = {i: rng.stream(3, 0, i // 2) for i in held}
    ages = {i: WINDOWS[0] if held[i] is not None else 0 for i in held}
    if device == "cpu":
        done = {}
        for i, particle in held.items():
            own = theta + np.float32(SCALES[i]) * rng.normals(theta.size, address[i], rng.PERTURB)
            particle = particle or runner.start(theta, address[i])
            done[i] = np.concatenate(runner.advance(own, particle, steps, address[i])), particle
        return done
    jobs = [
        cuda_rollout.Job(
            theta, SCALES[i], address[i], particle or _arrays(runner.start(theta, address[i])), ages[i], steps, address[i],
        )
        for i, particle in held.items()
    ]  # fmt: skip
    results = runner.launch(jobs).results()
    return {
        i: (np.concatenate([r.train_loss, r.outer_loss]), r.particle)
        for i, r in zip(held, results, strict=True)
    }


def single(device: str) -> dict[str, np.ndarray]:
    """`lopt.rollout`."""
    task, opt = lopt.task("quadratic", dims=3), lopt.optimizer("adam", learning_rate=0.1)
    trace = lopt.rollout(task, opt, steps=5, seed=2, device=device, schedule=SCHEDULE)
    return {"train": trace.train_loss, "outer": trace.outer_loss, "x": trace.params["x"]}


def estimates(device: str, name: str) -> dict[str, np.ndarray]:
    """Two outer steps of an estimator on two tasks, a checkpoint taken and loaded between them."""
    tasks = [lopt.task("quadratic", dims=d, condition=4.0) for d in (2, 3)]
    problem = MetaProblem(
        tasks, (1.0, 2.0), lopt.optimizer("sgd", learning_rate=0.1), Schedule(outer_every=1), (2, 2), 1,
        Objective(False, (-1.0, 2.0)), 5, device,
    )  # fmt: skip
    settings = SimpleNamespace(
        estimator=name, pairs=3, sigma=0.1, truncation=1, resample=0, difference="raw", diverged="drop",
        noise_table=0,
    )  # fmt: skip
    estimator = make_estimator(settings, problem, SerialComm(), 5)
    theta, found = problem.opt.init_theta(), {}
    state = estimator.init(theta)
    for t in range(2):
        estimate, state = estimator.step(theta, t, state)
        found |= {f"{name}/{t}/losses": estimate.losses, f"{name}/{t}/grad": estimate.grad}
        if t == 0:
            state = estimator.load_state(estimator.gather_state(state), theta)
    return found


class Elsewhere:
    """An array of which kernels know the address only."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.__cuda_array_interface__ = dict(array.__array_interface__)


def updates(device: str, name: str) -> dict[str, np.ndarray]:
    """Three steps of `opt.update` on two tensors, a validation loss in the second."""
    opt = lopt.optimizer(name, **(TINY if name == "hierarchical" else {}))
    there = (lambda v: Elsewhere(v.copy())) if device == "cuda" else np.copy
    start = {
        "w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
        "b": np.ones(2, np.float32),
    }
    params = {k: there(v) for k, v in start.items()}
    state = opt.init(params, opt.init_theta())
    for t in range(3):
        grads = {k: there(np.sin(v + np.float32(t))) for k, v in start.items()}
        valid = 0.5 if t == 1 else None
        params, state = opt.update(params, grads, state, loss=1.0 / (1 + t), valid_loss=valid)
    found = {k: v.array if device == "cuda" else v for k, v in params.items()}
    found["state"] = np.array(plain(state.flat))
    return {f"update/{name}/{k}": v for k, v in found.items()}


def refused(case: str) -> str:
    """What is said of what cannot be a step; whether parameters and state are as they were."""
    opt, w = lopt.optimizer("adam"), np.ones(3, np.float32)
    state = opt.init({"w": Elsewhere(w)})
    given, before = REFUSED[case], np.array(plain(state.flat))
    w[:], grad = given[0], np.float32(given[1])
    try:
        opt.update({"w": Elsewhere(w)}, {"w": Elsewhere(grad)}, state)
    except OptimizerError as error:
        same = np.array_equal(w, np.float32(given[0]), equal_nan=True)
        same = same and np.array_equal(plain(state.flat), before)
        return f"{error}; same: {same}"
    return "nothing"


def check_files(folder: Path) -> None:
    """`lopt.gpu_check`, without benches: once as it is, once on a GPU that computes something else."""
    gpu_check.CASES = (("quadratic:dims=2", "adam"),)
    gpu_check.SEEDS, gpu_check.STEPS = 2, 10
    gpu_check.gpu = SimpleNamespace(figures=lambda: iter(()))
    good = gpu_check.check(folder / "good.h5")
    right = gpu_check.gpu_runs
    gpu_check.gpu_runs = lambda *case: tuple(x * np.float64(1.001) for x in right(*case))
    bad = gpu_check.check(folder / "bad.h5")
    (folder / "verdicts").write_text(f"{good} {bad}")


def main(path: str) -> None:
    """Everything, on both devices."""
    cuda_device.THREADS = LANES
    cuda_device.register_cuda = lambda: None  # the simulator's kernels are not compiled
    cuda_rollout.compiled = functools.cache(simulated_entry)
    cuda_update.compiled = simulated_update
    found = {f"refused/{case}": np.array(refused(case)) for case in REFUSED}
    for device in ("cpu", "cuda"):
        for case in CASES:
            found |= {f"{device}/{k}": v for k, v in batch(device, case).items()}
        for name in UPDATES:
            found |= {f"{device}/{k}": v for k, v in updates(device, name).items()}
        found |= {f"{device}/single/{k}": v for k, v in single(device).items()}
        for name in ESTIMATORS:
            found |= {f"{device}/{k}": v for k, v in estimates(device, name).items()}
    check_files(Path(path).parent)
    np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
