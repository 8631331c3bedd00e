"""Table and histogram of the optimizers in a curves file, by how much they were tuned.

python experiments/10_hand_designed/run.py runs/evaluation/config.h5 --out runs/hand_designed
"""

import argparse
import sys
import tomllib
from pathlib import Path

import numpy as np
from plot import draw
from table import Config, markdown, normalised

from lopt.comparison import read
from lopt.store import read_curves

HERE = Path(__file__).parent


def main() -> int:
    """table.md and histogram.png; the exit code says whether expected.toml was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    config, curves = read(HERE / "config.toml", Config), read_curves(args.curves)
    losses = normalised(curves, config.trials)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(markdown(losses) + "\n")
    draw(losses, config, args.out / "histogram.png")
    print(markdown(losses))
    return verdict(losses)


def verdict(losses: dict[str, np.ndarray]) -> int:
    """Pairs of expected.toml that are in the table the other way round."""
    pairs = tomllib.loads((HERE / "expected.toml").read_text())["lower"]
    known = [(a, b) for a, b in pairs if a in losses and b in losses]
    missed = [
        f"{a} is not below {b}"
        for a, b in known
        if not np.nanmean(losses[a]) < np.nanmean(losses[b])
    ]
    print(f"{len(known)} of {len(pairs)} expected pairs are in the table")
    print("\n".join(["NOT as expected:", *missed]) if missed else "as expected")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
