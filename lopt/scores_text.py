"""What `lopt.judgement.judge` found as Markdown: short tables, and what their columns mean."""

import math
from collections.abc import Sequence
from typing import Any

LEGEND = (
    "- wins: tasks with the lower test loss, ties half, with a 95 % interval over tasks (Wilson).",
    "- log ratio: of the excess test loss to the rival's, median over tasks; below 0 the learned optimizer is better. "
    'Excess: over the lowest loss that is known for the task. "55 of 63": 55 of 63 tasks have one.',
    "- IQM: interquartile mean of the log ratios with its 95 % bootstrap interval over tasks.",
    "- training: the median log ratio of training losses. Well below the other: it overfits before the rival does.",
    "- speed-up: steps that the lower envelope of a search needs for the same loss, over the steps used. With >= it is "
    "saturated: the envelope does not get there.",
)


def scores_text(comparison: str, s: dict[str, Any]) -> str:
    """What `judge` found in a comparison of that name, by itself."""
    return "\n".join([*scores_section({"comparison": comparison, **s}), "", *LEGEND])


def scores_summary(found: Sequence[dict[str, Any]]) -> list[str]:
    """A table with a line for each evaluation: its first default, and the rival it wins against least often."""
    heads = [
        "evaluation",
        "tasks",
        "steps",
        "diverged",
        "against the first default",
        "against the hardest rival",
    ]
    lines = _head(heads)
    for s in found:
        defaults, searches = _rivals(s)
        hardest = sorted({**defaults, **searches}.items(), key=lambda item: _share(item[1]))[:1]
        cells = [_title(s), str(s["tasks"]), str(s["steps"]), percent(s["diverged"])]
        for rival in (list(defaults.items())[:1], hardest):
            cells += [f"{name}: {_outcome(d)}" for name, d in rival] or ["-"]
        lines.append(_row(cells))
    return lines


def scores_section(s: dict[str, Any]) -> list[str]:
    """One evaluation, with the name of its comparison."""
    lines = [f"## {_title(s)}", "", _setting(s)]
    if s["trials"] == 1:
        rows = [([name], d) for name, d in s["default_against_default"].items()]
        lines += [
            "",
            "### Default against default (nobody is tuned)",
            "",
            *_table(["against"], rows),
        ]
    if s["equal_trials"]:
        rows = [
            ([name, _trials(d)], d) for name, by in s["equal_trials"].items() for d in by.values()
        ]
        lines += ["", "### Against searches, trials of both counted", ""]
        lines += [*_table(["against", "trials"], rows), "", *_speeds(s)]
    return [*lines, "", *_families(s), "", *_losses(s)]


def _title(s: dict[str, Any]) -> str:
    trials = "" if s["trials"] == 1 else f" ({s['trials']} trials of its own)"
    return f"{s['comparison']}: {s['learned']}{trials}"


def _setting(s: dict[str, Any]) -> str:
    """Sizes, what the optimizer is told, how its runs ended."""
    told = ", ".join(f"`{k} = {v}`" for k, v in s.get("told", {}).items())
    first = " of its first trial" if s["trials"] > 1 else ""
    return (
        f"{s['tasks']} tasks, {s['steps']} steps, {s['seeds']} seeds. "
        + (f"The optimizer is told {told}; nothing else is set. " if told else "")
        + f"Runs{first} that diverged: {percent(s['diverged'])}; clipped at the ceiling: {percent(s['clipped'])}."
    )


