"""The tables of LOG.md, from what is kept: runs.h5 (costs) and curves/ (losses on the validation tasks).

python experiments/07_meta_training/table.py
"""

from pathlib import Path

import h5py
import numpy as np

from lopt.bench.page import filled
from lopt.judgement import duel
from lopt.scores_text import duel_text
from lopt.store import Curves, read_curves

HERE = Path(__file__).parent
RIVALS = ("Adam, 7 rates", "cosine Adam, 7 rates")


def main() -> None:
    """Write the tables."""
    names = ("judged", "judged_long", "ablations")
    tables = {name: losses(read_curves(HERE / "curves" / f"{name}.h5")) for name in names}
    page = HERE / "LOG.md"
    page.write_text(filled(page.read_text(), {"costs": costs(), **tables}))


def costs() -> str:
    """What every kept run took, Markdown."""
    lines = ["| run | outer steps | inner steps | seconds on one rank | pairs lost |"]
    lines.append("|---|---|---|---|---|")
    total = np.zeros(2)
    with h5py.File(HERE / "runs.h5") as file:
        for name, run in file.items():
            spent = run.attrs["inner_steps"], run.attrs["core_seconds"]
            steps, lost = 100 * run["meta_loss"].size, 100 * run["pairs_lost"][()].sum()
            lines.append(f"| {name} | {steps:,} | {spent[0]:.2g} | {spent[1]:,.0f} | {lost:.0f} |")
            total += spent
    return "\n".join([*lines, f"| together | | {total[0]:.2g} | {total[1]:,.0f} | |"])


def losses(curves: Curves) -> str:
    """Every entrant against tuned Adam and tuned cosine Adam, Markdown."""
    lines = [f"| {curves.settings['steps']} steps | against {' | against '.join(RIVALS)} |"]
    lines.append("|---|---|---|")
    families = dict.fromkeys(e.family for e in curves.entrants)
    for family in (f for f in families if f not in RIVALS):
        cells = [duel_text(duel(curves, family, rival, 7)) for rival in RIVALS]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
