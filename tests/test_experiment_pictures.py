"""What pictures of experiments show, on numbers made up so that it is known."""

import h5py
import numpy as np
import pytest

from lopt import scores, store
from lopt.errors import UsageError
from lopt.plots import STYLES

STEPS = np.array([0, 50, 100])


def made_up(entrants: dict[str, tuple[str, list[float]]], families: list[str]) -> store.Curves:
    """Losses that fall from 10, two seeds 1 % apart, on tasks of those families; training losses are half of them.

    entrants: variant and, for each trial, the final loss on every task.
    """
    infos = [
        (store.EntrantInfo(f"{name} #{k}", name, variant, k, "{}"), final)
        for name, (variant, finals) in entrants.items()
        for k, final in enumerate(finals)
    ]
    at = [(t, j, s) for t in range(len(families)) for j in range(len(infos)) for s in range(2)]
    end = np.array([infos[j][1] * (1 + 0.01 * s) for _, j, s in at])
    valid = (10 * (end[:, None] / 10) ** (STEPS / 100)).astype(np.float32)
    n = len(at)
    runs = store.no_runs(3) | {
        "task": np.array([t for t, _, _ in at]), "entrant": np.array([j for _, j, _ in at]),
        "seed": np.array([s for _, _, s in at]), "train": valid / 2, "valid": valid, "test": end,
        "status": np.zeros(n, np.int64), "status_step": np.zeros(n, np.int64), "wall_s": np.ones(n),
    }  # fmt: skip
    names = tuple(f"t{i}" for i in range(len(families)))
    entered = tuple(info for info, _ in infos)
    return store.Curves(
        {"steps": 100}, [], names, tuple(families), np.zeros(len(families)), entered, STEPS, runs
    )


FOUR = {
    "l": ("learned", [1.0]), "own": ("learned", [4.0, 2.0]), "d": ("default", [5.0]),
    "r": ("tuned", [3.0, 1e-6, 7.0]),
}  # fmt: skip


@pytest.fixture
def plot(folder_module):
    return folder_module("08_evaluation", "plot")


def test_as_many_optimizers_are_drawn_as_there_are_line_styles(plot) -> None:
    """Of seven learned ones five fit beside a default and two searches; asked for by name it is those or an error."""
    many = {f"l{k}": ("learned", [1.0]) for k in range(7)}
    many |= {f"d{k}": ("default", [1.0]) for k in range(9)}
    many |= {f"r{k}": ("tuned", [1.0, 2.0]) for k in range(3)}
    curves = made_up(many, ["a"])
    others = ["d0", "r0", "r1"]
    assert plot.shown(curves, None) == ["l0", "l1", "l2", "l3", "l4", *others]
    assert plot.shown(curves, ["l6", "l2"]) == ["l6", "l2", *others]
    with pytest.raises(UsageError, match="unknown learned entrant 'l9'"):
        plot.shown(curves, ["l1", "l9"])
    with pytest.raises(UsageError, match="6 learned entrants: a picture has lines for 5"):
        plot.shown(curves, [f"l{k}" for k in range(6)])
    alone = made_up({k: v for k, v in many.items() if v[0] != "learned"}, ["a"])
    assert plot.shown(alone, None) == ["d0", "d1", "d2", "d3", "d4", "d5", "r0", "r1"]


def test_curves_are_those_of_the_best_trials_and_fill_their_panels(plot) -> None:
    """Medians of two seeds; a loss that falls by seven decades is in the picture from the first step to the last."""
    figure = plot.loss_curves(made_up(FOUR, ["a", "b", "a"]))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "l",
        "own: best",
        "d",
        "r: best",
    ]
    shown = [ax for ax in figure.axes if ax.lines]
    assert [ax.get_title() for ax in shown] == ["a", "b"]
    for ax in shown:
        assert [line.get_color() for line in ax.lines] == [colour for colour, _ in STYLES[:4]]
        ends = [line.get_ydata()[-1] for line in ax.lines]
        np.testing.assert_allclose(ends, 1.005 * np.array([1, 2, 5, 1e-6]), rtol=1e-4)
        low, high = ax.get_ylim()
        assert low < 1e-6 and 10 < high < 40
        assert len(ax.collections) == 4 and ax.get_xlabel() == "inner step"  # a band for each


def test_training_losses_are_drawn_half_way_between_the_points(plot) -> None:
    figure = plot.train_and_held_out(made_up(FOUR, ["a"]), ["l"])
    train, valid = figure.axes[0].lines[:2]
    assert train.get_xdata().tolist() == [0, 25, 75] and valid.get_xdata().tolist() == [0, 50, 100]
    np.testing.assert_allclose(2 * train.get_ydata(), valid.get_ydata(), rtol=1e-6)
    assert train.get_linewidth() < valid.get_linewidth()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["l", "d", "r: best"]
    assert len(figure.axes[0].collections) == 6


