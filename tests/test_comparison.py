"""Comparisons that are gone on with, what is made of their curves, model cards, ordered lists of settings."""

import dataclasses
import json
import math
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.mpi import launch

import lopt
from lopt import rng, scores, store
from lopt.card import card, write_scores
from lopt.cli import main
from lopt.comm import SerialComm
from lopt.comparison import EntrantSpec, built_tasks, compare, entrants_of
from lopt.errors import ConfigError, StoreError, TaskError, UsageError
from lopt.judgement import best_losses, final_losses, judge, speed_ups
from lopt.optlist import greedy_order, learn_list, normalised
from lopt.scores_text import scores_text
from lopt.search_spaces import SPACES, random_setting
from lopt.store.weights import SHIPPED

ROOT = Path(__file__).parent.parent
TASKS = ["quadratic:dims=4,condition=10.0", "logistic:batch_size=8"]
CONFIG = """
steps = 20
points = 10
seeds = 2
outer_batches = 1
tasks = "tasks.toml"
[[entrants]]
weights = "plain.h5"
[[entrants]]
optimizer = "adam"
[[entrants]]
family = "rates"
optimizer = "adam"
rates = [1e-3, 1e-1]
"""
MORE = """
[[entrants]]
family = "cosine"
optimizer = "adam"
cosine = true
rates = [1e-2]
seeds = 1
"""


def folder_with(path: Path, config: str = CONFIG) -> Path:
    """A configuration, its tasks and weights: the learned one is Adam at a rate of 0.1."""
    opt = lopt.optimizer("adam", learning_rate=0.1)
    store.save_weights(path / "plain.h5", opt, opt.init_theta(), {"tasks": ["mlp", "mlp_seed3"]})
    optional = 'optional = ["logistic:data=wine"]\n' if not wine_is_there() else ""
    (path / "tasks.toml").write_text(f"tasks = {json.dumps(TASKS)}\n{optional}")
    (path / "c.toml").write_text(config)
    return path


def wine_is_there() -> bool:
    try:
        lopt.task("logistic", data="wine")
    except UsageError:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = folder_with(tmp_path_factory.mktemp("comparison"))
    compare(path / "c.toml", path / "out.h5", SerialComm(), show=False)
    return path


def test_runs_are_those_of_rollouts(folder: Path) -> None:
    """Every seed of an entrant, from the same start as the others; losses are a rollout's."""
    c = store.read_curves(folder / "out.h5")
    assert c.tasks == tuple(TASKS) and c.families == ("quadratic", "logistic")
    assert c.runs["test"].size == 2 * 4 * 2
    assert c.steps.tolist() == list(range(0, 21, 2))
    task, opt = lopt.task("logistic", batch_size=8), lopt.optimizer("adam", learning_rate=1e-3)
    schedule = lopt.Schedule(outer_every=2, outer_batches=1)
    for seed, row in enumerate(c.rows(1, c.members("rates")[0])):
        trace = lopt.rollout(task, opt, steps=20, seed=seed, schedule=schedule)
        np.testing.assert_allclose(c.runs["valid"][row, 1:], trace.outer_loss, rtol=1e-6)
        windows = trace.train_loss.reshape(10, 2).mean(axis=1)
        np.testing.assert_allclose(c.runs["train"][row, 1:], windows, rtol=1e-6)
        params = task.init(rng.stream(seed))
        rows = rng.integers(8, *task.splits[2], rng.stream(seed), rng.BATCH + 2, 0)
        start = task.reference(params, rows, rng.stream(seed), 2, 0)[0]
        assert c.runs["valid"][row, 0] == pytest.approx(start, rel=1e-5)


def test_equal_settings_give_equal_runs_whatever_they_are_called(folder: Path) -> None:
    """The learned one of this file is the second rate."""
    c = store.read_curves(folder / "out.h5")
    for task in range(2):
        mine, other = c.rows(task, 0), c.rows(task, c.members("rates")[1])
        for name in ("train", "valid", "test"):
            np.testing.assert_array_equal(c.runs[name][mine], c.runs[name][other])
    found = judge(c, "plain")
    assert found["equal_trials"]["rates"]["2"]["log_ratio"]["median"] == 0
    assert found["equal_trials"]["rates"]["2"]["win_rate"] == 0.5
    assert found["equal_trials"]["rates"]["1"] == found["default_against_default"]["adam"]
    assert found["speed_up"]["rates"]["median"] == pytest.approx(1, abs=1e-3)
    assert not found["speed_up"]["rates"]["saturated"]


