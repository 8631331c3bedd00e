"""Train one task of every family with Adam and draw all loss curves in one figure.

python experiments/02_task_set/run.py --out runs/task_set [--ranks 2] [--steps 1000]
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from lopt.bench import launcher
from lopt.experiment import command_line, toml
from lopt.plots import draw_all
from lopt.store import EvalReader

HERE = Path(__file__).parent


def main() -> int:
    """Evaluation, figure, and a line per task; the exit code says whether every curve falls."""
    config, parser = toml(HERE / "config.toml"), command_line(__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=config["steps"])
    args = parser.parse_args()
    path = args.out / "eval.h5"
    if not path.exists():
        args.out.mkdir(parents=True, exist_ok=True)
        command = [*launcher(args.ranks), sys.executable, "-m", "lopt", "eval"]
        command += ["--tasks", ";".join(config["tasks"]), "--steps", str(args.steps)]
        command += ["--seeds", str(config["seeds"]), "--baselines", config["baselines"]]
        subprocess.run([*command, "--rates", config["rates"], "--out", str(path)], check=True)
    draw_all(path, args.out)
    return report(EvalReader(path))


def report(results: EvalReader) -> int:
    """How far the best rate of Adam brought the loss of each task."""
    flat = []
    for i, task in enumerate(results.tasks):
        first = np.median(results.outer_loss[i, :, :, 0])
        last = np.median(results.outer_loss[i, :, :, -1], axis=1).min()
        print(f"{task:40s} {first:12.5g} -> {last:12.5g}")
        if not last < first - 0.02 * abs(first):
            flat.append(task)
    print(f"flat: {', '.join(flat)}" if flat else "every loss falls")
    return 1 if flat else 0


if __name__ == "__main__":
    sys.exit(main())
