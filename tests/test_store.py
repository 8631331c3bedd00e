"""Files come back to the bit, survive kills and full disks, and damage is always named, never read."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from lopt import optimizer, store
from lopt.errors import OptimizerError, StoreError
from lopt.layout import Layout
from lopt.store import container, live, schema
from lopt.store.search_file import ROW as SEARCH_ROW

ROOT = Path(__file__).parent.parent
LAYOUT = Layout((("rate", ()), ("matrix", (2, 3))))
PHASES = ("rollout", "exchange", "rebuild", "outer", "files")
AXES = {"block": 2, "phase": len(PHASES), "pair": 3, "member": 2}
KINDS = ("run", "checkpoint", "weights", "eval", "times", "search", "curves")
CONFIG = "[es]\nsigma = 0.01  # \u03c3\n" * 300  # longer than HDF5 keeps inside an object header


def row(i: int) -> dict[str, Any]:
    """A row whose every cell is known: i, plus a half in float columns."""
    shapes = {n: tuple(AXES[a] for a in f.axes[1:]) for n, f in store.COLUMNS.items()}
    offset = {"i": 0, "f": 0.5}
    return {n: np.full(s, i + offset[store.COLUMNS[n].dtype[0]]) for n, s in shapes.items()} | {
        n: np.full(shapes[n], i) for n, f in store.COLUMNS.items() if f.dtype[0] == "i"
    }


def create(path: Path, rows: int = 0) -> store.RunWriter:
    writer = store.RunWriter.create(
        path, config_text=CONFIG, theta_layout=LAYOUT, tasks=["mlp", "t\u00fcr"], phases=PHASES,
        pairs=AXES["pair"], seed=7, ranks=2, device="cpu",
    )  # fmt: skip
    for i in range(rows):
        writer.append(row(i))
    return writer


def resume(path: Path, rows: int) -> store.RunWriter:
    return store.RunWriter.resume(path, rows, config_text="new", seed=7, ranks=3, device="cpu")


def expect_rows(path: Path, rows: int) -> None:
    with store.RunReader(path) as run:
        assert run.rows == rows
        for name in store.COLUMNS:
            wanted = [row(i)[name] for i in range(rows)]
            assert np.array_equal(run[name], np.array(wanted).reshape(rows, *run[name].shape[1:]))


ARRAYS = {
    "theta": np.array([1.5, -0.0, 1e-45, np.inf], np.float32),
    "es/noise": np.arange(6.0).reshape(2, 3),
    "es/empty": np.zeros((0, 3), np.float32),
    "outer/step": np.array(12345678901, np.int64),
    "alive": np.array([True, False]),
    "key": np.array([2**32 - 1], np.uint32),
}
META = {"outer_step": 12, "config": CONFIG}


def results() -> SimpleNamespace:
    rng = np.random.default_rng(0)
    shape = (2, 3, 4)
    return SimpleNamespace(
        tasks=("digits", "quadr\u00e1tic"), entrants=("learned", "adam", "adam lr=0.1"),
        families=("learned", "adam", "adam"), rates=np.array([np.nan, np.nan, 0.1]),
        steps=np.array([5, 10, 15]), outer_loss=rng.normal(size=(*shape, 3)),
        test_loss=rng.normal(size=shape), status=rng.integers(0, 3, shape),
        seconds=rng.random(shape),
    )  # fmt: skip


def some_curves() -> store.Curves:
    rng = np.random.default_rng(1)
    runs = store.no_runs(3) | {n: np.array([0, 1, 1, 0, 1]) for n in ("task", "entrant", "seed")}
    runs |= {"test": rng.random(5), "wall_s": rng.random(5)}
    runs |= {n: rng.random((5, 3)).astype(np.float32) for n in ("train", "valid")}
    runs |= {"status": np.array([0, 1, 2, 0, 0]), "status_step": np.array([0, 3, 4, 0, 0])}
    entrants = [store.EntrantInfo("b\u00e9st", "b\u00e9st", "learned", 0, '{"digest": "a"}')]
    entrants.append(store.EntrantInfo("adam 3", "adam, 15 rates", "tuned", 3, "{}"))
    origin = store.provenance(0, 2, "cpu")
    return store.Curves(
        {"steps": 15}, [origin], ("digits", "quadr\u00e1tic"), ("mlp", "quadratic"),
        np.array([0.0, -np.inf]), tuple(entrants), np.array([0, 5, 15]), runs,
    )  # fmt: skip


ROWS = [
    store.EvalRow("quadr\u00e1tic", "adam", "tuned", 2, 0.1, 0.25, 0.01, 3),
    store.EvalRow("digits", "learned", "learned", 0, math.nan, 1.5, math.nan, 0),
]


def make(kind: str, folder: Path) -> Path:
    """A sound file of each kind."""
    path = folder / f"{kind}.h5"
    if kind == "run":
        create(path, 12).close()
    elif kind == "checkpoint":
        store.save_checkpoint(folder, ARRAYS, META)
    elif kind == "weights":
        opt = optimizer("adam", learning_rate=0.01)
        store.save_weights(path, opt, opt.init_theta(), {"tasks": ["mlp"]})
    elif kind == "times":
        store.save_times(
            path,
            ["mlp_seed0", "t\u00fcr"],
            ["mlp", "x"],
            [3, 40],
            [0.5, 200.0],
            {"sgemm_gflops": 90.0},
        )
    elif kind == "search":
        rows = [{n: i + 1 for n in SEARCH_ROW} for i in range(30)]
        origin = {**store.provenance(7, 2, "cpu"), "first_row": 0}
        settings = {"strategy": "antithetic", "seed": 7}
        store.save_search(path, rows, np.arange(40.0), np.ones(40), "target", settings, [origin])
    elif kind == "curves":
        store.save_curves(path, some_curves())
    else:
        store.save_eval(path, results(), ROWS, {"steps": 15})
    return path


def content(kind: str, path: Path) -> dict[str, Any]:
    """Everything a reader gives, comparable."""
    if kind == "run":
        with store.RunReader(path) as run:
            head = {"config": run.config_text, "tasks": run.tasks, "layout": run.theta_layout}
            state = {"state": run.state, "provenance": run.provenance, "phases": run.phases}
            return {**head, **state, "rows": run.rows, **{n: run[n] for n in store.COLUMNS}}
    if kind == "checkpoint":
        found = store.read_checkpoint(path)
        return {"meta": found.meta, **found.arrays}
    if kind == "weights":
        w = store.load_weights(path)
        return {k: getattr(w, k) for k in ("architecture", "options", "layout", "theta")}
    if kind == "curves":
        curves = vars(store.read_curves(path))
        return {k: v for k, v in curves.items() if k != "runs"} | curves["runs"]
    readers = {"times": store.TimesReader, "search": store.SearchReader, "eval": store.EvalReader}
    found = readers[kind](path)
    return {k: v for k, v in vars(found).items() if k != "path"}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return repr(a) == repr(b)  # NaN equals NaN


# The table


def test_the_page_about_results_is_the_table() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    text = store.schema_markdown()
    assert page == text, "write docs/results.md anew from lopt.store.schema_markdown()"
    assert all(f.meaning and f.unit and f.kind in KINDS for f in store.SCHEMA)
    assert len({(f.kind, f.path) for f in store.SCHEMA}) == len(store.SCHEMA)


@pytest.mark.parametrize("kind", KINDS)
def test_files_hold_what_the_table_says_and_nothing_else(kind: str, tmp_path: Path) -> None:
    with h5py.File(make(kind, tmp_path), "r", swmr=kind == "run") as file:
        assert set(file.attrs) == {f.name for f in schema.fields(kind, attributes=True)}
        table = {f.path: f for f in schema.fields(kind, attributes=False)}
        for path in schema.dataset_paths(file):
            field = table.get(path) or table["/arrays/*"]
            dataset = file[path]
            assert bytes(dataset.attrs["meaning"]).decode() == field.meaning
            assert bytes(dataset.attrs["unit"]).decode() == field.unit
            assert dataset.attrs["since"] == field.since
            table.pop(path, None)
        assert set(table) <= {"/arrays/*"}


def test_axes_carry_their_coordinates(tmp_path: Path) -> None:
    with h5py.File(make("eval", tmp_path), "r") as file:
        curves = file["/trace/outer_loss"]
        assert curves.dtype == np.float32
        names = [list(d.keys()) for d in curves.dims]
        assert names == [["task"], ["optimizer"], ["seed"], ["step"]]
        assert curves.dims[3][0][:].tolist() == [5, 10, 15]
    with h5py.File(make("run", tmp_path), "r", swmr=True) as file:
        dims = file["/outer/pair_losses"].dims
        assert list(dims[0].keys()) == ["outer_step"]
        assert [bytes(x) for x in dims[2][0][:]] == [b"+", b"-"]


# Run files


def test_rows_come_back_and_the_file_names_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.h5"
    writer = create(path, 3)
    writer.finish("time")
    expect_rows(path, 3)
    with store.RunReader(path) as run:
        assert (run.config_text, run.tasks, run.phases) == (CONFIG, ("mlp", "t\u00fcr"), PHASES)
        assert run.theta_layout == LAYOUT
        assert (run.state, run.ended, run.n_pairs) == ("time", True, 3)
        (origin,) = run.provenance
        assert (origin["first_row"], origin["seed"], origin["ranks"]) == (0, 7, 2)
        assert origin["numpy"] == np.__version__
        assert origin["python"].split(".")[:2] == [str(x) for x in sys.version_info[:2]]
        with pytest.raises(KeyError, match="no column 'loss'"):
            run["loss"]


def test_special_values_keep_their_bits(tmp_path: Path) -> None:
    odd = np.array([[np.nan, -0.0], [np.inf, -np.inf], [5e-324, 1e308]])
    writer = create(tmp_path / "run.h5")
    writer.append({**row(0), "pair_losses": odd})
    writer.close()
    with store.RunReader(tmp_path / "run.h5") as run:
        assert run["pair_losses"][0].tobytes() == odd.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("sigma"), "columns ['sigma'] of this row"),
        (lambda r: r.update(loss=1.0), "columns ['loss'] of this row"),
        (lambda r: r.update(theta_norm=np.zeros(3)), "theta_norm has shape (3,) in this row"),
        (lambda r: r.update(pair_losses=np.zeros((2, 2))), "expected (3, 2)"),
        (lambda r: r.update(sigma="big"), "cannot store values of type"),
        (lambda r: r.update(sigma=None), "cannot store values of type object"),
        (lambda r: r.update(inner_steps=0.5), "cannot store float64 as i8"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_whole(
    change: Callable[[dict], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.h5"
    writer = create(path, 2)
    bad = row(2)
    change(bad)
    with pytest.raises(StoreError) as caught:
        writer.append(bad)
    assert message in str(caught.value)
    writer.append(row(2))  # the writer is still good
    writer.close()
    expect_rows(path, 3)


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    create(path, 2).finish("finished")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="exists already"):
        create(path)
    with pytest.raises(StoreError, match="exists already"):
        store.save_eval(path, results(), ROWS, {})
    assert path.read_bytes() == before


@pytest.mark.parametrize("end", ["finished", None])
def test_resuming_cuts_back_and_goes_on(end: str | None, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    writer = create(path, 8)
    if end is None:
        writer.close()
    else:
        writer.finish(end)
    with pytest.raises(StoreError, match="8 complete rows, cannot resume after 9"):
        resume(path, 9)
    expect_rows(path, 8)
    writer = resume(path, 5)
    expect_rows(path, 5)
    for i in range(5, 9):
        writer.append(row(i))
    writer.close()
    expect_rows(path, 9)
    with store.RunReader(path) as run:
        assert run.config_text == "new"
        assert not run.ended
        assert [(p["first_row"], p["ranks"]) for p in run.provenance] == [(0, 2), (5, 3)]
    resume(path, 0).close()
    expect_rows(path, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    writer = create(tmp_path / "run.h5", 1)
    with pytest.raises(StoreError, match="unknown end of a run 'done'"):
        writer.finish("done")
    writer.finish("signal")
    with pytest.raises(StoreError, match="closed for writing"):
        writer.append(row(1))


CHILD = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_store import create, row
writer = create(Path({path!r}))
for line in sys.stdin:
    for _ in range(int(line)):
        writer.append(row(writer.rows))
    print(writer.rows, flush=True)
"""


