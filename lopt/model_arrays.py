"""The arrays of a user's own model, as `opt.init` and `opt.update` take them: what is accepted, what is said of the rest."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lopt.errors import OptimizerError
from lopt.layout import Layout

# What to do about arrays that are none of floats, by the kind of their dtype.
HINTS = {"c": "; give real and imaginary part as two tensors"}
HINTS |= dict.fromkeys("biuV", "; convert it with .astype(np.float32)")
LISTED = 3  # names in a message


def check_names(what: str, arrays: Any, layout: Layout | None = None) -> None:
    """Refuse what is no dict from names to arrays, or has other names than a layout.

    Raises:
        OptimizerError: names what is missing and what is too much.
    """
    if not isinstance(arrays, Mapping):
        raise OptimizerError(
            f"{what} is of type {type(arrays).__name__}, expected a dict of named arrays: {{'w': ...}}"
        )
    for name in arrays:
        if not isinstance(name, str):
            raise OptimizerError(f"{what} has the name {name!r}: must be text, as '{name}'")
    if layout is None or arrays.keys() == set(layout.names):
        return
    missing = [name for name in layout.names if name not in arrays]
    extra = [name for name in arrays if name not in layout.names]
    wrong = [f"lacks {_listed(missing)}"] if missing else []
    wrong += [f"has {_listed(extra)}, which the params given to init had not"] if extra else []
    raise OptimizerError(f"{what} {' and '.join(wrong)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more


def floats(what: str, values: Any) -> np.ndarray:
    """An array of real floats of any size (float16, float32, float64, ...) as it is.

    Raises:
        OptimizerError: anything else: complex numbers, integers, dicts.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors with a graph
        raise OptimizerError(f"{what} cannot be read as an array: {error}") from error
    if array.dtype.kind != "f":
        found = type(values).__name__ if array.dtype.kind == "O" else array.dtype
        hint = HINTS.get(array.dtype.kind, "")
        raise OptimizerError(
            f"{what} is {found}, must be an array of float32, float64 or float16{hint}"
        )
    return array


def tensors_of(what: str, arrays: Any, layout: Layout | None = None) -> dict[str, np.ndarray]:
    """A model's arrays, as they are.

    Raises:
        OptimizerError: as `check_names` and `floats`.
    """
    check_names(what, arrays, layout)
    return {name: floats(f"{what}[{name!r}]", values) for name, values in arrays.items()}


def flatten(what: str, arrays: Any, layout: Layout) -> np.ndarray:
    """A model's arrays in one new vector, (N,) float32, all finite.

    Raises:
        OptimizerError: as `tensors_of`; a tensor has another shape, or a value that is not finite in float32.
    """
    tensors = tensors_of(what, arrays, layout)
    for name, shape in layout:
        if tensors[name].shape != shape:
            raise OptimizerError(
                f"{what}[{name!r}] has shape {tensors[name].shape}, expected {shape}"
            )
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is refused
        flat = layout.flatten(tensors)
    refuse_nonfinite(what, flat, layout, tensors)
    return flat


def refuse_nonfinite(
    what: str, flat: np.ndarray, layout: Layout, tensors: Mapping[str, np.ndarray] | None = None
) -> None:
    """Refuse tensors (N,) with a value that is not finite.

    Args:
        tensors: what `flat` was made from, for the message.

    Raises:
        OptimizerError: names the first such tensor, value and place.
    """
    if np.isfinite(flat).all():
        return
    name, place = _where(int(np.argmin(np.isfinite(flat))), layout)
    value = (tensors or layout.views(flat))[name][place]
    raise OptimizerError(
        f"{what}[{name!r}] has {value} at {place}: must be finite in float32; nothing was changed"
    )


def number(what: str, value: Any) -> float | None:
    """A loss as a float; None: there is none.

    Raises:
        OptimizerError: no number, or not finite.
    """
    try:
        found = None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise OptimizerError(f"{what} = {value!r}: must be a number") from error
    if found is not None and not np.isfinite(found):
        raise OptimizerError(f"{what} = {found}: must be finite; nothing was changed")
    return found


def too_large(
    params: np.ndarray, state: np.ndarray, grad: np.ndarray, loss: float | None, layout: Layout
) -> str:
    """What is wrong with a step after which not all is finite.

    Args:
        params, state: (N,) and (S,) after the step.
        grad: (N,) of the step, finite.
    """
    bad = ~np.isfinite(params)
    if bad.any():
        name, place = _where(int(np.argmax(bad)), layout)
        wrong = f"params[{name!r}] {layout.views(params)[name][place]}"
    else:
        wrong = f"the state {state[~np.isfinite(state)][0]}"
    most = int(np.argmax(np.abs(grad)))
    facts = f"the largest gradient is {abs(grad[most]):.3g}, in {_where(most, layout)[0]!r}"
    facts += "" if loss is None else f", the loss {loss:.3g}"
    return (
        f"the step would make {wrong}: {facts}, and squares overflow float32 from 1.8e+19 on; "
        "scale the loss down or clip the gradient; nothing was changed"
    )


def _where(i: int, layout: Layout) -> tuple[str, tuple[int, ...]]:
    """Tensor and index in it of element i of a flat vector."""
    k = int(np.searchsorted(layout.offsets, i, side="right")) - 1
    place = np.unravel_index(i - layout.offsets[k], layout.shapes[k])
    return layout.names[k], tuple(map(int, place))
