"""Recurrent cores, lookups, pooling and the blockwise readout, against closed forms and references."""

import numpy as np
import pytest

from lopt import rng
from lopt.errors import TaskError
from lopt.ops.activations import ACTIVATIONS
from lopt.ops.embedding import embedding_bwd, embedding_fwd, windows_fwd
from lopt.ops.losses import cross_entropy_reference
from lopt.ops.pooling_time import POOLINGS, pool_bwd, pool_fwd
from lopt.ops.recurrent import core_bwd, core_fwd, core_params, core_scratch
from lopt.ops.token_loss import BLOCK_LOGITS, BLOCK_ROWS, block_rows, readout, readout_work
from lopt.tasks.initialisers import TRUNCATED_STD, draw
from lopt.tasks.recurrent_core import (
    WEIGHTS,
    Core,
    window_reference,
    window_reference_bwd,
)

STREAM = rng.stream(9)
EPS = {np.float32: 2.0**-24, np.float64: 2.0**-53}


def numbers(n: int, inner: int = 0) -> np.ndarray:
    return rng.normals(n, STREAM, rng.TASK, inner).astype(np.float64)


class Window:
    """A core, its flat tensors, inputs x (T B, E) and output gradients dout (T, B, H)."""

    def __init__(self, core: Core, steps: int, batch: int, dtype=np.float64, scale=1.0) -> None:
        self.core, self.steps, self.batch = core, steps, batch
        self.params = (scale * numbers(core.size)).astype(dtype)
        rows = steps * batch
        self.x = numbers(rows * core.inputs, 1).astype(dtype).reshape(rows, core.inputs)
        self.dout = numbers(rows * core.width, 2).astype(dtype).reshape(steps, batch, core.width)

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Named views of a flat vector of the core's tensors."""
        sizes = [int(np.prod(shape)) for _, shape in self.core.tensors]
        pieces = np.split(flat, np.cumsum(sizes)[:-1])
        return {
            name: piece.reshape(shape)
            for (name, shape), piece in zip(self.core.tensors, pieces, strict=True)
        }

    def run(self, ids: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Outputs (T, B, H), gradient of the parameters (flat) and of x (T B, E)."""
        spec, one_hot = np.array(self.core.spec, np.int64), ids is not None
        size = self.core.work_size(self.steps, self.batch, one_hot)
        work = np.full(size, np.nan, self.params.dtype)
        x, hidden, cell, gates, dh, step, rest = core_scratch(
            spec, int(one_hot), work, self.steps, self.batch
        )
        assert rest.size == 0
        assert core_params(spec) == self.params.size
        tokens = np.zeros(0) if ids is None else ids
        tokens = tokens.astype(work.dtype)
        x[...] = self.x[:, : x.shape[1]]
        grad = np.full_like(self.params, 7.0)
        core_fwd(spec, self.params, x, tokens, hidden, cell, gates, step)
        out = hidden[1:].copy()
        dh[...] = self.dout  # after the forward pass: dh and gates may overlap
        core_bwd(spec, self.params, grad, x, tokens, hidden, cell, gates, dh, step)
        return out, grad, x

    def reference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same by the explicit loop over time in float64."""
        w = self.views(self.params.astype(np.float64))
        x = self.x.astype(np.float64).reshape(self.steps, self.batch, -1)
        out, kept = window_reference(self.core, w, x)
        dx, grads = window_reference_bwd(self.core, w, kept, self.dout.astype(np.float64))
        flat = np.concatenate([grads[name].ravel() for name, _ in self.core.tensors])
        return out, flat, dx.reshape(self.x.shape)

    def output(self, **tensors: float | np.ndarray) -> dict[str, np.ndarray]:
        """Set all tensors to 0 but these; returns the views."""
        self.params[:] = 0.0
        views = self.views(self.params)
        for name, value in tensors.items():
            views[name][...] = value
        return views


CORES = [
    Core("vanilla", 3, 4),
    Core("vanilla", 3, 4, activation="swish", trained=True),
    Core("gru", 9, 2, trained=True),
    Core("gru", 3, 4),
    Core("lstm", 3, 4, trained=True),
    Core("lstm", 9, 2),
]
every_core = pytest.mark.parametrize(
    "core", CORES, ids=lambda c: f"{c.kind}-{c.inputs}-{c.width}-{c.activation}-{c.trained}"
)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# Cores against the loop over time


@every_core
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0])
def test_kernels_agree_with_the_loop_over_time(core: Core, dtype, scale) -> None:
    window = Window(core, 5, 3, dtype, scale)
    for found, expected in zip(window.run(), window.reference(), strict=True):
        assert relative(found, expected) < 100 * EPS[dtype]


