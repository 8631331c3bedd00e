"""Many ranks: the same bits on any ranks and nodes, work shared within a node, bytes counted, pieces handed out well."""

from pathlib import Path

import numpy as np
import pytest
from helpers.mpi import launch
from helpers.node_ranks import NodeRank
from helpers.scale_runs import PAIRS, D, ends
from helpers.virtual_ranks import Clocks

from lopt import rng
from lopt.comm import SerialComm
from lopt.es import ESTIMATORS, STRATEGIES
from lopt.es.pairs import dearest_first, share_out
from lopt.es.perturbation import NodeSum, streams

ROOT = Path(__file__).parent.parent
PATHS = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}


# Bits, bytes, numbers


@pytest.fixture(scope="module")
def alone() -> dict[str, np.ndarray]:
    return ends(SerialComm())


@pytest.mark.mpi
@pytest.mark.parametrize(("ranks", "per_node"), [(2, 0), (3, 2), (4, 3)])
def test_the_bits_of_one_rank_on_any_ranks_and_nodes(tmp_path, alone, ranks, per_node):
    """All of both registries, also with more ranks than points; nodes of 2, of 2 and 1, of 3 and 1.

    The program also holds every step to 16 bytes a pair, counted at the communicator.
    """
    environment = {**PATHS, "LOPT_RANKS_PER_NODE": str(per_node)}
    program = ["-m", "helpers.scale_runs", "ends", str(tmp_path)]
    done = launch(ranks, program, **environment)
    assert done.code == 0, done.out + done.err
    registered = {*STRATEGIES, *(f"estimator {name}" for name in ESTIMATORS)}
    with np.load(tmp_path / "ends.npz") as found:
        assert registered <= set(found) == set(alone)
        for key in alone:
            np.testing.assert_array_equal(found[key], alone[key], err_msg=key)


@pytest.mark.mpi
def test_the_ranks_of_a_node_make_every_number_once():
    """After the exchange of losses; 5 % of P x D more for cuts and for what is not of the order of D.

    Sobol's uniforms are SciPy's and not counted; pycma is one object of its package, on every rank.
    In a step of an estimator each pair's owner makes its perturbation too, once; and the ranks of
    the node ask about five pairs together.
    """
    program = ["-W", "ignore::RuntimeWarning", "-m", "helpers.scale_runs", "numbers"]
    done = launch(3, program, NUMBA_DISABLE_JIT="1", **PATHS)
    assert done.code == 0, done.out + done.err
    lines = [line.split(";") for line in done.out.splitlines()]
    made = {key: [int(n) for n in numbers] for key, *numbers in lines}
    assert {*STRATEGIES, *(f"estimator {name}" for name in ESTIMATORS)} <= set(made)
    assert made.pop("pycma")[1:] == 3 * [2 * PAIRS * D]
    for name in ESTIMATORS:
        assert sorted(made.pop(f"asked by {name}")) == [1, 2, 2, PAIRS]
    for key, (plain, *ranks) in made.items():
        assert len(ranks) == 3
        assert sum(ranks) <= plain + 0.05 * 2 * PAIRS * D * len(ranks), key
        if key in STRATEGIES and plain > PAIRS * D / 2:
            # Of five whole products on three ranks, two are 2/5.
            assert max(ranks) <= 0.41 * plain, key


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_normals_of_a_node_are_those_of_their_addresses(size):
    """Slices of the node's vector cut through the rows; the last rank of those played sees them all."""
    table, memory = streams(3, 4, 7), np.full(37, np.nan, np.float32)
    for r in range(size):
        node = NodeSum(NodeRank(r, size, memory), 37)
        found = node.normals(table, 10, 5, inner=2)
    expected = [rng.normals(5, address, rng.PERTURB, 2, 10) for address in table]
    np.testing.assert_array_equal(found, expected)
    alone = NodeSum(SerialComm(), 37).normals(table, 0, 37)  # a row at a time
    np.testing.assert_array_equal(alone, [rng.normals(37, a, rng.PERTURB) for a in table])


