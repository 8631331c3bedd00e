"""Checkpoints: everything a resumed run needs, replaced atomically, the last two kept."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lopt.errors import StoreError
from lopt.store import container, schema

NEWEST, PREVIOUS = "checkpoint.h5", "checkpoint.prev.h5"
_ROOT = "/arrays/"


class Checkpoint(NamedTuple):
    """Named arrays as they were saved, bit for bit, what they belong to, and the file they came from."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    path: Path


def save_checkpoint(
    directory: str | Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> Path:
    """Write `checkpoint.h5`; the one before becomes `checkpoint.prev.h5`.

    Args:
        arrays: numeric arrays; a "/" in a name makes a group.
        meta: anything JSON can hold.

    At any moment of a kill or power failure there is a sound checkpoint if there was one before.

    Raises:
        StoreError: disk full or any other failure; the old checkpoints are intact.
    """
    newest, previous = Path(directory) / NEWEST, Path(directory) / PREVIOUS
    image = container.seal(
        "checkpoint", {"meta": dict(meta)}, {f"{_ROOT}{name}": a for name, a in arrays.items()}
    )
    temporary = container.write_temporary(newest, image)
    try:
        if _is_sound(newest):  # a damaged one must not push out the sound one before it
            os.replace(newest, previous)
        container.replace(temporary, newest)
    except OSError as error:
        raise container.write_failed(newest, error, temporary) from error
    return newest


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read one checkpoint file.

    Raises:
        StoreError: missing, empty, foreign, of another schema, truncated or damaged.
    """
    path = Path(path)
    with container.unsealed(path, "checkpoint") as file:
        meta = container.get_attributes(file, "checkpoint")["meta"]
        paths = schema.dataset_paths(file)
        arrays = {p.removeprefix(_ROOT): container.get_array(file, p) for p in paths}
    return Checkpoint(arrays, meta, path)


def load_checkpoint(directory: str | Path) -> Checkpoint:
    """The newest sound checkpoint of a run directory; warns when that is not the newest one.

    Raises:
        StoreError: there is none; says what is wrong with each file.
    """
    newest, previous = Path(directory) / NEWEST, Path(directory) / PREVIOUS
    try:
        return read_checkpoint(newest)
    except StoreError as error:
        try:
            found = read_checkpoint(previous)
        except StoreError as second:
            raise StoreError(f"no sound checkpoint in {directory}: {error}; {second}") from error
        warnings.warn(f"{error}; going on from {previous}", RuntimeWarning, stacklevel=2)
        return found


def _is_sound(path: Path) -> bool:
    try:
        with container.unsealed(path, "checkpoint"):
            return True
    except StoreError:
        return False
