"""The task family `learned_optimizer`: options, constants, reference, sampler."""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Self

import numpy as np

from lopt import rng
from lopt.arch.mlp_optimizer import MlpOptimizer
from lopt.data.datasets import load, split_ranges
from lopt.errors import TaskError, unknown
from lopt.layout import Layout
from lopt.meta_task.core import (
    CEILING,
    CONSTANTS,
    INSIDE,
    learned_optimizer_evaluate,
)
from lopt.optimizer import OptData, Optimizer
from lopt.optimizer import optimizer as build_optimizer
from lopt.registry import spec
from lopt.task import TRAIN, Task, TaskData, register_task
from lopt.tasks import samplers
from lopt.tasks.checks import check_integer
from lopt.tasks.mlp import Mlp
from lopt.tasks.names import parse_task, parse_task_spec
from lopt.tasks.transformer_options import first_affordable, floor_logint, image_stand_in

# What lopt has for the names that VeLO draws from, in the order of the specification (11.1 and 11.2)
DRAWN_ACTIVATIONS = (  # relu, relu, relu6, selu, tanh, cos, sin, sigmoid, silu, swish, gelu, leaky relu of slope -0.5
    "relu", "relu", "relu", "elu", "tanh", "cos", "cos", "sigmoid", "swish", "swish", "swish",
    "leaky_relu4",
)  # fmt: skip

DRAWN_INITIALISERS = (  # name, power of the drawn scale: laws of equal variance, truncated normals for uniforms
    ("orthogonal", 1), ("variance_scaling", 2), ("variance_scaling", 1), ("variance_scaling", 1),
    ("variance_scaling", 1),
)  # fmt: skip
MOST_STARTS = 2**22  # numbers in the initial parameters of a sampled task's inner problems
DRAWN_OPTIMIZERS = ("adam", "momentum", "sgd", "mlp", "mlp")  # the last for AdafacMLPLOpt


