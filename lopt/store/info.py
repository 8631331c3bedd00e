"""A short text about any file of lopt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lopt.store import container
from lopt.store.checkpoint import read_checkpoint
from lopt.store.curves_file import read_curves
from lopt.store.eval_file import EvalReader
from lopt.store.run_file import RunReader
from lopt.store.search_file import SearchReader
from lopt.store.times_file import TimesReader
from lopt.store.weights import read_weights


def info(path: str | Path) -> str:
    """What a file holds, a few lines; reads and checks all of it.

    Raises:
        StoreError: missing, empty, foreign, of another schema, truncated or damaged.
    """
    path = Path(path)
    kind = container.kind_of(path)
    lines = [f"{path}: {kind} file, {path.stat().st_size:,} bytes, sound", *_DESCRIBE[kind](path)]
    return "\n".join(lines)


def _run(path: Path) -> list[str]:
    with RunReader(path) as run:
        lines = [f"state         {run.state}, {run.rows} complete rows"]
        lines += [f"tasks         {_few(run.tasks)}"]
        lines += [f"theta         {run.theta_layout.size} values in {len(run.theta_layout)} blocks"]
        if run.rows:
            loss, std = run["meta_loss"], run["meta_loss_std"]
            lines += [
                f"meta-loss     {loss[0]:.4f} +- {std[0]:.4f} at first, {loss[-1]:.4f} +- {std[-1]:.4f} at last",
                f"work          {run['inner_steps'][-1]:,} inner steps, {run['wall_s'][-1]:.1f} s, "
                f"{int(run['pairs_lost'].sum())} of {run.rows * run.n_pairs} pairs lost",
            ]
        for p in run.provenance:
            lines += [f"from row {p['first_row']:<5}{_origin(p)}"]
    return lines


def _checkpoint(path: Path) -> list[str]:
    arrays, meta, _ = read_checkpoint(path)
    listed = [f"  {n:<30} {a.dtype} {a.shape}" for n, a in sorted(arrays.items())]
    size = sum(a.nbytes for a in arrays.values())
    return [f"meta          {_few(meta)}", f"arrays        {len(arrays)}, {size:,} bytes", *listed]


def _weights(path: Path) -> list[str]:
    w = read_weights(path)
    lines = [
        f"optimizer     {w.architecture}",
        f"options       {', '.join(f'{k}={v}' for k, v in w.options.items()) or 'none'}",
        f"theta         {w.theta.size} values in {len(w.layout)} blocks, "
        f"RMS {np.sqrt(np.mean(w.theta.astype(np.float64) ** 2)) if w.theta.size else 0.0:.4g}",
    ]
    return lines + [f"{k:<13} {_short(v)}" for k, v in w.provenance.items()]


def _eval(path: Path) -> list[str]:
    e = EvalReader(path)
    lines = [f"{e.seeds} seeds, {e.steps[-1] if e.steps.size else 0} inner steps"]
    for row in e.rows:
        name = row.family if row.variant != "tuned" else f"{row.family} lr={row.rate:g}"
        bad = f", {row.n_bad} clipped or diverged" if row.n_bad else ""
        lines.append(
            f"  {row.task}: {name:<20} {row.variant:<8} {row.mean:.5g} +- {row.se:.2g}{bad}"
        )
    return lines


def _times(path: Path) -> list[str]:
    t = TimesReader(path)
    middle = (
        f"median {np.median(t.ms):.3g} ms a step, {100 * t.share_below(100):.1f} % below 100 ms"
    )
    return [f"{len(t.tasks)} tasks of {len(set(t.families))} families, {middle}"]


def _search(path: Path) -> list[str]:
    s = SearchReader(path)
    lines = [
        f"state         {s.state}, {s.rows} steps",
        f"strategy      {s.settings['strategy']} in {s.x.size} coordinates",
    ]
    if s.rows:
        best, mean = s["best"], s["mean"]
        lines += [
            f"loss          mean of a step {mean[0]:.6g} at first, {mean[-1]:.6g} at last, "
            f"lowest {best[-1]:.6g}",
            f"work          {s['evaluations'][-1]:,} evaluations, {int(s['lost'].sum())} lost, "
            f"{s['wall_s'][-1]:.1f} s",
        ]
    return lines + [f"from row {p['first_row']:<5}{_origin(p)}" for p in s.provenance]


def _curves(path: Path) -> list[str]:
    c = read_curves(path)
    status = c.runs["status"]
    lines = [
        f"runs          {status.size}, {c.settings['steps']} inner steps each, "
        f"{int((status == 1).sum())} clipped, {int((status == 2).sum())} diverged",
        f"tasks         {_few(c.tasks)}",
    ]
    for variant in ("learned", "default", "tuned"):
        for family in c.kinds(variant):
            lines.append(f"  {variant:<8} {family}, {len(c.members(family))} settings")
    return lines + [f"gone on with  {_origin(p)}" for p in c.provenance]


_DESCRIBE: dict[str, Callable[[Path], list[str]]] = {
    "run": _run,
    "checkpoint": _checkpoint,
    "weights": _weights,
    "eval": _eval,
    "times": _times,
    "search": _search,
    "curves": _curves,
}


def _origin(p: dict[str, Any]) -> str:
    commit = (
        f", commit {p['git_commit'][:10]}{' (dirty)' if p['git_dirty'] else ''}"
        if p["git_commit"]
        else ""
    )
    return f"{p['start_utc']}, {p['ranks']} ranks on {p['device']}, seed {p['seed']}, lopt {p['lopt']}{commit}"


def _few(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
