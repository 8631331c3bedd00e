"""A stack of pre-norm transformer blocks and the norm behind it, forward and backward.

Each block is an attention part and a feed-forward part (`lopt.ops.transformer`).  Parameters, saved numbers and
gradients of the stack are flat slices, block after block, then those of the last norm.  Sizes as in
`lopt.ops.transformer`: B examples of T positions, M = B T, width D, H heads, inner A, hidden F.
"""

from typing import Any

import numpy as np

from lopt.lanes import kernel, single_use
from lopt.ops.dropout import Dropout, mask_reference
from lopt.ops.transformer import (
    Tensors,
    Views,
    attention_params,
    attention_part_backward_reference,
    attention_part_bwd,
    attention_part_fwd,
    attention_part_reference,
    attention_saved,
    attention_tensors,
    feed_forward_params,
    feed_forward_part_backward_reference,
    feed_forward_part_bwd,
    feed_forward_part_fwd,
    feed_forward_part_reference,
    feed_forward_saved,
    feed_forward_tensors,
    norm_bwd,
    norm_fwd,
    norm_layer_backward_reference,
    norm_layer_reference,
    norm_tensors,
)

# What describes a stack: entries of its `spec`.
ENCODER_SIZES = 7
LENGTH, WIDTH, LAYERS, HEADS, INNER, HIDDEN, CAUSAL = range(ENCODER_SIZES)


def encoder_tensors(spec: tuple[int, ...]) -> Tensors:
    """Names and shapes of the parameters in their order."""
    tensors: Tensors = []
    for k in range(spec[LAYERS]):
        tensors += attention_tensors(spec[WIDTH], spec[INNER], f"block{k}_")
        tensors += feed_forward_tensors(spec[WIDTH], spec[HIDDEN], f"block{k}_")
    return [*tensors, *norm_tensors(spec[WIDTH])]


def encoder_activations(spec: tuple[int, ...], batch: int) -> int:
    """Numbers that a tape holds, see `lopt.task.Task.activations`.

    Of norms what is normalised, divisors and results; queries, keys, values, attention weights, their results; hidden
    units before and after gelu.
    """
    length, width, layers, heads, inner, hidden, _ = spec
    norm, square = 2 * width + 1, heads * length * length
    block = length * (2 * norm + 4 * inner + 2 * hidden) + square
    return batch * (layers * block + length * norm)


@kernel
def encoder_params(spec):
    """Numbers in the parameters of a stack; spec (ENCODER_SIZES,) integers."""
    attention = attention_params(spec[WIDTH], spec[INNER])
    feed_forward = feed_forward_params(spec[WIDTH], spec[HIDDEN])
    return spec[LAYERS] * (attention + feed_forward) + 2 * spec[WIDTH]


@kernel
def encoder_saved(spec, batch):
    """Numbers that a stack saves for the backward pass."""
    m = batch * spec[LENGTH]
    attention = attention_saved(batch, spec[LENGTH], spec[WIDTH], spec[HEADS], spec[INNER])
    feed_forward = feed_forward_saved(m, spec[WIDTH], spec[HIDDEN])
    return spec[LAYERS] * (attention + feed_forward) + m * (2 * spec[WIDTH] + 1)


@kernel
def block_draws(spec, batch):
    """Uniforms that dropout takes in a block: those of attention weights, of the attention part, of the other."""
    m = batch * spec[LENGTH]
    return m * spec[HEADS] * spec[LENGTH] + 2 * m * spec[WIDTH]


@single_use
def encoder_fwd(spec, params, x, saved, work, noise):
    """Where the result lies: offset in `saved` of the last norm's result (M, D), the first thing that norm saves.

    Shapes: spec (ENCODER_SIZES,) int64; params (encoder_params,); x (M, D) OVERWRITTEN; saved
    (encoder_saved(B),) OVERWRITTEN; scratch work (parts_work(M, T, D, A, F),).  noise: a `Dropout`, of whose uniforms
    block k takes those from k block_draws on.
    """
    m, width = x.shape
    inner, hidden, heads = spec[INNER], spec[HIDDEN], spec[HEADS]
    batch = m // spec[LENGTH]
    draws, weights = block_draws(spec, batch), m * heads * spec[LENGTH]
    p, s = 0, 0
    for k in range(spec[LAYERS]):
        first = k * draws
        q = p + attention_params(width, inner)
        t = s + attention_saved(batch, spec[LENGTH], width, heads, inner)
        attention_part_fwd(
            x, params[p:q], saved[s:t], work, batch, heads, inner, spec[CAUSAL], noise, first
        )
        p = q + feed_forward_params(width, hidden)
        s = t + feed_forward_saved(m, width, hidden)
        second = first + weights + m * width
        feed_forward_part_fwd(x, params[q:p], saved[t:s], work, hidden, noise, second)
    norm_fwd(x, params[p:], saved[s:])
    return s


@single_use
def encoder_bwd(spec, params, d, grad, saved, work, noise):
    """d (M, D), the gradient of the result, becomes that of x; grad (encoder_params,) OVERWRITTEN."""
    m, width = d.shape
    inner, hidden, heads = spec[INNER], spec[HIDDEN], spec[HEADS]
    batch = m // spec[LENGTH]
    p = encoder_params(spec) - 2 * width
    s = encoder_saved(spec, batch) - m * (2 * width + 1)
    draws, weights = block_draws(spec, batch), m * heads * spec[LENGTH]
    norm_bwd(params[p:], saved[s:], d, grad[p:], work)
    for back in range(spec[LAYERS]):
        first = (spec[LAYERS] - 1 - back) * draws
        second = first + weights + m * width
        q = p - feed_forward_params(width, hidden)
        t = s - feed_forward_saved(m, width, hidden)
        feed_forward_part_bwd(d, params[q:p], grad[q:p], saved[t:s], work, hidden, noise, second)
        p = q - attention_params(width, inner)
        s = t - attention_saved(batch, spec[LENGTH], width, heads, inner)
        attention_part_bwd(
            d, params[p:q], grad[p:q], saved[s:t], work, batch, heads, inner, noise, first
        )


def encoder_reference(
    x: np.ndarray, t: Views, spec: tuple[int, ...], noise: Dropout
) -> tuple[np.ndarray, Any]:
    """Result (B, T, D) in plain NumPy, and what its backward pass needs."""
    tapes, (batch, length, _) = [], x.shape
    heads, causal = spec[HEADS], bool(spec[CAUSAL])
    square, at = (batch, heads, length, length), 0
    for k in range(spec[LAYERS]):
        weights = mask_reference(square, noise.attention_keep, noise, at).swapaxes(2, 3)
        at += weights.size
        masks = [mask_reference(x.shape, noise.keep, noise, at + n * x.size) for n in range(2)]
        at += 2 * x.size
        x, first = attention_part_reference(x, t, f"block{k}_", heads, causal, weights, masks[0])
        x, second = feed_forward_part_reference(x, t, f"block{k}_", masks[1])
        tapes.append((first, second))
    y, last = norm_layer_reference(x, t, "")
    return y, (tapes, last)


def encoder_backward_reference(d: np.ndarray, t: Views, tape: Any, grads: Views) -> np.ndarray:
    """Gradient of x; those of the parameters go into grads."""
    tapes, last = tape
    d = norm_layer_backward_reference(d, t, "", last, grads)
    for k, (first, second) in reversed(list(enumerate(tapes))):
        d = feed_forward_part_backward_reference(d, t, f"block{k}_", second, grads)
        d = attention_part_backward_reference(d, t, f"block{k}_", first, grads)
    return d
