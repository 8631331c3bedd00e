"""Train perceptrons inside and far outside the training range of learned optimizers, one thing changed at a time.

python experiments/12_generalisation/run.py --out runs/generalisation
"""

import sys
from pathlib import Path

from plot import PICTURE, draw, report

from lopt.comm import aborting, get_comm
from lopt.comparison import ComparisonConfig, compare
from lopt.experiment import begin, command_line

HERE = Path(__file__).parent


def main() -> int:
    """Curves, picture, table; the exit code says whether expected.toml was met."""
    args, _ = begin(command_line(__doc__), HERE, ComparisonConfig)
    comm, path = get_comm(), args.out / f"{args.config.stem}.h5"
    with aborting(comm):
        notes = compare(args.config, path, comm)
    if comm.rank != 0:
        return 0
    print("\n".join(notes))
    draw(path, args.out / PICTURE)
    return report(path)


if __name__ == "__main__":
    sys.exit(main())
