"""Experiments at tiny size, as programs; and what their numbers rest on."""

import shutil
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.programs import run

import lopt
from lopt import store
from lopt.comparison import ComparisonConfig, TaskList, built_tasks, entrants_of, read
from lopt.data.optional import DATASETS as OPTIONAL_DATA
from lopt.data.optional import TEXTS as OPTIONAL_TEXTS
from lopt.judgement import final_valid, judge
from lopt.optimizer import OPTIMIZERS
from lopt.tasks import parse_task, parse_task_spec

ROOT = Path(__file__).parent.parent
EVALUATION = ROOT / "experiments" / "08_evaluation"
META_TRAINING = ROOT / "experiments" / "07_meta_training"


def test_landscape(tmp_path):
    """The centre follows the search's rows; points are as far from it as sigma says."""
    out = run("03_black_box", "--out", str(tmp_path), "--only", "landscape", "--seeds", "1")
    assert "as expected" in out and "NOT" not in out
    with h5py.File(tmp_path / "landscape" / "seed0" / "path.h5") as file:
        centre, points = file["centre"][()], file["points"][()]
    assert centre.shape == (61, 2) and points.shape == (60, 24, 2)
    np.testing.assert_allclose(points.mean(axis=1), centre[:-1], atol=1e-5)
    spread = (points - centre[:-1, None]).std()
    assert spread == pytest.approx(0.12, rel=0.1)


def test_quality(tmp_path):
    """Every search stays within its evaluations, and its lowest value never rises."""
    arguments = ["--dimensions", "10", "--seeds", "2", "--evaluations", "300"]
    out = run("05_es_quality", "--out", str(tmp_path), *arguments)
    assert (tmp_path / "quality.png").stat().st_size > 10_000
    with h5py.File(tmp_path / "d10.h5") as file:
        best, marks = file["best"][()], file["evaluations"][()]
        searches = [str(s) for s in file.attrs["searches"]]
    assert all(f"| {name} |" in out for name in searches) and {"cma", "lopt cma"} <= set(searches)
    assert marks[-1] == 300 and np.isfinite(best).all()
    assert (np.diff(best, axis=-1) <= 0).all() and (best[..., -1] < best[..., 0]).all()


def test_record(folder_module):
    """The lowest value up to each mark, wherever blocks of evaluations end; later ones do not count."""
    record = folder_module("05_es_quality", "functions").Record(
        lambda x: x[:, 0], np.array([2, 3, 7])
    )
    for block in ([5.0, 4.0, 6.0], [9.0, 1.0], [3.0, 2.0, 0.0]):
        record(np.array(block)[:, None])
    np.testing.assert_array_equal(record.lowest(), [4, 4, 1])
    assert record.count == 8


def test_functions_have_their_minimum_and_their_shape(folder_module):
    functions = folder_module("05_es_quality", "functions")
    for name, f in functions.FUNCTIONS.items():
        best = np.ones((1, 7)) if name == "rosenbrock" else np.zeros((1, 7))
        assert f(best)[0] == 0
        assert (f(best + np.random.default_rng(0).normal(size=(50, 7))) > 0).all()
    assert functions.ellipsoid(np.eye(7)).tolist() == pytest.approx(10.0 ** np.arange(7))
    q = functions.rotation(7)
    np.testing.assert_allclose(q @ q.T, np.eye(7), atol=1e-12)


def test_interval_of_a_median(folder_module):
    """The 6th and the 15th of 20: 95.9 % of samples enclose the true median (Monte Carlo: within 5 sigma)."""
    interval = folder_module("05_es_quality", "table").interval
    assert interval(np.arange(1.0, 21)[::-1]) == (10.5, 6, 15)
    assert interval(np.array([3.0, 1, 2])) == (2, 1, 3)
    draws = np.random.default_rng(0).exponential(size=(2000, 20))
    held = np.mean([low <= np.log(2) <= high for _, low, high in map(interval, draws)])
    assert abs(held - 0.959) < 5 * np.sqrt(0.959 * 0.041 / 2000)


def test_quality_missed(folder_module, tmp_path):
    """A median above its bound is reported, and only in a run of the expected size."""
    best = np.ones((1, 2, 20, 3))
    best[0, 0] = 3.0
    with h5py.File(tmp_path / "d10.h5", "w") as file:
        file["best"], file["evaluations"] = best, [10, 20, 50]
        file.attrs.update({"functions": ["sphere"], "searches": ["a", "b"], "dimensions": 10})
    missed = folder_module("05_es_quality", "table").missed
    for factor, evaluations, said in (
        (2.0, 50, ["10 dimensions, sphere: a 3, b 1"]),
        (4.0, 50, []),
        (2.0, 51, []),
    ):
        bounds = {"evaluations": evaluations, "at_most": [["a", "b", "sphere", factor]]}
        assert missed(tmp_path, {"seeds": 20, "10": bounds}) == said


