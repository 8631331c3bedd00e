"""Weights that nobody trained: `anchored` with three parts of the orthogonal factor to one of Adam's direction.

    python experiments/08_evaluation/by_hand.py        writes by_hand.h5 beside this file

An entrant of config.toml, so that what meta-training adds to the parts of `compass` can be told from the parts.
"""

from pathlib import Path

import numpy as np

import lopt
from lopt import store

SHARE = 3.0  # picked by hand before the evaluation


def main() -> None:
    """Write the file."""
    opt = lopt.optimizer("anchored", head=False, orthogonal=True, decay_steps=100)
    theta = np.zeros(opt.theta_layout.size, np.float32)
    opt.theta_layout.views(theta)["direction/orthogonal"][:] = SHARE
    store.save_weights(Path(__file__).with_name("by_hand.h5"), opt, theta, {})


if __name__ == "__main__":
    main()
