"""The training tasks of an optimizer worth shipping: cheap families, drawn once from a seed.

    python make_tasks.py > tasks.toml      the [[tasks]] of the configurations beside this file

Half are perceptrons on the embedded digits, a third on a teacher network's labels (perceptrons and softmax regressions),
the rest noisy quadratics; half of all see their parameters in other units (one factor for the task, 10^U(-1.5, 1.5)).
"""

import sys

import numpy as np
import tomli_w

DIGITS, TEACHERS, QUADRATICS = 48, 28, 20
REPARAMETERISED = 0.5


def perceptron(r: np.random.Generator, data: str) -> dict:
    """Widths, depth, activation, batch and initial scale of a perceptron."""
    depth = int(r.integers(1, 3))
    return {
        "data": data,
        "hidden": [round(np.exp(r.uniform(np.log(8), np.log(48)))) for _ in range(depth)],
        "activation": str(r.choice(["relu", "tanh"])),
        "batch_size": round(np.exp(r.uniform(np.log(16), np.log(96)))),
    }


def quadratic(r: np.random.Generator) -> dict:
    """Dimensions, condition and noise of a quadratic."""
    return {
        "dims": round(np.exp(r.uniform(np.log(10), np.log(120)))),
        "condition": float(f"{10 ** r.uniform(1, 4):.3g}"),
        "noise": float(f"{10 ** r.uniform(-2, 0.5):.3g}"),
    }


def tasks(seed: int = 0) -> list[dict]:
    """All of them, each with its weight 1."""
    r = np.random.default_rng(seed)
    found = [{"family": "mlp", "options": perceptron(r, "digits")} for _ in range(DIGITS)]
    for k in range(TEACHERS):
        if k % 4 == 3:
            options = {
                "features": int(r.integers(8, 65)),
                "classes": int(r.integers(2, 11)),
                "instance": k,
            }
            found.append({"family": "logistic", "options": {**options, "data": "teacher"}})
        else:
            found.append({"family": "mlp", "options": perceptron(r, "teacher_net")})
    found += [{"family": "quadratic", "options": quadratic(r)} for _ in range(QUADRATICS)]
    for k, spec in enumerate(found):
        if r.random() < REPARAMETERISED:
            factor = float(f"{10 ** r.uniform(-1.5, 1.5):.3g}")
            spec["augment"] = {"reparameterise": "global", "low": factor, "high": factor, "seed": k}
    return found


if __name__ == "__main__":
    tomli_w.dump({"tasks": tasks()}, sys.stdout.buffer)
