"""Weights of a run in a file of their own, with the options that users get.

    python experiments/07_meta_training/ship.py runs/wide/weights.h5 lopt/pretrained/NAME.h5 total_steps=0 decay_steps=100

Theta and the record of how it was made stay as they are.  An option here is one that changes nothing about theta and was
picked on the validation tasks: LOG.md says which and why.
"""

import sys
import tomllib
from pathlib import Path

from lopt import store


def main() -> None:
    """Write the file."""
    source, target, *settings = sys.argv[1:]
    options = tomllib.loads("\n".join(settings))
    weights = store.load_weights(source)
    origin = {k: v for k, v in weights.provenance.items() if k != "command"}  # folders of a machine
    Path(target).parent.mkdir(exist_ok=True)
    out = store.save_weights(target, weights.optimizer(**options), weights.theta, origin)
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
