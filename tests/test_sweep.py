"""Runs of a sweep: finished ones are kept, begun ones go on, others are refused."""

import msgspec
import numpy as np
import pytest

from lopt import config as cfg
from lopt import store, sweep
from lopt.comm import SerialComm
from lopt.errors import ConfigError
from lopt.train import Outcome

CONFIG = cfg.loads("""
tasks = [{ family = "quadratic", options = { dims = 4 } }]
optimizer = { name = "sgd" }
es = { pairs = 2, truncation = 4, horizon = 8 }
outer = { ema = 0.0 }
inner = { outer_every = 2 }
train = { outer_steps = 5 }
""")


def with_train(**changes) -> cfg.Config:
    return msgspec.structs.replace(CONFIG, train=msgspec.structs.replace(CONFIG.train, **changes))


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_run_is_not_touched_and_a_shorter_one_goes_on(tmp_path):
    comm, whole, parts = SerialComm(), tmp_path / "whole", tmp_path / "parts"
    assert sweep.trained(CONFIG, whole, comm) == whole
    before = contents(whole)
    sweep.trained(CONFIG, whole, comm)
    assert contents(whole) == before
    sweep.trained(with_train(outer_steps=2), parts, comm)
    assert sweep.meta_losses(parts).size == 2
    sweep.trained(CONFIG, parts, comm)
    np.testing.assert_array_equal(sweep.meta_losses(parts), sweep.meta_losses(whole))
    np.testing.assert_array_equal(
        *(store.load_weights(f / "weights.h5").theta for f in (whole, parts))
    )


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path):
    tmp_path.joinpath("run.h5").write_bytes(b"half a file")
    sweep.trained(CONFIG, tmp_path, SerialComm())
    assert sweep.meta_losses(tmp_path).size == 5


def test_a_run_of_another_configuration_is_refused(tmp_path):
    sweep.trained(CONFIG, tmp_path, SerialComm())
    with pytest.raises(ConfigError, match=r"train\.seed"):
        sweep.trained(with_train(seed=1), tmp_path, SerialComm())


def test_a_signal_ends_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "train", lambda config, out, *_, **__: Outcome("signal", 1, out))
    with pytest.raises(SystemExit) as stopped:
        sweep.trained(CONFIG, tmp_path, SerialComm())
    assert stopped.value.code == 0


def test_names_of_folders():
    assert sweep.folder_name("Adam, rate 0.001") == "Adam_rate_0_001"
    assert sweep.folder_name("anchored, theta = 0") == "anchored_theta_0"
