"""The file that `lopt data import` writes: exact contents, splits, seals, limits, and the command itself."""

import hashlib
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from helpers import data_files

from lopt import data
from lopt.cli import main
from lopt.data import importing, user_file, user_writer
from lopt.data.readers import base
from lopt.errors import DataError


@pytest.fixture
def made(tmp_path):
    return data_files.write_npz(tmp_path)


@pytest.fixture
def imported(made, tmp_path):
    data.import_data(made.path, tmp_path / "mine.h5")
    return tmp_path / "mine.h5"


@pytest.fixture
def text(tmp_path):
    (tmp_path / "t.txt").write_text("a rose is a rose. " * 20)
    data.import_data(tmp_path / "t.txt", tmp_path / "text.h5", "words", {"vocabulary": 4})
    return tmp_path / "text.h5"


def test_an_imported_set_equals_the_same_arrays_given_directly(made, imported):
    mine = data.load(str(imported))
    other = data.from_arrays("other", made.x / np.float32(255), made.y, 4, (3, 4, 2))
    np.testing.assert_array_equal(mine.floats, other.floats)
    np.testing.assert_array_equal(mine.ints, other.ints)
    assert (mine.splits, mine.shape, mine.n_classes) == (other.splits, other.shape, 4)
    assert mine.floats.dtype == np.float32 and mine.ints.dtype == np.int32
    assert mine.class_names == ("0", "1", "2", "3")
    assert data.load(str(imported)) is mine


def test_any_hdf5_tool_can_read_the_file(made, imported):
    with h5py.File(imported) as file:
        assert sorted(file) == ["classes", "digest", "splits", "x", "y"]
        order = np.argsort(file["x"][()].reshape(40, -1)[:, 0], kind="stable")
        expected = np.argsort(made.x.reshape(40, -1)[:, 0], kind="stable")
        np.testing.assert_array_equal(file["x"][()][order].sum(0), made.x[expected].sum(0))
        for field in user_file.fields("rows"):
            assert file[field.path].attrs["meaning"] == field.meaning
        origin = json.loads(file.attrs["provenance"])
    assert origin["format"] == "npz"
    assert [f["name"] for f in origin["files"]] == ["plain.npz"]
    assert origin["files"][0]["bytes"] == made.path.stat().st_size


def test_digests_are_those_of_the_blocks(imported):
    with h5py.File(imported) as file:
        rows = file["x"][()]
        assert file["digest"].attrs["rows"] == base.BLOCK_BYTES // 24
        assert file["digest"][()].tobytes() == hashlib.sha256(rows.tobytes()).digest()
        start = file["x"].id.get_offset()
    raw = imported.read_bytes()
    sealed = raw[512:start] + raw[start + rows.nbytes :]
    assert json.loads(raw[:512])["sha256"] == hashlib.sha256(sealed).hexdigest()


def test_a_test_set_of_the_source_stays_the_test_split(tmp_path):
    x, y = data_files.examples((3,), rows=90)
    x[:, 0] = np.arange(90)
    np.savez(tmp_path / "s.npz", a=x[:72], b=y[:72], c=x[72:], d=y[72:])
    options = {"x": "a", "y": "b", "x_test": "c", "y_test": "d"}
    data.import_data(tmp_path / "s.npz", tmp_path / "s.h5", options=options)
    mine = data.load(str(tmp_path / "s.h5"))
    assert mine.splits == ((0, 56), (56, 64), (64, 72), (72, 90))
    numbers = np.rint(mine.x[:, 0] * 255).astype(int)
    assert sorted(numbers[72:]) == list(range(72, 90))
    assert sorted(numbers[:72]) == list(range(72))
    assert list(numbers[:72]) != sorted(numbers[:72])
    np.testing.assert_array_equal(mine.y, y[numbers])


def test_rows_takes_the_first_rows_of_each_split(imported, text):
    whole, some = data.load(str(imported)), data.load(f"{imported}?rows=3")
    assert some.splits == ((0, 3), (3, 6), (6, 9), (9, 12))
    for (lo, hi), (first, _) in zip(some.splits, whole.splits, strict=True):
        np.testing.assert_array_equal(some.x[lo:hi], whole.x[first : first + 3])
        np.testing.assert_array_equal(some.y[lo:hi], whole.y[first : first + 3])
    assert data.load(f"{imported}?rows=6").splits == ((0, 6), (6, 10), (10, 14), (14, 18))
    assert data.load_text(f"{text}?rows=2").splits == ((0, 2), (2, 4), (4, 6), (6, 8))


