"""The picture of `run.py`'s file: what stops an outer step from scaling, and whether the model can be believed.

python experiments/04_scaling/plot.py runs/scaling
"""

import json
from pathlib import Path

import h5py
import numpy as np
from matplotlib.axes import Axes

from lopt.experiment import path_argument, toml
from lopt.plots import FONT, STYLES, new_figure

CONFIG = toml(Path(__file__).parent / "config.toml")
PAIRS_PER_RANK = CONFIG["cluster"]["pairs_per_rank"]


def main() -> None:
    """Six panels, one file."""
    folder = path_argument(__doc__, "folder")
    figure, axes = new_figure(12.5, 7.4, 2, 3)
    with h5py.File(folder / "scaling.h5") as file:
        for draw, ax in zip(
            (check, weak, strong, phases, hand_outs, failures), axes.flat, strict=True
        ):
            draw(ax, file)
            ax.title.set_fontsize(FONT + 1)
            ax.grid(color="#e6e6e6", lw=0.5)
            ax.set_axisbelow(True)
    figure.savefig(folder / "scaling.png")


def legend(ax: Axes, **where) -> None:
    """Of small print."""
    ax.legend(frameon=False, fontsize=FONT - 2, **where)


def check(ax: Axes, file: h5py.File) -> None:
    """Measured outer steps over predicted ones."""
    ranks = file["check/ranks"][()]
    marks = ("o", "s", "^", "D")
    names = {"rollouts": "rollouts", "mix": "rollouts, costs 1000x apart", "noise": "noise alone",
             "book": "book-keeping alone"}  # fmt: skip
    for k, ((name, text), (colour, _), mark) in enumerate(
        zip(names.items(), STYLES, marks, strict=False)
    ):
        ratio = file[f"check/{name}/measured"][()] / file[f"check/{name}/predicted"][()]
        x = np.arange(ranks.size) + 0.12 * (k - 1.5)
        ax.errorbar(x, np.median(ratio, axis=0), color=colour, marker=mark, ms=5, ls="none", label=text,
                    yerr=np.abs(np.stack([ratio.min(axis=0), ratio.max(axis=0)]) - np.median(ratio, axis=0)),
                    elinewidth=1.0, capsize=2)  # fmt: skip
    cores = int(file["check"].attrs["cores"])
    labels = [f"{r}" + (f"\n(on {cores} cores)" if r > cores else "") for r in ranks]
    ax.axhline(1, color="black", lw=0.8)
    ax.set(xlabel="ranks", ylabel="measured / predicted seconds", ylim=(0.5, 1.7))
    ax.set_xticks(np.arange(ranks.size), labels)
    ax.set_title("Real outer steps against the model")
    legend(ax, loc="upper left")


def weak(ax: Axes, file: h5py.File) -> None:
    """As many more pairs as ranks."""
    for m, row, (colour, dash) in zip(file["node_sizes"], file["weak"], STYLES, strict=False):
        ax.semilogx(
            file["ranks"][()], 100 * row, color=colour, ls=dash, lw=1.5, label=f"nodes of {m}"
        )
    ax.set(xlabel="ranks", ylabel="efficiency, %", ylim=(0, 104))
    ax.set_title(f"{PAIRS_PER_RANK} pairs for every rank")
    legend(ax, loc="lower left")


def strong(ax: Axes, file: h5py.File) -> None:
    """The same pairs on more ranks, and the published point, which is relative to 18 cores."""
    cores, minutes = CONFIG["published"].values()
    ranks, efficiency = file["ranks"][()], file["strong"][()]
    few, many = file["as_published"][()]
    pairs = CONFIG["cluster"]["pairs"]
    shown = ranks <= 2 * pairs
    (colour, dash), (other, _) = STYLES[0], STYLES[3]
    ax.semilogx(ranks[shown], 100 * efficiency[shown] / few, color=colour, ls=dash, lw=1.5,
                label=f"model, {pairs} pairs, nodes of 64")  # fmt: skip
    ax.plot(cores[1], 100 * many / few, "o", color=colour, ms=6, label=f"model, {cores[1]} ranks")
    published = minutes[0] / minutes[1] / (cores[1] / cores[0])
    ax.plot(cores, [100, 100 * published], "*", color=other, ms=11, mec="black", mew=0.5,
            label="Salimans et al. 2017, 3-D humanoid")  # fmt: skip
    ax.set(xlabel="ranks", ylabel="efficiency, % of that on 18", ylim=(0, 112))
    ax.set_title("The same update on more ranks")
    legend(ax, loc="lower left")


