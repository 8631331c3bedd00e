"""The `lopt` command.  Each command is thin: parse, call the library, print.

Exit codes: 0 done, 1 failure, 2 wrong usage.  Errors are one short line; `--debug` adds the traceback.
"""

import functools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lopt import __version__
from lopt.errors import LoptError, UsageError


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of every command: adds --debug and turns exceptions into exit codes and one line."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def run(*args: Any, debug: bool, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except LoptError as error:
            if debug:
                traceback.print_exc()
            click.echo(f"lopt: error: {error}", err=True)
            sys.exit(2 if isinstance(error, UsageError) else 1)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lopt")
def main() -> None:
    """Learned optimizers: meta-train them with evolution strategies, evaluate them, use them."""


@main.command()
@click.option("--config", "config_path", type=click.Path(), required=True, help="TOML file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run directory.")
@click.option("--set", "overrides", multiple=True, metavar="a.b=v", help="Override one key.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@click.pass_context
@command
def train(ctx, config_path: str, out: Path, overrides: tuple[str, ...], resume: bool) -> None:
    """Meta-train an optimizer; under mpirun or alone."""
    from lopt import config as cfg
    from lopt.comm import aborting, get_comm
    from lopt.train import train as run

    comm = get_comm()
    with aborting(comm):
        config = cfg.apply_overrides(cfg.load(config_path), list(overrides))
        outcome = run(config, out, comm, resume=resume)
    if comm.rank == 0:
        click.echo(outcome.message)


@main.command(name="eval")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="A comparison.")
@click.option("--weights", type=click.Path(), help="Weights file or the name of a shipped one.")
@click.option("--tasks", "tasks_spec", help="Task specs, separated by ';'.")
@click.option("--steps", type=int, help="Inner steps.")
@click.option(
    "--seeds", type=int, default=5, show_default=True, help="Starting points per entrant."
)
@click.option("--baselines", default="adam,momentum,rmsprop", show_default=True)
@click.option(
    "--rates", default=None, help="Learning rates of the tuned baselines, comma-separated."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="HDF5 file to write.")
@command
def evaluate(config_path, weights, tasks_spec, steps, seeds, baselines, rates, out: Path) -> None:
    """Compare a learned optimizer with baselines, default and learning-rate-tuned; or what --config names."""
    from lopt.comm import aborting, get_comm
    from lopt.comparison import compare
    from lopt.evaluate import run_evaluation

    if config_path is None and (tasks_spec is None or steps is None):
        raise UsageError("eval needs --tasks and --steps, or --config")
    if config_path is not None and (weights or tasks_spec or steps):
        raise UsageError("--config names tasks, steps and weights itself: leave them out")
    comm = get_comm()
    with aborting(comm):
        if config_path is not None:
            text = "\n".join([*compare(config_path, out, comm), f"curves in {out}"])
        else:
            text = run_evaluation(comm, weights, tasks_spec, steps, seeds, baselines, rates, out)
    if comm.rank == 0:
        click.echo(text)


@main.command()
@click.option("--weights", help="Weights file or the name of a shipped one.")
@click.option("--eval", "curves", type=click.Path(path_type=Path), help="Curves to judge by.")
@command
def card(weights: str | None, curves: Path | None) -> None:
    """Print a model card; with --eval too, write what the curves say in first; with --eval alone, rank its learned ones."""
    from lopt import card as cards

    if weights is None and curves is None:
        raise UsageError("card needs --weights, --eval or both")
    if weights is None:
        click.echo(cards.overview(curves))
    else:
        click.echo(cards.card(weights) if curves is None else cards.write_scores(weights, curves))


@main.command()
@click.argument("curves", type=click.Path(path_type=Path))
@click.option("--search", required=True, help="Family of the curves whose trials are ordered.")
@click.option("--length", type=int, default=100, show_default=True, help="Settings wanted.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="TOML file to write.")
@command
def optlist(curves: Path, search: str, length: int, out: Path) -> None:
    """Order settings of a search greedily by their curves on training tasks: what to try first, second, ..."""
    from lopt.optlist import learn_list

    click.echo(learn_list(curves, search, length, out))


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Directory; beside the file if omitted."
)
@command
def plot(path: Path, out: Path | None) -> None:
    """Draw the pictures of a run or evaluation file or of `lopt bench --json`, as PNG and PDF."""
    from lopt.plots import draw_all

    for written in draw_all(path, out or path.parent):
        click.echo(written)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Draw once and leave.")
