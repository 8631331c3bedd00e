"""Regression on tables: from every source of tables, on real ones, and the objects of R that hold some of them."""

import gzip
import lzma
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.optimize import minimize

from lopt import data, rng
from lopt.data import optional, optional_tables
from lopt.data.r_objects import MISSING, read_rda, unserialize
from lopt.errors import DataError
from lopt.optimizer import optimizer
from lopt.rollout import rollout
from lopt.task import TRAIN
from lopt.tasks import task

STREAM = rng.stream(2)
ROWS, WEIGHTS = 420, np.array([[4.0, -1.0, 0.0], [-2.0, 3.0, 0.0], [0.0, 0.0, 0.0]])


def drawn():
    """Features of three sizes and classes from a softmax of some of them, with chance of their own."""
    r = np.random.default_rng(0)
    x = r.normal(size=(ROWS, 3))
    noise = r.gumbel(size=(ROWS, 3))
    return x * (1e-3, 1.0, 1e3) + 7.0, (x @ WEIGHTS + noise).argmax(axis=1)


def write_csv(path, x, y):
    lines = [
        "a,class,b,c",
        *(f"{a!r},k{k},{b!r},{c!r}" for (a, b, c), k in zip(x.tolist(), y, strict=True)),
    ]
    path.write_text("\n".join(lines))
    return "csv", {"target": "class"}


def write_npz(path, x, y):
    with open(path, "wb") as file:
        np.savez(file, x=x, y=y)
    return "npz", {}


