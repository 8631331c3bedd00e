"""The one table of everything that lopt's HDF5 files hold.

From it come the writers' datasets with their attributes, the readers' validation, and docs/results.md.
"""

from collections.abc import Iterable
from typing import NamedTuple

import h5py
import numpy as np

from lopt.errors import StoreError

VERSION = 1  # raise it when a reader of the older version could misread a file; state `since` below
KINDS = ("run", "checkpoint", "weights", "eval", "times", "search", "curves")


class Field(NamedTuple):
    """One dataset ("/path") or root attribute ("@name") of a kind of file.

    dtype  NumPy type code; "text" is fixed-length UTF-8, "json" such a text holding JSON, "any" a numeric array
    axes   names, outermost first; a dataset whose own name is its only axis is the coordinate of that axis
    since  schema version in which it appeared
    """

    kind: str
    path: str
    dtype: str
    axes: tuple[str, ...]
    unit: str
    meaning: str
    since: int = 1

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit("/", 1)[-1].lstrip("@")

    @property
    def is_attribute(self) -> bool:
        """Whether it is an attribute of the root group."""
        return self.path.startswith("@")

    @property
    def is_scale(self) -> bool:
        """Whether it holds the coordinates of an axis."""
        return self.axes == (self.name,) and self.dtype != "any"


STEP = ("outer_step",)

