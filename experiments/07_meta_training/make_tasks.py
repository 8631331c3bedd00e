"""The training tasks of an optimizer worth shipping: cheap families, drawn once from a seed.

    python make_tasks.py > tasks.toml            the 96 [[tasks]] of config.toml
    python make_tasks.py --wide > tasks.toml     the 128 [[tasks]] of wide.toml

Of the 96, half are perceptrons on the embedded digits, a third on a teacher network's labels (perceptrons and softmax
regressions), the rest noisy quadratics; half of all see their parameters in other units (one factor for the task,
10^U(-1.5, 1.5)).  The wide ones are up to four layers deep, of five activations; there are autoencoders; some have a
factor for each tensor, some gradients that are mostly zeros.
"""

import sys

import numpy as np
import tomli_w

DIGITS, TEACHERS, QUADRATICS = 48, 28, 20
REPARAMETERISED = 0.5
WIDE_DIGITS, WIDE_AUTOENCODERS, WIDE_TEACHERS, WIDE_QUADRATICS = 44, 24, 36, 24
ACTIVATIONS = ("relu", "tanh", "elu", "sigmoid", "swish")
PER_TENSOR, SPARSE = 0.3, 0.15  # shares: of those without one factor, and of all but quadratics


def log_integer(r: np.random.Generator, low: int, high: int) -> int:
    """Log-uniform."""
    return round(float(np.exp(r.uniform(np.log(low), np.log(high)))))


def power_of_ten(r: np.random.Generator, low: float, high: float) -> float:
    """10^U(low, high), three digits."""
    return float(f"{10 ** r.uniform(low, high):.3g}")


def perceptron(r: np.random.Generator, data: str) -> dict:
    """Widths, depth, activation, batch and initial scale of a perceptron."""
    depth = int(r.integers(1, 3))
    return {
        "data": data,
        "hidden": [log_integer(r, 8, 48) for _ in range(depth)],
        "activation": str(r.choice(["relu", "tanh"])),
        "batch_size": log_integer(r, 16, 96),
    }


def wide_perceptron(r: np.random.Generator, data: str) -> dict:
    """The same, deeper and of more activations."""
    depth = int(r.integers(1, 5))
    return {
        "data": data,
        "hidden": [log_integer(r, 8, 56) for _ in range(depth)],
        "activation": str(r.choice(ACTIVATIONS)),
        "batch_size": log_integer(r, 8, 96),
    }


def autoencoder(r: np.random.Generator) -> dict:
    """One narrow layer, or one between two wide ones."""
    data = str(r.choice(["digits", "teacher_net"]))
    one = [log_integer(r, 6, 24)]
    three = [log_integer(r, 16, 48), log_integer(r, 4, 16), log_integer(r, 16, 48)]
    return {
        "data": data,
        "hidden": [one, three][int(r.integers(2))],
        "activation": str(r.choice(ACTIVATIONS)),
        "batch_size": log_integer(r, 8, 64),
    }


def softmax_regression(r: np.random.Generator, instance: int) -> dict:
    """Features and classes of a teacher."""
    return {
        "features": int(r.integers(8, 65)),
        "classes": int(r.integers(2, 11)),
        "instance": instance,
        "data": "teacher",
    }


def quadratic(r: np.random.Generator) -> dict:
    """Dimensions, condition and noise of a quadratic."""
    return {
        "dims": log_integer(r, 10, 120),
        "condition": power_of_ten(r, 1, 4),
        "noise": power_of_ten(r, -2, 0.5),
    }


def taught(r: np.random.Generator, kind, count: int) -> list[dict]:
    """Tasks on a teacher network's labels: three perceptrons to one softmax regression."""
    return [
        {"family": "logistic", "options": softmax_regression(r, k)}
        if k % 4 == 3
        else {"family": "mlp", "options": kind(r, "teacher_net")}
        for k in range(count)
    ]


def tasks(seed: int = 0) -> list[dict]:
    """Those of config.toml, each with its weight 1."""
    r = np.random.default_rng(seed)
    found = [{"family": "mlp", "options": perceptron(r, "digits")} for _ in range(DIGITS)]
    found += taught(r, perceptron, TEACHERS)
    found += [{"family": "quadratic", "options": quadratic(r)} for _ in range(QUADRATICS)]
    for k, spec in enumerate(found):
        if r.random() < REPARAMETERISED:
            spec["augment"] = one_factor(r, k)
    return found


def wide_tasks(seed: int = 0) -> list[dict]:
    """Those of wide.toml."""
    r = np.random.default_rng(seed)
    found = [{"family": "mlp", "options": wide_perceptron(r, "digits")} for _ in range(WIDE_DIGITS)]
    found += [{"family": "mlp_ae", "options": autoencoder(r)} for _ in range(WIDE_AUTOENCODERS)]
    found += taught(r, wide_perceptron, WIDE_TEACHERS)
    found += [{"family": "quadratic", "options": quadratic(r)} for _ in range(WIDE_QUADRATICS)]
    for k, spec in enumerate(found):
        augment = {}
        if r.random() < REPARAMETERISED:
            augment = one_factor(r, k)
        elif r.random() < PER_TENSOR:
            augment = {"reparameterise": "tensor", "low": 0.1, "high": 10.0, "seed": k}
        if spec["family"] != "quadratic" and r.random() < SPARSE:
            augment["zero_probability"] = float(f"{r.uniform(0.5, 0.97):.2g}")
        if augment:
            spec["augment"] = augment
    return found


def one_factor(r: np.random.Generator, seed: int) -> dict:
    """Other units for a whole task."""
    factor = power_of_ten(r, -1.5, 1.5)
    return {"reparameterise": "global", "low": factor, "high": factor, "seed": seed}


if __name__ == "__main__":
    drawn = wide_tasks() if sys.argv[1:] == ["--wide"] else tasks()
    tomli_w.dump({"tasks": drawn}, sys.stdout.buffer)
