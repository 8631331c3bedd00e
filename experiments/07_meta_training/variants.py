"""Weights that were not trained, made of run C's: less of it, and its direction without its step sizes.

python experiments/07_meta_training/variants.py        writes weights/C_quarter.h5 and weights/C_direction.h5
"""

from pathlib import Path

from lopt import store

WEIGHTS = Path(__file__).parent / "weights"


def main() -> None:
    """Write both files."""
    run = store.load_weights(WEIGHTS / "C.h5")
    opt, direction = run.optimizer(), run.theta.copy()
    opt.theta_layout.views(direction)["rate/direct"][:] = 0.0
    store.save_weights(WEIGHTS / "C_quarter.h5", opt, 0.25 * run.theta, run.provenance)
    store.save_weights(WEIGHTS / "C_direction.h5", opt, direction, run.provenance)


if __name__ == "__main__":
    main()
