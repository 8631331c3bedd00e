"""The outer loop: estimate the meta-gradient, step the outer optimizer, log, checkpoint, resume.

Every rank runs the same loop and holds the same bits: the estimator's one allreduce of scalars makes them equal, the
rest is a deterministic function of them.  Rank 0 alone owns the files.
"""

import dataclasses
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from lopt import config as cfg
from lopt import store
from lopt.comm import Comm
from lopt.errors import StoreError
from lopt.es import Estimate, OuterOptimizer, make_estimator
from lopt.layout import Layout
from lopt.meta import MetaProblem
from lopt.optimizer import Optimizer, optimizer
from lopt.rollout import Schedule
from lopt.task import Task, task

PHASES = ("compile", "rollout", "exchange", "rebuild", "outer", "files")


@dataclasses.dataclass
class Outcome:
    """How a run ended: `finished` (outer steps done), `time` (minutes used up) or `signal`."""

    reason: str
    outer_step: int
    meta_loss: float
    weights: Path


def build(config: cfg.Config, seed_offset: int = 0) -> tuple[list[Task], list[float], Optimizer]:
    """Tasks, their weights and the optimizer that a configuration names.

    Raises:
        UsageError: an unknown name or a refused option.
    """
    tasks = [task(spec.family, **spec.options) for spec in config.tasks]
    weights = [spec.weight for spec in config.tasks]
    return tasks, weights, optimizer(config.optimizer.name, **config.optimizer.options)


def meta_problem(config: cfg.Config) -> MetaProblem:
    """The configured meta-training problem."""
    tasks, weights, opt = build(config)
    return MetaProblem(
        tasks,
        weights,
        opt,
        schedule(config),
        config.es.horizon,
        config.es.truncation,
        config.inner.meta_loss_clip,
        config.train.seed,
        config.train.device,
    )


def schedule(config: cfg.Config) -> Schedule:
    """When inner training looks at which split."""
    inner = config.inner
    return Schedule(inner.valid_every, inner.outer_every, inner.outer_batches, inner.ceiling)
