"""The exception types a user of lopt meets.

Every message says what was wrong, the offending value, and the nearest valid one.  The command line turns a
`UsageError` into exit code 2 and any other `LoptError` into exit code 1, without a traceback.
"""

import difflib
import re
from collections.abc import Iterable
from typing import Any


class LoptError(Exception):
    """Base of all errors that lopt raises on purpose."""


class UsageError(LoptError):
    """The caller asked for something that does not exist or makes no sense (exit code 2)."""


class ConfigError(UsageError):
    """A configuration key or value is unknown, of the wrong type or out of range."""


class TaskError(UsageError):
    """A task cannot be built from the given options."""


class OptimizerError(UsageError):
    """An optimizer cannot be built from the given options, or was fed arrays that do not fit."""


class DataError(UsageError):
    """A data set is unknown or unreadable."""


class StoreError(LoptError):
    """A file is missing, damaged, foreign, of another schema, or could not be written."""


class CommError(LoptError):
    """The MPI environment and the MPI library disagree."""


class LostPairsError(LoptError):
    """More than half of the antithetic pairs of an outer step were lost."""


class DeviceError(LoptError):
    """The requested device is not available."""


def unknown(kind: str, name: object, valid: Iterable[str]) -> str:
    """Text for an unknown `name`: the nearest valid name first, then all of them."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (valid: {', '.join(names)})"


def located(message: str, tree: dict[str, Any]) -> tuple[str, list[str], Any]:
    """What msgspec says of a value that it refused, the keys that lead to it, and the value.

    Args:
        message: msgspec's: a text, then a path such as `$.tasks[0].weight`.
        tree: what was refused as a whole.
    """
    what, _, path = message.partition(" - at `$")
    keys = re.findall(r"[^.\[\]]+", path.rstrip("`"))
    value: Any = tree
    for key in keys:
        value = value[int(key) if isinstance(value, list | tuple) else key]
    return what, keys, value