@every_core
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (1, 4), (7, 1)])
def test_shortest_windows_and_smallest_batches(core: Core, steps: int, batch: int) -> None:
    window = Window(core, steps, batch)
    for found, expected in zip(window.run(), window.reference(), strict=True):
        assert relative(found, expected) < 1e-13


@every_core
def test_one_hot_inputs_are_looked_up(core: Core) -> None:
    """The same outputs and gradients as with the one-hot vectors written out."""
    window = Window(core, 6, 4)
    ids = rng.integers(24, 0, core.inputs, STREAM, rng.TASK)
    out, grad, x = window.run(ids)
    window.x = np.eye(core.inputs)[ids]
    expected_out, expected_grad, _ = window.run()
    assert x.size == 0
    assert relative(out, expected_out) < 1e-14
    assert relative(grad, expected_grad) < 1e-13


@every_core
def test_reference_gradient_is_the_derivative(core: Core) -> None:
    """Central differences of the loop over time along random directions of all its arguments."""
    window = Window(core, 4, 2)
    _, grad, dx = window.reference()
    params, x = window.params.copy(), window.x.copy()
    for k in range(3):
        v, u = numbers(params.size, 10 + k), numbers(x.size, 20 + k).reshape(x.shape)
        ends = []
        for h in (1e-5, -1e-5):
            window.params, window.x = params + h * v, x + h * u
            ends.append((window.reference()[0] * window.dout).sum())
        slope = grad @ v + (dx * u).sum()
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-8)


def test_examples_of_a_batch_do_not_mix() -> None:
    """Outputs of an example are what it gives alone."""
    for core in CORES:
        window = Window(core, 4, 3)
        out = window.run()[0]
        alone = Window(core, 4, 1)
        alone.params = window.params
        alone.x = window.x[1::3].copy()
        np.testing.assert_allclose(alone.run()[0][:, 0], out[:, 1], rtol=1e-13)


def test_later_inputs_do_not_reach_earlier_outputs() -> None:
    for core in CORES:
        window = Window(core, 4, 2)
        out = window.run()[0]
        window.x[4:] += 1.0
        changed = window.run()[0]
        np.testing.assert_array_equal(changed[:2], out[:2])
        assert (changed[2:] != out[2:]).any()


# Closed forms


def test_linear_scalar_core_is_a_geometric_sum() -> None:
    """h_t = w h_{t-1} + x_t, x = 1: h_T = (1 - w^T) / (1 - w), and its derivative in w and h_0."""
    steps, w = 20, 0.9
    window = Window(Core("vanilla", 1, 1, activation="linear", trained=True), steps, 1)
    window.output(wx=1.0, wh=w)
    window.x[...] = 1.0
    window.dout[...] = 0.0
    window.dout[-1] = 1.0
    out, grad, dx = window.run()
    assert out[-1, 0, 0] == pytest.approx((1 - w**steps) / (1 - w), rel=1e-13)
    views = window.views(grad)
    derivative = sum(k * w ** (k - 1) for k in range(1, steps))
    assert views["wh"][0, 0] == pytest.approx(derivative, rel=1e-13)
    assert views["wx"][0, 0] == pytest.approx(out[-1, 0, 0], rel=1e-13)
    assert views["bx"][0] == views["bh"][0] == pytest.approx(out[-1, 0, 0], rel=1e-13)
    assert views["h0"][0] == pytest.approx(w**steps, rel=1e-13)
    np.testing.assert_allclose(dx[:, 0], w ** np.arange(steps - 1, -1, -1), rtol=1e-13)


