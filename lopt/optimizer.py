"""What an optimizer is, hand-made or learned, and the registry of optimizers.

An optimizer turns meta-parameters theta, parameters, a gradient and an explicit state into new parameters and a new
state.  Hand-made optimizers have their hyper-parameters as theta, so the outer loop can learn those too.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numba import types

from lopt.borrowed import borrowed
from lopt.errors import OptimizerError
from lopt.lanes import entry_point, pin_blas_threads
from lopt.layout import Layout
from lopt.model_arrays import flatten, floats, number, tensors_of, too_large
from lopt.registry import build
from lopt.subnormals import flush, restore


class OptData(NamedTuple):
    """Constant arrays of an optimizer applied to one parameter layout."""

    sizes: np.ndarray  # int64: tensor table and sizes, meaning declared by the optimizer
    hyper: np.ndarray  # float32: constants that are not learned


_F32 = types.float32[::1]
OPT_DATA_TYPE = types.NamedTuple([types.int64[::1], _F32], OptData)

# step(theta, params, grad, state, loss, is_valid, data, work) -> status
STEP_SIG = types.int64(_F32, _F32, _F32, _F32, types.float64, types.int64, OPT_DATA_TYPE, _F32)

TABLE_COLUMNS = 7  # offset, size, rank, then the first four axis lengths (1 where missing)


def tensor_table(layout: Layout) -> np.ndarray:
    """Flat int64 table [n_tensors, then per tensor: offset, size, rank, d0, d1, d2, d3].

    Axes beyond the fourth are folded into d3; missing axes are 1.
    """
    rows = []
    for shape, offset, size in zip(layout.shapes, layout.offsets, layout.sizes, strict=True):
        dims = [*shape[:3], int(np.prod(shape[3:], dtype=np.int64))] if len(shape) > 4 else [*shape]
        rows += [offset, size, len(shape), *(dims + [1] * 4)[:4]]
    return np.array([len(layout), *rows], np.int64)


def nonempty_table(layout: Layout) -> np.ndarray:
    """`tensor_table` of the tensors that have elements: the mean over an empty one is not a number."""
    return tensor_table(Layout((name, shape) for name, shape in layout if 0 not in shape))


class State(NamedTuple):
    """State of an optimizer on the user's own parameters: flat arrays that can be saved and restored.

    `flat` (S,) float32 as the kernels see it; `theta` (D,) float32 the meta-parameters in use.
    """

    flat: np.ndarray
    theta: np.ndarray
    layout: Layout


MANY = 20_000  # parameters from which on arrays without owners save more than handing over a function costs: 40 us


@entry_point(types.int64(types.FunctionType(STEP_SIG), *STEP_SIG.args))
def _step_cpu(step, theta, params, grad, state, loss, is_valid, data, work):
    before = flush()
    status = step(
        borrowed(theta), borrowed(params), borrowed(grad), borrowed(state), loss, is_valid, borrowed(data),
        borrowed(work),
    )  # fmt: skip
    restore(before)
    return status


class Optimizer(abc.ABC):
    """Interface of an optimizer.  Optimizers are frozen dataclasses; `register_optimizer` names them.

    The kernel `core(theta, params, grad, state, loss, is_valid, data, work) -> status`:
        theta     (D,)  float   meta-parameters
        params    (N,)  float   UPDATED in place
        grad      (N,)  float   gradient; may be used as scratch
        state     (S,)  float   UPDATED in place; holds the step counter
        loss      float64       training loss of this step, or validation loss if is_valid
        is_valid  int           1: only statistics and the step counter may move, params stay
        data      OptData
        work      (work_size(layout),) float  scratch
        status    0 ok, anything else: the step was refused (non-finite input)

    `entry` is the core compiled for STEP_SIG; every class that states a core gets one.

    `hand_made` says that theta are the options, which need no training: `init_theta` is then what a user means who gives
    none.  A learned optimizer has to be told its theta.
    """

    name: ClassVar[str]
    core: ClassVar[Callable[..., int]]
    entry: ClassVar[Callable[..., int]]
    hand_made: ClassVar[bool] = False
    uses_valid_loss: ClassVar[bool] = False
    uses_loss: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(cls.__dict__.get("core"), staticmethod):
            cls.entry = entry_point(STEP_SIG)(cls.core)

    @property
    @abc.abstractmethod
    def theta_layout(self) -> Layout:
        """Names and shapes of the meta-parameters."""

    @abc.abstractmethod
    def init_theta(self, seed: int = 0) -> np.ndarray:
        """Initial meta-parameters, (D,) float32."""

    @abc.abstractmethod
    def state_size(self, layout: Layout) -> int:
        """Elements of state for parameters of that layout."""

    @abc.abstractmethod
    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        """State before the first step, (S,) float32."""

    def sizes(self, layout: Layout) -> np.ndarray:
        """The int64 table the kernel reads; by default `tensor_table`."""
        return tensor_table(layout)

    def hyper(self) -> np.ndarray:
        """float32 constants the kernel reads; none by default."""
        return np.zeros(0, np.float32)

    def work_size(self, layout: Layout) -> int:
        """Elements of scratch the kernel needs; none by default."""
        return 0

    def opt_data(self, layout: Layout) -> OptData:
        """Constant arrays for parameters of that layout."""
        return OptData(self.sizes(layout), self.hyper())

    @classmethod
    def examples(cls) -> list[Self]:
        """Instances for the registry-driven tests; the defaults unless a family says more."""
        return [cls()]

    def config(self) -> dict[str, Any]:
        """The options that rebuild this optimizer: `optimizer(**opt.config())` equals it."""
        return {"name": self.name, **dataclasses.asdict(self)}

    # The surface for a model of the user's own: a dict of arrays in, a dict of arrays out.

    def init(self, params: Mapping[str, np.ndarray], theta: np.ndarray | None = None) -> State:
        """State for a dict of arrays: NumPy's, or on a GPU (`__cuda_array_interface__`, float32, contiguous).

        Args:
            params: named float arrays of any shape.  All is computed in float32, and new parameters are float32:
                float64 and float16 are converted, integers and complex numbers are refused.
            theta: (D,) meta-parameters, for instance `load_weights(...).theta`; only a hand-made optimizer has its own.

        Raises:
            OptimizerError: no dict, or an array that is not of finite floats (on a GPU `update` is the first to look at
                values); theta has the wrong shape, is not finite, or was not given to a learned optimizer.
            DeviceError: the parameters are on a GPU that numba-cuda does not find.
        """
        theta = self.theta_or_own(theta)
        if _on_gpu(params):
            from lopt import cuda_update

            return cuda_update.init(self, params, theta)
        layout = Layout.of(tensors_of("params", params))
        flatten("params", params, layout)  # refuses what is not finite
        return State(self.init_state(theta, layout), theta, layout)

    def update(
        self,
        params: Mapping[str, np.ndarray],
        grads: Mapping[str, np.ndarray],
        state: State,
        loss: float | None = None,
        valid_loss: float | None = None,
    ) -> tuple[dict[str, np.ndarray], State]:
        """One step.  Inputs are left untouched; new parameters, float32, and a new state are returned.

        A `valid_loss` is shown to the optimizer first, as a validation call of its own, then the training step is made:
        the order of a fused rollout, so both surfaces give the same numbers.

        Parameters on a GPU are updated where they are, in one launch, and so is the state: what is returned is what was
        given.

        Raises:
            OptimizerError: nothing is changed then.  Tensors do not match the state's layout; a parameter, gradient or
                loss is not a finite float, or so large that a new parameter or the state would not be finite; the state
                is of another optimizer; the optimizer needs a loss and none was given.
        """
        pin_blas_threads()
        loss, valid_loss = number("loss", loss), number("valid_loss", valid_loss)
        if self.uses_loss and loss is None:
            raise OptimizerError(f"optimizer {self.name!r} needs the training loss: pass loss=...")
        layout, needs = state.layout, _needs(self, state.layout)
        _refuse_other_state(self.name, state, needs)
        if _on_gpu(params):
            from lopt import cuda_update

            return cuda_update.update(self, params, grads, state, loss, valid_loss)
        flat, grad = flatten("params", params, layout), flatten("grads", grads, layout)
        new = state.flat.copy()
        data, work = needs.data, np.empty(needs.work, np.float32)
        if valid_loss is not None and self.uses_valid_loss:
            self.step(state.theta, flat, grad, new, valid_loss, 1, data, work)
        status = self.step(state.theta, flat, grad, new, loss or 0.0, 0, data, work)
        if status != 0:
            raise OptimizerError(f"optimizer {self.name!r} refused the step (status {status})")
        if not (np.isfinite(flat).all() and np.isfinite(new).all()):
            grad = layout.flatten(grads)  # the kernel may have used the other one as scratch
            reason = too_large(flat, new, grad, loss, layout)
            raise OptimizerError(f"optimizer {self.name!r}: {reason}")
        return layout.views(flat), state._replace(flat=new)

    def step(
        self,
        theta: np.ndarray,
        params: np.ndarray,
        grad: np.ndarray,
        state: np.ndarray,
        loss: float,
        is_valid: int,
        data: OptData,
        work: np.ndarray,
    ) -> int:
        """One call of the kernel on the host's arrays, as in a rollout; arguments as `core`'s."""
        arguments = theta, params, grad, state, loss, is_valid, data, work
        if params.size < MANY:
            return self.entry(*arguments)
        return _step_cpu.compiled(self.entry, *arguments)

    def check_theta(self, theta: np.ndarray) -> np.ndarray:
        """theta as contiguous float32 of the right shape.

        Raises:
            OptimizerError: wrong shape or non-finite values.
        """
        theta = np.ascontiguousarray(floats("theta", theta), np.float32)
        if theta.shape != (self.theta_layout.size,):
            raise OptimizerError(
                f"theta has shape {theta.shape}, optimizer {self.name!r} needs ({self.theta_layout.size},)"
            )
        if not np.isfinite(theta).all():
            raise OptimizerError("theta has non-finite values")
        return theta

    def theta_or_own(self, theta: np.ndarray | None) -> np.ndarray:
        """`check_theta`; without a theta, that of the options, which only a hand-made optimizer has.

        Raises:
            OptimizerError: as `check_theta`; a learned optimizer was given none.
        """
        if theta is not None:
            return self.check_theta(theta)
        if not self.hand_made:
            raise OptimizerError(
                f"optimizer {self.name!r} is learned: pass theta: load_weights(...).theta, "
                "or opt.init_theta() for an untrained one"
            )
        return self.init_theta()


class Needs(NamedTuple):
    """What an optimizer needs for parameters of one layout: constants, and numbers of elements."""

    data: OptData
    state: int
    theta: int
    work: int


@functools.lru_cache(maxsize=8)
def _needs(opt: Optimizer, layout: Layout) -> Needs:
    """Kept, because making it takes longer than a step on a small model."""
    sizes = opt.state_size(layout), opt.theta_layout.size, opt.work_size(layout)
    return Needs(opt.opt_data(layout), *sizes)


def _refuse_other_state(name: str, state: State, needs: Needs) -> None:
    """Refuse the state of another optimizer, whose arrays a kernel would read beyond their ends."""
    if (state.flat.shape, state.theta.shape) != ((needs.state,), (needs.theta,)):
        raise OptimizerError(
            f"state is of another optimizer: {state.flat.size} values and {state.theta.size} meta-parameters, "
            f"{name!r} needs {needs.state} and {needs.theta}; make one with its init"
        )


def _on_gpu(arrays: Any) -> bool:
    arrays = (
        arrays.values() if isinstance(arrays, Mapping) else ()
    )  # what is no dict is refused elsewhere
    return any(hasattr(a, "__cuda_array_interface__") for a in arrays)


OPTIMIZERS: dict[str, type[Optimizer]] = {}


def register_optimizer(name: str) -> Callable[[type[Optimizer]], type[Optimizer]]:
    """Class decorator: make an optimizer known by name to the library, the command line and the tests."""

    def add(cls: type[Optimizer]) -> type[Optimizer]:
        cls.name = name
        OPTIMIZERS[name] = cls
        return cls

    return add


def optimizer(name: str, **options: Any) -> Optimizer:
    """Build an optimizer by name.

    Raises:
        OptimizerError: unknown name or option, or a value it refuses; names the nearest valid one.
    """
    return build(OPTIMIZERS, "optimizer", OptimizerError, name, options)
