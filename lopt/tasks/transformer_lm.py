"""A small causal transformer as a language model (the lm_transformer family of task set specification 11.2)."""

import dataclasses
import functools
from typing import Any, Self

import numpy as np

from lopt.data import load_text
from lopt.lanes import kernel, lane, lanes, sync
from lopt.layout import Layout
from lopt.ops.embedding import embedding_bwd, embedding_fwd
from lopt.ops.encoder import (
    ENCODER_SIZES,
    LENGTH,
    WIDTH,
    encoder_activations,
    encoder_backward_reference,
    encoder_bwd,
    encoder_fwd,
    encoder_params,
    encoder_reference,
    encoder_saved,
    encoder_tensors,
)
from lopt.ops.losses import cross_entropy_reference
from lopt.ops.token_loss import readout, readout_work
from lopt.ops.tokens import positions_bwd, positions_fwd
from lopt.ops.transformer import parts_work
from lopt.task import Task, TaskData, register_task
from lopt.tasks import samplers
from lopt.tasks.checks import check_batch_size, check_flag, check_integer, checked_text
from lopt.tasks.text_windows import TEXT_DATA, check_vocabulary
from lopt.tasks.transformer_options import (
    check_transformer,
    encoder_operations,
    first_affordable,
    floor_logint,
    init_weights,
    reference_dropout,
    training_dropout,
)

_VOCAB, _POSITIONS = ENCODER_SIZES, ENCODER_SIZES + 1
UNFOLDED = 1  # tokens below this are not folded onto: upstream's padding

# The published corpora, two texts in two encodings each, and the texts that stand in for them.
STAND_INS = {
    "lm1b/32k": "markov8192",
    "lm1b/bytes": "kjv",
    "wikipedia_en/32k": "markov8192",
    "wikipedia_en/bytes": "kjv",
}


@kernel
def windows(tokens, rows, vocab, ids, targets):
    """ids[r, t] = token t of the window at rows[r], targets[r, t] = the one behind it, both folded into the vocabulary.

    A token v >= V becomes 1 + v mod (V - 1).  Shapes: tokens (n,) int32; ids, targets (B, T) OVERWRITTEN.
    """
    batch, length = ids.shape
    for r in range(lane(), batch, lanes()):
        source = tokens[rows[r] : rows[r] + length + 1]
        now, then = ids[r], targets[r]
        for t in range(length):
            v, w = source[t], source[t + 1]
            now[t] = v if v < vocab else UNFOLDED + v % (vocab - UNFOLDED)
            then[t] = w if w < vocab else UNFOLDED + w % (vocab - UNFOLDED)
    sync()


