"""The table and the pictures of docs/evaluation.md, from what is kept in results/.

python experiments/08_evaluation/page.py
"""

import tomllib
from pathlib import Path
from typing import Any

from plot import families, loss_curves, train_and_held_out, wins
from run import REACHED

from lopt.bench.page import filled
from lopt.judgement import judge
from lopt.store import read_curves

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
SHIPPED = "compass"
TEXTS = {
    "win_rate_against_adam": "share of tasks won against default Adam",
    "speed_up_over_adam": "median speed-up over the envelope of Adam with 15 rates",
    "log_ratio_to_cosine_adam": "median log ratio to cosine Adam, best of 15 rates for each task",
    "log_ratio_to_ordered_list": "median log ratio to the ordered list, best of 10 settings",
    "diverged": "share of runs that diverged",
}


def main() -> None:
    """Write the page's table and its pictures."""
    expected = tomllib.loads((HERE / "expected.toml").read_text())
    curves = {name: read_curves(HERE / "results" / f"{name}.h5") for name in expected}
    first = curves["config"]
    page = DOCS / "evaluation.md"
    page.write_text(filled(page.read_text(), {"reached": table(curves, expected)}))
    loss_curves(first).savefig(DOCS / "evaluation_curves.png")
    train_and_held_out(first).savefig(DOCS / "overfitting.png")
    wins(first, SHIPPED).savefig(DOCS / f"wins_{SHIPPED}.png")
    families(first, SHIPPED).savefig(DOCS / f"families_{SHIPPED}.png")


def table(curves: dict[str, Any], expected: dict[str, dict[str, float]]) -> str:
    """What was asked, and what every learned entrant reached, Markdown."""
    learned = curves["config"].kinds("learned")
    lines = [f"| | asked | {' | '.join(learned)} |", "|---|---|" + "---|" * len(learned)]
    for name, bounds in expected.items():
        own = curves[name]
        found = {f: judge(own, f) for f in learned if f in own.kinds("learned")}
        steps = int(own.steps[-1])
        for key, bound in bounds.items():
            cells = [f"{REACHED[key](found[f]):.3g}" if f in found else "" for f in learned]
            lines.append(f"| {TEXTS[key]}, {steps} steps | {bound:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
