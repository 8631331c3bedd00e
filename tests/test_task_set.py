"""The task set as a whole: names, the page about it, and what happens where training explodes."""

from pathlib import Path

import numpy as np
import pytest

import lopt
from lopt.augment import augment
from lopt.errors import TaskError
from lopt.rollout import STATUS_NAMES
from lopt.task import TASKS
from lopt.tasks import catalogue, parse_task
from lopt.tasks.names import parse_task_spec

FAMILIES = sorted(TASKS)
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_what_it_is(family: str) -> None:
    assert all(text.strip() for text in TASKS[family].facts)
    title = (TASKS[family].__doc__ or "").splitlines()[0]
    assert title.endswith(".") and len(title) <= 110


def test_the_page_about_tasks_is_generated() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text()
    text = catalogue.families_markdown()
    assert page == text, "write docs/tasks.md anew from lopt.tasks.catalogue.families_markdown()"


@pytest.mark.parametrize("family", catalogue.sampled_families())
def test_sampled_tasks_are_rebuilt_from_either_name(family: str) -> None:
    found = [e for e in catalogue.sampled(family, 12) if e.task is not None]
    assert len(found) >= 10
    for entry in found:
        assert lopt.task(entry.name) == entry.task
        assert parse_task(entry.task.name) == entry.task
    assert len({e.task.name for e in found}) == len(found)


def test_refused_configurations_say_why() -> None:
    refused = [e for e in catalogue.sampled("conv_fc", 60) if e.task is None]
    assert refused
    assert all("padding" in e.refused for e in refused)


@pytest.mark.parametrize("family", FAMILIES)
def test_exploding_training_is_flagged_and_never_nan(family: str) -> None:
    """Parameters grow by 1e12 a step; whatever the loss makes of that, the trace is finite and says so."""
    t = TASKS[family].examples()[0]
    opt = lopt.optimizer("sgd", learning_rate=1e12)
    trace = lopt.rollout(t, opt, steps=12, schedule=lopt.Schedule(outer_every=3))
    assert np.isfinite(trace.train_loss).all() and np.isfinite(trace.outer_loss).all()
    assert all(np.isfinite(v).all() for v in trace.params.values())
    moved = np.abs(trace.train_loss[1:] / trace.train_loss[0] - 1).max()
    assert trace.status in STATUS_NAMES
    assert trace.status != "ok" or moved < 1e14


@pytest.mark.parametrize("family", FAMILIES)
def test_exploding_starts_do_not_hang_or_leak_nan(family: str) -> None:
    t = augment(TASKS[family].examples()[0], reparameterise="global", low=1e4, high=1e4)
    opt = lopt.optimizer("adam", learning_rate=1.0)
    trace = lopt.rollout(t, opt, steps=6, schedule=lopt.Schedule(outer_every=2))
    assert np.isfinite(trace.train_loss).all() and np.isfinite(trace.outer_loss).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mlp:hidden", "not key=value"),
        ("mlp_seed", "unknown task family"),
        ("nonsense_seed3", "unknown task family with a sampler"),
        ("mlp+delay=1+delay=2", "only one"),
        ("mlp+dely=1", "did you mean 'delay'"),
    ],
)
def test_bad_names(text: str, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        parse_task(text)


def test_specs_keep_brackets_and_quotes_together() -> None:
    name, options, augmentation = parse_task_spec('f:a=[[1,2],[3]],b="x+y,z",c=bare+delay=2')
    assert (name, augmentation) == ("f", {"delay": 2})
    assert options == {"a": [[1, 2], [3]], "b": "x+y,z", "c": "bare"}
