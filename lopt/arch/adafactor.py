"""Adafactor: second moments kept as row and column means."""

import dataclasses
import math

import numpy as np

from lopt.arch.factored import COLUMNS, factored_moments, factoring
from lopt.arch.sgd import check_positive
from lopt.errors import OptimizerError
from lopt.lanes import kernel, lane, lanes, sum32, sync
from lopt.layout import Layout
from lopt.optimizer import Optimizer, register_optimizer

# theta = (log lr, decay exponent, log eps1, log clip); data.sizes = n_tensors, then COLUMNS per tensor
# state = per tensor [row means | column means] or the full second moment, then t


@kernel
def factored_update(grad, rows, columns, table, at, offset):
    """grad <- grad / sqrt(rows x columns / mean of rows over axis b), in place."""
    cast = grad.dtype.type
    one = cast(1.0)
    na, sa, nb, sb = table[at + 3], table[at + 4], table[at + 5], table[at + 6]
    n1, s1, n2, s2 = table[at + 7], table[at + 8], table[at + 9], table[at + 10]
    for rest in range(lane(), n1 * n2, lanes()):
        mean = cast(0.0)
        for j in range(nb):
            mean += rows[rest * nb + j]
        mean /= cast(nb)
        base = offset + (rest // n2) * s1 + (rest % n2) * s2
        for i in range(na):
            c = one / math.sqrt(columns[rest * na + i])
            for j in range(nb):
                # two roots, not the root of a product: moments of dead inputs are near 1e-30
                grad[base + i * sa + j * sb] *= c / math.sqrt(rows[rest * nb + j] / mean)
    sync()


@kernel
def adafactor_step(theta, params, grad, state, loss, is_valid, data, work):
    """Per tensor: u = g / sqrt(v), u <- u / max(1, RMS(u) / d), w <- w - lr u; v factored for two or more axes."""
    if is_valid != 0:
        return 0
    cast = params.dtype.type
    t = np.float64(state[state.size - 1]) + 1.0
    beta = cast(1.0 - math.exp(-np.float64(theta[1]) * math.log(t)))
    eps, clip = cast(math.exp(np.float64(theta[2]))), cast(math.exp(np.float64(theta[3])))
    rate, one = cast(math.exp(np.float64(theta[0]))), cast(1.0)
    table = data.sizes
    for k in range(table[0]):
        at = 1 + COLUMNS * k
        offset, size, s = table[at], table[at + 1], table[at + 11]
        if table[at + 2] != 0:
            rest = table[at + 7] * table[at + 9]
            rows = state[s : s + rest * table[at + 5]]
            columns = state[s + rows.size : s + rows.size + rest * table[at + 3]]
            factored_moments(grad, rows, columns, table, at, beta, eps, offset)
            factored_update(grad, rows, columns, table, at, offset)
        else:
            for i in range(lane(), size, lanes()):
                g = grad[offset + i]
                v = beta * state[s + i] + (one - beta) * (g * g + eps)
                state[s + i] = v
                grad[offset + i] = g / math.sqrt(v)
            sync()
        for i in range(lane(), size, lanes()):
            work[i] = grad[offset + i] * grad[offset + i]
        sync()
        rms = math.sqrt(sum32(work, size, work[size : size + 32]) / cast(size))
        step = rate / max(one, rms / clip)
        for i in range(lane(), size, lanes()):
            params[offset + i] -= step * grad[offset + i]
        sync()
    if lane() == 0:
        state[state.size - 1] = cast(t)
    sync()
    return 0


@register_optimizer("adafactor")
@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Adafactor (Shazeer & Stern 2018, algorithms 4 and 5) with a given learning rate.

    The decay is 1 - t^-c.  Differs from their algorithm 6: no relative step size, no momentum.
    """

    learning_rate: float = 1e-2
    decay_exponent: float = 0.8
    epsilon: float = 1e-30
    clip: float = 1.0

    core = staticmethod(adafactor_step)
    hand_made = True

    def __post_init__(self) -> None:
        check_positive(
            self.name,
            learning_rate=self.learning_rate,
            decay_exponent=self.decay_exponent,
            epsilon=self.epsilon,
            clip=self.clip,
        )
        if self.epsilon < 1e-37:
            raise OptimizerError(f"{self.name}: epsilon must be at least 1e-37, got {self.epsilon}")

    @property
    def theta_layout(self) -> Layout:
        names = ("log_learning_rate", "decay_exponent", "log_epsilon", "log_clip")
        return Layout((n, ()) for n in names)

    def init_theta(self, seed: int = 0) -> np.ndarray:
        rest = (math.log(self.epsilon), math.log(self.clip))
        return np.array([math.log(self.learning_rate), self.decay_exponent, *rest], np.float32)

    def sizes(self, layout: Layout) -> np.ndarray:
        table, state = [len(layout)], 0
        for shape, offset, size in zip(layout.shapes, layout.offsets, layout.sizes, strict=True):
            axes = factoring(shape, skip_unit_axes=True)
            table += [offset, size, int(axes is not None), *(axes or (0,) * 8), state]
            state += self._moments(shape, size)
        return np.array(table, np.int64)

    @staticmethod
    def _moments(shape: tuple[int, ...], size: int) -> int:
        axes = factoring(shape, skip_unit_axes=True)
        return size if axes is None else size // axes[0] + size // axes[2]

    def state_size(self, layout: Layout) -> int:
        return 1 + sum(
            self._moments(s, n) for s, n in zip(layout.shapes, layout.sizes, strict=True)
        )

    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        return np.zeros(self.state_size(layout), np.float32)

    def work_size(self, layout: Layout) -> int:
        return max(layout.sizes, default=0) + 32