def test_text_keeps_its_order(text):
    t = data.load_text(str(text))
    assert t.entries == ("<unk>", "a", "rose", ".")
    assert t.vocabulary == 4
    np.testing.assert_array_equal(t.tokens, [1, 2, 0, 1, 2, 3] * 20)
    assert t.splits == ((0, 84), (84, 96), (96, 108), (108, 120))


@pytest.mark.parametrize("scale", ["column", "all"])
def test_scaling_uses_train_rows_only_and_counts_what_it_cuts(tmp_path, scale):
    r = np.random.default_rng(3)
    x = r.normal(size=(200, 3)) * (1e-6, 1, 1e3)
    np.savez(tmp_path / "n.npz", x=x, y=np.arange(200) % 2)
    notes = data.import_data(tmp_path / "n.npz", tmp_path / "n.h5", scale=scale)
    source = data.readers.open_source(tmp_path / "n.npz")
    position, splits = importing.row_order(source)
    train = x[position < splits[0][1]]
    axis = 0 if scale == "column" else None
    low, high = train.min(axis), train.max(axis)
    expected = (x - low) / (high - low)
    beyond = int(((expected < 0) | (expected > 1)).sum())
    assert beyond > 0  # else nothing is tested
    assert notes == (f"{beyond} values beyond the range of train were cut to it",)
    mine = data.load(str(tmp_path / "n.h5"))
    np.testing.assert_allclose(mine.x[position], np.clip(expected, 0, 1), rtol=1e-6, atol=1e-7)
    assert (mine.x[: splits[0][1]].min(), mine.x[: splits[0][1]].max()) == (0, 1)


def test_bytes_that_use_little_of_their_range_are_remarked(tmp_path):
    x, y = data_files.examples((3,), top=17)
    np.savez(tmp_path / "n.npz", x=x, y=y)
    (note,) = data.import_data(tmp_path / "n.npz", tmp_path / "n.h5")
    assert "largest value is 16 of 255" in note
    assert data.import_data(tmp_path / "n.npz", tmp_path / "all.h5", scale="all") == ()
    assert data.load(str(tmp_path / "all.h5")).x.max() == 1


def npz_of(tmp_path, **arrays):
    np.savez(tmp_path / "bad.npz", **arrays)
    return tmp_path / "bad.npz"


X, Y = np.linspace(0, 1, 60).reshape(30, 2), np.arange(30) % 3


