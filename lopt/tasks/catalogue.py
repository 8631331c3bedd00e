"""The task set: every sampled configuration and every fixed task, by name.

A name is enough to rebuild its task (`lopt.task(name)`), on any machine.  Configurations that cannot be built (a 3x3
window on a 2x2 map, a model beyond the memory limit) are part of the published distribution: they are skipped, and
counted with the reason.
"""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import NamedTuple

from lopt.errors import TaskError
from lopt.task import TASKS, Task
from lopt.tasks.fixed import FIXED, GROUPS
from lopt.tasks.names import task

SEEDS = 500  # sampled configurations per family


class Entry(NamedTuple):
    """A name of the task set, and its task or the reason why there is none."""

    name: str
    family: str
    task: Task | None
    refused: str


def sampled_families() -> list[str]:
    """Families with a published sampler, in alphabetical order."""
    return sorted(name for name, cls in TASKS.items() if hasattr(cls, "sample"))


def sampled(family: str, seeds: int = SEEDS) -> Iterator[Entry]:
    """The configurations `FAMILY_seed0` ... of one family."""
    for seed in range(seeds):
        name = f"{family}_seed{seed}"
        try:
            yield Entry(name, family, task(name), "")
        except TaskError as error:
            yield Entry(name, family, None, str(error))


def fixed() -> Iterator[Entry]:
    """The fixed tasks, by their published names."""
    for name, options in FIXED.items():
        yield Entry(name, options["family"], task(name), "")


def entries(seeds: int = SEEDS) -> Iterator[Entry]:
    """The whole task set: what is sampled, then what is fixed."""
    for family in sampled_families():
        yield from sampled(family, seeds)
    yield from fixed()


def overview(seeds: int = SEEDS) -> str:
    """A table: family, configurations that can be built, parameters from smallest to largest, first line of the text.

    Then the groups of fixed tasks.
    """
    lines = [f"{'family':30s} {'sampled':>7s} {'refused':>7s}  parameters"]
    built_all = 0
    for family, cls in sorted(TASKS.items()):
        title = (cls.__doc__ or "").strip().splitlines()[0]
        if not hasattr(cls, "sample"):
            lines.append(f"{family:30s} {'-':>7s} {'-':>7s}  {'':21s}  {title}")
            continue
        found = list(sampled(family, seeds))
        built = [e.task.layout.size for e in found if e.task is not None]
        built_all += len(built)
        sizes = f"{min(built):,} to {max(built):,}" if built else ""
        lines.append(
            f"{family:30s} {len(built):7d} {len(found) - len(built):7d}  {sizes:21s}  {title}"
        )
    lines += ["", f"{'fixed tasks':30s} {'tasks':>7s} {'':7s}  parameters"]
    for group, members in GROUPS.items():
        found = [task(name).layout.size for name in members]
        sizes = f"{min(found):,} to {max(found):,}"
        first = next(iter(members))
        lines.append(f"{group:30s} {len(found):7d} {'':7s}  {sizes:21s}  {first}, ...")
    lines += [
        "",
        f"{built_all} sampled configurations, named FAMILY_seed0 to FAMILY_seed{seeds - 1}, "
        f"and {len(FIXED)} fixed tasks",
    ]
    return "\n".join(lines)


def families_markdown(seeds: int = 100) -> str:
    """The text of docs/tasks.md: one table of all families, and the options of each."""
    lines = [_PREAMBLE.format(families=len(TASKS), seeds=seeds)]
    lines += [
        "| family | loss | parameters | data | sampler | source | deviations |",
        "|" + "---|" * 7,
    ]
    for family, cls in sorted(TASKS.items()):
        f = cls.facts
        sampler = f"`{family}_seedN`" if hasattr(cls, "sample") else "none"
        cells = [
            f"`{family}`",
            f.model,
            _sizes(family, seeds),
            f.data,
            sampler,
            f.source,
            f.deviations,
        ]
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    for family, cls in sorted(TASKS.items()):
        lines += ["", f"## `{family}`", "", "```", inspect.cleandoc(cls.__doc__ or ""), "```", ""]
        options = [f for f in dataclasses.fields(cls) if f.init]
        lines.append("Defaults: " + ", ".join(f"`{f.name} = {f.default!r}`" for f in options))
    lines += [
        "",
        "## Fixed tasks",
        "",
        f"The {len(FIXED)} fixed tasks of TaskSet, by their published names.",
    ]
    for group, members in GROUPS.items():
        names = ", ".join(f"`{name}`" for name in members)
        lines += ["", f"{group} ({len(members)}): {names}"]
    return "\n".join(lines) + "\n"


def _sizes(family: str, seeds: int) -> str:
    """Smallest and largest number of parameters, of sampled configurations or else of the examples."""
    if hasattr(TASKS[family], "sample"):
        sizes = [e.task.layout.size for e in sampled(family, seeds) if e.task is not None]
    else:
        sizes = [t.layout.size for t in TASKS[family].examples()]
    return f"{min(sizes):,} to {max(sizes):,}"


_PREAMBLE = """\
# Task families

Generated from the registry by `lopt.tasks.catalogue.families_markdown()`; a test keeps this page equal to it.
{families} families; parameters are those of the first {seeds} sampled configurations, or of small examples where there
is no published sampler. `lopt tasks list` counts the configurations that can be built, `lopt tasks show NAME` describes
one, `lopt tasks time` measures them.
"""
