"""Augmentations: a task seen through other parameters, with a worse gradient, or both.

They widen a task distribution without new families.  Source: Metz et al. 2022, "VeLO", appendix; task set
specification 11.3 and 4.1 (gradient noise, sparse gradients).  They act around a task's kernel, so one compiled function
augments every task, and they are part of the problem, not of the optimizer: both members of a pair see the same.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numba import types

from lopt import rng
from lopt.errors import TaskError, unknown
from lopt.lanes import Returned, apart, kernel, lane, lanes, sum32, sync
from lopt.layout import Layout
from lopt.registry import instance, spec
from lopt.task import Task, TaskData

LEVELS = ("none", "global", "tensor", "parameter")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to a task; the defaults do nothing.

    reparameterise    the optimizer sees w, the loss is taken at sigma * w (so the gradient is multiplied by sigma):
                      one sigma for all ("global"), per tensor or per parameter; log-uniform in [low, high]
    seed              address of the sigmas; they are fixed for the task
    batch_fraction    share of the batch that is kept, at least one example
    loss_scale        factor on loss and gradient
    normalise         gradient divided by its norm (a zero gradient stays zero)
    gradient_noise    standard deviation of normals added to every coordinate of the gradient; the loss is not touched
    zero_probability  chance of every coordinate of the gradient to be zero in a step
    delay             training loss and gradient are those at the parameters of so many steps ago (at the start: the
                      initial ones)

    They apply in this order, from parameters to gradient.

    Raises:
        TaskError: a value out of range; names it and what is valid.
    """

    reparameterise: str = "none"
    low: float = 0.01
    high: float = 100.0
    seed: int = 0
    batch_fraction: float = 1.0
    loss_scale: float = 1.0
    normalise: bool = False
    gradient_noise: float = 0.0
    zero_probability: float = 0.0
    delay: int = 0

    def __post_init__(self) -> None:
        if self.reparameterise not in LEVELS:
            raise TaskError(unknown("reparameterise", self.reparameterise, LEVELS))
        checks = {
            "low": (0 < self.low <= self.high, "a number above 0, at most high"),
            "high": (self.high < math.inf, "a finite number"),
            "seed": (0 <= self.seed < 2**32, "0 to 2^32 - 1"),
            "batch_fraction": (0 < self.batch_fraction <= 1, "above 0, at most 1"),
            "loss_scale": (0 < self.loss_scale < math.inf, "a finite number above 0"),
            "gradient_noise": (0 <= self.gradient_noise < math.inf, "a finite number, 0 or more"),
            "zero_probability": (0 <= self.zero_probability < 1, "0 or more, below 1"),
            "delay": (self.delay >= 0, "an integer, 0 or more"),
        }
        for key, (good, valid) in checks.items():
            if not good:
                raise TaskError(f"augment {key} = {getattr(self, key)!r}, valid: {valid}")

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        }


class AugmentData(NamedTuple):
    """An augmentation as kernels read it.

    scale     (N,) float32 sigmas; empty: none
    settings  float64 (6,): see the codes below
    """

    scale: np.ndarray
    settings: np.ndarray


ACTIVE, LOSS_SCALE, NORMALISE, NOISE, ZERO, DELAY = range(6)
AUGMENT_DATA_TYPE = types.NamedTuple([types.float32[::1], types.float64[::1]], AugmentData)
NOTHING = AugmentData(np.zeros(0, np.float32), np.zeros(6))


def memory_size(augment: AugmentData, n_params: int) -> int:
    """Floats that a particle keeps between steps: the parameters of the last delay + 1 steps."""
    delay = int(augment.settings[DELAY])
    return (delay + 1) * n_params if delay else 0


def work_size(augment: AugmentData, n_params: int) -> int:
    """Floats of scratch of `evaluate_augmented`."""
    return n_params + 32 if augment.settings[ACTIVE] else 0


@kernel
def evaluate_augmented(
    evaluate, params, grad, task_data, rows, stream, split, step, task_work, with_grad,
    augment, memory, work,
):  # fmt: skip
    """`evaluate` of a task, seen through an augmentation; without one just that.

    Shapes: as `lopt.task.Task` has them; memory (memory_size,) UPDATED by calls with gradient, which must come once for
    every step from 0 on; work (work_size,) scratch.
    """
    apart()
    n, at = params.size, params
    active, delay = augment.settings[ACTIVE] != 0.0, int(augment.settings[DELAY])
    if delay > 0 and with_grad != 0:
        at = remembered(params, memory, delay, step).array
    if augment.scale.size > 0:
        inner = work[:n]
        for i in range(lane(), n, lanes()):
            inner[i] = augment.scale[i] * at[i]
        sync()
        at = inner
    loss = evaluate(at, grad, task_data, rows, stream, split, step, task_work, with_grad)
    if active and with_grad != 0:
        change_gradient(grad, augment, stream, step, work)
    return loss * augment.settings[LOSS_SCALE] if active else loss


@kernel
def remembered(params, memory, delay, step):
    """The parameters of `delay` steps ago, or of step 0; those of this step are kept.  `Returned` (N,), a view of memory."""
    n = params.size
    places = delay + 1
    now = (step % places) * n
    for i in range(lane(), n, lanes()):
        memory[now + i] = params[i]
    sync()
    then = ((step - delay) % places) * n if step >= delay else 0
    return Returned(memory[then : then + n])


