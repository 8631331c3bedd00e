"""Experiments that meta-train and compare, at tiny size, as programs; and what their numbers rest on."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.programs import EXPERIMENTS, contents, run
from helpers.replay import Replay, busy_theta, normals

import lopt
from lopt import config as cfg
from lopt import store
from lopt.comparison import TaskList, built_tasks, read
from lopt.layout import Layout
from lopt.sweep import folder_name, meta_losses
from lopt.tasks import parse_task_spec

ARCHITECTURES = EXPERIMENTS / "15_architectures"
TRAINING_TASKS = EXPERIMENTS / "16_training_tasks"


def column(folder: Path, name: str) -> np.ndarray:
    """A column of a run."""
    with store.RunReader(folder / "run.h5") as log:
        return log[name]


def test_architectures(tmp_path):
    """Variants take equally many inner steps on the same tasks; the table is that of their runs; done is done."""
    arguments = ["--out", str(tmp_path), "--config", str(ARCHITECTURES / "tiny.toml")]
    out = run("15_architectures", *arguments)
    assert (tmp_path / "architectures.png").stat().st_size > 10_000
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert len(folders) == 6
    for folder in folders:
        assert column(folder, "inner_steps")[-1] == 4 * 2 * 2 * 5
        np.testing.assert_array_equal(column(folder, "pair_groups"), 0)
    end = meta_losses(tmp_path / "hierarchical_LSTM_only_seed0")[-2:].mean()
    size = store.load_weights(tmp_path / "hierarchical_LSTM_only_seed0" / "weights.h5").theta.size
    line = f"| hierarchical | LSTM only | {size} | {end:.4f} ({end:.4f} to {end:.4f}) |"
    assert line in out.splitlines()
    before = contents(tmp_path)
    assert run("15_architectures", *arguments).splitlines()[-8:] == out.splitlines()[-8:]
    assert contents(tmp_path) == before


def hierarchical_variants() -> dict[str, dict]:
    """Options of every variant of the full-size experiment."""
    panel = tomllib.loads((ARCHITECTURES / "config.toml").read_text())["panels"]["hierarchical"]
    return {k: {**panel["optimizer"]["options"], **v} for k, v in panel["variants"].items()}


def trace_of_the_past(options: dict, silent: bool) -> float:
    """How much the step at one place and gradient depends on the gradients before it, relative to the step."""
    opt, layout = lopt.optimizer("hierarchical", **options), Layout((("w", (6, 5)), ("b", (5,))))
    theta = busy_theta(opt)
    if silent and opt.lstm_hidden > 0:
        opt.theta_layout.views(theta)["to_mlp/w"][:] = 0.0
    steps, here = [], normals(layout.size, 1)
    for past in (40, 60):
        run_ = Replay(opt, layout, theta, here)
        for t in range(5):
            run_.params[:] = here
            grad = normals(layout.size, past + t if t < 4 else 7)
            steps_now = run_.step(grad) - here
        steps.append(steps_now)
    return float(np.abs(steps[0] - steps[1]).max() / np.abs(steps[0]).max())


@pytest.mark.parametrize(
    ("variant", "silent", "remembers"),
    [
        ("both", True, True),  # accumulators of a parameter
        ("per-parameter net only", False, True),
        ("LSTM only", True, False),
        ("LSTM only", False, True),
    ],
)
def test_where_the_variants_keep_the_past(variant: str, silent: bool, remembers: bool) -> None:
    """Without its message the variant with an LSTM alone knows nothing but the gradient of the moment."""
    trace = trace_of_the_past(hierarchical_variants()[variant], silent)
    assert trace > 1e-3 if remembers else trace < 1e-9


def test_training_tasks(tmp_path):
    """Runs of a seed have nested tasks and equal costs; scores are those of the comparison; done is done."""
    arguments = ["--out", str(tmp_path), "--config", str(TRAINING_TASKS / "tiny.toml")]
    out = run("16_training_tasks", *arguments)
    assert (tmp_path / "training_tasks.png").stat().st_size > 10_000
    tasks = {}
    for count in (1, 2):
        for seed in (0, 1):
            folder = tmp_path / f"tasks{count}_seed{seed}"
            assert column(folder, "inner_steps")[-1] == 4 * 2 * 2 * 10
            with store.RunReader(folder / "run.h5") as log:
                tasks[count, seed] = log.tasks
    assert all(tasks[2, s][:1] == tasks[1, s] and len(tasks[2, s]) == 2 for s in (0, 1))
    curves, found = store.read_curves(tmp_path / "judged.h5"), []
    for seed in (0, 1):
        task = curves.tasks.index(tasks[1, seed][0])
        (own,), (zero,) = (
            curves.runs["valid"][curves.rows(task, *curves.members(name)), 1:]
            for name in (f"tasks1_seed{seed}", "theta = 0")
        )
        lowest = curves.lowest[task]
        found.append(np.mean(np.log((own - lowest) / (zero - lowest))))
    cell = f"{np.mean(found):+.3f} ({min(found):+.3f} to {max(found):+.3f})"
    assert out.count(f"| 1 | {cell} |") == 2 and min(found) != max(found)  # of one task: both means
    before = contents(tmp_path)
    run("16_training_tasks", *arguments)
    assert contents(tmp_path) == before


def test_new_tasks_are_new():
    """What optimizers are judged on is not in the pool; same families as the pool in one list, other ones in the other."""
    config = tomllib.loads((TRAINING_TASKS / "config.toml").read_text())
    pool = cfg.load(TRAINING_TASKS / config["pool"]).tasks
    assert len(pool) == max(config["counts"])
    names = {lopt.task(s.family, s.augment, **s.options).name for s in pool}
    families = {s.family for s in pool}
    fresh, others = (
        read(TRAINING_TASKS / config["judged"][k], TaskList).tasks for k in ("fresh", "families")
    )
    assert not names & {*fresh, *others} and len({*fresh, *others}) == len(fresh) + len(others)
    assert {parse_task_spec(name)[0] for name in fresh} == families
    assert not families & {parse_task_spec(name)[0] for name in others}
    assert {t.name for t in built_tasks(TRAINING_TASKS / "fresh.toml")[0].values()} == set(fresh)


RECIPE = """
optimizer = { name = "anchored", options = { head = false, total_steps = 5 } }
es = { estimator = "nres", pairs = 2, sigma = 0.1, truncation = 5, horizon = [5, 5] }
inner = { outer_every = 5 }
train = { outer_steps = 9 }

