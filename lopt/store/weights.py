"""Weights: a meta-trained optimizer with everything needed to use it and to know how it was made."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lopt.errors import LoptError, StoreError, unknown
from lopt.layout import Layout
from lopt.optimizer import Optimizer, State, optimizer
from lopt.store import container

SHIPPED = Path(__file__).parents[1] / "pretrained"


@dataclasses.dataclass(frozen=True)
class Weights:
    """Content of a weights file.

    architecture  name of the optimizer; `options` are all its options
    layout        blocks of theta
    theta         (D,) float32, finite
    provenance    how it was made
    """

    path: Path
    architecture: str
    options: dict[str, Any]
    layout: Layout
    theta: np.ndarray
    provenance: dict[str, Any]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that tell these weights from others, whatever the file is called."""
        return hashlib.sha256(self.theta.tobytes()).hexdigest()[:16]

    def optimizer(self, **options: Any) -> Optimizer:
        """The optimizer that these weights are for; `options` replace those of the file (`total_steps`, `rate`, ...).

        Raises:
            StoreError: no such architecture here, refused options, or its theta has other blocks than the file's.
        """
        try:
            opt = optimizer(self.architecture, **{**self.options, **options})
            expected = opt.theta_layout
        except (LoptError, TypeError, ValueError) as error:
            raise StoreError(f"{self.path}: cannot build its optimizer: {error}") from error
        if expected != self.layout:
            raise StoreError(
                f"{self.path}: {_difference(self.layout, expected, self.architecture)}"
            )
        return opt

    def start(self, params: Mapping[str, np.ndarray], **options: Any) -> tuple[Optimizer, State]:
        """The optimizer and its state for a model of one's own; from here on `opt.update`.

        Raises:
            StoreError: as `optimizer`.  OptimizerError, DeviceError: as `lopt.optimizer.Optimizer.init`.
        """
        opt = self.optimizer(**options)
        return opt, opt.init(params, self.theta)


def save_weights(
    path: str | Path, opt: Optimizer, theta: np.ndarray, provenance: Mapping[str, Any]
) -> Path:
    """Write (or atomically replace) a weights file.

    Args:
        theta: (D,) meta-parameters of `opt`.
        provenance: JSON-able; see `lopt.store.provenance` for the part that describes this process.

    Raises:
        OptimizerError: theta of the wrong shape or not finite.
        StoreError: disk full or any other failure; an older file is intact.
    """
    path = Path(path)
    options = opt.config()
    architecture = options.pop("name")
    image = container.seal(
        "weights",
        {
            "architecture": architecture,
            "options": options,
            "layout": json.loads(opt.theta_layout.to_json()),
            "provenance": dict(provenance),
        },
        {"/theta": opt.check_theta(theta)},
    )
    temporary = container.write_temporary(path, image)
    try:
        container.replace(temporary, path)
    except OSError as error:
        raise container.write_failed(path, error, temporary) from error
    return path


def read_weights(path: str | Path) -> Weights:
    """Content of a weights file, consistent in itself; `load_weights` also checks that it fits its optimizer.

    Raises:
        StoreError: missing, empty, foreign, of another schema, truncated, damaged; theta does not fit the layout, claims
            more than the file holds, or is not finite.
    """
    path = Path(path)
    with container.unsealed(path, "weights") as file:
        texts = container.get_attributes(file, "weights")
        layout = Layout.from_json(json.dumps(texts["layout"]))
        shape = file["/theta"].shape
        if shape != (layout.size,):
            raise StoreError(f"theta has shape {shape}, its layout needs ({layout.size},)")
        theta = container.get_array(file, "/theta").astype(np.float32, copy=False)
        if bad := int(np.count_nonzero(~np.isfinite(theta))):
            raise StoreError(f"{bad} of {theta.size} values of theta are NaN or infinite")
        if not isinstance(texts["options"], dict):
            raise StoreError(f"options are {texts['options']!r}, expected a table")
    return Weights(
        path, texts["architecture"], texts["options"], layout, theta, texts["provenance"]
    )


def load_weights(path: str | Path) -> Weights:
    """Read weights from a file, or by the name of a shipped one, and check that they fit their optimizer.

    Raises:
        StoreError: as `read_weights` and `Weights.optimizer`; no such file and no such name; a directory.
    """
    text, found, names = str(path), Path(path), shipped()
    if not found.is_file() and text in names:
        found = SHIPPED / f"{text}.h5"
    elif not text or not (found.exists() or found.suffix or found.name != text):
        raise StoreError(f"no file {text!r}, and {unknown('shipped weights', text, names)}")
    elif found.is_dir():
        inside = found / "weights.h5"
        hint = f"; did you mean {str(inside)!r}?" if inside.is_file() else ""
        raise StoreError(f"{text!r} is a directory, not a file of weights{hint}")
    weights = read_weights(found)
    weights.optimizer()
    return weights


def shipped() -> list[str]:
    """Names of the weights that come with lopt."""
    return sorted(p.stem for p in SHIPPED.glob("*.h5"))


def _difference(have: Layout, expected: Layout, architecture: str) -> str:
    """What is wrong with a layout, by the first block that differs."""
    for (name, shape), (want, want_shape) in zip(have, expected, strict=False):
        if (name, shape) != (want, want_shape):
            return (
                f"block {name!r} of theta has shape {shape}, "
                f"{architecture!r} needs {want!r} of shape {want_shape} there"
            )
    return f"theta has {len(have)} blocks, {architecture!r} needs {len(expected)}"
