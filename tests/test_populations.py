"""Several searches in one run, and several objectives of one search: bits, shares, limits, scales, faults."""

import functools
import json
import math
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from helpers.mpi import launch, start

import lopt
from lopt import store
from lopt.comm import SerialComm
from lopt.errors import UsageError
from lopt.es import Tasks, minimize
from lopt.es.tasks import PROBES, combined, probes


def sphere(x: np.ndarray) -> float:
    return float(x @ x) / 2


def hills(x: np.ndarray) -> float:
    """Two minima on the first axis, at -1 (0) and 1 (0.5)."""
    return float((x[0] ** 2 - 1) ** 2 + 0.25 * (x[0] + 1) + x[1:] @ x[1:])


def same(a: Any, b: Any, *fields: str) -> None:
    for field in fields or ("x", "x_last", "fun", "fun_last", "nit", "nfev", "lost", "fun_tasks"):
        np.testing.assert_array_equal(a[field], b[field], err_msg=field)


STARTS = np.array([[1.5, 0.3], [-1.5, 0.2], [0.9, -0.4]])
run = functools.partial(minimize, hills, pairs=4, steps=12)


# Populations


@pytest.mark.parametrize("strategy", ["antithetic", "cma", "surrogate"])
def test_each_population_is_the_search_that_it_would_be_alone(strategy: str) -> None:
    kind = {"strategy": strategy, "steps": 8, "seed": 5}
    whole = minimize(hills, STARTS, populations=3, **kind)
    for k, found in enumerate(whole.populations):
        same(found, minimize(hills, STARTS[k], **{**kind, "seed": 5 + k}))
    funs = [p.fun for p in whole.populations]
    assert whole.best == int(np.argmin(funs)) and whole.fun == min(funs)
    assert whole.x.tobytes() == whole.populations[whole.best].x.tobytes()
    assert whole.nfev == sum(p.nfev for p in whole.populations)


def test_from_one_start_populations_differ_by_their_seeds() -> None:
    whole = run(STARTS[0], populations=3, seed=7)
    assert len({p.x.tobytes() for p in whole.populations}) == 3
    same(whole.populations[2], run(STARTS[0], seed=9))


def test_the_better_of_two_valleys_is_found() -> None:
    whole = minimize(hills, STARTS, populations=3, pairs=8, steps=120)
    assert [round(p.x[0]) for p in whole.populations] == [1, -1, 1]
    assert whole.best == 1 and whole.fun < 0.02


def test_the_target_of_one_ends_all() -> None:
    whole = run(STARTS, populations=3, steps=500, target=0.05)
    assert whole.success and whole.message == "the target was reached"
    messages = [p.message for p in whole.populations]
    assert messages.count("another population reached the target") == 2
    assert [p.success for p in whole.populations] == [False, True, False]
    assert len({p.nit for p in whole.populations}) == 1 and whole.nit < 100


def test_evaluations_are_limited_together() -> None:
    """2 looks, 8 points a step, 1 at the end, for each of 3."""
    whole = run(STARTS, populations=3, steps=None, max_evaluations=3 * (2 + 5 * 8 + 1) + 23)
    assert (whole.nit, whole.nfev) == (5, 3 * 43)
    assert whole.message == "the evaluations were used up"


def test_a_population_that_is_lost_leaves_the_others_alone() -> None:
    def f(x: np.ndarray) -> float:
        return hills(x) if x[0] < 1.4 or (x == STARTS[0]).all() else math.nan

    kind = {"pairs": 4, "steps": 12, "sigma": 0.02, "learning_rate": 0.01}
    whole = minimize(f, STARTS, populations=3, **kind)
    first, *others = whole.populations
    assert first.message.startswith("more than half of the points were lost: step 0 lost 8 of 8")
    assert (first.nit, first.success) == (0, False)
    for k, found in enumerate(others, start=1):
        same(found, minimize(f, STARTS[k], seed=k, **kind))
    assert whole.success and whole.lost["not finite"] == 8
    with pytest.warns(RuntimeWarning, match="step 0 lost 8 of 8"):
        none = minimize(lambda x: math.nan if x.any() else 0.0, [0.0], populations=2, pairs=4)
    assert not none.success


