"""One core: rollouts, updates alone, meta-training, loss and gradient, and what long silence costs."""

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from lopt import config as cfg
from lopt import rng
from lopt.arch.features import TENSOR_FEATURES
from lopt.bench.measure import (
    CLOCK,
    JAX,
    Figure,
    Measured,
    Row,
    beside_sgemm,
    copy_rate,
    sgemm_rate,
    step_ms,
)
from lopt.comm import SerialComm
from lopt.layout import Layout
from lopt.optimizer import Optimizer, optimizer
from lopt.rollout import Runner, Schedule
from lopt.task import Task
from lopt.tasks import parse_task
from lopt.train import Trainer

SMALL = "mlp:data=digits,hidden=[32],batch_size=64"  # 64-32-10, 2,410 parameters
LARGE = "mlp:data=digits,hidden=[128,128],batch_size=64"  # 64-128-128-10, 26,122 parameters
MATRIX_TASKS = {  # matrix-dominated: loss and gradient should reach 35 % of sgemm
    "MLP 64-128-128-10, batch 64": LARGE,
    "LSTM language model, hidden 64": (
        "char_rnn_language_model:cell=lstm,cell_dim=64,embed_dim=64,length=32,batch_size=64,"
        'cell_initialisers=["sonnet"]'
    ),
    "transformer language model, width 64": "transformer_lm:vocab=128,width=64,heads=4,layers=2,length=32,batch_size=32",
    "3 x 3 x 32 convolutions on 16 x 16": (
        'conv_pooling:data=textures16,channels=[32,32,32],strides=[1,1,1],padding=["same","same","same"],batch_size=64'
    ),
}
MILLION = Layout([(f"w{k}", (500, 250)) for k in range(8)])
META_TRAINING = """
[[tasks]]
family = "mlp"
options = { data = "digits", hidden = [32], batch_size = 64 }
[optimizer]
name = "hierarchical"
[es]
estimator = "nres"
pairs = 16
truncation = 50
horizon = [50, 50]
[inner]
valid_every = 10
outer_every = 10
"""
QUADRATIC = "quadratic:dims=10"
SILENCE = 100_000  # steps


def figures() -> Iterator[Figure]:
    """All rows, one after the other."""
    yield Row(
        "sgemm 2048^3, one thread", "GFLOP/s", lambda: Measured(sgemm_rate(clock=CLOCK))
    ).figure()
    for row in ROWS:
        yield row.figure()


def rollout(name: str, task_name: str, steps: int) -> Measured:
    """Inner steps per second, without outer-validation losses."""
    task, opt = parse_task(task_name), optimizer(name)
    runner = Runner(task, opt, Schedule(outer_every=10**6))
    theta, stream = opt.init_theta(), rng.stream(0)
    particle = runner.start(theta, stream)
    seconds, sgemm = beside_sgemm(lambda: runner.advance(theta, particle, steps, stream))
    floor = 1e9 * sgemm / (operations(opt, task.layout) + task.operations)
    return Measured(steps / seconds, sgemm, floor)


def evaluations(task_name: str) -> Measured:
    """Losses with gradients per second, batches included: a rollout of SGD."""
    return rollout("sgd", task_name, 4000)


def update_alone(name: str, layout: Layout = MILLION) -> Measured:
    """Nanoseconds per parameter of an optimizer's step, the gradient given."""
    opt = optimizer(name)
    theta, data = opt.init_theta(), opt.opt_data(layout)
    state, work = opt.init_state(theta, layout), np.zeros(opt.work_size(layout), np.float32)
    params = rng.normals(layout.size, rng.stream(0), rng.INIT)
    grad = np.float32(0.01) * rng.normals(layout.size, rng.stream(1), rng.INIT)
    seconds, sgemm = beside_sgemm(lambda: opt.step(theta, params, grad, state, 1.0, 0, data, work))
    moved = 4.0 * (
        2 * state.size + 3 * layout.size
    )  # state and parameters read and written, gradient read
    floor = max(operations(opt, layout) / sgemm, 1e9 * moved / copy_rate(moved))
    return Measured(1e9 * seconds / layout.size, sgemm, floor / layout.size)


def operations(opt: Optimizer, layout: Layout) -> float:
    """Multiplications and additions of the matrix products of one update, after all that can be folded is folded."""
    products = PRODUCTS.get(opt.name)
    return 2.0 * products(opt, layout) if products else 0.0


def hierarchical_products(opt: Optimizer, layout: Layout) -> float:
    """Multiply-adds: features, two hidden layers and two outputs per parameter; an LSTM per tensor."""
    hidden, lstm = opt.mlp_hidden, opt.lstm_hidden
    inputs = opt.between + opt.to_lstm + TENSOR_FEATURES + lstm
    return layout.size * hidden * (opt.n_features + hidden + 2) + len(layout) * 4 * inputs * lstm


