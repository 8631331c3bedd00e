"""Reference trajectories: what another implementation's optimizers did on recorded gradients, step by step."""

import dataclasses
from pathlib import Path

import numpy as np

from lopt.errors import DataError
from lopt.layout import Layout


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One optimizer on one case.

    theta      meta-parameters by the recording implementation's names
    layout     names and shapes of the parameters, in the order in which tensors are visited
    params0    (N,) float32 initial parameters
    grads      (T, N) float32; loss (T,) float64; is_valid (T,) bool
    params     (T, N) float32 parameters after each call
    """

    case: str
    optimizer: str
    theta: dict[str, np.ndarray]
    layout: Layout
    params0: np.ndarray
    grads: np.ndarray
    loss: np.ndarray
    is_valid: np.ndarray
    params: np.ndarray


def load_trajectories(path: str | Path) -> list[Trajectory]:
    """All trajectories of a file.

    Raises:
        DataError: no HDF5 file, or one with another content; names what is missing.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found = [
                _read(case, name, file[case][name])
                for case in sorted(file)
                for name in sorted(file[case])
            ]
    except (OSError, KeyError, AttributeError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no file of reference trajectories: {error}") from error
    if not found:
        raise DataError(f"{path} holds no reference trajectory")
    return found


def _read(case: str, optimizer: str, group) -> Trajectory:
    order = [n.decode() if isinstance(n, bytes) else str(n) for n in group.attrs["tensor_order"]]
    layout = Layout((n, group[f"params0/{n}"].shape) for n in order)
    steps = group["loss"].shape[0]

    def flat(kind: str) -> np.ndarray:
        rows = [group[f"{kind}/{n}"][()].reshape(steps, -1) for n in order]
        return np.concatenate(rows, axis=1).astype(np.float32)

    theta: dict[str, np.ndarray] = {}

    def collect(name: str, item: object) -> None:
        if hasattr(item, "shape"):
            theta[name] = item[()]

    group["theta"].visititems(collect)
    return Trajectory(
        case,
        optimizer,
        theta,
        layout,
        layout.flatten({n: group[f"params0/{n}"][()] for n in order}),
        flat("grads"),
        group["loss"][()].astype(np.float64),
        group["is_valid"][()].astype(bool),
        flat("params"),
    )
