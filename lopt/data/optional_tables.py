"""Real tables that come with other packages, for logistic and softmax regression; see `lopt.data.optional`.

Features are scaled to [0, 1] by their smallest and largest value in train, as `import_data` does with tables.
"""

import csv
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lopt.data.datasets import Dataset
from lopt.data.optional import DATASETS, expect, in_memory, package_folder
from lopt.data.r_objects import read_rda
from lopt.data.readers.base import Rows, block_rows, reading, shown

MLBENCH = Path("/usr/lib/R/site-library/mlbench/data")
# Name, first 16 digits of the file's SHA-256; file in scikit-learn.
SKLEARN = {
    "iris": ("iris.csv", "f13ffa8fdd56fd8e"),
    "wine": ("wine_data.csv", "10e8a802908b34f8"),
    "breast_cancer": ("breast_cancer.csv", "fed3eb72d0575ef6"),
}
# ... file and object in mlbench, column of the classes.
R_TABLES = {
    "letter": ("LetterRecognition", "967a1a3e10b548d7", "lettr"),
    "satellite": ("Satellite", "29f8cf9bb1bc51b7", "classes"),
    "shuttle": ("Shuttle", "5b1db218b76a47c8", "Class"),
    "dna": ("DNA", "df941ad89a49f705", "Class"),
}


def from_sklearn(name: str, folder: Path | None = None) -> Dataset:
    """A table of scikit-learn: "iris" 150 x 4, 3 classes; "wine" 178 x 13, 3; "breast_cancer" 569 x 30, 2.

    Raises:
        DataError: scikit-learn is not installed, or a version with other contents.
    """
    file, pin = SKLEARN[name]
    path = (folder or package_folder("sklearn") / "datasets" / "data") / file
    expect(path, pin, 'pip install "lopt[tables]"')
    with reading(path), open(path, newline="") as stream:
        rows, features, *names = next(lines := csv.reader(stream))
        table = np.array(list(lines), np.float64).reshape(int(rows), int(features) + 1)
    return _table(name, path, table[:, :-1], np.array(names)[table[:, -1].astype(int)])


def from_mlbench(name: str, folder: Path = MLBENCH) -> Dataset:
    """A table of R's mlbench: "letter" 20000 x 16, 26 classes; "satellite" 6435 x 36, 6; "shuttle" 58000 x 9, 7;
    "dna" 3186 x 180, 3.

    Raises:
        DataError: the Debian package r-cran-mlbench is not installed, or another version.
    """
    file, pin, target = R_TABLES[name]
    path = folder / f"{file}.rda"
    expect(path, pin, "apt install r-cran-mlbench")
    with reading(path):
        frame = read_rda(path.read_bytes())[file]
        features = [frame.column(n).astype(np.float64) for n in frame.names if n != target]
        return _table(name, path, np.stack(features, axis=1), frame.column(target))


def _table(name: str, path: Path, x: np.ndarray, labels: np.ndarray) -> Dataset:
    step = block_rows(x.itemsize * x.shape[1])

    def blocks():
        return (x[lo : lo + step] for lo in range(0, len(x), step))

    source = Rows((path,), x.shape[1:], x.dtype, labels, blocks, ((0, shown(path)),))
    return in_memory(name, source, scale="column")


def _cached(make: Callable[[str], Dataset], name: str) -> Callable[[], Dataset]:
    return functools.cache(functools.partial(make, name))


DATASETS.update({name: _cached(from_sklearn, name) for name in SKLEARN})
DATASETS.update({name: _cached(from_mlbench, name) for name in R_TABLES})
