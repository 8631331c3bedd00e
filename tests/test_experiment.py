"""What experiments share: their command lines, and the verdict."""

import sys
from pathlib import Path

import pytest

from lopt.config import Section
from lopt.errors import ConfigError
from lopt.experiment import begin, command_line, path_argument, toml, verdict


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
