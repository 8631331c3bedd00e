"""The anchored optimizer: against its reference, at theta = 0 against Adam, and what has no scale."""

import math

import numpy as np
import pytest
from helpers.replay import Replay, busy_theta, movement_error, normals

import lopt
from lopt.arch.anchored import Anchored
from lopt.arch.orthogonal import columns_of, orthogonal_factor, orthogonal_sizes
from lopt.arch.per_parameter import BLOCK, KEPT
from lopt.errors import OptimizerError
from lopt.layout import Layout
from lopt.optimizer import TABLE_COLUMNS, nonempty_table

MIXED = Layout((("a", (6, 5)), ("s", ()), ("k", (2, 3, 4, 5)), ("one", (1,)), ("b", (7,))))
BLOCKS = Layout((("w", (40, 30)), ("b", (30,))))
MANY = Layout((("w", (70, 69)), ("cube", (3, 3, 3)), ("b", (33,))))
LAYOUTS = {"mixed": MIXED, "blocks": BLOCKS, "many": MANY}
OPTIONS = {
    "linear": Anchored(),
    "hidden": Anchored(hidden=8),
    "headless": Anchored(hidden=4, head=False, orthogonal=True, decay_steps=2),
    "lstm": Anchored(lstm_hidden=5),
    "orthogonal": Anchored(orthogonal=True),
    "everything": Anchored(
        hidden=4,
        lstm_hidden=3,
        valid_loss=True,
        weight_decay=0.1,
        orthogonal=True,
        total_steps=6,
        grow=True,
    ),
}
FULL = OPTIONS["everything"]


@pytest.mark.parametrize("shapes", LAYOUTS)
@pytest.mark.parametrize("name", OPTIONS)
def test_float64_kernel_agrees_with_the_reference(name: str, shapes: str) -> None:
    assert movement_error(OPTIONS[name], LAYOUTS[shapes], np.float64) < 1e-9


@pytest.mark.parametrize("param_scale", [1e-4, 0.03, 0.3])
def test_small_starts_agree_with_the_reference(param_scale: float) -> None:
    """All matrices next to zero; all tensors below their usual scale; some of them."""
    opt = Anchored(grow=True, rate=0.3)
    assert movement_error(opt, MIXED, np.float64, param_scale=param_scale) < 1e-9


def test_the_shapes_reach_every_path() -> None:
    assert max(BLOCKS.sizes) > BLOCK and BLOCKS.size <= KEPT < MANY.size


@pytest.mark.parametrize("grad_scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("shapes", LAYOUTS)
def test_float32_kernel_moves_as_the_reference_does(shapes: str, grad_scale: float) -> None:
    assert movement_error(FULL, LAYOUTS[shapes], np.float32, grad_scale) < 2e-3


def unit_rms_adam(params: dict, grads: list[dict], rate: float) -> dict:
    """Parameters after Adam steps whose direction has RMS 1 in every tensor, `rate` times the initial RMS long."""
    scale = {k: math.sqrt((p**2).mean()) for k, p in params.items()}
    m, v = ({k: np.zeros(p.shape) for k, p in params.items()} for _ in range(2))
    for t, g in enumerate(grads, 1):
        for k in params:
            m[k] = 0.9 * m[k] + 0.1 * g[k]
            v[k] = 0.999 * v[k] + 0.001 * g[k] ** 2
            adam = m[k] / (1 - 0.9**t) / np.sqrt(v[k] / (1 - 0.999**t))
            params = {**params, k: params[k] - rate * scale[k] * adam / math.sqrt((adam**2).mean())}
    return params


@pytest.mark.parametrize("name", ["linear", "hidden", "lstm", "orthogonal"])
def test_at_theta_zero_it_is_adam_of_unit_rms(name: str) -> None:
    opt = OPTIONS[name]
    params = normals(BLOCKS.size, 3)
    grads = [normals(BLOCKS.size, 20 + t) for t in range(6)]
    run = Replay(opt, BLOCKS, np.zeros(opt.theta_layout.size), params)
    for g in grads:
        run.step(g)
    expected = unit_rms_adam(
        BLOCKS.views(params), [BLOCKS.views(g) for g in grads], float(np.float32(0.01))
    )
    assert run.params == pytest.approx(BLOCKS.flatten(expected, np.float64), rel=1e-9)


@pytest.mark.parametrize("name", OPTIONS)
def test_initial_meta_parameters_move_as_zeros_do(name: str) -> None:
    opt, params = OPTIONS[name], normals(MIXED.size, 4)
    runs = [
        Replay(opt, MIXED, theta, params)
        for theta in (opt.init_theta(7), np.zeros(opt.theta_layout.size))
    ]
    moved = [run.step(normals(MIXED.size, 30)) for run in runs]
    assert np.array_equal(moved[0], moved[1])


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**10])
def test_a_gradient_has_no_unit(factor: float) -> None:
    """The loss in another unit: the same steps."""
    runs = [Replay(FULL, MIXED, busy_theta(FULL), normals(MIXED.size, 5)) for _ in range(2)]
    for t in range(6):
        g, loss = normals(MIXED.size, 40 + t), 2.0 / (1 + t)
        runs[0].step(g, loss)
        runs[1].step(factor * g, factor * loss)
    moved = [run.params - normals(MIXED.size, 5) for run in runs]
    assert moved[1] == pytest.approx(moved[0], rel=1e-5, abs=1e-9)


