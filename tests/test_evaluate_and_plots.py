"""Comparison, its table and verdict, the pictures made of files, and the command line's manners."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import lopt
from lopt import plots, rng, store
from lopt.cli import main
from lopt.comm import SerialComm
from lopt.errors import UsageError
from lopt.evaluate import (
    Entrant,
    Results,
    baseline_entrants,
    evaluate,
    run_evaluation,
    table,
    verdict,
)
from lopt.rollout import Schedule
from lopt.task import TASKS, TEST

TASK = "quadratic:dims=4,condition=10.0"


def results(test_loss: list[list[float]], final: list[float]) -> Results:
    """A made-up comparison of learned, adam at its default, and adam at two rates, on one task."""
    loss = np.array([test_loss])
    outer = np.repeat(np.array(final)[None, :, None, None], loss.shape[2], axis=2)
    return Results(
        ("t",), ("learned", "adam", "adam lr=0.1", "adam lr=1"), ("learned", "adam", "adam", "adam"),
        np.array([np.nan, np.nan, 0.1, 1.0]), np.array([10]), outer, loss,
        np.zeros(loss.shape, np.int64), np.ones(loss.shape),
    )  # fmt: skip


def test_tuning_chooses_by_validation_and_reports_test() -> None:
    """Rate 1 has the lower validation loss and the higher test loss: it must be chosen all the same."""
    rows = table(results([[1.0, 1.2], [2.0, 2.2], [0.1, 0.1], [0.6, 0.8]], [1, 2, 0.5, 0.4]))
    by_variant = {r.variant: r for r in rows}
    assert by_variant["tuned"].rate == 1.0
    assert by_variant["tuned"].mean == pytest.approx(0.7)
    assert by_variant["tuned"].se == pytest.approx(0.1)
    assert by_variant["default"].mean == pytest.approx(2.1)
    assert [r.variant for r in rows] == ["learned", "default", "tuned"]


@pytest.mark.parametrize(
    ("learned", "words"),
    [
        (
            [1.0, 1.02],
            "beats the best default baseline (adam, 2.1000 +- 0.1000); loses to the best tuned",
        ),
        ([2.0, 2.4], "ties with the best default baseline"),
        ([3.0, 3.01], "loses to the best default baseline"),
    ],
)
def test_the_verdict_is_honest(learned: list[float], words: str) -> None:
    rows = table(results([learned, [2.0, 2.2], [0.1, 0.1], [0.6, 0.62]], [1, 2, 0.5, 0.4]))
    assert words in verdict(rows, "t", 10)


def test_all_entrants_start_from_the_same_point() -> None:
    """A step of 1e-8 leaves everybody at the initial loss, equal for equal seeds and different across seeds."""
    task = lopt.task("mlp", hidden=(4,), batch_size=8)
    entrants = [
        Entrant(n, o, o.init_theta())
        for n in ("sgd", "adam")
        for o in [lopt.optimizer(n, learning_rate=1e-12)]
    ]
    found = evaluate([task], entrants, 4, 3, Schedule(outer_every=2))
    np.testing.assert_allclose(found.test_loss[0, 0], found.test_loss[0, 1], rtol=1e-6)
    assert np.unique(found.test_loss[0, 0].round(6)).size == 3
    lo, hi = task.splits[TEST]
    assert hi > lo


def test_the_final_loss_is_that_of_32_batches_of_the_test_split() -> None:
    """By the reference, at the initial parameters: steps of 1e-12 leave them."""
    task = lopt.task("logistic", batch_size=8, init_std=0.5)
    opt = lopt.optimizer("sgd", learning_rate=1e-12)
    found = evaluate([task], [Entrant("sgd", opt, opt.init_theta())], 2, 2, Schedule(outer_every=2))
    for seed in range(2):
        stream, losses = rng.stream(seed), []
        params = task.init(stream).astype(np.float64)
        for step in range(32):
            rows = rng.integers(8, *task.splits[TEST], stream, rng.BATCH + TEST, step)
            losses.append(task.reference(params, rows, stream, TEST, step)[0])
        assert found.test_loss[0, 0, seed] == pytest.approx(np.mean(losses), rel=1e-6)


def test_every_learning_rate_of_a_baseline_is_its_own() -> None:
    entrants = baseline_entrants(["adam", "sgd"], (0.25, 0.5))
    assert [(e.family, e.rate, e.opt.learning_rate) for e in entrants] == [
        ("adam", None, 0.001), ("adam", 0.25, 0.25), ("adam", 0.5, 0.5),
        ("sgd", None, 0.1), ("sgd", 0.25, 0.25), ("sgd", 0.5, 0.5),
    ]  # fmt: skip
    for e in entrants:
        assert np.exp(e.theta[0]) == pytest.approx(e.opt.learning_rate, rel=1e-6)


def test_clipped_and_diverged_runs_are_counted() -> None:
    found = results([[1.0, 1.2], [2.0, 2.2], [0.1, 0.1], [0.6, 0.8]], [1, 2, 0.5, 0.4])
    status = np.array([[[0, 0], [0, 2], [2, 2], [1, 2]]])
    rows = table(dataclasses.replace(found, status=status))
    assert [(r.variant, r.n_bad) for r in rows] == [("learned", 0), ("default", 1), ("tuned", 2)]


def test_a_baseline_without_learning_rate_is_refused() -> None:
    with pytest.raises(UsageError, match="no learning rate"):
        baseline_entrants(["hierarchical"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of four outer steps and an evaluation of its weights."""
    folder = tmp_path_factory.mktemp("files")
    config = folder / "c.toml"
    config.write_text(
        '[[tasks]]\nfamily = "quadratic"\noptions = { dims = 4 }\n'
        '[optimizer]\nname = "mlp"\noptions = { hidden = 4 }\n'
        "[es]\npairs = 3\ntruncation = 10\nhorizon = 20\n[train]\nouter_steps = 4\n"
    )
    done = CliRunner().invoke(
        main, ["train", "--config", str(config), "--out", str(folder / "run")]
    )
    assert done.exit_code == 0, done.output
    run_evaluation(
        SerialComm(), str(folder / "run" / "weights.h5"), f"{TASK};logistic:batch_size=8", 20, 2,
        "adam,sgd", "0.01,0.1", folder / "eval.h5",
    )  # fmt: skip
    return folder / "run" / "run.h5", folder / "eval.h5"


