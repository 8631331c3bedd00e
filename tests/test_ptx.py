"""Every kernel compiles and links for CUDA without a GPU; tiny launches in the CUDA simulator."""

import importlib
import os
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers import ptx
from helpers.simulator import CASES, CHANGED, arguments_of
from numba import njit, types
from numba.core.errors import TypingError

from lopt import arch, ops, rng, tasks  # noqa: F401 - importing registers
from lopt.cuda_compiler import STATIC_SHARED, missing
from lopt.cuda_device import LANE_REGISTERS
from lopt.lanes import kernel, lane, lanes, sum32, sync
from lopt.optimizer import OPTIMIZERS, STEP_SIG
from lopt.task import EVALUATE_SIG, TASKS

ROOT = Path(__file__).parent.parent
LANES = (1, 3, 33)

VECTOR, STREAM = types.float32[::1], types.uint32[::1]
INT = types.int64
TASK_CORES = {cls.core: name for name, cls in sorted(TASKS.items(), reverse=True)}  # some share one
KERNELS = {
    **{f"task {name}": (core, EVALUATE_SIG.args, True) for core, name in TASK_CORES.items()},
    **{f"optimizer {name}": (cls.core, STEP_SIG.args, True) for name, cls in OPTIMIZERS.items()},
    "normals_into": (rng.normals_into, (VECTOR, INT, STREAM, INT, INT), False),
    "add_normals": (rng.add_normals, (VECTOR, types.float32, INT, STREAM, INT, INT), False),
    "uniforms_into": (rng.uniforms_into, (VECTOR, INT, STREAM, INT, INT), False),
    "integers_into": (rng.integers_into, (types.int64[::1], INT, INT, STREAM, INT, INT), False),
    "sum32": (sum32, (VECTOR, INT, VECTOR), True),
}

needs_compiler = pytest.mark.skipif(bool(missing()), reason=missing() or "all there")


@kernel
def allocates(x):
    scratch = np.empty(x.size, x.dtype)
    for i in range(lane(), x.size, lanes()):
        scratch[i] = x[i]
    sync()
    for i in range(lane(), x.size, lanes()):
        x[i] = scratch[x.size - 1 - i]


@kernel
def uses_a_numpy_function(x):
    for i in range(lane(), x.size, lanes()):
        x[i] = np.sqrt(x[i])


@needs_compiler
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_kernels_compile_for_cuda(name: str) -> None:
    """... with the CUDA meaning of the hooks: lanes are threads."""
    core, arguments, returns = KERNELS[name]
    compiled = ptx.compiled(core, arguments, returns)
    assert compiled.target
    assert compiled.lanes
    assert 8 <= compiled.registers <= LANE_REGISTERS
    assert compiled.shared <= STATIC_SHARED
    uses_sync = any("sync" in k.py_func.__code__.co_names for k in ptx.reachable(core))
    assert compiled.barriers == uses_sync


@needs_compiler
@pytest.mark.parametrize(
    ("planted", "error", "message"),
    [
        (allocates, TypingError, "Function.*empty"),
        (uses_a_numpy_function, KeyError, "ufunc 'sqrt'"),
    ],
)
def test_a_kernel_that_cannot_run_on_a_gpu_is_found(planted, error, message: str) -> None:
    with pytest.raises(error, match=message):
        ptx.compile_kernel(planted, (VECTOR,), returns=False)


@needs_compiler
def test_a_function_that_does_not_exist_on_the_device_is_found() -> None:
    """Only the linker sees this one."""
    from cuda.bindings.nvjitlink import nvJitLinkError
    from numba import cuda

    nowhere = cuda.declare_device("nowhere", "float32(float32)")
    planted = njit(lambda x: nowhere(x[0]))
    with pytest.raises(nvJitLinkError, match="Undefined reference to 'nowhere'"):
        ptx.compile_kernel(planted, (VECTOR,), returns=True)


def test_every_public_op_is_part_of_a_compiled_kernel() -> None:
    covered = set().union(*(ptx.reachable(core) for core, _, _ in KERNELS.values()))
    for found in pkgutil.iter_modules(ops.__path__):
        module = importlib.import_module(f"lopt.ops.{found.name}")
        for name, value in vars(module).items():
            if hasattr(value, "py_func") and not name.startswith("_"):
                assert value in covered, f"lopt.ops.{found.name}.{name} is in no kernel of KERNELS"


def test_the_test_extra_brings_the_cuda_compiler() -> None:
    """So the tests above never skip where the extra is installed."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert any(r.startswith("numba-cuda[cu13]") for r in extras["test"])
    assert any(r.startswith("numba-cuda[cu13]") for r in extras["cuda"])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> dict[str, np.ndarray]:
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    out = tmp_path_factory.mktemp("simulator") / "out.npz"
    switches = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-m", "helpers.simulator", str(out), *map(str, LANES)],
        env={**os.environ, **switches, "PYTHONPATH": paths},
        check=True,
        timeout=300,
    )
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("count", LANES)
@pytest.mark.parametrize("case", CASES)
def test_the_simulator_agrees_with_the_cpu(simulated: dict, case: str, count: int) -> None:
    cls, arguments = arguments_of(case)
    result = cls.entry(*arguments)
    np.testing.assert_allclose(simulated[f"{case}/{count}/return"], [result] * count, rtol=1e-6)
    for i in CHANGED[case]:
        found, expected = simulated[f"{case}/{count}/{i}"], arguments[i]
        assert found.shape == expected.shape
        np.testing.assert_allclose(
            found, expected, rtol=1e-5, atol=1e-6 * abs(expected).max(initial=0.0)
        )
        np.testing.assert_array_equal(found, simulated[f"{case}/1/{i}"])
