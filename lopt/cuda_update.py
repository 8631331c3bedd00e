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
from lopt.lanes import has_nonfinite, kernel, lane, lanes, sync
from lopt.layout import Layout
from lopt.model_arrays import check_names, refuse_nonfinite, too_large
from lopt.optimizer import OptData, Optimizer, State

OK, REFUSED, BAD_PARAMS, BAD_GRADS, TOO_LARGE = range(5)


@kernel
def gather(tensors, column, out):
    """Copy tensors to their places in out (N,); column of their addresses: 0 parameters, 1 gradients."""
    for k in range(tensors.shape[0]):
        offset, size = tensors[k, 2], tensors[k, 3]
        values = floats_at(tensors[k, column], size).array
        for i in range(lane(), size, lanes()):
            out[offset + i] = values[i]
    sync()


def update_kernel(step: Callable[..., int]) -> Callable:
    """The entry for an optimizer's core: one team.

    Shapes: tensors int64 (T, 4): address of a tensor, of its gradient, offset and size; params, grad (N,) and after (S,)
    scratch: what the step makes, and the gradient it was made of; call float64 (3,): loss, validation loss, whether
    there is one; status int64 (1,) OVERWRITTEN.  Tensors and state (S,) are UPDATED, if status is OK.
    """

    def update_all(
        theta, tensors, params, grad, state, after, opt_sizes, opt_hyper, work, call, status
    ):  # fmt: skip
        data = OptData(opt_sizes, opt_hyper)
        for i in range(lane(), state.size, lanes()):
            after[i] = state[i]
        gather(tensors, 0, params)
        gather(tensors, 1, grad)
        code = OK
        if has_nonfinite(params):
            code = BAD_PARAMS
        elif has_nonfinite(grad):
            code = BAD_GRADS
        if code == OK:
            if call[2] != 0.0:
                step(theta, params, grad, after, call[1], np.int64(1), data, work)
            if step(theta, params, grad, after, call[0], np.int64(0), data, work) != 0:
                code = REFUSED
            sync()
            if has_nonfinite(params) or has_nonfinite(after):
                code = TOO_LARGE
                gather(tensors, 1, grad)  # the step may have used it as scratch
        if code == OK:
            for k in range(tensors.shape[0]):
                offset, size = tensors[k, 2], tensors[k, 3]
                w = floats_at(tensors[k, 0], size).array
                for i in range(lane(), size, lanes()):
                    w[i] = params[offset + i]
            for i in range(lane(), state.size, lanes()):
                state[i] = after[i]
        if lane() == 0:
            status[0] = code

    return update_all


def entry_types() -> tuple[types.Type, ...]:
    """Numba types of the entry's arguments, for compiling without a GPU."""
    f, i, d = (types.Array(t, 1, "C") for t in (types.float32, types.int64, types.float64))
    return f, types.Array(types.int64, 2, "C"), f, f, f, f, i, f, f, d, i


@functools.cache
def compiled(step: Callable[..., int]) -> Any:
    """The entry of a core, one for the process."""
    return device.kernel(update_kernel(step))


def address(what: str, tensor: Any, shape: tuple[int, ...] | None = None) -> int:
    """Where a tensor begins; shape: what it must be, if not any.

    Raises:
        OptimizerError: not on a GPU, not float32, of another shape or not contiguous.
    """
    if not hasattr(tensor, "__cuda_array_interface__"):
        raise OptimizerError(f"{what} is not on the GPU, others are")
    facts = tensor.__cuda_array_interface__
    found = tuple(facts["shape"])
    if facts["typestr"] != "<f4":
        raise OptimizerError(f"{what} is {np.dtype(facts['typestr'])}, must be float32 on a GPU")
    if found != (found if shape is None else shape):
        raise OptimizerError(f"{what} has shape {found}, expected {shape}")
    packed = tuple(4 * int(np.prod(found[i + 1 :])) for i in range(len(found)))
    if facts.get("strides") not in (None, packed):
        raise OptimizerError(f"{what} is not contiguous: make it so first")
    return facts["data"][0]


def init(opt: Optimizer, params: Mapping[str, Any], theta: np.ndarray) -> State:
    """State for tensors on the GPU, itself on the GPU."""
    device.require()
    check_names("params", params)
    for name, tensor in params.items():
        address(f"params[{name!r}]", tensor)
    layout = Layout(
        (name, tensor.__cuda_array_interface__["shape"]) for name, tensor in params.items()
    )
    return State(
        device.upload(opt.init_state(theta, layout), 0), device.upload(theta, 0), layout
    )  # fmt: skip


@functools.lru_cache(maxsize=8)
def _constants(opt: Optimizer, layout: Layout) -> tuple[Any, ...]:
    """Scratch and constants of a model: parameters, gradient, state; sizes, hyper-parameters, work."""
    lengths = layout.size, layout.size, opt.state_size(layout)
    scratch = (device.empty((n,), np.float32) for n in lengths)
    work = device.empty((max(opt.work_size(layout), 1),), np.float32)
    sizes, hyper = opt.opt_data(layout)
    return *scratch, device.upload(sizes, 0), device.upload(hyper, 0), work


def update(
    opt: Optimizer, params: Mapping[str, Any], grads: Mapping[str, Any], state: State,
    loss: float | None, valid_loss: float | None,
) -> tuple[dict[str, Any], State]:  # fmt: skip
    """One step in place; `params` and `state` are those given."""
    layout = state.layout
    check_names("params", params, layout)
    check_names("grads", grads, layout)
    tensors = [
        (
            address(f"params[{name!r}]", params[name], shape),
            address(f"grads[{name!r}]", grads[name], shape), offset, size,
        )
        for (name, shape), offset, size in zip(layout, layout.offsets, layout.sizes, strict=True)
    ]  # fmt: skip
    shown = valid_loss is not None and opt.uses_valid_loss
    call = np.array([loss or 0.0, valid_loss if shown else 0.0, float(shown)], np.float64)
    flat, grad, after, sizes, hyper, work = _constants(opt, layout)
    status = device.upload(np.zeros(1, np.int64), 0)
    compiled(type(opt).core)[1, device.THREADS, 0](
        state.theta, device.upload(np.array(tensors, np.int64), 0), flat, grad, state.flat, after, sizes, hyper,
        work, device.upload(call, 0), status,
    )  # fmt: skip
    code = int(status.copy_to_host()[0])
    if code == BAD_PARAMS:
        refuse_nonfinite("params", flat.copy_to_host(), layout)
    if code == BAD_GRADS:
        refuse_nonfinite("grads", grad.copy_to_host(), layout)
    if code == TOO_LARGE:
        found = (array.copy_to_host() for array in (flat, after, grad))
        raise OptimizerError(f"optimizer {opt.name!r}: {too_large(*found, loss, layout)}")
    if code != OK:
        raise OptimizerError(f"optimizer {opt.name!r} refused the step (status {code})")
    return dict(params), state
