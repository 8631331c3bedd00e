"""The configuration of a meta-training run: frozen structs <-> TOML, with errors that name the key.

A number that a run depends on stands here, with its unit, and nowhere else.  Names of tasks and
optimizers are checked by the registries that own them, everything else here.
"""

import difflib
import math
import re
import tomllib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from lopt.errors import ConfigError, located, unknown

ESTIMATORS = ("full", "truncated", "pes", "gpes", "nres")
OBJECTIVES = ("loss", "log_loss")
DIFFERENCES = ("normalised", "clipped", "sign", "raw")
DIVERGED = ("drop", "clip")
SCHEDULES = ("constant", "cosine")
DEVICES = ("cpu", "cuda")

SHORT_KEYS = {"device": "train.device"}  # in overrides

# A resumed run may change how long it goes on and how often it saves, nothing else.
RESUMABLE_KEYS = (
    "train.outer_steps",
    "train.minutes",
    "train.checkpoint_minutes",
    "train.checkpoint_every",
)


# Ranges


def _demand(key: str, value: object, fine: bool, wanted: str) -> None:
    if not fine:
        raise ConfigError(f"{key} = {value!r}: must be {wanted}")


def _positive(key: str, value: float) -> None:
    _demand(key, value, 0 < value < math.inf, "a finite number above 0")


def _not_negative(key: str, value: float) -> None:
    _demand(key, value, 0 <= value < math.inf, "a finite number, 0 or more")


def _between(key: str, value: float, low: float, high: float) -> None:
    _demand(key, value, low <= value <= high, f"a number in [{low:g}, {high:g}]")


def _at_least(key: str, value: int, low: int) -> None:
    _demand(key, value, low <= value < 2**31, f"at least {low} and below 2^31")


