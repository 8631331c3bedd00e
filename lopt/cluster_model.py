"""How long an outer step takes on a cluster, from what its parts cost one rank.

The parts, in the order of `lopt.es.estimator`: book-keeping for all pairs on every rank, partly shared by
the ranks of a node; rollouts, each pair on one rank; one allreduce of 16 bytes a pair; the gradient,
rebuilt by the ranks of each node together; what every rank does to every coordinate of theta.  Nothing
overlaps: a step is their sum.

And how much of the time is left when nodes fail: Daly, "A higher order estimate of the optimum checkpoint
interval for restart dumps" (2006); Young, "A first order approximation to the optimum checkpoint interval"
(1974).
"""

import dataclasses
import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lopt.errors import UsageError, unknown
from lopt.es.pairs import dearest_first, share_out

BYTES_PER_PAIR = 16
MEETINGS = 5  # of a node's ranks: around asking about pairs, for the losses, around rebuilding
HAND_OUTS = ("dynamic", "owners", "in turn")


class Pairs(NamedTuple):
    """What the rollouts of each pair of a step take, both members: seconds, and predicted in any unit; (P,) float64."""

    seconds: np.ndarray
    predicted: np.ndarray


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds on a core of its own.

    pair      (S,) float64, samples of what one pair's rollouts take, both members
    ask       asking the problem about one pair, done by one rank of each node
    book      book-keeping for one pair, done by every rank
    step      what an outer step takes beside
    noise     one normal made and added to the gradient, by one rank of each node
    n_theta   D, coordinates of theta
    theta     all that every rank does to one coordinate once a step
    surprise  standard deviation of the logarithm of predicted over true cost of a pair
    """

    pair: np.ndarray
    ask: float
    book: float
    step: float
    noise: float
    n_theta: int
    theta: float
    surprise: float = 0.0

    def drawn(self, n: int, seed: int = 0) -> Pairs:
        """n pairs from the samples."""
        chance = np.random.default_rng(seed)
        seconds = self.pair[chance.integers(self.pair.size, size=n)]
        return Pairs(seconds, seconds * np.exp(self.surprise * chance.normal(size=n)))


class Link(NamedTuple):
    """Seconds to send a message of n bytes: latency + n per_byte."""

    latency: float
    per_byte: float

    def seconds(self, n: float) -> float:
        """Of one message."""
        return self.latency + n * self.per_byte


@dataclasses.dataclass(frozen=True)
class Machine:
    """A cluster of equal nodes.

    ranks_per_node, cores_per_node
    node     messages between ranks of a node
    network  messages between nodes
    number   seconds from one number of a node's hand-out counter to the next
    slice    seconds that a rank keeps a core which it shares, even if it only waits for others
    crowded  how much slower a core is while all cores of its node are busy, >= 1

    Raises:
        UsageError: no ranks, no cores, or cores that speed each other up.
    """

    ranks_per_node: int
    cores_per_node: int
    node: Link
    network: Link
    number: float
    crowded: float = 1.0
    slice: float = 0.0

    def __post_init__(self) -> None:
        for key in ("ranks_per_node", "cores_per_node", "crowded"):
            if not getattr(self, key) >= 1:
                raise UsageError(f"{key} = {getattr(self, key)} is not valid: at least 1")

    def on_node(self, ranks: int) -> int:
        """Ranks of the fullest node."""
        return min(ranks, self.ranks_per_node)

    def nodes(self, ranks: int) -> int:
        """Nodes that the ranks fill."""
        return -(-ranks // self.ranks_per_node)

    def slowdown(self, ranks: int) -> float:
        """Of computing: cores shared by several ranks, and crowding, linear in the number of busy cores."""
        here, cores = self.on_node(ranks), self.cores_per_node
        busy = min(here, cores)
        crowding = 1 + (self.crowded - 1) * (busy - 1) / max(cores - 1, 1)
        return crowding * max(1.0, here / cores)


def meeting(ranks: int, machine: Machine) -> float:
    """Seconds until the ranks of a node that arrive together have all seen that the others are there.

    On shared cores somebody always has to wait for its turn.
    """
    here = machine.on_node(ranks)
    waiting = max(0.0, here / machine.cores_per_node - 1)
    return 2 * math.ceil(math.log2(here)) * machine.node.latency + waiting * machine.slice


def allreduce(n: int, ranks: int, machine: Machine) -> float:
    """Seconds to sum n bytes over all ranks.

    Within nodes a binomial tree to one rank and back; between nodes the better of recursive doubling and
    reduce-scatter + allgather (Thakur, Rabenseifner & Gropp 2005, sections 4.3 to 4.5, without the
    arithmetic and the extra step of numbers that are no power of two).
    """
    inside = math.ceil(math.log2(machine.on_node(ranks)))
    nodes = machine.nodes(ranks)
    rounds = math.ceil(math.log2(nodes))
    latency, per_byte = machine.network
    doubling = rounds * machine.network.seconds(n)
    halving = 2 * rounds * latency + 2 * (1 - 1 / nodes) * n * per_byte
    return 2 * inside * machine.node.seconds(n) + min(doubling, halving)


def makespan(
    pairs: Pairs, ranks: int, hand_out: str, ranks_per_node: int = 0, number: float = 0.0
) -> float:
    """Seconds until the last rank has no pair left.

    Args:
        hand_out: "dynamic" (`lopt.es.pairs.HandOut`: within nodes, dearest first by prediction), "owners"
            (`lopt.es.pairs.share_out` by prediction, a new episode each) or "in turn" (pair i on rank i mod
            ranks).
        ranks_per_node: 0: one node.
        number: seconds of a node's counter for each number it hands out, one after the other.

    Raises:
        UsageError: unknown hand-out.
    """
    if hand_out in ("dynamic", "owners"):
        owners = np.array(share_out(pairs.predicted, np.zeros(ranks)), np.int64)
        if hand_out == "dynamic":
            return _within_nodes(pairs, owners, ranks, ranks_per_node or ranks, number)
    elif hand_out == "in turn":
        owners = np.arange(pairs.seconds.size) % ranks
    else:
        raise UsageError(unknown("hand_out", hand_out, HAND_OUTS))
    return float(np.bincount(owners, pairs.seconds, ranks).max())


def _within_nodes(
    pairs: Pairs, owners: np.ndarray, ranks: int, ranks_per_node: int, number: float
) -> float:
    """Latest end of the nodes, each with the pieces of its ranks, dearest first."""
    order = np.array(dearest_first(pairs.predicted), np.int64)
    node = owners[order] // ranks_per_node
    by_node = order[np.argsort(node, kind="stable")]
    ends = np.cumsum(np.bincount(node, minlength=-(-ranks // ranks_per_node)))
    last = 0.0
    for k, mine in enumerate(np.split(by_node, ends[:-1])):
        here = min(ranks_per_node, ranks - k * ranks_per_node)
        last = max(last, _dynamic(pairs.seconds[mine].tolist(), here, number))
    return last


def _dynamic(costs: Sequence[float], ranks: int, number: float) -> float:
    """Whoever is free first gets the next piece, or after the last one learns that there is none."""
    free, counter = [0.0] * ranks, 0.0
    for cost in costs:
        counter = max(free[0], counter) + number
        heapq.heapreplace(free, counter + cost)
    for now in sorted(free):
        counter = max(now, counter) + number
    return counter


class Step(NamedTuple):
    """Seconds of an outer step by phase; `waiting` is what a rank waits for the slowest one on average."""

    rollout: float
    waiting: float
    book: float
    exchange: float
    rebuild: float
    theta: float

    @property
    def total(self) -> float:
        """Of all phases."""
        return sum(self)


def outer_step(
    costs: Costs, machine: Machine, ranks: int, pairs: Pairs, hand_out: str = "dynamic"
) -> Step:
    """One outer step of these pairs on some ranks."""
    slower, p, sharers = machine.slowdown(ranks), pairs.seconds.size, _sharers(machine, ranks)
    slowed = pairs._replace(seconds=slower * pairs.seconds)
    number = machine.number if ranks > 1 else 0.0
    last = makespan(slowed, ranks, hand_out, machine.ranks_per_node, number)
    mean = float(slowed.seconds.sum()) / ranks
    return Step(
        rollout=mean,
        waiting=last - mean,
        book=slower * (costs.step + p * (costs.book + costs.ask / sharers)),
        exchange=allreduce(BYTES_PER_PAIR * p, ranks, machine) + MEETINGS * meeting(ranks, machine),
        rebuild=slower * p * costs.n_theta * costs.noise / sharers,
        theta=slower * costs.n_theta * costs.theta,
    )


def _sharers(machine: Machine, ranks: int) -> int:
    """Ranks of the emptiest node: it does alone what others share among more."""
    rest = ranks % machine.ranks_per_node
    return rest if rest and ranks > machine.ranks_per_node else machine.on_node(ranks)


def efficiency(
    costs: Costs, machine: Machine, ranks: int, pairs: Pairs, hand_out: str = "dynamic"
) -> float:
    """Time of one rank on the same pairs, over the ranks' times together."""
    alone = outer_step(costs, machine, 1, pairs, hand_out).total
    return alone / (ranks * outer_step(costs, machine, ranks, pairs, hand_out).total)


