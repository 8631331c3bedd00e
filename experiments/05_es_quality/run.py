"""Search test functions with lopt's strategies, the package `cma` and evosax's OpenES, at equal evaluations.

python experiments/05_es_quality/run.py --out runs/es_quality [--docs]
mpirun -n 2 python experiments/05_es_quality/run.py --out runs/es_quality        # the same numbers
python experiments/05_es_quality/run.py --out runs/tiny --dimensions 10 --seeds 2 --evaluations 300
"""

import itertools
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from functions import FUNCTIONS, Record
from plot import draw
from searches import RUNS, installed
from table import INTRODUCTION, markdown, missed

from lopt import rng
from lopt.comm import Comm, aborting, get_comm
from lopt.experiment import command_line, toml, verdict
from lopt.lanes import pin_blas_threads

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
MARKS = 30  # numbers of evaluations at which the lowest value is kept


def main() -> int:
    """Dimensions that are not there yet, the table, the picture; the exit code says whether expected.toml was met."""
    config, parser = toml(HERE / "config.toml"), command_line(__doc__)
    parser.add_argument("--dimensions", nargs="*", choices=config["evaluations"])
    parser.add_argument("--seeds", type=int, default=config["seeds"])
    parser.add_argument("--evaluations", type=int, help="instead of those of config.toml")
    parser.add_argument("--docs", action="store_true", help="write docs/es_quality.md")
    args = parser.parse_args()
    pin_blas_threads()
    comm = get_comm()
    with aborting(comm):
        for n in args.dimensions or list(config["evaluations"]):
            path = args.out / f"d{n}.h5"
            if not comm.bcast(path.exists()):
                budget = args.evaluations or config["evaluations"][n]
                measure(path, int(n), budget, args.seeds, config, comm)
    if comm.rank > 0:
        return 0
    draw(args.out)
    text = markdown(args.out)
    print(f"{text}\n")
    if args.docs:
        (DOCS / "es_quality.md").write_text(INTRODUCTION + text + "\n")
        shutil.copy(args.out / "quality.png", DOCS / "es_quality.png")
    return verdict(missed(args.out, toml(HERE / "expected.toml")))


def measure(
    path: Path, n: int, budget: int, seeds: int, config: dict[str, Any], comm: Comm
) -> None:
    """All searches in n dimensions, shared out to the ranks; rank 0 writes."""
    chosen = {k: v for k, v in config["searches"].items() if n <= v.get("most", n)}
    for run in {v["run"] for v in chosen.values()}:
        if not installed(run):
            chosen = {k: v for k, v in chosen.items() if v["run"] != run}
            if comm.rank == 0:
                print(f"{run} is not installed: left out")
    marks = np.unique(np.geomspace(10, budget, MARKS).astype(int))
    best = np.zeros((len(config["functions"]), len(chosen), seeds, marks.size))
    cells = itertools.product(
        enumerate(config["functions"]), enumerate(chosen.values()), range(seeds)
    )
    for i, ((f, name), (s, settings), seed) in enumerate(cells):
        if i % comm.size == comm.rank:
            best[f, s, seed] = search(name, settings, config["box"], n, marks, seed)
    comm.allreduce_scalars(best.reshape(-1), "control")
    if comm.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["best"], file["evaluations"] = best, marks
            file["best"].attrs["axes"] = "function, search, seed, evaluations"
            file.attrs["functions"] = config["functions"]
            file.attrs["searches"] = list(chosen)
            file.attrs["dimensions"] = n


def search(
    name: str, settings: dict[str, Any], box: float, n: int, marks: np.ndarray, seed: int
) -> np.ndarray:
    """Lowest values at the marks of one search, (marks,)."""
    f = Record(FUNCTIONS[name], marks)
    x0 = box * (2 * rng.uniforms(n, rng.stream(seed), rng.TASK).astype(np.float64) - 1)
    given = {k: v for k, v in settings.items() if k not in ("run", "most")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the packages warn of losses that are all alike
        RUNS[settings["run"]](f, x0, box, int(marks[-1]), seed, **given)
    return f.lowest()


if __name__ == "__main__":
    sys.exit(main())
