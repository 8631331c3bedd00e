"""Model cards: what a weights file was trained on, what it cost, what a comparison said of it, where it loses.

`lopt card` writes the figures of a curves file into the weights file; the text is made of the weights file alone.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from lopt import store
from lopt.errors import UsageError
from lopt.judgement import judge
from lopt.tasks import parse_task_spec

SCORES = "scores"  # key of the provenance: an entry for each comparison and entrant, by the names of both


def write_scores(weights: str | Path, curves: Path) -> str:
    """Put what a curves file says of the weights into them, beside what files of other names said; returns the card.

    Raises:
        UsageError: no runs of exactly these weights in the file.  StoreError: unreadable, or cannot be written.
    """
    loaded = store.load_weights(weights)
    found = store.read_curves(curves)
    settings = {e.family: json.loads(e.spec) for e in reversed(found.entrants)}
    mine = {f: x for f, x in settings.items() if x.pop("digest", None) == loaded.digest}
    if not mine:
        learned = ", ".join(found.kinds("learned")) or "none"
        raise UsageError(
            f"{curves} has no runs of these weights {loaded.digest} (learned: {learned})"
        )
    origin = {k: found.provenance[-1][k] for k in ("lopt", "git_commit")}
    scores = {
        f"{curves.stem}, {family}": {
            **judge(found, family), **origin, "told": _told(loaded.options, mine[family])
        } for family in found.kinds("learned") if family in mine
    }  # fmt: skip
    provenance = {**loaded.provenance, SCORES: {**loaded.provenance.get(SCORES, {}), **scores}}
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
        speed = _number(s["speed_up"][rival]["median"]) if searches else "-"
        middle = d["log_ratio"]["median"]
        cells = [name, _number(middle), _percent(d["win_rate"]), speed, _percent(s["diverged"])]
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
    origin = w.provenance
    options = ", ".join(f"{k}={v}" for k, v in w.options.items()) or "none"
    lines = [
        f"# {w.path.stem}",
        "",
        f"`{w.architecture}`, {w.theta.size} meta-parameters, {w.path.stat().st_size:,} bytes; options: {options}",
        "",
        *_training(origin),
    ]
    for scores in origin.get(SCORES, {}).values():
        lines += ["", scores_text(scores)]
    if SCORES not in origin:
        lines += ["", "Not evaluated: `lopt card --weights W --eval F.h5` writes scores in."]
    return "\n".join(lines)


def _training(origin: dict[str, Any]) -> list[str]:
    families = Counter(_family(name) for name in origin.get("tasks", []))
    named = ", ".join(f"{n} {family}" for family, n in families.most_common()) or "not recorded"
    lines = ["## Meta-training", "", f"- tasks: {named}"]
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


def _family(name: str) -> str:
    return re.sub(r"_seed\d+$", "", parse_task_spec(name)[0])


def scores_text(s: dict[str, Any]) -> str:
    """What `judge` found, Markdown."""
    lines = [
        f"## Evaluation on {s['tasks']} tasks, {s['steps']} steps, {s['seeds']} seeds",
        *_setting(s.get("told", {})),
        "",
        "Log ratios are of the excess test loss over the rival's: below 0 the learned optimizer is better. "
        "IQM: interquartile mean over tasks, with its 95 % bootstrap interval.",
        "",
        f"- runs that diverged: {_percent(s['diverged'])}; clipped at the ceiling: {_percent(s['clipped'])}",
        "",
        "### Default against default (nobody is tuned)",
        "",
        *_duel_table(list(s["default_against_default"].items())),
    ]
    if s["equal_trials"]:
        trials = [
            (f"{family}, {k} trial{'s' * (k != '1')}", d)
            for family, by in s["equal_trials"].items()
            for k, d in by.items()
        ]
        lines += ["", "### Equal numbers of trials", "", *_duel_table(trials), "", *_speeds(s)]
    return "\n".join([*lines, *_families(s), *_losses(s)])


def _setting(told: dict[str, Any]) -> list[str]:
    if not told:
        return []
    listed = ", ".join(f"`{k} = {v}`" for k, v in told.items())
    return ["", f"The optimizer is told {listed}; nothing else is set, nothing is tuned."]


def _speeds(s: dict[str, Any]) -> list[str]:
    lines = [
        "### Speed-up over the envelope of a search (a lower bound where saturated)",
        "",
        "| search | median | quartiles | IQM | saturated |",
        "|---|---|---|---|---|",
    ]
    for family, d in s["speed_up"].items():
        quartiles = f"{_number(d['q25'])} to {_number(d['q75'])}"
        interval = f"{_number(d['iqm'])} ({_number(d['low'])} to {_number(d['high'])})"
        lines.append(
            f"| {family} | {_number(d['median'])} | {quartiles} | {interval} | {_percent(d['saturated'])} |"
        )
    return lines


def _duel_table(rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    lines = ["| against | wins | median log ratio | IQM |", "|---|---|---|---|"]
    for name, d in rows:
        r = d["log_ratio"]
        interval = f"{_number(r['iqm'])} ({_number(r['low'])} to {_number(r['high'])})"
        lines.append(
            f"| {name} | {_percent(d['win_rate'])} | {_number(r['median'])} | {interval} |"
        )
    return lines


def _families(s: dict[str, Any]) -> list[str]:
    """A row for each family of tasks: wins against every default, speed-up over every search."""
    duels, speeds = s["default_against_default"], s["speed_up"]
    heads = [f"wins against {f}" for f in duels] + [f"speed-up over {f}" for f in speeds]
    lines = ["", "### By family of tasks", "", "| family | tasks | " + " | ".join(heads) + " |"]
    lines.append("|" + "---|" * (2 + len(heads)))
    parts = [d["by_family"] for d in (*duels.values(), *speeds.values())]
    for family in dict.fromkeys(f for part in parts for f in part):
        tasks = max(part[family]["tasks"] for part in parts if family in part)
        cells = [_percent(d["by_family"][family]["win_rate"]) for d in duels.values()]
        cells += [_number(d["by_family"].get(family, {}).get("median")) for d in speeds.values()]
        lines.append(f"| {family} | {tasks} | " + " | ".join(cells) + " |")
    return lines


def _losses(s: dict[str, Any]) -> list[str]:
    """Families and tasks on which a default is better in the median."""
    lines = ["", "### Where it loses", ""]
    for rival, d in s["default_against_default"].items():
        lost = [
            f
            for f, x in d["by_family"].items()
            if x["log_ratio"] is not None and x["log_ratio"] > 0
        ]
        worst = ", ".join(f"`{task}` ({r:+.2f})" for task, r in d["loses_most"].items())
        families = ", ".join(lost) or "no family in the median"
        lines.append(
            f"- to {rival} at its default: {families}" + (f"; most on {worst}" if worst else "")
        )
    for rival, by in s["equal_trials"].items():
        k, d = list(by.items())[-1]
        if d["log_ratio"]["median"] is not None and d["log_ratio"]["median"] > 0:
            lines.append(
                f"- to {rival} with {k} trials: {_number(d['log_ratio']['median'])} in the median log ratio"
            )
    return lines


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"


def _percent(x: float | None) -> str:
    return "-" if x is None else f"{100 * x:.0f} %"
