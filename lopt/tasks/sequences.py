"""Synthetic sequences: copying and associative recall (task set specification 5).

Tokens are drawn afresh for every batch of every step, from the keyed random numbers of the task;
all splits follow the same law.  Source: Metz et al. 2020; copying after Graves, Wayne and Danihelka
2014, "Neural Turing machines", 4.1, associative recall after Ba et al. 2016, "Using fast weights to
attend to the recent past", 4.1.
"""

import dataclasses
import functools
from typing import Self

import numpy as np

from lopt import rng
from lopt.errors import TaskError, unknown
from lopt.lanes import kernel, lane, lanes, sync
from lopt.layout import Layout
from lopt.ops.losses import cross_entropy_reference
from lopt.ops.recurrent import (
    CORE_SIZES,
    INPUTS,
    WIDTH,
    core_bwd,
    core_fwd,
    core_params,
    core_scratch,
)
from lopt.ops.token_loss import readout, readout_work
from lopt.rng import uniforms_into
from lopt.task import Task, TaskData, register_task
from lopt.tasks.checks import check_integer
from lopt.tasks.initialisers import draw
from lopt.tasks.recurrent_core import Core, window_reference, window_reference_bwd
from lopt.tasks.text_windows import check_memory

KINDS = ("copy", "associative")
COPY, ASSOCIATIVE = range(2)

# Entries of data.sizes behind the description of the core.
KIND, ITEMS, SYMBOLS = (CORE_SIZES + k for k in range(3))


@kernel
def draws_per_row(kind, items):
    """Uniforms that one sequence takes."""
    return items if kind == COPY else 2 * items + 1


@kernel
def copy_tokens(draws, symbols, ids, targets):
    """L random tokens, a separator, L times the marker; targets: the tokens, at the markers.

    Shapes: draws (B, L) uniforms in [0, 1); ids (2 L + 1, B) and targets (L, B) OVERWRITTEN with
    token ids: 0..T-1 symbols, T the separator, T + 1 the marker.
    """
    batch, items = draws.shape
    for i in range(2 * items + 1):
        row = ids[i]
        for r in range(lane(), batch, lanes()):
            if i < items:
                token = int(draws[r, i] * symbols)
                row[r] = token
                targets[i, r] = token
            else:
                row[r] = symbols if i == items else symbols + 1
    sync()


@kernel
def associative_tokens(draws, symbols, keys, ids, targets):
    """Pairs k1 v1 ... kP vP, the query marker, one of the keys; target: its value, at the end.

    Keys are distinct (a shuffle of all symbols, cut off after P), values are not.
    Shapes: draws (B, 2 P + 1) uniforms in [0, 1); keys (B, T) scratch; ids (2 P + 2, B) and targets
    (1, B) OVERWRITTEN with token ids: 0..T-1 symbols, T + 1 the query marker.
    """
    batch = draws.shape[0]
    pairs = (draws.shape[1] - 1) // 2
    for r in range(lane(), batch, lanes()):
        u, key = draws[r], keys[r]
        for s in range(symbols):
            key[s] = s
        for p in range(pairs):
            other = p + int(u[p] * (symbols - p))
            chosen = key[other]
            key[other] = key[p]
            key[p] = chosen
            ids[2 * p, r] = chosen
            ids[2 * p + 1, r] = int(u[pairs + p] * symbols)
        asked = int(u[2 * pairs] * pairs)
        ids[2 * pairs, r] = symbols + 1
        ids[2 * pairs + 1, r] = key[asked]
        targets[0, r] = ids[2 * asked + 1, r]
    sync()


