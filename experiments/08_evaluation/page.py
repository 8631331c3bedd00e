"""The tables and the pictures of docs/evaluation.md, from what is kept in results/.

python experiments/08_evaluation/page.py
"""

from pathlib import Path

import numpy as np
from plot import families, loss_curves, train_and_held_out, wins
from run import REACHED

from lopt.bench.page import filled
from lopt.experiment import toml
from lopt.judgement import duel, judge, speed_ups, task_results
from lopt.scores import win_rate
from lopt.scores_text import duel_text
from lopt.store import Curves, read_curves

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
SHIPPED = "compass"
UNLEARNED = "orthogonal share by hand"
TEXTS = {
    "win_rate_against_adam": "tasks won against default Adam",
    "speed_up_over_adam": "median speed-up over the envelope of Adam with 15 rates",
    "log_ratio_to_cosine_adam": "median log ratio to cosine Adam, best of 15 rates for each task",
    "log_ratio_to_ordered_list": "median log ratio to the ordered list, best of 10 settings",
    "diverged": "runs that diverged",
}
SHARES = ("win_rate_against_adam", "diverged")


def main() -> None:
    """Write the page's tables and its pictures."""
    expected = toml(HERE / "expected.toml")
    curves = {path.stem: read_curves(path) for path in (HERE / "results").glob("*.h5")}
    first, real = curves["config"], curves["real"]
    tables = {
        "reached": reached({name: curves[name] for name in expected}, expected),
        "trials": trials(first, [f for f in first.kinds("learned") if f.startswith(SHIPPED)]),
        "real": reached({"real": real}, {"real": expected["config"]}),
        "together": together([first, real]),
        "learned": unlearned(first),
    }
    page = DOCS / "evaluation.md"
    page.write_text(filled(page.read_text(), tables))
    drawn = [SHIPPED, f"{SHIPPED}, end known"]
    loss_curves(first, drawn).savefig(DOCS / "evaluation_curves.png")
    train_and_held_out(first, drawn).savefig(DOCS / "overfitting.png")
    wins(first, SHIPPED).savefig(DOCS / f"wins_{SHIPPED}.png")
    families(first, SHIPPED).savefig(DOCS / f"families_{SHIPPED}.png")
    families(real, SHIPPED).savefig(DOCS / f"families_{SHIPPED}_real.png")


def reached(curves: dict[str, Curves], expected: dict[str, dict[str, float]]) -> str:
    """What was asked, and what every learned entrant reached, Markdown."""
    learned = list(dict.fromkeys(f for c in curves.values() for f in c.kinds("learned")))
    lines = [f"| | asked | {' | '.join(learned)} |", "|---|---|" + "---|" * len(learned)]
    for name, bounds in expected.items():
        own = curves[name]
        found = {f: judge(own, f) for f in learned if f in own.kinds("learned")}
        for key, bound in bounds.items():
            cells = [figure(key, REACHED[key](found[f])) if f in found else "" for f in learned]
            row = f"{TEXTS[key]}, {int(own.steps[-1])} steps"
            lines.append(f"| {row} | {figure(key, bound)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(key: str, value: float) -> str:
    """A share in per cent, a ratio with three digits after the point, a speed-up with two."""
    if key in SHARES:
        return f"{100 * value:.0f} %"
    return f"{value:.2f}" if key == "speed_up_over_adam" else f"{value:+.3f}"


def trials(curves: Curves, learned: list[str]) -> str:
    """Every search at 1, 10, ... trials against every given learned entrant: wins, median, interval; Markdown."""
    found = {f: judge(curves, f)["equal_trials"] for f in learned}
    lines = [f"| against | trials | {' | '.join(learned)} |", "|---|---|" + "---|" * len(learned)]
    for search, by in found[learned[0]].items():
        for k in by:
            cells = " | ".join(duel_text(found[f][search][k]) for f in learned)
            lines.append(f"| {search} | {k} | {cells} |")
    return "\n".join(lines)


def together(files: list[Curves]) -> str:
    """The shipped optimizer over the tasks of several files, a sentence."""
    wins, medians, n = [], [], 0
    for rival, k in (("adam", 1), ("cosine Adam, 15 rates", 15), ("ordered list of 10", 10)):
        found = [r for c in files for r in task_results(c, SHIPPED, rival, k)]
        wins.append(win_rate([r.loss for r in found], [r.rival_loss for r in found]))
        medians.append(np.nanmedian([r.log_ratio for r in found]))
        n = len(found)
    speeds = [s.value for c in files for s in speed_ups(c, SHIPPED, "Adam, 15 rates").values()]
    return (
        f"Over all {n} tasks, told nothing, it wins {100 * wins[0]:.0f} % against default Adam, with a median speed-up "
        f"of {np.median(speeds):.2f}; median log ratios {medians[1]:+.3f} to tuned cosine Adam, {medians[2]:+.3f} to the "
        "ordered list of 10."
    )


def unlearned(curves: Curves) -> str:
    """The parts of the shipped optimizer with nothing learned: against the same rivals, and against it; Markdown."""
    lines = ["| | wins against default Adam | against cosine Adam, 15 rates | speed-up |"]
    lines.append("|---|---|---|---|")
    for name in ("anchored, theta = 0", UNLEARNED, SHIPPED):
        adam, cosine = (
            duel(curves, name, "adam", 1),
            duel(curves, name, "cosine Adam, 15 rates", 15),
        )
        speed = judge(curves, name)["speed_up"] if name in curves.kinds("learned") else {}
        median = f"{next(iter(speed.values()))['median']:.2f}" if speed else "-"
        lines.append(
            f"| {name} | {100 * adam['win_rate']:.0f} % | {duel_text(cosine)} | {median} |"
        )
    against = duel_text(duel(curves, SHIPPED, UNLEARNED, 1))
    return "\n".join([*lines, "", f"{SHIPPED} against the one above it: {against}."])


if __name__ == "__main__":
    main()
