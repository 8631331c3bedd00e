"""The outer loop: the same bits on any number of ranks, resumed or not, killed or not; refusals in plain words."""

import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.mpi import kill_group, lopt, start

from lopt import config as cfg
from lopt import store
from lopt.comm import SerialComm
from lopt.errors import ConfigError, LostPairsError, StoreError
from lopt.tasks.quadratic import Quadratic
from lopt.train import Trainer, train

CONFIG = """
[[tasks]]
family = "mlp"
options = { hidden = [6], batch_size = 8 }
[[tasks]]
family = "quadratic"
options = { dims = 4 }
[[tasks]]
family = "quadratic"
options = { dims = 5 }
augment = { delay = 2, reparameterise = "tensor" }
[optimizer]
name = "mlp"
options = { hidden = 4 }
[es]
estimator = "nres"
pairs = 3
truncation = 4
horizon = [4, 12]
[outer]
options = { learning_rate = 0.003 }
[inner]
outer_every = 2
[train]
outer_steps = 6
checkpoint_minutes = 60.0
"""


def arguments(tmp_path: Path, out: str, *sets: str, resume: bool = False) -> list[str]:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    settings = [x for s in sets for x in ("--set", s)]
    tail = ["--resume"] if resume else []
    return ["train", "--config", str(path), "--out", str(tmp_path / out), *settings, *tail]


def bits(directory: Path) -> tuple[bytes, bytes, bytes]:
    """theta, its average's run of norms and all pair losses, to the bit."""
    theta = store.load_checkpoint(directory).arrays["theta"].tobytes()
    with store.RunReader(directory / "run.h5") as run:
        return theta, run["theta_ema_norm"].tobytes(), run["pair_losses"].tobytes()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, bytes]:
    """Six outer steps on one rank without interruption."""
    out = tmp_path_factory.mktemp("reference") / "run"
    train(cfg.loads(CONFIG), out, SerialComm())
    return bits(out)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_any_number_of_ranks_gives_the_same_bits(
    tmp_path: Path, reference: tuple[bytes, bytes, bytes], ranks: int
) -> None:
    """Four ranks are more than the three pairs."""
    done = lopt(ranks, *arguments(tmp_path, "run"))
    assert done.code == 0, done.err
    assert bits(tmp_path / "run") == reference


@pytest.mark.parametrize("sets", [*cfg.ESTIMATORS, "gpes es.resample=8", "pes es.noise_table=5000"])
def test_resume_gives_the_bits_of_an_uninterrupted_run(tmp_path: Path, sets: str) -> None:
    config = cfg.apply_overrides(cfg.loads(CONFIG), f"es.estimator={sets}".split())
    train(config, tmp_path / "whole", SerialComm())
    for steps, resume in ((2, False), (3, True), (6, True)):
        part = cfg.apply_overrides(config, [f"train.outer_steps={steps}"])
        train(part, tmp_path / "parts", SerialComm(), resume=resume)
    assert bits(tmp_path / "parts") == bits(tmp_path / "whole")


@pytest.mark.mpi
def test_resume_on_another_number_of_ranks(
    tmp_path: Path, reference: tuple[bytes, bytes, bytes]
) -> None:
    assert lopt(2, *arguments(tmp_path, "run", "train.outer_steps=3")).code == 0
    assert lopt(3, *arguments(tmp_path, "run", resume=True)).code == 0
    assert bits(tmp_path / "run") == reference


@pytest.mark.mpi
def test_killed_at_random_moments_it_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Twenty SIGKILLs, of one rank or of all, whenever the run file has grown by a random number of rows."""
    sets = ("train.outer_steps=200", "train.checkpoint_every=3")
    whole = lopt(1, *arguments(tmp_path, "whole", *sets))
    assert whole.code == 0, whole.err
    chance = random.Random(0)
    out = tmp_path / "run"
    for kill in range(20):
        process = start(2, ["-m", "lopt", *arguments(tmp_path, "run", *sets, resume=kill > 0)])
        _wait_for_rows(process, out, chance.randrange(1, 9), kill > 0)
        if chance.random() < 0.5:
            kill_group(process)
        else:
            os.kill(chance.choice(_ranks_of(out) or [process.pid]), signal.SIGKILL)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            kill_group(process)
            pytest.fail("the other ranks hung for 30 s after a kill")
    done = lopt(2, *arguments(tmp_path, "run", *sets, resume=True))
    assert done.code == 0, done.err
    assert bits(out) == bits(tmp_path / "whole")


def _wait_for_rows(process: subprocess.Popen, out: Path, rows: int, resumed: bool) -> None:
    """Read the growing run file until it has `rows` more rows than at the first look, or the process ends."""
    first = None
    while process.poll() is None:
        try:
            with store.RunReader(out / "run.h5") as run:
                if resumed and len(run.provenance) < 1:
                    continue
                first = run.rows if first is None else first
                if run.rows >= first + rows:
                    return
        except StoreError:
            continue  # not there yet


def _ranks_of(out: Path) -> list[int]:
    """Process numbers of the Python ranks that write to `out`."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    rows = [line.split(None, 1) for line in listed.stdout.splitlines()[1:]]
    return [
        int(p)
        for p, a in rows
        if f"--out {out} " in f"{a} " and "mpirun" not in a and "hydra" not in a
    ]