def adafac_products(opt: Optimizer, layout: Layout) -> float:
    """Multiply-adds: 16 inputs that differ between parameters; 12 are the same along a row or a column."""
    return layout.size * opt.hidden * (16 + opt.hidden + 2)


def mlp_products(opt: Optimizer, layout: Layout) -> float:
    """Multiply-adds: features, two hidden layers and two outputs per parameter."""
    return layout.size * opt.hidden * (opt.n_features + opt.hidden + 2)


PRODUCTS = {
    "hierarchical": hierarchical_products,
    "adafac_mlp": adafac_products,
    "mlp": mlp_products,
}


def meta_training(steps: int = 3) -> Measured:
    """Inner steps per second of meta-training, noise and outer optimizer included."""
    trainer = Trainer(cfg.loads(META_TRAINING), SerialComm())
    seconds, sgemm = beside_sgemm(lambda: [trainer.step() for _ in range(steps)], 3)
    per_outer = trainer.inner_steps / trainer.outer_step
    task, opt = parse_task(SMALL), trainer.problem.opt
    floor = 1e9 * sgemm / (operations(opt, task.layout) + task.operations)
    return Measured(steps * per_outer / seconds, sgemm, floor)


def share_of_sgemm(task: Task) -> Measured:
    """% of the sgemm rate that loss and gradient reach; each measured right before the other."""
    rates = []
    for _ in range(3):
        sgemm = sgemm_rate(clock=CLOCK, repeats=3)
        rates.append((100 * task.operations / (1e6 * step_ms(task)) / sgemm, sgemm))
    return Measured(*statistics.median_low(rates), 100.0)


def silence(name: str) -> Measured:
    """Time of a step after 1e5 steps on a quadratic, over that of a step at the start."""
    task, opt = parse_task(QUADRATIC), optimizer(name)
    runner = Runner(task, opt, Schedule(outer_every=10**6))
    theta, stream = opt.init_theta(), rng.stream(0)
    late = runner.start(theta, stream)
    runner.advance(theta, late, SILENCE, stream)

    def seconds(particle) -> float:
        begin = CLOCK()
        runner.advance(theta, particle, 2000, stream)
        return CLOCK() - begin

    ratios = [seconds(late) / seconds(runner.start(theta, stream)) for _ in range(7)]
    return Measured(statistics.median(ratios))


def _rollout_row(name: str, size: str, steps: int, asked: float | None, peer: float | None) -> Row:
    task = {"small": SMALL, "large": LARGE}[size]
    shape = {"small": "64-32-10", "large": "64-128-128-10"}[size]
    measure = partial(rollout, name, task, steps)
    return Row(
        f"{name} rollout, {size} task ({shape})", "inner steps/s", measure, asked, False, JAX, peer
    )


def _update_row(name: str, asked: float | None, peer: str, value: float | None) -> Row:
    measure = partial(update_alone, name)
    return Row(
        f"{name} update alone, 1e6 parameters", "ns/parameter", measure, asked, True, peer, value
    )


def _silence_row(name: str) -> Row:
    label = f"{name}, step after 1e5 on a quadratic over the first"
    return Row(label, "x", partial(silence, name), 1.2, True)


def _matrix_row(label: str, name: str) -> Row:
    measure: Callable[[], Measured] = lambda: share_of_sgemm(parse_task(name))  # noqa: E731
    return Row(f"loss + gradient, {label}", "% of sgemm", measure, 35.0)


ROWS = (
    Row(
        "loss + gradient, small task (sgd rollout)", "evaluations/s", partial(evaluations, SMALL),
        45_000, False, JAX, 34_300,
    ),
    _rollout_row("hierarchical", "small", 400, 6_000, 1_440),
    _rollout_row("hierarchical", "large", 60, 550, 120),
    Row(
        "meta-training, noise-reuse ES, 16 pairs x 50, small task", "inner steps/s", meta_training,
        5_500, False, JAX, 966,
    ),
    _rollout_row("adafac_mlp", "small", 1000, 18_000, 3_630),
    _rollout_row("mlp", "small", 500, None, 2_520),
    _rollout_row("adam", "small", 4000, 50_000, 34_300),
    _update_row("adafac_mlp", 12.0, JAX, 80.0),
    _update_row("hierarchical", 55.0, JAX, 585.0),
    _update_row("mlp", None, JAX, 351.0),
    _update_row("adam", 1.5, "torch AdamW, fused", 1.1),
    *(_matrix_row(label, name) for label, name in MATRIX_TASKS.items()),
    *(_silence_row(name) for name in ("adam", "adafac_mlp", "hierarchical")),
)  # fmt: skip
