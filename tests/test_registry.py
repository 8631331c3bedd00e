"""Options of registered things: of the type their field says, or refused by name, value and type."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lopt
from lopt.errors import LoptError, TaskError, UsageError
from lopt.es.strategy import STRATEGIES, strategy
from lopt.optimizer import OPTIMIZERS
from lopt.registry import build
from lopt.task import TASKS

REGISTRIES = {"optimizer": OPTIMIZERS, "task family": TASKS, "strategy": STRATEGIES}


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_option_has_a_type(kind: str) -> None:
    """No option is a complex number, which is said by the class or for it."""
    checked = 0
    for name, cls in REGISTRIES[kind].items():
        for key in (f.name for f in dataclasses.fields(cls) if f.init):
            with pytest.raises(LoptError, match="3j"):
                build(REGISTRIES[kind], kind, UsageError, name, {key: 3j})
            checked += 1
    assert checked > len(REGISTRIES[kind])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": 32}, "hidden = 32, valid: a list of integers; nearest: [32]"),
        ({"hidden": (32, 1.5)}, "hidden[1] = 1.5, valid: an integer"),
        ({"batch_size": True}, "batch_size = True, valid: an integer"),
        ({"augment": {"delay": "long"}}, "augment: delay = 'long', valid: an integer"),
        ({"augment": {"normalise": 1}}, "augment: normalise = 1, valid: true or false"),
        ({"activation": 3}, "unknown activation 3"),
        ({"augment": 3}, "augment = 3, valid: a table"),
    ],
)
def test_options_of_tasks_of_a_wrong_type(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=re.escape(words)):
        lopt.task("mlp", **options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("adam", {"learning_rate": "a"}, "optimizer 'adam': learning_rate = 'a', valid: a number"),
        ("adam", {"learning_rate": True}, "learning_rate = True, valid: a number"),
        ("hierarchical", {"decays": 0.5}, "decays = 0.5, valid: a list; nearest: [0.5]"),
        ("mlp", {"decays": ("a",)}, "optimizer 'mlp': decays[0] = 'a', valid: a number"),
    ],
)
def test_options_of_optimizers_of_a_wrong_type(name: str, options: dict, words: str) -> None:
    """What a check of the class stumbles over, or lets pass."""
    with pytest.raises(UsageError, match=re.escape(words)):
        lopt.optimizer(name, **options)


def test_options_of_strategies_of_a_wrong_type() -> None:
    with pytest.raises(UsageError, match="strategy 'cma': sigma = 'x', valid: a number"):
        strategy("cma", sigma="x")


def test_integers_are_fine_floats_and_stay_as_they_are() -> None:
    """What a file of an older run says is what it says now."""
    rate = lopt.optimizer("adam", learning_rate=1).config()["learning_rate"]
    assert rate == 1 and isinstance(rate, int)


def test_numbers_of_numpy_and_paths_become_pythons(tmp_path: Path) -> None:
    """So that they can be hashed, written as TOML and JSON, and compared."""
    rate = lopt.optimizer("adam", learning_rate=np.float32(0.5)).learning_rate
    assert rate == 0.5 and type(rate) is float
    one = lopt.task("mlp", hidden=np.array([3, 4]), batch_size=np.int64(2))
    assert one == lopt.task("mlp", hidden=[3, 4], batch_size=2)
    assert hash(one) == hash(lopt.task("mlp", hidden=(3, 4), batch_size=2))
    with pytest.raises(TaskError, match=f"{tmp_path}/none.h5"):
        lopt.task("mlp", data=tmp_path / "none.h5")
