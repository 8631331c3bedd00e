"""`opt.init` and `opt.update` on a model of one's own: what is accepted, what is refused, and that refusing changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reference_hand_made import TEXTBOOK

import lopt
from lopt import rng, store
from lopt.errors import OptimizerError, StoreError
from lopt.layout import Layout
from lopt.model_arrays import LISTED
from lopt.optimizer import OPTIMIZERS, Optimizer, State

LAYOUT = Layout((("w", (6, 5)), ("none", (0, 3)), ("b", (5,)), ("s", ())))
EXAMPLES = [
    (f"{n}{i}", o) for n, c in sorted(OPTIMIZERS.items()) for i, o in enumerate(c.examples())
]
every = pytest.mark.parametrize("opt", [o for _, o in EXAMPLES], ids=[n for n, _ in EXAMPLES])
LEARNED = sorted(n for n, c in OPTIMIZERS.items() if not c.hand_made)
# Largest gradients; the square of 2e19 is above float32, and 3.4e38 is its largest number.
MAGNITUDES = (1.0, 1e10, 1e18, 2e19, 1e30, 3.4e38)


def model(purpose: int, largest: float = 1.0) -> dict[str, np.ndarray]:
    """Tensors whose largest value, of either sign, is `largest`."""
    z = rng.normals(LAYOUT.size, rng.stream(11), purpose)
    return LAYOUT.views(np.float32(largest) * (z / np.abs(z).max()))


def raw_step(opt: Optimizer, grads: dict[str, np.ndarray], state: State) -> tuple:
    """New parameters and state as the kernel leaves them, whatever they are."""
    flat, grad = LAYOUT.flatten(model(1)), LAYOUT.flatten(grads)
    new, work = state.flat.copy(), np.empty(opt.work_size(LAYOUT), np.float32)
    if opt.uses_valid_loss:
        opt.step(state.theta, flat, grad, new, 1.5, 1, opt.opt_data(LAYOUT), work)
    assert opt.step(state.theta, flat, grad, new, 2.0, 0, opt.opt_data(LAYOUT), work) == 0
    return flat, new


@every
def test_gradients_of_any_size_give_a_finite_step_or_none(opt: Optimizer) -> None:
    """An update is what the kernel makes if that is finite, else an error, after which all is as it was."""
    for magnitude in MAGNITUDES:
        params, grads = model(1), model(2, magnitude)
        state = opt.init(params, opt.init_theta(3))
        before = state.flat.copy()
        flat, new = raw_step(opt, grads, state)
        if np.isfinite(flat).all() and np.isfinite(new).all():
            after, state_after = opt.update(params, grads, state, loss=2.0, valid_loss=1.5)
            np.testing.assert_array_equal(LAYOUT.flatten(after), flat)
            np.testing.assert_array_equal(state_after.flat, new)
        else:
            assert magnitude > 1e18
            name = max(grads, key=lambda k: np.abs(grads[k]).max(initial=0.0))
            shown = f"the largest gradient is {magnitude:.3g}, in '{name}', the loss 2,"
            with pytest.raises(OptimizerError, match=shown.replace("+", r"\+")):
                opt.update(params, grads, state, loss=2.0, valid_loss=1.5)
        np.testing.assert_array_equal(state.flat, before)
        np.testing.assert_array_equal(LAYOUT.flatten(params), LAYOUT.flatten(model(1)))


@pytest.mark.parametrize(
    ("name", "magnitude", "words"),
    [
        ("adam", 1.8e19, ""),
        ("adam", 2e19, "the step would make the state inf"),
        ("adafactor", 1e18, ""),
        ("adafactor", 2e19, r"the step would make params\['w'\] (nan|-?inf)"),
        ("anchored", 1e18, ""),
        ("anchored", 2e19, r"the step would make params\['w'\] (nan|-?inf)"),
        ("sgd", 3.4e38, ""),
        ("lion", 3.4e38, ""),
        ("hierarchical", 3.4e38, ""),
    ],
)
def test_which_gradients_are_too_large(name: str, magnitude: float, words: str) -> None:
    opt, params = lopt.optimizer(name), model(1)
    state, grads = opt.init(params, opt.init_theta()), model(2, magnitude)
    if words:
        with pytest.raises(OptimizerError, match=words):
            opt.update(params, grads, state, loss=1.0)
    else:
        after, _ = opt.update(params, grads, state, loss=1.0)
        assert 0 < np.abs(after["w"] - params["w"]).max() < np.inf


def test_a_loss_and_parameters_too_large_are_refused_too() -> None:
    opt = lopt.optimizer("hierarchical")
    params, grads = model(1), model(2)
    state = opt.init(params, opt.init_theta())
    with pytest.raises(OptimizerError, match=r"the state inf: .*, the loss 1e\+39"):
        opt.update(params, grads, state, loss=1e39)
    opt, huge = lopt.optimizer("sgd", learning_rate=1.0), model(1, 3.4e38)
    with pytest.raises(OptimizerError, match=r"params\['w'\] -?inf"):
        opt.update(huge, {k: -v for k, v in huge.items()}, opt.init(huge))


# Whose theta


def test_hand_made_optimizers_are_those_with_a_textbook() -> None:
    assert {n for n, c in OPTIMIZERS.items() if c.hand_made} == set(TEXTBOOK)


@pytest.mark.parametrize("name", sorted(TEXTBOOK))
def test_a_hand_made_optimizer_has_a_theta_of_its_own(name: str) -> None:
    """The one of its options, whatever the seed."""
    opt = lopt.optimizer(name, learning_rate=0.125)
    np.testing.assert_array_equal(opt.init(model(1)).theta, opt.init_theta(5))
    assert opt.init(model(1)).theta[0] == np.float32(np.log(0.125))


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_optimizer_does_not_guess_its_theta(name: str) -> None:
    opt, words = lopt.optimizer(name), rf"'{name}' is learned: pass theta: load_weights\(\.\.\.\)"
    with pytest.raises(OptimizerError, match=words):
        opt.init(model(1))
    with pytest.raises(OptimizerError, match=words):
        lopt.rollout(lopt.task("quadratic", dims=3), opt, steps=1)


def test_weights_start_on_a_model(tmp_path: Path) -> None:
    """Their optimizer, with options replaced, and a state with their theta."""
    made = lopt.optimizer("anchored", weight_decay=0.25)
    theta = made.init_theta() + np.float32(0.5)
    weights = lopt.load_weights(store.save_weights(tmp_path / "w.h5", made, theta, {}))
    opt, state = weights.start(model(1), total_steps=9)
    assert opt == lopt.optimizer("anchored", weight_decay=0.25, total_steps=9)
    np.testing.assert_array_equal(state.theta, theta)
    after, _ = opt.update(model(1), model(2), state, loss=1.0)
    same, _ = opt.update(model(1), model(2), opt.init(model(1), theta), loss=1.0)
    np.testing.assert_array_equal(after["w"], same["w"])
    with pytest.raises(StoreError, match="rate = 'a', valid: a number"):
        weights.start(model(1), rate="a")


# What a model may be


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_all_is_computed_in_float32(dtype: type) -> None:
    opt = lopt.optimizer("adam")
    params, grads = ({k: v.astype(dtype) for k, v in model(i).items()} for i in (1, 2))
    found, _ = opt.update(params, grads, opt.init(params))
    single = [{k: v.astype(np.float32) for k, v in given.items()} for given in (params, grads)]
    wanted, _ = opt.update(*single, opt.init(single[0]))
    for name, value in wanted.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value)


def graph(*_: Any, **__: Any) -> np.ndarray:
    raise RuntimeError("requires grad")


Attached = type("Attached", (), {"__array__": graph})
UNFIT: dict[str, tuple[Any, str]] = {
    "complex": (
        np.ones(3, complex), r"is complex128, .*; give real and imaginary part as two tensors"
    ),
    "int": (np.ones(3, int), r"is int64, .* float32, float64 or float16; convert it with \.astype"),
    "bool": (np.ones(3, bool), r"is bool, "),
    "dict": ({"kernel": np.ones(3)}, r"is dict, must be an array"),
    "ragged": ([[1.0], [1.0, 2.0]], r"cannot be read as an array: .*inhomogeneous"),
    "graph": (Attached(), r"cannot be read as an array: requires grad"),
    "nan": (np.array([1, np.nan, 1]), r"has nan at \(1,\): must be finite"),
    "inf": (np.array([1, 1, -np.inf]), r"has -inf at \(2,\)"),
    "large": (np.array([1e39, 1, 1]), r"has 1e\+39 at \(0,\): must be finite in float32"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_what_is_no_tensor_of_finite_floats_is_refused(case: str) -> None:
    """By init, and by update among parameters and among gradients."""
    value, words = UNFIT[case]
    opt, fine = lopt.optimizer("sgd"), {"v": np.ones((2, 2)), "w": np.ones(3)}
    state = opt.init(fine)
    calls: list[tuple[str, Callable]] = [
        ("params", lambda bad: opt.init(bad)),
        ("params", lambda bad: opt.update(bad, fine, state)),
        ("grads", lambda bad: opt.update(fine, bad, state)),
    ]
    for what, call in calls:
        with pytest.raises(OptimizerError, match=rf"^{what}\['w'\] {words}"):
            call(fine | {"w": value})


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("a", "lacks 'b', 'c', 'd' and 1 more"),
        ("abcdE", "lacks 'e' and has 'E', which the params given to init had not"),
        ("abcdef", "has 'f', which the params given to init had not"),
    ],
    ids=["missing", "misspelt", "more"],
)
def test_tensors_missing_or_too_many_are_named(names: str, words: str) -> None:
    opt, fine = lopt.optimizer("sgd"), {name: np.ones(2) for name in "abcde"}
    state, other = opt.init(fine), {name: np.ones(2) for name in names}
    assert LISTED == 3
    with pytest.raises(OptimizerError, match=f"^grads {words}$"):
        opt.update(fine, other, state)
    with pytest.raises(OptimizerError, match=f"^params {words}$"):
        opt.update(other, fine, state)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (np.ones(3), "is of type ndarray, expected a dict of named arrays"),
        ([np.ones(3)], "is of type list, expected a dict"),
        ({0: np.ones(3)}, "has the name 0: must be text"),
    ],
)
def test_what_is_no_dict_of_named_arrays_is_refused(arrays: Any, words: str) -> None:
    opt, fine = lopt.optimizer("sgd"), {"w": np.ones(3)}
    with pytest.raises(OptimizerError, match=f"params {words}"):
        opt.init(arrays)
    with pytest.raises(OptimizerError, match=f"params {words}"):
        opt.update(arrays, fine, opt.init(fine))
    with pytest.raises(OptimizerError, match=f"grads {words}"):
        opt.update(fine, arrays, opt.init(fine))


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({"loss": np.nan}, "^loss = nan: must be finite"),
        ({"loss": 1.0, "valid_loss": np.inf}, "^valid_loss = inf: must be finite"),
        ({"loss": "low"}, "^loss = 'low': must be a number"),
        ({"loss": 1j}, "^loss = 1j: must be a number"),
        ({}, "'hierarchical' needs the training loss"),
    ],
)
def test_losses_that_are_none_are_refused(losses: dict[str, Any], words: str) -> None:
    opt, params = lopt.optimizer("hierarchical"), model(1)
    with pytest.raises(OptimizerError, match=words):
        opt.update(params, model(2), opt.init(params, opt.init_theta()), **losses)


def test_the_state_of_another_optimizer_is_refused() -> None:
    params = {"w": np.ones(3)}
    state = lopt.optimizer("sgd").init(params)
    words = "0 values and 1 meta-parameters, 'adam' needs 7 and 5"
    with pytest.raises(OptimizerError, match=words):
        lopt.optimizer("adam").update(params, params, state)


@pytest.mark.parametrize(
    ("theta", "words"),
    [
        (np.zeros(2), r"theta has shape \(2,\), optimizer 'sgd' needs \(1,\)"),
        (np.array([np.nan]), "theta has non-finite values"),
        (np.array([1j]), "theta is complex128"),
        (lopt.optimizer("sgd"), "theta is Sgd, must be an array"),
    ],
)
def test_a_theta_that_does_not_fit_is_refused(theta: Any, words: str) -> None:
    with pytest.raises(OptimizerError, match=words):
        lopt.optimizer("sgd").init({"w": np.ones(3)}, theta)
