"""Imports point down the layers of the house only; nobody but the named module touches MPI, HDF5, plots or CUDA."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lopt"

# Layer of each module or package directly under lopt/; a new one must be entered here.
LAYERS = {
    "tiles": 0, "subnormals": 0, "borrowed": 0, "stretches": 0,
    "errors": 0, "kernel_cache": 0, "lanes": 0, "layout": 0, "config": 0, "comm": 0, "registry": 0, "progress": 0,
    "memory": 0, "model_arrays": 1,
    "rng": 1, "ops": 1, "cuda_lanes": 1, "cuda_device": 1, "cuda_compiler": 1,
    "task": 2, "optimizer": 2, "augment": 2, "cuda_update": 2, "scores": 2, "scores_text": 2, "search_spaces": 2,
    "tasks": 3, "arch": 3, "data": 3,
    "rollout": 4, "cuda_rollout": 4,
    "es": 5, "meta_task": 5,
    "store": 6,
    "meta": 7, "train": 7, "evaluate": 7, "plots": 7, "cluster_model": 7, "verify": 7, "task_times": 7,
    "comparison": 7, "judgement": 7, "card": 7, "optlist": 7, "search_files": 7, "bench": 7, "sweep": 7,
    "cli": 8, "gpu_check": 8, "experiment": 8, "__main__": 9, "__init__": 9,
}  # fmt: skip
MAY_IMPORT = {
    "mpi4py": {"comm"},
    "h5py": {"store", "data", "experiment"},
    "matplotlib": {"plots"},
    "click": {"cli"},
    "numba.cuda": {"cuda_lanes", "cuda_device", "cuda_compiler"},
}
# Sideways imports inside one layer that are part of the design; everything else sideways is refused.
SIDEWAYS = {
    ("lanes", "kernel_cache"),
    ("lanes", "tiles"),
    ("stretches", "lanes"),
    ("stretches", "tiles"),
    ("lanes", "cuda_lanes"),
    ("cuda_lanes", "cuda_device"),
    ("cuda_compiler", "cuda_device"),
    ("optimizer", "cuda_update"),
    ("cuda_update", "optimizer"),
    ("augment", "task"),
    ("task_times", "bench"),
    ("sweep", "train"),
    ("bench", "train"),
    ("bench", "plots"),
    ("plots", "bench"),
    ("tasks", "data"),
    ("optimizer", "task"),
    ("errors", "errors"),
    ("layout", "errors"),
    ("registry", "errors"),
    ("config", "errors"),
    ("comm", "errors"),
    ("ops", "rng"),
    ("optimizer", "registry"),
    ("train", "meta"),
    ("evaluate", "meta"),
    ("rollout", "cuda_rollout"),
    ("cuda_rollout", "rollout"),
    ("comparison", "evaluate"),
    ("card", "judgement"),
    ("optlist", "judgement"),
}


def room(path: Path) -> str:
    """The module or package directly under lopt/ that a file belongs to."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(source: str) -> list[str]:
    """Dotted names a source file imports, at any depth of nesting."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "lopt" if node.level else (node.module or "")
            whole = base not in ("lopt", "numba")
            names += [base] if whole else [f"{base}.{alias.name}" for alias in node.names]
    return names


def violations(here: str, source: str) -> list[str]:
    """What a file of room `here` imports against the rules."""
    found = []
    for name in imports(source):
        parts = name.split(".")
        if parts[0] == "lopt" and len(parts) > 1:
            there = parts[1]
            if there not in LAYERS or there == here:
                continue
            down = LAYERS[there] < LAYERS[here]
            if not down and (here, there) not in SIDEWAYS:
                found.append(f"{here} (L{LAYERS[here]}) imports {there} (L{LAYERS[there]})")
        found += [
            f"{here} imports {package}"
            for package, rooms in MAY_IMPORT.items()
            if f"{name}.".startswith(f"{package}.") and here not in rooms
        ]
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    assert here in LAYERS, f"enter {here!r} into LAYERS"
    assert violations(here, path.read_text()) == []


@pytest.mark.parametrize(
    ("here", "source", "message"),
    [
        ("task", "from lopt.rollout import rollout", "task (L2) imports rollout (L4)"),
        ("tasks", "def f():\n    from lopt.arch import adam", "tasks (L3) imports arch (L3)"),
        ("tasks", "from lopt import arch", "tasks (L3) imports arch (L3)"),
        ("es", "import mpi4py.MPI", "es imports mpi4py"),
        ("train", "import h5py", "train imports h5py"),
        ("rollout", "def f():\n    from numba import cuda", "rollout imports numba.cuda"),
        ("es", "from numba.cuda.args import In", "es imports numba.cuda"),
    ],
)
def test_a_planted_violation_is_found(here: str, source: str, message: str) -> None:
    assert violations(here, source) == [message]


def test_import_is_free_of_side_effects() -> None:
    """`import lopt` loads no MPI, HDF5, plotting or CUDA module."""
    code = "import sys, lopt; print(*[m for m in ('mpi4py','h5py','matplotlib','numba.cuda','click') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []
