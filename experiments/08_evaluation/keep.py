"""The curves of a comparison as they are committed: small, and without folders of a machine.

    python experiments/08_evaluation/keep.py runs/evaluation/config.h5 [FOLDER]     into results/, under the same name

Losses along runs are rounded to 12 bits of mantissa (1.2e-4 relative), which packs well; test losses stay as they are.
Of searches of more than MANY trials no curve is ever drawn: their runs keep the validation losses that trials are chosen
by, and the initial one; the rest is NaN.
The card of shipped weights is made from the kept files, so that anyone can make it again.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from lopt import store
from lopt.experiment import rounded

RESULTS = Path(__file__).parent / "results"
MANY = 20


def main() -> None:
    """Read, round, write."""
    path, *given = (Path(argument) for argument in sys.argv[1:])
    folder = given[0] if given else RESULTS
    curves = store.read_curves(path)
    runs = curves.runs | {name: rounded(curves.runs[name]) for name in ("train", "valid")}
    families = [e.family for e in curves.entrants]
    many = np.array([families.count(f) > MANY for f in families])[runs["entrant"]]
    runs["train"][many] = np.nan
    runs["valid"][many, 1 : -max(1, curves.steps.size // 10)] = np.nan
    origin = [{k: v for k, v in x.items() if k != "command"} for x in curves.provenance]
    folder.mkdir(exist_ok=True)
    kept = dataclasses.replace(curves, runs=runs, provenance=origin)
    out = store.save_curves(folder / path.name, kept)
    print(f"{out}: {out.stat().st_size:,} bytes, {path.stat().st_size:,} before")


if __name__ == "__main__":
    main()