def test_evaluation(tmp_path):
    """At tiny size with anchored at theta = 0 as the learned one, which is another entrant of the same runs."""
    for name in ("tiny.toml", "tiny_tasks.toml", "optlist.toml"):
        shutil.copy(EVALUATION / name, tmp_path)
    opt = lopt.optimizer("anchored")
    store.save_weights(tmp_path / "zero.h5", opt, opt.init_theta(), {"tasks": ["mlp"]})
    with open(tmp_path / "tiny.toml", "a") as config:
        config.write('[[entrants]]\nweights = "zero.h5"\n[[entrants]]\noptimizer = "anchored"\n')
    arguments = ["--out", str(tmp_path), "--ranks", "1", "--configs", str(tmp_path / "tiny.toml")]
    out = run("08_evaluation", *arguments)
    assert "3 of 3 tasks" in out and "as expected" in out
    for picture in ("curves", "overfitting", "wins_zero", "families_zero"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 10_000
    assert (
        "| anchored | 50 % (6 to 94) | +0.00 | 3 of 3 |" in (tmp_path / "tiny_zero.md").read_text()
    )
    found = judge(store.read_curves(tmp_path / "tiny.h5"), "zero")
    own = found["default_against_default"]["anchored"]
    assert (own["win_rate"], own["log_ratio"]["median"]) == (0.5, 0.0)
    assert list(found["equal_trials"]["Adam8p, random"]) == ["1", "3"]
    assert (found["tasks"], found["seeds"], found["diverged"]) == (3, 2, 0.0)
    before = (tmp_path / "tiny.h5").read_bytes()
    run("08_evaluation", *arguments)
    assert (tmp_path / "tiny.h5").read_bytes() == before


def test_implicit_regularisation(tmp_path):
    """x - y and x + y of gradient descent, momentum and AdamW follow their closed forms at every step."""
    tiny = ROOT / "experiments" / "09_implicit_regularisation" / "tiny.toml"
    out = run("09_implicit_regularisation", "--out", str(tmp_path), "--config", str(tiny))
    assert "as expected" in out and "NOT" not in out
    assert (tmp_path / "implicit.png").stat().st_size > 10_000
    with h5py.File(tmp_path / "trajectories.h5") as file:
        points, steps = file["points"][()].astype(np.float64), file["steps"][()]
        own = dict(zip(file.attrs["entrants"], points, strict=True))
    gap = {name: x[..., 0] - x[..., 1] for name, x in own.items()}
    total = {name: x.sum(axis=-1) for name, x in own.items()}
    first = gap["sgd"][:, :1]
    np.testing.assert_allclose(gap["sgd"], first * 0.9**steps, atol=1e-6)
    # d <- d - lr m, m <- b m + 2 d
    turn = np.array([[1 - 0.02, -0.01 * 0.9], [2.0, 0.9]])
    heavy = [np.linalg.matrix_power(turn, t)[0, 0] for t in steps]
    np.testing.assert_allclose(gap["momentum"], first * heavy, atol=1e-5)
    for name in ("sgd", "momentum", "adam", "anchored, theta = 0"):
        np.testing.assert_allclose(total[name], total[name][:, :1] + 0 * steps, atol=2e-6)
    np.testing.assert_allclose(total["adamw"], total["adamw"][:, :1] * 0.999**steps, atol=2e-6)


def hand_designed_curves(path: Path) -> None:
    """Two tasks from a loss of 4: Adam at its default, and three rates; finals are what the table is worked out from."""
    finals = {  # entrant: (family, variant, trial, final loss on task 0, on task 1)
        "adam": ("adam", "default", 0, 2.0, 3.0),
        "r #0": ("r", "tuned", 0, 2.0, 3.0),
        "r #1": ("r", "tuned", 1, 0.0, 9.0),
        "r #2": ("r", "tuned", 2, 1.0, 2.0),
    }
    infos = tuple(store.EntrantInfo(k, *v[:3], "{}") for k, v in finals.items())
    pairs = [(i, j) for i in range(2) for j in range(4)]
    last = np.array([list(finals.values())[j][3 + i] for i, j in pairs])
    runs = store.no_runs(3) | {
        "task": np.array([i for i, _ in pairs]), "entrant": np.array([j for _, j in pairs]),
        "seed": np.zeros(8, np.int64), "status": np.zeros(8, np.int64),
        "status_step": np.full(8, -1), "test": last, "wall_s": np.ones(8),
        "train": np.ones((8, 3), np.float32),
        "valid": np.stack([np.full(8, 4.0), last, last], axis=1).astype(np.float32),
    }  # fmt: skip
    settings = {"steps": 20, "outer_batches": 1, "test_batches": 1, "ceiling": 1e10}
    bounds, steps = np.zeros(2), np.array([0, 10, 20])
    store.save_curves(
        path, store.Curves(settings, [], ("a", "b"), ("f", "f"), bounds, infos, steps, runs)
    )


def test_hand_designed(tmp_path):
    """Lowest losses are 0 and 2, initial ones 4: every cell worked out by hand, and the exit code."""
    hand_designed_curves(tmp_path / "curves.h5")
    out = run("10_hand_designed", str(tmp_path / "curves.h5"), program="plot.py")
    assert "as expected" in out
    table = [line for line in out.splitlines() if line.startswith("| ")]
    rows = dict(line.strip("| ").split(" | ", 1) for line in table[1:])
    assert rows == {
        "adam": "2 | 0.5000 | 0.5000 | 0.5000 | 0 %",  # 2 / 4 and (3 - 2) / 2
        "r: 1 trial": "2 | 0.5000 | 0.5000 | 0.5000 | 0 %",
        "r: 3 trials": "2 | 0.0000 | 0.0000 | 0.0000 | 0 %",
        "r: one for all": "2 | 0.1250 | 0.1250 | 0.1875 | 0 %",  # the third: 1 / 4 and 0
    }
    assert (tmp_path / "hand_designed.png").stat().st_size > 5_000


def test_cost(tmp_path):
    """State and scratch are what optimizers declare, for all of the registry; steps take time."""
    tiny = ROOT / "experiments" / "11_cost" / "tiny.toml"
    out = run("11_cost", "--out", str(tmp_path), "--config", str(tiny))
    assert "as expected" in out and "NOT" not in out
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    with h5py.File(tmp_path / "cost.h5") as file:
        names, state, seconds = file.attrs["entrants"], file["state_bytes"][()], file["seconds"][()]
        learned = [n for n, x in zip(names, file.attrs["learned"], strict=True) if x]
    assert set(names) == set(OPTIMIZERS) and (seconds > 0).all()
    assert {"anchored", "hierarchical"} <= set(learned) and not {"sgd", "adam8p"} & set(learned)
    per_parameter = dict(zip(names, (state[:, 1] - state[:, 0]) / 300, strict=True))
    planes = {"sgd": 0, "lion": 1, "adam": 2, "mlp": 6, "anchored": 5, "hierarchical": 10}
    assert {name: per_parameter[name] / 4 for name in planes} == planes


def test_generalisation(tmp_path):
    """Tasks are put on the axis they differ on; the log ratio is that of the curves."""
    folder = ROOT / "experiments" / "12_generalisation"
    arguments = ["--out", str(tmp_path), "--config", str(folder / "tiny.toml")]
    out = run("12_generalisation", *arguments)
    assert (tmp_path / "generalisation.png").stat().st_size > 10_000
    curves = store.read_curves(tmp_path / "tiny.h5")
    test, members = curves.runs["test"], curves.members("Adam, 2 rates")
    trials = [test[curves.rows(1, k)] for k in members]
    best = trials[np.argmin([final_valid(curves, curves.rows(1, k)).mean() for k in members])]
    own = test[curves.rows(1, curves.members("anchored, theta = 0")[0])]
    ratio = np.log(np.median(own) / np.median(best))
    line = next(x for x in out.splitlines() if x.startswith("| 2 | 1 | 16 |"))
    assert line.endswith(f"| {ratio:+.2f} |") and " | no | " in line


def test_generalisation_axes(folder_module):
    """Every task differs from the centre in one thing at most, and each axis has values on both sides of the range."""
    plot = folder_module("12_generalisation", "plot")
    tasks = read(ROOT / "experiments" / "12_generalisation" / "tasks.toml", TaskList).tasks
    where = plot.coordinates(tasks)
    assert all(sum(c[k] != where[0][k] for k in c) == (i > 0) for i, c in enumerate(where))
    on_axes = [i for axis in where[0] for i in plot.along(tasks, axis) if i > 0]
    assert sorted(on_axes) == list(range(1, len(tasks)))
    assert [where[i]["width"] for i in plot.along(tasks, "width")] == [2, 8, 32, 128, 512]


def test_false_validation(tmp_path, folder_module):
    """True validation losses give the parameters of an ordinary rollout, bit for bit; false ones change them."""
    tiny = ROOT / "experiments" / "13_false_validation" / "tiny.toml"
    out = run("13_false_validation", "--out", str(tmp_path), "--config", str(tiny))
    assert "as expected" in out and "NOT" not in out
    assert (tmp_path / "false_validation.png").stat().st_size > 10_000
    module = folder_module("13_false_validation", "run")
    config = read(tiny, module.Config)
    entrant = entrants_of(config.entrants, tiny.parent, config.steps)[2]
    task = parse_task(config.task)
    trace = lopt.rollout(task, entrant.opt, entrant.theta, steps=config.steps, seed=0)
    honest = module.train(task, entrant, config, 1.0, 0)
    np.testing.assert_array_equal(honest.params, task.layout.flatten(trace.params))
    np.testing.assert_array_equal(honest.train_loss, trace.train_loss)
    false = module.train(task, entrant, config, 2.0, 0)
    differ = honest.step_rms != false.step_rms
    # the first factor is of the second false loss: at begin + valid_every
    assert not differ[: config.begin + config.valid_every].any() and differ[-1]


def test_self_training(tmp_path):
    """Adam's meta-parameters out of a weights file take the same outer steps as Adam by name, bit for bit."""
    folder = ROOT / "experiments" / "14_self_training"
    opt = lopt.optimizer("adam", learning_rate=1e-2)
    store.save_weights(tmp_path / "again.h5", opt, opt.init_theta(), {"tasks": ["mlp"]})
    text = (folder / "tiny.toml").read_text()
    entrant = '[[entrants]]\nweights = "again.h5"\n[lopt]\n'
    (tmp_path / "tiny.toml").write_text(text.replace("[lopt]\n", entrant))
    arguments = ["--out", str(tmp_path / "out"), "--config", str(tmp_path / "tiny.toml")]
    run("14_self_training", *arguments)
    assert (tmp_path / "out" / "self_training.png").stat().st_size > 10_000
    rows = {}
    for name in ("Adam_rate_0_01", "Adam_rate_0_001", "again", "anchored_theta_0"):
        with store.RunReader(tmp_path / "out" / name / "run.h5") as log:
            rows[name] = log["meta_loss"], log["update_norm"], log["learning_rate"]
    np.testing.assert_array_equal(rows["again"], rows["Adam_rate_0_01"])
    for other in ("Adam_rate_0_001", "anchored_theta_0"):
        assert (rows[other][1] != rows["again"][1]).all() and (rows[other][1] > 0).all()
    assert set(rows["anchored_theta_0"][2]) == {0.01}


def test_the_evaluation_is_held_out():
    """At least 60 tasks, of families that neither training nor validation has; those of real data on data of their own."""
    names = {
        f: read(EVALUATION / f"{f}.toml", TaskList) for f in ("tasks", "validation", "training")
    }
    real = read(EVALUATION / "real_tasks.toml", TaskList)
    families = {
        f: {parse_task_spec(n)[0].split("_seed")[0] for n in t.tasks} for f, t in names.items()
    }
    trained = {
        spec["family"]
        for name in ("config", "wide")
        for spec in tomllib.loads((META_TRAINING / f"{name}.toml").read_text())["tasks"]
    }
    assert len(names["tasks"].tasks) >= 60 and 10 <= len(names["validation"].tasks) <= 20
    assert len(families["tasks"]) >= 15
    assert not families["tasks"] & (families["training"] | families["validation"])
    assert not trained & (families["tasks"] | families["validation"])
    assert families["training"] == {"mlp", "logistic", "quadratic"} < trained
    assert len(real.optional) >= 20 and not any(t.optional for t in names.values())
    for name in real.optional:
        _, options, _ = parse_task_spec(name)
        assert (options.get("data") or options.get("text")) in {*OPTIONAL_DATA, *OPTIONAL_TEXTS}
    for listed in names.values():
        assert len(set(listed.tasks)) == len(listed.tasks)
        for name in listed.tasks:
            assert parse_task(name).layout.size > 0


@pytest.mark.parametrize(
    "name",
    [
        "config", "real", "long", "validate", "tiny", "optlist_curves",
        "../07_meta_training/judged", "../07_meta_training/judged_long",
    ],
)  # fmt: skip
def test_comparisons_can_be_built(name):
    path = EVALUATION / f"{name}.toml"
    config = read(path, ComparisonConfig)
    found = entrants_of(config.entrants, path.parent, config.steps)
    labels = [e.info.label for e in found]
    assert len(set(labels)) == len(labels)
    if name != "real":  # whose data need not be installed
        assert built_tasks(path.parent / config.tasks)[0]
    if name == "config":
        searches = [s.family for s in config.entrants if s.rates or s.random or s.list]
        trials = dict.fromkeys(["anchored, theta = 0", *searches], 0)
        trials |= {f: sum(e.info.family == f for e in found) for f in trials}
        assert list(trials.values()) == [1, 3, 15, 15, 10, 100, 100]
        rates = sorted(e.opt.learning_rate for e in found if e.info.family == "Adam, 15 rates")
        assert np.diff(np.log10(rates)) == pytest.approx(np.full(14, 0.5), abs=0.03)