SCHEMA = (
    # run: one row per outer step, appended while the run goes on
    Field("run", "@config", "text", (), "-", "complete configuration, TOML"),
    Field("run", "@theta_layout", "json", (), "-",
          "names and shapes of the blocks of theta, in order"),
    Field("run", "@tasks", "json", (), "-", "names of the tasks that pair_groups counts"),
    Field("run", "@provenance", "json", (), "-",
          "list, one entry for the start and one for each resume: first_row, start_utc, "
          "command, seed, ranks, device, lopt version, git commit and dirty flag, versions of "
          "python, numpy, numba, h5py, hdf5"),
    Field("run", "/done", "i8", (), "rows",
          "rows that are complete; written last, rows after it are not to be read"),
    Field("run", "/state", "text", (), "-",
          "running, finished, time (minutes used up), signal or failed"),
    Field("run", "/axes/phase", "text", ("phase",), "-", "names of the parts of an outer step"),
    Field("run", "/axes/block", "text", ("block",), "-", "names of the blocks of theta"),
    Field("run", "/axes/member", "text", ("member",), "-",
          "sign of the perturbation of a pair's two particles"),
    Field("run", "/axes/column", "text", ("column",), "-",
          "names of the datasets of /outer, in checksum's order"),
    Field("run", "/outer/outer_step", "i8", STEP, "outer steps",
          "number of the outer step, from 0"),
    Field("run", "/outer/meta_loss", "f8", STEP, "1",
          "mean over the kept pairs of m_p = (L_p+ + L_p-) / 2, L the window mean of the "
          "normalised loss"),
    Field("run", "/outer/meta_loss_std", "f8", STEP, "1",
          "spread: sqrt(sum_p (m_p - mean)^2 / (n - 1)), n kept pairs"),
    Field("run", "/outer/meta_loss_se", "f8", STEP, "1",
          "standard error of meta_loss: meta_loss_std / sqrt(n)"),
    Field("run", "/outer/grad_norm", "f8", STEP, "1/theta",
          "sqrt(sum_i g_i^2) of the gradient estimate, not clipped"),
    Field("run", "/outer/update_norm", "f8", STEP, "theta",
          "sqrt(sum_i (theta_new - theta_old)_i^2)"),
    Field("run", "/outer/theta_norm", "f8", ("outer_step", "block"), "theta",
          "sqrt(sum_i theta_i^2) per block, after the step"),
    Field("run", "/outer/theta_ema_norm", "f8", ("outer_step", "block"), "theta",
          "the same of theta's moving average"),
    Field("run", "/outer/sigma", "f8", STEP, "theta", "standard deviation of the perturbations"),
    Field("run", "/outer/learning_rate", "f8", STEP, "theta",
          "outer learning rate after warm-up and schedule"),
    Field("run", "/outer/wall_s", "f8", STEP, "s",
          "cumulative wall time in outer steps, resumed runs added up"),
    Field("run", "/outer/phase_s", "f8", ("outer_step", "phase"), "s",
          "wall time of rank 0 by part of the outer step"),
    Field("run", "/outer/inner_steps", "i8", STEP, "inner steps",
          "cumulative inner steps of all particles"),
    Field("run", "/outer/pairs_lost", "i8", STEP, "pairs",
          "pairs dropped: diverged, not finite, or the task raised"),
    Field("run", "/outer/n_clipped", "i8", STEP, "1",
          "coordinates of the gradient estimate beyond outer.clip"),
    Field("run", "/outer/bytes_sent", "i8", STEP, "bytes",
          "bytes that one rank gave to the exchange in this outer step"),
    Field("run", "/outer/pair_losses", "f8", ("outer_step", "pair", "member"), "1",
          "L of each particle; NaN where the pair was lost"),
    Field("run", "/outer/pair_groups", "i8", ("outer_step", "pair"), "1",
          "task of each pair, an index into @tasks"),
    Field("run", "/outer/checksum", "u4", ("outer_step", "column"), "-",
          "CRC-32 of a column's little-endian bytes in this row, started with the row number"),
    # checkpoint: everything a resumed run needs
    Field("checkpoint", "@meta", "json", (), "-",
          "what the arrays belong to, as the trainer gave it"),
    Field("checkpoint", "/arrays/*", "any", ("*",), "-",
          "named arrays of the trainer's state, to the bit"),
    # weights: an optimizer ready for use
    Field("weights", "@architecture", "text", (), "-", "name of the optimizer"),
    Field("weights", "@options", "json", (), "-",
          "all its options (hyper-parameters), defaults included"),
    Field("weights", "@layout", "json", (), "-",
          "names and shapes of the blocks of theta, in order"),
    Field("weights", "@provenance", "json", (), "-",
          "configuration, tasks, cost, seed, versions, date: how theta was made"),
    Field("weights", "/theta", "f4", ("parameter",), "theta",
          "meta-parameters, blocks one after another, row-major"),
    # eval: every optimizer on every task from the same starting points
    Field("eval", "@provenance", "json", (), "-", "command, settings, versions, date"),
    Field("eval", "/task", "text", ("task",), "-", "names of the tasks"),
    Field("eval", "/optimizer", "text", ("optimizer",), "-", "labels of the entrants"),
    Field("eval", "/seed", "i8", ("seed",), "-",
          "address of initial parameters and batches, shared by all entrants"),
    Field("eval", "/step", "i8", ("step",), "inner steps",
          "inner steps done when a loss was taken"),
    Field("eval", "/entrant/family", "text", ("optimizer",), "-",
          "learned, or the baseline's name"),
    Field("eval", "/entrant/learning_rate", "f8", ("optimizer",), "-",
          "of a tuning variant; NaN: left at its default"),
    Field("eval", "/entrant/is_tuned", "i8", ("optimizer",), "-",
          "1: one of the learning rates tried, 0: default"),
    Field("eval", "/trace/outer_loss", "f4", ("task", "optimizer", "seed", "step"), "loss",
          "outer-validation loss"),
    Field("eval", "/trace/test_loss", "f8", ("task", "optimizer", "seed"), "loss",
          "test loss after the last step"),
    Field("eval", "/trace/status", "i8", ("task", "optimizer", "seed"), "code",
          "0 ok, 1 a loss was clipped at the ceiling, 2 diverged"),
    Field("eval", "/trace/wall_s", "f8", ("task", "optimizer", "seed"), "s",
          "wall time of the rollout"),
    Field("eval", "/table/task", "i8", ("row",), "-", "final-loss table: index into /task"),
    Field("eval", "/table/entrant", "i8", ("row",), "-", "index into /optimizer"),
    Field("eval", "/table/family", "text", ("row",), "-", "what the entrant is a variant of"),
    Field("eval", "/table/variant", "text", ("row",), "-", "learned, default or tuned"),
    Field("eval", "/table/learning_rate", "f8", ("row",), "-", "NaN: default"),
    Field("eval", "/table/mean", "f8", ("row",), "loss", "mean over seeds of test_loss"),
    Field("eval", "/table/se", "f8", ("row",), "loss",
          "standard error over seeds; NaN with one seed"),
    Field("eval", "/table/n_bad", "i8", ("row",), "runs", "runs of it whose status is not 0"),
    # times: cost of one training step of tasks on one core
    Field("times", "@provenance", "json", (), "-",
          "command, versions, date, sgemm_gflops: the 2048^3 matrix product of the same process"),
    Field("times", "/task", "text", ("task",), "-", "names of the tasks"),
    Field("times", "/family", "text", ("task",), "-", "their families"),
    Field("times", "/params", "i8", ("task",), "parameters", "number of inner parameters"),
    Field("times", "/ms", "f8", ("task",), "ms", "loss and gradient of one mini-batch"),
    # search: minimising a black box, one row per step
    Field("search", "@settings", "json", (), "-",
          "strategy, options, seed, policy of faults, tasks, digests of x0, scale and bounds"),
    Field("search", "@provenance", "json", (), "-",
          "list as in a run file, one entry for the start and one for each resume"),
    Field("search", "/state", "text", (), "-",
          "running (also after a kill), target, finished, evaluations, time, callback, lost or another"),
    Field("search", "/steps/step", "i8", ("step",), "steps", "steps done"),
    Field("search", "/steps/evaluations", "i8", ("step",), "evaluations",
          "cumulative evaluations of the objective, the two at the start included"),
    Field("search", "/steps/mean", "f8", ("step",), "loss", "mean over the kept points of the step"),
    Field("search", "/steps/lowest", "f8", ("step",), "loss", "lowest of the step"),
    Field("search", "/steps/best", "f8", ("step",), "loss", "lowest seen so far, f(x0) included"),
    Field("search", "/steps/lost", "i8", ("step",), "points",
          "points without a usable loss in the step"),
    Field("search", "/steps/moved", "f8", ("step",), "scale",
          "sqrt(sum_i (change of theta)_i^2), theta = (x - x0) / scale"),
    Field("search", "/steps/wall_s", "f8", ("step",), "s",
          "cumulative wall time of rank 0, resumed parts added up"),
    Field("search", "/x", "f8", ("coordinate",), "x", "the strategy's answer so far"),
    Field("search", "/best_x", "f8", ("coordinate",), "x", "where the lowest loss was seen"),
    # curves: inner training runs of many optimizers, one row a run
    Field("curves", "@settings", "json", (), "-",
          "what all runs share: steps, outer_batches, test_batches, ceiling"),
    Field("curves", "@provenance", "json", (), "-",
          "list, one entry for each time the file was gone on with: command, versions, date"),
    Field("curves", "/task", "text", ("task",), "-", "names of the tasks"),
    Field("curves", "/family", "text", ("task",), "-", "their families"),
    Field("curves", "/lowest", "f8", ("task",), "loss",
          "bound that no loss is below; -inf where none is known"),
    Field("curves", "/entrant", "text", ("entrant",), "-", "labels of the optimizers"),
    Field("curves", "/entrants/family", "text", ("entrant",), "-",
          "what it is a variant of; all trials of a search share it"),
    Field("curves", "/entrants/variant", "text", ("entrant",), "-",
          "learned, default, or tuned: one trial of a search"),
    Field("curves", "/entrants/trial", "i8", ("entrant",), "-",
          "number in the order of the search; 0 for a single setting"),
    Field("curves", "/entrants/spec", "text", ("entrant",), "-",
          "JSON: optimizer and options, and of a learned one a digest of theta"),
    Field("curves", "/step", "i8", ("step",), "inner steps",
          "inner steps done when a loss was taken, 0 first"),
    Field("curves", "/runs/task", "i8", ("run",), "-", "index into /task"),
    Field("curves", "/runs/entrant", "i8", ("run",), "-", "index into /entrant"),
    Field("curves", "/runs/seed", "i8", ("run",), "-",
          "address of initial parameters and batches, shared by all entrants"),
    Field("curves", "/runs/train", "f4", ("run", "step"), "loss",
          "mean loss of the training batches since the step before; at step 0 that of the first batch"),
    Field("curves", "/runs/valid", "f4", ("run", "step"), "loss", "outer-validation loss"),
    Field("curves", "/runs/test", "f8", ("run",), "loss", "test loss after the last step"),
    Field("curves", "/runs/status", "i8", ("run",), "code",
          "0 ok, 1 a loss was clipped at the ceiling, 2 diverged"),
    Field("curves", "/runs/status_step", "i8", ("run",), "inner steps",
          "inner step at which the status was set; 0 if ok"),
    Field("curves", "/runs/wall_s", "f8", ("run",), "s", "wall time of the run"),
)  # fmt: skip


