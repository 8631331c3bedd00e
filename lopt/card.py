"""Model cards: what a weights file was trained on, what it cost, what comparisons said of it, where it loses.

`lopt card` writes the figures of a curves file into the weights file; the text is made of the weights file alone.
"""

import dataclasses
import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from lopt import store
from lopt.errors import UsageError
from lopt.judgement import judge
from lopt.scores_text import LEGEND, number, percent, scores_section, scores_summary
from lopt.tasks import TASKS, parse_task_spec
from lopt.tasks.fixed import FIXED

SCORES = "scores"  # key of the provenance: an entry for each comparison and entrant, by the names of both
FORMAT = 2  # of such an entry: what `judge` says changes with it


def write_scores(weights: str | Path, curves: Path) -> str:
    """Put what a curves file says of the weights into them, beside what files of other names said; returns the card.

    What a file of the same name said before is replaced.

    Raises:
        UsageError: a shipped name, which is a file of the installed package; no runs of exactly these weights in the
            curves.  StoreError: unreadable, or cannot be written.
    """
    loaded = store.load_weights(weights)
    if not Path(weights).is_file():
        raise UsageError(
            f"{str(weights)!r} is shipped with lopt and would change for all its users: give a copy of {loaded.path}, "
            "or that path itself to ship other scores"
        )
    found = store.read_curves(curves)
    settings = {e.family: json.loads(e.spec) for e in reversed(found.entrants)}
    mine = {f: x for f, x in settings.items() if x.pop("digest", None) == loaded.digest}
    if not mine:
        learned = ", ".join(found.kinds("learned")) or "none"
        raise UsageError(
            f"{curves} has no runs of these weights {loaded.digest} (learned: {learned})"
        )
    origin = {k: found.provenance[-1][k] for k in ("lopt", "git_commit")}
    known = loaded.provenance.get(SCORES, {})
    kept = {k: s for k, s in known.items() if not k.startswith(f"{curves.stem}, ")}
    scores = {
        f"{curves.stem}, {family}": {
            "format": FORMAT, "comparison": curves.stem, "told": _told(loaded.options, mine[family]),
            **judge(found, family), **origin,
        } for family in found.kinds("learned") if family in mine
    }  # fmt: skip
    provenance = {**loaded.provenance, SCORES: {**kept, **scores}}
    store.save_weights(loaded.path, loaded.optimizer(), loaded.theta, provenance)
    return card(loaded.path)


def _told(options: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
    """Options of an entrant that are not those of its weights file: what a user would have to say."""
    return {k: v for k, v in setting.items() if k != "name" and options.get(k, v) != v}


def overview(curves: Path) -> str:
    """A line for every learned optimizer of a curves file, best first: for picking checkpoints.

    The order is the median log ratio to the best trial, chosen per task, of the file's first search; without a search,
    to its first default.

    Raises:
        UsageError: no learned optimizer in the file, or nothing to compare it with.  StoreError: unreadable.
    """
    found = store.read_curves(curves)
    searches, defaults = found.kinds("tuned"), found.kinds("default")
    if not found.kinds("learned") or not (searches or defaults):
        raise UsageError(f"{curves} lacks a learned optimizer, or one to compare it with")
    rival = (searches or defaults)[0]
    rows = []
    for name in found.kinds("learned"):
        s = judge(found, name)
        duels = s["equal_trials"] if searches else s["default_against_default"]
        d = list(duels[rival].values())[-1] if searches else duels[rival]
        speed = number(s["speed_up"][rival]["median"]) if searches else "-"
        middle = d["log_ratio"]["median"]
        cells = [name, number(middle), percent(d["win_rate"]), speed, percent(s["diverged"])]
        rows.append((float("inf") if middle is None else middle, " | ".join(cells)))
    lines = [
        f"{len(found.tasks)} tasks, {found.settings['steps']} steps, against {rival}",
        "",
        "| learned | median log ratio | wins | median speed-up | diverged |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {text} |" for _, text in sorted(rows))])


def card(weights: str | Path) -> str:
    """The model card of a weights file or shipped name, Markdown.

    Raises:
        StoreError: no such file and no such name, or unreadable.
    """
    w = store.load_weights(weights)
    options = ", ".join(f"{k}={v}" for k, v in w.options.items()) or "none"
    lines = [
        f"# {w.path.stem}",
        "",
        f"`{w.architecture}`, {w.theta.size} meta-parameters, {w.path.stat().st_size:,} bytes; options: {options}",
        "",
        *_training(w.provenance),
    ]
    entries = w.provenance.get(SCORES, {})
    known = [s for s in entries.values() if s.get("format") == FORMAT]
    if known:
        lines += ["", "## Evaluation", "", *scores_summary(known), "", *LEGEND]
        for scores in known:
            lines += ["", *scores_section(scores)]
    if len(known) < len(entries):
        lines += ["", "Scores of another version of lopt are not shown: write them again."]
    if not entries:
        lines += ["", "Not evaluated: `lopt card --weights W.h5 --eval F.h5` writes scores in."]
    return "\n".join(lines)


def _training(origin: dict[str, Any]) -> list[str]:
    names = [parse_task_spec(name)[:2] for name in origin.get("tasks", [])]
    families = Counter(re.sub(r"_seed\d+$", "", name) for name, _ in names)
    data = Counter(filter(None, (_data(*spec) for spec in names)))
    lines = ["## Meta-training", "", f"- tasks: {_counted(families) or 'not recorded'}"]
    if data:
        lines.append(f"- data sets of the tasks: {_counted(data)}")
    if "config" in origin:
        lines.append(f"- estimator: {_estimator(tomllib.loads(origin['config']))}")
    if "inner_steps" in origin:
        seconds = 3600 * origin["core_hours"]
        lines.append(
            f"- cost: {seconds:,.0f} core-seconds, {origin['inner_steps']:,} inner steps, "
            f"{origin['outer_steps']:,} outer steps"
        )
    if "lopt" in origin:
        commit = (origin.get("git_commit") or "unknown")[:10]
        lines.append(f"- made by lopt {origin['lopt']}, commit {commit}, seed {origin['seed']}")
    return lines


def _counted(counts: Counter) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.most_common())


def _data(name: str, options: dict[str, Any]) -> str:
    """The data set that a task is made of; nothing if it is made of random numbers alone."""
    if name in FIXED:
        options = {k: v for k, v in FIXED[name].items() if k != "family"}
        name = FIXED[name]["family"]
    if name not in TASKS:
        return "drawn by a sampler"
    for field in dataclasses.fields(TASKS[name]):
        if field.name in ("data", "text"):
            return str(options.get(field.name, field.default))
    return ""


def _estimator(config: dict[str, Any]) -> str:
    """What meta-gradients were estimated by, and over how many inner steps."""
    es = config["es"]
    low, high = es["horizon"]
    steps = f"horizon {low}" if low == high else f"horizons {low} to {high}"
    return (
        f"{es['estimator']}, {es['pairs']} pairs, sigma {es['sigma']:g}; "
        f"{steps} inner steps in truncations of {es['truncation']}; meta-loss: {config['inner']['objective']}"
    )