@kernel
def change_gradient(grad, augment, stream, step, work):
    """The gradient's part of an augmentation, in place."""
    n = grad.size
    real = grad.dtype.type
    factor = real(augment.settings[LOSS_SCALE])
    scaled = augment.scale.size > 0
    for i in range(lane(), n, lanes()):
        # loss = factor * f(scale * w)
        grad[i] *= factor * augment.scale[i] if scaled else factor
    sync()
    if augment.settings[NORMALISE] != 0.0:
        normalise(grad, work)
    if augment.settings[NOISE] > 0.0:
        rng.add_normals(
            grad, real(augment.settings[NOISE]), 0, stream, rng.GRADIENT_NOISE, step
        )  # fmt: skip
        sync()
    if augment.settings[ZERO] > 0.0:
        mask = work[:n]
        rng.uniforms_into(mask, 0, stream, rng.GRADIENT_MASK, step)
        sync()
        for i in range(lane(), n, lanes()):
            if mask[i] < augment.settings[ZERO]:
                grad[i] = real(0.0)
        sync()


@kernel
def normalise(grad, work):
    """grad /= |grad| in place; a zero or non-finite gradient is left as it is."""
    n = grad.size
    largest = grad.dtype.type(0.0)
    for i in range(n):
        largest = max(largest, abs(grad[i]))  # every lane looks at all: no reduction needed
    if not (largest > 0.0 and largest < math.inf):
        return
    squares, partials = work[:n], work[n : n + 32]
    for i in range(lane(), n, lanes()):
        share = grad[i] / largest  # squares can neither overflow nor vanish all
        squares[i] = share * share
    sync()
    norm = grad.dtype.type(math.sqrt(sum32(squares, n, partials)))
    for i in range(lane(), n, lanes()):
        grad[i] = grad[i] / largest / norm
    sync()


@dataclasses.dataclass(frozen=True)
class AugmentedTask(Task):
    """A task under an augmentation.  Its kernel is the task's own; rollouts apply `augment_data` around it."""

    task: Task
    augmentation: Augmentation

    family: ClassVar[str] = "augmented"

    @property
    def core(self) -> Callable[..., float]:
        """Kernel of the task inside."""
        return type(self.task).core

    @property
    def entry(self) -> Callable[..., float]:
        """Compiled entry of the task inside."""
        return self.task.entry

    @property
    def batch_size(self) -> int:
        """Examples per mini-batch that are kept."""
        return max(1, int(self.task.batch_size * self.augmentation.batch_fraction))

    @property
    def operations(self) -> float:
        """As many as the task's, for the examples that are kept."""
        return self.task.operations * self.batch_size / self.task.batch_size

    @property
    def lowest_loss(self) -> float:
        """Lowest known loss, scaled."""
        return self.task.lowest_loss * self.augmentation.loss_scale

    @functools.cached_property
    def layout(self) -> Layout:
        return self.task.layout

    @functools.cached_property
    def arrays(self) -> TaskData:
        return self.task.arrays

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        return self.task.splits

    def work_size(self, batch: int) -> int:
        return self.task.work_size(batch)

    def activations(self, batch: int) -> int:
        return self.task.activations(batch)

    @functools.cached_property
    def scale(self) -> np.ndarray:
        """The sigmas, (N,) float32; empty without reparameterisation."""
        a, layout = self.augmentation, self.layout
        counts = {"none": 0, "global": 1, "tensor": len(layout), "parameter": layout.size}
        n = counts[a.reparameterise]
        u = rng.uniforms(n, rng.stream(a.seed), rng.SCALES).astype(np.float64)
        sigma = np.exp(math.log(a.low) + u * (math.log(a.high) - math.log(a.low)))
        repeats = {"global": layout.size, "tensor": layout.sizes}.get(a.reparameterise, 1)
        return np.repeat(sigma, repeats).astype(np.float32)

    @functools.cached_property
    def augment_data(self) -> AugmentData:
        """What kernels read."""
        a = self.augmentation
        settings = np.zeros(6)
        settings[ACTIVE] = 1.0
        settings[LOSS_SCALE], settings[NORMALISE] = a.loss_scale, a.normalise
        settings[NOISE], settings[ZERO] = a.gradient_noise, a.zero_probability
        settings[DELAY] = a.delay
        return AugmentData(self.scale, settings)

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = self.task.init(stream)
        return params / self.scale if self.scale.size else params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        """Loss and gradient without the noise, the zeros and the delay."""
        scale = self.scale.astype(np.float64) if self.scale.size else 1.0
        loss, grad = self.task.reference(scale * params, rows, stream, split, step)
        factor = self.augmentation.loss_scale
        grad = factor * scale * grad
        if self.augmentation.normalise:
            grad = grad / (np.linalg.norm(grad) or 1.0)
        return factor * loss, grad

    @classmethod
    def examples(cls) -> list["AugmentedTask"]:
        return []

    def config(self) -> dict[str, Any]:
        return {**self.task.config(), "augment": self.augmentation.changed()}

    @property
    def name(self) -> str:
        return f"{self.task.name}+{spec('', self.augmentation.changed())[1:]}"


def augment(task: Task, **options: Any) -> AugmentedTask:
    """A task under an augmentation; the options are the fields of `Augmentation`.

    Raises:
        TaskError: an unknown option, a value of a wrong type or out of range.
    """
    return AugmentedTask(task, instance(Augmentation, "augment", TaskError, options))