def fields(kind: str, attributes: bool) -> list[Field]:
    """Datasets or root attributes of a kind of file, in table order."""
    return [f for f in SCHEMA if f.kind == kind and f.is_attribute == attributes]


def text_type(texts: Iterable[str]) -> np.dtype:
    """Fixed-length UTF-8 type that holds all texts: unlike variable length, it needs no heap outside the dataset."""
    longest = max((len(t.encode()) for t in texts), default=0)
    return h5py.string_dtype("utf-8", max(1, longest))


def encode(dtype: str, value: object) -> np.ndarray:
    """A value as the array the table declares.

    Raises:
        StoreError: neither number nor text, or a cast that does not keep the kind of number.
    """
    if dtype in ("text", "json"):
        texts = np.asarray(value, object)
        flat = [str(t) for t in texts.reshape(-1)]
        return np.array([t.encode() for t in flat], text_type(flat)).reshape(texts.shape)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise StoreError(f"cannot store values of type {array.dtype}")
    wanted = array.dtype if dtype == "any" else np.dtype(dtype)
    if not np.can_cast(array.dtype, wanted, "same_kind"):
        raise StoreError(f"cannot store {array.dtype} as {dtype}")
    return array.astype(wanted.newbyteorder("<"), casting="same_kind", copy=False)


