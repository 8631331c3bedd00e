"""Bad input, format by format: wrong magic, cut off, not finite, labels out of range, one class, too few rows.

Every refusal names the file and, where there is one, the row.
"""

import h5py
import numpy as np
import pytest
from helpers import data_files

from lopt import data
from lopt.errors import DataError, TaskError
from lopt.tasks import task

ROWS = 30
X, Y = np.linspace(0, 1, 2 * ROWS).reshape(ROWS, 2), np.arange(ROWS) % 3


def write_npz(folder, x, y):
    np.savez(folder / "a.npz", x=x, y=y)
    return folder / "a.npz", "npz"


def write_hdf5(folder, x, y):
    with h5py.File(folder / "a.h5", "w") as file:
        file["x"], file["y"] = x, y
    return folder / "a.h5", "hdf5"


def write_idx(folder, x, y):
    images = folder / "a-images-idx3-ubyte"
    images.write_bytes(data_files.idx_bytes(x.astype(np.float32), 13))
    (folder / "a-labels-idx1-ubyte").write_bytes(data_files.idx_bytes(y.astype(np.int32), 12))
    return images, "idx"


def write_csv(folder, x, y):
    lines = [f"{a},{b},{k}" for (a, b), k in zip(x.tolist(), y.tolist(), strict=True)]
    (folder / "a.csv").write_text("\n".join(["a,b,kind", *lines]))
    return folder / "a.csv", "csv"


def write_cifar10(folder, x, y):
    pictures = np.zeros((len(y), 32, 32, 3), np.uint8)
    (folder / "data_batch_1.bin").write_bytes(data_files.cifar_bytes(pictures, y % 256))
    return folder / "data_batch_1.bin", "cifar10"


WRITERS = (write_npz, write_hdf5, write_idx, write_csv, write_cifar10)
FLOATS = WRITERS[:4]  # CIFAR has bytes, all of them good


def changed(array, at, value):
    array = array.copy()
    array[at] = value
    return array


def refusal(folder, write, x, y) -> str:
    """Why an import is refused; it leaves nothing behind."""
    path, format = write(folder, x, y)
    with pytest.raises(DataError) as caught:
        data.import_data(path, folder / "out.h5", format)
    assert not (folder / "out.h5").exists()
    message = str(caught.value)
    assert str(path) in message
    return message


@pytest.mark.parametrize("write", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_by_its_row(tmp_path, write, value):
    message = refusal(tmp_path, write, changed(X, (17, 1), value), Y)
    place = "line 19, column b" if write is write_csv else "row 17: value 1"
    assert place in message
    assert str(value) in message


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("label", [17, -1])
def test_labels_out_of_range_are_named_by_their_row(tmp_path, write, label):
    message = refusal(tmp_path, write, X, changed(Y, 11, label))
    assert (
        f"row 11: label {label % 256 if write is write_cifar10 else label}, expected 0" in message
    )


@pytest.mark.parametrize("write", WRITERS)
def test_a_single_class_is_refused(tmp_path, write):
    message = refusal(tmp_path, write, X, 0 * Y)
    assert "row 0: every label is 0; a task needs two classes" in message


@pytest.mark.parametrize("write", WRITERS)
def test_too_few_rows_are_refused(tmp_path, write):
    assert "6 rows are too few for four splits; nearest valid: 7" in refusal(
        tmp_path, write, X[:6], Y[:6]
    )


@pytest.mark.parametrize("write", [w for w in WRITERS if w is not write_csv])
def test_wrong_first_bytes_are_refused(tmp_path, write):
    """... of all formats that have some of their own; a table begins with any text."""
    path, format = write(tmp_path, X, Y)
    content = path.read_bytes()
    for start in (b"XXXX", bytes(4), content[:4][::-1]):
        path.write_bytes(start + content[4:])
        if start == content[:4] or (write is write_cifar10 and start[0] < 10):
            continue  # CIFAR begins with a label
        with pytest.raises(DataError, match=path.name):
            data.import_data(path, tmp_path / "out.h5", format)


@pytest.mark.parametrize("write", WRITERS)
def test_cut_off_files_are_refused(tmp_path, write):
    """At any place; records of CIFAR and lines of a table only where the cut leaves none whole."""
    path, format = write(tmp_path, X, Y)
    content = path.read_bytes()
    ends = [len(content) * k // 17 for k in range(17)] + [len(content) - 1]
    if write is write_csv:
        ends = [content.rindex(b",") + 1, content.rindex(b",") - 1]
    for end in ends:
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=path.name):
            data.import_data(path, tmp_path / "out.h5", format)


@pytest.mark.parametrize("write", WRITERS)
def test_a_batch_beyond_the_rows_is_refused_by_the_task(tmp_path, write):
    """Good data, the control of all tests here, but fewer rows than a batch."""
    path, format = write(tmp_path, X, Y)
    data.import_data(path, tmp_path / "out.h5", format)
    with pytest.raises(
        TaskError, match=f"batch_size = 31, but {tmp_path}/out.h5 has 30 rows; nearest: 30"
    ):
        task("logistic", data=str(tmp_path / "out.h5"), batch_size=31)
    assert task("logistic", data=str(tmp_path / "out.h5"), batch_size=30).dataset.rows == 30
