"""Task families, one file each.  A new family: its file here, one import line below, and its tests come by themselves."""

import dataclasses
import tomllib
from typing import Any

from lopt.errors import TaskError, unknown
from lopt.task import SPLITS, TASKS, Task, task
from lopt.tasks import functions2d, logistic, mlp, quadratic  # importing registers

__all__ = [
    "TASKS",
    "describe_families",
    "describe_task",
    "functions2d",
    "logistic",
    "mlp",
    "parse_task",
    "parse_task_spec",
    "quadratic",
    "sample_task",
    "task",
]


def parse_task_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Family and options of a spec such as `mlp:hidden=[64,32],activation="tanh"`; bare words count as strings.

    Raises:
        TaskError: the text cannot be read.
    """
    family, _, rest = text.strip().partition(":")
    options: dict[str, Any] = {}
    for item in _split_outside_brackets(rest):
        key, equals, value = item.partition("=")
        if not equals:
            raise TaskError(f"task spec {text!r}: {item!r} is not key=value")
        options[key.strip()] = parse_value(value.strip())
    return family.strip(), options


def parse_task(text: str) -> Task:
    """The task a spec names, see `parse_task_spec`."""
    family, options = parse_task_spec(text)
    return task(family, **options)


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself if it is none."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _split_outside_brackets(text: str) -> list[str]:
    items, depth = [""], 0
    for c in text:
        depth += (c == "[") - (c == "]")
        if c == "," and depth == 0:
            items.append("")
        else:
            items[-1] += c
    return [i for i in items if i.strip()]


def sample_task(family: str, seed: int) -> Task:
    """A random task of a family, a pure function of the seed, by the family's published sampler.

    Raises:
        TaskError: unknown family, or one without a sampler.
    """
    samplers = {name: cls for name, cls in TASKS.items() if hasattr(cls, "sample")}
    if family not in samplers:
        raise TaskError(unknown("task family with a sampler", family, samplers))
    return samplers[family].sample(seed)


def describe_families() -> str:
    """Families, what they are, and their options with defaults."""
    lines = []
    for name, cls in sorted(TASKS.items()):
        lines.append(f"{name:12s} {(cls.__doc__ or '').strip().splitlines()[0]}")
        options = [f"{f.name}={f.default!r}" for f in dataclasses.fields(cls) if f.init]
        lines += [f"{'':12s}   {option}" for option in options]
    return "\n".join(lines)


def describe_task(spec: str) -> str:
    """Parameters, splits and the lowest known loss of one task."""
    t = parse_task(spec)
    lines = [t.name, f"parameters   {t.layout.size} in {len(t.layout)} tensors"]
    lines += [f"  {name:10s} {shape}" for name, shape in t.layout]
    lines.append(f"batch size   {t.batch_size}")
    lines += [f"{s:12s} rows {lo}..{hi - 1}" for s, (lo, hi) in zip(SPLITS, t.splits, strict=True)]
    lines.append(f"lowest loss  {t.lowest_loss}")
    return "\n".join(lines)
