"""A multi-layer perceptron inside slices of a task's params and work, forward and backward.

    h_0 = x,  z_k = h_{k-1} w_k + b_k,  h_k = f(z_k) for k < L,  and z_L is the result.

Sizes are run-time integers `widths` = (n_0, ..., n_L).  Parameters lie in the order w_1 b_1 ... w_L b_L, w_k row-major
(n_{k-1}, n_k).  The activations of a batch of B rows lie in `work` as x | z_1 h_1 | ... | z_{L-1} h_{L-1} | z_L, each
(B, n_k) row-major: B * stack_units(widths) elements that start with x and end with z_L.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from lopt.lanes import kernel
from lopt.ops.activations import activate_bwd, activate_fwd, activate_reference, held, spare
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd

Tensors = list[tuple[str, tuple[int, ...]]]
Tape = list[tuple[np.ndarray, np.ndarray]]


def stack_tensors(widths: Sequence[int], prefix: str = "") -> Tensors:
    """Names and shapes of the parameters in their order: w0 (n_0, n_1), b0 (n_1,), w1, ..."""
    tensors: Tensors = []
    for k, (n, m) in enumerate(itertools.pairwise(widths)):
        tensors += [(f"{prefix}w{k}", (n, m)), (f"{prefix}b{k}", (m,))]
    return tensors


def stack_size(widths: Sequence[int]) -> int:
    """Number of parameters."""
    return sum(n * m + m for n, m in itertools.pairwise(widths))


def stack_units(widths: Sequence[int]) -> int:
    """Numbers per example that the forward pass leaves in `work`."""
    return widths[0] + 2 * sum(widths[1:-1]) + widths[-1]


def stack_activations(widths: Sequence[int], activation: str) -> int:
    """Numbers per example that a tape holds, see `lopt.task.Task.activations`: x, what each layer passes on, z_L."""
    return widths[0] + held(activation) * sum(widths[1:-1]) + widths[-1]


@kernel
def stack_fwd(params, widths, code, batch, work):
    """Fills `work` behind x: z_1 h_1 ... z_L.

    Shapes: params (stack_size,); widths (L + 1,) int64, L >= 1; code of an activation; work
    (batch * stack_units,) beginning with x (B, n_0), which is kept.
    """
    layers = widths.size - 1
    h, p = 0, 0  # offsets of the layer's input in work and of its weights in params
    for k in range(layers):
        n, m = widths[k], widths[k + 1]
        z = h + batch * n
        out = work[z : z + batch * m]
        dense_fwd(
            work[h : h + batch * n].reshape(batch, n),
            params[p : p + n * m].reshape(n, m),
            params[p + n * m : p + n * m + m],
            out.reshape(batch, m),
        )
        p += n * m + m
        if k < layers - 1:
            h = z + batch * m
            activate_fwd(out, work[h : h + batch * m], code)


@kernel
def stack_bwd(params, grad, widths, code, batch, work, dx):
    """grad OVERWRITTEN with the gradient of params, dx with that of x unless it is empty.

    Shapes: params, grad (stack_size,); work as `stack_fwd` left it, save that z_L (B, n_L) at its end has been replaced
    by its gradient, OVERWRITTEN behind x; dx (batch * n_0,), which may be x, or (0,).
    """
    layers = widths.size - 1
    h, p = 0, 0
    for k in range(layers):
        h += batch * (widths[k] if k == 0 else 2 * widths[k])
        p += widths[k] * widths[k + 1] + widths[k + 1]
    dz = work[h : h + batch * widths[layers]]
    for back in range(layers):
        k = layers - 1 - back
        n, m = widths[k], widths[k + 1]
        p -= n * m + m
        h -= batch * n  # the layer's input h_k
        x, dy = work[h : h + batch * n], dz.reshape(batch, m)
        # z_{k+1} = h_k w + b
        dense_bwd(
            x.reshape(batch, n),
            dy,
            grad[p : p + n * m].reshape(n, m),
            grad[p + n * m : p + n * m + m],
        )
        w = params[p : p + n * m].reshape(n, m)
        if k > 0:
            z = work[h - batch * n : h]
            dz = spare(z, x, code).array
            dense_bwd_input(w, dy, dz.reshape(batch, n))
            # h_k = f(z_k)
            activate_bwd(z, x, dz, code)
            h -= batch * n
        elif dx.size > 0:
            dense_bwd_input(w, dy, dx.reshape(batch, n))


def stack_fwd_reference(
    tensors: dict[str, np.ndarray], x: np.ndarray, activation: str, prefix: str = ""
) -> tuple[np.ndarray, Tape]:
    """z_L and what the backward pass needs, in plain NumPy; tensors as `stack_tensors` names them."""
    tape: Tape = []
    layers = sum(name.startswith(f"{prefix}w") for name in tensors)
    h, derivative = x, np.ones_like(x)
    for k in range(layers):
        tape.append((h, derivative))
        z = h @ tensors[f"{prefix}w{k}"] + tensors[f"{prefix}b{k}"]
        if k < layers - 1:
            h, derivative = activate_reference(activation, z)
    return z, tape


def stack_bwd_reference(
    tensors: dict[str, np.ndarray], tape: Tape, dz: np.ndarray, prefix: str = ""
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Gradients of the tensors, by name, and of x, in plain NumPy."""
    grads = {}
    for k, (h, derivative) in reversed(list(enumerate(tape))):
        grads[f"{prefix}w{k}"], grads[f"{prefix}b{k}"] = h.T @ dz, dz.sum(axis=0)
        dz = (dz @ tensors[f"{prefix}w{k}"].T) * derivative
    return grads, dz
