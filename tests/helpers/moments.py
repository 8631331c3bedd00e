"""Means and total variances of estimates in closed form: one table for the tests and for experiments/06_moments.

A case says how to draw independent estimates, what they are meant to be (target), and what their mean
and the sum of their variances over coordinates are.  A closed form that is missing (None) is not
known; strategies that see the order of losses only have none.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from helpers.episodes import episodes_of, spread, window_gradients
from helpers.es_problems import Balance, Memory, settings, z_of
from helpers.strategy_runs import Loss, estimates, losses_of, node, placed
from helpers.strategy_statistics import AT, CENTRE, SIGMA, D, G, H, P, linear, quadratic, raw

from lopt.comm import SerialComm
from lopt.es import make_estimator
from lopt.es.strategies.guided import orthonormal


class Case(NamedTuple):
    """One estimator on one loss.

    name      of the strategy or the estimator
    setting   what is not default, in words
    loss      "linear", "quadratic", "sine", "noisy", "episode" (of an unrolled problem)
    draw      n -> (n or more, K) independent estimates
    target    (K,) the gradient, or what else is estimated
    mean      (K,) closed form; the target itself: no bias
    variance  closed form of the sum over coordinates, None: not known
    formula   of the variance, g being the target
    """

    name: str
    setting: str
    loss: str
    draw: Callable[[int], np.ndarray]
    target: np.ndarray
    mean: np.ndarray
    variance: float | None
    formula: str

    @property
    def label(self) -> str:
        """For ids of tests and rows of tables."""
        return (
            f"{self.name}, {self.setting}: {self.loss}"
            if self.setting
            else f"{self.name}: {self.loss}"
        )


def gradients(name: str, f: Loss, memory: dict[str, Any] | None = None, **options: Any):
    """How to draw gradients of a strategy at CENTRE."""
    strat = raw(name, **options)
    state = placed(strat, CENTRE, **(memory or {}))
    return lambda n: estimates(strat, state, f, n)


# Linear loss, gradient G

F0 = 0.7 + CENTRE @ G  # the loss at CENTRE
GUESS = np.float32([0.8, -1.5, 1.0, 2.0, 0.5, -1.0])
LINEAR = [  # name, words, settings, total variance over |g|^2, its formula
    ("antithetic", "", {}, (D + 1) / P, "(D + 1) / P"),
    ("annealed", "", {"final_sigma": 0.1}, (D + 1) / P, "(D + 1) / P"),
    ("one_point", "", {}, (D + 1) / (2 * P - 1), "(D + 1) / (2 P - 1)"),
    ("one_point", "no baseline", {"baseline": "none"}, ((D + 1) + D * F0**2 / SIGMA**2 / (G @ G)) / (2 * P),
     "(D + 1 + D f^2 / (sigma |g|)^2) / (2 P)"),
    ("forward", "", {}, (D + 1) / (2 * P - 1), "(D + 1) / (2 P - 1)"),
    ("orthogonal", "", {}, D / P - 1, "(D / P - 1)"),
    ("orthogonal", "radius chi", {"radius": "chi"}, (D + 2) / P - 1, "((D + 2) / P - 1)"),
    ("sobol", "", {}, None, ""),
    ("control_variate", "no guess", {}, (D + 1) / P, "(D + 1) / P"),
    ("importance", "no shift", {}, (D + 1) / P, "(D + 1) / P"),
    ("reuse", "first step", {}, (D + 1) / P, "(D + 1) / P"),
    ("guided", "first step", {}, (D + 1) / P, "(D + 1) / P"),
    ("low_rank", "a vector", {}, (D + 1) / P, "(D + 1) / P"),
    ("low_rank", "2 x 3, rank 1", {"shapes": ((2, 3),)}, (6 + 1 + 12 / 1) / P, "(D + 1 + (2 m + 2 n + 2) / r) / P"),
    ("low_rank", "2 x 3, rank 2", {"shapes": ((2, 3),), "rank": 2}, (6 + 1 + 12 / 2) / P,
     "(D + 1 + (2 m + 2 n + 2) / r) / P"),
    ("noise_table", "", {}, (D + 1) / P, "(D + 1) / P"),
]  # fmt: skip


def linear_cases() -> list[Case]:
    """The table above, and what needs more than settings."""
    square = G @ G
    cases = [
        Case(name, words, "linear", gradients(name, linear, **options), G, G,
             None if v is None else v * square, f"{formula} |g|^2" if formula else "")
        for name, words, options, v, formula in LINEAR
    ]  # fmt: skip
    left = G - GUESS
    cases.append(Case("control_variate", "a guess h", "linear",
                      gradients("control_variate", linear, {"guess": GUESS}), G, G,
                      (D + 1) / P * (left @ left), "(D + 1) / P |g - h|^2"))  # fmt: skip
    move = np.float32([0.1, 0.1, -0.1, 0.05, 0.0, 0.2])
    cases.append(Case("importance", "shift of 0.7 sigma", "linear",
                      gradients("importance", linear, {"move": move}, reach=0.7), G, G, None, ""))  # fmt: skip
    cases.append(Case("reuse", "centre at rest", "linear", lambda n: reused(np.zeros(D), linear, n), G, G,
                      (D + 1) / (2 * P) * square, "(D + 1) / (2 P) |g|^2"))  # fmt: skip
    cases += [*signs(), *guided(), *surrogates()]
    return cases


def signs() -> list[Case]:
    """E z sign(z.g) = sqrt(2 / pi) g / |g|, and |z sign|^2 has mean D."""
    unit = math.sqrt(2 / math.pi)
    mean = unit * G / np.linalg.norm(G)
    sigma = np.float32([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    scaled = sigma.astype(np.float64) * G
    step = unit * sigma * scaled / np.linalg.norm(scaled)
    return [
        Case("antithetic", "signs", "linear", gradients("antithetic", linear, shaping="sign"), mean, mean,
             (D - unit**2) / P, "(D - 2 / pi) / P"),
        Case("pgpe", "signs", "linear", gradients("pgpe", linear, {"sigma": sigma}, shaping="sign"), step, step,
             (float(np.sum(sigma.astype(np.float64) ** 2)) - step @ step) / P,
             "(sum sigma_j^2 - |mean|^2) / P"),
    ]  # fmt: skip


def guided() -> list[Case]:
    """Mean C g, variance (|C g|^2 + tr C  g.C g) / P, tr C = D: biased, and a descent direction."""
    rows = np.float32([[1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 2, 0]])
    u = orthonormal(rows)
    cases = []
    for alpha in (0.1, 0.5, 1.0):
        mean = (alpha * np.eye(D) + (1 - alpha) * D / 2 * u.T @ u) @ G
        draw = gradients("guided", linear, {"estimates": rows}, alpha=alpha)
        variance = (mean @ mean + D * (G @ mean)) / P
        cases.append(Case("guided", f"alpha {alpha:g}", "linear", draw, G, mean, variance,
                          "(|C g|^2 + D g.C g) / P"))  # fmt: skip
    return cases


def surrogates() -> list[Case]:
    """Regression: least norm with fewer pairs than coordinates, noise in the losses with more."""
    square, tau, many = G @ G, 0.1, 12
    cases = [
        Case("surrogate", f"{p} of {D} directions", "linear", fits({"pairs": p}), G, G, (D / p - 1) * square,
             "(D / P - 1) |g|^2")
        for p in (1, 2, 4)
    ]  # fmt: skip
    variance = D * tau**2 / (2 * SIGMA**2 * (many - D - 1))
    cases.append(Case("surrogate", f"{many} of {D} directions", "noisy", fits({"pairs": many}, tau), G, G,
                      variance, "D tau^2 / (2 sigma^2 (P - D - 1))"))  # fmt: skip
    return cases


def fits(options: dict[str, Any], tau: float = 0.0) -> Callable[[int], np.ndarray]:
    """Gradients of the fitted model; losses have noise of standard deviation tau."""
    strat, shared = raw("surrogate", **options), node(D)
    state = placed(strat, CENTRE)

    def draw(n: int) -> np.ndarray:
        found, noise = np.empty((n, D)), np.random.default_rng(1)
        for step in range(n):
            at = dataclasses.replace(state, step=step)
            losses = losses_of(strat, at, linear)
            found[step] = strat.fit(at, losses + tau * noise.normal(size=losses.size), shared)[1]
        return found

    return draw


def reused(move: np.ndarray, f: Loss, n: int) -> np.ndarray:
    """Estimates at CENTRE after a step at CENTRE - move, whose samples know nothing of the move."""
    strat, shared = raw("reuse"), node(D)
    before = (CENTRE - np.float32(move)).astype(np.float32)
    state, found = placed(strat, before), np.empty((n, D))
    for k in range(n):
        old = dataclasses.replace(state, step=2 * k + 2)
        memory = {"losses": losses_of(strat, old, f), "centre": before}
        new = dataclasses.replace(placed(strat, CENTRE), step=2 * k + 3, memory=memory)
        found[k] = strat.gradient(new, losses_of(strat, new, f), shared)
    return found


# Quadratic loss, gradient AT and Hessian H; and a sine, whose smoothing is known


def quadratic_cases() -> list[Case]:
    """Nothing is biased; variances are known where even terms cancel."""
    plain = [
        ("antithetic", "", {}), ("annealed", "", {}), ("one_point", "", {}), ("one_point", "no baseline", {"baseline": "none"}),
        ("forward", "", {}), ("orthogonal", "", {}), ("orthogonal", "radius chi", {"radius": "chi"}),
        ("orthogonal", "radius chi, 2 sets", {"radius": "chi", "pairs": 8}), ("sobol", "", {}), ("control_variate", "", {}),
        ("low_rank", "2 x 3, rank 1", {"shapes": ((2, 3),)}), ("noise_table", "", {}),
    ]  # fmt: skip
    known = {"antithetic": (D + 1) / P, "annealed": (D + 1) / P, "control_variate": (D + 1) / P}
    cases = [
        Case(name, words, "quadratic", gradients(name, quadratic, **options), AT, AT,
             known[name] * (AT @ AT) if name in known else None, "(D + 1) / P |g|^2" if name in known else "")
        for name, words, options in plain
    ]  # fmt: skip
    for length in (0.3, 0.9):
        move = length * SIGMA * np.array([0.5, -0.5, 0.5, 0.5, 0.0, 0.0])
        cases.append(Case("reuse", f"move of {length:g} sigma", "quadratic",
                          lambda n, move=move: reused(move, quadratic, n), AT, AT, None, ""))  # fmt: skip
    cases.append(Case("second_order", "curvature, 8 pairs", "quadratic",
                      lambda n: curvatures(CENTRE, quadratic, 8, n), np.diag(H), np.diag(H), None, ""))  # fmt: skip
    a = np.array([3.0, -1.0, 0.0, 2.0])
    for pairs in (2, 8):
        each = (a @ a + 13 * a**2) / pairs + (a @ a + a**2) / (pairs * (pairs - 1))
        cases.append(Case("second_order", f"curvature at the minimum, {pairs} pairs", "quadratic",
                          lambda n, p=pairs: curvatures(np.zeros(4), lambda x: x**2 @ a / 2, p, n), a, a,
                          float(each.sum()), "sum_j (|a|^2 + 13 a_j^2) / P + (|a|^2 + a_j^2) / (P (P - 1))"))  # fmt: skip
    return cases


def curvatures(centre: np.ndarray, f: Loss, pairs: int, n: int, sigma: float = SIGMA) -> np.ndarray:
    """Curvature estimates of n steps at a centre, (n, D)."""
    strat = raw("second_order", pairs=pairs, sigma=sigma)
    state, shared = placed(strat, np.asarray(centre)), node(len(centre))
    found = np.empty((n, len(centre)))
    for step in range(n):
        state = dataclasses.replace(state, step=step)
        found[step] = strat.curvature(state, losses_of(strat, state, f), shared)
    return found


def sine_cases() -> list[Case]:
    """f = sin(a x): f_sigma = sin(a x) exp(-a^2 sigma^2 / 2).  The bias is that of smoothing."""
    a, sigma, x = 1.7, 0.5, 0.3
    k = (a * sigma) ** 2
    slope, smooth = (np.array([a * s * math.cos(a * x)]) for s in (1.0, math.exp(-k / 2)))
    square = (math.cos(a * x) / sigma) ** 2 * (1 - (1 - 4 * k) * math.exp(-2 * k)) / 2

    def f(y: np.ndarray) -> np.ndarray:
        return np.sin(a * y[:, 0])

    cases = []
    for name in ("antithetic", "control_variate", "noise_table", "sobol", "one_point"):
        strat = raw(name, sigma=sigma)
        state = placed(strat, np.array([x]))
        known = name in ("antithetic", "control_variate")
        variance = (square - float(smooth[0]) ** 2) / P if known else None
        formula = (
            "(cos(a x)^2 (1 - (1 - 4 k) e^(-2 k)) / (2 sigma^2) - mean^2) / P, k = (a sigma)^2"
        )
        cases.append(Case(name, "", "sine", lambda n, s=strat, t=state: estimates(s, t, f, n), slope, smooth,
                          variance, formula if known else ""))  # fmt: skip
    x, bent = 0.9, -(a**2) * math.sin(0.9 * a)
    cases.append(Case("second_order", "curvature, 8 pairs", "sine",
                      lambda n: curvatures([x], f, 8, n, sigma), np.array([bent]),
                      np.array([bent * math.exp(-k / 2)]), None, ""))  # fmt: skip
    return cases


# Unrolled problems: the estimate of a whole episode by one pair


def episode_cases() -> list[Case]:
    """Linear with memory, 12 inner steps in windows of 2; influence balancing, 100 in windows of 5."""
    cases = []
    problems = (
        ("memory", Memory(2), np.zeros(3), 2, (2, 4)),
        ("influence balancing", Balance(100, 5), np.array([0.5]), 5, (20,)),
    )
    for words, problem, theta, window, blocks in problems:
        by_window = window_gradients(problem, theta, window)
        n, target = len(by_window), by_window.sum(axis=(0, 1))
        own = np.einsum("wwd->d", by_window)
        kinds = [("full", {}, n, target), ("nres", {}, n, target), ("pes", {}, 1, target)]
        kinds += [("gpes", {"resample": r}, r // window, target) for r in blocks]
        for name, more, block, mean in kinds:
            setting = f"{words}, blocks of {more['resample']}" if more else words
            cfg = {"estimator": name, "truncation": window, **more}
            cases.append(Case(name, setting, "episode", _episodes(cfg, problem, theta), target, mean,
                              spread(by_window, block), "as gpes, blocks of R" if block < n else "(D + 1) |g|^2"))  # fmt: skip
        each = np.einsum("wwd,wwd->", by_window, by_window)
        cfg = {"estimator": "truncated", "truncation": window}
        cases.append(Case("truncated", words, "episode", _episodes(cfg, problem, theta), target, own,
                          (theta.size + 1) * float(each), "(D + 1) sum_w |g_w|^2"))  # fmt: skip
    return cases


def _episodes(cfg: dict[str, Any], problem: Any, theta: np.ndarray) -> Callable[[int], np.ndarray]:
    def draw(n: int) -> np.ndarray:
        given = settings(pairs=n, **cfg)
        if given.estimator != "full":
            return episodes_of(given, problem, theta)
        whole = make_estimator(given, problem, SerialComm(), 1)
        start = theta.astype(np.float32)
        losses = whole.step(start, 0, whole.init(start))[0].losses
        slopes = given.truncation * (losses[:, 0] - losses[:, 1]) / (2 * given.sigma)
        return slopes[:, None] * np.stack([z_of(1, 0, i, theta.size) for i in range(n)])

    return draw


CASES = [*linear_cases(), *quadratic_cases(), *sine_cases(), *episode_cases()]
