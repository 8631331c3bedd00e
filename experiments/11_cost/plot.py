"""Picture, table and verdict of `run.py`'s file: time of a step by size, per parameter, and memory.

python experiments/11_cost/plot.py                what is committed, into docs/
python experiments/11_cost/plot.py runs/cost
"""

import sys
from pathlib import Path

import h5py
import numpy as np

from lopt.experiment import results_and_picture, toml, verdict
from lopt.plots import FONT, STYLES, new_figure

HERE = Path(__file__).parent
PICTURE = "cost.png"


def main() -> int:
    """Draw and judge what a folder holds."""
    folder, picture = results_and_picture(__doc__, HERE, "results", PICTURE)
    draw(folder, picture)
    return report(folder)


def draw(folder: Path, picture: Path) -> None:
    """Three panels, the dearest optimizers last."""
    with h5py.File(folder / "cost.h5") as file:
        names, learned = np.array(file.attrs["entrants"]), np.array(file.attrs["learned"])
        n, seconds = file["parameters"][()], file["seconds"][()]
        state, scratch = (
            file["state_bytes"][()][:, -1] / n[-1],
            file["scratch_bytes"][()][:, -1] / n[-1],
        )
    each = 1e9 * seconds / n
    order = np.argsort(each[:, -1])
    figure, axes = new_figure(13, 1.6 + 0.24 * len(names), 1, 3)
    sizes, times, memory = axes[0]
    styles = iter(STYLES[1:] * 9)
    for k in order:
        if learned[k]:
            colour, dash = next(styles)
            sizes.loglog(n, each[k], color=colour, ls=dash, lw=1.8, label=names[k])
        else:
            first = not any(line.get_label() == "hand-made" for line in sizes.lines)
            label = "hand-made" if first else None
            sizes.loglog(n, each[k], color="#909090", lw=0.7, label=label)
    sizes.set(xlabel="parameters", ylabel="ns per parameter and step")
    sizes.legend(frameon=False, fontsize=FONT - 1)
    shades = ["#ca5a00" if learned[k] else "#9ec4dd" for k in order]
    last = each[order, -1]  # points: a bar on a logarithmic axis begins nowhere
    times.scatter(last, names[order], c=shades, edgecolor="black", lw=0.5, s=36, zorder=3)
    for x, name in zip(last, names[order], strict=True):
        text = np.format_float_positional(x, precision=2, fractional=False, trim="-")
        times.annotate(
            text, (x, name), (7, 0), textcoords="offset points", va="center", fontsize=FONT - 1
        )
    times.set(xscale="log", xlabel=f"ns per parameter, {n[-1]:,} of them")
    times.set_xlim(last.min() / 2, last.max() * 6)
    times.grid(axis="y", color="#e6e6e6", lw=0.6)
    times.set_axisbelow(True)
    memory.barh(names[order], state[order], color=shades, edgecolor="black", lw=0.5, label="state")
    bars = memory.barh(names[order], scratch[order], left=state[order], color="white", edgecolor="black",
                       lw=0.5, hatch="///", label="scratch, shared by all")  # fmt: skip
    texts = [f"{a:.3g} + {b:.2g}" for a, b in zip(state[order], scratch[order], strict=True)]
    memory.bar_label(bars, texts, fontsize=FONT - 1, padding=3)
    memory.set(xlabel="bytes per parameter: state + scratch (hatched)")
    memory.set_xlim(0, 1.25 * (state + scratch).max())
    for ax in (times, memory):
        ax.invert_yaxis()
        ax.tick_params(labelsize=FONT - 1)
    figure.suptitle(
        "An update alone, on one core: hand-made (blue) and learned (orange)", fontsize=FONT + 1
    )
    figure.savefig(picture)


def report(folder: Path) -> int:
    """A line per optimizer, and the verdict on bytes of state."""
    with h5py.File(folder / "cost.h5") as file:
        names, n = list(file.attrs["entrants"]), file["parameters"][()]
        seconds, state, scratch = (file[k][()] for k in ("seconds", "state_bytes", "scratch_bytes"))
    stored = dict(zip(names, state[:, -1] / n[-1], strict=True))
    print(
        f"| optimizer | us a call with {n[0]} | ns per parameter of {n[-1]} | state, bytes each | scratch, bytes each |"
    )
    print("|---|---|---|---|---|")
    for k, name in enumerate(names):
        us, ns = 1e6 * seconds[k, 0], 1e9 * seconds[k, -1] / n[-1]
        print(
            f"| {name} | {us:.1f} | {ns:.2f} | {stored[name]:.2f} | {scratch[k, -1] / n[-1]:.2f} |"
        )
    expected = toml(HERE / "expected.toml")
    missed = [
        f"{name}: {stored[name]:.2f} bytes of state per parameter, not {known}"
        for name, known in expected["state_bytes"].items()
        if not abs(stored[name] - known) <= 0.01 * max(known, 1)
    ]
    missed += [
        f"{name}: {stored[name]:.2f} bytes of state per parameter, not {times} times those of Adam"
        for name, times in expected["at_least_adam"].items()
        if stored[name] < times * stored["adam"]
    ]
    return verdict(missed)


if __name__ == "__main__":
    sys.exit(main())
