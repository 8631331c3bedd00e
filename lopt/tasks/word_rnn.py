"""Recurrent language models of words (TaskSet's word_rnn family, task set specification 3.7)."""

import dataclasses
import functools
from typing import Any, Self

import numpy as np

from lopt.task import register_task
from lopt.tasks import samplers
from lopt.tasks.char_rnn import LanguageModel, build_sampled, sample_language_model
from lopt.tasks.text_windows import SUBWORDS, TEXT_DATA, sample_readout


@register_task(
    "word_rnn_language_model",
    model=(
        "mean over B (L - 1) positions of the cross-entropy of the next token, logits W h_t + b, "
        "h_t by a vanilla, GRU or LSTM core"
    ),
    data=TEXT_DATA,
    source="TaskSet (Metz et al. 2020), word_rnn_language_model_family",
    deviations=(
        "stand-in text; windows are never padded; just_train is recorded only (upstream=True: all"
        " splits are the training set)"
    ),
)
@dataclasses.dataclass(frozen=True)
class WordRnn(LanguageModel):
    """Recurrent language model of words.

    As `lopt.tasks.char_rnn.CharRnn` on a text with a large vocabulary.  A vocabulary beyond that of
    the text only adds rows and logits that no token asks for, at their full cost.  Logits are made
    in blocks (`lopt.ops.token_loss`), so that all published sizes fit in 1 GiB of scratch.
    Options: `lopt.tasks.text_windows.TextTask`, and `just_train` of `LanguageModel`.
    """

    text: str = "markov8192"

    @staticmethod
    def sample_config(seed: int) -> dict[str, Any]:
        """Configuration `word_rnn_language_model_family_seed<seed>` of TaskSet as published."""
        r = np.random.RandomState(seed)
        head = sample_readout(r)
        head["vocab"] = samplers.logint(r, 1000, 30000)
        return sample_language_model(r, head, 256, SUBWORDS)

    @classmethod
    def sample(cls, seed: int, upstream: bool = False) -> Self:
        """Task `word_rnn_language_model_family_seed<seed>` of TaskSet on a stand-in for its text.

        All published subword corpora become "markov8192"; `stands_for` keeps the name.
        `just_train` takes effect only if `upstream`: splits never overlap otherwise.
        """
        return build_sampled(cls, cls.sample_config(seed), "markov8192", upstream)

    @classmethod
    def examples(cls) -> list[Self]:
        """Every cell; a readout in two blocks."""
        small = functools.partial(cls, text="kjv", embed_dim=3, cell_dim=4, length=3, batch_size=3)
        return [
            small(vocab=1100, cell="lstm", trainable_init=True, length=2),
            small(vocab=30, cell="gru"),
            small(vocab=30, cell="vanilla", cell_activation="relu"),
        ]