def test_callbacks_see_all_populations_and_end_all() -> None:
    seen: list[Any] = []

    def note(result: Any) -> bool:
        seen.append(result)
        return result.nit == 3

    whole = run(STARTS, populations=3, callback=note)
    assert [len(r.populations) for r in seen] == [3, 3, 3]
    assert seen[-1].nfev == 3 * (2 + 3 * 8)
    assert {p.message for p in whole.populations} == {"the callback asked to stop"}


def test_interrupted_anywhere_the_populations_end_with_the_same_bits(tmp_path: Path) -> None:
    """Also when a kill between two checkpoints left them at different steps, or one with none."""
    whole = run(STARTS, populations=3, steps=14, out=tmp_path / "whole")
    for name, steps in (("early", 5), ("late", 9)):
        run(STARTS, populations=3, steps=steps, out=tmp_path / name)
    parts = tmp_path / "parts"
    shutil.copytree(tmp_path / "late" / "population_0", parts / "population_0")
    shutil.copytree(tmp_path / "early" / "population_1", parts / "population_1")
    again = run(STARTS, populations=3, steps=14, out=parts, resume=True)
    same(again, whole)
    for one, other in zip(again.populations, whole.populations, strict=True):
        same(one, other)
    for k in range(3):
        files = [
            store.SearchReader(d / f"population_{k}" / "search.h5")
            for d in (parts, tmp_path / "whole")
        ]
        assert files[0]["mean"].tobytes() == files[1]["mean"].tobytes()
        assert (files[0].state, files[0].settings["seed"]) == ("finished", k)