def decode(array: np.ndarray) -> np.ndarray:
    """Texts as str objects; numbers as they are."""
    if array.dtype.kind != "S":
        return array
    flat = [bytes(t).decode() for t in array.reshape(-1)]
    return np.array(flat, object).reshape(array.shape)


def dataset_paths(file: h5py.File) -> list[str]:
    """Absolute paths of all datasets."""
    found: list[str] = []
    file.visititems(lambda n, o: found.append(f"/{n}") if isinstance(o, h5py.Dataset) else None)
    return found


def describe(dataset: h5py.Dataset, field: Field) -> None:
    """Attach unit, meaning and axes, so that the file explains itself to any HDF5 tool."""
    for name, text in (
        ("unit", field.unit),
        ("meaning", field.meaning),
        ("axes", ", ".join(field.axes)),
    ):
        dataset.attrs[name] = encode("text", text)
    dataset.attrs["since"] = np.int64(field.since)


def attach_scales(file: h5py.File, kind: str) -> None:
    """Make the coordinate datasets dimension scales and attach them to the axes that bear their name."""
    table = fields(kind, attributes=False)
    scales = {f.name: f.path for f in table if f.is_scale}
    for name, path in scales.items():
        file[path].make_scale(name)
    for field in table:
        for i, axis in enumerate(field.axes):
            if axis in scales and not field.is_scale:
                file[field.path].dims[i].attach_scale(file[scales[axis]])