# Hand-out


def mix(n: int, seed: int) -> np.ndarray:
    """Costs from 1 to 1000, log-uniform."""
    return 1000.0 ** rng.uniforms(n, rng.stream(seed), rng.TASK).astype(np.float64)


def ideal(costs: np.ndarray, ranks: int) -> float:
    """No schedule ends earlier."""
    return max(costs.sum() / ranks, costs.max())


def in_turn(costs: np.ndarray, ranks: int) -> float:
    """Makespan of pair i on rank i mod ranks."""
    return max(costs[r::ranks].sum() for r in range(ranks))


@pytest.mark.parametrize(
    ("ranks", "per_node", "factor"),
    [*((r, 0, 2.0) for r in (1, 2, 4, 8, 16, 32)), (8, 4, 1.4), (32, 16, 1.1), (32, 1, 1.0)],
)
def test_dynamic_hand_out_ends_within_a_tenth_of_the_ideal(ranks, per_node, factor):
    """256 pieces, costs spread 1000x, predicted to a factor either way; several rounds.

    Between nodes nothing is corrected: predictions must be better there.
    """
    clocks = Clocks(ranks, per_node)
    for seed in range(5):
        costs = mix(256, seed)
        chance = rng.uniforms(256, rng.stream(seed), rng.NOISE).astype(np.float64)
        wrong = factor ** (2 * chance - 1)
        last, given = clocks.round(costs, costs * wrong)
        assert sorted(given) == list(range(256))
        assert ideal(costs, ranks) * (1 - 1e-12) <= last <= 1.1 * ideal(costs, ranks)


def test_what_the_hand_out_is_better_than():
    """In turn, cheapest first, and the owners that predicted costs would choose: all outside of the tenth."""
    ratios: dict[str, list[float]] = {"in turn": [], "cheapest first": [], "predicted": []}
    for seed in range(5):
        costs = mix(256, seed)
        wrong = 4.0 ** (rng.uniforms(256, rng.stream(seed), rng.NOISE).astype(np.float64) - 0.5)
        owners = share_out((costs * wrong).tolist(), [0.0] * 16)
        ends_at = {
            "in turn": in_turn(costs, 16),
            "cheapest first": Clocks(16).round(costs, -costs)[0],
            "predicted": np.bincount(owners, costs).max(),
        }
        for key, last in ends_at.items():
            ratios[key].append(last / ideal(costs, 16))
    assert min(ratios["in turn"]) > 1.2
    assert min(ratios["cheapest first"]) > 1.1
    assert min(ratios["predicted"]) > 1.1


@pytest.mark.parametrize("ranks", [2, 5])
def test_a_hand_out_follows_the_order_and_ties_go_by_number(ranks):
    assert dearest_first([2, 7, 2, 9, 7]) == [3, 1, 4, 0, 2]
    clocks = Clocks(ranks)
    for n in (0, 1, 3, 8):  # also fewer pieces than ranks
        costs = mix(n, n)
        assert clocks.round(costs, costs)[1] == dearest_first(costs)


@pytest.mark.parametrize(("ranks", "per_node"), [(5, 2), (6, 3), (4, 1)])
def test_nodes_get_what_their_ranks_would_own(ranks, per_node):
    clocks = Clocks(ranks, per_node)
    for n in (0, 3, 40):
        costs = mix(n, n)
        owners = np.array(share_out(costs, np.zeros(ranks)), np.int64)
        node_of = np.arange(ranks) // per_node
        given = clocks.round(costs, costs)[1]
        assert sorted(given) == list(range(n))
        for r, handout in enumerate(clocks.handouts):
            here = [i for i in dearest_first(costs) if node_of[owners[i]] == node_of[r]]
            assert handout._of_my_node(costs) == here