def test_lstm_with_forget_gate_at_zero_bias_decays_by_the_offset() -> None:
    """All tensors 0 but c_0: c_T = sigmoid(1)^T c_0, h_T = tanh(c_T) / 2."""
    steps = 6
    window = Window(Core("lstm", 2, 3, trained=True), steps, 2)
    window.output(c0=2.0)
    out, _, _ = window.run()
    forget = 1.0 / (1.0 + np.exp(-1.0))
    expected = 0.5 * np.tanh(2.0 * forget ** np.arange(1, steps + 1))
    np.testing.assert_allclose(out, np.broadcast_to(expected[:, None, None], out.shape), rtol=1e-14)


def test_lstm_with_saturated_gates_is_a_running_sum() -> None:
    """Input, forget and output gates at 1: c_t = sum of tanh(x_s)."""
    window = Window(Core("lstm", 1, 1), 8, 3)
    b = np.array([50.0, 0.0, 50.0, 50.0])
    views = window.output(b=b)
    views["w"][0, 1] = 1.0  # x to the candidate
    out, grad, _ = window.run()
    cells = np.cumsum(np.tanh(window.x.reshape(8, 3)), axis=0)
    np.testing.assert_allclose(out[:, :, 0], np.tanh(cells), rtol=1e-13)
    gates = window.views(grad)["b"]
    assert (np.abs(gates[[0, 2, 3]]) < 1e-18).all()
    assert abs(gates[1]) > 1e-2


@pytest.mark.parametrize(("bias", "expected"), [(-50.0, "kept"), (50.0, "replaced")])
def test_gru_update_gate_multiplies_the_candidate(bias: float, expected: str) -> None:
    window = Window(Core("gru", 2, 3, trained=True), 5, 2)
    views = window.output(bz=bias, h0=0.3)
    views["wh"][...] = numbers(6, 5).reshape(2, 3)
    out, _, _ = window.run()
    candidate = np.tanh(window.x @ views["wh"]).reshape(5, 2, 3)
    target = np.full_like(out, 0.3) if expected == "kept" else candidate
    np.testing.assert_allclose(out, target, rtol=1e-13)


def test_gru_reset_gate_acts_before_the_recurrent_matrix() -> None:
    """With r = 0 the candidate does not see the state; with r = 1 it does."""
    for bias, seen in ((-50.0, 0.0), (50.0, 1.0)):
        window = Window(Core("gru", 2, 3, trained=True), 1, 1)
        views = window.output(bz=50.0, br=bias, h0=0.4)
        views["uh"][...] = numbers(9, 6).reshape(3, 3)
        out, _, _ = window.run()
        np.testing.assert_allclose(
            out[0, 0], np.tanh(seen * np.full(3, 0.4) @ views["uh"]), rtol=1e-13, atol=1e-20
        )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_vanilla_core_adds_two_biases(name: str) -> None:
    window = Window(Core("vanilla", 2, 3, activation=name), 3, 2)
    a, b = (Window(window.core, 3, 2) for _ in range(2))
    b.views(b.params)["bx"] += 0.5
    a.views(a.params)["bh"] += 0.5
    np.testing.assert_allclose(a.run()[0], b.run()[0], rtol=1e-13)
    grads = window.views(window.run()[1])
    np.testing.assert_array_equal(grads["bx"], grads["bh"])


# Initial values


def test_library_defaults() -> None:
    """LSTM: cut normals of deviation 0.88 / sqrt(E + H), biases too; GRU uniform; vanilla bias 0."""
    flat = Window(Core("lstm", 60, 40), 1, 1)
    views = flat.views(flat.params)
    flat.core.init(views, STREAM, 0)
    for name in ("w", "b"):
        sigma = TRUNCATED_STD / 10.0
        error = 5.0 * sigma / np.sqrt(views[name].size)
        assert views[name].std() == pytest.approx(sigma, abs=error)
        assert 0.9 * 0.2 < np.abs(views[name]).max() <= 0.2
    flat = Window(Core("gru", 60, 48), 1, 1)
    views = flat.views(flat.params)
    flat.core.init(views, STREAM, 0)
    assert 0.9 * 0.25 < np.abs(views["bz"]).max() <= 0.25  # sqrt(3 / 48)
    assert np.abs(views["wz"]).max() <= np.sqrt(6.0 / 108.0)
    flat = Window(Core("vanilla", 60, 40, trained=True), 1, 1)
    views = flat.views(flat.params)
    flat.core.init(views, STREAM, 0)
    assert all((views[name] == 0.0).all() for name in ("bx", "bh", "h0"))
    assert views["wx"].std() == pytest.approx(TRUNCATED_STD / np.sqrt(60.0), rel=0.1)


