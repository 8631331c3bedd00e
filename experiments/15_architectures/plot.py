"""The picture of `run.py`'s runs: meta-loss over outer steps, a panel for each optimizer, a line for each variant."""

from pathlib import Path

import numpy as np

from lopt.plots import FONT, STYLES, band, new_figure, smooth


def draw(losses: dict[tuple[str, str], np.ndarray], smoothing: int, path: Path) -> None:
    """Mean and range over seeds of moving means; losses (seed, outer step) by panel and variant."""
    half = smoothing // 2  # at the ends a mean would be of fewer
    panels = list(dict.fromkeys(panel for panel, _ in losses))
    figure, axes = new_figure(4.8 * len(panels), 4.0, 1, len(panels))
    for ax, panel in zip(axes[0], panels, strict=True):
        own = {variant: x for (p, variant), x in losses.items() if p == panel}
        for (variant, values), style in zip(own.items(), STYLES, strict=False):
            curves = np.array([smooth(x, smoothing)[half : x.size - half] for x in values])
            steps = np.arange(half + 1, half + 1 + curves.shape[1])
            band(ax, steps, curves, style, 1.5, variant, middle=np.mean)
        ax.set(xlabel="outer step", ylabel="meta-loss (1 = untrained task, 0 = lowest loss)")
        ax.set_title(panel, fontsize=FONT + 1)
        ax.legend(frameon=False, fontsize=FONT)
        ax.margins(x=0.01)
    figure.suptitle(f"Equal inner steps; moving mean of {smoothing}, mean and range of seeds", fontsize=FONT)  # fmt: skip
    figure.savefig(path)
