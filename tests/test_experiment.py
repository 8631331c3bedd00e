"""What experiments share: their command lines, and the verdict."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from lopt.config import Section
from lopt.errors import ConfigError
from lopt.experiment import (
    begin,
    command_line,
    path_argument,
    results_and_picture,
    rounded,
    save_results,
    toml,
    verdict,
)


class Numbers(Section, kw_only=True):
    """A configuration."""

    steps: int


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment of 10 steps, of 20 in another file, and one with a mistake."""
    for name, text in (("config", "steps = 10"), ("tiny", "steps = 20"), ("wrong", "stesp = 10")):
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


def program(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    """Be one that was started with these arguments."""
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, arguments)])


@pytest.mark.parametrize(("given", "steps"), [([], 10), (["--config", "tiny.toml"], 20)])
def test_a_run_begins(folder, monkeypatch, given, steps):
    """The folder's own configuration or another one; options of one's own; the folder of results is there."""
    monkeypatch.chdir(folder)
    program(monkeypatch, "--out", folder / "a" / "b", "--more", "7", *given)
    parser = command_line("First line.\n\nRest.")
    parser.add_argument("--more", type=int)
    args, config = begin(parser, folder, Numbers)
    assert (config.steps, args.more, args.config.name) == (steps, 7, (given or ["config.toml"])[-1])
    assert args.out == folder / "a" / "b" and args.out.is_dir()
    assert "First line." in parser.format_help() and "Rest" not in parser.format_help()


def test_a_mistake_in_a_configuration_leaves_no_folder(folder, monkeypatch):
    program(monkeypatch, "--out", folder / "out", "--config", folder / "wrong.toml")
    with pytest.raises(ConfigError, match=r"wrong\.toml: unknown key stesp .*did you mean steps"):
        begin(command_line("Doc."), folder, Numbers)
    assert not (folder / "out").exists()


def test_results_need_a_folder(folder, monkeypatch, capsys):
    program(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        begin(command_line("Doc."), folder, Numbers)
    assert ended.value.code == 2 and "--out" in capsys.readouterr().err


def test_a_picture_is_of_one_path(monkeypatch):
    program(monkeypatch, "runs/x")
    assert path_argument("Doc.", "folder") == Path("runs/x")


def test_what_is_drawn_and_where_to(tmp_path, monkeypatch):
    """What is committed goes into docs/; what a run has made, a folder or a file, has its picture there."""
    here, (folder, file) = Path("/a/experiments/09_b"), (tmp_path, tmp_path / "c.h5")
    program(monkeypatch)
    committed = here / "results", Path("/a/docs/p.png")
    assert results_and_picture("Doc.", here, "results", "p.png") == committed
    for given in (folder, file):
        program(monkeypatch, given)
        assert results_and_picture("Doc.", here, "results", "p.png") == (given, tmp_path / "p.png")


def test_rounded_to_twelve_bits():
    """Half a unit of the 12th bit is 2^-13 of a power of two; what has 12 bits, and what is no number, stays."""
    x = np.float32(10.0) ** np.random.default_rng(0).uniform(-30, 30, 1000).astype(np.float32)
    near = rounded(x)
    error = np.abs(near.astype(np.float64) / x - 1)
    assert 2.0**-14 < error.max() <= 2.0**-13
    assert not (near.view(np.uint32) & 0x7FF).any()
    kept = np.float32([0, -1, 4095 / 1024, np.inf, -np.inf])
    np.testing.assert_array_equal(rounded(kept), kept)
    assert np.isnan(rounded(np.float32([np.nan]))[0])


def test_results_are_packed(tmp_path):
    """Arrays and attributes come back; a smooth one is packed; nothing else is left behind."""
    values = np.arange(10_000.0)
    save_results(tmp_path / "r.h5", {"a/b": values, "c": 3}, names=["x", "y"])
    with h5py.File(tmp_path / "r.h5") as file:
        np.testing.assert_array_equal(file["a/b"][()], values)
        assert file["c"][()] == 3 and list(file.attrs["names"]) == ["x", "y"]
    assert (tmp_path / "r.h5").stat().st_size < values.nbytes / 2
    assert [path.name for path in tmp_path.iterdir()] == ["r.h5"]


def test_numbers_of_a_file(folder):
    assert toml(folder / "config.toml") == {"steps": 10}


@pytest.mark.parametrize(
    ("missed", "text", "code"),
    [([], "as expected\n", 0), (["a: 3", "b: 4"], "NOT as expected:\na: 3\nb: 4\n", 1)],
    ids=["met", "missed"],
)
def test_the_verdict_is_the_exit_code(capsys, missed, text, code):
    assert verdict(missed) == code
    assert capsys.readouterr().out == text
