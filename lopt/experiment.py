"""What experiments share: their command lines, and the verdict on what was found.

An experiment is a folder with one question: config.toml holds its numbers, expected.toml what must be found, run.py
answers, plot.py draws the answer from the files of run.py.
"""

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lopt.comparison import read
from lopt.config import Section


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


def toml(path: Path) -> dict[str, Any]:
    """Content of a file of numbers that has no section of its own."""
    return tomllib.loads(path.read_text())


def verdict(missed: Sequence[str]) -> int:
    """Print that all is as expected, or what is not; the exit code: 1 if something is not."""
    print("\n".join(["NOT as expected:", *missed]) if missed else "as expected")
    return 1 if missed else 0
