"""Compare optimizers on tasks that no meta-training has seen, draw the pictures, say what was reached and what not.

python experiments/08_evaluation/run.py --out runs/evaluation [--ranks 2]
python experiments/08_evaluation/run.py --out runs/tiny --configs tiny

Killed and started again it goes on where it was; an entrant added to config.toml costs its own runs only.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from plot import draw, draw_long

from lopt import store
from lopt.bench import launcher
from lopt.experiment import command_line, toml, verdict
from lopt.judgement import judge
from lopt.scores_text import scores_text
from lopt.sweep import folder_name

HERE = Path(__file__).parent


def main() -> int:
    """Curves, pictures, a page of scores for each learned optimizer; the exit code says whether expected.toml was met."""
    parser = command_line(__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--configs", nargs="+", default=["config", "long"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    expected = toml(HERE / "expected.toml")
    judged, missed = 0, []
    for name in args.configs:
        config = HERE / f"{name}.toml" if "/" not in name else Path(name)
        path = args.out / f"{config.stem}.h5"
        compare(config, path, args.ranks)
        curves = store.read_curves(path)
        (draw_long if config.stem == "long" else draw)(curves, args.out)
        for learned in curves.kinds("learned"):
            found = judge(curves, learned)
            (args.out / f"{config.stem}_{folder_name(learned)}.md").write_text(
                scores_text(config.stem, found) + "\n"
            )
            missed += not_reached(learned, found, expected.get(config.stem, {}))
            judged += 1
    if judged == 0:
        print("no weights among the entrants: nothing to judge, pictures show the baselines")
        return 0
    return verdict(missed)


def compare(config: Path, out: Path, ranks: int) -> None:
    """`lopt eval --config`, under mpirun if there are several ranks."""
    command = [*launcher(ranks), sys.executable, "-m", "lopt", "eval", "--config", str(config)]
    subprocess.run([*command, "--out", str(out)], check=True)


def not_reached(name: str, found: dict[str, Any], expected: dict[str, float]) -> list[str]:
    """Print what was reached beside what was asked; the lines of what was not."""
    missed = []
    for key, bound in expected.items():
        value, at_least = (
            REACHED[key](found),
            key in ("win_rate_against_adam", "speed_up_over_adam"),
        )
        met = value is not None and (value >= bound if at_least else value <= bound)
        line = f"{name}: {key} {value}, asked for at {'least' if at_least else 'most'} {bound}"
        print(line if met else f"{line}: NOT reached")
        if not met:
            missed.append(line)
    return missed


def trials(found: dict[str, Any], search: str) -> dict[str, Any]:
    """The duel with all trials of the search whose name begins so."""
    name = next(n for n in found["equal_trials"] if n.startswith(search))
    return list(found["equal_trials"][name].values())[-1]


REACHED = {
    "win_rate_against_adam": lambda f: f["default_against_default"]["adam"]["win_rate"],
    "speed_up_over_adam": lambda f: next(iter(f["speed_up"].values()))["median"],
    "log_ratio_to_cosine_adam": lambda f: trials(f, "cosine Adam")["log_ratio"]["median"],
    "log_ratio_to_ordered_list": lambda f: trials(f, "ordered list of 10")["log_ratio"]["median"],
    "diverged": lambda f: f["diverged"],
}

if __name__ == "__main__":
    sys.exit(main())