@kernel
def sequence_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean cross-entropy of the scored positions of fresh random sequences, and its gradient.

    See `lopt.task.Task`; of rows only their number counts.  params: core with one-hot inputs |
    w_out (H, V) | b_out (V,), V = T + 2.  data.sizes: core (CORE_SIZES), kind, items, symbols T.
    Noise: number (r, i) of address NOISE + split, inner step, gives draw i of sequence r.
    Scratch: draws | keys (B, T) | tokens (S, B) | targets | what the core keeps | the readout's.
    """
    spec, batch = data.sizes[:CORE_SIZES], rows.size
    kind, items, symbols = data.sizes[KIND], data.sizes[ITEMS], data.sizes[SYMBOLS]
    width, vocab, each = spec[WIDTH], spec[INPUTS], draws_per_row(kind, items)
    scored = items if kind == COPY else 1
    steps = 2 * items + (1 if kind == COPY else 2)
    silent = (steps - scored) * batch * width  # outputs that nobody scores
    n = scored * batch
    a = batch * each
    b = a + batch * symbols
    c = b + steps * batch
    d = c + n
    draws, keys = work[:a].reshape(batch, each), work[a:b].reshape(batch, symbols)
    ids, targets = work[b:c], work[c:d]
    x, hidden, cell, gates, dh, scratch, rest = core_scratch(spec, 1, work[d:], steps, batch)
    uniforms_into(work[:a], 0, stream, rng.NOISE + split, step)
    sync()
    if kind == COPY:
        copy_tokens(draws, symbols, ids.reshape(steps, batch), targets.reshape(scored, batch))
    else:
        associative_tokens(
            draws, symbols, keys, ids.reshape(steps, batch), targets.reshape(scored, batch)
        )
    end = core_params(spec)
    last = end + width * vocab
    core_fwd(spec, params[:end], x, ids, hidden, cell, gates, scratch)
    flat = dh.reshape(steps * batch * width)
    loss = readout(
        hidden[steps + 1 - scored :].reshape(n, width), params[end:last].reshape(width, vocab),
        params[last : last + vocab], targets, flat[silent:].reshape(n, width),
        grad[end:last].reshape(width, vocab), grad[last : last + vocab], rest, with_grad,
    )  # fmt: skip
    if with_grad != 0:
        for i in range(lane(), silent, lanes()):
            flat[i] = params.dtype.type(0.0)
        sync()
        core_bwd(spec, params[:end], grad[:end], x, ids, hidden, cell, gates, dh, scratch)
    return loss


@register_task(
    "synthetic_sequence",
    model="mean over scored positions of the cross-entropy of W h_t + b on one-hot inputs",
    data="drawn afresh for every batch: tokens to copy, or keys and values to recall",
    source="TaskSet (Metz et al. 2020), fixed tasks; Graves et al. 2014; Ba et al. 2016",
    deviations="none",
)
@dataclasses.dataclass(frozen=True)
class Sequence(Task):
    """Copying or associative recall by a recurrent core.

    Inputs are one-hot tokens: `symbols` symbols and two marks.  A core of the library's default
    initial values, fixed zero initial state, linear readout shared by all steps.
    Loss: softmax cross-entropy over the scored positions.  At the start about log(symbols + 2).

    kind         "copy": repeat `items` tokens after they have all been read; or "associative":
                 name the value that came with a key, after `items` pairs
    items        L or P
    symbols      T
    cell         "vanilla" (tanh), "gru" or "lstm", and its width `cell_dim`
    batch_size   sequences per mini-batch

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    kind: str = "copy"
    items: int = 5
    symbols: int = 10
    cell: str = "lstm"
    cell_dim: int = 128
    batch_size: int = 128

    core = staticmethod(sequence_evaluate)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TaskError(unknown("kind", self.kind, KINDS))
        check_integer("symbols", self.symbols, 1, 2**20)
        check_integer("items", self.items, 1, self.symbols if self.kind == "associative" else None)
        check_integer("batch_size", self.batch_size, 1)
        check_memory(self)

    @functools.cached_property
    def recurrent(self) -> Core:
        """The recurrent core."""
        return Core(self.cell, self.symbols + 2, self.cell_dim)

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return 2 * self.items + (1 if self.kind == "copy" else 2)

    @property
    def scored(self) -> int:
        """Positions at the end of a sequence that have a target."""
        return self.items if self.kind == "copy" else 1

    @functools.cached_property
    def layout(self) -> Layout:
        v = self.symbols + 2
        return Layout((*self.recurrent.tensors, ("w_out", (self.cell_dim, v)), ("b_out", (v,))))

    @functools.cached_property
    def arrays(self) -> TaskData:
        sizes = [*self.recurrent.spec, KINDS.index(self.kind), self.items, self.symbols]
        none = np.zeros(0, np.float32)
        return TaskData(none, np.zeros(0, np.int32), np.array(sizes, np.int64), none)

    def activations(self, batch: int) -> int:
        """Tokens, the core's, logits."""
        core = self.recurrent.activations(self.length, batch, one_hot=True)
        return core + batch * (self.length + self.scored * (self.symbols + 2))

    def work_size(self, batch: int) -> int:
        draws = int(draws_per_row(KINDS.index(self.kind), self.items))
        tokens = batch * (draws + self.symbols + self.length + self.scored)
        core = self.recurrent.work_size(self.length, batch, one_hot=True)
        return tokens + core + readout_work(batch * self.scored, self.cell_dim, self.symbols + 2)

    @property
    def operations(self) -> float:
        """Multiplications and additions of one loss and gradient, matrix products only; one-hot inputs cost none."""
        each = self.recurrent.size * self.length + self.cell_dim * (self.symbols + 2) * self.scored
        return 6.0 * self.batch_size * each

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        views = self.layout.views(params)
        self.recurrent.init(views, stream, 0)
        shape, last = views["w_out"].shape, len(self.layout) - 2
        views["w_out"][...] = draw("sonnet", 1.0, shape, stream, last)
        return params

    def sequences(
        self, batch: int, stream: np.ndarray, split: int, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (S, B) and targets (scored positions, B) of a batch, int64."""
        u = (
            rng.uniforms(
                batch * draws_per_row(KINDS.index(self.kind), self.items),
                stream,
                rng.NOISE + split,
                step,
            )
            .reshape(batch, -1)
            .astype(np.float64)
        )
        items, symbols = self.items, self.symbols
        if self.kind == "copy":
            tokens = (u * symbols).astype(np.int64)
            marks = [[symbols] + [symbols + 1] * items] * batch
            return np.concatenate([tokens, marks], axis=1).T, tokens.T
        found, targets = [], []
        for row in u:
            keys = list(range(symbols))
            for p in range(items):
                other = p + int(row[p] * (symbols - p))
                keys[p], keys[other] = keys[other], keys[p]
            values = (row[items:-1] * symbols).astype(np.int64).tolist()
            asked = int(row[-1] * items)
            pairs = [token for pair in zip(keys, values, strict=False) for token in pair]
            found.append([*pairs, symbols + 1, keys[asked]])
            targets.append([values[asked]])
        return np.array(found, np.int64).T, np.array(targets, np.int64).T

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        w = self.layout.views(params)
        tokens, targets = self.sequences(rows.size, stream, split, step)
        out, kept = window_reference(self.recurrent, w, np.eye(self.symbols + 2)[tokens])
        flat = out[-self.scored :].reshape(-1, self.cell_dim)
        loss, dz = cross_entropy_reference(flat @ w["w_out"] + w["b_out"], targets.ravel())
        dout = np.zeros_like(out)
        dout[-self.scored :] = (dz @ w["w_out"].T).reshape(self.scored, -1, self.cell_dim)
        _, grads = window_reference_bwd(self.recurrent, w, kept, dout)
        grads |= {"w_out": flat.T @ dz, "b_out": dz.sum(axis=0)}
        return loss, self.layout.flatten(grads, np.float64)

    @classmethod
    def examples(cls) -> list[Self]:
        """Both kinds with every cell; all symbols used as keys; one symbol."""
        small = functools.partial(cls, items=2, symbols=4, cell_dim=5, batch_size=3)
        return [
            *(small(kind=kind, cell=cell) for kind in KINDS for cell in ("vanilla", "gru", "lstm")),
            small(kind="associative", items=3, symbols=3, cell="gru", batch_size=2),
            small(kind="copy", items=3, symbols=1, batch_size=2),
        ]