def check(file: h5py.File, kind: str) -> None:
    """Compare a file's datasets with the table: names, types, number of axes, equal lengths of equal axes.

    The growing axis of a run file is left out of the last, its length is the row counter's business.

    Raises:
        StoreError: names the dataset.
    """
    found = {path: file[path] for path in dataset_paths(file)}
    lengths: dict[str, tuple[int, str]] = {}
    for field in fields(kind, attributes=False):
        if field.dtype == "any":
            head = field.path.rstrip("*")
            found = {n: d for n, d in found.items() if not n.startswith(head)}
            continue
        if field.path not in found:
            raise StoreError(f"dataset {field.path} is missing")
        dataset = found.pop(field.path)
        code = dataset.dtype.str.lstrip("<|")
        fits = code.startswith("S") if field.dtype == "text" else code == field.dtype
        if not fits or dataset.ndim != len(field.axes):
            raise StoreError(
                f"dataset {field.path} has type {code} and shape {dataset.shape}, "
                f"expected {field.dtype} with axes {list(field.axes)}"
            )
        for axis, size in zip(field.axes, dataset.shape, strict=True):
            known, where = lengths.setdefault(axis, (size, field.path))
            if known != size and axis != "outer_step":
                raise StoreError(
                    f"axis {axis} has length {size} in {field.path}, {known} in {where}"
                )
    if found:
        raise StoreError(f"unexpected dataset {min(found)}")


def schema_markdown() -> str:
    """The table as the text of docs/results.md."""
    titles = {
        "run": "Run file, `run.h5`",
        "checkpoint": "Checkpoint, `checkpoint.h5` and `checkpoint.prev.h5`",
        "weights": "Weights, `weights.h5`",
        "eval": "Evaluation, written by `lopt eval`",
        "times": "Task timings, written by `lopt tasks time`",
        "search": "Search, `search.h5`, written by `lopt.es.minimize(out=...)`",
        "curves": "Curves, written by `lopt eval --config`",
    }
    lines = [_PREAMBLE.format(version=VERSION)]
    for kind in KINDS:
        lines += [f"## {titles[kind]}", "", _NOTES[kind], ""]
        lines += ["| path | type | axes | unit | meaning | since |", "|---|---|---|---|---|---|"]
        for f in (f for f in SCHEMA if f.kind == kind):
            path = f"attribute `{f.name}`" if f.is_attribute else f"`{f.path}`"
            axes = ", ".join(f.axes).replace("*", "any") or "-"
            meaning = f.meaning.replace("|", "\\|").replace("*", "\\*")
            lines.append(f"| {path} | {f.dtype} | {axes} | {f.unit} | {meaning} | {f.since} |")
        lines.append("")
    return "\n".join(lines)


_PREAMBLE = """\
# Result files

Generated from the table in `lopt/store/schema.py` (schema version {version}); a test keeps this page equal to it.

All files are HDF5; `h5dump -A` shows what they hold, `lopt info` summarises them. The first 512 bytes (an HDF5 user
block) are one line of JSON: kind of file, schema version, checksum. Texts are fixed-length UTF-8. Every dataset carries
`unit`, `meaning`, `axes` and `since` as attributes, and dimension scales where an axis has coordinates. There is no
pickle and no code in any file.
"""

_NOTES = {
    "run": """\
An append-only log in HDF5's single-writer multiple-reader mode: it may be read while it grows and after its writer was
killed (by hand: `h5py.File(path, swmr=True)`). Rows from `/done` on are unfinished. On resume it is cut back to the
checkpoint's outer step.""",
    "checkpoint": """\
Written under a temporary name, flushed to disk, renamed; the one before is kept. The first line holds the SHA-256 of
the rest, checked before anything is read.""",
    "weights": """\
Sealed like a checkpoint. Refused if the blocks do not fit the architecture or a value is not finite.""",
    "eval": """\
Sealed like a checkpoint. Traces are raw: statistics are computed when they are read, but for the final-loss table.""",
    "times": """\
Sealed like a checkpoint.""",
    "search": """\
Sealed like a checkpoint, and replaced as a whole before each one: it may be read while the search goes on. Rows after
the checkpoint are dropped on resume. Of several populations each has a file and checkpoints in a directory of its own.""",
    "curves": """\
Sealed like a checkpoint, and replaced as a whole after every task: it may be read while the comparison goes on.""",
}  # fmt: skip