def test_parameters_have_no_unit() -> None:
    """w = 1000 u: gradients by 1/1000, the same relative steps."""
    runs = [
        Replay(FULL, BLOCKS, busy_theta(FULL), f * normals(BLOCKS.size, 6)) for f in (1.0, 1000.0)
    ]
    start = runs[0].params.copy()
    for t in range(6):
        g = normals(BLOCKS.size, 60 + t)
        runs[0].step(g)
        runs[1].step(g / 1000.0)
    # without decoupled decay the step of scaled parameters is the scaled step; the decay term is small beside it
    plain = [
        Replay(OPTIONS["hidden"], BLOCKS, busy_theta(OPTIONS["hidden"]), f * start)
        for f in (1.0, 1000.0)
    ]
    for t in range(6):
        g = normals(BLOCKS.size, 60 + t)
        plain[0].step(g)
        plain[1].step(g / 1000.0)
    assert plain[1].params / 1000.0 == pytest.approx(plain[0].params, rel=1e-6, abs=1e-9)
    assert runs[1].params / 1000.0 != pytest.approx(
        runs[0].params, rel=1e-6, abs=1e-9
    )  # decay has a unit


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ([0, 0, 3, 3, 0, 0, 4, 4], [3, 3, 3, 4]),
        ([0, 0, 0, 0, 0, 0, 0, 0], [0.1, 0.1, 0.1, 0.1]),
        ([1, 7, 0, 0, 2, 2, 0, 0], [5, 5, 2, 2]),
        ([1e-6, 1e-6, 3, 3, 0.01, 0.01, 0.03, 0.03], [3, 3, 3, 0.03]),
    ],
)
def test_tensors_of_zeros_step_with_the_scale_of_their_neighbour(params, expected) -> None:
    layout = Layout((("a", (2,)), ("b", (2,)), ("c", (2,)), ("d", (2,))))
    run = Replay(
        OPTIONS["linear"],
        layout,
        np.zeros(OPTIONS["linear"].theta_layout.size),
        np.array(params, float),
    )
    start = run.params.copy()
    run.step(np.ones(8))
    step = np.abs(run.params - start)[::2]
    assert step == pytest.approx(0.01 * np.array(expected), rel=1e-6)


def small_start(start: float, shape: tuple[int, ...], steps: int, **options) -> float:
    """|w| after steps along a constant gradient, all entries equal, beside a tensor that gets no gradient."""
    layout = Layout((("w", shape), ("other", (1,))))
    size = layout.size - 1
    opt = Anchored(rate=0.25, **options)
    run = Replay(opt, layout, np.zeros(opt.theta_layout.size), [*np.full(size, start), 0.1])
    for _ in range(steps):
        run.step([*-np.ones(size), 0.0])
    assert np.ptp(run.params[:-1]) < 1e-12
    return float(run.params[0])