@pytest.mark.mpi
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_in_a_checkpoint_and_exit_code_0(tmp_path: Path, number: int) -> None:
    sets = ("train.outer_steps=100000",)
    process = start(1, ["-m", "lopt", *arguments(tmp_path, "run", *sets)])
    _wait_for_rows(process, tmp_path / "run", 2, False)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "resume with --resume" in out
    with store.RunReader(tmp_path / "run" / "run.h5") as run:
        assert run.state == "signal"
        saved = store.load_checkpoint(tmp_path / "run").meta["outer_step"]
        assert saved == run.rows


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    config = cfg.apply_overrides(cfg.loads(CONFIG), ["train.outer_steps=1"])
    train(config, tmp_path / "run", SerialComm())
    before = (tmp_path / "run" / "run.h5").read_bytes()
    with pytest.raises(StoreError, match=r"run\.h5"):
        train(config, tmp_path / "run", SerialComm())
    assert (tmp_path / "run" / "run.h5").read_bytes() == before


def test_resume_with_another_configuration_is_refused_naming_the_key(tmp_path: Path) -> None:
    config = cfg.apply_overrides(cfg.loads(CONFIG), ["train.outer_steps=1"])
    train(config, tmp_path / "run", SerialComm())
    changed = cfg.apply_overrides(config, ["es.sigma=0.5"])
    with pytest.raises(ConfigError, match=r"es\.sigma"):
        train(changed, tmp_path / "run", SerialComm(), resume=True)


def test_resume_with_another_length_is_refused_only_where_the_learning_rate_depends_on_it() -> None:
    cosine = cfg.apply_overrides(cfg.loads(CONFIG), ["outer.schedule=cosine"])
    for config in (cfg.loads(CONFIG), cosine):
        longer = cfg.apply_overrides(config, ["train.outer_steps=7"])
        if config is cosine:
            with pytest.raises(ConfigError, match=r"train\.outer_steps.*only train\.minutes"):
                cfg.check_resumable(config, longer)
        else:
            cfg.check_resumable(config, longer)


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="checkpoint"):
        train(cfg.loads(CONFIG), tmp_path / "nothing", SerialComm(), resume=True)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    config = cfg.apply_overrides(cfg.loads(CONFIG), ["train.checkpoint_every=2"])
    train(config, tmp_path / "run", SerialComm())
    newest = tmp_path / "run" / "checkpoint.h5"
    wanted = bits(tmp_path / "run")
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(RuntimeWarning, match="truncated"):
        train(config, tmp_path / "run", SerialComm(), resume=True)
    assert bits(tmp_path / "run") == wanted


def test_a_diverging_optimizer_loses_pairs_and_then_stops_the_run(tmp_path: Path) -> None:
    """Steps of 1e30 overflow every particle: all pairs are lost and the run says so."""
    text = CONFIG.replace("{ hidden = 4 }", "{ hidden = 4, step_mult = 1e30 }")
    with pytest.raises(LostPairsError, match="lost"):
        train(cfg.loads(text), tmp_path / "run", SerialComm())
    with store.RunReader(tmp_path / "run" / "run.h5") as run:
        assert run.state == "failed"


def raise_for_pair_1(task: Quadratic, stream: np.ndarray) -> np.ndarray:
    if stream[2] == 1 and stream[0] == 0:  # seed 0: not where the task's scale is measured
        raise ValueError("planted")
    return np.ones(task.layout.size, np.float32)


def nan_for_pair_1(task: Quadratic, stream: np.ndarray) -> np.ndarray:
    start = np.ones(task.layout.size, np.float32)
    start[0] = np.nan if stream[2] == 1 and stream[0] == 0 else 1.0
    return start