def phases(ax: Axes, file: h5py.File) -> None:
    """Where the time of a step goes."""
    names = json.loads(file["phases"].attrs["names"])
    texts = {"rollout": "rollouts", "waiting": "waiting for the slowest", "book": "book-keeping",
             "exchange": "exchange of losses", "rebuild": "rebuilding", "theta": "outer optimizer"}  # fmt: skip
    ranks, seconds = file["ranks"][()], file["phases"][()]
    for name, row, (colour, dash) in zip(names, seconds.T, STYLES, strict=False):
        ax.loglog(
            ranks, np.where(row > 0, row, np.nan), color=colour, ls=dash, lw=1.4, label=texts[name]
        )
    ax.set(xlabel="ranks", ylabel="seconds of an outer step", ylim=(1e-6, None))
    ax.set_title(f"{PAIRS_PER_RANK} pairs for every rank, nodes of 64")
    legend(ax, loc="lower right", ncols=2)


def hand_outs(ax: Axes, file: h5py.File) -> None:
    """Makespan over the ideal one, and what two real ranks reached."""
    names = json.loads(file["hand_outs"].attrs["names"])
    wrong = np.exp(file["hand_outs"].attrs["surprise"])
    texts = {"dynamic": "handed out, dearest first", "owners": "owners by predicted cost",
             "in turn": "in turn"}  # fmt: skip
    for name, row, (colour, dash) in zip(names, file["hand_outs"], STYLES, strict=False):
        ax.loglog(file["spreads"][()], row, color=colour, ls=dash, lw=1.5, label=texts[name])
    for name, mark in (("dynamic", "o"), ("in turn", "s")):
        part = file[f"check/hand_out/{name}"]
        ratio = np.median([np.median(part[k]) for k in part])
        colour = STYLES[names.index(name)][0]
        ax.plot(part.attrs["spread"], ratio, mark, color=colour, ms=6, mec="white",
                label=f"measured on 2 ranks, {texts[name].split(',')[0]}")  # fmt: skip
    cores = CONFIG["published"]["cores"][1]
    ax.axhline(1.1, color="#808080", lw=0.8)
    ax.set(xlabel="dearest over cheapest pair", ylabel="time over the least possible")
    ax.set_title(
        f"{CONFIG['cluster']['pairs']} pairs on {cores} ranks; predictions off by {wrong:.1f}x"
    )
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.tick_params(which="minor", labelsize=FONT - 2)
    legend(ax, loc="upper left")


def failures(ax: Axes, file: h5py.File) -> None:
    """Share of the time that is work."""
    group = file["failures"]
    series = (("best", "best interval between checkpoints"), ("fixed", "one an hour"))
    for (name, text), (colour, dash) in zip(series, STYLES, strict=False):
        ax.semilogx(
            file["ranks"][()], 100 * group[name][()], color=colour, ls=dash, lw=1.5, label=text
        )
    years = CONFIG["cluster"]["node_mtbf"] / (365 * 86400)
    ax.set(xlabel="ranks", ylabel="time that is work, %", ylim=(0, 104))
    ax.set_title(
        f"Nodes of 64 that live {years:.0f} years; {group.attrs['bytes_per_pair'] / 1e3:.0f} kB a pair"
    )
    legend(ax, loc="lower left")


if __name__ == "__main__":
    main()
