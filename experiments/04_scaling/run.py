"""Measure what an outer step costs one rank, check what follows for 1, 2 and 4, and predict clusters.

python experiments/04_scaling/run.py --out runs/scaling
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from workloads import CONFIG, NAMES, Done, costs_of, settings

from lopt import store
from lopt.bench import launcher
from lopt.bench.page import filled
from lopt.cluster_model import (
    HAND_OUTS,
    Costs,
    Link,
    Machine,
    Pairs,
    Step,
    best_interval,
    efficiency,
    makespan,
    outer_step,
    with_failures,
)
from lopt.experiment import command_line, toml

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "scaling.md"
CLUSTER = CONFIG["cluster"]
HAND_OUT = {"rollouts": "owners", "mix": "dynamic", "noise": "owners", "book": "owners"}
DRAWS = 5  # steps with other pairs, averaged in predictions


def main() -> int:
    """Everything into scaling.h5, a table; the exit code says whether expected.toml was met."""
    parser = command_line(__doc__)
    parser.add_argument("--docs", action="store_true", help="write the table of docs/scaling.md")
    args = parser.parse_args()
    path = args.out / "scaling.h5"
    if not path.exists():
        args.out.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with h5py.File(part, "w") as file:
            clusters(file, *check(file.create_group("check")))
            file.attrs["provenance"] = json.dumps(store.provenance(0, 1, "cpu"))
        part.replace(path)
    with h5py.File(path) as file:
        if args.docs:
            PAGE.write_text(filled(PAGE.read_text(), {"measured": table(file)}))
        return report(file)


# Here


def launch(ranks: int, *what: str) -> Any:
    """What a real run printed."""
    program = [*launcher(ranks), sys.executable, str(HERE / "workloads.py"), *what]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def steps_of(name: str, ranks: int, *how: str) -> Done:
    """Outer steps of a real run."""
    found = launch(ranks, name, *how)
    phases = {k: np.array(v) for k, v in found["phases"].items()}
    return Done(
        np.array(found["step"]), phases, np.array(found["pairs"]), np.array(found["predicted"])
    )


def check(group: h5py.Group) -> tuple[Costs, float]:
    """Predicted and measured seconds of outer steps, and both hand-outs.

    Runs of all kinds take turns, so that a machine that is busy for a while is so for all; medians over them.

    Returns: costs of the rollouts workload, and how much slower crowded cores run it.
    """
    counts, repeats = CONFIG["check"]["ranks"], CONFIG["check"]["repeats"]
    cores = os.cpu_count() or 1
    group.attrs["cores"] = cores
    group["ranks"] = counts
    found, crowds = {}, {}
    for name in NAMES:
        crowds[name] = []
        predicted, measured = np.zeros((2, repeats, len(counts)))
        for k in range(repeats):
            runs = {ranks: steps_of(name, ranks) for ranks in counts}
            crowd = steps_of(name, cores, "apart") if cores > 1 else runs[1]
            slices = [launch(r, "meeting") / (r / cores - 1) for r in counts if r > cores]
            crowded = max(1.0, float(np.median(crowd.step) / np.median(runs[1].step)))
            costs, steps = costs_of(name, runs[1])
            for j, ranks in enumerate(counts):
                here = machine(ranks, cores, crowded, max(slices, default=0.0))
                times = [
                    outer_step(costs, here, ranks, pairs, HAND_OUT[name]).total for pairs in steps
                ]
                predicted[k, j], measured[k, j] = np.median(times), np.median(runs[ranks].step)
            found[name] = costs
            crowds[name].append(crowded)
            if name == "mix":
                mixed = steps
                hand_outs(group, k, runs[2], steps_of(name, 2, "in turn"))
            print(f"{name}, {k + 1} of {repeats}: predicted {predicted[k]}, measured {measured[k]}, "
                  f"crowded {crowded:.2f}", flush=True)  # fmt: skip
        part = group.create_group(name)
        part["predicted"], part["measured"] = predicted, measured
        for key in ("ask", "book", "step", "noise", "theta", "n_theta"):
            part.attrs[key] = getattr(found[name], key)
        part["pair_seconds"] = found[name].pair
    surprise = np.mean([np.log(p.predicted / p.seconds).std() for p in mixed])
    costs = dataclasses.replace(found["rollouts"], surprise=float(surprise))
    return costs, statistics.median(crowds["rollouts"])


def machine(ranks: int, cores: int, crowded: float, slice_: float) -> Machine:
    """One node with some ranks."""
    node = Link(**CLUSTER["node"])
    return Machine(ranks, cores, node, node, 0.0, crowded, slice_)


def hand_outs(group: h5py.Group, k: int, dynamic: Done, in_turn: Done) -> None:
    """Seconds until the losses are exchanged, over the least that two ranks could take for the same pairs."""
    for name, done in (("dynamic", dynamic), ("in turn", in_turn)):
        ideal = np.maximum(done.pairs.sum(axis=1) / 2, done.pairs.max(axis=1))
        took = done.phases["rollout"] + done.phases["exchange"]
        part = group.require_group(f"hand_out/{name}")
        part[str(k)] = took / ideal
        part.attrs["spread"] = float(np.median(done.pairs.max(axis=1) / done.pairs.min(axis=1)))


# Elsewhere


def cluster(size: int, crowded: float = 1.0) -> Machine:
    """A cluster with nodes of some ranks, a core each."""
    node, network = Link(**CLUSTER["node"]), Link(**CLUSTER["network"])
    return Machine(size, size, node, network, CLUSTER["number"], crowded)


def clusters(file: h5py.File, costs: Costs, crowded: float) -> None:
    """All predictions."""
    most = CLUSTER["most"]
    ranks = np.array([*(2**k for k in range(int(np.log2(most)) + 1)), most])
    file["ranks"], file["node_sizes"], file["spreads"] = (
        ranks,
        CLUSTER["node_sizes"],
        CLUSTER["spreads"],
    )
    each = {r: pairs(costs, CLUSTER["pairs_per_rank"] * r) for r in ranks}
    file["weak"] = [
        [efficiency(costs, cluster(m, crowded), r, each[r], "owners") for r in ranks]
        for m in CLUSTER["node_sizes"]
    ]
    fixed = pairs(costs, CLUSTER["pairs"])
    for name, counts in (("strong", ranks), ("as_published", CONFIG["published"]["cores"])):
        file[name] = [efficiency(costs, cluster(64, crowded), r, fixed, "owners") for r in counts]
    file["phases"] = [outer_step(costs, cluster(64, crowded), r, each[r], "owners") for r in ranks]
    file["phases"].attrs["names"] = json.dumps(Step._fields)
    file["hand_outs"] = stragglers(costs)
    file["hand_outs"].attrs["names"] = json.dumps(HAND_OUTS)
    file["hand_outs"].attrs["surprise"] = costs.surprise
    failures(file.create_group("failures"), costs, ranks)


def pairs(costs: Costs, n: int) -> Pairs:
    """Windows of one task: all are predicted to take as long."""
    return costs.drawn(n)._replace(predicted=np.ones(n))


def stragglers(costs: Costs) -> np.ndarray:
    """Time until the last of 1440 ranks is done over the ideal, by hand-out and spread of the pairs' costs."""
    ranks = CONFIG["published"]["cores"][1]
    found = np.zeros((len(HAND_OUTS), len(CLUSTER["spreads"])))
    for j, spread in enumerate(CLUSTER["spreads"]):
        for seed in range(DRAWS):
            chance = np.random.default_rng(seed)
            seconds = costs.pair.mean() * float(spread) ** chance.random(CLUSTER["pairs"])
            predicted = seconds * np.exp(costs.surprise * chance.normal(size=seconds.size))
            ideal = max(seconds.sum() / ranks, seconds.max())
            for i, hand_out in enumerate(HAND_OUTS):
                pairs_ = Pairs(seconds, predicted)
                last = makespan(pairs_, ranks, hand_out, 64, CLUSTER["number"])
                found[i, j] += last / ideal / DRAWS
    return found


