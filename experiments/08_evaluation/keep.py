"""The curves of a comparison as they are committed: small, and without folders of a machine.

    python experiments/08_evaluation/keep.py runs/evaluation/config.h5 [FOLDER]     into results/, under the same name

Losses along runs are rounded to 12 bits of mantissa (1.2e-4 relative), which packs well; test losses stay as they are.
The card of shipped weights is made from the kept files, so that anyone can make it again.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from lopt import store

RESULTS = Path(__file__).parent / "results"
DROPPED = 11  # of 23 bits of mantissa


def main() -> None:
    """Read, round, write."""
    path, *given = (Path(argument) for argument in sys.argv[1:])
    folder = given[0] if given else RESULTS
    curves = store.read_curves(path)
    runs = curves.runs | {name: rounded(curves.runs[name]) for name in ("train", "valid")}
    origin = [{k: v for k, v in x.items() if k != "command"} for x in curves.provenance]
    folder.mkdir(exist_ok=True)
    kept = dataclasses.replace(curves, runs=runs, provenance=origin)
    out = store.save_curves(folder / path.name, kept)
    print(f"{out}: {out.stat().st_size:,} bytes, {path.stat().st_size:,} before")


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 to the nearest number of 12 bits of mantissa; infinities and NaNs stay."""
    bits = values.view(np.uint32)
    near = (bits + np.uint32(1 << (DROPPED - 1))) & np.uint32(0xFFFFFFFF << DROPPED & 0xFFFFFFFF)
    return np.where(np.isfinite(values), near.view(np.float32), values)


if __name__ == "__main__":
    main()