def write_hdf5(path, x, y):
    with h5py.File(path, "w") as file:
        file.create_dataset("in/x", data=x, chunks=(7, 3), compression="gzip")
        file["in/y"] = y
    return "hdf5", {"x": "in/x", "y": "in/y"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> list[str]:
    """The same table imported from three formats."""
    folder, names = tmp_path_factory.mktemp("tables"), []
    for write in (write_csv, write_npz, write_hdf5):
        path = folder / write.__name__
        format, options = write(path, *drawn())
        data.import_data(path, f"{path}.h5", format, options, scale="column")
        names.append(f"{path}.h5")
    return names


def test_a_table_is_the_same_from_every_source(tables):
    first, *others = map(data.load, tables)
    assert (first.shape, first.n_classes, first.rows) == ((3,), 3, ROWS)
    assert first.class_names == ("k0", "k1", "k2")
    for other in others:
        np.testing.assert_array_equal(other.floats, first.floats)
        np.testing.assert_array_equal(other.ints, first.ints)


def optimum(t) -> float:
    """Smallest loss of a logistic regression over its training rows."""
    rows = np.arange(*t.splits[TRAIN])
    found = minimize(
        lambda p: t.reference(p, rows, STREAM, TRAIN, 0),
        np.zeros(t.layout.size), jac=True, method="L-BFGS-B", options={"maxiter": 1000},
    )  # fmt: skip
    return found.fun


@pytest.mark.parametrize("family", ["logistic", "mlp"])
def test_softmax_regression_finds_the_optimum(family, tables):
    """... of a convex loss: from log 3 down to what L-BFGS finds, and the shares of the classes lie in between."""
    t = task("logistic", data=tables[0], l2=0.0)
    trained = t if family == "logistic" else task("mlp", data=tables[0], hidden=())
    trace = rollout(trained, optimizer("adam", learning_rate=0.03), steps=4000, seed=1)
    rows = np.arange(*t.splits[TRAIN])
    params = np.concatenate([p.ravel() for p in trace.params.values()]).astype(np.float64)
    loss, best = t.reference(params, rows, STREAM, TRAIN, 0)[0], optimum(t)
    shares = np.bincount(t.dataset.y[rows]) / rows.size
    assert best < 0.75 * -(shares * np.log(shares)).sum()
    assert best <= loss < best + 0.02
    assert t.reference(0 * params, rows, STREAM, TRAIN, 0)[0] == pytest.approx(np.log(3), rel=1e-12)


def test_two_classes_are_logistic_regression(tables, tmp_path):
    """Softmax of two logits is the logistic function of their difference."""
    x, y = drawn()
    format, options = write_npz(tmp_path / "two", x, y == 2)
    data.import_data(tmp_path / "two", tmp_path / "two.h5", format, options, scale="column")
    t = task("logistic", data=str(tmp_path / "two.h5"), l2=0.0)
    r = np.random.default_rng(0)
    params, rows = r.normal(size=t.layout.size), np.arange(50)
    w, b = t.layout.views(params).values()
    z = t.dataset.x[rows].astype(np.float64) @ (w[:, 1] - w[:, 0]) + b[1] - b[0]
    expected = np.logaddexp(0.0, np.where(t.dataset.y[rows] == 1, -z, z)).mean()
    assert t.reference(params, rows, STREAM, TRAIN, 0)[0] == pytest.approx(expected, rel=1e-12)


# Real tables, where they are installed

REAL = {  # rows, features, classes, accuracy on test of a linear least-squares fit, at least
    "iris": (150, 4, 3, 0.7),
    "wine": (178, 13, 3, 0.9),
    "breast_cancer": (569, 30, 2, 0.9),
    "letter": (20000, 16, 26, 0.5),
    "satellite": (6435, 36, 6, 0.7),
    "shuttle": (58000, 9, 7, 0.85),
    "dna": (3186, 180, 3, 0.9),
}


def test_all_real_tables_are_tested_and_described():
    assert set(REAL) == {*optional_tables.SKLEARN, *optional_tables.R_TABLES}
    assert set(REAL) < set(optional.DATASETS)
    page = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
    for name, (rows, features, classes, _) in REAL.items():
        assert f"| `{name}` | {rows:,} x {features}, {classes} classes |" in page


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_tables(name):
    try:
        d = data.load(name)
    except DataError as error:
        pytest.skip(f"{name}: {error}")
    assert (d.rows, *d.shape, d.n_classes) == REAL[name][:3]
    train, test = (slice(*d.splits[k]) for k in (0, 3))
    assert (d.x[train].min(0) == 0).all() and (d.x[train].max(0) == 1).all()
    ones = np.ones((d.rows, 1))
    x = np.hstack([d.x, ones])
    w = np.linalg.lstsq(x[train], np.eye(d.n_classes)[d.y[train]], rcond=None)[0]
    assert np.mean((x[test] @ w).argmax(1) == d.y[test]) >= REAL[name][3]


def test_absent_tables_say_how_to_get_them(tmp_path):
    with pytest.raises(
        DataError, match=r'wine_data.csv is not installed: pip install "lopt\[tables'
    ):
        optional_tables.from_sklearn("wine", tmp_path)
    with pytest.raises(DataError, match=r"DNA.rda is not installed: apt install r-cran-mlbench"):
        optional_tables.from_mlbench("dna", tmp_path)
    (tmp_path / "iris.csv").write_text("150,4,a,b,c\n")
    with pytest.raises(DataError, match=r"another version; pip install"):
        optional_tables.from_sklearn("iris", tmp_path)


def test_a_table_of_scikit_learn_is_read(tmp_path, monkeypatch):
    """A file of that form: rows and features, names of the classes; then features and class."""
    lines = ["12,2,oak,ash", *(f"{k},{10 - k},{k % 2}" for k in range(12))]
    (tmp_path / "iris.csv").write_text("\n".join(lines))
    monkeypatch.setattr(optional_tables, "expect", lambda *args: None)
    d = optional_tables.from_sklearn("iris", tmp_path)
    assert (d.rows, d.shape, d.n_classes) == (12, (2,), 2)
    first = np.argsort(d.x[:, 0], kind="stable")
    np.testing.assert_array_equal(d.y[first][:4], [1, 0, 1, 0])  # oak, ash, ...; ash is class 0


# Objects of R, written here by the published format


def integer(value):
    return struct.pack(">i", value)


def chars(text):
    return integer(9) + integer(len(text.encode())) + text.encode()


def symbol(name):
    return integer(1) + chars(name)


def strings(*texts):
    return integer(16) + integer(len(texts)) + b"".join(map(chars, texts))


def pairs(*items):
    """Tagged values; a name is a symbol, or the number of one that came before."""
    cells = b""
    for name, value in items:
        tag = integer(255 | name << 8) if isinstance(name, int) else symbol(name)
        cells += integer(2 | 1 << 10) + tag + value
    return cells + integer(254)


def numbers(kind, values, attributes=b""):
    code = ">f8" if kind == 14 else ">i4"
    flags = kind | (1 << 9 if attributes else 0)
    return integer(flags) + integer(len(values)) + np.array(values, code).tobytes() + attributes


def frame(codes=(1, 2, 2, 1)):
    """A data frame with columns of integers, reals and a factor; its symbols: table, levels, class, names."""
    factor = numbers(
        13, codes, pairs(("levels", strings("oak", "äsh")), ("class", strings("factor")))
    )
    columns = numbers(13, (5, -6, 7, 8)) + numbers(14, (0.5, 1e300, -2, 3)) + factor
    class_again = 3
    attributes = pairs(("names", strings("a", "b", "kind")), (class_again, strings("data.frame")))
    return pairs(("table", integer(19 | 1 << 9) + integer(3) + columns + attributes))


def stream(body, version=2):
    head = b"X\n" + struct.pack(">3i", version, 0x40201, 0x20300)
    return head + (integer(5) + b"UTF-8" if version == 3 else b"") + body


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_a_data_frame_is_read(version, pack):
    found = read_rda(pack(b"RDX%d\n" % version + stream(frame(), version)))
    table = found["table"]
    assert table.names == ["a", "b", "kind"]
    assert table.attributes["class"].values == ["data.frame"]
    np.testing.assert_array_equal(table.column("a"), [5, -6, 7, 8])
    np.testing.assert_array_equal(table.column("b"), [0.5, 1e300, -2, 3])
    assert table.column("kind").tolist() == ["oak", "äsh", "äsh", "oak"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (stream(frame())[:-9], "ends early, at offset"),
        (stream(integer(3) + integer(254) * 3), "an object of R's type 3, expected vectors"),
        (stream(integer(6) + integer(254) * 3), "an object of R's type 6, expected vectors"),
        (stream(integer(2) + chars("a")), "a list without names"),
        (stream(integer(14) + integer(-1)), "ends early"),
        (stream(integer(14) + integer(2**31 - 1)), "ends early"),
        (stream((integer(19) + integer(1)) * 200), "nested deeper than 100"),
        (b"A\n" + bytes(40), "starts with b'A.n', expected R's XDR form"),
        (b"", "starts with b'', expected"),
    ],
)  # fmt: skip
def test_other_objects_are_refused(content, message):
    with pytest.raises(DataError, match=message):
        unserialize(content)


def test_missing_values_are_named():
    table = read_rda(b"RDX2\n" + stream(frame((1, MISSING, 2, 1))))["table"]
    with pytest.raises(DataError, match="column kind, row 1: missing"):
        table.column("kind")
    with pytest.raises(DataError, match=r"starts with b'RDX9.n', which is no .rda file"):
        read_rda(b"RDX9\n" + stream(frame()))
