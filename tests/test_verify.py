"""The learned optimizers reproduce recorded trajectories; a wrong file or a wrong optimizer is noticed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lopt.data.trajectories import load_trajectories
from lopt.errors import DataError
from lopt.verify import TOLERANCE, movement_error, verify

REFERENCE = Path(__file__).parent / "data" / "reference_trajectories.h5"
TRAJECTORIES = {f"{t.case}-{t.optimizer}": t for t in load_trajectories(REFERENCE)}


def test_all_cases_of_all_optimizers_are_there() -> None:
    names = ("adafac_mlp", "mlp", "rnn_mlp")
    assert sorted(TRAJECTORIES) == [
        f"{case}-{name}" for case in ("case0", "case1") for name in names
    ]


@pytest.mark.parametrize("name", sorted(TRAJECTORIES))
def test_trajectory_is_reproduced(name: str) -> None:
    assert movement_error(TRAJECTORIES[name]) <= TOLERANCE


@pytest.mark.parametrize("name", sorted(TRAJECTORIES))
def test_a_small_change_of_theta_is_noticed(name: str) -> None:
    """Negative control: the first layer's weights 2 % larger."""
    t = TRAJECTORIES[name]
    theta = {k: v * (1.02 if v.ndim == 2 else 1.0) for k, v in t.theta.items()}
    assert movement_error(dataclasses.replace(t, theta=theta)) > TOLERANCE


def test_ignored_validation_calls_are_noticed() -> None:
    t = TRAJECTORIES["case0-rnn_mlp"]
    wrong = dataclasses.replace(t, is_valid=np.zeros_like(t.is_valid))
    assert movement_error(wrong) > TOLERANCE


def test_report_names_every_trajectory() -> None:
    report = verify(REFERENCE)
    assert report.passed
    assert len(report.errors) == len(TRAJECTORIES)
    assert "all within tolerance" in report.text


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"not HDF5")
    with pytest.raises(DataError, match="no file of reference trajectories"):
        verify(path)


def test_wrong_sizes_are_refused() -> None:
    t = TRAJECTORIES["case0-mlp"]
    theta = {k: v[:-1] for k, v in t.theta.items()}
    with pytest.raises(DataError, match="expected"):
        movement_error(dataclasses.replace(t, theta=theta))
