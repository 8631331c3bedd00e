"""Files of every format a reader takes, written byte by byte where the format allows, without the readers' help."""

import csv
import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

ROWS = 40


class Made(NamedTuple):
    """A source on disk, what must be said to read it, and what it must give in its own order."""

    path: Path
    format: str
    options: dict[str, str]
    x: np.ndarray  # (rows, *shape) as stored in the source
    y: np.ndarray  # class of each row
    scale: str = ""


def examples(shape: tuple[int, ...], rows: int = ROWS, classes: int = 4, top: int = 256):
    """Bytes and labels, every class in use, in no order."""
    r = np.random.default_rng(len(shape))
    return r.integers(0, top, (rows, *shape), np.uint8), r.permutation(np.arange(rows) % classes)


def idx_bytes(array: np.ndarray, code: int) -> bytes:
    """An IDX file: two zeros, type code, number of axes, lengths, values; all big-endian."""
    head = bytes((0, 0, code, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(folder: Path, pack: bool = False) -> Made:
    x, y = examples((5, 6))
    write = (
        (lambda p, b: Path(f"{p}.gz").write_bytes(gzip.compress(b, mtime=0)))
        if pack
        else Path.write_bytes
    )
    write(folder / "some-images-idx3-ubyte", idx_bytes(x, 8))
    write(folder / "some-labels-idx1-ubyte", idx_bytes(y.astype(np.uint8), 8))
    name = "some-images-idx3-ubyte" + (".gz" if pack else "")
    return Made(folder / name, "idx", {}, x[..., None], y)


def write_idx_packed(folder: Path) -> Made:
    return write_idx(folder, pack=True)


def cifar_bytes(x: np.ndarray, *labels: np.ndarray) -> bytes:
    """Records: labels, then the red, green and blue planes of each picture."""
    records = []
    for i, picture in enumerate(x):
        head = bytes(int(column[i]) for column in labels)
        records.append(head + b"".join(picture[:, :, c].tobytes() for c in range(3)))
    return b"".join(records)


def write_cifar10(folder: Path) -> Made:
    x, y = examples((32, 32, 3), 20, 10)
    (folder / "data_batch_1.bin").write_bytes(cifar_bytes(x, y))
    return Made(folder / "data_batch_1.bin", "cifar10", {}, x, y)


def write_cifar100(folder: Path) -> Made:
    x, y = examples((32, 32, 3), 40, 20)
    fine = y * 5
    (folder / "train.bin").write_bytes(cifar_bytes(x, y, fine))
    return Made(folder / "train.bin", "cifar100", {"labels": "coarse"}, x, y)


def imagenet_archive(path: Path, x: np.ndarray, labels: np.ndarray, pack: bool = False) -> None:
    """The red, green and blue planes of each picture in a row of `data`; `labels` from 1; `mean`."""
    data = np.stack([[picture[:, :, c].ravel() for c in range(3)] for picture in x])
    save = np.savez_compressed if pack else np.savez
    save(path, data=data.reshape(len(x), -1), labels=labels, mean=data.mean(axis=0).ravel())


def write_imagenet(folder: Path) -> Made:
    x, y = examples((4, 4, 3), 20, 10)
    imagenet_archive(folder / "train_data_batch_1.npz", x, y + 1)
    return Made(folder / "train_data_batch_1.npz", "imagenet", {}, x, y)


def write_npz(folder: Path) -> Made:
    x, y = examples((3, 4, 2))
    np.savez(folder / "plain.npz", x=x, y=y)
    return Made(folder / "plain.npz", "npz", {}, x, y)


def write_npz_packed(folder: Path) -> Made:
    x, y = examples((7,))
    np.savez_compressed(folder / "packed.npz", inputs=x.astype(np.float32) / 255, labels=y)
    options = {"x": "inputs", "y": "labels"}
    return Made(folder / "packed.npz", "npz", options, x.astype(np.float32) / 255, y)


def write_hdf5(folder: Path) -> Made:
    x, y = examples((6, 5, 3))
    with h5py.File(folder / "plain.h5", "w") as file:
        file["x"], file["y"] = x, y
    return Made(folder / "plain.h5", "hdf5", {}, x, y)


def write_hdf5_packed(folder: Path) -> Made:
    x, y = examples((9,))
    with h5py.File(folder / "packed.h5", "w", libver="latest") as file:
        file.create_dataset("a/x", data=x / 255, chunks=(7, 9), compression="gzip")
        file.create_dataset("a/y", data=y.astype(np.int16)[:, None], chunks=(11, 1), shuffle=True)
    return Made(folder / "packed.h5", "hdf5", {"x": "a/x", "y": "/a/y"}, x / 255, y)


def write_csv(folder: Path) -> Made:
    x, y = examples((3,))
    names = ("oak", "ash", "elm, wych", "yew")
    with open(folder / "trees.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["a", "kind", "b", "c"])
        for row, label in zip(x.tolist(), y.tolist(), strict=True):
            table.writerow([row[0], names[label], row[1] / 7, -row[2]])
    values = x * np.array([1, 1 / 7, -1])
    order = [names.index(n) for n in sorted(names)]
    return Made(
        folder / "trees.csv", "csv", {"target": "kind"}, values, np.argsort(order)[y], "column"
    )


def write_csv_packed(folder: Path) -> Made:
    x, y = examples((4,), top=17)
    lines = [
        ";".join(map(str, [*row, label])) for row, label in zip(x.tolist(), y.tolist(), strict=True)
    ]
    packed = gzip.compress("\n".join(lines).encode(), mtime=0)
    (folder / "digits.csv.gz").write_bytes(packed)
    options = {"header": "no", "delimiter": ";"}
    return Made(folder / "digits.csv.gz", "csv", options, x, y, "all")


def write_images(folder: Path) -> Made:
    import PIL.Image

    x, y = examples((6, 7, 3), 20, 2)
    root = folder / "pictures"
    order = np.argsort(y, kind="stable")
    for k, i in enumerate(order.tolist()):
        (root / f"class {y[i]}").mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(x[i]).save(root / f"class {y[i]}" / f"{k:03}.png")
    return Made(root, "images", {}, x[order], y[order])


WRITERS: dict[str, Callable[[Path], Made]] = {
    "idx": write_idx,
    "idx_packed": write_idx_packed,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "imagenet": write_imagenet,
    "npz": write_npz,
    "npz_packed": write_npz_packed,
    "hdf5": write_hdf5,
    "hdf5_packed": write_hdf5_packed,
    "csv": write_csv,
    "csv_packed": write_csv_packed,
    "images": write_images,
}


def damaged(data: bytes, seed: int, truncations: int = 30, flips: int = 100) -> Iterator[bytes]:
    """The same bytes cut off at even distances, and with one to four random bytes replaced."""
    r = np.random.default_rng(seed)
    for cut in np.linspace(0, len(data) - 1, min(truncations, len(data))).astype(int).tolist():
        yield data[:cut]
    for i in range(flips):
        # half of them in the first bytes, where headers are
        span = len(data) if i % 2 else min(len(data), 128)
        changed = bytearray(data)
        for at in r.integers(0, span, 1 + i % 4).tolist():
            changed[at] ^= int(r.integers(1, 256))
        yield bytes(changed)
