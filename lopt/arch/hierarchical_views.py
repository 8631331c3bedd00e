"""Where the hierarchical optimizer keeps its things: views of theta, state and scratch, and their sizes."""

from typing import NamedTuple

import numpy as np

from lopt.arch import loss_statistics as stats
from lopt.arch.features import CONSTANTS, TENSOR_FEATURES
from lopt.arch.per_parameter import Network, Scratch, network, scratch_of, scratch_size
from lopt.lanes import kernel

# data.sizes: these slots, then the tensor table
(
    LSTM,
    HIDDEN,
    TO_LSTM,
    BETWEEN,
    TO_MLP,
    DECAYS,
    PAST,
    CLIP_NORMALISED,
    LEARN_CLIP,
    ARTEFACT,
    TABLE,
) = range(11)
# data.hyper: step_mult, mag_rate, clip decay, clip multiple, then the accumulator decays
STEP_MULT, MAG_RATE, CLIP_DECAY, CLIP_MULT, FIRST_DECAY = range(5)
# state, at its end: t, train statistics, validation statistics, clip (t, q)
COUNTERS = 1 + 2 * stats.SIZE + 2


class Weights(NamedTuple):
    """Meta-parameters; y = x w + b everywhere."""

    mlp: Network
    lstm: np.ndarray  # (X + H, 4 H), X inputs: between, from the MLP, 18 features
    lstm_bias: np.ndarray  # (4 H,)
    to_mlp: np.ndarray  # (H, to_mlp)
    to_mlp_bias: np.ndarray
    between: np.ndarray  # (H, between)
    between_bias: np.ndarray
    clip: np.ndarray  # (2,) log(1 - decay), log multiple; empty unless learn_clip


class Memory(NamedTuple):
    """State; N parameters, T tensors, K decays."""

    m: np.ndarray  # (K * N,)
    v: np.ndarray  # (K * N,)
    past: np.ndarray  # (N,) parameters of 100 to 199 training calls ago; empty unless past_weights
    recent: np.ndarray  # (N,) the next `past`
    hidden: np.ndarray  # (T, H)
    cell: np.ndarray  # (T, H)
    from_mlp: np.ndarray  # (T, to_lstm)
    between: np.ndarray  # (between,)
    t: np.ndarray  # (1,) calls so far, validation calls too
    train: np.ndarray  # (3,)
    valid: np.ndarray  # (3,)
    clip: np.ndarray  # (2,) t, q


class Work(NamedTuple):
    """Scratch."""

    inputs: np.ndarray  # (T, X + H)
    gates: np.ndarray  # (T, 4 H)
    messages: np.ndarray  # (T, to_mlp)
    constants: np.ndarray  # (T, 14 + to_mlp)
    biases: np.ndarray  # (T, mlp hidden) of the MLP's first layer, constant inputs folded in
    factors: np.ndarray  # (T, F) 1 / RMS of the parameter features
    means: np.ndarray  # (T, mlp hidden) second hidden layer
    outputs: np.ndarray  # (T, 2 + to_lstm) of the MLP for that mean
    norms: np.ndarray  # (T,) |w|
    sums: np.ndarray  # (F, 1)
    squares: np.ndarray  # (F, 1)
    mean: np.ndarray  # (1, H)
    product: np.ndarray  # (1, between)
    network: Scratch


@kernel
def feature_count(sizes):
    """Per-parameter inputs that are normalised over the tensor."""
    return 3 + 4 * sizes[DECAYS] + sizes[PAST]


@kernel
def weights_of(theta, sizes):
    """The Weights in theta, in the order of theta_layout."""
    lstm, hidden, outputs = sizes[LSTM], sizes[HIDDEN], 2 + sizes[TO_LSTM]
    inputs = feature_count(sizes) + CONSTANTS + sizes[TO_MLP]
    n_input = sizes[BETWEEN] + sizes[TO_LSTM] + TENSOR_FEATURES + lstm
    a = inputs * hidden + hidden * hidden + hidden * outputs + 2 * hidden + outputs
    b = a + n_input * 4 * lstm
    c = b + 4 * lstm
    d = c + lstm * sizes[TO_MLP]
    e = d + sizes[TO_MLP]
    f = e + lstm * sizes[BETWEEN]
    g = f + sizes[BETWEEN]
    initial = sizes[BETWEEN] + sizes[TO_LSTM] + 2 * lstm  # read by init_state
    return Weights(
        network(theta, inputs, hidden, outputs),
        theta[a:b].reshape(n_input, 4 * lstm),
        theta[b:c],
        theta[c:d].reshape(lstm, sizes[TO_MLP]),
        theta[d:e],
        theta[e:f].reshape(lstm, sizes[BETWEEN]),
        theta[f:g],
        theta[g + initial :],
    )


