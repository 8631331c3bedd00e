"""What a task is, and the registry of task families.

A task is an immutable optimisation problem: a parameter vector, mini-batches as a pure function of an address, a loss
and its hand-written gradient.  A family is a frozen dataclass of its options; all its sizes are run-time integers, so
thousands of tasks share one compiled kernel.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numba import types

from lopt.errors import TaskError
from lopt.lanes import entry_point
from lopt.layout import Layout
from lopt.registry import build, spec

SPLITS = ("train", "inner_valid", "outer_valid", "test")
TRAIN, INNER_VALID, OUTER_VALID, TEST = range(4)


class TaskData(NamedTuple):
    """Constant arrays of a task, shared between all tasks of a process that use the same data set."""

    floats: np.ndarray  # float32: inputs, matrices
    ints: np.ndarray  # int32: labels, tokens
    sizes: np.ndarray  # int64: sizes and codes, meaning declared by the family
    hyper: np.ndarray  # float32: real-valued constants (regularisation, loss scale, ...)


class Facts(NamedTuple):
    """What docs/tasks.md says about a family; each a short text, none may be empty.

    model       the loss as a formula, x a batch of B examples
    data        where examples come from
    source      paper or section the family is built from
    deviations  what differs from the source, and what its published bugs became; "none"
    """

    model: str
    data: str
    source: str
    deviations: str


_F32 = types.float32[::1]
TASK_DATA_TYPE = types.NamedTuple([_F32, types.int32[::1], types.int64[::1], _F32], TaskData)

# evaluate(params, grad, data, rows, stream, split, step, work, with_grad) -> loss
EVALUATE_SIG = types.float64(
    _F32,
    _F32,
    TASK_DATA_TYPE,
    types.int64[::1],
    types.uint32[::1],
    types.int64,
    types.int64,
    _F32,
    types.int64,
)


class Task(abc.ABC):
    """Interface of a task.  Families are frozen dataclasses; `register_task` names them.

    The kernel `core(params, grad, data, rows, stream, split, step, work, with_grad) -> loss`:
        params    (N,)  float   where to evaluate
        grad      (N,)  float   OVERWRITTEN with d loss / d params if with_grad, else untouched
        data      TaskData
        rows      (B,)  int64   rows of the data set that make up the batch; ignored by tasks without data
        stream    (3,)  uint32  address (seed, outer, pair) of the task's own noise
        split     int           index into SPLITS; step: inner step, both part of the noise's address
        work      (work_size(B),) float  scratch, contents undefined before and after

    `entry` is the core compiled for EVALUATE_SIG; every class that states a core gets one.
    """

    family: ClassVar[str]
    facts: ClassVar[Facts]
    core: ClassVar[Callable[..., float]]
    entry: ClassVar[Callable[..., float]]
    lowest_loss: ClassVar[float] = 0.0
    noisy_gradient: ClassVar[bool] = (
        False  # gradient random at a fixed loss; its mean: gradient_gain * derivative
    )
    gradient_gain: ClassVar[float] = 1.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(cls.__dict__.get("core"), staticmethod):
            cls.entry = entry_point(EVALUATE_SIG)(cls.core)

    batch_size: int

    @functools.cached_property
    @abc.abstractmethod
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""

    @functools.cached_property
    @abc.abstractmethod
    def arrays(self) -> TaskData:
        """Constant arrays the kernel reads."""

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        """Four disjoint row ranges [lo, hi) in the order of SPLITS; ((0, 1),) * 4 for tasks without data.

        Four times the same range where the data are not a sample but the objective itself (losg).
        """
        return ((0, 1),) * 4

    @abc.abstractmethod
    def work_size(self, batch: int) -> int:
        """Elements of scratch the kernel needs for a batch of that many rows."""

    @abc.abstractmethod
    def activations(self, batch: int) -> int:
        """Numbers of a forward pass of that many rows that its backward pass reads: what a tape would hold.

        They say how much a gradient needs, however its kernel is written, so each counts once and scratch does not: the
        batch as the model takes it, and random numbers; what each layer passes on; gates and cells; what a norm
        divides by and what it makes of it; attention weights; logits, all of them.  The argument of a nonlinearity
        counts besides its result only where the derivative is not a function of the result (`lopt.ops.activations`).
        Masks, indices and losses, one per row, do not count.
        """

    @property
    def memory(self) -> int:
        """Bytes of one loss and gradient at its peak: parameters, gradient and scratch.

        The data set is shared by all tasks of a process, and batches are rows of it, so neither counts.
        """
        return 4 * (2 * self.layout.size + self.work_size(self.batch_size))

    @property
    def operations(self) -> float:
        """Multiplications and additions of one loss and gradient, about; for sharing out work and for speed figures.

        Here: a product of every parameter with every example, forward, to the weights and to the inputs.
        """
        return 6.0 * self.layout.size * self.batch_size

    @abc.abstractmethod
    def init(self, stream: np.ndarray) -> np.ndarray:
        """Initial parameters, (N,) float32, a pure function of the stream (seed, outer, pair)."""

    @abc.abstractmethod
    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        """Loss and gradient in plain NumPy float64: slow, obvious, the oracle of the kernel."""

    @classmethod
    @abc.abstractmethod
    def examples(cls) -> list[Self]:
        """A few small instances that together cover the family; the registry-driven tests run on them."""

    def config(self) -> dict[str, Any]:
        """The options that rebuild this task: `task(**task.config())` equals it."""
        return {"family": self.family, **dataclasses.asdict(self)}

    @property
    def name(self) -> str:
        """Its spec with the options that differ from the defaults; `lopt.tasks.parse_task` rebuilds the task from it."""
        options = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        }
        return spec(self.family, options)


TASKS: dict[str, type[Task]] = {}


def register_task(
    family: str, *, model: str, data: str, source: str, deviations: str
) -> Callable[[type[Task]], type[Task]]:
    """Class decorator: make a family known by name to the library, the command line, the tests and docs/tasks.md."""

    def add(cls: type[Task]) -> type[Task]:
        cls.family = family
        cls.facts = Facts(model, data, source, deviations)
        TASKS[family] = cls
        return cls

    return add


def task(family: str, **options: Any) -> Task:
    """Build a task by family name.

    Raises:
        TaskError: unknown family or option, or a value the family refuses; names the nearest valid one.
    """
    return build(TASKS, "task family", TaskError, family, options)
