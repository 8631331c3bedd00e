"""Recurrent cores as parts of tasks: options, tensors, initial values, the float64 reference.

Source: task set specification 1.5 and 1.7; the equations stand in `lopt.ops.vanilla_rnn`, `gru` and
`lstm`.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from lopt.errors import TaskError, unknown
from lopt.ops.activations import ACTIVATIONS, activate_reference, held
from lopt.ops.recurrent import CORES, core_kept, core_step
from lopt.tasks.checks import check_flag, check_integer
from lopt.tasks.initialisers import INITIALISERS, check_initialiser, cut_normals, draw

Tensors = dict[str, np.ndarray]

# Weights that take an initialiser, in the order in which the published sampler draws theirs.
WEIGHTS = {
    "vanilla": ("wh", "wx"),
    "gru": ("wh", "wz", "wr", "uh", "uz", "ur"),
    "lstm": ("w",),
}
LAWS = ("identity", *INITIALISERS)


def check_law(option: str, name: str, scale: float) -> None:
    """Refuse an unknown law of weights, or a scale that is not positive.

    Raises:
        TaskError: names the option and the nearest valid value.
    """
    if name not in LAWS:
        raise TaskError(unknown(option, name, LAWS))
    check_initialiser(INITIALISERS[0] if name == "identity" else name, scale)


def draw_weights(
    name: str, scale: float, shape: tuple[int, int], stream: np.ndarray, tensor: int
) -> np.ndarray:
    """A matrix by `lopt.tasks.initialisers.draw`, or "identity": ones on the diagonal (IRNN)."""
    if name == "identity":
        return np.eye(*shape, dtype=np.float32)
    return draw(name, scale, shape, stream, tensor)


@dataclasses.dataclass(frozen=True)
class Core:
    """A recurrent core.

    kind          "vanilla", "gru" or "lstm"
    inputs        width E of the inputs
    width         width H of the state
    activation    of a vanilla core; the others have their own
    initialisers  laws of the weights in the order of WEIGHTS; one for all; or () for the library's
                  defaults.  Biases always follow the defaults: 0 in a vanilla core, random in the
                  others.
    scales        scales of those laws; () for 1
    trained       whether the initial state is trained (it starts at 0) or stays 0

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    kind: str
    inputs: int
    width: int
    activation: str = "tanh"
    initialisers: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    trained: bool = False

    def __post_init__(self) -> None:
        if self.kind not in CORES:
            raise TaskError(unknown("core", self.kind, CORES))
        check_integer("core_dim", self.width, 1)
        if self.activation not in ACTIVATIONS:
            raise TaskError(unknown("core_activation", self.activation, ACTIVATIONS))
        n = len(WEIGHTS[self.kind])
        for option, values in (
            ("core_initialisers", self.initialisers),
            ("core_init_scales", self.scales),
        ):
            if not isinstance(values, tuple) or len(values) not in (0, 1, n):
                raise TaskError(f"{option} = {values!r}, valid: a list of 0, 1 or {n} values")
        for name, scale in self.laws.values():
            check_law("core initialiser", name, scale)
        check_flag("trainable_init", self.trained)

    @functools.cached_property
    def laws(self) -> dict[str, tuple[str, float]]:
        """Law and scale of each weight."""
        names = WEIGHTS[self.kind]
        laws, scales = (
            values * len(names) if len(values) == 1 else values or (default,) * len(names)
            for values, default in (
                (self.initialisers, "glorot_uniform" if self.kind == "gru" else "sonnet"),
                (self.scales, 1.0),
            )
        )
        return dict(zip(names, zip(laws, scales, strict=True), strict=True))

    @functools.cached_property
    def tensors(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes in the order of the kernels."""
        e, h = self.inputs, self.width
        found = {
            "vanilla": (("wx", (e, h)), ("bx", (h,)), ("wh", (h, h)), ("bh", (h,))),
            "gru": tuple(
                item
                for k in "zrh"
                for item in ((f"w{k}", (e, h)), (f"u{k}", (h, h)), (f"b{k}", (h,)))
            ),
            "lstm": (("w", (e + h, 4 * h)), ("b", (4 * h,))),
        }[self.kind]
        first = (("h0", (h,)), ("c0", (h,))) if self.kind == "lstm" else (("h0", (h,)),)
        return found + (first if self.trained else ())

    @property
    def size(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(shape) for _, shape in self.tensors)

    @property
    def spec(self) -> list[int]:
        """The description that the kernels read, see `lopt.ops.recurrent`."""
        code = ACTIVATIONS.index(self.activation)
        return [CORES.index(self.kind), code, self.inputs, self.width, int(self.trained)]

    def activations(self, steps: int, batch: int, one_hot: bool = False) -> int:
        """Numbers that a tape holds, see `lopt.task.Task.activations`: inputs, gates, states.

        Gates: those of an LSTM; z, r, the candidate and r h of a GRU.
        """
        gates, states = {
            "vanilla": (0, held(self.activation)),
            "gru": (4, 1),
            "lstm": (4, 2),
        }[self.kind]
        inputs = 0 if one_hot else self.inputs
        first = (1 if self.kind != "lstm" else 2) * self.width
        return batch * (steps * (inputs + (gates + states) * self.width) + first)

    def work_size(self, steps: int, batch: int, one_hot: bool = False) -> int:
        """Numbers of scratch that `core_scratch` takes for a window of that many steps."""
        spec = np.array(self.spec, np.int64)
        states = (steps + 1) * self.width * (2 if self.kind == "lstm" else 1)
        kept = steps * (core_kept(spec) + (0 if one_hot else self.inputs))
        return int(batch * (states + kept + core_step(spec)))

    def init(self, views: Tensors, stream: np.ndarray, first: int) -> None:
        """Fill views of the tensors with initial values; `first` numbers the first tensor."""
        for k, (name, shape) in enumerate(self.tensors):
            if name in self.laws:
                views[name][...] = draw_weights(*self.laws[name], shape, stream, first + k)
            elif name.startswith("b") and self.kind == "gru":
                views[name][...] = draw("glorot_uniform", 1.0, shape, stream, first + k)
            elif name == "b":
                fan_in = self.inputs + self.width
                views[name][...] = cut_normals(shape, fan_in, stream, first + k)
            else:
                views[name][...] = 0.0


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x) without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def step_reference(core: Core, w: Tensors, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> dict:
    """One step: x (B, E), state h, c (B, H).  Returns every intermediate value by name."""
    if core.kind == "vanilla":
        new, slope = activate_reference(
            core.activation, x @ w["wx"] + w["bx"] + h @ w["wh"] + w["bh"]
        )
        return {"x": x, "h": h, "slope": slope, "out": new, "c_out": c}
    if core.kind == "gru":
        z = sigmoid(x @ w["wz"] + h @ w["uz"] + w["bz"])
        r = sigmoid(x @ w["wr"] + h @ w["ur"] + w["br"])
        new = np.tanh(x @ w["wh"] + (r * h) @ w["uh"] + w["bh"])
        out = (1.0 - z) * h + z * new
        return {"x": x, "h": h, "z": z, "r": r, "new": new, "out": out, "c_out": c}
    gates = np.concatenate([x, h], axis=1) @ w["w"] + w["b"]
    i, j, f, o = np.split(gates, 4, axis=1)
    i, j, f, o = sigmoid(i), np.tanh(j), sigmoid(f + 1.0), sigmoid(o)
    c_out = f * c + i * j
    out = np.tanh(c_out) * o
    return {"x": x, "h": h, "c": c, "i": i, "j": j, "f": f, "o": o, "out": out, "c_out": c_out}


def step_reference_bwd(
    core: Core, w: Tensors, s: dict[str, Any], dout: np.ndarray, dc: np.ndarray, grads: Tensors
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adds one step's share to grads; returns the gradients of x, h and c."""
    x, h = s["x"], s["h"]
    if core.kind == "vanilla":
        da = dout * s["slope"]
        for name, value in (("wx", x.T @ da), ("wh", h.T @ da)):
            grads[name] += value
        for name in ("bx", "bh"):
            grads[name] += da.sum(axis=0)
        return da @ w["wx"].T, da @ w["wh"].T, dc
    if core.kind == "gru":
        z, r, new = s["z"], s["r"], s["new"]
        da = {"h": dout * z * (1.0 - new**2), "z": dout * (new - h) * z * (1.0 - z)}
        drh = da["h"] @ w["uh"].T
        da["r"] = drh * h * r * (1.0 - r)
        for k, state in (("z", h), ("r", h), ("h", r * h)):
            grads[f"w{k}"] += x.T @ da[k]
            grads[f"u{k}"] += state.T @ da[k]
            grads[f"b{k}"] += da[k].sum(axis=0)
        dx = sum(da[k] @ w[f"w{k}"].T for k in "zrh")
        dh = dout * (1.0 - z) + drh * r + da["z"] @ w["uz"].T + da["r"] @ w["ur"].T
        return dx, dh, dc
    i, j, f, o = s["i"], s["j"], s["f"], s["o"]
    squashed = np.tanh(s["c_out"])
    dc = dc + dout * o * (1.0 - squashed**2)
    da = np.concatenate(
        [
            dc * j * i * (1.0 - i),
            dc * i * (1.0 - j**2),
            dc * s["c"] * f * (1.0 - f),
            dout * squashed * o * (1.0 - o),
        ],
        axis=1,
    )
    grads["w"] += np.concatenate([x, h], axis=1).T @ da
    grads["b"] += da.sum(axis=0)
    dx, dh = np.split(da @ w["w"].T, [core.inputs], axis=1)
    return dx, dh, dc * f


def window_reference(core: Core, w: Tensors, x: np.ndarray) -> tuple[np.ndarray, list[dict]]:
    """Outputs (T, B, H) for inputs (T, B, E) in plain NumPy float64, and what each step keeps."""
    zeros = np.zeros((x.shape[1], core.width))
    h = zeros + w["h0"] if core.trained else zeros
    c = zeros + w["c0"] if "c0" in w else zeros
    steps = []
    for xt in x:
        steps.append(step_reference(core, w, xt, h, c))
        h, c = steps[-1]["out"], steps[-1]["c_out"]
    return np.array([s["out"] for s in steps]), steps


def window_reference_bwd(
    core: Core, w: Tensors, steps: list[dict], dout: np.ndarray
) -> tuple[np.ndarray, Tensors]:
    """Gradients of the inputs (T, B, E) and of the tensors, from those of the outputs (T, B, H)."""
    grads = {name: np.zeros(shape) for name, shape in core.tensors}
    dx = [np.zeros(0)] * len(steps)
    dh = dc = np.zeros_like(dout[0])
    for t in reversed(range(len(steps))):
        dx[t], dh, dc = step_reference_bwd(core, w, steps[t], dout[t] + dh, dc, grads)
    for name, value in (("h0", dh), ("c0", dc)):
        if name in grads:
            grads[name] = value.sum(axis=0)
    return np.array(dx), grads
