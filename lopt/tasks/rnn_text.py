"""Recurrent text classification (TaskSet's rnn_text family, task set specification 3.8)."""

import dataclasses
import functools
import itertools
from typing import Any, Self

import numpy as np

from lopt import rng
from lopt.data import Text, load_text, split_ranges
from lopt.errors import TaskError, unknown
from lopt.lanes import kernel, lane, lanes
from lopt.ops.embedding import embedding_bwd, embedding_fwd, windows_fwd
from lopt.ops.losses import cross_entropy_reference
from lopt.ops.pooling_time import POOLINGS, pool_bwd, pool_fwd
from lopt.ops.recurrent import (
    CORE_SIZES,
    INPUTS,
    WIDTH,
    core_bwd,
    core_fwd,
    core_params,
    core_scratch,
)
from lopt.ops.token_loss import readout
from lopt.task import register_task
from lopt.tasks import samplers
from lopt.tasks.checks import checked_text
from lopt.tasks.recurrent_core import window_reference, window_reference_bwd
from lopt.tasks.text_windows import (
    EXTRA,
    LENGTH,
    N_TEXTS,
    TEXT_DATA,
    VOCAB,
    TextTask,
    sample_cell,
    sample_n_train,
    sample_readout,
)

SOURCES = tuple(f"source{k}" for k in range(5))  # generated texts, one per class
SOURCE_VOCAB = 8185  # the published subword vocabulary; id 0 is kept for padding
SOURCE_TOKENS = 200_000
SUCCESSORS, FOLLOWS = 4, 0.5  # followers of a word, and how often one of them comes next
CHAINS = 1000

# The published keys; the first are two names that a missing comma joined.
FUSED = "imdb_reviews/subwords8kimdb_reviews/bytes"
KEYS = (FUSED, *(
    f"tokenized_amazon_reviews/{name}_{encoding}"
    for name in ("Books_v1_02", "Camera_v1_00", "Home_v1_00", "Video_v1_00")
    for encoding in ("bytes", "subwords8k")
))  # fmt: skip