def _one_of(key: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ConfigError(f"{key} = {value!r}: {unknown('name', value, valid)}")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, unknown keys refused, ranges checked when made."""


class TaskSpec(Section, kw_only=True):
    """One task of the meta-training set; in TOML also just the family's name."""

    family: str
    options: dict[str, Any] = {}
    augment: dict[str, Any] = {}  # see lopt.augment.Augmentation
    weight: float = 1.0  # relative probability of being drawn by a pair

    def __post_init__(self) -> None:
        if ":" in self.family:
            raise ConfigError(
                f"tasks.family = {self.family!r}: options go into a table, "
                "{ family = ..., options = { ... } }"
            )
        _positive("tasks.weight", self.weight)


class OptimizerSpec(Section, kw_only=True):
    """The optimizer whose theta is meta-trained."""

    name: str
    options: dict[str, Any] = {}


class EsConfig(Section, kw_only=True):
    """The estimator of the outer gradient; all perturbations are antithetic pairs."""

    estimator: str = "nres"  # full | truncated | pes | gpes | nres
    pairs: int = 16  # P, antithetic pairs of an outer step
    sigma: float = 0.01  # standard deviation of the perturbation, units of theta
    horizon: tuple[int, int] | int = (100, 500)  # T, inner steps of an episode, log-uniform
    truncation: int = 50  # K, inner steps of a window
    resample: int = 0  # gpes: inner steps after which a pair is perturbed anew; 0: per episode
    difference: str = "normalised"  # normalised | sign (per task) | raw
    diverged: str = "drop"  # drop the pair of a diverged particle | clip its loss at the ceiling
    noise_table: int = (
        0  # numbers of a table that all perturbations are slices of; 0: each made anew
    )

    def __post_init__(self) -> None:
        _one_of("es.estimator", self.estimator, ESTIMATORS)
        _one_of("es.difference", self.difference, DIFFERENCES)
        _one_of("es.diverged", self.diverged, DIVERGED)
        _at_least("es.pairs", self.pairs, 1)
        _positive("es.sigma", self.sigma)
        _at_least("es.truncation", self.truncation, 1)
        self._check_resample()
        _at_least("es.noise_table", self.noise_table, 0)
        if isinstance(self.horizon, int):
            msgspec.structs.force_setattr(self, "horizon", (self.horizon, self.horizon))
        low, high = self.horizon
        _demand("es.horizon", list(self.horizon), 1 <= low <= high < 2**31, "1 <= lo <= hi < 2^31")

    def _check_resample(self) -> None:
        _at_least("es.resample", self.resample, 0)
        if self.estimator != "gpes":
            _demand("es.resample", self.resample, self.resample == 0, '0 unless estimator = "gpes"')
        good = self.resample % self.truncation == 0
        _demand("es.resample", self.resample, good, f"a multiple of truncation = {self.truncation}")


class OuterConfig(Section, kw_only=True):
    """The outer optimizer: one step on theta per gradient estimate."""

    optimizer: str = "adam"  # any hand-made optimizer
    weights: str = ""  # a learned one in its place: name of a shipped one, or a file
    options: dict[str, Any] = {}  # its options; learning_rate in units of theta per outer step
    clip: float = 0.1  # largest magnitude of a gradient coordinate
    warmup: int = 0  # outer steps of linear learning-rate warm-up
    schedule: str = "constant"  # constant | cosine (down to final_fraction at the last outer step)
    final_fraction: float = 0.1  # of the learning rate, at the end of the cosine
    ema: float = 0.99  # decay per outer step of the average of theta that is shipped; 0: no average

    def __post_init__(self) -> None:
        alone = not self.weights or self.optimizer == "adam"
        _demand("outer.optimizer", self.optimizer, alone, "left out where outer.weights is given")
        _positive("outer.clip", self.clip)
        _at_least("outer.warmup", self.warmup, 0)
        _one_of("outer.schedule", self.schedule, SCHEDULES)
        _between("outer.final_fraction", self.final_fraction, 0.0, 1.0)
        _demand("outer.ema", self.ema, 0.0 <= self.ema < 1.0, "a number in [0, 1)")


class InnerConfig(Section, kw_only=True):
    """What inner training measures, and where losses are clipped."""

    valid_every: int = 10  # inner steps between validation losses shown to the optimizer; 0: never
    outer_every: int = 10  # inner steps between outer-validation losses
    outer_batches: int = 1  # batches averaged in each of them
    ceiling: float = 1e10  # largest recorded loss, in the task's unit
    objective: str = "loss"  # what is averaged: the normalised loss | its logarithm, log_loss
    meta_loss_clip: tuple[float, float] = (-1.0, 2.0)  # of the normalised loss (1 = untrained)

    def __post_init__(self) -> None:
        _at_least("inner.valid_every", self.valid_every, 0)
        _at_least("inner.outer_every", self.outer_every, 1)
        _at_least("inner.outer_batches", self.outer_batches, 1)
        _positive("inner.ceiling", self.ceiling)
        _one_of("inner.objective", self.objective, OBJECTIVES)
        low, high = self.meta_loss_clip
        fine = math.isfinite(low) and math.isfinite(high) and low < high
        _demand("inner.meta_loss_clip", [low, high], fine, "[lo, hi] with lo < hi")


class TrainConfig(Section, kw_only=True):
    """How long, how reproducible, where."""

    outer_steps: int = 1000  # outer steps of the whole run
    minutes: float = 0.0  # wall time after which the outer step at hand is the last; 0: no limit
    checkpoint_minutes: float = 5.0  # wall time between checkpoints
    checkpoint_every: int = 0  # outer steps between checkpoints, besides checkpoint_minutes; 0: off
    seed: int = 0  # first word of every random address, 0 ... 2^32 - 1
    device: str = "cpu"  # cpu | cuda

    def __post_init__(self) -> None:
        _at_least("train.outer_steps", self.outer_steps, 1)
        _not_negative("train.minutes", self.minutes)
        _not_negative("train.checkpoint_minutes", self.checkpoint_minutes)
        _at_least("train.checkpoint_every", self.checkpoint_every, 0)
        _demand("train.seed", self.seed, 0 <= self.seed < 2**32, "an integer in [0, 2^32)")
        _one_of("train.device", self.device, DEVICES)


class Config(Section, kw_only=True):
    """A whole run.

    Raises (on construction, as all sections):
        ConfigError: a value is out of range; names the dotted key, the value and what is valid.
    """

    tasks: tuple[TaskSpec, ...]
    optimizer: OptimizerSpec
    es: EsConfig = EsConfig()
    outer: OuterConfig = OuterConfig()
    inner: InnerConfig = InnerConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        _demand("tasks", [], len(self.tasks) > 0, "a list of at least one task")


def load(path: str | Path) -> Config:
    """Read a TOML file.

    Raises:
        ConfigError: unreadable, no TOML, or refused as by `loads`; names the path.
    """
    try:
        return loads(Path(path).read_bytes().decode())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read configuration {str(path)!r}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def loads(text: str) -> Config:
    """Parse TOML text; keys left out take their defaults.

    Raises:
        ConfigError: no TOML, an unknown or missing key, a wrong type, a value out of range.
    """
    try:
        return _from_dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}") from error


