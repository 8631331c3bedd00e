"""The outer optimizer: an optimizer applied to theta, with clip, schedule and averaging.

Any registered optimizer that has a `learning_rate` and does not read the loss can be used, by name; or a learned one,
with its meta-parameters.
One outer step: clip each coordinate of the gradient to +-clip (Metz et al. 2020: without it no
training occurs), step with the learning rate of that outer step, update the average of theta, which
is what is shipped.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lopt.config import SCHEDULES
from lopt.errors import ConfigError, LoptError, OptimizerError, unknown
from lopt.layout import Layout
from lopt.optimizer import Optimizer, optimizer

RATES = (
    "learning_rate",
    "rate",
    "step_mult",
)  # options that a schedule acts on, whichever there is


class OuterState(NamedTuple):
    """State of the outer optimizer.

    flat     (S,) float32, the optimizer's own
    average  (D,) float64, exponential moving average of theta
    count    outer steps made
    """

    flat: np.ndarray
    average: np.ndarray
    count: int


class OuterOptimizer:
    """theta, gradient -> new theta.

    Args:
        cfg: attributes optimizer and options (of a registered optimizer), clip (largest magnitude
            of a gradient coordinate), warmup (outer steps), schedule ("constant" or "cosine"),
            final_fraction (of the learning rate, where the cosine ends), ema (decay of the average
            of theta; 0: no average), as `lopt.config.OuterConfig` has them.
        layout: names and shapes inside theta.
        outer_steps: length of the whole run; where the cosine ends.
        learned: an optimizer and its meta-parameters, in place of `cfg.optimizer`.  It sees the meta-loss as training
            loss, and as validation loss too if it looks at one (Metz et al. 2020, arXiv 2009.11243, appendix G).

    Raises:
        OptimizerError: unknown optimizer or option, one without `learning_rate`, or one that reads
            the loss.
        ConfigError: a setting out of range.
    """

    def __init__(
        self,
        cfg: Any,
        layout: Layout,
        outer_steps: int,
        learned: tuple[Optimizer, np.ndarray] | None = None,
    ) -> None:
        _check(cfg, outer_steps)
        self._cfg, self._layout, self._outer_steps = cfg, layout, outer_steps
        # of a hand-made one the meta-parameters are its options, which the schedule changes
        self._opt, self._learned = learned or (_hand_made(cfg), None)
        self._rate = next(name for name in RATES if hasattr(self._opt, name))
        self._work = np.zeros(self._opt.work_size(layout), np.float32)

    def init(self, theta: np.ndarray) -> OuterState:
        """State before the first outer step, for theta (D,) float32."""
        flat = self._opt.init_state(self._meta(self._opt), self._layout)
        return OuterState(flat, theta.astype(np.float64), 0)

    def _meta(self, opt: Optimizer) -> np.ndarray:
        """Meta-parameters of the outer optimizer itself."""
        return opt.init_theta() if self._learned is None else self._learned

    def learning_rate(self, outer_step: int) -> float:
        """Learning rate of an outer step, counted from 0; of a learned one its `rate` or `step_mult`.

        Step t of a warm-up of w steps has (t + 1) / w of the full rate.  The cosine then falls
        from 1 at t = w to `final_fraction` at t = outer_steps - 1, and stays there.
        """
        cfg, peak = self._cfg, float(getattr(self._opt, self._rate))
        if outer_step < cfg.warmup:
            return peak * (outer_step + 1) / cfg.warmup
        if cfg.schedule == "constant":
            return peak
        span = max(self._outer_steps - 1 - cfg.warmup, 1)
        progress = min((outer_step - cfg.warmup) / span, 1.0)
        low = cfg.final_fraction
        return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))

    def step(
        self, theta: np.ndarray, grad: np.ndarray, state: OuterState, loss: float = 0.0
    ) -> tuple[np.ndarray, OuterState]:
        """One outer step; inputs are left untouched.  theta, grad (D,) float32; loss: the meta-loss of this step.

        Raises:
            LoptError: a gradient coordinate is not finite, or the optimizer refused the step.
        """
        self._refuse_nonfinite(grad)
        clipped = np.clip(grad, -self._cfg.clip, self._cfg.clip)
        rate = self.learning_rate(state.count)
        if rate == 0:  # the end of a cosine to 0; optimizers take positive rates only
            average = self._averaged(theta, state)
            return theta.copy(), state._replace(average=average, count=state.count + 1)
        opt = dataclasses.replace(self._opt, **{self._rate: rate})
        new, flat = theta.copy(), state.flat.copy()
        meta, data, status = self._meta(opt), opt.opt_data(self._layout), 0
        for is_valid in (1, 0) if opt.uses_valid_loss else (0,):
            status |= opt.entry(meta, new, clipped, flat, loss, is_valid, data, self._work)
        if status != 0 or not np.isfinite(new).all():
            raise LoptError(
                f"outer optimizer {opt.name!r} failed in outer step {state.count} "
                f"(status {status}, learning rate {rate:g}): theta would not be finite"
            )
        return new, OuterState(flat, self._averaged(new, state), state.count + 1)

    def _averaged(self, theta: np.ndarray, state: OuterState) -> np.ndarray:
        """An exponential average that starts from nothing: the bias correction is in the weight."""
        decay = self._cfg.ema
        weight = (1 - decay) / (1 - decay ** (state.count + 1))
        return state.average + weight * (theta - state.average)

    def _refuse_nonfinite(self, grad: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(grad))
        if bad.size:
            where = max(i for i, o in enumerate(self._layout.offsets) if o <= bad[0])
            raise LoptError(
                f"outer gradient has {bad.size} non-finite values of {grad.size}, the first "
                f"({grad[bad[0]]}) in {self._layout.names[where]!r}; the step was not made"
            )

    def average(self, state: OuterState) -> np.ndarray:
        """Averaged theta (D,) float32; theta itself before the first step."""
        return state.average.astype(np.float32)

    def state_arrays(self, state: OuterState) -> dict[str, np.ndarray]:
        """The state as named arrays; `load_arrays` is the inverse."""
        return {
            "flat": state.flat,
            "average": state.average,
            "count": np.array([state.count], np.int64),
        }

    def load_arrays(self, arrays: Mapping[str, np.ndarray]) -> OuterState:
        """The state from the arrays of `state_arrays`."""
        return OuterState(arrays["flat"].copy(), arrays["average"].copy(), int(arrays["count"][0]))


def _hand_made(cfg: Any) -> Optimizer:
    """The optimizer that `cfg` names."""
    opt = optimizer(cfg.optimizer, **dict(cfg.options))
    if not hasattr(opt, "learning_rate") or opt.uses_loss:
        raise OptimizerError(
            f"outer.optimizer = {cfg.optimizer!r} cannot be used on theta: it has no "
            "learning_rate to schedule, or reads the loss; 'adam' can be used"
        )
    return opt


def _check(cfg: Any, outer_steps: int) -> None:
    if cfg.schedule not in SCHEDULES:
        raise ConfigError(unknown("outer.schedule", cfg.schedule, SCHEDULES))
    checks = {
        "clip": (cfg.clip > 0, "a number above 0 (inf: no clip)"),
        "warmup": (cfg.warmup >= 0, "at least 0"),
        "final_fraction": (0 <= cfg.final_fraction <= 1, "between 0 and 1"),
        "ema": (0 <= cfg.ema < 1, "in [0, 1)"),
    }
    for key, (good, valid) in checks.items():
        if not good:
            raise ConfigError(f"outer.{key} = {getattr(cfg, key)} is not valid: {valid}")
    if outer_steps < 1:
        raise ConfigError(f"outer_steps = {outer_steps} is not valid: at least 1")