def test_the_pictures_show_the_stored_numbers(files: tuple[Path, Path]) -> None:
    with store.RunReader(files[0]) as run:
        loss, grad = run["meta_loss"], run["grad_norm"]
        ax = plots.meta_loss(run).axes[0]
        norm = plots.gradient_norm(run).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_array_equal(lines["mean over pairs"], loss)
    np.testing.assert_array_equal(norm.lines[0].get_ydata(), grad)
    assert "outer step" in ax.get_xlabel()
    assert "meta-loss" in ax.get_ylabel()
    found = store.EvalReader(files[1])
    curves = plots.loss_curves(found, 0).axes[0]
    first = next(line for line in curves.lines if line.get_label() == "learned")
    wanted = np.median([plots.smooth(c, plots.SMOOTHING) for c in found.outer_loss[0, 0]], axis=0)
    np.testing.assert_allclose(first.get_ydata(), wanted)


def test_every_picture_is_written_as_png_and_pdf(files: tuple[Path, Path], tmp_path: Path) -> None:
    for path, n in ((files[0], 4), (files[1], 4)):
        written = plots.draw_all(path, tmp_path)
        assert len(written) == 2 * n
        heads = {p.suffix: p.read_bytes()[:4] for p in written}
        assert heads == {".png": b"\x89PNG", ".pdf": b"%PDF"}


def test_moving_mean_keeps_lines_straight_up_to_the_ends() -> None:
    line = 3.0 * np.arange(11.0) - 2.0
    np.testing.assert_allclose(plots.smooth(line, 5), line)
    np.testing.assert_allclose(plots.smooth(np.array([0.0, 3.0, 0.0]), 3), [0.0, 1.0, 0.0])


