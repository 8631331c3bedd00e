"""TaskSet's `losg` family: eleven small objectives and three wrappers around them, one kernel.

Source: Wichrowska et al. 2017, "Learned Optimizers that Scale and Generalize", with the settings of
TaskSet (Metz et al. 2020); task set specification 3.12 and 4.
"""

import dataclasses
import functools
import math
from typing import Any, Self

import numpy as np

from lopt import rng
from lopt.errors import TaskError, unknown
from lopt.lanes import PARTIALS
from lopt.layout import Layout
from lopt.ops.activations import ACTIVATIONS
from lopt.ops.mlp_stack import stack_activations, stack_tensors, stack_units
from lopt.task import Task, TaskData, register_task
from lopt.tasks import losg_data, losg_reference, losg_sampler
from lopt.tasks.checks import check_flag, check_integer, check_widths
from lopt.tasks.functions2d import FUNCTIONS, Function2D
from lopt.tasks.losg_core import HEAD, KINDS, WRAPPERS, losg_evaluate
from lopt.tasks.losg_kernels import EPS, TINY

SYMMETRIC = ("sum_of_quadratics", "projection_quadratic")
FLAT = ("bowl", "optimization_test_problems")
CLASSIFIERS = ("fully_connected", "sparse_softmax_regression")
RANGES = {  # float32 holds them, and float64 a norm's powers
    "noise": (0.0, 1e30),
    "condition": (1e-30, 1e30),
    "angle": (-1e3, 1e3),
    "power": (0.02, 1e3),
    "scale": (1e-30, 1e30),
    "zero_prob": (0.0, 1.0),
}
INIT_SCALE = 1.2  # of a classifier's tensors, over sqrt(first dimension)