def dumps(config: Config) -> str:
    """TOML text with every key, which `loads` turns back into an equal configuration."""
    return tomli_w.dumps(_plain(config))


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with some keys replaced, each given as "dotted.key=value".

    Values are TOML; a bare word counts as a string; list elements are addressed by number, as in
    `tasks.0.weight=2`.  `device=cuda` is short for `train.device=cuda`.

    Raises:
        ConfigError: not of that form, an unknown key, or a refused value.
    """
    tree = _plain(config)
    for override in overrides:
        key, equals, text = override.partition("=")
        path = SHORT_KEYS.get(key.strip(), key.strip()).split(".")
        if not equals or not all(path):
            raise ConfigError(f"override {override!r} is not of the form section.key=value")
        _assign(tree, path, _parse_value(override, text.strip()))
    return _from_dict(tree)


def diff(a: Config, b: Config) -> list[str]:
    """Dotted keys whose values differ or that only one side has, in the order of the file."""
    left, right = dict(_leaves(_plain(a))), dict(_leaves(_plain(b)))
    return [k for k in {**left, **right} if k not in left or k not in right or left[k] != right[k]]


def check_resumable(old: Config, new: Config) -> None:
    """Refuse to go on with a run under another configuration; `RESUMABLE_KEYS` may differ.

    With a cosine schedule the number of outer steps may not: the learning rate depends on it.

    Raises:
        ConfigError: names every key that differs, with both values for the first.
    """
    free = set(RESUMABLE_KEYS)
    if old.outer.schedule == "cosine":
        free.remove("train.outer_steps")  # the learning rate of every outer step depends on it
    changed = [key for key in diff(old, new) if key not in free]
    if changed:
        key = changed[0]
        was, now = (dict(_leaves(_plain(c))).get(key, "absent") for c in (old, new))
        rest = f" (also changed: {', '.join(changed[1:])})" if changed[1:] else ""
        raise ConfigError(
            f"cannot resume with another {key}: the run was started with {was!r}, now it is {now!r}"
            f"{rest}; only {', '.join(k for k in RESUMABLE_KEYS if k in free)} may change"
        )


# Building from plain dicts


def _plain(config: Config) -> dict[str, Any]:
    return msgspec.to_builtins(config)


def _from_dict(tree: dict[str, Any]) -> Config:
    """The configuration that plain values describe."""
    tasks = tree.get("tasks")
    if isinstance(tasks, list):
        tree = {**tree, "tasks": [{"family": t} if isinstance(t, str) else t for t in tasks]}
    return convert(tree, Config)


def convert(tree: dict[str, Any], kind: type[Section]) -> Any:
    """Plain values as a section; unknown keys are reported before types.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, a value out of range.
    """
    sections = {f.name: f.type for f in msgspec.structs.fields(kind) if _is_section(f.type)}
    _check_keys(kind, tree, "", sections)
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), tree)) from error


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _check_keys(kind: type[Section], value: object, prefix: str, sections: dict[str, Any]) -> None:
    """Refuse keys that a section, or one in it, does not have; the nearest valid key may belong to another of `sections`."""
    if not isinstance(value, dict):
        return
    valid = kind.__struct_fields__
    for key in value:
        if key in valid:
            continue
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
        options = [prefix + near[0]] if near else []
        options += [f"{s}.{key}" for s, k in sections.items() if key in k.__struct_fields__]
        hint = f"; did you mean {options[0]}?" if options else ""
        raise ConfigError(
            f"unknown key {prefix}{key} (value {value[key]!r}){hint} "
            f"(valid: {', '.join(prefix + v for v in valid)})"
        )
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in value:
            raise ConfigError(f"missing key {prefix}{field.name}")
        for place, inner, held in _inside(field, value.get(field.name)):
            _check_keys(inner, held, f"{prefix}{place}.", sections)


def _inside(field: Any, value: object) -> Iterator[tuple[str, type[Section], object]]:
    """(key, section, value) of the section that a field is, or of those in its list."""
    if _is_section(field.type):
        yield field.name, field.type, value
    elements = [kind for kind in typing.get_args(field.type) if _is_section(kind)]
    if elements and isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield f"{field.name}.{i}", elements[0], item


def _explain(message: str, tree: dict[str, Any]) -> str:
    """msgspec's text on a wrong type, with dotted key and value."""
    what, keys, value = located(message, tree)
    what = what.replace("`", "").replace("object", "a table").replace("array", "a list")
    return f"{'.'.join(keys)} = {value!r}: {what[0].lower()}{what[1:]}"


# Overrides


def _parse_value(override: str, text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
        if table.keys() == {"value"}:
            return table["value"]
    except tomllib.TOMLDecodeError:
        if re.fullmatch(r"[A-Za-z_][\w./+-]*", text):
            return text
    raise ConfigError(f"override {override!r}: {text!r} is neither a TOML value nor a bare word")


def _assign(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one leaf of a tree; whether its key exists is checked when a Config is made of it."""
    node: Any = tree
    for i, part in enumerate(path):
        last = i == len(path) - 1
        if isinstance(node, list | tuple):
            if not part.isdecimal() or int(part) >= len(node):
                where = ".".join(path[:i])
                raise ConfigError(f"no element {part!r} in {where} (valid: 0 to {len(node) - 1})")
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
            if not last and part not in node:
                if i == 0:
                    raise ConfigError(unknown("section", part, Config.__struct_fields__))
                node[part] = {}
        else:
            raise ConfigError(f"{'.'.join(path[:i])} = {node!r} is a value, it has no {part!r}")
        if last:
            node[index] = value
        else:
            node = node[index]


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of a tree; lists of tables are walked, other lists are values."""
    walk = isinstance(node, list | tuple) and any(isinstance(x, dict) for x in node)
    if isinstance(node, dict) or walk:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, list(node) if isinstance(node, tuple) else node