@pytest.mark.parametrize(("shape", "usual"), [((16, 3), 0.25), ((2, 2, 4, 3), 0.25), ((5,), 1.0)])
def test_a_small_start_grows_by_its_rate_up_to_the_usual_scale(shape, usual) -> None:
    """w <- w (1 + rate) below 1 / sqrt(fan in), w + rate / sqrt(fan in) above it; without `grow` rate times the start."""
    start = usual / 8
    grown = [small_start(start, shape, t, grow=True) for t in (1, 9, 10, 12)]
    below = [start * 1.25**t for t in (1, 9, 10)]  # 1.25^9 = 7.45, 1.25^10 = 9.3: beyond 8
    assert grown == pytest.approx([*below, below[-1] + 2 * 0.25 * usual], rel=1e-5)
    assert small_start(start, shape, 12) == pytest.approx(start * (1 + 12 * 0.25), rel=1e-5)


def test_a_matrix_next_to_zero_steps_as_one_of_zeros() -> None:
    for start, expected in ((0.0, 0.025), (1e-8, 0.025), (0.02, 0.02 + 0.25 * 0.02)):
        layout = Layout((("w", (4, 4)),))
        opt = Anchored(rate=0.25)
        run = Replay(opt, layout, np.zeros(opt.theta_layout.size), np.full(16, start))
        assert run.step(-np.ones(16)) == pytest.approx(np.full(16, expected), rel=1e-5)


def test_a_tensor_without_gradient_stays() -> None:
    layout = Layout((("a", (3,)), ("b", (3,))))
    opt = OPTIONS["linear"]
    run = Replay(opt, layout, np.zeros(opt.theta_layout.size), np.ones(6))
    moved = run.step(np.array([0.0, 0.0, 0.0, 1.0, 2.0, 3.0]))
    assert np.array_equal(moved[:3], np.ones(3)) and (moved[3:] < 1).all()


def test_only_a_head_needs_the_loss() -> None:
    params = {"w": normals(12, 3).reshape(4, 3).astype(np.float32)}
    grads = {"w": normals(12, 5).reshape(4, 3).astype(np.float32)}
    opt = Anchored(head=False)
    without, _ = opt.update(params, grads, opt.init(params, opt.init_theta()))
    given, _ = opt.update(params, grads, opt.init(params, opt.init_theta()), loss=7.0)
    assert np.array_equal(without["w"], given["w"]) and (without["w"] != params["w"]).all()
    with pytest.raises(OptimizerError, match="'anchored' needs the training loss"):
        Anchored().update(params, grads, Anchored().init(params, Anchored().init_theta()))


def test_decay_is_decoupled_and_as_long_as_the_step() -> None:
    """Without a gradient w <- w (1 - rate scale weight_decay); the gradient's step is what it is without decay."""
    opt, plain = Anchored(weight_decay=0.5, rate=0.1), Anchored(rate=0.1)
    start = 2.0 * np.sign(normals(12, 5))  # RMS 2
    layout, theta = Layout((("w", (4, 3)),)), np.zeros(opt.theta_layout.size)
    still = Replay(opt, layout, theta, start).step(np.zeros(12))
    assert still == pytest.approx(start * (1 - 0.1 * 2.0 * 0.5), rel=1e-6)
    grad = normals(12, 6)
    with_decay, without = (Replay(o, layout, theta, start).step(grad) for o in (opt, plain))
    assert with_decay - without == pytest.approx(-0.1 * 2.0 * 0.5 * start, rel=1e-5)


def test_validation_losses_are_seen_only_if_asked_for() -> None:
    """A validation loss far above the training loss moves the step sizes of a head that looks at it, and of no other."""
    moved = {}
    for seen in (False, True):
        opt = Anchored(valid_loss=seen)
        theta = busy_theta(opt)
        for told in (False, True):
            run = Replay(opt, BLOCKS, theta, normals(BLOCKS.size, 5))
            run.step(normals(BLOCKS.size, 6), loss=1.0)
            if told:
                run.step(np.zeros(BLOCKS.size), loss=9.0, is_valid=1)
            moved[seen, told] = run.step(normals(BLOCKS.size, 7), loss=0.9)
    assert np.array_equal(moved[False, False], moved[False, True])
    assert (moved[True, False] != moved[True, True]).any()


def step_lengths(opt: Anchored, steps: int) -> list[float]:
    """RMS of the first tensor's steps over its initial RMS."""
    params = normals(MIXED.size, 8)
    run, found = Replay(opt, MIXED, np.zeros(opt.theta_layout.size), params), []
    for t in range(steps):
        before = run.params.copy()
        moved = run.step(normals(MIXED.size, 70 + t)) - before
        found.append(math.sqrt((moved[:30] ** 2).mean() / (params[:30] ** 2).mean()))
    return found


