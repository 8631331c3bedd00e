"""The curves of a comparison as they are committed: small, and without folders of a machine.

    python experiments/08_evaluation/keep.py runs/evaluation/config.h5 [FOLDER]     into results/, under the same name

Losses along runs are rounded to 12 bits of mantissa (1.2e-4 relative), which packs well; test losses stay as they are.
The card of shipped weights is made from the kept files, so that anyone can make it again.
"""

import dataclasses
import sys
from pathlib import Path

from lopt import store
from lopt.experiment import rounded

RESULTS = Path(__file__).parent / "results"


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


if __name__ == "__main__":
    main()
