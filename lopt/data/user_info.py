"""A short text about a file of imported data."""

from pathlib import Path

import numpy as np

from lopt.data.readers.base import shown
from lopt.data.user_file import UserFile
from lopt.task import SPLITS


def info(path: str | Path) -> str:
    """What a file of the user's holds, a few lines; reads and verifies all of it.

    Raises:
        DataError: as `UserFile`, or rows are damaged.
    """
    with UserFile(path) as file:
        for _ in file.blocks(0, file.rows):
            pass
        size = Path(path).stat().st_size
        lines = [f"{shown(path)}: data file, {size:,} bytes, sound"]
        lines += _rows(file) if file.kind == "rows" else _text(file)
        origin = file.provenance
        options = ", ".join(f"{k}={v}" for k, v in origin["options"].items()) or "none"
        lines += [
            f"origin        {origin['source']}, format {origin['format']}, options {options}, "
            f"{origin['date_utc']}, lopt {origin['lopt']}"
        ]
        lines += [
            f"  {f['sha256'][:16]}  {f['bytes']:>12,} bytes  {f['name']}" for f in origin["files"]
        ]
    return "\n".join(lines)


def _rows(file: UserFile) -> list[str]:
    shape, values = "x".join(map(str, file.shape[1:])), "bytes / 255"
    if file.dtype != np.uint8:
        values = f"floats in [0, 1], scale {file.provenance['scale']}"
    lines = [f"examples      {file.rows:,} of {shape}, {values}"]
    lines += [f"classes       {len(file.names)}: {_few(file.names)}"]
    for name, (lo, hi) in zip(SPLITS, file.splits, strict=True):
        counts = np.bincount(file.labels[lo:hi], minlength=len(file.names))
        lines.append(f"{name:<14}{hi - lo:,} rows, {counts.min()}..{counts.max()} of a class")
    return lines


def _text(file: UserFile) -> list[str]:
    lines = [f"text          {file.rows:,} tokens"]
    lines += [
        f"vocabulary    {len(file.names)}: {_few(file.names)}"
        if file.names
        else "tokens        bytes"
    ]
    for name, (lo, hi) in zip(SPLITS, file.splits, strict=True):
        lines.append(f"{name:<14}{hi - lo:,} tokens")
    return lines


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(ascii(n)[1:-1] for n in names[:6]) + (", ..." if len(names) > 6 else "")
