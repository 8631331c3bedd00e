"""Where the time of a step goes: every part of an optimizer's step alone, over the same tensors and blocks.

A part runs many times on the same numbers, so its data stand in the caches as they do in a whole step; what the parts
leave of the whole is bookkeeping between them.
"""

from collections.abc import Callable, Iterator

import numpy as np

from lopt import rng
from lopt.arch import adafac_mlp as adafac
from lopt.arch import features as see
from lopt.arch import hierarchical as hier
from lopt.arch import hierarchical_views as views
from lopt.arch.adafac_factored import add_input_squares, first_layer_of_inputs, multipliers
from lopt.arch.adafac_features import (
    FACTORED,
    N_DECAYS,
    TABLE,
    spread_over_block,
    tensor_of,
    update_accumulators,
    update_tensor_moments,
)
from lopt.arch.gradient_clip import clip_gradient
from lopt.arch.per_parameter import (
    BLOCK,
    KEPT,
    TIMES,
    apply_direction,
    hidden_layers,
    network,
    place_of,
    second_layer,
)
from lopt.bench.cpu import MILLION, SMALL
from lopt.bench.measure import Figure, beside_sgemm, step_ms
from lopt.lanes import add_row_squares, add_row_sums, kernel
from lopt.layout import Layout
from lopt.optimizer import TABLE_COLUMNS, optimizer
from lopt.tasks import parse_task

STEPS = {"small": 500, "1e6": 1}  # repeated inside a timing


@kernel
def adafac_part(part, times, theta, params, grad, state, data, work):
    """One part of `adafac_mlp_step`, again and again; those of inputs for factored tensors only."""
    n, hidden, table = params.size, data.sizes[0], data.sizes[2:]
    starts = table[1 + TABLE * table[0] :]
    decays, fresh, moments, folded, scratch = adafac.views_of(state, work, n, hidden, data.sizes[1])
    net = network(theta, adafac.N_FEATURES + len(TIMES), hidden, 2)
    v, squares = state[N_DECAYS * n :], folded.squares.reshape(FACTORED * BLOCK)
    decay, no_step = params.dtype.type(0.9), params.dtype.type(0.0)
    decays[:, 0], decays[:, 1] = decay, params.dtype.type(1.0) - decay
    for _ in range(times):
        for j in range(table[0]):
            at = 1 + TABLE * j
            tensor = tensor_of(table, at)
            offset, end, factored = tensor.offset, tensor.offset + tensor.size, tensor.n_rows > 0
            if part == 0:
                update_tensor_moments(
                    grad, moments, fresh, table, at, tensor, starts, decays, scratch.squares
                )
            elif part == 4:
                adafac.first_layer(net, scratch, folded, moments, tensor)
            else:
                for start in range(offset, end, BLOCK):
                    rows = scratch.rows[place_of(n, offset, j, start)]
                    count = min(BLOCK, end - start)
                    if part == 1:
                        update_accumulators(grad, state, decays, start, count)
                    elif part == 8:
                        own = params[start : start + count]
                        apply_direction(own, scratch, net, no_step, no_step)
                    elif not factored:
                        continue
                    elif part == 2:
                        multipliers(rows, count, v, moments, tensor, starts, start)
                    elif part == 3:
                        add_input_squares(squares, rows, count, params, grad, state, start)
                    elif part == 5:
                        spread_over_block(
                            scratch.first, folded.means, 0, tensor, starts, start, count, False
                        )
                    elif part == 6:
                        first, out = scratch.scaled, scratch.first
                        first_layer_of_inputs(out, rows, count, first, params, grad, state, start)
                    elif part == 7:
                        second_layer(scratch, count, net)