def failures(group: h5py.Group, costs: Costs, ranks: np.ndarray) -> None:
    """Share of the time that is work, with nodes of 64 ranks, at the best interval and at a fixed one."""
    per_pair, rate = checkpoint()
    nodes = np.array([cluster(64).nodes(r) for r in ranks])
    mtbf = CLUSTER["node_mtbf"] / nodes
    save = CLUSTER["pairs_per_rank"] * ranks * per_pair / rate
    restart = CLUSTER["restart"] + save
    best = np.array([best_interval(s, m) for s, m in zip(save, mtbf, strict=True)])
    for name, interval in (
        ("best", best),
        ("fixed", np.full(best.shape, CLUSTER["fixed_interval"])),
    ):
        times = zip(interval, save, restart, mtbf, strict=True)
        group[name] = np.array([1 / with_failures(*t) for t in times])
    group["interval"], group["save"], group["mtbf"] = best, save, mtbf
    group.attrs["bytes_per_pair"], group.attrs["bytes_per_second"] = per_pair, rate


def checkpoint() -> tuple[float, float]:
    """Bytes of a pair's particles, and bytes a second that rank 0 writes."""
    _, problem = settings("rollouts")
    theta = problem.opt.init_theta(0)
    one = problem.start(theta, 0, 0)
    per_pair = 2 * sum(array.nbytes for array in one.values())
    copies = 2**26 // per_pair
    arrays = {f"{i}/{k}": v for i in range(2 * copies) for k, v in one.items() if v.size}
    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            store.save_checkpoint(Path(folder), arrays, {})
            seconds.append(time.perf_counter() - begin)
    return per_pair, copies * per_pair / statistics.median(seconds)


