"""Meta-train the example from several seeds and say whether the meta-loss fell below the starts of all.

python experiments/01_digits/run.py --out runs/01_digits [--seeds 3] [--ranks 2]
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from lopt.bench import launcher
from lopt.experiment import command_line, toml, verdict
from lopt.store import RunReader

HERE = Path(__file__).parent
EDGE = 5  # outer steps averaged at the start; at the end, ten times as many


def main() -> int:
    """Runs, then a table; the exit code says whether expected.toml was met."""
    parser = command_line(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    paths = [args.out / f"seed{s}" for s in range(args.seeds)]
    for seed, path in enumerate(paths):
        if not path.exists():
            train(path, seed, args.ranks)
    return report(paths)


def train(out: Path, seed: int, ranks: int) -> None:
    """One meta-training run."""
    command = [*launcher(ranks), sys.executable, "-m", "lopt", "train"]
    command += ["--config", str(HERE / "config.toml"), "--out", str(out)]
    subprocess.run([*command, "--set", f"train.seed={seed}"], check=True)


def report(paths: list[Path]) -> int:
    """Print first and last meta-losses of the runs, their spread, and the verdict."""
    first, last = [], []
    for path in paths:
        with RunReader(path / "run.h5") as run:
            loss = run["meta_loss"]
        first.append(loss[:EDGE].mean())
        last.append(loss[-10 * EDGE :].mean())
        print(f"{path}: {loss.size} outer steps, meta-loss {first[-1]:.3f} -> {last[-1]:.3f}")
    ratio = min(first) / max(last)
    for name, values in (("start", first), ("end", last)):
        print(f"{name}: mean {np.mean(values):.3f}, {min(values):.3f} to {max(values):.3f}")
    print(f"the lowest start is {ratio:.1f} times the highest end ({len(paths)} seeds)")
    expected, missed = toml(HERE / "expected.toml"), []
    if not max(last) <= expected["end_at_most"]:
        missed.append(f"highest end above {expected['end_at_most']}")
    if not ratio >= expected["start_over_end"]:
        missed.append(f"lowest start below {expected['start_over_end']} times that")
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