def test_initialisers_go_to_their_weights() -> None:
    """Unlinked laws in the sampler's order: hidden to hidden first in a vanilla core."""
    assert WEIGHTS["vanilla"] == ("wh", "wx")
    core = Core("vanilla", 4, 4, initialisers=("identity", "random_normal"), scales=(1.0, 5.0))
    flat = Window(core, 1, 1)
    views = flat.views(flat.params)
    core.init(views, STREAM, 0)
    np.testing.assert_array_equal(views["wh"], np.eye(4))
    assert 2.0 < views["wx"].std() < 10.0
    one = Core("gru", 4, 4, initialisers=("he_normal",))
    assert set(one.laws.values()) == {("he_normal", 1.0)}


def test_weights_of_a_core_are_drawn_apart() -> None:
    core = Core("gru", 30, 30)
    flat = Window(core, 1, 1)
    views = flat.views(flat.params)
    core.init(views, STREAM, 3)
    tensors = [views[n].ravel() for n in ("wz", "uz", "wr", "ur", "wh", "uh")]
    correlations = np.corrcoef(tensors) - np.eye(6)
    assert np.abs(correlations).max() < 5.0 / 30.0


def test_default_weights_are_not_corrected_for_the_cut() -> None:
    w = draw("sonnet", 1.0, (200, 100), STREAM, 0)
    assert w.std() == pytest.approx(TRUNCATED_STD / np.sqrt(200.0), rel=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lstn"}, "unknown core 'lstn'; did you mean 'lstm'"),
        ({"width": 0}, "core_dim = 0, .*nearest: 1"),
        ({"activation": "rely"}, "did you mean 'relu'"),
        ({"initialisers": ("he_normal",) * 3}, "valid: a list of 0, 1 or 6 values"),
        ({"initialisers": ("he_norm",)}, "did you mean 'he_normal'"),
        ({"scales": (0.0,), "initialisers": ("random_normal",)}, "a finite number above 0"),
        ({"trained": 1}, "trainable_init = 1, valid: true or false"),
    ],
)
def test_bad_cores_are_named(options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Core(**{"kind": "gru", "inputs": 3, "width": 4, **options})


# Lookups


def test_windows_are_cut_from_their_text() -> None:
    tokens = np.arange(20, dtype=np.int32)
    ids = np.full((3, 4), np.nan)
    windows_fwd(tokens, np.array([0, 17, 5, 6]), 1, 19, ids)
    np.testing.assert_array_equal(ids.T, [[0, 1, 2], [17, 18, 18], [5, 6, 7], [6, 7, 8]])
    windows_fwd(tokens, np.array([0, 1, 14, 15]), 2, 99, ids)
    np.testing.assert_array_equal(ids.T, [[0, 1, 2], [10, 11, 12], [7, 8, 9], [17, 18, 19]])


def test_embedding_adds_up_repeated_tokens() -> None:
    table = numbers(12).reshape(4, 3)
    ids = np.array([2.0, 0.0, 2.0, 2.0, 3.0])
    x = np.full((5, 3), np.nan)
    embedding_fwd(table, ids, x)
    np.testing.assert_array_equal(x, table[[2, 0, 2, 2, 3]])
    dx, dtable = numbers(15, 1).reshape(5, 3), np.full((4, 3), 7.0)
    embedding_bwd(ids, dx, dtable)
    expected = np.stack([dx[1], np.zeros(3), (dx[0] + dx[2]) + dx[3], dx[4]])
    np.testing.assert_array_equal(dtable, expected)


# Pooling over time


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("steps", [1, 4])
def test_pooling(pooling: str, steps: int) -> None:
    outputs = numbers(steps * 5).reshape(steps, 5)
    pooled, d, dout = np.full(5, np.nan), numbers(5, 1), np.full((steps, 5), np.nan)
    code = POOLINGS.index(pooling)
    pool_fwd(outputs, pooled, code)
    expected = {"last": outputs[-1], "avg": outputs.mean(axis=0), "max": outputs.max(axis=0)}
    np.testing.assert_allclose(pooled, expected[pooling], rtol=1e-14)
    slope = d.copy()
    pool_bwd(outputs, pooled, d, dout, code)
    np.testing.assert_allclose(dout.sum(axis=0), slope, rtol=1e-14)
    touched = {"last": 5, "avg": 5 * steps, "max": 5}[pooling]
    assert np.count_nonzero(dout) == touched


def test_ties_of_the_maximum_share_its_gradient() -> None:
    outputs = np.array([[0.0, 1.0, 3.0], [0.0, 2.0, 3.0], [0.0, 0.0, -1.0]])
    pooled, dout = np.empty(3), np.empty((3, 3))
    pool_fwd(outputs, pooled, 2)
    np.testing.assert_array_equal(pooled, [0.0, 2.0, 3.0])
    pool_bwd(outputs, pooled, np.array([6.0, 5.0, 4.0]), dout, 2)
    np.testing.assert_array_equal(dout, [[2, 0, 2], [2, 5, 2], [2, 0, 0]])


def test_a_nan_is_not_lost_in_the_maximum() -> None:
    for t in range(3):
        outputs = np.zeros((3, 1))
        outputs[t] = np.nan
        pooled = np.empty(1)
        pool_fwd(outputs, pooled, 2)
        assert np.isnan(pooled).all()


# Readout in blocks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "vocab"), [(5, 3), (150, 2000), (2 * BLOCK_ROWS, 1500)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0])
def test_readout_agrees_with_the_reference(n: int, vocab: int, dtype, scale: float) -> None:
    """One block, several, and a last one that is not full."""
    width = 6
    h, w = numbers(n * width).reshape(n, width), numbers(width * vocab, 1).reshape(width, vocab)
    h, w, b = h.astype(dtype), (scale * w).astype(dtype), numbers(vocab, 2).astype(dtype)
    targets = rng.integers(n, 0, vocab, STREAM, rng.TASK)
    dh, dw, db = (np.full_like(a, 7.0) for a in (h, w, b))
    work = np.full(readout_work(n, width, vocab), np.nan, dtype)
    loss = readout(h, w, b, targets.astype(dtype), dh, dw, db, work, 1)
    exact = h.astype(np.float64), w.astype(np.float64), b.astype(np.float64)
    expected, dz = cross_entropy_reference(exact[0] @ exact[1] + exact[2], targets)
    tolerance = 100 * EPS[dtype] * max(1.0, scale)
    assert loss == pytest.approx(expected, rel=tolerance)
    assert relative(dh, dz @ exact[1].T) < tolerance
    assert relative(dw, exact[0].T @ dz) < tolerance
    assert relative(db, dz.sum(axis=0)) < tolerance


def test_blocks_stay_small() -> None:
    assert block_rows(10**6, 256) * 256 == BLOCK_LOGITS
    assert block_rows(10**6, 30000) == BLOCK_ROWS
    assert block_rows(7, 256) == 7


def test_certain_targets_keep_their_relative_precision() -> None:
    """Logit 40 above the others: loss 3 e^-40, gradients e^-40."""
    h, b = np.ones((1, 1), np.float32), np.zeros(4, np.float32)
    w = np.array([[40.0, 0.0, 0.0, 0.0]], np.float32)
    dh, dw, db = np.empty_like(h), np.empty_like(w), np.empty_like(b)
    work = np.empty(readout_work(1, 1, 4), np.float32)
    loss = readout(h, w, b, np.zeros(1, np.float32), dh, dw, db, work, 1)
    small = np.exp(-40.0)
    assert loss == pytest.approx(3 * small, rel=1e-6)
    np.testing.assert_allclose(db, [-3 * small, small, small, small], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 5, 9])
def test_bad_logits_give_a_nan_loss(bad: float, where: int) -> None:
    h, w, b = np.ones((2, 1), np.float32), np.zeros((1, 10), np.float32), np.zeros(10, np.float32)
    b[where] = bad
    work = np.empty(readout_work(2, 1, 10), np.float32)
    targets = np.array([0.0, 3.0], np.float32)
    assert np.isnan(readout(h, w, b, targets, h.copy(), w.copy(), b.copy(), work, 1))