@kernel
def transformer_lm_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean cross-entropy of the next token at every position of the windows, and its gradient.

    See `lopt.task.Task`.  params: embed (V, D) | positions (T, D), if any | encoder | w_out (D, V) | b_out (V,).
    data.ints: tokens.  data.sizes: encoder (ENCODER_SIZES), vocabulary V, whether there are positions.  data.hyper: keep,
    attention_keep.
    Scratch: tokens (M,) | targets (M,) | x (M, D) | its gradient (M, D) | what the encoder saves | shared scratch.
    """
    spec, vocab = data.sizes[:ENCODER_SIZES], data.sizes[_VOCAB]
    length, width, batch = spec[LENGTH], spec[WIDTH], rows.size
    m = batch * length
    n = m * width
    a = vocab * width  # ends of the tensors in params
    b = a + data.sizes[_POSITIONS] * length * width
    c = b + encoder_params(spec)
    e = c + width * vocab
    ids, targets = work[:m], work[m : 2 * m]
    x, d = work[2 * m : 2 * m + n], work[2 * m + n : 2 * m + 2 * n]
    o = 2 * m + 2 * n
    saved = work[o : o + encoder_saved(spec, batch)]
    scratch = work[o + saved.size :]

    windows(data.ints, rows, vocab, ids.reshape(batch, length), targets.reshape(batch, length))
    embedding_fwd(params[:a].reshape(vocab, width), ids, x.reshape(m, width))
    positions_fwd(params[a:b], x)
    noise = training_dropout(data.hyper, stream, split, step)
    last = encoder_fwd(spec, params[b:c], x.reshape(m, width), saved, scratch, noise)
    loss = readout(
        saved[last : last + n].reshape(m, width),
        params[c:e].reshape(width, vocab),
        params[e : e + vocab],
        targets,
        d.reshape(m, width),
        grad[c:e].reshape(width, vocab),
        grad[e : e + vocab],
        scratch,
        with_grad,
    )
    if with_grad != 0:
        encoder_bwd(spec, params[b:c], d.reshape(m, width), grad[b:c], saved, scratch, noise)
        # x[r, t] += positions[t]
        positions_bwd(d, grad[a:b])
        # x = embed[ids]
        embedding_bwd(ids, d.reshape(m, width), grad[:a].reshape(vocab, width))
    return loss


@register_task(
    "transformer_lm",
    model=(
        "mean over B L positions of the cross-entropy of the next token, logits W y_t + b, y a "
        "causal pre-norm transformer"
    ),
    data=TEXT_DATA,
    source="VeLO's task distribution (Metz et al. 2022); task set specification 11.2",
    deviations=(
        "dropout is off in validation and test; queries, keys and values share one tensor; stand-in texts; draws of "
        "its own random numbers, repeated until a step is feasible on one core"
    ),
)
@dataclasses.dataclass(frozen=True)
class TransformerLm(Task):
    """Language model of a text by a causal pre-norm transformer.

    Loss: mean cross-entropy of token t + 1 given tokens 0..t, over all T positions of every window of T + 1 tokens.
    x = embed[token] + positions[t]; L times an attention part, then a feed-forward part (`lopt.ops.transformer`);
    norm; linear readout, not tied to the embedding.

    text            name of a text, or of a file of the user's, see `lopt.data.load_text`
    vocab           tokens V; a token v >= V of the text becomes 1 + v mod (V - 1), as upstream folds them; 0: as many
                    as the text has
    length          positions T; a row of the data is the place where a window starts
    batch_size      windows per mini-batch
    width           of the residual stream
    layers          blocks
    heads           heads of an attention part
    key_size        numbers per head of queries, keys and values; 0: width / heads
    hidden          units of a feed-forward part; 0: 4 width
    keep            probability to keep a number that a part adds, which is then divided by it; 1: no dropout
    attention_keep  the same of attention weights.  Both act on the training split only
    positions       a learned embedding of the position is added; without it the causal mask alone tells them apart
    init_scale      weights of the blocks: truncated normals of variance init_scale / (layers fan_in), 2 upstream
    stands_for      corpus that a sampled task asks for and `text` stands in for; only a record

    Embeddings start as N(0, 0.02^2), the readout with variance 1 / width, gammas at 1, betas and biases at 0.
    Deviation from the published family: queries, keys and values share one tensor.

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    text: str = "kjv"
    vocab: int = 0
    length: int = 32
    batch_size: int = 16
    width: int = 64
    layers: int = 2
    heads: int = 4
    key_size: int = 0
    hidden: int = 0
    keep: float = 1.0
    attention_keep: float = 1.0
    positions: bool = True
    init_scale: float = 2.0
    stands_for: str = ""

    core = staticmethod(transformer_lm_evaluate)

    def __post_init__(self) -> None:
        checked_text("text", self.text)
        check_vocabulary(self.vocab)
        check_transformer(self)
        check_flag("positions", self.positions)
        shortest = min(hi - lo for lo, hi in load_text(self.text).splits)
        check_integer("length", self.length, 1, shortest - 1)
        check_batch_size(self.batch_size, load_text(self.text).ints.size, self.text)

    @property
    def vocabulary(self) -> int:
        """Tokens V."""
        return self.vocab or load_text(self.text).vocabulary

    @functools.cached_property
    def spec(self) -> tuple[int, ...]:
        """What describes the encoder."""
        key = self.key_size or self.width // self.heads
        hidden = self.hidden or 4 * self.width
        return self.length, self.width, self.layers, self.heads, self.heads * key, hidden, 1

    @functools.cached_property
    def layout(self) -> Layout:
        positions = [("positions", (self.length, self.width))] if self.positions else []
        return Layout(
            [
                ("embed", (self.vocabulary, self.width)),
                *positions,
                *encoder_tensors(self.spec),
                ("w_out", (self.width, self.vocabulary)),
                ("b_out", (self.vocabulary,)),
            ]
        )

    @functools.cached_property
    def arrays(self) -> TaskData:
        sizes = np.array([*self.spec, self.vocabulary, int(self.positions)], np.int64)
        hyper = np.array([self.keep, self.attention_keep], np.float32)
        return TaskData(np.zeros(0, np.float32), load_text(self.text).ints, sizes, hyper)

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        """Rows: first tokens of the windows that stay inside the split."""
        return tuple((lo, hi - self.length) for lo, hi in load_text(self.text).splits)

    def activations(self, batch: int) -> int:
        """Tokens and their embeddings, the encoder's, logits."""
        each = 1 + self.width + self.vocabulary
        return batch * self.length * each + encoder_activations(self.spec, batch)

    def work_size(self, batch: int) -> int:
        length, width, _, _, inner, hidden, _ = self.spec
        m = batch * length
        scratch = max(
            parts_work(m, length, width, inner, hidden), readout_work(m, width, self.vocabulary)
        )
        return 2 * m + 2 * m * width + encoder_saved(self.spec, batch) + scratch

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        views = self.layout.views(params)
        init_weights(views, self.init_scale / self.layers, stream)
        return params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        t = self.layout.views(params)
        tokens = load_text(self.text).ints[rows[:, None] + np.arange(self.length + 1)]
        tokens = np.where(tokens < self.vocabulary, tokens, 1 + tokens % (self.vocabulary - 1))
        now, then = tokens[:, :-1], tokens[:, 1:]
        x = t["embed"][now] + (t["positions"] if self.positions else 0.0)
        noise = reference_dropout(self, stream, split, step)
        y, tape = encoder_reference(x, t, self.spec, noise)
        logits = np.einsum("btd,dv->btv", y, t["w_out"]) + t["b_out"]
        loss, dz = cross_entropy_reference(logits.reshape(-1, self.vocabulary), then.ravel())
        dz = dz.reshape(logits.shape)
        grads = {"w_out": np.einsum("btd,btv->dv", y, dz), "b_out": dz.sum(axis=(0, 1))}
        dy = np.einsum("btv,dv->btd", dz, t["w_out"])
        dx = encoder_backward_reference(dy, t, tape, grads)
        grads["embed"] = np.einsum("btv,btd->vd", np.eye(self.vocabulary)[now], dx)
        if self.positions:
            grads["positions"] = dx.sum(axis=0)
        return loss, self.layout.flatten(grads, np.float64)

    @property
    def operations(self) -> float:
        """Multiplications and additions of one loss and gradient, matrix products only."""
        return encoder_operations(self.spec, self.batch_size) + (
            6.0 * self.batch_size * self.length * self.width * self.vocabulary
        )

    @staticmethod
    def draw_config(r: np.random.RandomState) -> dict[str, Any]:
        """Options by the published law, however large."""
        per_head, heads = floor_logint(r, 8, 128), floor_logint(r, 8, 128)
        layers, batch_size = floor_logint(r, 1, 8), floor_logint(r, 4, 512)
        length, corpus = floor_logint(r, 4, 512), samplers.choice(r, tuple(STAND_INS))
        return {
            "text": STAND_INS[corpus],
            "stands_for": corpus,
            "width": per_head * heads,
            "heads": heads,
            "layers": layers,
            "batch_size": batch_size,
            "length": length,
            "vocab": floor_logint(r, 100, 10000),
            "key_size": 32,
            "keep": 0.9,
            "positions": False,
        }

    @classmethod
    def sample(cls, seed: int) -> Self:
        """A random task by the law of VeLO's lm_transformer, a pure function of the seed.

        As published: key size 32 whatever the width, no positional embedding, 4 width hidden units, 0.1 dropped.  The published
        random keys cannot be repeated: the draws are those of RandomState(seed), in the order of the specification's
        table.  Deviations: drawn again until it is affordable, see `first_affordable`; stand-ins for the corpora.
        """
        return first_affordable(cls, seed)

    @classmethod
    def examples(cls) -> list[Self]:
        """With and without positions and dropout, with a key size of its own, one position, a folded vocabulary.

        Without positions equal tokens tie in the softmax, and rounding decides for one where the scores are large:
        the window is short enough to have none twice.
        """
        small = functools.partial(cls, vocab=40, length=5, batch_size=3, width=8, heads=2, hidden=9)
        return [
            small(layers=1, keep=0.75, attention_keep=0.5),
            small(layers=2, length=3, positions=False, key_size=3, vocab=113, keep=0.9),
            small(layers=1, length=1, heads=1, batch_size=4),
        ]
