"""Train residual networks on CIFAR-10 and 64 x 64 ImageNet with learned optimizers, tuned Adam and tuned momentum.

python experiments/18_resnet/run.py --out runs/resnet --data data

Data sets that are missing are replaced by stand-ins, whose names the picture says.  Killed and started again it goes on
where it was, but for the runs of one entrant.
"""

import sys
from pathlib import Path

import msgspec
from plot import PICTURE, Panel, draw, report

from lopt.comm import Comm, aborting, get_comm
from lopt.comparison import EntrantSpec, Runs, compare_on
from lopt.config import Section
from lopt.experiment import begin, command_line
from lopt.sweep import folder_name
from lopt.task import Task
from lopt.tasks import parse_task_spec, task

HERE = Path(__file__).parent


class Network(Runs, kw_only=True):
    """A network and its runs; the entrants are those of the whole experiment.

    published   the data set that is meant
    file        what `lopt data import` made of it, in the folder of the data
    stand_in    the data set that is taken where the file is missing
    task        the task but for its data
    """

    published: str
    file: str
    stand_in: str
    task: str
    entrants: tuple[EntrantSpec, ...] = ()


class Config(Section, kw_only=True):
    """config.toml."""

    networks: tuple[Network, ...]
    entrants: tuple[EntrantSpec, ...]


def main() -> int:
    """Curves, picture, tables; the exit code says whether expected.toml was met."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    args, config = begin(parser, HERE, Config)
    comm, panels = get_comm(), []
    with aborting(comm):
        for network in config.networks:
            runs = msgspec.structs.replace(network, entrants=config.entrants)
            panels.append(train(runs, args.data, args.config.parent, args.out, comm))
    if comm.rank != 0:
        return 0
    draw(panels, args.out / PICTURE)
    return report(panels)


def built(network: Network, data: Path) -> tuple[Task, str]:
    """The task, and the data set as titles call it.

    Raises:
        DataError, TaskError: the file is there, but is none of data, or does not fit the task.
    """
    family, options, augment = parse_task_spec(network.task)
    if (data / network.file).exists():
        return task(family, augment, data=str(data / network.file), **options), network.published
    stands = {"data": network.stand_in, "stands_for": network.published}
    title = f"{network.published}, stand-in: {network.stand_in}"
    return task(family, augment, **stands, **options), title


def train(network: Network, data: Path, folder: Path, out: Path, comm: Comm) -> Panel:
    """All runs on one network, kept in a file that is written after every entrant; collective."""
    own, title = built(network, data)
    path = out / f"{folder_name(title)}.h5"
    if comm.rank == 0:
        if title != network.published:
            print(f"{data / network.file} is missing, see docs/data.md: {title}")
        print(f"{own.name}: {own.layout.size} parameters", flush=True)
    for k in range(len(network.entrants)):
        some = msgspec.structs.replace(network, entrants=network.entrants[: k + 1])
        notes = compare_on({own.name: own}, some, folder, path, comm)
        if notes and comm.rank == 0:
            print("\n".join(notes))
    return Panel(title, own.name, path)


if __name__ == "__main__":
    sys.exit(main())
