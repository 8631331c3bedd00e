"""The picture of a bench: what every row costs, over what arithmetic alone would."""

from collections.abc import Sequence
from typing import Any

from lopt.bench.measure import Figure, number
from lopt.plots import FONT, new_figure

MARKS = {  # field of a row: label, marker, size, filled
    "floor": ("floor", "|", 11, True),
    "value": ("measured", "o", 7, True),
    "asked": ("asked", "^", 7, False),
    "peer_value": ("peer, recorded", "s", 6, False),
}


def draw(rows: Sequence[Figure]) -> Any:
    """Cost of every row of a bench over its floor, what was asked and a peer's beside it; floors are the left edge.

    Rows without a floor are drawn over what was asked of them.  Cost is time, or 1 / rate.
    """
    with_floor = [r for r in rows if r.value and r.floor]
    others = [r for r in rows if r.value and r.asked and not r.floor]
    heights = [max(1, len(part)) for part in (with_floor, others)]
    figure, axes = new_figure(9.2, 1.8 + 0.27 * sum(heights), 2, height_ratios=heights)
    parts = (
        (with_floor, "floor", "cost over its floor: operations / sgemm rate or bytes / copy rate"),
        (others, "asked", "cost over what was asked"),
    )
    for ax, (part, unit_of, text) in zip(axes[:, 0], parts, strict=True):
        _draw_costs(ax, part, unit_of)
        ax.set_xlabel(text, fontsize=FONT)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _draw_costs(ax: Any, rows: Sequence[Figure], unit_of: str) -> None:
    """One line a row: cost of each field of MARKS over that of the field `unit_of`."""
    for y, row in enumerate(rows):
        costs = {}
        for field in MARKS:
            if value := getattr(row, field):
                base = getattr(row, unit_of)
                costs[field] = value / base if row.at_most else base / value
        ax.plot(
            [min(costs.values()), max(costs.values())], [y, y], color="#cccccc", lw=0.8, zorder=1
        )
        for field, cost in costs.items():
            text, marker, size, filled = MARKS[field]
            ax.plot(
                cost, y, marker, ms=size, mec="black", mew=2.4 if field == "floor" else 1.2,
                mfc="black" if filled else "white", label=text,
            )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yticks(range(len(rows)), [f"{r.name}: {number(r.value)} {r.unit}" for r in rows])
    ax.tick_params(axis="y", labelsize=FONT - 2)
    ax.invert_yaxis()
    ax.grid(axis="x", color="#e4e4e4", lw=0.6)
