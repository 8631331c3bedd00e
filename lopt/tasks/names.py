"""Names of tasks: what a task is called on a command line, in a configuration and in a result file.

mlp                                      a family with its default options
mlp:hidden=[64,32],activation=tanh       ... with options of its own
mlp_seed7                                drawn by the family's published sampler
TwoD_Bowl10                              one of TaskSet's fixed tasks, see `lopt.tasks.fixed`
mlp_seed7+reparameterise=tensor,delay=2  any of them under an augmentation (see `lopt.augment`)
"""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from lopt.augment import augment as augmented
from lopt.errors import TaskError, unknown
from lopt.task import SPLITS, TASKS, Task
from lopt.task import task as family_task
from lopt.tasks.fixed import FIXED

_SAMPLED = re.compile(r"(\w+)_seed(\d+)")


def task(family: str, augment: Mapping[str, Any] | None = None, **options: Any) -> Task:
    """Build a task by family name, a sampled one by the name `FAMILY_seedN`, or one of TaskSet's fixed tasks by its name.

    `augment` holds options of `lopt.augment`.

    Raises:
        TaskError: unknown name or option, or a value the family refuses; names the nearest valid one.
    """
    if not isinstance(augment, Mapping | None):
        raise TaskError(f"augment = {augment!r}, valid: a table of options")
    sampled = _SAMPLED.fullmatch(family)
    if family in TASKS:
        found = family_task(family, **options)
    elif options and (sampled or family in FIXED):
        origin = "is fixed" if family in FIXED else "is drawn by its sampler"
        raise TaskError(f"task {family!r} {origin} and takes no options: {options}")
    elif family in FIXED:
        found = family_task(**FIXED[family])
    elif sampled:
        found = sample_task(sampled[1], int(sampled[2]))
    else:
        raise TaskError(_unknown_name(family))
    return augmented(found, **augment) if augment else found


def _unknown_name(name: str) -> str:
    """Text for an unknown name: a fixed task that is near, else the families."""
    near = difflib.get_close_matches(name, FIXED, n=1, cutoff=0.7)
    return (
        f"unknown fixed task {name!r}; did you mean {near[0]!r}?"
        if near
        else unknown("task family", name, TASKS)
    )


def parse_task(text: str) -> Task:
    """The task a spec names, see the module's docstring.

    Raises:
        TaskError: the text cannot be read, or no such task can be built.
    """
    name, options, augment = parse_task_spec(text)
    return task(name, augment, **options)


def parse_task_spec(text: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, options and augmentation of a spec; bare words count as strings.

    Raises:
        TaskError: the text cannot be read.
    """
    base, *augment = _split(text.strip(), "+")
    if len(augment) > 1:
        raise TaskError(f"task spec {text!r}: only one '+' can follow the options")
    name, _, rest = base.partition(":")
    return name.strip(), _parse_options(text, rest), _parse_options(text, "".join(augment))


def _parse_options(text: str, items: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in filter(str.strip, _split(items, ",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise TaskError(f"task spec {text!r}: {item!r} is not key=value")
        options[key.strip()] = parse_value(value.strip())
    return options


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself if it is none."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _split(text: str, separator: str) -> list[str]:
    """Pieces between separators that stand outside brackets and quotes."""
    pieces, depth, quoted = [""], 0, False
    for c in text:
        quoted ^= c == '"'
        depth += 0 if quoted else (c == "[") - (c == "]")
        if c == separator and depth == 0 and not quoted:
            pieces.append("")
        else:
            pieces[-1] += c
    return pieces


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
    """Parameters, what a gradient needs, splits and the lowest known loss of one task."""
    t = parse_task(spec)
    lines = [t.name, f"parameters   {t.layout.size:,} in {len(t.layout)} tensors"]
    lines += [f"  {name:10s} {shape}" for name, shape in t.layout]
    lines.append(f"batch size   {t.batch_size}")
    lines.append(f"activations  {t.activations(t.batch_size):,}")
    lines.append(f"memory       {t.memory:,} bytes of parameters, gradient, scratch")
    lines.append(f"operations   {t.operations:,.0f} of a loss and gradient, about")
    lines += [f"{s:12s} rows {lo}..{hi - 1}" for s, (lo, hi) in zip(SPLITS, t.splits, strict=True)]
    lines.append(f"lowest loss  {t.lowest_loss}")
    return "\n".join(lines)
