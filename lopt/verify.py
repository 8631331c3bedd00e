"""Replaying reference trajectories: does this machine compute what the published optimizers compute?

Compared are movements, not values: for each tensor and call, the largest difference of (params - initial params) from
the reference, over the largest movement of that tensor so far.
"""

import dataclasses
from pathlib import Path

import numpy as np

from lopt.data.trajectories import Trajectory, load_trajectories
from lopt.errors import DataError, unknown
from lopt.lanes import pin_blas_threads
from lopt.optimizer import Optimizer, optimizer

TOLERANCE = 2e-3

_RNN = "ffmod_params/mlp/_/linear_"


def _names() -> dict[str, tuple[str, dict[str, str]]]:
    """The file's optimizer name -> our optimizer that plays it, and our theta names -> names in the file."""
    hierarchical = {f"mlp/{x}{i}": f"{_RNN}{i}/{x}" for x in "wb" for i in range(3)}
    hierarchical |= {f"lstm/{x}": f"rnn_params/rnn/linear/{x}" for x in "wb"}
    hierarchical |= {f"to_mlp/{x}": f"rnn_to_ff_params/rnn_to_ff/{x}" for x in "wb"}
    hierarchical |= {f"between/{x}": f"rnn_to_in_params/rnn_to_in/{x}" for x in "wb"}
    hierarchical |= {
        "initial/between": "initial_from_lstm",
        "initial/from_mlp": "initial_from_mlp",
        "initial/hidden": "lstm_init_state/.hidden",
        "initial/cell": "lstm_init_state/.cell",
    }
    adafac = {f"{x}{i}": f"nn/_/{x}{i}" for x in "wb" for i in range(3)}
    adafac |= {k: k for k in ("momentum_decays", "rms_decays")}
    adafac["factored_decays"] = "adafactor_decays"
    mlp = {f"{x}{i}": f"mlp/_/linear_{i}/{x}" for x in "wb" for i in range(3)}
    return {
        "rnn_mlp": ("hierarchical", hierarchical),
        "adafac_mlp": ("adafac_mlp", adafac),
        "mlp": ("mlp", mlp),
    }


@dataclasses.dataclass(frozen=True)
class Report:
    """Worst relative movement error of each trajectory, by "case / optimizer"."""

    errors: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether every trajectory is within the tolerance."""
        return all(e <= TOLERANCE for e in self.errors.values())

    @property
    def text(self) -> str:
        """A table and a verdict."""
        lines = [f"{'trajectory':28s} {'movement error':>15s}  allowed {TOLERANCE:g}"]
        for name, error in self.errors.items():
            lines.append(f"{name:28s} {error:15.2e}  {'ok' if error <= TOLERANCE else 'FAILED'}")
        lines.append("all within tolerance" if self.passed else "verification FAILED")
        return "\n".join(lines)


def verify(path: str | Path) -> Report:
    """Replay every trajectory of a file.

    Raises:
        DataError: the file is unreadable, or records an optimizer or sizes that lopt does not know.
    """
    pin_blas_threads()
    trajectories = load_trajectories(path)
    return Report({f"{t.case} / {t.optimizer}": movement_error(t) for t in trajectories})


def movement_error(trajectory: Trajectory) -> float:
    """Worst relative movement error over tensors and calls; infinite if anything is not finite."""
    players = _names()
    if trajectory.optimizer not in players:
        raise DataError(unknown("recorded optimizer", trajectory.optimizer, players))
    name, names = players[trajectory.optimizer]
    opt = optimizer(name)
    theta = _theta(opt, names, trajectory)
    layout = trajectory.layout
    params, state = trajectory.params0.copy(), opt.init_state(theta, layout)
    data, work = opt.opt_data(layout), np.empty(opt.work_size(layout), np.float32)
    largest = dict.fromkeys(layout.names, 0.0)
    worst = 0.0
    for t in range(trajectory.loss.size):
        grad, is_valid = trajectory.grads[t].copy(), int(trajectory.is_valid[t])
        opt.step(theta, params, grad, state, float(trajectory.loss[t]), is_valid, data, work)
        ours = layout.views(params.astype(np.float64) - trajectory.params0)
        theirs = layout.views(trajectory.params[t].astype(np.float64) - trajectory.params0)
        for key in layout.names:
            largest[key] = max(largest[key], float(np.abs(theirs[key]).max(initial=0.0)))
            error = float(np.abs(ours[key] - theirs[key]).max(initial=0.0))
            if not np.isfinite(error):
                return float("inf")
            if error > 0:
                worst = max(worst, error / largest[key] if largest[key] > 0 else float("inf"))
    return worst


def _theta(opt: Optimizer, names: dict[str, str], trajectory: Trajectory) -> np.ndarray:
    tensors = {}
    for key, shape in opt.theta_layout:
        recorded = trajectory.theta.get(names[key])
        if recorded is None or recorded.size != int(np.prod(shape)):
            found = None if recorded is None else recorded.shape
            raise DataError(
                f"{trajectory.case} / {trajectory.optimizer}: theta {names[key]!r} has shape {found}, expected {shape}"
            )
        tensors[key] = recorded.reshape(shape)
    return opt.theta_layout.flatten(tensors)
