"""Rollouts and updates on a GPU: in the simulator equal to the CPU's, entries within their budgets, errors without a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import lane_scheduler, ptx
from helpers.cuda_rollouts import CASES, ESTIMATORS, UPDATES, Elsewhere

import lopt
from lopt import cuda_device, cuda_rollout, cuda_update, rng, store
from lopt.cli import main
from lopt.cuda_compiler import STATIC_SHARED, Compiled, missing
from lopt.cuda_device import LANE_REGISTERS, THREADS
from lopt.errors import DeviceError, OptimizerError
from lopt.optimizer import OPTIMIZERS
from lopt.rollout import Runner, Schedule
from lopt.task import TASKS

ROOT = Path(__file__).parent.parent
CLOSE = 1e-5  # of the largest number, over the first steps; what is seen is 1e-6
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
        timeout=560,
    )
    with np.load(out) as arrays:
        return {**arrays, "folder": out.parent}


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
    one, other = (found[f"cuda/{case}/1/{i}/params"] for i in (2, 3))
    assert abs(one - other).max() > 2 * CLOSE * abs(one).max()
    assert found[f"cuda/{case}/1/0/status"][2] == 3  # evaluations of both windows
    assert found[f"cuda/{case}/1/4/status"][2] == 2  # born in the second


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_that_hand_over_all_windows_find_the_same(found, name: str) -> None:
    """Losses and gradients of two outer steps, a checkpoint between them, on two tasks."""
    assert same(found, name) == 4
    assert np.isfinite(found[f"cuda/{name}/1/grad"]).all()
    assert (
        abs(found[f"cuda/{name}/1/losses"][:, 0] - found[f"cuda/{name}/1/losses"][:, 1]).max() > 0
    )


def test_rollout_on_a_device(found) -> None:
    assert same(found, "single") == 3


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_in_place_is_that_of_the_cpu(found, name: str) -> None:
    assert same(found, f"update/{name}") == 3


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("gradient", "grads['w'] has nan at (1,): must be finite"),
        ("parameter", "params['w'] has inf at (2,): must be finite"),
        ("too large", "the step would make the state inf: the largest gradient is 2e+19, in 'w'"),
    ],
)
def test_an_update_that_is_refused_changes_nothing(found, case: str, words: str) -> None:
    said = str(found[f"refused/{case}"])
    assert words in said and said.endswith("; same: True")


def test_tensors_on_a_gpu_are_single_floats_side_by_side() -> None:
    """What an address alone cannot tell is refused before anything is launched."""
    fine = np.ones((2, 3), np.float32)
    assert cuda_update.address("params['w']", Elsewhere(fine), (2, 3)) == fine.ctypes.data
    for array, words in (
        (fine.astype(np.float64), "is float64, must be float32 on a GPU"),
        (fine.T.copy(), r"has shape \(3, 2\), expected \(2, 3\)"),
        (np.asfortranarray(fine), "is not contiguous"),
    ):
        with pytest.raises(OptimizerError, match=rf"params\['w'\] {words}"):
            cuda_update.address("params['w']", Elsewhere(array), (2, 3))
    with pytest.raises(OptimizerError, match="is not on the GPU"):
        cuda_update.address("params['w']", fine, (2, 3))


def test_the_check_of_a_machine_tells_right_from_wrong_and_keeps_the_runs(found) -> None:
    """A GPU that is off by a thousandth is found; both files hold the runs of both devices."""
    folder = found["folder"]
    assert (folder / "verdicts").read_text() == "True False"
    curves = store.read_curves(folder / "good.h5")
    assert [e.label for e in curves.entrants] == ["adam on cpu", "adam on cuda"]
    cpu, cuda = (curves.runs["valid"][curves.rows(0, k), -1] for k in (0, 1))
    np.testing.assert_allclose(cuda, cpu, rtol=CLOSE)
    bad = store.read_curves(folder / "bad.h5")
    names = [f["name"] for f in bad.provenance[0]["figures"]]
    assert names[0] == "adam on quadratic: first 10 losses, GPU against CPU"
    assert bad.provenance[0]["figures"][0]["value"] == pytest.approx(1e-3, rel=1e-2)


@needs_compiler
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_updates_compile_within_their_budget(name: str) -> None:
    """At tests' cost the small ones; `lopt bench --suite gpu` has the others."""
    core = OPTIMIZERS[name].core
    entry = cuda_update.update_kernel(core)
    within_budget(ptx.compiled_entry(entry, cuda_update.entry_types(), core))