# What came out


def medians(file: h5py.File, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and measured seconds of an outer step, by ranks."""
    group = file[f"check/{name}"]
    return tuple(np.median(group[k][()], axis=0) for k in ("predicted", "measured"))


def over_ideal(part: h5py.Group) -> float:
    """Time of the rollouts of a hand-out over the least possible; median of the repeats."""
    return float(np.median([np.median(part[k]) for k in part]))


def table(file: h5py.File) -> str:
    """What docs/scaling.md shows of a run, Markdown."""
    ranks = file["check/ranks"][()]
    heads = " | ".join(f"{r} ranks, ms | predicted" for r in ranks)
    lines = [f"| outer step | {heads} |", "|---" * (1 + 2 * len(ranks)) + "|"]
    for name in NAMES:
        cells = " | ".join(
            f"{1e3 * m:.1f} | {100 * (p / m - 1):+.1f} %"
            for p, m in zip(*medians(file, name), strict=True)
        )
        lines.append(f"| {name} | {cells} |")
    lines += [
        "",
        "| rollouts of the mix on two ranks, over the least time possible | |",
        "|---|---|",
    ]
    for name, part in file["check/hand_out"].items():
        spread = part.attrs["spread"]
        lines.append(f"| {name}, costs spread {spread:.0f}x | {over_ideal(part):.3f} |")
    few, many = file["as_published"]
    text = f"efficiency of {CLUSTER['pairs']} pairs on 1440 ranks over that on 18"
    return "\n".join([*lines, f"| {text} | {many / few:.2f} |"])


def report(file: h5py.File) -> int:
    """Print what was predicted, measured and expected."""
    expected = toml(HERE / "expected.toml")
    met = []

    def verdict(text: str, good: bool) -> None:
        met.append(good)
        print(f"{text}  {'as' if good else 'NOT as'} expected")

    for name in NAMES:
        found = medians(file, name)
        error = found[0] / found[1] - 1
        for ranks, p, m, e in zip(file["check/ranks"], *found, error, strict=True):
            text = f"{name:9s} {ranks} ranks: predicted {1e3 * p:8.1f} ms, measured {1e3 * m:8.1f} ms, {100 * e:+5.1f} %"
            verdict(text, abs(e) <= expected["error_at_most"][name])
    for name, limit in expected["over_ideal"].items():
        part = file[f"check/hand_out/{name}"]
        ratio = over_ideal(part)
        good = ratio <= limit if name == "dynamic" else ratio >= limit
        spread = part.attrs["spread"]
        verdict(f"{name}, 2 ranks, costs spread {spread:.0f}x: {ratio:.3f} of the ideal time", good)
    cores, minutes = CONFIG["published"].values()
    published = minutes[0] / minutes[1] / (cores[1] / cores[0])
    few, many = file["as_published"]
    verdict(f"{CLUSTER['pairs']} pairs, 18 to 1440 ranks: {100 * many / few:.0f} % (published: {100 * published:.0f} %)",
            many / few >= expected["strong_at_least"])  # fmt: skip
    names = json.loads(file["phases"].attrs["names"])
    ranks = file["ranks"][()]
    for r, phases in zip(ranks, file["phases"][()], strict=True):
        shares = ", ".join(f"{n} {1e3 * s:.3g}" for n, s in zip(names, phases, strict=True))
        print(f"{r:7d} ranks, {CLUSTER['pairs_per_rank']} pairs each, nodes of 64: {shares} ms")
    for m, row in zip(file["node_sizes"], file["weak"], strict=True):
        print(
            f"nodes of {m:3d}: "
            + ", ".join(f"{r}: {100 * e:.0f} %" for r, e in zip(ranks, row, strict=True))
        )
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