@register_task(
    "learned_optimizer",
    model=(
        "mean over inner trainings with theta = params and their steps of the normalised, clipped inner loss; "
        "gradient estimated by evolution strategies"
    ),
    data="of the inner task",
    source="VeLO's task distribution (Metz et al. 2022); task set specification 11.2",
    deviations=(
        "evolution strategies where the source goes back through the unroll; finitely many inner problems; inner "
        "tasks of the family mlp, and four optimizers"
    ),
)
@dataclasses.dataclass(frozen=True)
class LearnedOptimizer(Task):
    """A learned optimizer as a task: its theta are the parameters, the loss is what inner trainings with it reach.

    inner       spec of the inner task, of the family mlp
    optimizer   spec of the inner optimizer: sgd, momentum, adam or mlp; theta as its `theta_layout` says
    unroll      steps T of an inner training
    batch_size  inner problems averaged
    problems    inner problems there are: a row of this task is one, its initial parameters and its batches
    instance    seed of the inner problems
    pairs       antithetic pairs of the gradient
    sigma       standard deviation of their perturbations, the same for all of theta
    clip        largest normalised loss; 10 is the published cross-entropy of log 2C for ten classes

    The loss is the mean over inner problems and steps of (f - log(C / 5)) 10 / log C, with f an inner loss among C
    classes, clipped; from the first value on that is not finite, f is the clip.  Inner trainings always run on the
    training rows of the inner task.  The split says which losses count: train those of the training batches before each
    step, as published; the other splits that of a batch of the inner task's same split after each step.  Inner problems
    of different splits are disjoint too (70, 10, 10 and 10 %).

    The gradient is g = mean over pairs of z (f(theta + sigma z) - f(theta - sigma z)) / (2 sigma): all members train on
    the same problems with the same batches.  Its mean is the gradient of the loss smoothed by a normal of deviation sigma.

    Raises:
        TaskError: an option is out of range; names it and what is valid.
        OptimizerError: the inner optimizer refuses its options.
    """

    inner: str = "mlp:hidden=[8],batch_size=16"
    optimizer: str = "adam"
    unroll: int = 10
    batch_size: int = 2
    problems: int = 40
    instance: int = 0
    pairs: int = 2
    sigma: float = 0.05
    clip: float = 10.0

    noisy_gradient: ClassVar[bool] = True

    core = staticmethod(learned_optimizer_evaluate)

    def __post_init__(self) -> None:
        for option in ("inner", "optimizer"):
            if not isinstance(getattr(self, option), str):
                raise TaskError(f"{option} = {getattr(self, option)!r}, valid: a string")
        if type(self.inner_task) is not Mlp:
            raise TaskError(f"inner = {self.inner!r}, valid: a task of the family mlp")
        if self.inner_optimizer.name not in INSIDE:
            raise TaskError(unknown("inner optimizer", self.inner_optimizer.name, INSIDE))
        for option, lowest in (("unroll", 1), ("batch_size", 1), ("problems", 7), ("pairs", 1)):
            check_integer(option, getattr(self, option), lowest)
        check_integer("instance", self.instance, 0, 2**32 - 1)
        for option, lowest in (("sigma", 0.0), ("clip", self.lowest_loss)):
            value = getattr(self, option)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and lowest < value < math.inf):
                raise TaskError(f"{option} = {value!r}, valid: a finite number above {lowest}")

    @functools.cached_property
    def inner_task(self) -> Task:
        """The task that is trained on."""
        return parse_task(self.inner)

    @functools.cached_property
    def inner_optimizer(self) -> Optimizer:
        """The optimizer whose theta are the parameters."""
        name, options, augment = parse_task_spec(self.optimizer)
        if augment:
            raise TaskError(f"optimizer = {self.optimizer!r}, valid: no augmentation")
        return build_optimizer(name, **options)

    @functools.cached_property
    def layout(self) -> Layout:
        return self.inner_optimizer.theta_layout

    @property
    def classes(self) -> int:
        """Classes C of the inner task."""
        return self.inner_task.dataset.n_classes

    @property
    def lowest_loss(self) -> float:
        """Normalised loss where every inner loss is 0."""
        return -math.log(self.classes / 5.0) * 10.0 / math.log(self.classes)

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        return split_ranges(self.problems)

    @functools.cached_property
    def arrays(self) -> TaskData:
        inner, opt = self.inner_task, self.inner_optimizer
        own = opt.opt_data(inner.layout)
        code = INSIDE.index(opt.name)
        header = [
            self.unroll, self.pairs, self.instance, code, inner.layout.size, opt.state_size(inner.layout),
            inner.batch_size, inner.work_size(inner.batch_size), opt.work_size(inner.layout),
            inner.arrays.sizes.size, own.sizes.size, inner.arrays.hyper.size, own.hyper.size,
        ]  # fmt: skip
        sizes = [*header, *np.ravel(inner.splits), *inner.arrays.sizes, *own.sizes]
        shift, factor = math.log(self.classes / 5.0), 10.0 / math.log(self.classes)
        constants = np.array([self.sigma, self.clip / factor + shift, shift, factor])
        starts = [inner.init(self.inner_stream(row)) for row in range(self.problems)]
        hyper = [constants, inner.arrays.hyper, own.hyper, *starts]
        return TaskData(
            inner.arrays.floats,
            inner.arrays.ints,
            np.array(sizes, np.int64),
            np.concatenate(hyper, dtype=np.float32),
        )

    def inner_stream(self, row: int) -> np.ndarray:
        """Address of the initial parameters and batches of an inner problem."""
        return rng.stream(self.instance, int(row))

    def activations(self, batch: int) -> int:
        """One inner step's, of one member of one pair: the inner task's, its parameters, its gradient, the state.

        A learned optimizer's features and hidden units of all parameters too.  Going back through the unroll would take
        as many for every step of every inner problem.
        """
        inner, opt = self.inner_task, self.inner_optimizer
        units = opt.n_features + 2 * opt.hidden + 2 if isinstance(opt, MlpOptimizer) else 0
        optimizers = inner.layout.size * (2 + units) + opt.state_size(inner.layout)
        return inner.activations(inner.batch_size) + optimizers

    def work_size(self, batch: int) -> int:
        """As `inner_of` divides it, whatever the batch."""
        inner, opt = self.inner_task, self.inner_optimizer
        own = 3 + inner.batch_size + inner.work_size(inner.batch_size) + 2 * inner.layout.size
        return self.layout.size + own + opt.state_size(inner.layout) + opt.work_size(inner.layout)

    def init(self, stream: np.ndarray) -> np.ndarray:
        """The optimizer's own initial theta; the stream is the seed of those that are random."""
        return self.inner_optimizer.init_theta(int(rng.integers(1, 0, 2**32, stream, rng.INIT)[0]))

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        """Loss and estimated gradient; inner losses by the inner task's reference, steps by the optimizer's kernel."""
        sigma, size = float(np.float32(self.sigma)), params.size
        grad = np.zeros(size)
        for p in range(self.pairs):
            purpose = rng.ES_DIRECTION + split
            z = rng.normals(size, stream, purpose, step, start=p * size).astype(np.float64)
            plus, minus = (
                self._reference_loss(params + s * sigma * z, rows, split) for s in (1, -1)
            )
            grad += z * (plus - minus) / (2.0 * sigma * self.pairs)
        return self._reference_loss(params, rows, split), grad

    def _reference_loss(self, theta: np.ndarray, rows: np.ndarray, split: int) -> float:
        ceiling, shift, factor = self.arrays.hyper[CEILING:CONSTANTS].astype(np.float64)
        losses = [self._reference_losses(theta, row, split) for row in rows]
        clipped = np.where(np.less_equal(losses, ceiling), losses, ceiling)
        return float((clipped.mean() - shift) * factor)

    def _reference_losses(self, theta: np.ndarray, row: int, split: int) -> np.ndarray:
        """The T inner losses that count, infinite from the first value on that is not finite."""
        inner, opt, stream = self.inner_task, self.inner_optimizer, self.inner_stream(row)
        params = inner.init(stream).astype(np.float64)
        state = opt.init_state(theta, inner.layout).astype(np.float64)
        work = np.empty(opt.work_size(inner.layout))
        sizes, hyper = opt.opt_data(inner.layout)
        data = OptData(sizes, hyper.astype(np.float64))
        losses = np.full(self.unroll, np.inf)

        def evaluate(which: int, t: int) -> tuple[float, np.ndarray]:
            batch = rng.integers(
                inner.batch_size, *inner.splits[which], stream, rng.BATCH + which, t
            )
            with np.errstate(all="ignore"):
                return inner.reference(params, batch, stream, which, t)

        for t in range(self.unroll):
            loss, grad = evaluate(TRAIN, t)
            if split == TRAIN:
                losses[t] = loss
            if not (np.isfinite(loss) and np.isfinite(grad).all()):
                break
            refused = type(opt).core(theta, params, grad, state, loss, 0, data, work)
            if refused or not np.isfinite(params).all():
                break
            if split != TRAIN:
                losses[t], _ = evaluate(split, t)
        return losses

    @property
    def operations(self) -> float:
        """Of the inner losses, gradients and steps of all members; matrix products only."""
        inner, opt = self.inner_task, self.inner_optimizer
        step = inner.operations
        if isinstance(opt, MlpOptimizer):
            step += 2.0 * inner.layout.size * opt.hidden * (opt.n_features + opt.hidden + 2)
        return step * self.unroll * self.batch_size * (1 + 2 * self.pairs)

    @staticmethod
    def draw_config(r: np.random.RandomState) -> dict[str, Any]:
        """Options by the published laws of lopt and of image_mlp inside it, however large."""
        width, layers = floor_logint(r, 8, 128), samplers.choice(r, range(5))
        images = image_stand_in(r, floor_logint(r, 4, 32))
        batch = floor_logint(r, 4, 512)
        activation = samplers.choice(r, DRAWN_ACTIVATIONS)
        law, power = samplers.choice(r, DRAWN_INITIALISERS)
        scale = float(r.uniform(0.5, 2.0)) ** power
        inner = {
            **images, "batch_size": batch, "hidden": (width,) * layers, "activation": activation,
            "initialiser": law, "init_scale": scale,
        }  # fmt: skip
        name, options = samplers.choice(r, DRAWN_OPTIMIZERS), {}
        if name == "mlp":
            options = {
                "hidden": floor_logint(r, 2, 512),
                "mag_rate": samplers.logfloat(r, 1e-5, 1.0),
                "step_mult": samplers.logfloat(r, 1e-5, 1.0),
            }
        return {
            "inner": spec("mlp", inner),
            "optimizer": spec(name, options),
            "problems": min(40, max(10, MOST_STARTS // Mlp(**inner).layout.size)),
            "unroll": floor_logint(r, 1, 100),
            "batch_size": floor_logint(r, 1, 8),
            "pairs": 1,
            "clip": 10.0 * math.log(10.0) / math.log(load(images["data"]).n_classes),
        }

    @classmethod
    def sample(cls, seed: int) -> Self:
        """A random task by the law of VeLO's lopt, a pure function of the seed.

        The published random keys cannot be repeated: the draws are those of RandomState(seed), in the order of the
        specification's table.  Deviations: drawn again until it is affordable, see `first_affordable`; images are not
        resized, see `image_stand_in`; activations, initialisers and optimizers that lopt has not, or not in here,
        become near ones (see DRAWN_ACTIVATIONS and its neighbours); learned optimizers have two hidden layers; one
        antithetic pair where upstream differentiates; 10 to 40 inner problems, by size.
        """
        return first_affordable(cls, seed)

    @classmethod
    def examples(cls) -> list[Self]:
        """A hand-made and a learned optimizer; a wide sigma, as differences of float32 losses are divided by it."""
        small = functools.partial(
            cls,
            "mlp:hidden=[2],batch_size=3,activation=tanh",
            unroll=2,
            problems=9,
            pairs=1,
            sigma=0.2,
        )
        return [
            small(optimizer="adam:learning_rate=0.02"),
            small(optimizer="mlp:hidden=2,step_mult=0.05"),
        ]