@needs_compiler
def test_rollouts_compile_within_their_budget() -> None:
    cores = TASKS["quadratic"].core, OPTIMIZERS["sgd"].core
    entry = cuda_rollout.training_kernel(*cores)
    within_budget(ptx.compiled_entry(entry, cuda_rollout.entry_types(), *cores))


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


def launch_arguments(runner, thetas, scales) -> tuple:
    """What `CudaRunner.launch` passes: particle p stands in place 2 - p, begins at p inner steps and makes two."""
    task, opt, n = runner.task, runner.opt, len(scales)
    addresses = np.stack([rng.stream(0, 0, p) for p in range(n)])
    particles = [runner.start(theta, a) for theta, a in zip(thetas, addresses, strict=True)]
    job = np.array([(p, 2 - p, p, 2, 1, 1, 1) for p in range(n)])
    rows = [
        np.zeros((3, getattr(particles[0], k).size), np.float32)
        for k in ("params", "state", "memory")
    ]
    for p, particle in enumerate(particles):
        rows[0][2 - p], rows[1][2 - p] = particle.params, particle.state
    widths = np.array([
        thetas[0].size, task.layout.size, particles[0].state.size, 0, task.batch_size,
        task.work_size(task.batch_size), opt.work_size(task.layout), 0,
    ])  # fmt: skip
    scratch = [np.zeros((1, max(w, 1)), np.float32) for w in widths[[0, 1, 5, 6, 7]]]
    return (
        np.stack(thetas), np.array(scales, np.float32), addresses, job, addresses, *rows, np.zeros((3, 3), np.int64),
        *task.arrays, *opt.opt_data(task.layout), np.zeros(0, np.float32), np.zeros(6),
        np.array(task.splits).reshape(-1), 1e10, np.zeros((n, 2)), np.zeros((n, 2)), widths, *scratch[:2],
        np.zeros((1, task.batch_size), np.int64), *scratch[2:],
    )  # fmt: skip


def test_a_launch_trains_every_particle_with_its_own_theta_whatever_the_lanes() -> None:
    """The entry itself, under the scheduler that finds missing barriers; losses as each particle has them alone."""
    task = lopt.task("logistic", batch_size=8, init_std=0.5)
    runner = Runner(task, lopt.optimizer("adam"), Schedule(outer_every=1))
    theta = runner.opt.init_theta()
    thetas, scales = [theta, theta - np.float32(0.5), theta], [0.1, 0.0, -0.1]
    entry = cuda_rollout.training_kernel(
        *(lane_scheduler.on_team(c) for c in (type(task).core, type(runner.opt).core))
    )
    arguments = launch_arguments(runner, thetas, scales)
    lane_scheduler.run(entry, arguments, 1)
    for p, (base, scale) in enumerate(zip(thetas, scales, strict=True)):
        address = rng.stream(0, 0, p)
        own = base + np.float32(scale) * rng.normals(base.size, address, rng.PERTURB)
        alone = runner.start(own, address)
        alone.t = p
        train, outer = runner.advance(own, alone, 2, address)
        np.testing.assert_allclose(arguments[19][p], train, rtol=1e-5)
        np.testing.assert_allclose(arguments[20][p], outer, rtol=1e-5)
    lane_scheduler.check(
        entry,
        lambda: launch_arguments(runner, thetas, scales),
        scratch=(22, 23, 25, 26, 27),
        lane_counts=(1, 3),
    )


@pytest.mark.parametrize(
    ("gpus", "visible", "rank", "size", "taken"),
    [(4, None, 2, 4, 2), (4, "0,1,2,3", 1, 2, 1), (1, "3", 2, 4, 0), (1, None, 0, 1, 0)],
)
def test_a_rank_takes_the_gpu_of_its_number(monkeypatch, gpus, visible, rank, size, taken) -> None:
    asked = []
    with_gpus(monkeypatch, gpus, visible, asked)
    cuda_device.select(rank, size)
    assert asked == [taken]


@pytest.mark.parametrize(("gpus", "visible"), [(1, None), (2, None), (3, "0,1,2")])
def test_more_ranks_than_gpus_are_refused(monkeypatch, gpus: int, visible: str | None) -> None:
    with_gpus(monkeypatch, gpus, visible, [])
    with pytest.raises(DeviceError, match=rf"4 ranks on a node with {gpus} GPU\(s\)"):
        cuda_device.select(0, 4)


def with_gpus(monkeypatch, gpus: int, visible: str | None, asked: list[int]) -> None:
    driver = SimpleNamespace(gpus=range(gpus), select_device=asked.append)
    monkeypatch.setattr(cuda_device, "require", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


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