def test_a_growing_file_is_read_by_others_and_survives_a_kill(tmp_path: Path) -> None:
    """Another process writes; nobody closes the file before SIGKILL."""
    path = tmp_path / "run.h5"
    code = CHILD.format(tests=str(Path(__file__).parent), path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin and child.stdout
        for more, total in ((0, 0), (3, 3), (1, 4), (300, 304)):
            print(more, file=child.stdin, flush=True)
            assert int(child.stdout.readline()) == total
            expect_rows(path, total)
        print(10**6, file=child.stdin, flush=True)  # killed in the middle of writing
        while (seen := rows_of(path)) < 320:
            pass
        child.kill()
    left = rows_of(path)
    assert left >= seen
    expect_rows(path, left)
    with h5py.File(path, "r", swmr=True) as file:  # any HDF5 tool can
        assert int(file["done"][()]) == left
    resume(path, left).close()
    expect_rows(path, left)


def rows_of(path: Path) -> int:
    with store.RunReader(path) as run:
        assert not run.ended
        return run.rows


@pytest.mark.parametrize(("wrong", "read"), [(13, None), (11, 11), (10, None), (-1, None)])
def test_the_row_counter_is_checked_against_the_rows(
    wrong: int, read: int | None, tmp_path: Path
) -> None:
    """One behind is what a kill leaves; anything else, such as a counter bumped early, is damage."""
    path = tmp_path / "run.h5"
    create(path, 12).finish("finished")
    with h5py.File(path, "r+") as file:
        file["done"][()] = wrong
    if read is None:
        with pytest.raises(StoreError, match=f"{wrong} rows counted"):
            store.RunReader(path)
    else:
        expect_rows(path, read)


def test_swapped_rows_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    create(path, 12).finish("finished")
    with h5py.File(path, "r+") as file:
        for name in ("meta_loss", "checksum"):
            values = file[f"/outer/{name}"][:]
            values[[3, 4]] = values[[4, 3]]
            file[f"/outer/{name}"][:] = values
    with (
        store.RunReader(path) as run,
        pytest.raises(StoreError, match=r"row 3 of column meta_loss"),
    ):
        run["meta_loss"]


def test_hdf5_checksum_known_answers(tmp_path: Path) -> None:
    """Published lookup3 vectors, and a superblock written by HDF5."""
    assert live.checksum_lookup3(b"Four score and seven years ago") == 0x17770551
    path = make("checkpoint", tmp_path)
    block = path.read_bytes()[container.HEADER_BYTES :][:48]
    assert live.checksum_lookup3(block[:44]) == int.from_bytes(block[44:], "little")


# Checkpoints


def test_a_checkpoint_is_exact(tmp_path: Path) -> None:
    path = store.save_checkpoint(tmp_path, ARRAYS, META)
    assert path.name == "checkpoint.h5"
    found = store.load_checkpoint(tmp_path)
    assert found.meta == META
    assert found.path == path
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert same(found.arrays[name], array), name
    other = store.save_checkpoint(tmp_path / "b", ARRAYS, META)
    assert other.read_bytes() == path.read_bytes()  # no clock, no addresses


def test_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot store values of type object"):
        store.save_checkpoint(tmp_path, {"x": np.array([{}], object)}, {})
    assert list(tmp_path.iterdir()) == []


def save_step(folder: Path, step: int) -> None:
    store.save_checkpoint(folder, {"theta": np.full(100, step)}, {"outer_step": step})


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in range(4):
        save_step(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.h5", "checkpoint.prev.h5"]
    assert store.load_checkpoint(tmp_path).meta == {"outer_step": 3}
    assert store.read_checkpoint(tmp_path / "checkpoint.prev.h5").meta == {"outer_step": 2}


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-7]),
    "flipped": lambda p: p.write_bytes(p.read_bytes()[:-9] + b"x" + p.read_bytes()[-8:]),
    "empty": lambda p: p.write_bytes(b""),
    "missing": Path.unlink,
    "foreign": lambda p: p.write_text("hello"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(how: str, tmp_path: Path) -> None:
    save_step(tmp_path, 1)
    save_step(tmp_path, 2)
    DAMAGE[how](tmp_path / "checkpoint.h5")
    with pytest.warns(
        RuntimeWarning, match=r"checkpoint\.h5.*going on from .*checkpoint\.prev\.h5"
    ):
        assert store.load_checkpoint(tmp_path).meta == {"outer_step": 1}
    # The next save must not push the sound one out with the damaged one.
    save_step(tmp_path, 3)
    assert store.load_checkpoint(tmp_path).meta == {"outer_step": 3}
    assert store.read_checkpoint(tmp_path / "checkpoint.prev.h5").meta == {"outer_step": 1}
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(StoreError, match=r"no sound checkpoint.*checkpoint\.h5.*truncated.*prev"):
        store.load_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["checkpoint", "weights", "eval"])
