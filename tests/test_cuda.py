"""Rollouts and updates on a GPU: in the simulator equal to the CPU's, entries within their budgets, errors without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import lane_scheduler
from helpers.cuda_rollouts import CASES, ESTIMATORS, UPDATES, Elsewhere

import lopt
from lopt import cuda_rollout, cuda_update, rng
from lopt.augment import AugmentData
from lopt.cli import main
from lopt.cuda_compiler import STATIC_SHARED, Compiled, compile_entry, missing
from lopt.cuda_device import LANE_REGISTERS, THREADS
from lopt.errors import DeviceError
from lopt.optimizer import OPTIMIZERS, OptData
from lopt.rollout import Buffers, Schedule, inner_training, runner_on
from lopt.task import TASKS, TaskData

ROOT = Path(__file__).parent.parent
CLOSE = 1e-4  # of the largest number, over the first steps; what is seen is 1e-6
EXPERIMENT = ROOT / "experiments" / "01_digits" / "config.toml"

needs_compiler = pytest.mark.skipif(bool(missing()), reason=missing() or "all there")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, np.ndarray]:
    """Everything that `helpers.cuda_rollouts` makes, on the CPU and in the simulator."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    out = tmp_path_factory.mktemp("simulator") / "out.npz"
    switches = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-m", "helpers.cuda_rollouts", str(out)],
        env={**os.environ, **switches, "PYTHONPATH": paths},
        check=True,
        timeout=500,
    )
    with np.load(out) as arrays:
        return dict(arrays)


def same(found: dict[str, np.ndarray], beginning: str) -> int:
    """Assert that all arrays of that name agree between devices; returns how many there are."""
    names = [k[4:] for k in found if k.startswith(f"cpu/{beginning}/")]
    for name in names:
        cpu, cuda = found[f"cpu/{name}"], found[f"cuda/{name}"]
        assert cuda.shape == cpu.shape
        assert cuda.dtype == cpu.dtype
        np.testing.assert_allclose(cuda, cpu, rtol=0, atol=CLOSE * abs(cpu).max(initial=1e-30))
    return len(names)


@pytest.mark.parametrize("case", CASES)
def test_particles_of_a_launch_are_those_of_the_cpu(found, case: str) -> None:
    """Losses, parameters, state, status and memory of eight windows: members of pairs apart, windows that go on."""
    assert same(found, case) == 8 * 5
    one, other = (found[f"cuda/{case}/1/{i}/params"] for i in (2, 3) if i != 1)
    assert abs(one - other).max() > 100 * CLOSE * abs(one).max() or "adam" in case
    assert found[f"cuda/{case}/1/0/status"][2] == 3  # evaluations of both windows
    assert found[f"cuda/{case}/1/4/status"][2] == 2  # born in the second


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_that_hand_over_all_windows_find_the_same(found, name: str) -> None:
    """Losses and gradients of three outer steps, through a checkpoint, on two tasks."""
    assert same(found, name) == 6
    assert np.isfinite(found[f"cuda/{name}/2/grad"]).all()
    assert (
        abs(found[f"cuda/{name}/2/losses"][:, 0] - found[f"cuda/{name}/2/losses"][:, 1]).max() > 0
    )


def test_rollout_on_a_device(found) -> None:
    assert same(found, "single") == 3


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_in_place_is_that_of_the_cpu(found, name: str) -> None:
    assert same(found, f"update/{name}") == 3


def test_an_update_that_is_refused_changes_nothing(found) -> None:
    assert str(found["refused"]) == (
        "grads has non-finite values; the step was not made; same: True"
    )


@needs_compiler
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_updates_compile_within_their_budget(name: str) -> None:
    """At tests' cost the small ones; `lopt bench --suite gpu` has the others."""
    within_budget(
        compile_entry(cuda_update.update_kernel(OPTIMIZERS[name].core), cuda_update.entry_types())
    )


@needs_compiler
def test_rollouts_compile_within_their_budget() -> None:
    entry = cuda_rollout.training_kernel(TASKS["quadratic"].core, OPTIMIZERS["sgd"].core)
    within_budget(compile_entry(entry, cuda_rollout.entry_types()))


def within_budget(compiled: Compiled) -> None:
    assert compiled.target
    assert compiled.lanes
    assert compiled.barriers
    assert 8 <= compiled.registers <= LANE_REGISTERS
    assert compiled.shared <= STATIC_SHARED
    assert compiled.teams(THREADS) >= cuda_rollout.TEAMS_PER_PROCESSOR


@pytest.mark.parametrize(
    ("registers", "threads", "teams"), [(128, 128, 4), (129, 128, 3), (32, 128, 16), (16, 1024, 2)]
)
def test_teams_of_a_multiprocessor(registers: int, threads: int, teams: int) -> None:
    """65,536 registers, 64 warps."""
    assert Compiled(True, True, True, registers, 0, 0, 0).teams(threads) == teams


def test_a_whole_window_does_not_depend_on_the_lanes() -> None:
    """Two inner steps with validation and outer losses, fused, under the scheduler that finds missing barriers."""
    task, opt = lopt.task("quadratic", dims=5), lopt.optimizer("adam")
    runner = runner_on("cpu", task, opt, Schedule(valid_every=1, outer_every=1))
    stream = rng.stream(0)
    particle = runner.start(opt.init_theta(), stream)
    evaluate, step = (lane_scheduler.on_team(c) for c in (type(task).core, type(opt).core))

    def window(theta, params, state, status, train, outer, grad, rows, task_work, opt_work):
        buffers = Buffers(grad, rows, task_work, opt_work, opt_work[:0])
        inner_training(
            evaluate, step, theta, params, state, particle.memory, TaskData(*task.arrays),
            OptData(*opt.opt_data(task.layout)), AugmentData(np.zeros(0, np.float32), np.zeros(6)),
            np.array([0, 2, 1, 1, 1]), stream, np.array(task.splits, np.int64).reshape(-1), 1e10, train, outer, status,
            buffers,
        )  # fmt: skip

    def arguments():
        return (
            opt.init_theta(), particle.params.copy(), particle.state.copy(), particle.status.copy(), np.zeros(2),
            np.zeros(2), np.zeros(5, np.float32), np.zeros(task.batch_size, np.int64),
            np.zeros(task.work_size(task.batch_size), np.float32), np.zeros(opt.work_size(task.layout), np.float32),
        )  # fmt: skip

    lane_scheduler.check(window, arguments, scratch=(6, 8, 9), lane_counts=(1, 3))


def no_gpu() -> bool:
    from numba import cuda

    return not cuda.is_available()


needs_no_gpu = pytest.mark.skipif(not no_gpu(), reason="this machine has a GPU")


@needs_no_gpu
def test_without_a_gpu_there_is_no_fallback(tmp_path: Path) -> None:
    w = Elsewhere(np.ones(3, np.float32))
    with pytest.raises(DeviceError, match="no GPU"):
        lopt.rollout(lopt.task("quadratic", dims=3), lopt.optimizer("sgd"), device="cuda")
    with pytest.raises(DeviceError, match="no GPU"):
        lopt.optimizer("sgd").init({"w": w})
    done = CliRunner().invoke(
        main, ["train", "--config", str(EXPERIMENT), "--out", str(tmp_path), "--set", "device=cuda"]
    )
    assert done.exit_code == 1
    assert done.output.startswith("lopt: error: device 'cuda': no GPU")
    assert len(done.output.splitlines()) == 1
