"""Experiments on truncation lengths and on residual networks, at tiny size; and what their numbers rest on."""

import json

import numpy as np
import pytest
from helpers import data_files
from helpers.programs import EXPERIMENTS, contents, run
from msgspec.structs import replace

from lopt import data, store
from lopt.comm import SerialComm
from lopt.comparison import entrants_of, read

TRUNCATION, RESNET = EXPERIMENTS / "17_truncation", EXPERIMENTS / "18_resnet"
TRUE_BALANCE = 35.72  # of a step of influence balancing at theta = 0.5, T = 100 (methods 2.9)


def rows(out: str) -> list[list[str]]:
    """Cells of all printed tables."""
    return [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")]


def test_truncation(tmp_path):
    """Biases are those of the closed forms, inner steps are equal for all; what is done is not done again."""
    arguments = ["--out", str(tmp_path), "--config", str(TRUNCATION / "tiny.toml")]
    out = run("17_truncation", *arguments)
    assert "as expected" in out and "NOT" not in out
    assert (tmp_path / "truncation.png").stat().st_size > 10_000
    exact = {tuple(r[:3]): float(r[4]) for r in rows(out) if r[0] == "balance"}
    for whole in (("nres", "5"), ("nres", "100"), ("truncated", "100")):
        assert exact["balance", *whole] == pytest.approx(TRUE_BALANCE, abs=0.02)
    assert exact["balance", "truncated", "5"] == pytest.approx(-0.85, abs=0.03)
    for folder in (path for path in tmp_path.iterdir() if path.is_dir()):
        with store.RunReader(folder / "run.h5") as log:
            steps, moved = log["inner_steps"], log["learning_rate"]
        assert 20_000 - 3 * 4 * 60 < steps[-1] <= 20_000
        # as far an episode: 60 inner steps of 2 * 4 members, or of 3 * 4 where the unperturbed one runs too
        members = 4 * (3 if folder.name.startswith("truncated") else 2)
        np.testing.assert_allclose(moved / np.diff(steps, prepend=0) * members * 60, 0.15)
    before = contents(tmp_path)
    before.pop(str(tmp_path / "truncation.h5"))
    assert rows(run("17_truncation", *arguments)) == rows(out)
    assert before.items() <= contents(tmp_path).items()


def mean_log_loss(x, theta, rates, losses=slice(None)):
    """Of noiseless descent on (100 u^2 + v^2) / 2 from x (n, 2), the rate of each step times e^theta; of some steps."""
    curvature, found = np.array([100.0, 1.0]), []
    for rate in rates:
        x = x - rate * np.exp(theta) * curvature * x
        found.append(np.log(x**2 @ curvature / 2))
    return np.mean(found, axis=1)[losses].sum()


@pytest.mark.parametrize("name", ["full", "nres", "pes", "truncated"])
def test_exact_gradients_are_derivatives(folder_module, name):
    """Without noise and without perturbation: central differences of the closed form, window by window if truncated."""
    exact = folder_module("17_truncation", "exact")
    bowl, theta, h = exact.Bowl(100.0, 0.0, 0.0, 12), np.log(0.006), 1e-5
    found = exact.gradient(bowl, theta, name, 4, 0.0, 50)
    start = np.random.default_rng(0).normal(size=(50, 2))
    rates, curvature = np.full(12, 0.006), np.array([100.0, 1.0])
    windows = [(start, rates)]
    if name == "truncated":
        windows = [(start * (1 - 0.006 * curvature) ** t, rates[:4]) for t in (0, 4, 8)]
    sides = [sum(mean_log_loss(x, s * h, r) for x, r in windows) for s in (1, -1)]
    assert found.value == pytest.approx((sides[0] - sides[1]) / (2 * h) / 12, rel=1e-6)
    loss = exact.meta_loss(bowl, theta, 50)
    assert loss.value == pytest.approx(mean_log_loss(start, 0.0, rates) / 12, rel=1e-12)


def test_a_perturbed_gradient_is_that_of_the_smoothed_loss(folder_module):
    """E z F(theta + sigma z) / sigma, F the loss of the same trainings: equal to 5 standard errors of the difference."""
    exact = folder_module("17_truncation", "exact")
    bowl, theta, sigma, n = exact.Bowl(100.0, 0.0, 0.0, 12), np.log(0.006), 0.3, 20_000
    found = exact.gradient(bowl, theta, "nres", 4, sigma, n)
    r = np.random.default_rng(1)
    x, z, curvature = r.normal(size=(n, 2)), r.normal(size=(n, 1)), np.array([100.0, 1.0])
    losses = np.zeros((2, n))
    for side, sign in enumerate((1, -1)):
        rate = np.exp(theta + sign * sigma * z)
        for t in range(12):
            reached = x * (1 - rate * curvature) ** (t + 1)
            losses[side] += np.log(reached**2 @ curvature / 2) / 12
    slopes = z[:, 0] * (losses[0] - losses[1]) / (2 * sigma)
    error = np.hypot(slopes.std() / np.sqrt(n), found.error)
    assert abs(slopes.mean() - found.value) < 5 * error < 0.2 * abs(found.value)
    other = exact.gradient(bowl, theta, "truncated", 4, sigma, n)  # the same comparison sees a bias
    assert abs(slopes.mean() - other.value) > 5 * np.hypot(error, other.error)


def test_where_descent_rests(folder_module):
    exact = folder_module("17_truncation", "exact")
    x = np.linspace(-1, 9, 401)
    # -cos has its minima where sin turns positive
    np.testing.assert_allclose(exact.fixed_points(x, np.sin(x)), [0, 2 * np.pi], atol=1e-4)
    grid = np.array([-2.0, -0.5, 0.4, 1.7])
    assert exact.lowest(grid, 3 + (grid - 0.3) ** 2) == pytest.approx(0.3)
    assert exact.lowest(grid, 1 - grid) == 1.7


def test_resnet(tmp_path):
    """The stand-in is named where the data are missing; with them no stand-in; what is done is not done again."""
    tiny = ["--config", str(RESNET / "tiny.toml"), "--data", str(tmp_path)]
    out = run("18_resnet", "--out", str(tmp_path / "a"), *tiny)
    assert "own.h5 is missing" in out and "stand-in: digits" in out
    assert (tmp_path / "a" / "resnet.png").stat().st_size > 10_000
    x, y = data_files.examples((32, 32, 3), 40, 10)
    (tmp_path / "data_batch_1.bin").write_bytes(data_files.cifar_bytes(x, y))
    data.import_data(tmp_path / "data_batch_1.bin", tmp_path / "own.h5", "cifar10")
    out = run("18_resnet", "--out", str(tmp_path / "b"), *tiny)
    assert "missing" not in out and "stand-in" not in out
    (path,) = (tmp_path / "b").glob("*.h5")
    curves = store.read_curves(path)
    assert "own.h5" in curves.tasks[0] and "stands_for" not in curves.tasks[0]
    specs = {e.label: json.loads(e.spec) for e in curves.entrants}
    assert specs["anchored, theta = 0, total_steps"]["cosine"] is True
    printed = {tuple(r[:2]): r[2:5] for r in rows(out)}
    for k, (label, rate) in enumerate((("anchored, theta = 0", ""), ("Adam", "0.01"))):
        (row,) = curves.rows(0, 3 * k)
        columns = curves.runs["test"][row], *(curves.runs[c][row, -1] for c in ("valid", "train"))
        assert printed[label, rate] == [f"{v:.4f}" for v in columns]
    before = contents(tmp_path)
    assert rows(run("18_resnet", "--out", str(tmp_path / "b"), *tiny)) == rows(out)
    assert contents(tmp_path) == before


def test_a_stopped_search_goes_on(tmp_path, folder_module):
    """A file with some entrants' runs gets those of the others; those that are there stay bit for bit."""
    module = folder_module("18_resnet", "run")
    config = read(RESNET / "tiny.toml", module.Config)
    some = replace(config.networks[0], entrants=config.entrants[:1])
    panel = module.train(some, tmp_path, RESNET, tmp_path, SerialComm())
    first = store.read_curves(panel.path)
    whole = replace(some, entrants=config.entrants)
    assert module.train(whole, tmp_path, RESNET, tmp_path, SerialComm()) == panel
    curves = store.read_curves(panel.path)
    assert len(curves.runs["test"]) == 4 and len(first.runs["test"]) == 1
    np.testing.assert_array_equal(curves.runs["train"][:1], first.runs["train"])
    assert curves.runs["wall_s"][0] == first.runs["wall_s"][0]


@pytest.mark.parametrize("name", ["config", "standin"])
def test_resnets_can_be_built(tmp_path, folder_module, name):
    """Both networks of Metz et al. 2020 on stand-ins of the published shape; entrants with labels of their own."""
    module = folder_module("18_resnet", "run")
    config = read(RESNET / f"{name}.toml", module.Config)
    tasks = [module.built(network, tmp_path) for network in config.networks]
    assert [t.dataset.shape for t, _ in tasks] == [(32, 32, 3), (64, 64, 3)]
    assert [title for _, title in tasks] == [
        "CIFAR-10, stand-in: textures32",
        "64 x 64 ImageNet, stand-in: textures64",
    ]
    layers = [sum(len(b.chain) for b in t.blocks) + 1 for t, _ in tasks]
    assert layers == [14, 35]
    found = entrants_of(config.entrants, RESNET, config.networks[0].steps)
    assert len({e.info.label for e in found}) == len(found) == 18
    assert found[1].opt.total_steps == config.networks[0].steps
