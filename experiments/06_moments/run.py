"""Measure mean and variance of every estimator of which a closed form is known, beside it.

python experiments/06_moments/run.py --out runs/moments
python experiments/06_moments/run.py --out runs/moments --docs      # writes docs/moments.md and its picture
"""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from plot import draw
from table import markdown

from lopt.experiment import command_line, toml, verdict

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(
    0, str(ROOT / "tests")
)  # the closed forms are those of the tests: there is one table

from helpers.moments import CASES, Case  # noqa: E402, needs the path


class Row(NamedTuple):
    """One case, in units of |target|^2 (variance) and of the target (along).

    along, variance              measured, then the closed form (NaN: not known)
    along_error, variance_error  standard errors of the measured ones
    farthest                     coordinate of the mean farthest from the closed form, in standard errors
    samples                      estimates
    """

    along: float
    along_error: float
    along_closed: float
    farthest: float
    variance: float
    variance_error: float
    variance_closed: float
    samples: int


def main() -> int:
    """Measure what is not there yet, then the table and the picture; 1 if a formula is wrong."""
    config, parser = toml(HERE / "config.toml"), command_line(__doc__)
    parser.add_argument("--samples", type=int, default=config["samples"])
    parser.add_argument("--docs", action="store_true")
    args = parser.parse_args()
    path = args.out / "moments.h5"
    if not path.exists():
        args.out.mkdir(parents=True, exist_ok=True)
        write(path, [measured(case, args.samples) for case in CASES])
    text, wrong = markdown(path, config["within"])
    draw(path, args.out / "moments.png")
    print(text)
    if args.docs:
        (ROOT / "docs" / "moments.md").write_text(text)
        shutil.copy(args.out / "moments.png", ROOT / "docs" / "moments.png")
    return verdict(wrong)


def measured(case: Case, n: int) -> Row:
    """Moments of at least n estimates."""
    found = case.draw(n)
    square = float(case.target @ case.target)
    along = found @ case.target / square
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    spread = np.sum((found - case.mean) ** 2, axis=1) / square
    return Row(
        along.mean(),
        along.std(ddof=1) / np.sqrt(len(found)),
        float(case.mean @ case.target) / square,
        float(np.max(np.abs(found.mean(axis=0) - case.mean) / error)),
        spread.mean(),
        spread.std(ddof=1) / np.sqrt(len(found)),
        np.nan if case.variance is None else case.variance / square,
        len(found),
    )


def write(path: Path, rows: list[Row]) -> None:
    """One dataset a column."""
    with h5py.File(path, "w") as file:
        for column, values in zip(Row._fields, zip(*rows, strict=True), strict=True):
            file[column] = np.array(values)
        for column in ("name", "setting", "loss", "formula"):
            file[column] = [getattr(case, column) for case in CASES]


if __name__ == "__main__":
    sys.exit(main())
