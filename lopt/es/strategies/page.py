"""The text of docs/estimators.md, from what the classes say about themselves."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from lopt.es.estimators import ESTIMATORS
from lopt.es.facts import Facts
from lopt.es.strategy import STRATEGIES


def estimators_markdown() -> str:
    """One table of strategies for black boxes, one of estimators for unrolled problems, then all settings."""
    lines = [_PREAMBLE, "## Black boxes: `lopt.es.minimize(f, x0, strategy=NAME, ...)`", ""]
    lines += _table(STRATEGIES)
    lines += ["", "## Unrolled problems: `es.estimator = NAME` of a training run", ""]
    lines += _table(ESTIMATORS)
    for name, cls in sorted(STRATEGIES.items()):
        lines += ["", f"## `{name}`", "", "```", inspect.cleandoc(cls.__doc__ or ""), "```", ""]
        lines.append("Defaults: " + ", ".join(f"`{k} = {v!r}`" for k, v in _defaults(cls)))
    return "\n".join(lines) + "\n"


def _table(classes: Mapping[str, Any]) -> list[str]:
    heads = ["name", *(field.replace("_", " ") for field in Facts._fields)]
    rows = [[f"`{name}`", *cls.facts] for name, cls in sorted(classes.items())]
    cells = [" | ".join(c.replace("|", "\\|").replace("*", "\\*") for c in row) for row in rows]
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *(f"| {row} |" for row in cells),
    ]


def _defaults(cls: type) -> list[tuple[str, Any]]:
    fields = [f for f in dataclasses.fields(cls) if f.init]
    missing = dataclasses.MISSING
    return [
        (f.name, f.default if f.default_factory is missing else f.default_factory()) for f in fields
    ]


_PREAMBLE = """\
# Estimators and strategies

Generated from the registry by `lopt.es.strategies.page.estimators_markdown()`; a test keeps this page equal to it.

In the formulas f+ and f- are the losses at theta + sigma z_i and theta - sigma z_i, z_i standard normal in D
coordinates unless said otherwise, P is the number of pairs, g the gradient and H the Hessian of f, f_sigma(theta) =
E f(theta + sigma z) the smoothed loss. A variance is the sum over coordinates, for a linear f unless another is named.
"Unbiased" and variances are those of shaping "raw" where there is shaping. grad f_sigma = grad f for quadratics; in
general they differ by O(sigma^2) times third derivatives. `tests/helpers/moments.py` holds means and
variances as code, tests measure them, and docs/moments.md shows all of them, closed form beside measurement.

Every strategy needs memory O(D) unless its row says more: perturbations are made from their addresses when needed.
"""
