"""Memory of one loss and gradient: at most three times parameters and activations, and none of it allocated on the way.

What activations are, `lopt.task.Task.activations` says.  Peak memory is parameters, gradient and scratch.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lopt.augment import augment
from lopt.optimizer import OPTIMIZERS
from lopt.task import TASKS, Task
from lopt.tasks import catalogue, describe_task, parse_task
from lopt.tasks.char_rnn import CharRnn
from lopt.tasks.conv_fc import ConvFc
from lopt.tasks.mlp import Mlp
from lopt.tasks.transformer_lm import TransformerLm

ROOT = Path(__file__).parent.parent
TIMES = 3
ALLOWED = 2**16  # bytes besides: partial sums, losses of the rows, chunks of patches and logits
SEEDS = 31
IN_BLOCKS = {"word_rnn_language_model"}  # whose kernel never holds all logits at once
LARGE = "conv_pooling_seed2"  # some 70 MB of scratch
MIB = 2**20


def excess(t: Task) -> int:
    """Bytes beyond the bound."""
    return t.memory - TIMES * 4 * (t.layout.size + t.activations(t.batch_size)) - ALLOWED


def too_large(tasks: dict[str, Task]) -> dict[str, int]:
    return {name: excess(t) for name, t in tasks.items() if excess(t) > 0}


@pytest.mark.parametrize("family", sorted(TASKS))
def test_examples_keep_the_bound(family: str) -> None:
    assert too_large({t.name: t for t in TASKS[family].examples()}) == {}


@pytest.mark.parametrize("family", catalogue.sampled_families())
def test_sampled_tasks_keep_the_bound(family: str) -> None:
    tasks = {e.name: e.task for e in catalogue.sampled(family, SEEDS) if e.task is not None}
    assert len(tasks) > SEEDS // 2
    assert too_large(tasks) == {}


def test_fixed_tasks_keep_the_bound() -> None:
    assert too_large({e.name: e.task for e in catalogue.fixed()}) == {}


def test_counts_worked_out_by_hand() -> None:
    """Numbers of layer after layer, for a batch of two."""
    assert Mlp(hidden=(9, 7)).activations(2) == 2 * (64 + 9 + 7 + 10)
    assert Mlp(hidden=(9, 7), activation="swish").activations(2) == 2 * (64 + 2 * (9 + 7) + 10)
    conv = ConvFc(channels=(3, 4), strides=(2, 1), fc=(5,))  # 8 x 8, 4 x 4 x 3, 4 x 4 x 4
    assert conv.activations(2) == 2 * (64 + 48 + 64 + 5 + 10)
    lstm = CharRnn(vocab=40, embed_dim=3, cell_dim=5, length=4)
    steps = 3 * (3 + 4 * 5 + 2 * 5) + 2 * 5  # inputs, gates, h and c; their first values
    assert lstm.activations(2) == 2 * (4 + steps + 3 * 40)
    lm = TransformerLm(vocab=40, length=3, width=8, heads=2, hidden=9, layers=1)
    norm = 8 + 1 + 8  # normalised, divisor, result
    block = 3 * (2 * norm + 4 * 8 + 2 * 9) + 2 * 3 * 3
    assert lm.activations(2) == 2 * (3 * (1 + 8 + 40) + block + 3 * norm)


def test_scratch_worked_out_by_hand() -> None:
    """Arguments and results of all hidden layers, a loss per row, 32 sums; no room for gradients besides."""
    assert Mlp(hidden=(9, 7)).work_size(2) == 2 * (64 + 2 * (9 + 7) + 10 + 1) + 32
    conv = ConvFc(channels=(3, 4), strides=(2, 1), fc=(5,))
    patches = (
        2 * 4 * 4 * 9 * 3 + 9 * 3 * 4
    )  # of the second convolution, and a gradient of its kernel
    assert conv.work_size(2) == 2 * (64 + 2 * (48 + 64 + 5) + 10 + 1) + 32 + patches


@pytest.mark.parametrize("family", sorted(set(TASKS) - IN_BLOCKS))
def test_counts_are_not_inflated(family: str) -> None:
    """Kernels that make nothing twice, or a block at a time, hold all activations in their scratch."""
    for t in TASKS[family].examples():
        for batch in (1, t.batch_size, 100):
            assert t.activations(batch) <= t.work_size(batch), t.name


def test_an_augmentation_needs_what_the_task_does() -> None:
    t = Mlp(hidden=(9, 7), batch_size=8)
    half = augment(t, batch_fraction=0.5)
    assert half.activations(half.batch_size) == t.activations(4)
    assert half.memory == 4 * (2 * t.layout.size + t.work_size(4))


def test_show_prints_them() -> None:
    t = parse_task("mlp:hidden=[9,7],batch_size=8")
    lines = describe_task("mlp:hidden=[9,7],batch_size=8").splitlines()
    found = {line.split()[0]: line for line in lines}
    assert found["parameters"].split()[1] == f"{64 * 9 + 9 + 9 * 7 + 7 + 7 * 10 + 10:,}"
    assert found["activations"].split()[1] == f"{8 * 90:,}"
    assert found["memory"].split()[1] == f"{t.memory:,}"
    assert found["operations"].split()[1] == f"{t.operations:,.0f}"


# In the machine's own words

GROWTH = """
import sys
import numpy as np
from lopt import rng
from lopt.lanes import pin_blas_threads
from lopt.task import TRAIN
from lopt.tasks import parse_task

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

def evaluate():
    params = task.init(stream)
    grad, work = np.empty_like(params), np.empty(task.work_size(task.batch_size), np.float32)
    return task.entry(params, grad, data, rows, stream, TRAIN, 0, work, 1)

pin_blas_threads()
task, stream = parse_task(sys.argv[1]), rng.stream(0)
data = task.arrays
rows = rng.integers(task.batch_size, *task.splits[TRAIN], stream, rng.BATCH, 0)
evaluate()  # code and the buffers of BLAS are there from now on
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak so far
before = status("VmRSS:")
assert np.isfinite(evaluate())
print(status("VmHWM:") - before)
"""


def in_a_process(*arguments: str, **environment: str) -> str:
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": paths, **environment},
        check=True, timeout=1800, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_process_grows_by_what_the_formula_says() -> None:
    t = parse_task(LARGE)
    assert t.memory > 32 * MIB
    grown = int(in_a_process("-c", GROWTH, LARGE))
    assert 0.95 * t.memory < grown < t.memory + 2 * MIB


# No allocation inside a step


@pytest.fixture(scope="module")
def taken() -> dict[str, list[int]]:
    """Blocks per inner step and evaluations made, of everything that `helpers.allocations` ran."""
    return json.loads(in_a_process("-m", "helpers.allocations", NUMBA_NRT_STATS="1"))


def test_every_task_and_optimizer_ran(taken: dict[str, list[int]]) -> None:
    ran = {re.sub(r" \d+$", "", name) for name in taken}
    assert ran >= {f"task {f}" for f in TASKS} | {f"optimizer {o}" for o in OPTIMIZERS}
    assert {steps for _, steps in taken.values()} == {4}


def test_no_step_allocates(taken: dict[str, list[int]]) -> None:
    assert {name: n for name, (n, _) in taken.items() if n > 0 and name != "careless"} == {}


def test_an_allocation_is_found(taken: dict[str, list[int]]) -> None:
    """... in a kernel with one np.empty, which a step runs on its batch and on one of outer validation."""
    assert taken["careless"][0] == 2
