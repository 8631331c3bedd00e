"""Recurrent language models of bytes (TaskSet's char_rnn family, task set specification 3.6)."""

import dataclasses
import functools
from typing import Any, ClassVar, Self

import numpy as np

from lopt.lanes import kernel
from lopt.ops.activations import ACTIVATIONS
from lopt.ops.embedding import embedding_bwd, embedding_fwd, windows_fwd
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
from lopt.ops.token_loss import readout
from lopt.task import register_task
from lopt.tasks import samplers
from lopt.tasks.checks import check_flag
from lopt.tasks.initialisers import INITIALISERS
from lopt.tasks.recurrent_core import window_reference, window_reference_bwd
from lopt.tasks.text_windows import (
    BYTES,
    CORPORA,
    LENGTH,
    N_TEXTS,
    TEXT_DATA,
    VOCAB,
    TextTask,
    sample_cell,
    sample_n_train,
    sample_readout,
)


@kernel
def language_model_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean cross-entropy of the next token over all positions of the windows, and its gradient.

    See `lopt.task.Task`.  params: embed (V, E) | core | w_out (H, V) | b_out (V,).
    data.ints: tokens.  data.sizes: core (CORE_SIZES), texts 1, vocabulary V, window L.
    Scratch: tokens (L, B) | what the core keeps | what the readout needs.

    The core reads the first L - 1 tokens; what it would say about the last one is never scored.
    """
    spec = data.sizes[:CORE_SIZES]
    vocab, length, batch = data.sizes[VOCAB], data.sizes[LENGTH], rows.size
    width, inputs, steps = spec[WIDTH], spec[INPUTS], length - 1
    n = steps * batch
    a = vocab * inputs
    b = a + core_params(spec)
    c = b + width * vocab
    table, core = params[:a].reshape(vocab, inputs), params[a:b]
    w, bias = params[b:c].reshape(width, vocab), params[c : c + vocab]
    tokens = work[: length * batch]
    ids, targets = tokens[:n], tokens[batch : batch + n]
    x, hidden, cell, gates, dh, scratch, rest = core_scratch(
        spec, 0, work[length * batch :], steps, batch
    )
    windows_fwd(data.ints, rows, data.sizes[N_TEXTS], vocab, tokens.reshape(length, batch))
    embedding_fwd(table, ids, x)
    core_fwd(spec, core, x, ids, hidden, cell, gates, scratch)
    loss = readout(
        hidden[1:].reshape(n, width), w, bias, targets, dh.reshape(n, width),
        grad[b:c].reshape(width, vocab), grad[c : c + vocab], rest, with_grad,
    )  # fmt: skip
    if with_grad != 0:
        core_bwd(spec, core, grad[a:b], x, ids, hidden, cell, gates, dh, scratch)
        # x = table[ids]
        embedding_bwd(ids, x, grad[:a].reshape(vocab, inputs))
    return loss


@dataclasses.dataclass(frozen=True)
class LanguageModel(TextTask):
    """Base of the two families of language models: next-token prediction over whole windows.

    just_train   all four splits are the training split, as upstream has it: validation and test
                 batches then come from the text that is trained on
    """

    just_train: bool = False

    core = staticmethod(language_model_evaluate)
    steps_unread: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_flag("just_train", self.just_train)
        super().__post_init__()

    @property
    def text_splits(self) -> tuple[tuple[int, int], ...]:
        """Ranges of tokens."""
        splits = super().text_splits
        return splits[:1] * len(splits) if self.just_train else splits

    @property
    def positions(self) -> int:
        """Outputs of the core per window that are read out."""
        return self.length - 1

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        w, tokens = self.layout.views(params), self.windows(rows)
        out, kept = window_reference(self.recurrent, w, w["embed"][tokens[:-1]])
        flat = out.reshape(-1, self.cell_dim)
        loss, dz = cross_entropy_reference(flat @ w["w_out"] + w["b_out"], tokens[1:].ravel())
        dx, grads = window_reference_bwd(
            self.recurrent, w, kept, (dz @ w["w_out"].T).reshape(out.shape)
        )
        grads |= {"w_out": flat.T @ dz, "b_out": dz.sum(axis=0), "embed": np.zeros_like(w["embed"])}
        np.add.at(grads["embed"], tokens[:-1], dx)
        return loss, self.layout.flatten(grads, np.float64)


def sample_language_model(
    r: np.random.RandomState, head: dict[str, Any], longest: int, encoding: str
) -> dict[str, Any]:
    """The rest of a language model's configuration, behind the options in `head`."""
    cell = sample_cell(r)
    trainable = samplers.choice(r, (True, False))
    corpus = samplers.choice(r, CORPORA) + encoding
    n_train = sample_n_train(r)
    return {
        **head,
        **cell,
        "trainable_init": trainable,
        "dataset": corpus,
        "n_train": n_train,
        "length": samplers.logint(r, 10, longest),
        "batch_size": samplers.logint(r, 8, 512),
        "just_train": bool(r.uniform(0.0, 1.0) < 0.2),
    }