@kernel
def rnn_text_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean softmax cross-entropy of the text that each window comes from, and its gradient.

    See `lopt.task.Task`.  params: embed (V, E) | core | w_out (H, C) | b_out (C,).
    data.ints: tokens of the C texts.  data.sizes: core (CORE_SIZES), texts C, vocabulary V, window
    L, code of the pooling over time.
    Scratch: tokens (L, B) | classes (B,) | pooled (B, H) | its gradient | what the core keeps |
    what the readout needs.
    """
    spec = data.sizes[:CORE_SIZES]
    texts, vocab, steps = data.sizes[N_TEXTS], data.sizes[VOCAB], data.sizes[LENGTH]
    pooling, batch, width, inputs = data.sizes[EXTRA], rows.size, spec[WIDTH], spec[INPUTS]
    n, size = steps * batch, batch * width
    a = vocab * inputs
    b = a + core_params(spec)
    c = b + width * texts
    table, core = params[:a].reshape(vocab, inputs), params[a:b]
    w, bias = params[b:c].reshape(width, texts), params[c : c + texts]
    ids, classes = work[:n], work[n : n + batch]
    o = n + batch
    pooled = work[o : o + size].reshape(batch, width)
    dpooled = work[o + size : o + 2 * size].reshape(batch, width)
    x, hidden, cell, gates, dh, scratch, rest = core_scratch(
        spec, 0, work[o + 2 * size :], steps, batch
    )
    windows_fwd(data.ints, rows, texts, vocab, ids.reshape(steps, batch))
    for r in range(lane(), batch, lanes()):
        classes[r] = rows[r] % texts
    embedding_fwd(table, ids, x)
    core_fwd(spec, core, x, ids, hidden, cell, gates, scratch)
    outputs = hidden[1:].reshape(steps, size)
    pool_fwd(outputs, pooled.reshape(size), pooling)
    loss = readout(
        pooled, w, bias, classes, dpooled, grad[b:c].reshape(width, texts), grad[c : c + texts],
        rest, with_grad,
    )  # fmt: skip
    if with_grad != 0:
        pool_bwd(
            outputs, pooled.reshape(size), dpooled.reshape(size), dh.reshape(steps, size), pooling
        )
        core_bwd(spec, core, grad[a:b], x, ids, hidden, cell, gates, dh, scratch)
        # x = table[ids]
        embedding_bwd(ids, x, grad[:a].reshape(vocab, inputs))
    return loss


@functools.cache
def source(k: int) -> Text:
    """Text number k of the generated ones: 200,000 words 1..8184, by a Markov chain of its own.

    Word v has the same weight 1 / (v + 1) in all texts.  After each word comes, with probability
    1/2, one of the four successors that it has in this text, else any word by weight: texts differ
    in which words follow each other, and a little in how often each occurs.  1000 chains side by
    side, one behind the other in the text; a pure function of k.
    """
    stream = rng.stream(k)
    weights = 1.0 / np.arange(2, SOURCE_VOCAB + 1)
    law = np.cumsum(weights / weights.sum())

    def words(n: int, inner: int) -> np.ndarray:
        u = rng.uniforms(n, stream, rng.DATA, inner).astype(np.float64)
        return np.minimum(1 + np.searchsorted(law, u, side="right"), SOURCE_VOCAB - 1)

    followers = words(SOURCE_VOCAB * SUCCESSORS, 1).reshape(SOURCE_VOCAB, SUCCESSORS)
    steps = SOURCE_TOKENS // CHAINS
    fresh = words(SOURCE_TOKENS, 2).reshape(steps, CHAINS)
    u = rng.uniforms(SOURCE_TOKENS, stream, rng.DATA, 3).reshape(steps, CHAINS)
    which = (u * (SUCCESSORS / FOLLOWS)).astype(np.int64)  # below SUCCESSORS: that one
    tokens = np.empty((steps, CHAINS), np.int64)
    tokens[0] = fresh[0]
    for t in range(1, steps):
        follower = followers[tokens[t - 1], np.minimum(which[t], SUCCESSORS - 1)]
        tokens[t] = np.where(which[t] < SUCCESSORS, follower, fresh[t])
    flat = np.ascontiguousarray(tokens.T, np.int32).ravel()
    return Text(SOURCES[k], flat, split_ranges(flat.size), SOURCE_VOCAB)


@functools.cache
def stacked(names: str) -> Text:
    """Texts joined by "+", one after the other, each split cut to the shortest text's.

    `splits` counts tokens of one text.
    """
    texts = [source(SOURCES.index(n)) if n in SOURCES else load_text(n) for n in names.split("+")]
    ranges = list(zip(*(t.splits for t in texts), strict=True))
    sizes = [min(hi - lo for lo, hi in r) for r in ranges]
    parts = [t.ints[lo : lo + n] for t in texts for (lo, _), n in zip(t.splits, sizes, strict=True)]
    ends = np.cumsum([0, *sizes]).tolist()
    words = max(t.vocabulary for t in texts)
    return Text(names, np.concatenate(parts), tuple(itertools.pairwise(ends)), words)


@register_task(
    "rnn_text_classification",
    model=(
        "mean over B of softmax cross-entropy of W pool_t(h_t) + b, pool the last, mean or max "
        "over time"
    ),
    data=TEXT_DATA,
    source="TaskSet (Metz et al. 2020), rnn_text_classification_family",
    deviations="the class of a window is the text it is from, not a review's rating",
)
@dataclasses.dataclass(frozen=True)
class RnnText(TextTask):
    """Recurrent classification of windows by the text that they come from.

    Loss: softmax cross-entropy of a linear readout of the core's outputs, pooled over time.  The
    published data are reviews, and the class their rating; here a class is a text and a window of
    it an example.  Windows are never padded, so "last" reads no state behind padding.

    text     two or more texts joined by "+", one per class: "source0" to "source4" (generated, see
             `source`) and those of `lopt.data.load_text`
    pooling  "last" output, "avg" or "max" over time (ties share the gradient equally)
    Other options: `lopt.tasks.text_windows.TextTask`.
    """

    text: str = "source0+source1"
    pooling: str = "last"

    core = staticmethod(rnn_text_evaluate)

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise TaskError(unknown("pooling", self.pooling, POOLINGS))
        super().__post_init__()

    def check_text(self) -> None:
        """Refuse an unknown text, or fewer than two."""
        names = self.text.split("+")
        for name in names:
            if name not in SOURCES:
                checked_text("text", name)
        if len(names) < 2:
            raise TaskError(
                f"text = {self.text!r} is one class; nearest valid: {self.text}+source0"
            )

    @property
    def n_texts(self) -> int:
        """Classes."""
        return self.text.count("+") + 1

    @property
    def source(self) -> Text:
        """Tokens of all texts, one after the other, and the splits of each."""
        return stacked(self.text)

    @property
    def outputs(self) -> int:
        """Classes."""
        return self.n_texts

    @property
    def extra_sizes(self) -> tuple[int, ...]:
        """Code of the pooling."""
        return (POOLINGS.index(self.pooling),)

    def activations(self, batch: int) -> int:
        return super().activations(batch) + batch * self.cell_dim

    def work_size(self, batch: int) -> int:
        return super().work_size(batch) + batch * (1 + 2 * self.cell_dim)

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        w, tokens = self.layout.views(params), self.windows(rows)
        out, kept = window_reference(self.recurrent, w, w["embed"][tokens])
        share = {
            "last": np.arange(self.length)[:, None, None] == self.length - 1,
            "avg": np.full(out.shape, 1.0 / self.length),
            "max": (out == out.max(axis=0)) / (out == out.max(axis=0)).sum(axis=0),
        }[self.pooling]
        pooled = (out * share).sum(axis=0)
        loss, dz = cross_entropy_reference(pooled @ w["w_out"] + w["b_out"], rows % self.n_texts)
        dx, grads = window_reference_bwd(self.recurrent, w, kept, (dz @ w["w_out"].T) * share)
        grads |= {"w_out": pooled.T @ dz, "b_out": dz.sum(axis=0)}
        grads["embed"] = np.zeros_like(w["embed"])
        np.add.at(grads["embed"], tokens, dx)
        return loss, self.layout.flatten(grads, np.float64)

    @staticmethod
    def sample_config(seed: int) -> dict[str, Any]:
        """Configuration `rnn_text_classification_family_seed<seed>` of TaskSet as published."""
        r = np.random.RandomState(seed)
        head = sample_readout(r)
        key = samplers.choice(r, KEYS)
        n_train = sample_n_train(r)
        return {
            **head,
            "dataset": key,
            "n_train": n_train,
            "batch_size": samplers.logint(r, 8, 512),
            "just_train": bool(r.uniform(0.0, 1.0) < 0.2),
            "length": samplers.logint(r, 8, 128),
            "vocab": samplers.logint(r, 100, 10000),
            **sample_cell(r),
            "trainable_init": samplers.choice(r, (True, False)),
            "pooling": samplers.choice(r, ("last", "avg", "max")),
        }

    @classmethod
    def sample(cls, seed: int, upstream: bool = False) -> Self:
        """Task `rnn_text_classification_family_seed<seed>` of TaskSet on generated texts.

        Upstream loads one data set (two classes, 8185 subwords) whatever the key asks for; so does
        `upstream`.  Otherwise the key is taken at its word: Amazon reviews have five classes, and
        bytes leave at most 257 tokens.  `just_train` has no effect upstream either.
        """
        config = cls.sample_config(seed)
        key = config.pop("dataset")
        del config["just_train"]
        classes = 2 if upstream or key == FUSED else 5
        largest = 257 if key.endswith("_bytes") and not upstream else SOURCE_VOCAB
        config["vocab"] = min(config["vocab"], largest)
        text = "+".join(SOURCES[:classes])
        stands_for = "imdb_reviews/subwords8k" if upstream or key == FUSED else key
        return cls(text=text, stands_for=stands_for, **config)

    @classmethod
    def examples(cls) -> list[Self]:
        """Every pooling with every cell, several classes, texts of unequal length.

        Odd batches: in one with as many windows of either class the bias has no gradient at
        parameters near 0, and there would be nothing to compare.
        """
        small = functools.partial(cls, embed_dim=3, vocab=50, cell_dim=4, length=4, batch_size=5)
        return [
            *(
                small(pooling=p, cell=c, trainable_init=c == "gru", batch_size=3 + 2 * k)
                for k, (p, c) in enumerate(itertools.product(POOLINGS, ("lstm", "gru", "vanilla")))
            ),
            small(text="source0+kjv+source2", length=1, cell="vanilla", cell_activation="relu"),
        ]