def test_as_a_method_of_scipy() -> None:
    options = {"populations": 2, "pairs": 4, "maxiter": 5}
    found = scipy.optimize.minimize(hills, STARTS[0], method=lopt.es.scipy_method, options=options)
    same(found, run(STARTS[0], populations=2, steps=5))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"populations": 0}, "populations = 0 is not valid: at least 1"),
    "rows": ({"x0": STARTS, "populations": 2}, "x0 has 3 rows for populations = 2"),
    "matrix": ({"x0": STARTS}, "x0 is float64 of shape"),
    "seed": ({"seed": 2**32 - 1, "populations": 2}, "seed = 4294967296"),
    "recorder": ({"populations": 2, "out": object()}, "out is a Recorder, valid for several"),
    "start": ({"x0": [[0.0, 0.0], [5.0, 0.0]], "populations": 2}, "of population 1 has no value"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_populations_that_do_not_fit_are_refused(case: str) -> None:
    options, message = REFUSED[case]

    def f(x: np.ndarray) -> float:
        return math.inf if x[0] > 4 else hills(x)

    with pytest.raises(UsageError, match=message):
        minimize(f, **{"x0": STARTS[0], "pairs": 4, "steps": 1, **options})


# Tasks


def left(x: np.ndarray) -> float:
    return sphere(x + 1)


def right(x: np.ndarray) -> float:
    return sphere(x - 3)


OFF = np.array([0.0, -2.0])  # the gradients there do not cancel


def scales(fs: list[Any], x0: np.ndarray, sigma: float, seed: int) -> list[float]:
    """By the formula: root mean square of the change at the probes."""
    points = x0 + probes(x0.size, seed, sigma).astype(np.float64)
    return [math.sqrt(np.mean([(f(x) - f(x0)) ** 2 for x in points])) for f in fs]


def test_the_loss_of_tasks_is_the_mean_in_units_of_their_changes() -> None:
    x0, fs, weights = np.array([0.5, -0.5, 0.0]), [left, right], [3.0, 1.0]
    found = minimize(Tasks(fs, weights), x0, pairs=4, steps=3, sigma=0.2, seed=4)
    units = scales(fs, x0, 0.2, 4)
    for x, value in ((found.x, found.fun), (found.x_last, found.fun_last)):
        terms = [w * (f(x) - f(x0)) / s for w, f, s in zip(weights, fs, units, strict=True)]
        assert value == pytest.approx(sum(terms) / 4, rel=1e-12)
    np.testing.assert_array_equal(found.fun_tasks, [f(found.x) for f in fs])
    assert found.nfev == 2 + 2 * PROBES + 3 * 8 + 1


@pytest.mark.parametrize("size", [2.0**-40, 1.0, 2.0**40])
def test_the_scale_of_a_task_does_not_matter(size: float) -> None:
    """To the bit for powers of 2; without units the larger one decides alone."""
    kind = {"pairs": 8, "steps": 300, "x0": OFF}
    found = minimize(Tasks([left, lambda x: size * right(x)]), **kind)
    plain = minimize(Tasks([left, right]), **kind)
    same(found, plain, "x", "x_last", "fun")
    # weights 1 / s: the probes of the farther one change it more
    units = scales([left, right], OFF, 0.1, 0)
    middle = (-1 / units[0] + 3 / units[1]) / (1 / units[0] + 1 / units[1])
    assert np.allclose(found.x, middle, atol=0.05) and -0.5 < middle < 0
    alone = minimize(Tasks([left, lambda x: size * right(x)], normalise=False), **kind)
    ends = {2.0**-40: -1.0, 1.0: 1.0, 2.0**40: 3.0}
    assert np.allclose(alone.x, ends[size], atol=0.1)


def test_a_constant_in_a_task_does_not_matter() -> None:
    kind = {"pairs": 4, "steps": 20}
    found = minimize(Tasks([left, lambda x: right(x) + 1024.0]), OFF, **kind)
    plain = minimize(Tasks([left, right]), OFF, **kind)
    np.testing.assert_allclose(found.x, plain.x, rtol=1e-9)


def test_one_task_is_the_objective_itself() -> None:
    kind = {"pairs": 4, "steps": 10}
    found = minimize(Tasks([hills], normalise=False), STARTS[0], **kind)
    same(found, minimize(hills, STARTS[0], **kind))


def test_every_task_of_a_point_is_evaluated_once_and_counts_eight_bytes() -> None:
    calls: dict[int, int] = {0: 0, 1: 0, 2: 0}

    def f(t: int, x: np.ndarray) -> float:
        calls[t] += 1
        return sphere(x - t)

    comm = SerialComm()
    tasks = Tasks([functools.partial(f, t) for t in range(3)])
    found = minimize(tasks, np.zeros(2), pairs=4, steps=5, comm=comm)
    assert calls == {t: found.nfev for t in range(3)}
    assert comm.sent["scalars"] == 3 * 8 * found.nfev


def test_a_point_is_lost_by_one_of_its_tasks() -> None:
    """Counted once, by the first reason; the same search as with a point lost as a whole."""

    def bad(x: np.ndarray) -> float:
        if x[0] > 0.15:
            raise ValueError("no mesh")
        return right(x)

    kind = {"pairs": 8, "steps": 5, "learning_rate": 0.01}
    found = minimize(Tasks([bad, left], normalise=False), np.zeros(2), **kind)
    mean = minimize(lambda x: 0.5 * bad(x) + 0.5 * left(x), np.zeros(2), **kind)
    assert found.lost == mean.lost and found.lost["raised an exception"] > 0
    np.testing.assert_allclose(found.x, mean.x, rtol=1e-6)
    raw = np.array([[1.0, math.inf, math.nan], [math.nan, math.inf, 0.0], [1e308, 1e308, 1e308]])
    coded = combined(raw, lopt.es.tasks.Mix(np.zeros(3), np.full(3, 1e-3), np.full(3, 1 / 3)))
    assert coded[0] == math.inf and np.isnan(coded[1:]).all()


def test_tasks_in_batches_and_with_keys() -> None:
    def rows(shift: float, block: np.ndarray, key: int) -> np.ndarray:
        return np.square(block - shift).sum(axis=1) / 2 + 10 * math.sin(key)

    tasks = Tasks([functools.partial(rows, -1.0), functools.partial(rows, 3.0)])
    kind = {"pairs": 8, "steps": 100, "keyed": True, "x0": OFF}
    block = minimize(tasks, batched=5, **kind)
    single = Tasks([lambda x, key, f=f: f(x[None], key)[0] for f in tasks.fs])
    one = minimize(single, **kind)
    np.testing.assert_allclose(block.x, one.x, rtol=1e-4)
    assert np.allclose(block.x, -0.2, atol=0.15)


def test_resumed_tasks_keep_their_units(tmp_path: Path) -> None:
    """Also with several populations: the units are those around the first start."""
    tasks = Tasks([left, right])
    kind = {"pairs": 4, "populations": 2, "x0": np.array([[0.0, 0.0], [5.0, 5.0]])}
    whole = minimize(tasks, steps=9, **kind)
    for steps in (4, 9):
        part = minimize(tasks, steps=steps, out=tmp_path, resume=steps > 4, **kind)
    for one, other in zip(part.populations, whole.populations, strict=True):
        same(one, other)
    alone = minimize(tasks, kind["x0"][0], steps=9, pairs=4)
    same(whole.populations[0], alone)
    with pytest.raises(UsageError, match="resuming with tasks"):
        other = Tasks([left, right], weights=[1, 2])
        minimize(other, steps=12, out=tmp_path, resume=True, **kind)


def next_of(numbers: Any, x: np.ndarray) -> float:
    return next(numbers)


TASKS_REFUSED: dict[str, tuple[Any, str]] = {
    "none": (lambda: Tasks([]), "at least one objective"),
    "number": (lambda: Tasks([left, 3]), "task 1 is int, valid: a callable"),
    "short": (lambda: Tasks([left, right], [1.0]), "2 finite numbers above 0"),
    "negative": (lambda: Tasks([left, right], [1.0, -1.0]), "2 finite numbers above 0"),
    "flat": (lambda: Tasks([left, lambda x: 2.0]), "task 1 does not change at 16 points"),
    "lost": (
        lambda: Tasks([left, lambda x: math.nan if x.any() else 1.0]),
        "task 1 has no value at 16 of 16",
    ),
    "start": (lambda: Tasks([left, lambda x: None]), "f returned NoneType"),
    "changes": (
        lambda: Tasks([left, functools.partial(next_of, iter(range(99)))]),
        "f\\(x0\\) of task 1 = 0.0 at first and 1.0",
    ),
}


@pytest.mark.parametrize("case", TASKS_REFUSED)
def test_tasks_that_make_no_sense_are_refused(case: str) -> None:
    make, message = TASKS_REFUSED[case]
    with pytest.raises(UsageError, match=message):
        minimize(make(), np.zeros(2), pairs=4, steps=1)


def test_a_penalty_is_not_the_lowest_loss_seen() -> None:
    """All kept points are equal: the lost one, as bad as the worst, must not become the answer."""

    def f(x: np.ndarray) -> float:
        if not x.any():
            return 1.0
        return math.nan if x[0] > 0 and abs(x[0]) < 0.05 else 0.5

    for seed in range(8):
        found = minimize(f, np.zeros(1), pairs=4, steps=1, seed=seed, fault="penalise")
        assert f(found.x) == found.fun == 0.5


# A user's script, which knows nothing of ranks

SCRIPT = textwrap.dedent(
    """
    import json, os, signal, sys
    import numpy as np
    import lopt

    out, kill_at, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "resume"

    def left(x):
        if x[2] > 1.05:
            raise ValueError("too far")
        return float(((x + 1) ** 2).sum())

    def right(x):
        return 1e6 * float(((x - 2) ** 2).sum() + np.cos(9 * x).sum())

    def callback(result):
        if result.nit == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    starts = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    result = lopt.es.minimize(
        lopt.es.Tasks([left, right]), starts, populations=2, pairs=3, steps=8,
        callback=callback, out=out, resume=resume, save_seconds=0.0,
    )
    found = [[p.x.tolist(), p.fun, p.nfev, p.lost, p.fun_tasks.tolist()] for p in result.populations]
    with open(os.path.join(out, "found.json"), "w") as file:
        json.dump(found, file)
    """
)


@pytest.mark.mpi
def test_a_script_alone_on_four_ranks_and_killed_ends_alike(tmp_path: Path) -> None:
    """Killed on 4 ranks, it is resumed alone; two populations, two tasks, points that raise."""

    def ends(name: str) -> Any:
        return json.loads((tmp_path / name / "found.json").read_text())

    def arguments(name: str, kill_at: int = -1, how: str = "new") -> list[str]:
        return ["-c", SCRIPT, str(tmp_path / name), str(kill_at), how]

    for ranks in (1, 4):
        done = launch(ranks, arguments(f"whole{ranks}"), timeout=120)
        assert done.code == 0, done.err
    whole = ends("whole1")
    assert ends("whole4") == whole
    assert sum(p[3]["raised an exception"] for p in whole) > 0
    process = start(4, arguments("killed", kill_at=4))
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not (tmp_path / "killed" / "found.json").exists()
    done = launch(1, arguments("killed", how="resume"), timeout=120)
    assert done.code == 0, done.err
    assert ends("killed") == whole