@kernel
def memory_of(state, sizes, n):
    """The Memory in a state of n parameters."""
    tensors, lstm, planes, past = sizes[TABLE], sizes[LSTM], sizes[DECAYS] * n, sizes[PAST] * n
    a = 2 * planes + past
    b = a + past
    c = b + tensors * lstm
    d = c + tensors * lstm
    e = d + tensors * sizes[TO_LSTM]
    f = e + sizes[BETWEEN]
    g = f + 1 + stats.SIZE
    h = g + stats.SIZE
    return Memory(
        state[:planes],
        state[planes : 2 * planes],
        state[2 * planes : a],
        state[a:b],
        state[b:c].reshape(tensors, lstm),
        state[c:d].reshape(tensors, lstm),
        state[d:e].reshape(tensors, sizes[TO_LSTM]),
        state[e:f],
        state[f : f + 1],
        state[f + 1 : g],
        state[g:h],
        state[h : h + 2],
    )


@kernel
def work_of(work, sizes):
    """The Work in the scratch."""
    tensors, lstm, hidden, features = sizes[TABLE], sizes[LSTM], sizes[HIDDEN], feature_count(sizes)
    n_input = sizes[BETWEEN] + sizes[TO_LSTM] + TENSOR_FEATURES + lstm
    constants, outputs = CONSTANTS + sizes[TO_MLP], 2 + sizes[TO_LSTM]
    a = tensors * n_input
    b = a + tensors * 4 * lstm
    c = b + tensors * sizes[TO_MLP]
    d = c + tensors * constants
    e = d + tensors * hidden
    f = e + tensors * features
    g = f + tensors * hidden
    h = g + tensors * outputs
    i = h + tensors
    j = i + features
    k = j + features
    q = k + lstm
    r = q + sizes[BETWEEN]
    return Work(
        work[:a].reshape(tensors, n_input),
        work[a:b].reshape(tensors, 4 * lstm),
        work[b:c].reshape(tensors, sizes[TO_MLP]),
        work[c:d].reshape(tensors, constants),
        work[d:e].reshape(tensors, hidden),
        work[e:f].reshape(tensors, features),
        work[f:g].reshape(tensors, hidden),
        work[g:h].reshape(tensors, outputs),
        work[h:i],
        work[i:j].reshape(features, 1),
        work[j:k].reshape(features, 1),
        work[k:q].reshape(1, lstm),
        work[q:r].reshape(1, sizes[BETWEEN]),
        scratch_of(work[r:], features, hidden),
    )


def state_elements(sizes: np.ndarray, n: int) -> int:
    """Elements of state that `memory_of` reads."""
    per_tensor = 2 * sizes[LSTM] + sizes[TO_LSTM]
    planes = 2 * sizes[DECAYS] + 2 * sizes[PAST]
    return int(planes * n + per_tensor * sizes[TABLE] + sizes[BETWEEN] + COUNTERS)


def work_elements(sizes: np.ndarray, n: int) -> int:
    """Elements of scratch that `work_of` reads."""
    lstm, hidden, features = sizes[LSTM], sizes[HIDDEN], feature_count(sizes)
    n_input = sizes[BETWEEN] + sizes[TO_LSTM] + TENSOR_FEATURES + lstm
    per_tensor = n_input + 4 * lstm + 2 * sizes[TO_MLP] + CONSTANTS
    per_tensor += 2 * hidden + features + 2 + sizes[TO_LSTM] + 1
    shared = 2 * features + lstm + sizes[BETWEEN]
    network = scratch_size(int(features), int(hidden), n, int(sizes[TABLE]))
    return int(sizes[TABLE] * per_tensor + shared + network)
