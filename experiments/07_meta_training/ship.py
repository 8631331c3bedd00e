"""Weights of a run under a name of their own, with the options that users get.

    python experiments/07_meta_training/ship.py runs/wide/weights.h5 NAME total_steps=0 decay_steps=100

Writes lopt/pretrained/NAME.h5; theta and the record of how it was made stay as they are.  An option here is one that
changes nothing about theta and was picked on the validation tasks: LOG.md says which and why.
"""

import sys
import tomllib

from lopt import store
from lopt.store.weights import SHIPPED


def main() -> None:
    """Write the file."""
    source, name, *settings = sys.argv[1:]
    options = tomllib.loads("\n".join(settings))
    weights = store.load_weights(source)
    origin = {k: v for k, v in weights.provenance.items() if k != "command"}  # folders of a machine
    SHIPPED.mkdir(exist_ok=True)
    out = store.save_weights(
        SHIPPED / f"{name}.h5",
        weights.optimizer(**options),
        weights.theta,
        origin,
    )
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
