"""Readers by name of format: each is a function (path, options) -> Rows or Tokens."""

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lopt.data.readers import base
from lopt.errors import DataError, unknown

READERS: dict[str, Callable[..., base.Source]] = {}
TRUTH = {"yes": True, "true": True, "no": False, "false": False}


def register_reader(
    format: str,
) -> Callable[[Callable[..., base.Source]], Callable[..., base.Source]]:
    """Decorator: make a reader known.  Its keyword-only arguments (str, int or bool) are its options."""

    def add(reader: Callable[..., base.Source]) -> Callable[..., base.Source]:
        READERS[format] = reader
        return reader

    return add


def options_of(format: str) -> dict[str, inspect.Parameter]:
    """Options of a format, by name."""
    parameters = inspect.signature(READERS[format]).parameters
    return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def open_source(
    path: str | Path, format: str = "", options: Mapping[str, Any] | None = None
) -> base.Source:
    """Open somebody's data for reading; nothing but headers and labels is read yet.

    Args:
        format: a key of READERS; guessed from the content if empty.
        options: of the format; texts are converted to the type of the option.

    Raises:
        DataError: unknown format or option, or what the reader refuses; names the file and the place.
    """
    path = Path(path)
    format = format or guess_format(path)
    if format not in READERS:
        raise DataError(unknown("format", format, READERS))
    known, given = options_of(format), {}
    for name, value in (options or {}).items():
        if name not in known:
            raise DataError(unknown(f"option of {format}", name, known))
        given[name] = _converted(name, value, type(known[name].default))
    return READERS[format](path, **given)


def _converted(name: str, value: Any, wanted: type) -> Any:
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    text = str(value)
    if wanted is bool and text.lower() in TRUTH:
        return TRUTH[text.lower()]
    if wanted is int and text.lstrip("-").isascii() and text.lstrip("-").isdigit():
        return int(text)
    expected = {bool: "yes or no", int: "a whole number"}.get(wanted, "text")
    raise DataError(f"option {name} = {value!r}, expected {expected}")


def guess_format(path: Path) -> str:
    """Format of a file or folder by its first bytes or contents.

    Raises:
        DataError: not readable, or not clear; names the formats.
    """
    if path.is_dir():
        return _guess_folder(path)
    base.regular_file(path)
    with base.reading(path), base.open_stream(path) as file:
        head = file.read(8)
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    if head == b"\x89HDF\r\n\x1a\n":
        return "hdf5"
    if head[:2] == b"\x00\x00" and len(head) > 3 and 8 <= head[2] <= 14 and 1 <= head[3] <= 4:
        return "idx"
    stem = path.name.removesuffix(".gz")
    if stem.endswith((".csv", ".tsv")):
        return "csv"
    raise DataError(
        f"{base.shown(path)}: cannot tell its format; name it (valid: {', '.join(sorted(READERS))})"
    )


def _guess_folder(path: Path) -> str:
    with base.reading(path):
        entries = list(os.scandir(path))
    names = sorted(e.name for e in entries)
    if any(n.startswith("data_batch") and n.endswith(".bin") for n in names):
        return "cifar10"
    if any(n.startswith("train_data_batch") and n.endswith(".npz") for n in names):
        return "imagenet"
    if "train.bin" in names:
        return "cifar100"
    if any("images-idx" in n for n in names):
        return "idx"
    for name in names:
        if name.startswith("data_batch") or name in ("train", "test"):
            file = path / name
            if file.is_file():
                base.regular_file(file)  # says what to do about a pickle
    if any(e.is_dir() for e in entries):
        return "images"
    raise DataError(
        f"{base.shown(path)}: no folder of images by class, IDX, CIFAR binary or downsampled ImageNet files; "
        f"it holds {', '.join(map(base.shown, names[:4])) or 'nothing'}"
    )