def _rivals(s: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Duels by name: with defaults, unless the optimizer brings several trials; with searches, at all their trials."""
    defaults = s["default_against_default"] if s["trials"] == 1 else {}
    all_trials = {name: list(by.values())[-1] for name, by in s["equal_trials"].items()}
    return defaults, {f"{name} ({_trials(d)})": d for name, d in all_trials.items()}


def _trials(d: dict[str, Any]) -> str:
    return f"{d['trials'][0]} against {d['trials'][1]}"


def _table(heads: list[str], rows: Sequence[tuple[list[str], dict[str, Any]]]) -> list[str]:
    """A row for each duel."""
    lines = _head([*heads, "wins", "log ratio", "tasks", "IQM", "training"])
    for names, d in rows:
        r = d["log_ratio"]
        wins = percent(d["win_rate"])
        if d["win_low"] is not None:
            wins += f" ({100 * d['win_low']:.0f} to {100 * d['win_high']:.0f})"
        interval = f"{_signed(r['iqm'])} ({_signed(r['low'])} to {_signed(r['high'])})"
        known = f"{r['n']} of {d['tasks']}"
        lines.append(
            _row([*names, wins, _signed(r["median"]), known, interval, _signed(d["train"])])
        )
    return lines


def _speeds(s: dict[str, Any]) -> list[str]:
    """A line for each search over whose envelope speed-ups were measured."""
    lines = []
    for search, d in s["speed_up"].items():
        median, q25, q75 = (_speed(d[k], d) for k in ("median", "q25", "q75"))
        interval = f"{number(d['iqm'])} ({number(d['low'])} to {number(d['high'])})"
        lines.append(
            f"Speed-up over the envelope of {search}: median {median}, quartiles {q25} to {q75}, IQM {interval}; "
            f"{percent(d['saturated'])} of {d['n']} tasks saturated at {number(d['ceiling'])}."
        )
    return lines


def _families(s: dict[str, Any]) -> list[str]:
    """A row for each family of tasks: the first default and every search, speed-ups."""
    defaults, searches = _rivals(s)
    shown = {**dict(list(defaults.items())[:1]), **searches}
    heads = ["family", "tasks", *shown, *(f"speed-up over {f}" for f in s["speed_up"])]
    lines = ["### By family: wins, log ratio", "", *_head(heads)]
    parts = [*shown.values(), *s["speed_up"].values()]
    for family in dict.fromkeys(f for part in parts for f in part["by_family"]):
        own = [part["by_family"].get(family) for part in parts]
        cells = [_outcome(x) if x else "-" for x in own[: len(shown)]]
        cells += [
            _speed(x["median"], {**d, **x}) if x else "-"
            for x, d in zip(own[len(shown) :], s["speed_up"].values(), strict=True)
        ]
        lines.append(_row([family, str(max(x["tasks"] for x in own if x)), *cells]))
    return lines


def _losses(s: dict[str, Any]) -> list[str]:
    """Against every rival: families it is worse on, and single tasks; families on which it is slower."""
    heads = ["against", "families: median log ratio, or wins where there is none", "worst tasks"]
    lines = ["### Where it loses", "", *_head(heads)]
    defaults, searches = _rivals(s)
    numbers: dict[str, int] = {}
    for rival, d in {**defaults, **searches}.items():
        lost = [f"{f} {_margin(x)}" for f, x in d["by_family"].items() if _is_lost(x)]
        worst = [
            f"[{numbers.setdefault(task, len(numbers) + 1)}] {_signed(ratio)}"
            for task, ratio in d["loses_most"].items()
        ]
        lines.append(_row([rival, ", ".join(lost) or "none", ", ".join(worst) or "none"]))
    for search, d in s["speed_up"].items():
        slow = [f"{f} {number(x['median'])}" for f, x in d["by_family"].items() if x["median"] < 1]
        lines.append(_row([f"speed-up over {search}", ", ".join(slow) or "none", ""]))
    if numbers:
        lines += ["", *(f"- [{k}] `{task}`" for task, k in numbers.items())]
    return lines


def _is_lost(family: dict[str, Any]) -> bool:
    """By the median log ratio of a family; by wins where none of its tasks has one."""
    if family["log_ratio"] is None:
        return family["win_rate"] < 0.5
    return family["log_ratio"] > 0


def _margin(family: dict[str, Any]) -> str:
    ratio = family["log_ratio"]
    return f"{percent(family['win_rate'])} won" if ratio is None else _signed(ratio)


def duel_text(d: dict[str, Any]) -> str:
    """A duel in one cell: wins, median log ratio, interquartile mean with its interval."""
    r = d["log_ratio"]
    return f"{_outcome(d)}, {_signed(r['iqm'])} ({_signed(r['low'])} to {_signed(r['high'])})"


def _outcome(x: dict[str, Any]) -> str:
    """Wins and median log ratio of a duel or of one of its families, and of how many tasks if not of all."""
    ratio = x["log_ratio"]
    if isinstance(ratio, dict):
        ratio, known = ratio["median"], ratio["n"]
    else:
        known = x["known"]
    few = f" (of {known})" if 0 < known < x["tasks"] else ""
    return f"{percent(x['win_rate'])}, {_signed(ratio)}{few}"


def _share(d: dict[str, Any]) -> float:
    """Wins for sorting; unknown ones last."""
    return math.inf if d["win_rate"] is None else d["win_rate"]


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _speed(value: float | None, of: dict[str, Any]) -> str:
    """A speed-up, marked where it is that of tasks on which the envelope does not get there."""
    if value is not None and of["saturated"] and value >= of["ceiling"]:
        return f">= {number(value)}"
    return number(value)


def number(x: float | None) -> str:
    """Two digits after the point; None is a dash."""
    return "-" if x is None else f"{x:.2f}"


def _signed(x: float | None) -> str:
    return "-" if x is None else f"{x:+.2f}"


def percent(x: float | None) -> str:
    """A share."""
    return "-" if x is None else f"{100 * x:.0f} %"
