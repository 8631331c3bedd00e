"""Table and histogram of the optimizers in a curves file, by how much they were tuned.

python experiments/10_hand_designed/run.py runs/evaluation/config.h5 --out runs/hand_designed
"""

import sys
from pathlib import Path

import numpy as np
from plot import draw
from table import Config, markdown, normalised

from lopt.experiment import begin, command_line, toml, verdict
from lopt.store import read_curves

HERE = Path(__file__).parent


def main() -> int:
    """table.md and histogram.png; the exit code says whether expected.toml was met."""
    parser = command_line(__doc__)
    parser.add_argument("curves", type=Path)
    args, config = begin(parser, HERE, Config)
    losses = normalised(read_curves(args.curves), config.trials)
    (args.out / "table.md").write_text(markdown(losses) + "\n")
    draw(losses, config, args.out / "histogram.png")
    print(markdown(losses))
    return report(losses)


def report(losses: dict[str, np.ndarray]) -> int:
    """The verdict: pairs of expected.toml that are in the table are that way round."""
    pairs = toml(HERE / "expected.toml")["lower"]
    known = [(a, b) for a, b in pairs if a in losses and b in losses]
    missed = [
        f"{a} is not below {b}"
        for a, b in known
        if not np.nanmean(losses[a]) < np.nanmean(losses[b])
    ]
    print(f"{len(known)} of {len(pairs)} expected pairs are in the table")
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