@kernel
def hierarchical_part(part, times, theta, params, grad, state, data, work):
    """One part of `hierarchical_step`, again and again."""
    sizes, n = data.sizes, params.size
    memory, weights = views.memory_of(state, sizes, n), views.weights_of(theta, sizes)
    room = views.work_of(work, sizes)
    table, net, mlp = sizes[views.TABLE :], room.network, weights.mlp
    n_decays, decays = sizes[views.DECAYS], data.hyper[views.FIRST_DECAY :]
    no_step, summed = params.dtype.type(0.0), 3 + 2 * n_decays
    for _ in range(times):
        if part == 0:
            clip_gradient(grad, memory.clip, table, 0.99, 10.0, net.squares[0])
        elif part == 5:
            hier.tensor_network(weights, memory, room, table, views.feature_count(sizes), 5.0)
        else:
            for k in range(table[0]):
                at = 1 + TABLE_COLUMNS * k
                offset, size = table[at], table[at + 1]
                own = params[offset : offset + size]
                if part == 4:
                    variance = see.variance_about(own, 0.1, net.heads[:1], net.sums[:1])
                    see.tensor_features(
                        room.inputs[k], room.sums, room.squares, variance, n_decays, table, at, 1.0, 1.0
                    )  # fmt: skip
                    continue
                for start in range(offset, offset + size, BLOCK):
                    rows = net.rows[place_of(n, offset, k, start)]
                    count = min(BLOCK, offset + size - start)
                    if part == 1:
                        see.update_accumulators(count, grad, memory, decays, n_decays, start)
                    elif part == 2:
                        see.parameter_features(rows, count, params, grad, memory, n_decays, start)
                    elif part == 3:
                        add_row_sums(rows[1:summed], count, net.sums[1:summed])
                        add_row_squares(rows, count, net.squares)
                    elif part == 6:
                        hidden_layers(net, rows, count, net.scaled, room.biases[k], mlp)
                    elif part == 7:
                        add_row_sums(net.second, count, net.hidden_sums)
                    elif part == 8:
                        moved = params[start : start + count]
                        apply_direction(moved, net, mlp, no_step, no_step)


PARTS: dict[str, tuple[Callable, dict[int, str]]] = {
    "adafac_mlp": (
        adafac_part,
        {
            0: "second moments of rows and columns",
            1: "accumulators",
            2: "multipliers",
            3: "sums of squares of inputs",
            4: "weights and biases of rows and columns",
            5: "biases of parameters",
            6: "first layer, inputs included",
            7: "second layer",
            8: "output head",
        },
    ),
    "hierarchical": (
        hierarchical_part,
        {
            0: "gradient clip",
            1: "accumulators",
            2: "features",
            3: "sums of them and of their squares",
            4: "features of tensors",
            5: "LSTM and messages",
            6: "per-parameter network, two layers",
            7: "mean hidden layer",
            8: "output head",
        },
    ),
}
# computed once more in the second pass where they are too many to keep
TWICE = ("features", "multipliers")


def figures() -> Iterator[Figure]:
    """Both optimizers on the small task and on 1e6 parameters."""
    small = parse_task(SMALL)
    yield Figure("small task: loss + gradient", 1e3 * step_ms(small), "us")
    for name in PARTS:
        yield from parts(name, "small", small.layout)
        yield from parts(name, "1e6", MILLION)


def parts(name: str, label: str, layout: Layout) -> Iterator[Figure]:
    """Microseconds of every part of a step, of the whole step, and what is between."""
    opt, (part_of, names) = optimizer(name), PARTS[name]
    theta, data = opt.init_theta(), opt.opt_data(layout)
    state, work = opt.init_state(theta, layout), np.zeros(opt.work_size(layout), np.float32)
    params = rng.normals(layout.size, rng.stream(0), rng.INIT)
    grad = np.float32(0.01) * rng.normals(layout.size, rng.stream(1), rng.INIT)
    times, left = STEPS[label], 0.0

    def step() -> None:
        for _ in range(times):
            opt.step(theta, params, grad, state, 1.0, 0, data, work)

    whole, sgemm = beside_sgemm(step)
    yield Figure(f"{name}, {label}: whole step", 1e6 * whole / times, "us", sgemm=sgemm)
    for part, text in names.items():
        arguments = part, times, theta, params, grad, state, data, work
        seconds, sgemm = beside_sgemm(lambda arguments=arguments: part_of(*arguments), 3)
        twice = 2 if text in TWICE and layout.size > KEPT else 1
        left += twice * seconds
        text = f"{text}, twice" if twice == 2 else text
        yield Figure(f"{name}, {label}: {text}", 1e6 * twice * seconds / times, "us", sgemm=sgemm)
    yield Figure(f"{name}, {label}: between the parts", 1e6 * (whole - left) / times, "us")
