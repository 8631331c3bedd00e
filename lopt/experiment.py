"""What experiments share: their command lines, and the verdict on what was found.

An experiment is a folder with one question: config.toml holds its numbers, expected.toml what must be found, run.py
answers, plot.py draws the answer from the files of run.py: without an argument from those that are committed in the
folder's results/.
"""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lopt.comparison import read
from lopt.config import Section

DROPPED = 11  # of 23 bits of mantissa


def command_line(doc: str) -> argparse.ArgumentParser:
    """A parser of `--out DIR`, the folder of results; its description is the first line of a docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    return parser


def begin(
    parser: argparse.ArgumentParser, here: Path, kind: type[Section], name: str = "config.toml"
) -> tuple[argparse.Namespace, Any]:
    """Parse, with `--config FILE` (that of a name in the folder `here` if omitted); read it, then make the folder of results.

    Returns: arguments, and the configuration as a section of that kind.

    Raises:
        ConfigError: as `lopt.comparison.read`.
    """
    parser.add_argument("--config", type=Path, default=here / name)
    args = parser.parse_args()
    config = read(args.config, kind)
    args.out.mkdir(parents=True, exist_ok=True)
    return args, config


def path_argument(doc: str, name: str) -> Path:
    """The one argument of a program that draws what a file or folder holds."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument(name, type=Path)
    return getattr(parser.parse_args(), name)


def results_and_picture(doc: str, here: Path, results: str, picture: str) -> tuple[Path, Path]:
    """What plot.py of the folder `here` draws, a file or a folder, and the picture it makes.

    Without an argument: the committed results, into docs/.  With one: that of a run, and the picture there.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", help=f"default: the committed {results}")
    given = parser.parse_args().results
    if given is None:
        return here / results, here.parents[1] / "docs" / picture
    return given, (given if given.is_dir() else given.parent) / picture


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 to the nearest number of 12 bits of mantissa (1.2e-4 relative), to be packed; infinities and NaNs stay."""
    bits = values.view(np.uint32)
    near = (bits + np.uint32(1 << (DROPPED - 1))) & np.uint32(0xFFFFFFFF << DROPPED & 0xFFFFFFFF)
    return np.where(np.isfinite(values), near.view(np.float32), values)


def save_results(path: Path, arrays: Mapping[str, Any], **attributes: Any) -> None:
    """Numbers of an experiment in one HDF5 file, packed; all or nothing.  Names of arrays may be paths."""
    new = path.with_suffix(".new")
    with h5py.File(new, "w") as file:
        file.attrs.update(attributes)
        for name, values in arrays.items():
            packing = {"compression": "gzip", "shuffle": True} if np.size(values) > 100 else {}
            file.create_dataset(name, data=values, **packing)
    new.replace(path)


def toml(path: Path) -> dict[str, Any]:
    """Content of a file of numbers that has no section of its own."""
    return tomllib.loads(path.read_text())


def verdict(missed: Sequence[str]) -> int:
    """Print that all is as expected, or what is not; the exit code: 1 if something is not."""
    print("\n".join(["NOT as expected:", *missed]) if missed else "as expected")
    return 1 if missed else 0