# Failures: every node fails independently, at a constant rate, also while it saves or restarts.


def with_failures(interval: float, save: float, restart: float, mtbf: float) -> float:
    """Expected seconds for one second of work (Daly 2006, equation 20, for many checkpoints).

    Args:
        interval: seconds of work between two checkpoints.
        save, restart: seconds to write a checkpoint; to be running again after a failure.
        mtbf: mean seconds between failures of the whole job; infinite: none.
    """
    if math.isinf(mtbf):
        return (interval + save) / interval
    try:
        lost = math.expm1((interval + save) / mtbf)
    except OverflowError:
        return math.inf
    return mtbf / interval * math.exp(restart / mtbf) * lost


def best_interval(save: float, mtbf: float) -> float:
    """The interval that makes `with_failures` least.

    Where the derivative is 0, (1 - x) exp(x + save / mtbf) = 1 with x = interval / mtbf; so
    x = 1 + W(-exp(-1 - save / mtbf)), W the upper branch of Lambert's function.
    """
    from scipy.special import lambertw  # takes longer to load than all of lopt

    return mtbf * (1 + float(lambertw(-math.exp(-1 - save / mtbf)).real))


def young_interval(save: float, mtbf: float) -> float:
    """Young's first-order approximation to it: sqrt(2 save mtbf)."""
    return math.sqrt(2 * save * mtbf)


def daly_interval(save: float, mtbf: float) -> float:
    """Daly's higher-order one (2006, equation 37)."""
    if save >= 2 * mtbf:
        return mtbf
    x = save / (2 * mtbf)
    return young_interval(save, mtbf) * (1 + math.sqrt(x) / 3 + x / 9) - save