def check_number(option: str, value: object, low: float, high: float) -> None:
    """Refuse what is not a number of low..high.

    Raises:
        TaskError: as said.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise TaskError(f"{option} = {value!r}, valid: a number, {low:g} to {high:g}")
    if not low <= value <= high:
        nearest = min(max(value, low), high)
        raise TaskError(f"{option} = {value}, valid: {low:g} to {high:g}; nearest: {nearest:g}")


@register_task(
    "losg",
    model=(
        "one of eleven objectives of a vector, plain, rescaled, as log(f + 1e-6) - log(1e-6), or "
        "with sparse gradients"
    ),
    data="1 to 20,000 generated rows that are the objective",
    source="TaskSet (Metz et al. 2020), losg_tasks_family; Wichrowska et al. 2017",
    deviations=(
        "log continued oddly below 0 and noise kept by wrappers (upstream=True: NaN, ignored); "
        "all matrices follow the seed"
    ),
)
@dataclasses.dataclass(frozen=True)
class Losg(Task):
    """Small, hard objectives of a vector: quadratics, norms, wells, chains, two classifiers.

    kind        one of KINDS; formulas in `losg_kernels`, `losg_classifiers`, `functions2d`
    wrapper     "none"; "rescale": f(params / scale), started at scale times the kind's start;
                "log": log(f + 1e-6) - log(1e-6), see below; "sparse": every entry of the gradient
                is 0 with probability zero_prob, anew at each step
    noise       standard deviation of normal noise that is added to every entry of the gradient of
                f, anew at each step, before a wrapper works on it; the loss is not perturbed
    seed        address of the matrices and of the data
    dims        n, the number of parameters; dependency_chain has n + 1
    condition, angle            of the bowl, see `functions2d.bowl`
    function    of optimization_test_problems, one of `functions2d.FUNCTIONS` but the bowl
    power       p of the norm
    features    inputs of fully_connected; width of the embeddings of sparse_softmax_regression
    hidden, activation          of fully_connected
    samples     rows of data; an odd number counts as one less in SYMMETRIC
    batch_size  rows per evaluation, may exceed samples; sums over them are sums in the objectives
                of a vector, means in the classifiers
    scale       of rescale
    zero_prob   of sparse
    upstream    the published log: NaN where f <= -1e-6

    The data are the objective: all four splits are the same rows, drawn with replacement.

    Differs from the published family:
        log       f of outward_snake and sum_of_quadratics can be negative, where the published log
                  is NaN.  Here the log is continued as an odd function, sign(f) log(1 + |f| / 1e-6)
                  with slope 1 / (|f| + 1e-6): equal wherever f >= 0, smooth, with f's minimisers.
        noise     sampled tasks pass the base's noise through their wrapper; published wrappers draw
                  it and ignore it.  `sample(seed, upstream=True)` ignores it too.  Of the
                  embeddings each entry gets the noise once; published: once per use.
        seeds     data, and the matrices of sparse problems, follow the seed; published: only the
                  matrices of other problems do.
        chain     the published batch, drawn but not used, is left out.

    Raises:
        TaskError: an option is out of range, or set although the kind and wrapper do not read it;
            names it and the nearest valid value.
    """

    kind: str = "quadratic"
    wrapper: str = "none"
    noise: float = 0.0
    seed: int = 0
    dims: int = 10
    condition: float = 1.0
    angle: float = 0.0
    function: str = "rosenbrock"
    power: float = 2.0
    features: int = 4
    hidden: tuple[int, ...] = (8,)
    activation: str = "relu"
    samples: int = 100
    batch_size: int = 1
    scale: float = 1.0
    zero_prob: float = 0.95
    upstream: bool = False

    core = staticmethod(losg_evaluate)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TaskError(unknown("kind", self.kind, KINDS))
        if self.wrapper not in WRAPPERS:
            raise TaskError(unknown("wrapper", self.wrapper, WRAPPERS))
        for option, (low, high) in RANGES.items():
            check_number(option, getattr(self, option), low, high)
        check_integer("seed", self.seed, 0, 2**32 - 1)
        check_integer("dims", self.dims, 1)
        check_integer("features", self.features, 1)
        check_integer("samples", self.samples, 2 if self.kind in SYMMETRIC else 1)
        check_integer("batch_size", self.batch_size, 1)
        if self.function not in FUNCTIONS or self.function == "bowl":
            raise TaskError(unknown("function", self.function, set(FUNCTIONS) - {"bowl"}))
        check_widths("hidden", self.hidden)
        if self.activation not in ACTIVATIONS:
            raise TaskError(unknown("activation", self.activation, ACTIVATIONS))
        check_flag("upstream", self.upstream)
        self._refuse_what_nobody_reads()

    def _refuse_what_nobody_reads(self) -> None:
        read = {"kind", "wrapper", "noise", "seed", *KINDS[self.kind], *WRAPPERS[self.wrapper]}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in read and value != field.default:
                raise TaskError(
                    f"{field.name} = {value!r} means nothing to kind {self.kind!r} with wrapper "
                    f"{self.wrapper!r}; nearest valid: {field.default!r}"
                )

    @property
    def noisy_gradient(self) -> bool:
        """Whether the gradient is random although the loss is not."""
        return self.noise > 0.0 or (self.wrapper == "sparse" and self.zero_prob > 0.0)

    @property
    def gradient_gain(self) -> float:
        """Mean of the random gradient over the loss's own: entries that are not dropped."""
        return 1.0 - self.zero_prob if self.wrapper == "sparse" else 1.0

    @property
    def lowest_loss(self) -> float:
        """A lower bound that no evaluation undercuts; of most kinds the minimum.

        Of outward_snake and sum_of_quadratics over all batches that could be drawn.
        """
        f = self._lowest_objective
        return math.copysign(math.log1p(abs(f) / EPS), f) if self.wrapper == "log" else f

    @property
    def _lowest_objective(self) -> float:
        if self.kind in FLAT:
            return self._function.lowest_loss
        if self.kind == "norm":
            return EPS * self.dims ** (1.0 / self.power)
        if self.kind == "min_max_well":
            return TINY
        if self.kind == "outward_snake":
            return self.batch_size * min(0.0, float(self._rows[:, 0].min())) / EPS
        if self.kind == "sum_of_quadratics":
            return -self.batch_size * float((self._rows**2).sum(axis=1).max())
        return 0.0

    @property
    def _function(self) -> Function2D:
        function = "bowl" if self.kind == "bowl" else self.function
        return Function2D(function, self.condition, self.angle)

    @functools.cached_property
    def layout(self) -> Layout:
        """The tensors as published."""
        n, f = self.dims, self.features
        if self.kind in CLASSIFIERS:
            embeds = self.kind == "sparse_softmax_regression"
            return Layout([("embedding", (2, f))] * embeds + stack_tensors(self._widths))
        shapes = {
            "bowl": (2, 1),
            "optimization_test_problems": (2,),
            "quadratic": (n, 1),
            "norm": (n, 1),
            "dependency_chain": (n + 1,),
            "sum_of_quadratics": (1, n),
            "projection_quadratic": (1, n),
        }
        return Layout((("x", shapes.get(self.kind, (n,))),))

    @property
    def _widths(self) -> tuple[int, ...]:
        if self.kind == "sparse_softmax_regression":
            return (self.features, 2)
        return (self.features, *self.hidden, 2)

    @functools.cached_property
    def _n_rows(self) -> int:
        return self.samples - self.samples % 2 if self.kind in SYMMETRIC else self.samples

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        """Four times all rows."""
        return ((0, self._n_rows if "samples" in KINDS[self.kind] else 1),) * 4

    @functools.cached_property
    def _data(self) -> tuple[np.ndarray, np.ndarray]:
        if self.kind in ("quadratic", "norm"):
            return losg_data.matrix_and_target(self.dims, self.seed), np.zeros(0, np.int32)
        if self.kind in SYMMETRIC:
            return losg_data.random_symmetric(self.dims, self._n_rows, self.seed)
        if self.kind in ("outward_snake", "fully_connected"):
            features = self.dims if self.kind == "outward_snake" else self.features
            return losg_data.random_mlp(features, self._n_rows, self.seed)
        if self.kind == "sparse_softmax_regression":
            return losg_data.noisy_parity(self._n_rows, self.seed)
        return np.zeros(0, np.float32), np.zeros(0, np.int32)

    @property
    def _rows(self) -> np.ndarray:
        """The data, (rows, features) float64."""
        return self._data[0].astype(np.float64)

    @functools.cached_property
    def arrays(self) -> TaskData:
        """See `losg_evaluate`."""
        floats, labels = self._data
        sizes = [list(KINDS).index(self.kind), list(WRAPPERS).index(self.wrapper), self.upstream]
        hyper = [self.noise, self.scale, self.zero_prob]
        if self.kind in FLAT:
            own = self._function.arrays
            sizes, hyper = [*sizes, *own.sizes.tolist()], [*hyper, *own.hyper.tolist()]
        elif self.kind in CLASSIFIERS:
            embeds = self.kind == "sparse_softmax_regression"
            code = ACTIVATIONS.index("linear" if embeds else self.activation)
            sizes += [embeds, code, *self._widths]
        elif self.kind == "norm":
            hyper.append(self.power)
        return TaskData(
            np.ascontiguousarray(floats).reshape(-1),
            labels,
            np.array(sizes, np.int64),
            np.array(hyper, np.float32),
        )

    def activations(self, batch: int) -> int:
        """Mostly one vector, such as W x - y, whatever the batch: the objectives of a vector sum over it first."""
        if self.kind in CLASSIFIERS:
            counts = 2 if self.kind == "sparse_softmax_regression" else 0
            return batch * (stack_activations(self._widths, self.activation) + counts)
        vectors = {
            "bowl": 0,
            "optimization_test_problems": 0,
            "min_max_well": 0,
            "outward_snake": 3,
        }
        rescaled = self.layout.size if self.wrapper == "rescale" else 0
        return vectors.get(self.kind, 1) * self.layout.size + rescaled

    def work_size(self, batch: int) -> int:
        n, w = self.dims, self._widths
        classifier = batch * (stack_units(w) + 3) + PARTIALS
        own = {
            "quadratic": n + PARTIALS,
            "norm": 2 * (n + PARTIALS),
            "dependency_chain": n + PARTIALS,
            "min_max_well": 2 * (n + PARTIALS),
            "sum_of_quadratics": 3 * n + PARTIALS,
            "projection_quadratic": 3 * n + PARTIALS,
            "outward_snake": 4 * n + PARTIALS,
            "sparse_softmax_regression": classifier,
            "fully_connected": classifier,
        }.get(self.kind, 0)
        return own + (self.layout.size if self.wrapper in ("rescale", "sparse") else 0)

    def init(self, stream: np.ndarray) -> np.ndarray:
        """Standard normals; the test functions' boxes; 1.2 / sqrt(first dimension) in classifiers."""
        if self.kind in FLAT:
            params = self._function.init(stream)
        else:
            params = rng.normals(self.layout.size, stream, rng.INIT)
        if self.kind in CLASSIFIERS:
            for view in self.layout.views(params).values():
                view *= np.float32(INIT_SCALE / math.sqrt(view.shape[0]))
        return params * np.float32(self.scale) if self.wrapper == "rescale" else params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        """See `Task.reference`."""
        noise, scale, zero_prob = map(float, self.arrays.hyper[:HEAD])
        x = params / scale if self.wrapper == "rescale" else params
        f, g = self._reference_objective(x, rows)
        n, purpose = g.size, rng.NOISE + split
        g = g + noise * rng.normals(n, stream, purpose, step).astype(np.float64)
        if self.wrapper == "rescale":
            return f, g / scale
        if self.wrapper == "sparse":
            u = rng.uniforms(n, stream, purpose, step, start=n + -n % 4)
            return f, np.where(u < zero_prob, 0.0, g)
        if self.wrapper == "log" and self.upstream:
            with np.errstate(invalid="ignore"):
                return float(np.log(f + EPS) - np.log(EPS)), g / (f + EPS)
        if self.wrapper == "log":
            return float(np.sign(f) * np.log1p(abs(f) / EPS)), g / (abs(f) + EPS)
        return f, g

    def _reference_objective(self, x: np.ndarray, rows: np.ndarray) -> tuple[float, np.ndarray]:
        floats, labels = self._data
        n, objective = self.dims, getattr(losg_reference, self.kind, None)
        if self.kind in FLAT:
            return self._function.reference(x, rows, rng.stream(0), 0, 0)
        if self.kind in ("dependency_chain", "min_max_well"):
            return objective(x)
        floats = floats.astype(np.float64)
        if self.kind in ("quadratic", "norm"):
            power = [float(p) for p in self.arrays.hyper[HEAD:]]
            return objective(x, floats[: n * n].reshape(n, n), floats[n * n :], *power)
        if self.kind not in CLASSIFIERS:
            return objective(x, floats[rows])
        loss, grads = losg_reference.classifier(
            self.layout.views(x), self.activation, floats[rows], labels[rows]
        )
        return loss, self.layout.flatten(grads, np.float64)

    @staticmethod
    def sample_config(seed: int) -> tuple[str, dict[str, Any], int]:
        """(sub-family, fields, instance seed) of `losg_tasks_family_seed<seed>` as published."""
        return losg_sampler.draw(seed)

    @classmethod
    def sample(cls, seed: int, upstream: bool = False) -> Self:
        """Task `losg_tasks_family_seed<seed>` of TaskSet; `upstream`: with its quirks, see above."""
        return cls(**losg_sampler.options(*losg_sampler.draw(seed), upstream))

    @classmethod
    def examples(cls) -> list[Self]:
        """Every kind; every wrapper, with and without noise, on losses of either sign."""
        return [
            cls("bowl", condition=25.0, angle=math.pi / 3.0, noise=0.5),
            cls("optimization_test_problems", function="styblinski_tang"),
            cls("quadratic", dims=33, seed=1),
            cls("norm", dims=5, power=0.4),
            cls("norm", dims=7, power=4.5, wrapper="log"),
            cls("dependency_chain", dims=6),
            cls("min_max_well", dims=5, wrapper="rescale", scale=40.0),
            cls("sum_of_quadratics", dims=4, samples=21, batch_size=5, wrapper="log"),
            cls("projection_quadratic", dims=9, samples=40, batch_size=50),
            cls("outward_snake", dims=6, samples=30, batch_size=3),
            cls("outward_snake", dims=5, wrapper="log", noise=0.1),
            cls("sparse_softmax_regression", features=3, samples=12, batch_size=9),
            cls("fully_connected", hidden=(5, 4), activation="tanh", samples=9, batch_size=5),
            cls("fully_connected", features=2, hidden=(), samples=7, wrapper="rescale", scale=0.1),
            cls("quadratic", dims=6, wrapper="sparse", zero_prob=0.9, noise=2.0),
        ]
