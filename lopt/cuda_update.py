"""`opt.init` and `opt.update` for parameters that lie on a GPU already: CuPy, PyTorch, Numba arrays.

Anything with `__cuda_array_interface__` will do.  All tensors of a model are one launch, in which a thread block reads
them at their addresses, makes the step as a rollout does, and writes the new parameters back in place; nothing passes
through the host but the losses and a status.  The state has the layout it has on the CPU.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import types

from lopt import cuda_device as device
from lopt.cuda_device import floats_at
from lopt.errors import OptimizerError
from lopt.lanes import anywhere, lane, lanes, sync
from lopt.layout import Layout
from lopt.optimizer import OptData, Optimizer, State

OK, REFUSED, NOT_FINITE = 0, 1, 2


def update_kernel(step: Callable[..., int]) -> Callable:
    """The entry for an optimizer's core: one team.

    Shapes: tensors int64 (T, 4): address of a tensor, of its gradient, offset and size; params, grad (N,) scratch;
    call float64 (3,): loss, validation loss, whether there is one; status int64 (1,) OVERWRITTEN.
    """

    def update_all(
        theta, tensors, params, grad, state, opt_sizes, opt_hyper, work, call, status
    ):  # fmt: skip
        data = OptData(opt_sizes, opt_hyper)
        bad = 0
        for k in range(tensors.shape[0]):
            offset, size = tensors[k, 2], tensors[k, 3]
            w, g = floats_at(tensors[k, 0], size).array, floats_at(tensors[k, 1], size).array
            for i in range(lane(), size, lanes()):
                params[offset + i] = w[i]
                grad[offset + i] = g[i]
                if not (abs(g[i]) <= np.float32(3.0e38)):
                    bad += 1
        sync()
        code = NOT_FINITE
        if not anywhere(bad > 0):
            if call[2] != 0.0:
                step(theta, params, grad, state, call[1], np.int64(1), data, work)
            code = step(theta, params, grad, state, call[0], np.int64(0), data, work)
            code = OK if code == 0 else REFUSED
        sync()
        if code == OK:
            for k in range(tensors.shape[0]):
                offset, size = tensors[k, 2], tensors[k, 3]
                w = floats_at(tensors[k, 0], size).array
                for i in range(lane(), size, lanes()):
                    w[i] = params[offset + i]
        if lane() == 0:
            status[0] = code

    return update_all


def entry_types() -> tuple[types.Type, ...]:
    """Numba types of the entry's arguments, for compiling without a GPU."""
    f, i, d = (types.Array(t, 1, "C") for t in (types.float32, types.int64, types.float64))
    return f, types.Array(types.int64, 2, "C"), f, f, f, i, f, f, d, i


@functools.cache
def compiled(step: Callable[..., int]) -> Any:
    """The entry of a core, one for the process."""
    return device.kernel(update_kernel(step))


def address(name: str, tensor: Any, shape: tuple[int, ...]) -> int:
    """Where a tensor begins.

    Raises:
        OptimizerError: not on a GPU, not float32, of another shape or not contiguous.
    """
    if not hasattr(tensor, "__cuda_array_interface__"):
        raise OptimizerError(f"tensor {name!r} is not on the GPU, others are")
    facts = tensor.__cuda_array_interface__
    if facts["typestr"] != "<f4" or tuple(facts["shape"]) != shape:
        raise OptimizerError(
            f"tensor {name!r} is {facts['typestr']} {tuple(facts['shape'])}, expected <f4 {shape}"
        )
    packed = tuple(4 * int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    if facts.get("strides") not in (None, packed):
        raise OptimizerError(f"tensor {name!r} is not contiguous: make it so first")
    return facts["data"][0]


def init(opt: Optimizer, params: Mapping[str, Any], theta: np.ndarray) -> State:
    """State for tensors on the GPU, itself on the GPU."""
    device.require()
    shapes = {n: tuple(a.__cuda_array_interface__["shape"]) for n, a in params.items()}
    layout = Layout(shapes.items())
    return State(
        device.upload(opt.init_state(theta, layout), 0), device.upload(theta, 0), layout
    )  # fmt: skip


@functools.lru_cache(maxsize=8)
def _constants(opt: Optimizer, layout: Layout) -> tuple[Any, ...]:
    """Scratch and constants of a model: parameters, gradient; sizes, hyper-parameters, work."""
    params, grad = (device.empty((max(layout.size, 1),), np.float32) for _ in range(2))
    work = device.empty((max(opt.work_size(layout), 1),), np.float32)
    sizes, hyper = opt.opt_data(layout)
    return params, grad, device.upload(sizes, 0), device.upload(hyper, 0), work


def update(
    opt: Optimizer, params: Mapping[str, Any], grads: Mapping[str, Any], state: State,
    loss: float | None, valid_loss: float | None,
) -> tuple[dict[str, Any], State]:  # fmt: skip
    """One step in place; `params` and `state` are those given."""
    layout = state.layout
    if set(params) != set(layout.names) or set(grads) != set(layout.names):
        raise OptimizerError(f"tensors {sorted(params)}, the state has {list(layout.names)}")
    tensors = [
        (address(name, params[name], shape), address(name, grads[name], shape), offset, size)
        for (name, shape), offset, size in zip(layout, layout.offsets, layout.sizes, strict=True)
    ]
    shown = valid_loss is not None and opt.uses_valid_loss
    call = np.array([loss or 0.0, valid_loss if shown else 0.0, float(shown)], np.float64)
    flat, grad, sizes, hyper, work = _constants(opt, layout)
    status = device.upload(np.zeros(1, np.int64), 0)
    compiled(type(opt).core)[1, device.THREADS, 0](
        state.theta, device.upload(np.array(tensors, np.int64), 0), flat, grad, state.flat, sizes, hyper,
        work, device.upload(call, 0), status,
    )  # fmt: skip
    code = int(status.copy_to_host()[0])
    if code == NOT_FINITE:
        raise OptimizerError("grads has non-finite values; the step was not made")
    if code != OK:
        raise OptimizerError(f"optimizer {opt.name!r} refused the step (status {code})")
    return dict(params), state