def changed(array, at, value):
    array = array.copy()
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (changed(X, (17, 1), np.nan), Y, {}, r"bad.npz: array 'x', row 17: value 1 is nan"),
        (changed(X, (5, 0), np.inf), Y, {"scale": "all"}, r"row 5: value 0 is inf"),
        (changed(X, (4, 1), 1.5), Y, {}, r"row 4: values span \[0.13\d+, 1.5\].*choose a scale"),
        (changed(X, (4, 1), -1e-9), Y, {}, r"row 4: values span \[-1e-09"),
        (X, changed(Y, 11, 7), {}, r"row 11: label 7, expected 0..3 \(4 different labels\)"),
        (X, changed(Y, 11, -1), {}, r"row 11: label -1, expected 0"),
        (X, Y + 1, {}, r"row 2: label 3, expected 0..2"),
        (X, Y, {"classes": 2}, r"row 2: label 2, expected 0..1$"),
        (X, np.zeros(30, int), {}, r"every label is 0; a task needs two classes"),
        (X[:6], Y[:6], {}, r"bad.npz: array 'x', row 0: 6 rows are too few.*nearest valid: 7"),
        (X, Y[:29], {}, r"array 'y' has shape \(29,\), expected \(30,\)"),
        (X, np.eye(3)[Y], {}, r"array 'y' has shape \(30, 3\).*argmax"),
        (X, Y + 0.5, {}, r"array 'y' has type float64, expected integers or text"),
        ((X * 9).astype(int), Y, {}, r"values of type int64 need a scale"),
        (X, Y, {"scale": "row"}, r"scale = 'row', expected one of none, column, all"),
        (np.where(X < 0.5, -1.7e308, 1.7e308), Y, {"scale": "all"}, r"more than a float64"),
        (X, np.array(["a", "b\n", "c"])[Y], {}, r"'b\\n' is no printable name"),
        (X, np.array(["a", "b", "c"])[Y], {"classes": 3}, r"labels are text, classes = 3"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_row_and_leave_nothing(tmp_path, x, y, options, message):
    source = npz_of(tmp_path, x=x, y=y)
    with pytest.raises(DataError, match=message):
        data.import_data(source, tmp_path / "out.h5", **options)
    assert os.listdir(tmp_path) == ["bad.npz"]


def test_labels_may_be_renumbered_on_request_only(tmp_path):
    source = npz_of(tmp_path, x=X, y=Y * 10 - 10)
    with pytest.raises(DataError, match="relabel"):
        data.import_data(source, tmp_path / "out.h5")
    data.import_data(source, tmp_path / "out.h5", relabel=True)
    mine = data.load(str(tmp_path / "out.h5"))
    assert mine.class_names == ("-10", "0", "10")
    np.testing.assert_array_equal(np.bincount(mine.y), [10, 10, 10])
    data.import_data(npz_of(tmp_path, x=X, y=Y), tmp_path / "more.h5", classes=5)
    assert data.load(str(tmp_path / "more.h5")).n_classes == 5


def test_memory_is_a_few_blocks_whatever_the_size(tmp_path, monkeypatch):
    """A source of 48 blocks, read, scaled, shuffled and written; blocks are counted, peak memory measured."""
    monkeypatch.setattr(base, "BLOCK_BYTES", 1 << 18)
    rows, features = 48 * 64, 4096
    source = tmp_path / "big.h5"
    with h5py.File(source, "w") as file:
        x = file.create_dataset("x", (rows, features), np.uint8)
        for lo in range(0, rows, 64):
            x[lo : lo + 64] = lo // 64
        file["y"] = np.arange(rows) % 2
    sizes = []
    put = user_writer.Writer.put

    def counted(self, positions, block):
        sizes.append(block.nbytes)
        put(self, positions, block)

    monkeypatch.setattr(user_writer.Writer, "put", counted)
    tracemalloc.start()
    try:
        data.import_data(source, tmp_path / "big_out.h5")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [1 << 18] * 48
    assert peak < 8 * (1 << 18) + 200 * rows + (1 << 20)
    assert peak < rows * features / 3  # far from the whole
    with data.UserFile(tmp_path / "big_out.h5") as file:
        pieces = [block.nbytes for _, block in file.blocks(0, rows)]
    assert max(pieces) == 1 << 18


def test_too_long_a_text_names_the_way_out(text, monkeypatch):
    monkeypatch.setattr(user_file, "MAX_TEXT_BYTES", 100)
    with pytest.raises(DataError, match=r"needs 0.0 GiB.*text.h5\?rows=6,"):
        data.load_text(str(text))
    assert data.load_text(f"{text}?rows=6").tokens.size == 24


def test_a_full_disk_is_noticed_before_and_during(made, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(importing.shutil, "disk_usage", lambda p: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"out.h5 needs 960 bytes, 1000 are free"):
        data.import_data(made.path, tmp_path / "out.h5")
    monkeypatch.undo()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"cannot write .*out.h5: No space left"):
        data.import_data(made.path, tmp_path / "out.h5")
    assert os.listdir(tmp_path) == ["plain.npz"]


def test_nothing_is_overwritten(made, imported):
    before = imported.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        data.import_data(made.path, imported)
    assert imported.read_bytes() == before


@pytest.mark.parametrize("kind", ["rows", "text"])
def test_no_damage_goes_unnoticed(imported, text, kind):
    path = imported if kind == "rows" else text
    load = data.load if kind == "rows" else data.load_text
    whole, good = path.read_bytes(), load(str(path))
    refused = 0
    for seed in range(2):
        for content in data_files.damaged(whole, seed):
            path.write_bytes(content)
            user_file._cached.cache_clear()
            try:
                again = load(str(path))
            except DataError as error:
                refused += 1
                assert path.name in str(error)
            else:  # white space of the first line
                assert content[512:] == whole[512:]
                assert json.loads(content[:512]) == json.loads(whole[:512])
                np.testing.assert_array_equal(again.ints, good.ints)
    assert refused > 230


def test_rows_are_checked_when_read_and_only_those(imported, monkeypatch):
    monkeypatch.setattr(base, "BLOCK_BYTES", 24 * 4)
    small = imported.with_name("small.h5")
    data.import_data(imported.with_name("plain.npz"), small)
    with h5py.File(small) as file:
        at = (
            file["x"].id.get_offset() + 24 * 26
        )  # a row of train that 4 rows of each split leave out
    content = bytearray(small.read_bytes())
    content[at] ^= 1
    small.write_bytes(content)
    with pytest.raises(DataError, match=r"small.h5 is damaged: rows 24..27, wrong checksum"):
        data.load(str(small))
    assert data.load(f"{small}?rows=4").rows == 16
    with pytest.raises(DataError, match=r"rows 24..27"):
        data.info(small)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.h5", "cannot read missing.h5: No such file"),
        ("a/b", "cannot read a/b: No such file"),
        (".", "unknown data set '.'"),
        ("./", ". is not a regular file"),
        ("plain.h5?rows=0", "rows = 0, expected a positive"),
        ("plain.h5?rows=many", "rows = many"),
        ("plain.h5?rows=-1", "rows = -1"),
        (
            "plain.h5",
            "plain.h5 is an HDF5 file, but not one of lopt's; `lopt data import` makes one",
        ),
        ("run.h5", "run.h5 is a run file, expected a data file"),
        ("empty.h5", "empty.h5 is empty"),
        ("text.h5", "text.h5 holds text, expected rows; use lopt.data.load_text"),
        ("newer.h5", "newer.h5 has schema 9"),
    ],
)
def test_names_that_are_no_data_file(tmp_path, text, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    data_files.write_hdf5(tmp_path)
    (tmp_path / "empty.h5").touch()
    line = {"lopt": "run", "schema": 1, "sha256": "", "bytes": None}
    (tmp_path / "run.h5").write_bytes(json.dumps(line).encode().ljust(600))
    line = {"lopt": "data", "schema": 9, "sha256": "", "size": 600, "start": 512, "length": 0}
    (tmp_path / "newer.h5").write_bytes(json.dumps(line).encode().ljust(600))
    with pytest.raises(DataError) as caught:
        data.load(name)
    assert message in str(caught.value)


def test_a_changed_file_is_read_anew(made, imported, tmp_path):
    first = data.load(str(imported))
    imported.unlink()
    data.import_data(made.path, imported, scale="all")
    again = data.load(str(imported))
    assert again is not first
    assert again.floats.max() == 1


def test_the_command(made, tmp_path):
    out = tmp_path / "c.h5"
    done = CliRunner().invoke(main, ["data", "import", str(made.path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "examples      40 of 3x4x2, bytes / 255" in done.output
    assert "train         28 rows" in done.output
    done = CliRunner().invoke(main, ["data", "info", str(out)])
    assert done.exit_code == 0
    assert "sound" in done.output and "plain.npz" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "z"], "--option z: expected NAME=VALUE"),
        (["-o", "X=x"], "unknown option of npz 'X' (valid: x, x_test,"),
        (["-o", "x=xx"], "unknown array 'xx'; did you mean 'x'"),
        (["--format", "npy"], "unknown format 'npy'; did you mean 'npz'"),
        (["--format", "idx"], "starts with 50 4b 03 04, which is no IDX file"),
    ],
)
def test_wrong_usage_of_the_command(made, tmp_path, arguments, message):
    out = str(tmp_path / "c.h5")
    done = CliRunner().invoke(main, ["data", "import", str(made.path), "--out", out, *arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_page_describes_the_layout_and_every_option():
    page = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
    for f in user_file.FIELDS:
        types, axes = " or ".join(f.dtypes), ", ".join(f.axes)
        assert f"| {f.kind} | `{f.path}` | {types} | {axes} | {f.meaning} |" in page
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for format in data.readers.READERS:
        for option in data.readers.options_of(format):
            described = rows[
                "npz" if format == "hdf5" else "chars" if format == "words" else format
            ]
            assert f"`{option}`" in described
    for name in (*data.optional.DATASETS, *data.optional.TEXTS):
        assert f"`{name}`" in page
    assert f"one block of rows ({base.BLOCK_BYTES >> 20} MiB)" in page
    assert f"up to {user_file.IN_MEMORY_BYTES >> 20} MiB of float32" in page
    assert f"as int32: at most {user_file.MAX_TEXT_BYTES >> 30} GiB" in page
