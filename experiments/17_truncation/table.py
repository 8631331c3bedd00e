"""Tables of `run.py`'s file, and the verdict."""

import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lopt.experiment import toml, verdict

HERE = Path(__file__).parent


def kept(folder: Path) -> dict[str, Any]:
    """Arrays by name, names of estimators as text, and the name of the file of bounds.

    `balance` and `bowl` are (estimator, truncation, 5): measured, its error, deviation of an episode, exact, its error.
    """
    with h5py.File(folder / "truncation.h5") as file:
        found = {name: file[name][()] for name in file}
        names = found["estimators"].astype(str).tolist()
        return {**found, "estimators": names, "expected": file.attrs["expected"]}


def report(folder: Path) -> int:
    """Tables and the verdict."""
    found = kept(folder)
    expected = toml(HERE / found["expected"])
    missed = [*report_gradients(found, expected), *report_rates(found, expected)]
    return verdict(missed)


def report_gradients(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is farther from the exact gradient than chance would have it, or has a sign it should not have."""
    missed = []
    print("| problem | estimator | K | mean gradient | exact | standard errors apart | deviation of an episode |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for problem in ("balance", "bowl"):
        lengths = found[f"{problem}_truncations"].tolist()
        for (i, name), (j, truncation) in itertools.product(
            enumerate(found["estimators"]), enumerate(lengths)
        ):
            value, error, deviation, exact, exact_error = found[problem][i, j]
            apart = abs(value - exact) / np.hypot(error, exact_error)
            print(
                f"| {problem} | {name} | {truncation} | {value:.4g} +- {error:.2g} | {exact:.4g} | {apart:.1f} "
                f"| {deviation:.3g} |"
            )
            if not apart <= expected["standard_errors"]:
                missed.append(f"{problem}, {name}, K = {truncation}: {apart:.1f} standard errors")
            whole = found[problem][i, -1, 3]
            foreseen = name == "truncated" and truncation in expected["wrong_sign"][problem]
            if (value * whole < 0) != foreseen:
                missed.append(f"{problem}, {name}, K = {truncation}: sign of the gradient")
    return missed


def report_rates(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Which estimators learned a rate that costs more, or less, than it should."""
    theta, excess, best, rest = (found[k] for k in ("theta", "excess", "best", "rest"))
    print(f"\nbest rate {np.exp(best):.4g}\n")
    print(
        "| estimator | K | learned rates | meta-loss over the best | truncated: comes to rest at |"
    )
    print("|---|---|---|---|---|")
    missed = []
    for (i, name), (j, truncation) in itertools.product(
        enumerate(found["estimators"]), enumerate(found["bowl_truncations"].tolist())
    ):
        learned = ", ".join(f"{v:.4g}" for v in np.exp(theta[i, j]))
        costs = ", ".join(f"{v:.3f}" for v in excess[i, j])
        predicted = f"{np.exp(rest[j]):.4g}" if name == "truncated" else ""
        print(f"| {name} | {truncation} | {learned} | {costs} | {predicted} |")
        if name != "truncated" and not excess[i, j].max() <= expected["unbiased_excess"]:
            missed.append(f"{name}, K = {truncation}: {costs} over the best meta-loss")
        if name == "truncated" and not (
            np.abs(theta[i, j] - rest[j]).max() <= expected["off_fixed_point"]
        ):
            missed.append(f"truncated, K = {truncation}: {learned}, not at {predicted}")
        if name == "truncated" and j == 0 and not excess[i, j].min() >= expected["truncated_excess"]:  # fmt: skip
            missed.append(f"truncated, K = {truncation}: only {costs} over the best meta-loss")
    return missed
