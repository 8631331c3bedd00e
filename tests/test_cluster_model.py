"""The model of a cluster against closed forms, the library's own hand-out, and failures played out one by one."""

import dataclasses
import math

import numpy as np
import pytest
from helpers.virtual_ranks import Clocks

from lopt.cluster_model import (
    HAND_OUTS,
    Costs,
    Link,
    Machine,
    Pairs,
    allreduce,
    best_interval,
    daly_interval,
    efficiency,
    makespan,
    outer_step,
    with_failures,
    young_interval,
)
from lopt.errors import UsageError

FREE = Link(0.0, 0.0)
NODES_OF_4 = Machine(4, 4, FREE, FREE, 0.0)
SCALES = (1e-3, 1.0, 1e3)


def costs(**changes: object) -> Costs:
    """Pairs of one second, all else free."""
    free = Costs(np.ones(1), ask=0.0, book=0.0, step=0.0, noise=0.0, n_theta=1000, theta=0.0)
    return dataclasses.replace(free, **changes)


# Communication


@pytest.mark.parametrize("scale", SCALES)
def test_allreduce_between_nodes(scale):
    """Short: log2 N latencies.  Long: every byte leaves and enters a node twice, but for its own share."""
    wire = Machine(1, 1, FREE, Link(scale * 2e-6, scale * 1e-10), 0.0)
    assert allreduce(0, 1, wire) == 0
    for k in (1, 5, 17):
        assert allreduce(0, 2**k, wire) == pytest.approx(scale * k * 2e-6, rel=1e-12)
        long = (1 if k == 1 else 2) * k * 2e-6 + 2 * (1 - 2.0**-k) * 1e10 * 1e-10
        assert allreduce(10**10, 2**k, wire) == pytest.approx(scale * long, rel=1e-12)
    assert allreduce(0, 2**16 + 1, wire) == allreduce(0, 2**17, wire)


def test_allreduce_within_a_node_goes_up_and_down_a_tree():
    machine = Machine(64, 64, Link(3e-7, 1e-10), Link(2e-6, 1e-10), 0.0)
    inside = 2 * 6 * (3e-7 + 1e-7)
    assert allreduce(1000, 64, machine) == pytest.approx(inside, rel=1e-12)
    assert allreduce(1000, 2, machine) == pytest.approx(2 * (3e-7 + 1e-7), rel=1e-12)
    two = 2e-6 + 1000 * 1e-10
    assert allreduce(1000, 128, machine) == pytest.approx(inside + two, rel=1e-12)


# Rollouts


@pytest.mark.parametrize("hand_out", HAND_OUTS)
@pytest.mark.parametrize(("pairs", "ranks"), [(1, 1), (7, 3), (12, 4), (3, 8)])
def test_equal_pairs_take_whole_rounds(hand_out, pairs, ranks):
    same = np.full(pairs, 0.25)
    assert makespan(Pairs(same, same), ranks, hand_out) == 0.25 * math.ceil(pairs / ranks)
    expected = 1 / (ranks * math.ceil(pairs / ranks) / pairs)
    found = efficiency(costs(), NODES_OF_4, ranks, costs().drawn(pairs), hand_out)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ranks", "per_node"), [(1, 0), (2, 0), (7, 0), (40, 0), (4, 1), (7, 3), (8, 4)]
)
def test_dynamic_is_the_hand_out_of_estimators_and_searches(ranks, per_node):
    chance = np.random.default_rng(ranks)
    pairs = Pairs(*np.exp(2 * chance.normal(size=(2, 30))))
    last, _ = Clocks(ranks, per_node).round(*pairs)
    assert makespan(pairs, ranks, "dynamic", per_node) == last


def test_the_counter_serves_one_rank_at_a_time():
    """Work without cost: P numbers, and one too large for each rank."""
    nothing, seconds = Pairs(np.zeros(9), np.ones(9)), Pairs(np.ones(2), np.ones(2))
    assert makespan(nothing, 5, "dynamic", 0, 0.5) == (9 + 5) * 0.5
    assert makespan(nothing, 6, "dynamic", 3, 0.5) == (6 + 3) * 0.5  # nodes of 3, one has 6 pairs
    assert makespan(nothing, 5, "owners", 0, 0.5) == 0
    # The second rank begins after 0.2 s, and has to ask once more.
    assert makespan(seconds, 2, "dynamic", 0, 0.1) == pytest.approx(1.3)


@pytest.mark.parametrize("scale", SCALES)
def test_the_slowest_of_exponential_times_is_a_harmonic_number(scale):
    """One pair a rank: E max = 1 + 1/2 + ... + 1/R, variance 1 + 1/4 + ... + 1/R^2; 5 standard errors."""
    ranks, steps = 32, 2000
    quantiles = -np.log1p(-(np.arange(200_000) + 0.5) / 200_000)
    exponential = costs(pair=scale * quantiles)
    k = np.arange(1, ranks + 1)
    error = math.sqrt((1 / k**2).sum() / steps)
    for hand_out in HAND_OUTS:
        found = [makespan(exponential.drawn(ranks, seed), ranks, hand_out) for seed in range(steps)]
        assert abs(np.mean(found) / scale - (1 / k).sum()) < 5 * error


