"""The table of `run.py`'s file."""

from pathlib import Path

import h5py
import numpy as np

INTRODUCTION = """\
# Bias and variance of every estimator

Written by `python experiments/06_moments/run.py --out DIR --docs`, {samples} independent estimates or more a row.

"mean" is the estimate's part along what it is meant for, the gradient unless "curvature" is said: 1 is no bias.
"off" is the coordinate of the mean that is farthest from the closed form, in standard errors. "variance" is the sum
over coordinates, over |g|^2. +- is one standard error. D = 6 coordinates and P = 4 pairs, D = 1 for the sine; rows
"episode" are one pair of an unrolled problem, D = 3 for "memory", 1 for influence balancing. A sine is biased by
smoothing, which is exact too; "guided" and "truncated" are biased by their nature. No closed form of a variance is
known where none is given; `cma`, `pycma`, `sep_cma` and `snes` see the order of losses only and estimate no gradient.

![Measured against closed forms](moments.png)

| estimator | loss | mean, closed form | mean, measured | off | variance, closed form | variance, measured | formula |
|---|---|---|---|---|---|---|---|
"""


def read(path: Path) -> dict[str, np.ndarray]:
    """Columns by name; texts as str."""
    with h5py.File(path) as file:
        found = {name: file[name][()] for name in file}
    return {k: v.astype(str) if v.dtype.kind == "O" else v for k, v in found.items()}


def labels(columns: dict[str, np.ndarray]) -> list[str]:
    """Estimator and setting of each row."""
    pairs = zip(columns["name"], columns["setting"], strict=True)
    return [f"{name}, {setting}" if setting else str(name) for name, setting in pairs]


def markdown(path: Path, within: float) -> tuple[str, list[str]]:
    """The page, and the rows that are not what their formulas say."""
    c = read(path)
    lines, wrong = [], []
    for i, label in enumerate(labels(c)):
        known = np.isfinite(c["variance_closed"][i])
        error = c["variance_error"][i]
        distance = abs(c["variance"][i] - c["variance_closed"][i]) / error if known and error else 0
        if c["farthest"][i] > within or distance > within:
            wrong.append(f"{label}: {c['loss'][i]}")
        cells = [
            label,
            c["loss"][i],
            _number(c["along_closed"][i]),
            _measured(c["along"][i], c["along_error"][i]),
            f"{c['farthest'][i]:.1f}",
            _number(c["variance_closed"][i]) if known else "",
            _measured(c["variance"][i], error),
            c["formula"][i].replace("|", "\\|"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return INTRODUCTION.format(samples=c["samples"].min()) + "\n".join(lines) + "\n", wrong


def _number(x: float) -> str:
    return f"{x:.4g}"


def _measured(x: float, error: float) -> str:
    """To the second digit of the error."""
    digits = max(0, 1 - int(np.floor(np.log10(error)))) if error > 0 else 3
    return f"{x:.{digits}f} +- {error:.{digits}f}"