[[tasks]]
family = "mlp"
options = { data = "digits", hidden = [8], batch_size = 8 }
"""
ABLATIONS = """
recipe = "recipe.toml"
outer_steps = 3

[variants]
"as it is" = {}
"the same" = { es = { pairs = 2 } }
"another seed" = { train = { seed = 1 } }
"rate, twice" = { optimizer = { options = { rate = 0.02 } } }
"other tasks" = { tasks = "others.toml" }

[comparison]
steps = 10
points = 2
seeds = 1
outer_batches = 1
tasks = "judged.toml"
entrants = [{ optimizer = "adam" }, { weights = "rival.h5" }]
"""


def test_ablations(tmp_path):
    """A variant is the recipe but for what it says; all are compared."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "ablations.toml").write_text(ABLATIONS)
    (tmp_path / "others.toml").write_text(RECIPE.replace("[8]", "[4]"))
    (tmp_path / "judged.toml").write_text('tasks = ["mlp:data=digits,hidden=[8],batch_size=8"]')
    rival, out = lopt.optimizer("anchored", head=False, total_steps=5), tmp_path / "out"
    store.save_weights(tmp_path / "rival.h5", rival, rival.init_theta(), {})
    given = ["--out", str(out), "--config", str(tmp_path / "ablations.toml")]
    run("07_meta_training", *given, program="ablations.py")
    curves = store.read_curves(out / "ablations.h5")
    names = ["as it is", "the same", "another seed", "rate, twice", "other tasks"]
    assert [e.family for e in curves.entrants] == ["adam", "rival", *names]
    configs = {}
    for name in names:
        with store.RunReader(out / folder_name(name) / "run.h5") as log:
            configs[name] = cfg.loads(log.config_text)
            assert log["meta_loss"].size == 3
    plain = configs["as it is"]
    assert configs["the same"] == plain
    assert configs["another seed"].train.seed == 1
    assert configs["rate, twice"].optimizer.options == plain.optimizer.options | {"rate": 0.02}
    assert [t.options["hidden"] for t in configs["other tasks"].tasks] == [[4]]
    thetas = [store.load_weights(out / folder_name(n) / "weights.h5").theta for n in names]
    assert np.array_equal(thetas[0], thetas[1])
    assert not any(np.array_equal(thetas[0], theta) for theta in thetas[2:])