def test_a_file_is_gone_on_with(tmp_path: Path) -> None:
    """A new entrant costs its runs only; changed settings are run again; other steps are refused."""
    folder_with(tmp_path)
    out, config = tmp_path / "out.h5", tmp_path / "c.toml"
    assert len(compare(config, out, SerialComm(), show=False)) == (not wine_is_there())
    before = out.read_bytes()
    compare(config, out, SerialComm(), show=False)
    assert out.read_bytes() == before
    first = store.read_curves(out)
    config.write_text(CONFIG + MORE)
    compare(config, out, SerialComm(), show=False)
    second = store.read_curves(out)
    assert second.runs["test"].size == first.runs["test"].size + 2
    rows = [
        np.concatenate([c.rows(i, j) for i in (0, 1) for j in range(4)]) for c in (first, second)
    ]
    np.testing.assert_array_equal(first.runs["wall_s"][rows[0]], second.runs["wall_s"][rows[1]])
    config.write_text((CONFIG + MORE).replace("1e-2", "2e-2"))
    notes = compare(config, out, SerialComm(), show=False)
    assert any("cosine #0 are made again" in n for n in notes)
    third = store.read_curves(out)
    assert third.runs["test"].size == second.runs["test"].size
    k = third.members("cosine")[0]
    assert third.runs["test"][third.rows(0, k)] != second.runs["test"][second.rows(0, k)]
    config.write_text(CONFIG.replace("steps = 20", "steps = 40"))
    with pytest.raises(StoreError, match="was made with"):
        compare(config, out, SerialComm(), show=False)