@pytest.mark.parametrize(
    ("init", "words"), [(raise_for_pair_1, "ValueError: planted"), (nan_for_pair_1, "1 pairs lost")]
)
def test_a_task_that_raises_or_gives_nan_costs_its_pair_and_is_reported(
    init: Callable, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Pair 1 of 3 never counts; the others make a finite theta; every outer step says so."""
    monkeypatch.setattr(Quadratic, "init", init)
    text = CONFIG.replace(
        'family = "mlp"\noptions = { hidden = [6], batch_size = 8 }', 'family = "quadratic"'
    )
    train(cfg.loads(text), tmp_path / "run", SerialComm())
    with store.RunReader(tmp_path / "run" / "run.h5") as run:
        assert run["pairs_lost"].tolist() == [1] * 6
        assert np.isnan(run["pair_losses"][:, 1]).all()
        assert np.isfinite(run["pair_losses"][:, [0, 2]]).all()
    assert np.isfinite(store.load_checkpoint(tmp_path / "run").arrays["theta"]).all()
    err = capsys.readouterr().err
    assert "outer step 0: 1 pairs lost" in err and words in err and "(6 so far)" in err


def test_the_meta_loss_falls_with_a_learnable_optimizer() -> None:
    """Gradient descent with a learned rate, started 100 times too low: the outer loop raises it."""
    text = """
    [[tasks]]
    family = "quadratic"
    options = { dims = 5, condition = 4.0 }
    [optimizer]
    name = "sgd"
    options = { learning_rate = 1e-3 }
    [es]
    pairs = 8
    sigma = 0.1
    truncation = 20
    horizon = 20
    [outer]
    options = { learning_rate = 0.2 }
    [train]
    outer_steps = 40
    """
    trainer = Trainer(cfg.loads(text), SerialComm())
    losses = [trainer.step()[0]["meta_loss"] for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert np.exp(trainer.theta[0]) > 1e-2


def test_a_row_says_what_the_outer_step_was() -> None:
    sets = ["es.estimator=full", "outer.warmup=3", "outer.clip=0.1"]
    trainer = Trainer(cfg.apply_overrides(cfg.loads(CONFIG), sets), SerialComm())
    inner_steps = 0

    def norms(theta: np.ndarray) -> list[float]:
        return [np.linalg.norm(v.astype(float)) for v in trainer.layout.views(theta).values()]

    for t in range(2):
        before = trainer.theta
        row, estimate = trainer.step()
        pairs, grad = estimate.losses.mean(axis=1), estimate.grad.astype(np.float64)
        assert row["outer_step"] == t
        assert row["meta_loss"] == pytest.approx(np.mean(pairs), rel=1e-12)
        assert row["meta_loss_std"] == pytest.approx(np.std(pairs, ddof=1), rel=1e-12)
        assert row["meta_loss_se"] == pytest.approx(row["meta_loss_std"] / np.sqrt(3), rel=1e-12)
        assert row["learning_rate"] == pytest.approx(0.003 * (t + 1) / 3, rel=1e-12)
        assert row["grad_norm"] == pytest.approx(np.sqrt(grad @ grad), rel=1e-12)
        assert row["n_clipped"] == np.count_nonzero(np.abs(grad) > 0.1)
        assert 0 < row["n_clipped"] < grad.size
        moved = (trainer.theta - before).astype(np.float64)
        assert row["update_norm"] == pytest.approx(np.sqrt(moved @ moved), rel=1e-12)
        np.testing.assert_allclose(row["theta_norm"], norms(trainer.theta), rtol=1e-12)
        np.testing.assert_allclose(row["theta_ema_norm"], norms(trainer.theta_ema), rtol=1e-12)
        horizons = [trainer.problem.horizon(t, pair) for pair in range(3)]
        inner_steps += 2 * sum(horizons)
        assert row["inner_steps"] == inner_steps


@pytest.mark.parametrize(
    ("setting", "steps"),
    [
        ("checkpoint_every=2", [0, 2, 4, 5]),
        ("checkpoint_every=0", [0, 5]),
        ("checkpoint_minutes=0.0", [0, 1, 2, 3, 4, 5, 5]),
    ],
)
def test_checkpoints_are_written_when_they_are_due(
    setting: str, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first outer step, after every few of them or minutes, and at the end."""
    saved, save = [], store.save_checkpoint

    def recording(folder: Path, arrays: dict, meta: dict) -> Path:
        saved.append(meta["outer_step"])
        return save(folder, arrays, meta)

    monkeypatch.setattr(store, "save_checkpoint", recording)
    config = cfg.apply_overrides(cfg.loads(CONFIG), ["train.outer_steps=5", f"train.{setting}"])
    train(config, tmp_path / "run", SerialComm())
    assert saved == steps


def test_what_is_shipped_is_the_average_of_theta(tmp_path: Path) -> None:
    config = cfg.apply_overrides(cfg.loads(CONFIG), ["train.outer_steps=3"])
    train(config, tmp_path / "run", SerialComm())
    trainer = Trainer(config, SerialComm())
    for _ in range(3):
        trainer.step()
    weights = store.load_weights(tmp_path / "run" / "weights.h5")
    np.testing.assert_array_equal(weights.theta, trainer.theta_ema)
    assert (weights.theta != trainer.theta).any()


def test_bytes_of_an_outer_step_are_16_per_pair() -> None:
    trainer = Trainer(cfg.loads(CONFIG), SerialComm())
    row, _ = trainer.step()
    assert row["bytes_sent"] == 16 * 3