@command
def watch(directory: Path, once: bool) -> None:
    """Redraw a growing run in the terminal until it ends or Ctrl-C."""
    from lopt.plots import watch as run

    run(directory, once=once)


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@command
def info(path: Path) -> None:
    """Say what an HDF5 file of lopt holds; of a shipped name, its model card."""
    from lopt import data as library
    from lopt import store
    from lopt.card import card as card_of

    if not path.exists() and path.name == str(path) and not path.suffix:
        click.echo(card_of(path.name))
        return
    click.echo(library.info(path) if store.kind_of(path) == "data" else store.info(path))


@main.group()
def tasks() -> None:
    """Task families."""


@tasks.command(name="list")
@click.option("--options", is_flag=True, help="Options of every family with their defaults.")
@click.option("--names", is_flag=True, help="Every name of the task set, one a line.")
@click.option("--seeds", type=int, default=500, show_default=True, help="Configurations a family.")
@command
def tasks_list(options: bool, names: bool, seeds: int) -> None:
    """The task set: families and how many configurations of each can be built."""
    from lopt.tasks import catalogue, describe_families

    if options:
        click.echo(describe_families())
    elif names:
        for entry in catalogue.entries(seeds):
            if entry.task is not None:
                click.echo(entry.name)
    else:
        click.echo(catalogue.overview(seeds))


@tasks.command(name="show")
@click.argument("name")
@command
def tasks_show(name: str) -> None:
    """One task: parameters, splits, initial loss."""
    from lopt.tasks import describe_task

    click.echo(describe_task(name))


@tasks.command(name="time")
@click.argument("name", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="The whole task set.")
@click.option(
    "--seeds", type=int, default=500, show_default=True, help="With --all: configurations a family."
)
@click.option("--out", type=click.Path(path_type=Path), help="HDF5 file to write.")
@command
def tasks_time(name: tuple[str, ...], everything: bool, seeds: int, out: Path | None) -> None:
    """Milliseconds per loss and gradient of tasks (default: one of each family)."""
    from lopt.task_times import time_tasks

    click.echo(time_tasks(name, everything, seeds, out))


@main.command()
@click.option(
    "--suite", default="cpu", show_default=True, help="cpu, profile, es, mpi, gpu or all."
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write figures to a file."
)
@command
def bench(suite: str, json_path: Path | None) -> None:
    """Measure speed on this machine: a table beside floors, what was asked, and a peer's figures."""
    from lopt.bench import line, report, run_suite, save

    click.echo(report([]))
    figures = []
    for figure in run_suite(suite):
        figures.append(figure)
        click.echo(line(figure))
        if json_path is not None:  # after every row: a suite takes minutes
            save(figures, json_path)


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@command
def verify(path: Path) -> None:
    """Replay reference trajectories on this machine and compare movements."""
    from lopt.verify import verify as run

    result = run(path)
    click.echo(result.text)
    if not result.passed:
        sys.exit(1)


@main.group()
def data() -> None:
    """Data sets of your own."""


@data.command(name="import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="HDF5 file to write.")
@click.option("--format", "format_", default="", help="Guessed from the content if omitted.")
@click.option(
    "-o", "--option", "options", multiple=True, metavar="NAME=VALUE", help="Of the format."
)
@click.option("--scale", default="", help="none, column or all: how values get into [0, 1].")
@click.option("--classes", type=int, default=0, help="Labels must be 0..CLASSES-1.")
@click.option("--relabel", is_flag=True, help="Number the labels that occur 0, 1, ...")
@command
def data_import(
    source: Path,
    out: Path,
    format_: str,
    options: tuple[str, ...],
    scale: str,
    classes: int,
    relabel: bool,
) -> None:
    """Turn .npz, .h5, IDX, CIFAR binary, images, text or CSV into one file of lopt's."""
    from lopt import data as library

    pairs = [option.partition("=") for option in options]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise UsageError(f"--option {wrong[0]}: expected NAME=VALUE")
    given = {name: value for name, _, value in pairs}
    notes = library.import_data(source, out, format_, given, scale, classes, relabel, show=True)
    for note in notes:
        click.echo(f"note: {note}")
    click.echo(library.info(out))


@data.command(name="info")
@click.argument("path", type=click.Path(path_type=Path))
@command
def data_info(path: Path) -> None:
    """Say what an imported file holds, and check all of it."""
    from lopt.data import info as describe

    click.echo(describe(path))


if __name__ == "__main__":
    main()
