"""What is committed of experiments: every picture of docs/experiments.md is drawn from it by one command."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import h5py
import pytest
from helpers.programs import EXPERIMENTS

import lopt
from lopt.optimizer import Optimizer
from lopt.store import load_weights, read_curves, shipped

DOCS = EXPERIMENTS.parent / "docs"
EVALUATION = EXPERIMENTS / "08_evaluation"
DRAWN = sorted(p.name for p in EXPERIMENTS.iterdir() if re.match(r"09|1\d", p.name))
OWN = [name for name in DRAWN if not name.startswith("10")]  # which has what 08_evaluation has


def results(folder: str) -> list[Path]:
    """Committed files of a folder."""
    return sorted((EXPERIMENTS / folder / "results").glob("*.h5"))


def test_every_experiment_has_its_results():
    """Each but that on hand-designed optimizers files of its own: small, 2 MB together."""
    assert len(DRAWN) == 10 and (EXPERIMENTS / "07_meta_training" / "runs.h5").exists()
    sizes = [path.stat().st_size for name in OWN for path in results(name)]
    assert all(results(name) for name in (*OWN, EVALUATION.name))
    assert max(sizes) < 300_000 and sum(sizes) < 2_000_000


@pytest.mark.parametrize("folder", DRAWN)
def test_a_picture_needs_the_committed_files_alone(tmp_path, monkeypatch, capsys, folder):
    """plot.py of a copy, without an argument: the docs' picture, and what was found is as expected."""
    copy = tmp_path / "experiments" / folder
    shutil.copytree(EXPERIMENTS / folder, copy)
    (tmp_path / "docs").mkdir()
    if folder not in OWN:
        shutil.copytree(EVALUATION / "results", copy.parent / EVALUATION.name / "results")
        shutil.copy(DOCS / "experiments.md", tmp_path / "docs")
    monkeypatch.setattr(sys, "argv", ["plot.py"])
    monkeypatch.syspath_prepend(str(copy))
    monkeypatch.delitem(sys.modules, "table", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(copy / "plot.py"), run_name="__main__")
    sys.modules.pop("table", None)
    assert "as expected" in capsys.readouterr().out and ended.value.code == 0
    (picture,) = (tmp_path / "docs").glob("*.png")
    assert picture.stat().st_size > 10_000 and (DOCS / picture.name).exists()
    assert f"]({picture.name})" in (DOCS / "experiments.md").read_text()


def test_runs_of_meta_training_are_drawn(tmp_path, folder_module):
    folder_module("07_meta_training", "logs").draw(tmp_path / "runs.png")
    assert (tmp_path / "runs.png").stat().st_size > 10_000


def test_the_table_of_hand_designed_optimizers_is_that_of_the_page(folder_module):
    """docs/experiments.md has what the committed curves give."""
    plot = folder_module("10_hand_designed", "plot")
    losses = plot.normalised(read_curves(plot.HERE / plot.CURVES), (1, 10, 100))
    assert plot.markdown(losses) in (DOCS / "experiments.md").read_text()


def specs(path: Path) -> dict[str, str]:
    """What every optimizer of a file was, by name; none of a file that names no optimizers."""
    if path.read_bytes().startswith(b'{"lopt": "curves"'):
        return {e.label: e.spec for e in read_curves(path).entrants}
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
    if "specs" not in attributes:
        return {}
    return dict(zip(attributes["entrants"], attributes["specs"], strict=True))


def as_json(opt: Optimizer) -> dict:
    """Options as a file has them."""
    return json.loads(json.dumps(opt.config()))


@pytest.mark.parametrize("folder", [EVALUATION.name, *OWN])
def test_results_are_of_the_weights_that_are_shipped(folder):
    """What has the name of shipped weights was them, theta and options: who ships others runs the experiments again."""
    found = 0
    for path in results(folder):
        for label, text in specs(path).items():
            if label not in shipped():
                continue
            weights, spec = load_weights(label), json.loads(text)
            assert spec.pop("digest") == weights.digest, path.name
            known = as_json(lopt.optimizer(weights.architecture))  # options newer than the file
            assert {**known, **spec} == as_json(weights.optimizer()), path.name
            found += 1
    config = (EXPERIMENTS / folder / "config.toml").read_text()
    asked = any(f'weights = "{name}"' in config for name in shipped())
    assert (found > 0) == (asked and not folder.startswith("11"))  # costs are those of any weights