@pytest.mark.mpi
def test_ranks_do_not_matter(folder: Path, tmp_path: Path) -> None:
    arguments = ["-m", "lopt", "eval", "--config", str(folder / "c.toml")]
    done = launch(2, [*arguments, "--out", str(tmp_path / "two.h5")])
    assert done.code == 0, done.err
    one, two = (store.read_curves(p) for p in (folder / "out.h5", tmp_path / "two.h5"))
    for name in ("task", "entrant", "seed", "train", "valid", "test", "status"):
        np.testing.assert_array_equal(one.runs[name], two.runs[name])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("points = 10", "points = 7", "must divide steps"),
        ("seeds = 2", "seds = 2", "did you mean seeds"),
        ('optimizer = "adam"\n[[', 'optimizer = "adm"\n[[', "did you mean 'adam'"),
        ('optimizer = "adam"\n[[', 'family = "x"\n[[', "exactly one of optimizer"),
        ('family = "rates"\n', 'family = "adam"\nrandom = 2\n', "one is a search"),
        ('weights = "plain.h5"', 'weights = "plian"', "unknown shipped weights 'plian'"),
    ],
)
def test_mistakes_in_a_configuration_are_named(
    old: str, new: str, words: str, tmp_path: Path
) -> None:
    assert old in CONFIG
    folder_with(tmp_path, CONFIG.replace(old, new))
    arguments = ["eval", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out.h5")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in (1, 2)
    assert words in done.output
    assert not (tmp_path / "out.h5").exists()


def test_optional_tasks_without_data_are_left_out_and_named(tmp_path: Path) -> None:
    file = tmp_path / "tasks.toml"
    file.write_text('tasks = ["quadratic"]\noptional = ["mlp:data=absent.h5,hidden=[4]"]')
    found, left_out = built_tasks(file)
    assert list(found) == ["quadratic"]
    assert len(left_out) == 1 and "absent.h5,hidden=[4] is left out: data: cannot" in left_out[0]
    file.write_text('optional = ["mlp:data=absent.h5,hidden=[4]"]')
    with pytest.raises(ConfigError, match="not one task is left; mlp:data=absent"):
        built_tasks(file)
    file.write_text('tasks = ["quadratic"]\noptional = ["mlp:hiden=[4]"]')
    with pytest.raises(TaskError, match="hiden"):
        built_tasks(file)


def test_two_entrants_of_one_name_are_refused(tmp_path: Path) -> None:
    folder_with(tmp_path, CONFIG + '[[entrants]]\noptimizer = "adam"\n')
    with pytest.raises(ConfigError, match="two are called 'adam'"):
        compare(tmp_path / "c.toml", tmp_path / "out.h5", SerialComm(), show=False)


def test_a_cosine_falls_over_the_steps_of_the_comparison() -> None:
    spec = EntrantSpec(optimizer="adam", cosine=True, rates=(0.1, 0.01))
    found = entrants_of([spec], Path(), steps=300)
    assert [(e.opt.learning_rate, e.opt.total_steps) for e in found] == [(0.1, 300), (0.01, 300)]
    assert [(e.info.family, e.info.variant, e.info.trial) for e in found] == [
        ("cosine adam", "tuned", 0), ("cosine adam", "tuned", 1),
    ]  # fmt: skip


def test_a_learned_optimizer_may_bring_rates_of_its_own(tmp_path: Path) -> None:
    """The same theta under each of them: they are trials of one learned entrant."""
    opt = lopt.optimizer("anchored", hidden=2)
    theta = opt.init_theta(5)
    store.save_weights(tmp_path / "w.h5", opt, theta, {})
    spec = EntrantSpec(weights="w.h5", rates=(0.01, 0.03), seeds=3)
    found = entrants_of([spec], tmp_path, steps=50)
    assert [e.opt for e in found] == [
        lopt.optimizer("anchored", hidden=2, rate=r) for r in (0.01, 0.03)
    ]
    assert [(e.info.variant, e.info.trial, e.seeds) for e in found] == [
        ("learned", k, 3) for k in (0, 1)
    ]
    assert all(np.array_equal(e.theta, theta) for e in found)
    assert store.load_weights(tmp_path / "w.h5").digest in found[1].info.spec


@pytest.mark.parametrize("name", SPACES)
def test_random_settings_are_addressed_and_can_be_built(name: str) -> None:
    """Setting k is the same whoever asks; the median rate of 200 is the law's, within 5 standard errors."""
    drawn = [random_setting(name, k) for k in range(200)]
    assert drawn[7] == random_setting(name, 7) != drawn[8]
    low, high = (1e-8, 10.0) if name == "adam8p" else (1e-5, 1.0)
    logs = np.log([s["learning_rate"] for s in drawn])
    assert logs.min() >= math.log(low) and logs.max() <= math.log(high)
    width = math.log(high / low)
    error = np.mean(logs) - 0.5 * math.log(high * low)
    assert abs(error) < 5 * width / math.sqrt(12 * 200)
    spec = EntrantSpec(optimizer=name, random=200)
    assert len(entrants_of([spec], Path(), steps=50)) == 200


# What curves say


def made_up(learned: list[float], rival: list[float], families: list[str]) -> store.Curves:
    """One run a task of a learned optimizer and of a search with one rate, losses falling linearly to those values."""
    n = len(learned)
    final = np.array([*learned, *rival], np.float64)
    steps = np.array([0, 50, 100])
    curves = (10 + (final[:, None] - 10) * steps / 100).astype(np.float32)
    runs = store.no_runs(3) | {
        "task": np.tile(np.arange(n), 2), "entrant": np.repeat([0, 1], n),
        "seed": np.zeros(2 * n, np.int64), "train": curves, "valid": curves, "test": final,
        "status": np.array([2] + [0] * (2 * n - 1)), "status_step": np.zeros(2 * n, np.int64),
        "wall_s": np.ones(2 * n),
    }  # fmt: skip
    infos = (
        store.EntrantInfo("l", "l", "learned", 0, "{}"),
        store.EntrantInfo("r #0", "r", "tuned", 0, "{}"),
    )
    return store.Curves(
        {"steps": 100}, [], tuple(f"t{i}" for i in range(n)), tuple(families), np.zeros(n), infos, steps, runs
    )  # fmt: skip


def test_a_judgement_of_known_losses() -> None:
    """Final losses 1, 2, 4, 8 against 2: one win, one tie; log ratios -log 2, 0, log 2, log 4."""
    c = made_up([1, 2, 4, 8], [2, 2, 2, 2], ["a", "a", "b", "b"])
    found = judge(c, "l")
    duel = found["equal_trials"]["r"]["1"]
    assert (duel["win_rate"], duel["trials"], duel["tasks"]) == (0.375, [1, 1], 4)
    low, high = scores.win_interval([1, 2, 4, 8], [2, 2, 2, 2])
    assert duel["win_low"], duel["win_high"] == pytest.approx((low, high), rel=1e-3)
    assert duel["log_ratio"]["median"] == pytest.approx(math.log(2) / 2, rel=1e-3)
    assert duel["by_family"]["a"]["win_rate"] == 0.75
    assert duel["by_family"]["b"]["log_ratio"] == pytest.approx(1.5 * math.log(2), rel=1e-3)
    assert list(duel["loses_most"]) == ["t3", "t2"]
    assert found["diverged"] == 0.25
    speeds = speed_ups(
        c, "l", "r"
    )  # half way the losses are (10 + f) / 2; the rival needs (10 - f) / 8 of that
    for name, f in (("t0", 1), ("t1", 2), ("t2", 4), ("t3", 8)):
        assert speeds[name] == scores.SpeedUp(pytest.approx((10 - f) / 8), False)


def test_training_losses_stand_beside_test_losses() -> None:
    """The last tenth of 20 points is two: means of 3 and 1 against 1 and 1 are log 2 apart, whatever stands before."""
    c = made_up([1], [1], ["a"])
    train = np.full((2, 20), 7.0, np.float32)
    train[:, -2:] = [[3, 1], [1, 1]]
    runs = c.runs | {"train": train, "valid": np.ones((2, 20), np.float32)}
    found = judge(dataclasses.replace(c, steps=np.arange(20), runs=runs), "l")
    duel = found["equal_trials"]["r"]["1"]
    assert duel["train"] == pytest.approx(math.log(2), rel=1e-3)
    assert duel["log_ratio"]["median"] == 0


def test_settings_are_chosen_by_the_last_tenth_of_their_curves() -> None:
    """Of 20 points the last two: the first trial is lower at the very end, the second over both."""
    c = made_up([1], [3], ["a"])
    infos = [dataclasses.replace(c.entrants[1], label=f"r #{k}", trial=k) for k in (0, 1)]
    valid = np.full((2, 20), 9.0, np.float32)
    valid[:, -2:] = [[5, 1], [2, 2]]
    runs = c.runs | {"entrant": np.array([0, 1]), "valid": valid, "test": np.array([3.0, 4.0])}
    both = dataclasses.replace(c, entrants=tuple(infos), steps=np.arange(20), runs=runs)
    assert final_losses(both, 0, "r", 1).tolist() == [3.0]
    assert final_losses(both, 0, "r", 2).tolist() == best_losses(both, 0, "r").tolist() == [4.0]
    lacking = dataclasses.replace(both, tasks=("t0", "t1"))
    with pytest.raises(UsageError, match="no runs of 'r' on t1"):
        best_losses(lacking, 1, "r")


def test_who_is_not_in_the_file_is_not_judged() -> None:
    with pytest.raises(UsageError, match="unknown learned entrant 'k'"):
        judge(made_up([1], [1], ["a"]), "k")


def test_long_curves_are_packed_and_come_back_as_they_were(tmp_path: Path) -> None:
    """5000 equal curves take less than a tenth of their bytes."""
    c = made_up([1], [2], ["a"])
    runs = {n: np.repeat(v, 2500, axis=0) for n, v in c.runs.items()}
    many = dataclasses.replace(c, runs=runs)
    path = store.save_curves(tmp_path / "c.h5", many)
    assert path.stat().st_size < sum(v.nbytes for v in runs.values()) / 10
    found = store.read_curves(path).runs
    assert all(np.array_equal(found[n], v) and found[n].dtype == v.dtype for n, v in runs.items())


# Cards


def test_a_card_says_what_the_curves_say(folder: Path, tmp_path: Path) -> None:
    """Through the command line; another theta has no runs in the file."""
    folder_with(tmp_path)
    weights = tmp_path / "plain.h5"
    before = CliRunner().invoke(main, ["card", "--weights", str(weights)])
    assert "Not evaluated" in before.output and "2 mlp" in before.output
    arguments = ["card", "--weights", str(weights), "--eval", str(folder / "out.h5")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "| rates | 1 against 2 | 50 % (9 to 91) | +0.00 | 2 of 2 |" in done.output
    assert "## out: plain\n\n2 tasks, 20 steps, 2 seeds." in done.output
    kept = store.load_weights(weights)
    assert kept.theta.tolist() == lopt.optimizer("adam", learning_rate=0.1).init_theta().tolist()
    assert kept.provenance["tasks"] == ["mlp", "mlp_seed3"]
    again = CliRunner().invoke(main, ["card", "--weights", str(weights)])
    assert again.output == done.output
    shutil.copy(folder / "out.h5", tmp_path / "long.h5")
    arguments[-1] = str(tmp_path / "long.h5")
    both = CliRunner().invoke(main, arguments).output
    assert (
        "## long: plain\n" in both and "## out: plain\n" in both
    )  # beside the first, not instead of it
    assert both.count("### Where it loses") == 2
    opt = lopt.optimizer("adam", learning_rate=0.2)
    store.save_weights(weights, opt, opt.init_theta(), {})
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2 and "no runs of these weights" in refused.output


def entrants_of_one_file(path: Path, entrants: list[tuple[str, int, dict]]) -> tuple[Path, Path]:
    """Weights of anchored, and c.h5 with a run of each entrant of theirs: family, trial, other options."""
    opt, n = lopt.optimizer("anchored"), len(entrants)
    weights = store.save_weights(path / "w.h5", opt, opt.init_theta(), {})
    given = {"digest": store.load_weights(weights).digest, **opt.config()}
    infos = [
        store.EntrantInfo(f"{family} #{k}", family, "learned", k, json.dumps({**given, **told}))
        for family, k, told in entrants
    ]
    c = made_up([1] * n, [1] * n, ["a"] * n)
    one = {name: column[:n] for name, column in c.runs.items()}
    one |= {"entrant": np.arange(n), "task": np.zeros(n, np.int64)}
    found = dataclasses.replace(
        c, tasks=("t",), families=("a",), lowest=np.zeros(1), entrants=tuple(infos), runs=one,
        provenance=[{"lopt": "1", "git_commit": "c"}],
    )  # fmt: skip
    return weights, store.save_curves(path / "c.h5", found)


def test_a_card_says_what_an_optimizer_was_told(tmp_path: Path) -> None:
    """Two entrants of the same weights, one told its steps: two evaluations, and only the second names the option."""
    weights, curves = entrants_of_one_file(
        tmp_path, [("alone", 0, {}), ("told", 0, {"total_steps": 100})]
    )
    text = write_scores(weights, curves)
    assert text.count("### Where it loses") == 2 and text.count("is told") == 1
    assert "The optimizer is told `total_steps = 100`; nothing else is set." in text
    assert list(store.load_weights(weights).provenance["scores"]) == ["c, alone", "c, told"]


def test_a_card_counts_trials_of_its_own(tmp_path: Path) -> None:
    """Three rates of one learned optimizer: their number is in the title and in the summary."""
    rates = [("own rates", k, {"rate": 10.0**-k}) for k in range(3)]
    text = write_scores(*entrants_of_one_file(tmp_path, [("alone", 0, {}), *rates]))
    assert "## c: own rates (3 trials of its own)\n" in text and "## c: alone\n" in text
    assert "| c: own rates (3 trials of its own) | 1 | 100 |" in text


def test_scores_of_a_comparison_are_replaced_as_a_whole(tmp_path: Path) -> None:
    """An entrant that has gone leaves the card; what another format of scores says is not shown, but said to be there."""
    weights, curves = entrants_of_one_file(tmp_path, [("old", 0, {})])
    write_scores(weights, curves)
    curves.rename(tmp_path / "other.h5")
    write_scores(weights, tmp_path / "other.h5")
    loaded = store.load_weights(weights)
    known = loaded.provenance["scores"]
    known["other, old"]["format"] -= 1
    store.save_weights(weights, loaded.optimizer(), loaded.theta, {"scores": known})
    text = CliRunner().invoke(main, ["card", "--weights", str(weights)]).output
    assert "## c: old\n" in text and "## other: old\n" not in text
    assert "Scores of another version of lopt are not shown" in text
    (tmp_path / "new").mkdir()
    _, renamed = entrants_of_one_file(tmp_path / "new", [("new", 0, {})])
    text = write_scores(weights, renamed)
    assert list(store.load_weights(weights).provenance["scores"]) == ["other, old", "c, new"]
    assert "## c: new\n" in text and "## c: old\n" not in text


def test_a_card_says_where_it_loses() -> None:
    """Losses 1, 2, 4, 8 against 2: family b by log 2 and log 4; by wins alone where no lowest loss is known."""
    c = made_up([1, 2, 4, 8], [2, 2, 2, 2], ["a", "a", "b", "b"])
    text = scores_text("c", judge(c, "l"))
    assert "| r (1 against 1) | b +1.04 | [1] +1.39, [2] +0.69 |" in text
    assert "- [1] `t3`\n- [2] `t2`" in text
    assert "| speed-up over r | b 0.50 |" in text  # 0.75 and 0.25
    assert "| b | 2 | 0 %, +1.04 | 0.50 |" in text and "| 4 of 4 |" in text
    unbounded = dataclasses.replace(c, lowest=np.array([0, 0, -np.inf, -np.inf]))
    text = scores_text("c", judge(unbounded, "l"))
    assert "| r (1 against 1) | b 0 % won | none |" in text
    assert "| b | 2 | 0 %, - | 0.50 |" in text and "| 2 of 4 |" in text
    half = dataclasses.replace(c, lowest=np.array([0, 0, 0, -np.inf]))
    assert "| b | 2 | 0 %, +0.69 (of 1) | 0.50 |" in scores_text("c", judge(half, "l"))


def test_a_card_marks_saturated_speed_ups() -> None:
    """Half way at 5.5: a rival that ends at 6 does not get there, one that ends at 5 does after 90 of 100 steps."""
    text = scores_text("c", judge(made_up([1, 1], [6, 5], ["a", "b"]), "l"))
    assert "| a | 1 | 100 %, -1.79 | >= 2.00 |" in text
    assert "| b | 1 | 100 %, -1.61 | 1.80 |" in text
    assert "50 % of 2 tasks saturated at 2.00." in text


def test_a_card_says_how_weights_were_trained(tmp_path: Path) -> None:
    """Data sets by the families' defaults and options, steps and estimator by the configuration."""
    opt = lopt.optimizer("adam")
    names = [
        "mlp",
        "mlp:data=blobs+delay=2",
        "mlp",
        "quadratic",
        "char_rnn_language_model",
        "mlp_seed3",
    ]
    config = (
        'es = { estimator = "pes", pairs = 4, sigma = 0.05, horizon = [100, 500], truncation = 20 }\n'
        'inner = { objective = "log_loss" }\n'
    )
    origin = {"tasks": names, "config": config}
    path = store.save_weights(tmp_path / "w.h5", opt, opt.init_theta(), origin)
    text = card(path)
    assert "- tasks: 4 mlp, 1 quadratic, 1 char_rnn_language_model\n" in text
    assert "- data sets of the tasks: 2 digits, 1 blobs, 1 kjv, 1 drawn by a sampler\n" in text
    assert "pes, 4 pairs, sigma 0.05; horizons 100 to 500 inner steps in truncations of 20" in text
    one = config.replace("[100, 500]", "[300, 300]")
    store.save_weights(path, opt, opt.init_theta(), {**origin, "config": one})
    assert "; horizon 300 inner steps" in card(path)


def test_scores_are_not_written_into_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shipped name is refused, its file stays as it is; the same file given as a path is written."""
    weights, curves = entrants_of_one_file(tmp_path, [("alone", 0, {})])
    monkeypatch.setattr(store.weights, "SHIPPED", tmp_path)
    before = weights.read_bytes()
    arguments = ["card", "--eval", str(curves), "--weights"]
    refused = CliRunner().invoke(main, [*arguments, "w"])
    assert refused.exit_code == 2 and "'w' is shipped with lopt" in refused.output
    assert str(weights) in refused.output
    assert weights.read_bytes() == before
    assert CliRunner().invoke(main, [*arguments, str(weights)]).exit_code == 0
    assert "## c: alone\n" in CliRunner().invoke(main, ["card", "--weights", "w"]).output


def test_learned_optimizers_are_ranked(tmp_path: Path) -> None:
    """Two learned ones beside each other: the better one first, whatever they are called."""
    c = made_up([1, 1], [2, 2], ["a", "b"])
    other = dataclasses.replace(c.entrants[1], label="best", family="best", variant="learned")
    runs = {n: np.concatenate([v, v[:2]]) for n, v in c.runs.items()}
    runs["entrant"][4:] = 2
    runs["test"][4:] = 0.5
    both = dataclasses.replace(c, entrants=(*c.entrants, other), runs=runs)
    store.save_curves(tmp_path / "c.h5", both)
    done = CliRunner().invoke(main, ["card", "--eval", str(tmp_path / "c.h5")])
    assert done.exit_code == 0, done.output
    rows = [line.split(" | ") for line in done.output.splitlines()[-2:]]
    assert [r[:2] for r in rows] == [["| best", "-1.39"], ["| l", "-0.69"]]
    assert CliRunner().invoke(main, ["card"]).exit_code == 2


def test_shipped_weights_go_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_with(tmp_path)
    (tmp_path / "out.h5").unlink(missing_ok=True)
    monkeypatch.setattr(store.weights, "SHIPPED", tmp_path)
    assert store.shipped() == ["plain"]
    assert lopt.load_weights("plain").architecture == "adam"
    assert CliRunner().invoke(main, ["info", "plain"]).output.startswith("# plain\n")
    done = CliRunner().invoke(main, ["info", "plan"])
    assert done.exit_code == 1 and "did you mean 'plain'" in done.output


def test_what_is_shipped_is_small_sound_and_explained() -> None:
    """Every file of lopt/pretrained: weights below 1 MiB that load, say how they were made, and carry their scores."""
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "pretrained/*.h5" in package_data["package-data"]["lopt"]
    for path in SHIPPED.glob("*"):
        assert path.suffix == ".h5", path
        assert path.stat().st_size < 2**20, path
        weights = lopt.load_weights(path.stem)
        wanted = {"tasks", "config", "core_hours", "inner_steps", "lopt", "seed"}
        assert wanted <= set(weights.provenance), path
        text = CliRunner().invoke(main, ["info", path.stem]).output
        assert "## Evaluation\n" in text and "### Where it loses" in text, path
        assert "another version" not in text, path
        task = lopt.task("logistic", batch_size=8)
        assert lopt.rollout(task, weights.optimizer(), weights.theta, steps=20).status == "ok", path


# Ordered lists


def test_the_greedy_order_is_known() -> None:
    """Alone the third is best; beside it the first helps task 0 most, then the second task 1."""
    table = np.array([[0.0, 0.9, 0.4, 0.4], [0.9, 0.0, 0.3, 0.3], [0.9, 0.9, 0.1, 0.1]])
    order, means = greedy_order(table, 4)
    assert order == [2, 0, 1, 3]
    np.testing.assert_allclose(means, np.array([0.8, 0.4, 0.1, 0.1]) / 3)
    assert greedy_order(table, 2)[0] == [2, 0]


def test_the_greedy_order_is_near_the_best_of_all_orders() -> None:
    """A cover that gains at least 1 - 1/e of what the best pair gains (Nemhauser, Wolsey and Fisher 1978)."""
    table = np.random.default_rng(0).random((12, 9))
    gain = 1.0 - greedy_order(table, 2)[1][-1]
    best = max(1 - np.minimum(table[:, i], table[:, j]).mean() for i in range(9) for j in range(i))
    assert (1 - 1 / math.e) * best <= gain <= best + 1e-12


def test_scores_lie_between_the_best_and_the_start() -> None:
    final = np.array([[1.0, 3.0, 9.0, np.nan], [-5.0, -4.0, 0.0, -5.0]])
    found = normalised(final, np.array([5.0, -3.0]))
    np.testing.assert_allclose(found, [[0, 0.5, 1, 1], [0, 0.5, 1, 0]])


def test_a_list_can_be_run(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "list.toml"
    arguments = ["optlist", str(folder / "out.h5"), "--search", "rates", "--out", str(out)]
    done = CliRunner().invoke(main, [*arguments, "--length", "2"])
    assert done.exit_code == 0, done.output
    listed = tomllib.loads(out.read_text())
    assert listed["origin"]["tasks"] == 2 and listed["origin"]["steps"] == 20
    assert [s["learning_rate"] for s in listed["settings"]] == [0.1, 0.001]
    found = entrants_of([EntrantSpec(list="list.toml", trials=1)], tmp_path, steps=20)
    assert [(e.info.variant, e.opt) for e in found] == [
        ("tuned", lopt.optimizer("adam", learning_rate=0.1))
    ]
    with pytest.raises(ConfigError, match=r"asks for 3 trials, list\.toml has 2"):
        entrants_of([EntrantSpec(list="list.toml", trials=3)], tmp_path, steps=20)
    with pytest.raises(StoreError, match="exists already"):
        learn_list(folder / "out.h5", "rates", 2, out)