@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_failed_write_leaves_old_files_and_no_temporary(
    kind: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(kind, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    if kind == "eval":  # never overwritten, so the new file goes beside it
        path.rename(path := tmp_path / "old.h5")
        before = {"old.h5": before["eval.h5"]}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(container, "open", fail, raising=False)
        else:
            patch.setattr(container.os, {"fsync": "fsync", "rename": "replace"}[step], fail)
        with pytest.raises(
            StoreError, match=r"cannot write .*: No space left on device; .* intact"
        ):
            make(kind, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


FULL_DISK = """
import resource, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import numpy as np
from lopt import store
from lopt.errors import StoreError
from test_store import create, expect_rows, resume, row, save_step
folder = Path({folder!r})
save_step(folder, 1)
writer = create(folder / "run.h5", 5)
limit = (folder / "run.h5").stat().st_size + {room}
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    while True:
        writer.append(row(writer.rows))
except StoreError as error:
    print(error)
try:
    writer.finish("failed")  # what a trainer does next: the first reason is told again
except StoreError as error:
    print(error)
try:
    store.save_checkpoint(folder, {{"x": np.zeros(10**6)}}, {{}})
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
expect_rows(folder / "run.h5", writer.rows)
resume(folder / "run.h5", 4).close()
expect_rows(folder / "run.h5", 4)
assert store.load_checkpoint(folder).meta == {{"outer_step": 1}}
print(sorted(p.name for p in folder.iterdir()))
"""


@pytest.mark.parametrize("room", [0, 3000, 40000])
def test_a_really_full_disk(room: int, tmp_path: Path) -> None:
    """The system itself refuses to let files grow; the process must end in peace, too."""
    code = FULL_DISK.format(tests=str(Path(__file__).parent), folder=str(tmp_path), room=room)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    run, again, checkpoint, files = done.stdout.splitlines()
    assert run.endswith("run.h5: File too large; what was there before is intact")
    assert again == run
    assert checkpoint.endswith("checkpoint.h5: File too large; what was there before is intact")
    assert files == "['checkpoint.h5', 'run.h5']"


# Weights


def test_weights_come_back_ready_for_use(tmp_path: Path) -> None:
    opt = optimizer("adam", learning_rate=0.02)
    theta = opt.init_theta() + np.float32(0.125)
    origin = {**store.provenance(3, 2, "cpu"), "config": CONFIG}
    path = store.save_weights(tmp_path / "w.h5", opt, theta, origin)
    found = store.load_weights(path)
    assert found.theta.tobytes() == theta.tobytes()
    assert found.optimizer() == opt
    assert found.layout == opt.theta_layout
    assert found.provenance == origin
    store.save_weights(path, opt, opt.init_theta(), origin)  # a later one replaces it
    assert np.array_equal(store.load_weights(path).theta, opt.init_theta())


def test_options_of_weights_are_replaced_where_theta_stays_what_it_was(tmp_path: Path) -> None:
    opt = optimizer("anchored", hidden=4, rate=0.02)
    path = store.save_weights(tmp_path / "w.h5", opt, opt.init_theta(), {})
    found = store.load_weights(path)
    assert found.optimizer(total_steps=70) == optimizer(
        "anchored", hidden=4, rate=0.02, total_steps=70
    )
    with pytest.raises(StoreError, match="direction/w0"):
        found.optimizer(hidden=5)
    with pytest.raises(StoreError, match="total_step"):
        found.optimizer(total_stepz=70)


def test_theta_is_checked_when_saved(tmp_path: Path) -> None:
    opt = optimizer("adam")
    for theta in (opt.init_theta()[:-1], np.full_like(opt.init_theta(), np.nan)):
        with pytest.raises(OptimizerError):
            store.save_weights(tmp_path / "w.h5", opt, theta, {})
    assert list(tmp_path.iterdir()) == []


def forge(path: Path, attributes: Mapping[str, Any], fill: Callable[[h5py.File], Any]) -> Path:
    """A weights file that lies, with its checksum in order."""
    default = {"architecture": "adam", "options": {}, "layout": [], "provenance": {}}
    with h5py.File(path, "w", libver=container.LIBVER, userblock_size=512) as file:
        container.put_attributes(file, "weights", {**default, **attributes})
        fill(file)
    digest = container.hashlib.sha256(path.read_bytes()[512:]).hexdigest()
    header = container.pack_header("weights", digest, path.stat().st_size)
    path.write_bytes(header + path.read_bytes()[512:])
    return path


def put(theta: np.ndarray) -> Callable[[h5py.File], Any]:
    return lambda file: file.create_dataset("theta", data=theta)


def claim(**how: Any) -> Callable[[h5py.File], Any]:
    return lambda file: file.create_dataset("theta", (2**45,), "f4", **how)


ADAM = json.loads(optimizer("adam").theta_layout.to_json())
THETA = optimizer("adam").init_theta()
TUNED = optimizer("adam", learning_rate=0.01).init_theta()  # as `make` saves it
HUGE = [["x", [2**45]]]
LIES: dict[str, tuple[dict[str, Any], Callable[[h5py.File], Any], str]] = {
    "short theta": ({"layout": ADAM}, put(THETA[:-1]), r"theta has shape .* its layout needs"),
    "matrix": ({"layout": ADAM}, put(THETA[None]), "expected f4 with axes"),
    "doubles": ({"layout": ADAM}, put(THETA.astype("f8")), "has type f8"),
    "NaN": ({"layout": ADAM}, put(THETA * np.float32(np.nan)), "values of theta are NaN"),
    "inf": ({"layout": ADAM}, put(THETA + np.float32(np.inf)), "are NaN or infinite"),
    "huge, no chunk": ({"layout": HUGE}, claim(chunks=(1024,)), "claims shape"),
    "huge, late": ({"layout": HUGE}, claim(), "claims shape"),
    "zipped bomb": (
        {"layout": [["x", [10**6]]]},
        lambda f: f.create_dataset("theta", data=np.zeros(10**6, "f4"), compression="gzip"),
        "claims shape",
    ),
    "huge layout": ({"layout": [["x", [2**80]]]}, put(THETA), r"damaged|needs"),
    "negative": ({"layout": [["x", [-1]]]}, put(THETA), "non-negative"),
    "twice": ({"layout": [["x", [1]], ["x", [1]]]}, put(THETA), "unique"),
    "nonsense layout": ({"layout": 5}, put(THETA), "damaged"),
    "other blocks": ({"layout": [["x", [THETA.size]]]}, put(THETA), "block 'x' of theta"),
    "no such optimizer": ({"architecture": "adom", "layout": ADAM}, put(THETA), "'adam'"),
    "bad option": ({"options": {"betta": 1}, "layout": ADAM}, put(THETA), "betta"),
    "options": ({"options": 3, "layout": ADAM}, put(THETA), "options are 3"),
    "missing": ({"layout": ADAM}, lambda f: None, "dataset /theta is missing"),
    "one more": (
        {"layout": ADAM},
        lambda f: (put(THETA)(f), f.create_dataset("x", data=1)),
        "unexpected dataset /x",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_weights_that_lie_are_refused(lie: str, tmp_path: Path) -> None:
    attributes, fill, message = LIES[lie]
    path = forge(tmp_path / "w.h5", attributes, fill)
    with pytest.raises(StoreError, match=message) as caught:
        store.load_weights(path)
    assert str(path) in str(caught.value)


def test_an_honest_forgery_is_read(tmp_path: Path) -> None:
    """The forger's tool is sound: without a lie its file is accepted."""
    found = store.load_weights(forge(tmp_path / "w.h5", {"layout": ADAM}, put(THETA)))
    assert np.array_equal(found.theta, THETA)


@pytest.mark.parametrize("name", ["nosuch", ""])
def test_an_unknown_name_is_neither_file_nor_shipped(name: str) -> None:
    with pytest.raises(StoreError, match=f"no file '{name}', and unknown shipped weights '{name}'"):
        store.load_weights(name)


def test_a_directory_is_no_file_of_weights(tmp_path: Path) -> None:
    """The weights in it are named, if there are any."""
    words = f"'{tmp_path}' is a directory, not a file of weights"
    with pytest.raises(StoreError, match=f"{words}$"):
        store.load_weights(tmp_path)
    store.save_weights(tmp_path / "weights.h5", optimizer("adam"), THETA, {})
    with pytest.raises(StoreError, match=f"{words}; did you mean '{tmp_path / 'weights.h5'}'"):
        store.load_weights(tmp_path)


# Evaluations


def test_an_evaluation_comes_back(tmp_path: Path) -> None:
    given = results()
    path = store.save_eval(tmp_path / "e.h5", given, ROWS, {"steps": 15})
    found = store.EvalReader(path)
    assert found.provenance == {"steps": 15}
    for name in ("tasks", "entrants", "families"):
        assert getattr(found, name) == getattr(given, name)
    assert np.array_equal(found.rates, given.rates, equal_nan=True)
    assert found.is_tuned.tolist() == [False, False, True]
    assert (found.steps.tolist(), found.seeds) == ([5, 10, 15], 4)
    assert np.array_equal(found.outer_loss, given.outer_loss.astype(np.float32))
    for name in ("test_loss", "status", "seconds"):
        assert np.array_equal(getattr(found, name), getattr(given, name))
    assert repr(found.rows) == repr(ROWS)


def test_arrays_of_an_evaluation_must_agree(tmp_path: Path) -> None:
    given = results()
    given.test_loss = given.test_loss[:, :2]
    path = tmp_path / "e.h5"
    with pytest.raises(StoreError, match="axis optimizer has length"):
        store.save_eval(path, given, ROWS, {})
    assert not path.exists()


# Curves


def test_curves_come_back_and_are_found_by_task_and_entrant(tmp_path: Path) -> None:
    given = some_curves()
    found = store.read_curves(store.save_curves(tmp_path / "c.h5", given))
    for name in ("settings", "provenance", "tasks", "families", "entrants"):
        assert getattr(found, name) == getattr(given, name)
    assert found.lowest.tolist() == [0.0, -math.inf]
    assert all(np.array_equal(found.runs[n], given.runs[n]) for n in given.runs)
    assert found.rows(1, 1).tolist() == [1, 2, 4]
    assert found.rows(0, 1).tolist() == []
    assert (found.kinds("tuned"), found.members("adam, 15 rates")) == (["adam, 15 rates"], [1])
    store.save_curves(tmp_path / "c.h5", given)  # replaced, unlike an evaluation


def test_runs_of_nobody_are_refused(tmp_path: Path) -> None:
    given = some_curves()
    given.runs["task"][2] = 2
    with pytest.raises(StoreError, match="/runs/task points outside the 2 there are"):
        store.read_curves(store.save_curves(tmp_path / "c.h5", given))


# Damage, for every kind


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_such_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    good = make(kind, tmp_path)
    data = good.read_bytes()
    assert store.kind_of(good) == kind
    other = make(KINDS[(KINDS.index(kind) + 1) % 4], tmp_path)
    plain = tmp_path / "plain.h5"
    with h5py.File(plain, "w") as file:
        file["theta"] = np.zeros(3)
    number = b'"schema": %d' % store.VERSION
    cases = {
        tmp_path / "none.h5": "No such file",
        tmp_path: "[Ii]s a directory",
        plain: "an HDF5 file, but not one of lopt's",
        other: f"expected a {kind} file",
        write(tmp_path / "0.h5", b""): "is empty",
        write(tmp_path / "1.h5", b"PK\x03\x04 something"): "not a lopt file",
        write(tmp_path / "2.h5", data[:40]): "first line is damaged or cut off",
        write(tmp_path / "3.h5", data[:512]): "truncated|cut off",
        write(tmp_path / "4.h5", data[: len(data) // 2]): "truncated|damaged",
        write(tmp_path / "5.h5", data.replace(number, b'"schema": 0', 1)): "older schema 0",
        write(tmp_path / "6.h5", data.replace(number, b'"schema": 9', 1)): "schema 9.*newer lopt",
        write(tmp_path / "7.h5", data.replace(number, b'"schema":[]', 1)): "schema",
    }
    for path, message in cases.items():
        with pytest.raises(StoreError, match=message) as caught:
            content(kind, path)
        assert str(path) in str(caught.value)
        if path != other and path.is_file():
            with pytest.raises(StoreError):
                store.info(path)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def damages(data: bytes, count: int) -> list[bytes]:
    """Truncations, flipped bits, overwritten and blanked pieces at seeded places."""
    rng = np.random.default_rng(20)
    found = []
    for k in range(count):
        i = int(rng.integers(len(data)))
        piece = bytearray(data)
        if k % 4 == 0:
            del piece[i:]
        elif k % 4 == 1:
            piece[i] ^= 1 << int(rng.integers(8))
        else:
            size = min(64, len(data) - i)
            piece[i : i + size] = rng.bytes(size) if k % 4 == 2 else bytes(size)
        found.append(bytes(piece))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_damage_anywhere_is_refused_or_harmless(kind: str, tmp_path: Path) -> None:
    """Never another exception, never other numbers; a run may come back short."""
    good = make(kind, tmp_path)
    truth = content(kind, good)
    refused = 0
    for data in damages(good.read_bytes(), 32):
        try:
            found = content(kind, write(tmp_path / "damaged.h5", data))
        except StoreError:
            refused += 1
            continue
        for name, value in found.items():
            wanted = truth[name]
            if kind == "run" and name in store.COLUMNS:
                wanted = wanted[: found["rows"]]
            assert name == "rows" or same(value, wanted), name
    assert refused >= 8  # at the least, every truncation


# What HDF5 does not guard itself: what datasets hold.
ALTERED: dict[str, tuple[bytes, bytes]] = {
    "run": (b"exchange", b"exchanGe"),
    "checkpoint": (ARRAYS["es/noise"].tobytes(), (ARRAYS["es/noise"] + 1).tobytes()),
    "weights": (TUNED.tobytes(), (TUNED + 1).tobytes()),
    "eval": (results().seconds.tobytes(), (results().seconds + 1).tobytes()),
    "times": (np.array([0.5, 200.0]).tobytes(), np.array([0.5, 20.0]).tobytes()),
    "search": (np.arange(40.0).tobytes(), (np.arange(40.0) + 1).tobytes()),
    "curves": (some_curves().runs["test"].tobytes(), (some_curves().runs["test"] + 1).tobytes()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_altered_content_is_noticed(kind: str, tmp_path: Path) -> None:
    path = make(kind, tmp_path)
    old, new = ALTERED[kind]
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(StoreError, match="checksum"):
        content(kind, path)


# Summaries


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("run", ["running, 12 complete rows", "mlp, t\u00fcr", "7 values in 2 blocks", "2 ranks"]),
        ("checkpoint", ["outer_step", "es/noise", "float64 (2, 3)", "6, "]),
        ("weights", ["adam", "learning_rate=0.01", "tasks"]),
        ("times", ["2 tasks of 2 families", "median 100 ms a step, 50.0 % below 100 ms"]),
        ("search", ["target, 30 steps", "antithetic in 40 coordinates", "lowest 30", "465 lost"]),
        ("curves", ["5, 15 inner steps each, 1 clipped, 1 diverged", "tuned    adam, 15 rates, 1"]),
        ("eval", ["4 seeds, 15 inner steps", "adam lr=0.1", "0.25 +- 0.01, 3 clipped or diverged"]),
    ],
)
def test_info(kind: str, wanted: list[str], tmp_path: Path) -> None:
    text = store.info(make(kind, tmp_path))
    assert f"{kind} file" in text
    for piece in wanted:
        assert piece in text