def build_sampled(
    cls: type[LanguageModel], config: dict[str, Any], text: str, upstream: bool
) -> LanguageModel:
    """The task of a sampled configuration on a text that is at hand."""
    options = {k: v for k, v in config.items() if k != "dataset"}
    options["just_train"] &= upstream
    return cls(text=text, stands_for=config["dataset"], **options)


@register_task(
    "char_rnn_language_model",
    model=(
        "mean over B (L - 1) positions of the cross-entropy of the next byte, logits W h_t + b, "
        "h_t by a vanilla, GRU or LSTM core"
    ),
    data=TEXT_DATA,
    source="TaskSet (Metz et al. 2020), char_rnn_language_model_family",
    deviations=(
        "stand-in text; windows are never padded; just_train is recorded only (upstream=True: all"
        " splits are the training set)"
    ),
)
@dataclasses.dataclass(frozen=True)
class CharRnn(LanguageModel):
    """Recurrent language model of bytes.

    Loss: mean cross-entropy of token t + 1 given tokens 0..t, over the L - 1 positions of every
    window.  The texts are one long stream, so no window is padded.
    Options: `lopt.tasks.text_windows.TextTask`, and `just_train` of `LanguageModel`.
    """

    @staticmethod
    def sample_config(seed: int) -> dict[str, Any]:
        """Configuration `char_rnn_language_model_family_seed<seed>` of TaskSet as published."""
        r = np.random.RandomState(seed)
        head = sample_readout(r)
        full = r.uniform(0.0, 1.0) < 0.8
        head["vocab"] = 256 if full else samplers.logint(r, 100, 256)
        return sample_language_model(r, head, 160, BYTES)

    @classmethod
    def sample(cls, seed: int, upstream: bool = False) -> Self:
        """Task `char_rnn_language_model_family_seed<seed>` of TaskSet on a stand-in for its text.

        All published byte corpora become "kjv"; `stands_for` keeps the name.  `just_train` takes
        effect only if `upstream`: splits of this library never overlap otherwise.
        """
        return build_sampled(cls, cls.sample_config(seed), "kjv", upstream)

    @classmethod
    def examples(cls) -> list[Self]:
        """Every cell, every activation, trained and fixed initial states, every initialiser."""
        small = functools.partial(cls, embed_dim=3, vocab=40, cell_dim=5, length=5, batch_size=4)
        cells = [
            small(cell="lstm", trainable_init=True),
            small(cell="lstm", batch_size=1, length=2),
            small(cell="gru", embed_dim=7),
            small(cell="gru", trainable_init=True, length=3, cell_initialisers=("he_normal",)),
            small(cell="vanilla", trainable_init=True, cell_activation="tanh"),
        ]
        vanilla = functools.partial(small, cell="vanilla", vocab=12, length=4, cell_dim=4)
        activations = [vanilla(cell_activation=a) for a in ACTIVATIONS if a != "tanh"]
        laws = ("identity", *(n for n in INITIALISERS if n != "sonnet"))  # the default
        inits = [
            vanilla(cell_initialisers=(a, b), cell_init_scales=(2.0, 0.5), initialiser=b)
            for a, b in zip(laws[::2], laws[1::2], strict=True)
        ]
        return [*cells, *activations, *inits]
