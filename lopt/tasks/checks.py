"""Checks of task options that several families share.

Every message names the option, its value, and what would be valid.
"""

import math
from collections.abc import Callable
from typing import TypeVar

from lopt.data import Dataset, Text, load, load_text
from lopt.errors import DataError, TaskError

T = TypeVar("T")


def check_integer(option: str, value: object, lowest: int, highest: int | None = None) -> None:
    """Refuse what is not an integer of lowest..highest.

    Raises:
        TaskError: as said.
    """
    span = f"at least {lowest}" if highest is None else f"{lowest} to {highest}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TaskError(f"{option} = {value!r}, valid: an integer, {span}")
    nearest = max(value, lowest) if highest is None else min(max(value, lowest), highest)
    if value != nearest:
        raise TaskError(f"{option} = {value}, valid: {span}; nearest: {nearest}")


def check_keep(option: str, value: object) -> None:
    """Refuse what is no probability to keep something: a number above 0, at most 1.

    Raises:
        TaskError: as said.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= 1.0:
        raise TaskError(f"{option} = {value!r}, valid: a number above 0, at most 1; nearest: 1")


def check_batch_size(value: object, rows: int, data: str) -> None:
    """Refuse a batch that is empty or larger than the data set of that name.

    Raises:
        TaskError: as said.
    """
    check_integer("batch_size", value, 1)
    if value > rows:
        raise TaskError(f"batch_size = {value}, but {data} has {rows} rows; nearest: {rows}")


def checked_data(option: str, name: object) -> Dataset:
    """The data set of that name: embedded, generated, optional, or a file of the user's.

    Raises:
        TaskError: it is unknown or cannot be read; says which option asked for it.
    """
    return _loaded(load, option, name)


def checked_text(option: str, name: object) -> Text:
    """The text of that name: embedded, generated, optional, or a file of the user's.

    Raises:
        TaskError: it is unknown or cannot be read; says which option asked for it.
    """
    return _loaded(load_text, option, name)


def _loaded(loader: Callable[[str], T], option: str, name: object) -> T:
    if not isinstance(name, str):
        raise TaskError(f"{option} = {name!r}, valid: a string")
    try:
        return loader(name)
    except DataError as error:
        raise TaskError(f"{option}: {error}") from error


def check_widths(option: str, widths: object) -> None:
    """Refuse what is not a tuple of integers of at least 1; it may be empty.

    Raises:
        TaskError: as said.
    """
    if not isinstance(widths, tuple):
        raise TaskError(f"{option} = {widths!r}, valid: a list of integers; nearest: [{widths}]")
    for k, width in enumerate(widths):
        check_integer(f"{option}[{k}]", width, 1)


def check_not_negative(option: str, value: object) -> None:
    """Refuse what is not a finite number of at least 0.

    Raises:
        TaskError: as said.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TaskError(f"{option} = {value!r}, valid: a number, at least 0")
    if not 0.0 <= value < math.inf:
        raise TaskError(f"{option} = {value}, valid: a finite number, at least 0; nearest: 0")


def check_flag(option: str, value: object) -> None:
    """Refuse what is neither true nor false.

    Raises:
        TaskError: as said.
    """
    if not isinstance(value, bool):
        raise TaskError(f"{option} = {value!r}, valid: true or false")