def test_unknown_hand_out():
    with pytest.raises(UsageError, match="did you mean 'dynamic'"):
        makespan(costs().drawn(3), 2, "dynamics")


# A whole step


def test_a_step_is_the_sum_of_its_parts():
    """10 pairs on 9 ranks, nodes of 4 ranks and 2 cores, the last node has one rank."""
    machine = Machine(4, 2, FREE, Link(1e-3, 0.0), number=0.0, crowded=1.2, slice=3e-3)
    c = costs(ask=0.02, book=0.01, step=0.5, noise=1e-4, theta=1e-5)
    step = outer_step(c, machine, 9, c.drawn(10), "in turn")
    slower = 1.2 * 4 / 2
    assert step.rollout == pytest.approx(slower * 10 / 9)
    assert step.rollout + step.waiting == pytest.approx(slower * 2)
    assert step.book == pytest.approx(slower * (0.5 + 0.1 + 0.2))
    assert step.exchange == pytest.approx(2 * 1e-3 + 5 * 3e-3)
    assert step.rebuild == pytest.approx(slower * 10 * 1000 * 1e-4)  # that rank does it alone
    assert step.theta == pytest.approx(slower * 1000 * 1e-5)
    assert step.total == pytest.approx(sum(step))


@pytest.mark.parametrize(
    ("ranks_per_node", "seconds"), [(1, 0.064), (8, 0.008), (64, 0.001), (128, 0.001)]
)
def test_ranks_of_a_node_share_rebuilding_and_asking(ranks_per_node, seconds):
    c = costs(noise=1e-6, ask=1e-3)
    machine = Machine(ranks_per_node, ranks_per_node, FREE, FREE, 0.0)
    step = outer_step(c, machine, 64, c.drawn(64))
    assert step.rebuild == pytest.approx(seconds)
    assert step.book == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("ranks", "cores", "slower"), [(1, 4, 1), (2, 4, 1.1), (4, 4, 1.3), (8, 4, 2.6), (2, 1, 2)]
)
def test_shared_and_crowded_cores(ranks, cores, slower):
    assert Machine(8, cores, FREE, FREE, 0.0, 1.3).slowdown(ranks) == pytest.approx(slower)


def test_a_machine_needs_ranks_and_cores():
    for key in ("ranks_per_node", "cores_per_node", "crowded"):
        with pytest.raises(UsageError, match=f"{key} = 0"):
            dataclasses.replace(NODES_OF_4, **{key: 0})


# Failures


def played(interval: float, save: float, restart: float, mtbf: float, work: int, seed: int):
    """Seconds that segments of work take when failures strike: each starts over after a whole restart."""
    chance = np.random.default_rng(seed)
    taken = np.zeros(work)
    for k in range(work):
        while (failure := chance.exponential(mtbf)) < interval + save:
            taken[k] += failure
            while (again := chance.exponential(mtbf)) < restart:
                taken[k] += again
            taken[k] += restart
        taken[k] += interval + save
    return taken / interval


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("interval", "mtbf"), [(3.0, 100.0), (10.0, 10.0), (20.0, 10.0)])
def test_failures_cost_what_is_expected(interval, mtbf, scale):
    """5 standard errors; without the restart the formula is off by more."""
    save, restart = 1.0, 4.0
    times = [scale * t for t in (interval, save, restart, mtbf)]
    found = played(*times, 4000, seed=1)
    error = found.std() / math.sqrt(found.size)
    assert abs(found.mean() - with_failures(*times)) < 5 * error
    assert abs(found.mean() - with_failures(times[0], times[1], 0.0, times[3])) > 5 * error


def test_no_failures_cost_the_saving_alone():
    assert with_failures(9.0, 1.0, 5.0, math.inf) == 10 / 9
    assert with_failures(9.0, 1.0, 5.0, 1e12) == pytest.approx(10 / 9, rel=1e-9)
    assert with_failures(1e6, 1.0, 5.0, 1.0) == math.inf


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("ratio", [1e-6, 1e-3, 0.1, 1.0, 10.0])
def test_the_best_interval_is_best(ratio, scale):
    """Of a fine grid around it none is better; it scales with the times."""
    save, mtbf = scale * ratio, scale
    best = best_interval(save, mtbf)
    least = with_failures(best, save, 0.0, mtbf)
    for other in best * np.linspace(0.5, 2, 301):
        assert with_failures(other, save, 0.0, mtbf) >= least * (1 - 1e-12)
    assert best == pytest.approx(scale * best_interval(ratio, 1.0), rel=1e-6)


@pytest.mark.parametrize(
    ("ratio", "young", "daly"), [(1e-6, 1e-3, 1e-6), (1e-3, 0.03, 1e-4), (0.1, 0.3, 0.01)]
)
def test_approximations_of_young_and_daly(ratio, young, daly):
    """Relative errors of the interval; Young's is sqrt(2 save / mtbf) / 3 at first order."""
    best = best_interval(ratio, 1.0)
    y, d = young_interval(ratio, 1.0) / best - 1, daly_interval(ratio, 1.0) / best - 1
    assert y == pytest.approx(math.sqrt(2 * ratio) / 3, rel=0.3)
    assert abs(y) < young and abs(d) < daly
    assert daly_interval(2.5, 1.0) == 1.0
