"""An ordered list of settings, learned greedily from curves: try the first; if there is time for a second, the second.

Source: Metz et al. 2020, "Using a thousand optimization tasks to learn hyperparameter search strategies" (arXiv
2002.11887): each setting is the one that lowers the mean over tasks of the best score so far the most.  Scores here are
final outer-validation losses between the lowest loss that any setting reached (0) and the initial one (1), clipped.
"""

import json
from pathlib import Path

import numpy as np
import tomli_w

from lopt import store
from lopt.errors import UsageError, unknown
from lopt.judgement import final_valid


def greedy_order(scores: np.ndarray, length: int) -> tuple[list[int], np.ndarray]:
    """Order of settings, and the mean over tasks of the best score after each.

    Args:
        scores: (task, setting), lower is better, finite.
        length: settings wanted; fewer come back only if there are not so many.

    Returns: indices, and (length,) means; never rising.  Ties go to the setting that is better on its own, then to the
        earlier one.
    """
    best = np.full(scores.shape[0], np.inf)
    alone = scores.mean(axis=0)
    order: list[int] = []
    means = []
    for _ in range(min(length, scores.shape[1])):
        after = np.minimum(best[:, None], scores).mean(axis=0)
        left = [k for k in range(scores.shape[1]) if k not in order]
        chosen = min(left, key=lambda k: (after[k], alone[k], k))
        order.append(chosen)
        best = np.minimum(best, scores[:, chosen])
        means.append(float(best.mean()))
    return order, np.array(means)


def normalised(final: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """(task, setting) losses between the lowest of the task (0) and its initial loss (1), clipped; not finite counts 1."""
    known = np.where(np.isfinite(final), final, np.inf)
    low = known.min(axis=1, keepdims=True)
    span = np.maximum(initial[:, None] - low, 1e-30)
    return np.clip((known - low) / span, 0.0, 1.0)


def learn_list(curves_path: Path, family: str, length: int, out: Path) -> str:
    """Order the settings of a search by the curves of training tasks, and write them as TOML.

    Returns: a line for each setting with the mean score after it.

    Raises:
        UsageError: no search of that name in the file, or runs missing.  StoreError: unreadable, or `out` exists.
    """
    store.refuse_existing(out)
    curves = store.read_curves(curves_path)
    if family not in curves.kinds("tuned"):
        raise UsageError(unknown("search", family, curves.kinds("tuned")))
    members = curves.members(family)
    final = np.full((len(curves.tasks), len(members)), np.nan)
    initial = np.full(len(curves.tasks), np.nan)
    for i in range(len(curves.tasks)):
        for j, entrant in enumerate(members):
            rows = curves.rows(i, entrant)
            if rows.size == 0:
                raise UsageError(
                    f"{curves_path}: no run of {curves.entrants[entrant].label} on {curves.tasks[i]}"
                )
            final[i, j] = final_valid(curves, rows).mean()
            initial[i] = curves.runs["valid"][rows, 0].mean()
    order, means = greedy_order(normalised(final, initial), length)
    settings = [json.loads(curves.entrants[members[k]].spec) for k in order]
    origin = {
        "curves": curves_path.name, "search": family, "steps": curves.settings["steps"],
        "tasks": len(curves.tasks), "candidates": len(members), "means": [round(float(m), 5) for m in means],
    }  # fmt: skip
    out.write_text(tomli_w.dumps({"origin": origin, "settings": settings}).rstrip() + "\n")
    return "\n".join(
        f"{n:4d} {m:.4f} {s}" for n, (m, s) in enumerate(zip(means, settings, strict=True), 1)
    )