def test_wins_count_the_trials_of_both(plot) -> None:
    """Against one trial 2 wins of 2, against all three none; intervals are Wilson's."""
    curves = made_up(FOUR, ["a", "b"])
    left, right = plot.wins(curves, "own").axes
    names = [t.get_text() for t in right.get_yticklabels()]
    assert names == ["r: 1 trial against 1", "r: 2 trials against 3"]
    assert [bar.get_width() for bar in right.patches] == [0, 0]
    assert [bar.get_width() for bar in left.patches] == [100]
    low, high = scores.win_interval([1, 1], [2, 2])
    (bars,) = left.containers[1][2]
    np.testing.assert_allclose(bars.get_segments()[0][:, 0], [100 * low, 100 * high], rtol=1e-3)
    _, right = plot.wins(curves, "l").axes
    assert [t.get_text() for t in right.get_yticklabels()] == [
        "r: 1 trial against 1",
        "r: 1 trial against 3",
    ]
    assert [bar.get_width() for bar in right.patches] == [100, 0]


def test_every_task_of_a_family_has_a_dot_of_its_own(plot) -> None:
    """Three equal tasks of one family stand at three heights; a search that does not get there is a triangle."""
    slow = {**FOUR, "r": ("tuned", [9.0, 9.5])}
    speeds, default, tuned = plot.families(made_up(slow, ["a", "b", "a", "a"]), "l").axes
    for ax, marker in ((speeds, ">"), (default, "o"), (tuned, "o")):
        dots = [line for line in ax.lines if line.get_marker() == marker]
        assert len({(*dot.get_xdata(), *dot.get_ydata()) for dot in dots}) == 4
        assert len({round(float(dot.get_ydata()[0])) for dot in dots}) == 2
    assert {float(dot.get_xdata()[0]) for dot in speeds.lines if dot.get_marker() == ">"} == {2.0}
    ratio = {round(float(dot.get_xdata()[0]), 4) for dot in tuned.lines if dot.get_marker() == "o"}
    assert ratio == {round(np.log(1 / 9), 4)}
    assert [t.get_text() for t in tuned.texts] == ["100 %", "100 %"]
    assert tuned.get_title() == "against r, the best of 2"


def test_families_without_a_known_lowest_loss_are_named(plot) -> None:
    curves = made_up(FOUR, ["a", "b"])
    curves.lowest[1] = -np.inf
    _, default, tuned = plot.families(curves, "l").axes
    assert [t.get_text() for t in default.texts] == ["100 %", "100 %, no log ratio"]
    assert [t.get_text() for t in tuned.texts] == ["0 %", "0 %, no log ratio"]


CONFIG = """
tasks = [{{ family = "mlp" }}, {{ family = "{family}" }}]
es = {{ horizon = {horizon} }}
train = {{ seed = {seed} }}
"""


def test_runs_of_meta_training_share_axes_where_they_share_tasks(tmp_path, folder_module) -> None:
    """Three runs on two lists of tasks are two rows; the norm of theta is that of all its blocks."""
    with h5py.File(tmp_path / "runs.h5", "w") as file:
        for k, (name, family) in enumerate((("A", "mlp"), ("B", "logistic"), ("C", "mlp"))):
            group = file.create_group(name)
            group["meta_loss"] = np.array([-1.0, -2.0 - k])
            group["theta_norm"] = np.array([[3.0, 4.0], [6.0, 8.0 + k]])
            group.attrs["inner_steps"] = 10**6 * (k + 1)
            horizon = [100, 100 + 50 * k]
            group.attrs["config"] = CONFIG.format(family=family, horizon=horizon, seed=k)
        figure = folder_module("07_meta_training", "logs").picture(file)
    first, norms, second, _ = figure.axes
    assert first.get_title() == "tasks of A, C: 2 mlp"
    assert second.get_title() == "tasks of B: 1 mlp, 1 logistic"
    assert [line.get_ydata()[-1] for line in first.lines] == [-2, -4]
    assert [line.get_xdata().tolist() for line in second.lines] == [[100, 200]]
    assert [line.get_ydata()[0] for line in norms.lines] == [5, 5]
    assert [t.get_text() for t in norms.get_legend().get_texts()] == [
        "A: horizon 100, seed 0,\n1.0e6 inner steps",
        "C: horizon 100 to 200, seed 2,\n3.0e6 inner steps",
    ]
    assert all(ax.get_ylabel() for ax in figure.axes)