def test_a_band_encloses_all_runs() -> None:
    """The line is the middle, the band reaches from the lowest to the highest run at every point."""
    figure, axes = plots.new_figure()
    x, runs = np.arange(3.0), np.array([[1.0, 5.0, 2.0], [2.0, 1.0, 9.0], [6.0, 3.0, 4.0]])
    for k, (middle, line) in enumerate(((np.median, [2, 3, 4]), (np.mean, [3, 3, 5]))):
        found = plots.band(axes[0, 0], x, runs, plots.STYLES[k], label="runs", middle=middle)
        np.testing.assert_allclose(found, line)
        np.testing.assert_allclose(axes[0, 0].lines[k].get_ydata(), line)
        corners = axes[0, 0].collections[k].get_paths()[0].vertices
        for place, low, high in zip(x, runs.min(axis=0), runs.max(axis=0), strict=True):
            assert set(corners[corners[:, 0] == place, 1]) == {low, high}
    plots.legend_below(figure, 2, *axes[0, 0].get_legend_handles_labels())
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["runs", "runs"]


@pytest.mark.parametrize(("count", "shape"), [(2, (1, 2)), (3, (1, 3)), (7, (3, 3))])
def test_panels_fill_rows(count: int, shape: tuple[int, int]) -> None:
    figure, panels = plots.new_panels(count, 3, 2.0, 1.5, margin=0.5)
    rows, columns = shape
    np.testing.assert_allclose(figure.get_size_inches(), [2.0 * columns, 1.5 * rows + 0.5])
    assert [ax.axison for ax in figure.axes] == [k < count for k in range(rows * columns)]
    assert list(panels) == figure.axes[:count]


def test_styles_differ_in_greyscale() -> None:
    """Neighbouring lines differ in dash pattern always and the palette spans dark to light."""
    assert len({str(dash) for _, dash in plots.STYLES}) == len(plots.STYLES)


def test_watch_draws_a_run(files: tuple[Path, Path]) -> None:
    done = CliRunner().invoke(main, ["watch", "--once", str(files[0].parent)])
    assert done.exit_code == 0
    assert "meta-loss" in done.output
    assert "outer step 4" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tasks", "show", "mpl"], 2, "did you mean 'mlp'"),
        (["tasks", "show", "mlp:hiden=3"], 2, "did you mean 'hidden'"),
        (["info", "nothing.h5"], 1, "nothing.h5"),
        (["train", "--config", "nothing.toml", "--out", "x"], 2, "nothing.toml"),
        (["verify", "nothing.h5"], 2, "nothing.h5"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_errors_are_one_short_line(arguments: list[str], code: int, words: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == code
    assert words in done.output
    assert "Traceback" not in done.output


def test_debug_shows_the_traceback() -> None:
    done = CliRunner().invoke(main, ["tasks", "show", "mpl", "--debug"])
    assert done.exit_code == 2
    assert "Traceback" in done.output


def test_tasks_list_counts_every_family() -> None:
    done = CliRunner().invoke(main, ["tasks", "list", "--seeds", "2"])
    assert done.exit_code == 0, done.output
    assert all(f in done.output for f in TASKS)
    names = CliRunner().invoke(main, ["tasks", "list", "--names", "--seeds", "2"]).output.split()
    assert f"{sum('_seed' in n for n in names)} sampled configurations" in done.output
    assert "conv_fc_seed1" in names


def test_tasks_time_writes_what_it_prints(tmp_path: Path) -> None:
    out = tmp_path / "times.h5"
    done = CliRunner().invoke(main, ["tasks", "time", "mlp", "losg_seed988", "--out", str(out)])
    assert done.exit_code == 0, done.output
    times = store.TimesReader(out)
    assert times.tasks == ("mlp", "losg_seed988")
    assert times.families == ("mlp", "losg")
    assert times.params.tolist() == [2410, 18]
    assert (times.ms > 0).all() and f"{times.ms[1]:.4f}" in done.output
    assert times.provenance["sgemm_gflops"] > 0
    written = plots.draw_all(out, tmp_path)
    assert sorted(p.name for p in written) == ["times_distribution.pdf", "times_distribution.png"]
