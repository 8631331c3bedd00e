"""Building a registered, named thing from options, with errors that name the nearest valid name."""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from lopt.errors import UsageError, unknown

T = TypeVar("T")


def build(
    registry: Mapping[str, type[T]],
    kind: str,
    error: type[UsageError],
    name: str,
    options: dict[str, Any],
) -> T:
    """Instance of the frozen dataclass `registry[name]` with those options.

    Lists (as TOML and JSON have them) become tuples, so that the instance stays hashable.

    Raises:
        error: unknown name or option, or a value the class refuses in its `__post_init__`.
    """
    if name not in registry:
        raise error(unknown(kind, name, registry))
    cls = registry[name]
    valid = [f.name for f in dataclasses.fields(cls) if f.init]
    for key in options:
        if key not in valid:
            raise error(unknown(f"option of {kind} {name!r}:", key, valid))
    return cls(**{k: _frozen(v) for k, v in options.items()})


def _frozen(value: Any) -> Any:
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
