"""A stored kernel is used again only if nothing it was compiled from has changed; without a disk everything works."""

import subprocess
import sys
from pathlib import Path

import pytest

from lopt import kernel_cache
from lopt.kernel_cache import PACKAGE, imported

SOURCES = {
    "a.py": "from lopt.b import f\n",
    "b.py": "from lopt import c, errors\nimport math\n",
    "c.py": "X = 1\n",
    "unrelated.py": "Y = 1\n",
    "errors.py": "Z = 1\n",
}


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("from lopt.ops.dense import dense_fwd\n", ["ops/dense.py"]),
        ("from lopt.ops import (\n    dense,\n    losses,\n)\n", ["ops/dense.py", "ops/losses.py", "ops/__init__.py"]),
        ("from lopt import rng\n", ["rng.py"]),
        ("from lopt import data, errors\n", []),
        ("from lopt.data import load\n", []),
        ("import math\n# from lopt import rng\n", []),
    ],
)  # fmt: skip
def test_files_that_a_source_imports(source: str, files: list[str]) -> None:
    assert imported(source) == [PACKAGE / f for f in files if (PACKAGE / f).exists()]


def test_rooms_left_out_hold_no_kernel() -> None:
    left_out = [p for room in kernel_cache.HOST_ONLY for p in PACKAGE.glob(f"{room}*/**/*.py")]
    left_out += [p for room in kernel_cache.HOST_ONLY for p in PACKAGE.glob(f"{room}.py")]
    assert len(left_out) > 6
    for path in left_out:
        assert "@kernel" not in path.read_text() and "@inlined" not in path.read_text(), path


@pytest.mark.parametrize(
    ("changed", "fresh"),
    [
        ("a.py", False),
        ("b.py", False),
        ("c.py", False),
        ("unrelated.py", True),
        ("errors.py", True),
    ],
)
def test_the_digest_follows_the_imports(
    changed: str, fresh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_cache, "PACKAGE", tmp_path)
    for name, text in SOURCES.items():
        (tmp_path / name).write_text(text)
    before = kernel_cache.digest.__wrapped__(tmp_path / "a.py")
    (tmp_path / changed).write_text("X = 2\n" + SOURCES[changed])
    kernel_cache._own_digest.cache_clear()  # as another process would find it
    assert (kernel_cache.digest.__wrapped__(tmp_path / "a.py") == before) == fresh


STORED = """
import sys
from pathlib import Path
from numba import types
from lopt import kernel_cache
kernel_cache.PACKAGE = Path(sys.argv[1])
sys.path.insert(0, sys.argv[1])
import user
signature = types.float64(types.float64)
print(kernel_cache.stored(user.f, signature))
kernel_cache.jit(signature)(user.f)
print(kernel_cache.stored(user.f, signature))
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", **environment},
    )  # fmt: skip


def test_a_change_in_another_file_makes_a_stored_kernel_stale(tmp_path: Path) -> None:
    """Three processes: nothing stored, stored, stale after an edit of the imported file."""
    (tmp_path / "user.py").write_text(
        '"""\nfrom lopt.part import g\n"""\ndef f(x):\n    return 2 * x\n'
    )
    (tmp_path / "part.py").write_text("X = 1\n")
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert run(STORED, str(tmp_path), **cache).stdout.split() == ["False", "True"]
    assert run(STORED, str(tmp_path), **cache).stdout.split() == ["True", "True"]
    (tmp_path / "part.py").write_text("X = 2\n")
    assert run(STORED, str(tmp_path), **cache).stdout.split() == ["False", "True"]


DRAW = "from lopt import rng; print(rng.uniforms(2, rng.stream(0), rng.TASK).tolist())"
ONLY_USER = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}


def test_without_a_place_for_the_cache_kernels_work_and_a_warning_says_so(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    wanted = run(DRAW, NUMBA_CACHE_DIR=str(tmp_path / "cache"), **ONLY_USER)
    found = run(DRAW, NUMBA_CACHE_DIR=str(file / "inside"), **ONLY_USER)
    assert wanted.returncode == found.returncode == 0, found.stderr
    assert found.stdout == wanted.stdout != ""
    assert wanted.stderr == ""
    assert found.stderr.count("CacheWarning: compiled kernels cannot be kept on disk") == 1


def test_a_damaged_cache_is_a_warning(tmp_path: Path) -> None:
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), **ONLY_USER}
    wanted = run(DRAW, **cache)
    indices = list((tmp_path / "cache").rglob("*.nbi"))
    assert indices
    for index in indices:
        index.write_bytes(b"no cache at all")
    found = run(DRAW, **cache)
    assert found.returncode == 0, found.stderr
    assert found.stdout == wanted.stdout != ""
    assert "CacheWarning" in found.stderr


def test_with_the_jit_off_kernels_are_plain_functions_with_the_same_results(tmp_path: Path) -> None:
    code = DRAW + "; print(type(rng.philox).__name__)"
    wanted = run(code, NUMBA_CACHE_DIR=str(tmp_path / "cache"), **ONLY_USER)
    found = run(code, NUMBA_DISABLE_JIT="1")
    assert wanted.returncode == found.returncode == 0, found.stderr
    numbers, kind = found.stdout.splitlines()
    assert (kind, found.stderr) == ("function", "")
    assert wanted.stdout.splitlines() == [numbers, "CPUDispatcher"]


def test_importing_compiles_nothing(tmp_path: Path) -> None:
    done = run(
        "import lopt, sys; print(len(sys.modules))",
        NUMBA_CACHE_DIR=str(tmp_path / "cache"),
        **ONLY_USER,
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "cache").rglob("*.nbc"))