def test_cosine_ends_at_zero_whatever_else_is_said() -> None:
    cosine = [0.01 * 0.5 * (1 + math.cos(math.pi * t / 3)) for t in range(3)]
    for decay in (0, 5):
        found = step_lengths(Anchored(total_steps=3, decay_steps=decay), 4)
        assert found == pytest.approx([*cosine, 0.0], rel=1e-5)


def test_without_an_end_steps_fall_like_an_inverse_root() -> None:
    """1, 1/2, 1/3 of the first after 0, 3, 8 times decay_steps."""
    found = step_lengths(Anchored(decay_steps=2), 17)
    assert [found[t] for t in (0, 6, 16)] == pytest.approx([0.01, 0.01 / 2, 0.01 / 3], rel=1e-5)


def factor_of(m: np.ndarray) -> np.ndarray:
    """The kernel's rough orthogonal factor of a matrix."""
    first, second = np.full(m.size, np.nan), np.full(m.size, np.nan)
    squares = np.full(2 * min(m.shape) ** 2, np.nan)
    norm = np.linalg.norm(m)
    orthogonal_factor(
        m.reshape(-1), m.shape[1], 1 / norm if norm > 0 else 0.0, first, second, squares
    )
    return second.reshape(m.shape)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (1, 6), (6, 1)])
def test_singular_values_go_through_the_polynomial_and_vectors_stay(shape) -> None:
    u, s, vt = np.linalg.svd(normals(math.prod(shape), 9).reshape(shape), full_matrices=False)
    s = np.geomspace(0.01, 1.0, s.size)
    expected = s / np.linalg.norm(s)
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    assert factor_of((u * s) @ vt) == pytest.approx((u * expected) @ vt, abs=1e-12)
    assert 0.65 < expected.min() and expected.max() < 1.25


def test_a_matrix_of_zeros_has_no_orthogonal_factor() -> None:
    assert np.array_equal(factor_of(np.zeros((3, 2))), np.zeros((3, 2)))


def test_which_tensors_are_matrices() -> None:
    shapes = {"m": (6, 5), "s": (), "k": (2, 3, 4, 5), "one": (1, 1), "b": (7,), "row": (1, 9)}
    layout = Layout(tuple(shapes.items()))
    table = nonempty_table(layout)
    columns = [columns_of(table, 1 + TABLE_COLUMNS * k) for k in range(len(shapes))]
    assert columns == [5, 0, 5, 0, 0, 0]
    assert orthogonal_sizes(layout) == (120, 25)
    assert orthogonal_sizes(Layout((("b", (7,)),))) == (0, 0)


def test_sizes_of_the_meta_parameters() -> None:
    assert Anchored().theta_layout.size == 13 + 14
    assert Anchored(orthogonal=True).theta_layout.size == 13 + 14 + 1
    assert Anchored(hidden=8).theta_layout.size == 13 + 14 + 8 * (13 + 2)
    assert Anchored(hidden=8, head=False).theta_layout.size == 13 + 8 * (13 + 2)
    assert Anchored(lstm_hidden=16).theta_layout.size == 13 + 14 + 16 + 4 * 16 * (14 + 16 + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": -1}, "hidden must be >= 0, got -1"),
        ({"lstm_hidden": -2}, "lstm_hidden must be >= 0, got -2"),
        ({"lstm_hidden": 2, "head": False}, "lstm_hidden = 2 is for a head, and head is false"),
        ({"valid_loss": True, "head": False}, "valid_loss = True is for a head, and head is false"),
        ({"total_steps": -3}, r"total_steps must be 0 to 2\^24, got -3"),
        ({"total_steps": 2**24 + 1}, r"total_steps must be 0 to 2\^24, got 16777217"),
        ({"decay_steps": -4}, "decay_steps must be >= 0, got -4"),
        ({"rate": 0.0}, "rate must be positive, got 0.0"),
        ({"weight_decay": math.nan}, "weight_decay must be >= 0, got nan"),
    ],
)
def test_refused_options(options: dict, message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        lopt.optimizer("anchored", **options)
