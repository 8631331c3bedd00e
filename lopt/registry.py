"""Building a registered, named thing from options, with errors that name the nearest valid name."""

import dataclasses
import functools
import json
import os
import re
import typing
from collections.abc import Mapping
from typing import Any, TypedDict, TypeVar

import msgspec
import numpy as np

from lopt.errors import LoptError, UsageError, located, unknown

T = TypeVar("T")
TYPES = {  # msgspec's names of them
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "array": "a list",
    "object": "a table",
}


def build(
    registry: Mapping[str, type[T]],
    kind: str,
    error: type[UsageError],
    name: str,
    options: dict[str, Any],
) -> T:
    """Instance of the frozen dataclass `registry[name]` with those options.

    Raises:
        error: unknown name, or options refused as by `instance`.
    """
    if name not in registry:
        raise error(unknown(kind, name, registry))
    return instance(registry[name], f"{kind} {name!r}", error, options)


def instance(cls: type[T], what: str, error: type[UsageError], options: Mapping[str, Any]) -> T:
    """Instance of a frozen dataclass with those options.

    Lists (as TOML and JSON have them) become tuples, so that the instance stays hashable; NumPy's numbers and arrays
    become Python's, and paths text.

    Raises:
        error: unknown option, a value that the class refuses in its `__post_init__`, or one that is not of the type its
            field is annotated with.
    """
    fields = _fields(cls)
    for key in options:
        if key not in fields.__annotations__:
            raise error(unknown(f"option of {what}:", key, fields.__annotations__))
    values = {k: _frozen(v) for k, v in options.items()}
    try:
        made = cls(**values)
    except LoptError:  # the class knows more about its options than their types
        raise
    except Exception:  # it stumbled over a type
        _check_types(fields, what, error, values)
        raise
    _check_types(fields, what, error, values)
    return made


def _check_types(fields: Any, what: str, error: type[UsageError], values: dict[str, Any]) -> None:
    try:
        msgspec.convert(values, fields)
    except msgspec.ValidationError as wrong:
        raise error(f"{what}: {_wrong_type(str(wrong), values)}") from wrong


def _wrong_type(message: str, values: dict[str, Any]) -> str:
    """msgspec's text on a wrong type, with option and value."""
    what, (option, *inside), value = located(message, values)
    expected, rest = re.match(r"Expected `([^`]+)`(.*), got ", what).groups()
    words = " or ".join(TYPES.get(name, name) for name in expected.split(" | "))
    nearest = f"; nearest: [{value!r}]" if expected == "array" and np.isscalar(value) else ""
    place = option + "".join(f"[{key}]" for key in inside)
    return f"{place} = {value!r}, valid: {words}{rest}{nearest}"


@functools.cache
def _fields(cls: type) -> Any:
    """The options of a dataclass and their types, as msgspec checks them."""
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    return TypedDict(cls.__name__, {n: hints[n] for n in names}, total=False)


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def spec(name: str, options: Mapping[str, Any]) -> str:
    """`name:key=value,...`, values as TOML has them; strings without special characters go bare."""
    items = ",".join(f"{k}={_spec_value(v)}" for k, v in options.items())
    return f"{name}:{items}" if items else name


def _spec_value(value: Any) -> str:
    bare = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w/.]*", value)
    if bare and value not in ("true", "false", "inf", "nan"):
        return value
    return json.dumps(value)
