"""Text and sequence families: published configurations, closed forms, data, refusals, learning."""

import itertools

import numpy as np
import pytest

from lopt import rng
from lopt.data import load_text
from lopt.errors import TaskError
from lopt.optimizer import optimizer
from lopt.rollout import Schedule, rollout
from lopt.task import INNER_VALID, OUTER_VALID, SPLITS, TEST, TRAIN, Task, TaskData
from lopt.tasks import sample_task, task
from lopt.tasks.char_rnn import CharRnn
from lopt.tasks.rnn_text import FUSED, KEYS, RnnText, source
from lopt.tasks.sequences import Sequence
from lopt.tasks.text_windows import CORPORA, WORK_LIMIT
from lopt.tasks.word_rnn import WordRnn

FAMILIES = {"char_rnn_language_model": CharRnn, "word_rnn_language_model": WordRnn,
            "rnn_text_classification": RnnText}  # fmt: skip
CELLS = ("vanilla", "gru", "lstm")
STREAM = rng.stream(4)


def rows_of(t: Task, split: int = TRAIN, step: int = 0) -> np.ndarray:
    return rng.integers(t.batch_size, *t.splits[split], STREAM, rng.BATCH + split, step)


def evaluate(t: Task, params: np.ndarray, rows=None, split=TRAIN, step=0, stream=STREAM):
    rows = rows_of(t, split) if rows is None else rows
    grad = np.full_like(params, 7.0)
    work = np.full(t.work_size(rows.size), np.nan, params.dtype)
    _, ints, sizes, _ = t.arrays
    none = np.zeros(0, params.dtype)  # one dtype throughout, as in test_tasks: one compilation
    data = TaskData(none, ints, sizes, none)
    loss = type(t).core(params, grad, data, rows, stream, split, step, work, 1)
    return float(loss), grad


# Published configurations


def test_published_char_rnn_configuration() -> None:
    assert CharRnn.sample_config(0) == {
        "embed_dim": 37, "initialiser": "random_normal", "init_scale": 1.605191133358763,
        "vocab": 256, "cell": "gru", "cell_dim": 78, "cell_activation": "tanh",
        "cell_initialisers": ("he_normal",), "cell_init_scales": (1.0,), "trainable_init": True,
        "dataset": "tokenized_wikipedia/20190301.ja_bytes", "n_train": 0, "length": 29,
        "batch_size": 215, "just_train": False,
    }  # fmt: skip


def test_published_word_rnn_configuration() -> None:
    assert WordRnn.sample_config(0) == {
        **CharRnn.sample_config(0),
        "vocab": 6381,
        "dataset": "tokenized_wikipedia/20190301.ja_subwords8k",
        "length": 35,
    }


def test_published_text_classification_configuration() -> None:
    assert RnnText.sample_config(0) == {
        "embed_dim": 37, "initialiser": "random_normal", "init_scale": 1.605191133358763,
        "dataset": "tokenized_amazon_reviews/Camera_v1_00_bytes", "batch_size": 107, "n_train": 0,
        "just_train": False, "length": 18, "vocab": 130, "cell": "vanilla", "cell_dim": 62,
        "cell_initialisers": ("he_uniform",), "cell_init_scales": (1.0,),
        "cell_activation": "swish", "trainable_init": False, "pooling": "avg",
    }  # fmt: skip


def test_keys_are_in_ascii_order() -> None:
    assert list(KEYS) == sorted(KEYS)
    assert len(KEYS) == 9
    for encoding in ("bytes", "subwords8k"):
        assert [c + encoding for c in CORPORA] == sorted(c + encoding for c in CORPORA)
    assert len(CORPORA) == 11


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_laws(family: str) -> None:
    """1000 seeds: shares within 5 sigma, sizes within their ranges."""
    drawn = [FAMILIES[family].sample_config(seed) for seed in range(1000)]
    linked = [c for c in drawn if c["cell"] == "gru"]
    for hits, n, p in (
        (sum(c["cell"] == "lstm" for c in drawn), 1000, 1 / 3),
        (sum(len(c["cell_initialisers"]) == 1 for c in linked), len(linked), 0.8),
        (sum(c["n_train"] > 0 for c in drawn), 1000, 0.2),
        (sum(c["just_train"] for c in drawn), 1000, 0.2),
        (sum(c["trainable_init"] for c in drawn), 1000, 0.5),
    ):
        assert abs(hits - n * p) <= 5.0 * np.sqrt(n * p * (1 - p))
    assert {len(c["cell_initialisers"]) for c in drawn} == {1, 2, 6}
    assert all(32 <= c["cell_dim"] <= 128 and 8 <= c["embed_dim"] <= 128 for c in drawn)
    lengths = {"char_rnn_language_model": (10, 160), "word_rnn_language_model": (10, 256),
               "rnn_text_classification": (8, 128)}[family]  # fmt: skip
    assert all(lengths[0] <= c["length"] <= lengths[1] for c in drawn)
    assert all(8 <= c["batch_size"] <= 512 for c in drawn)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_sampled_task_can_be_built(family: str) -> None:
    """... from its configuration alone, and within the limit of memory."""
    for seed in range(300):
        t = sample_task(family, seed)
        assert t.work_size(t.batch_size) <= WORK_LIMIT
        assert t.splits[TRAIN][1] > 0
        if seed < 20:
            assert task(**t.config()) == t


def test_sampled_tasks_stand_for_the_published_text() -> None:
    t = sample_task("char_rnn_language_model", 0)
    assert (t.text, t.stands_for) == ("kjv", "tokenized_wikipedia/20190301.ja_bytes")
    assert t.layout.shapes[0] == (256, 37)
    t = sample_task("word_rnn_language_model", 0)
    assert (t.text, t.vocab) == ("markov8192", 6381)


def test_a_text_key_is_taken_at_its_word_unless_upstream() -> None:
    """Sane: five stars and at most 257 byte tokens; upstream: two classes of 8185 subwords."""
    for seed in range(200):
        config = RnnText.sample_config(seed)
        sane, upstream = RnnText.sample(seed), RnnText.sample(seed, upstream=True)
        assert upstream.n_texts == 2
        assert upstream.vocab == min(config["vocab"], 8185)
        assert upstream.stands_for == "imdb_reviews/subwords8k"
        assert sane.n_texts == (2 if config["dataset"] == FUSED else 5)
        if config["dataset"].endswith("_bytes") and config["dataset"] != FUSED:
            assert sane.vocab == min(config["vocab"], 257)


def test_just_train_overlaps_only_upstream() -> None:
    seed = next(s for s in range(99) if CharRnn.sample_config(s)["just_train"])
    sane, upstream = CharRnn.sample(seed), CharRnn.sample(seed, upstream=True)
    assert len(set(sane.splits)) == 4
    assert not sane.just_train
    assert set(upstream.splits) == {sane.splits[TRAIN]}


# Windows


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [2, 50])
def test_windows_stay_inside_their_split(family: str, length: int) -> None:
    """The last window of a split ends with its last token; the first of the next is its own."""
    t = task(family, length=length)
    k = t.n_texts
    for (lo, hi), (first, end) in zip(t.splits, t.text_splits, strict=True):
        assert (lo, hi // k - 1 + length) == (k * first, end)
        rows = np.array([lo, hi - 1])
        windows = t.windows(rows)
        source_tokens = t.source.ints.reshape(k, -1)
        expected = np.minimum(source_tokens[(hi - 1) % k, end - length : end], t.vocabulary - 1)
        np.testing.assert_array_equal(windows[:, 1], expected)
    ends = sorted(t.text_splits)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))


def test_training_text_can_be_cut_short() -> None:
    whole, cut = CharRnn(length=20), CharRnn(length=20, n_train=100)
    assert cut.text_splits[TRAIN] == (0, 2000)
    assert cut.splits[INNER_VALID:] == whole.splits[INNER_VALID:]
    assert CharRnn(length=20, n_train=10**6).splits == whole.splits


def test_tokens_beyond_the_vocabulary_become_the_last() -> None:
    t = CharRnn(vocab=60, length=4)
    tokens = t.windows(rows_of(t))
    assert tokens.max() == 59
    raw = CharRnn(length=4).windows(rows_of(t))
    np.testing.assert_array_equal(tokens == 59, raw >= 59)


def test_the_text_is_shared_between_tasks() -> None:
    assert CharRnn(length=9).arrays.ints is load_text("kjv").ints
    assert RnnText(length=9).arrays.ints is RnnText(length=8).arrays.ints


def test_generated_texts_are_alike_in_words_but_not_in_order() -> None:
    """Frequent words are frequent in both; what follows them differs."""
    a, b = source(0).ints, source(1).ints
    assert a.size == b.size == 200_000
    assert a.min() >= 1
    assert a.max() <= 8184
    shares = [np.bincount(x, minlength=8185)[1:51].sum() / x.size for x in (a, b)]
    assert all(0.3 < s < 0.6 for s in shares)
    followers = [set(np.unique(x[1:][x[:-1] == 1], return_counts=True)[0].tolist()) for x in (a, b)]
    common = [np.bincount(x[1:][x[:-1] == 1], minlength=8185).argmax() for x in (a, b)]
    assert len(followers[0]) > 100
    assert common[0] != common[1]
    assert (source(0).ints == source(0).ints).all()


# Closed forms


@pytest.mark.parametrize("cell", CELLS)
def test_zero_parameters_know_nothing(cell: str) -> None:
    """Loss log V, and no gradient but that of the last bias: 1 / V - the share of each token."""
    t = CharRnn(cell=cell, embed_dim=4, cell_dim=5, vocab=200, length=6, batch_size=7)
    loss, grad = evaluate(t, np.zeros(t.layout.size, np.float32))
    assert loss == pytest.approx(np.log(200.0), rel=1e-6)
    parts = t.layout.views(grad)
    counts = np.bincount(t.windows(rows_of(t))[1:].ravel(), minlength=200)
    np.testing.assert_allclose(parts.pop("b_out"), 1 / 200 - counts / counts.sum(), atol=1e-7)
    assert all((g == 0.0).all() for g in parts.values())


@pytest.mark.parametrize("pooling", ["last", "avg", "max"])
def test_text_classification_at_zero(pooling: str) -> None:
    t = RnnText(pooling=pooling, embed_dim=4, cell_dim=5, length=6, batch_size=7)
    loss, _ = evaluate(t, np.zeros(t.layout.size, np.float32))
    assert loss == pytest.approx(np.log(2.0), rel=1e-6)


def test_a_bigram_model_in_disguise() -> None:
    """State = embedding of the token, so the readout sees one token: loss of a bigram table."""
    t = CharRnn(
        cell="vanilla", cell_activation="linear", embed_dim=128, cell_dim=128, vocab=128, length=20
    )
    params = np.zeros(t.layout.size)
    views = t.layout.views(params)
    views["embed"][...] = views["wx"][...] = np.eye(128)
    table = views["w_out"]
    table[...] = rng.normals(128 * 128, STREAM, rng.TASK).reshape(128, 128)
    tokens = t.windows(rows_of(t))
    logits = table[tokens[:-1]]
    log_p = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    expected = -np.take_along_axis(log_p, tokens[1:, :, None], axis=2).mean()
    loss, grad = evaluate(t, params)
    assert loss == pytest.approx(expected, rel=1e-13)
    counts = np.bincount(tokens[:-1].ravel(), minlength=128)
    used = t.layout.views(grad)["embed"].any(axis=1)
    np.testing.assert_array_equal(used, counts > 0)


def test_the_last_token_is_only_a_target() -> None:
    """Changing what the core would read last changes no gradient but through the target."""
    t = CharRnn(vocab=256, length=3, embed_dim=3, cell_dim=4, batch_size=1)
    rows = np.array([17])
    _, grad = evaluate(t, t.init(STREAM), rows)
    last = t.windows(rows)[-1, 0]
    seen = set(t.windows(rows)[:-1, 0].tolist())
    assert last not in seen
    used = np.flatnonzero(t.layout.views(grad)["embed"].any(axis=1))
    assert set(used.tolist()) == seen


def test_classes_are_the_texts() -> None:
    """A bias towards text 1 has loss log(1 + e^-8) on its windows and log(1 + e^8) on the other's."""
    t = RnnText(embed_dim=3, cell_dim=4, length=5)
    params = np.zeros(t.layout.size)
    t.layout.views(params)["b_out"][1] = 8.0
    for text, expected in ((1, np.log1p(np.exp(-8.0))), (0, np.log1p(np.exp(8.0)))):
        rows = np.array([2 * 30 + text, 2 * 99 + text])
        assert evaluate(t, params, rows)[0] == pytest.approx(expected, rel=1e-12)
        part = t.source.ints.reshape(2, -1)[text, 30:35]
        np.testing.assert_array_equal(t.windows(rows)[:, 0], part)


def test_exploding_initial_values_end_in_a_loss_that_is_not_finite_or_in_a_finite_one() -> None:
    """Scale 10 without fan scaling, relu: never a small finite loss out of overflow."""
    t = CharRnn(
        cell="vanilla", cell_activation="relu", cell_dim=128, embed_dim=64, length=60,
        cell_initialisers=("random_normal",), cell_init_scales=(10.0,), batch_size=8,
    )  # fmt: skip
    loss, _ = evaluate(t, t.init(STREAM))
    assert not np.isfinite(loss)
    trace = rollout(t, optimizer("sgd"), steps=3)
    assert trace.status == "diverged"
    assert np.isfinite(trace.train_loss).all()


# Synthetic sequences


@pytest.mark.parametrize(("items", "symbols"), [(5, 10), (1, 1), (50, 5)])
def test_copy_sequences(items: int, symbols: int) -> None:
    t = Sequence(items=items, symbols=symbols, batch_size=64, cell_dim=4)
    tokens, targets = t.sequences(64, STREAM, TRAIN, 3)
    assert tokens.shape == (2 * items + 1, 64)
    np.testing.assert_array_equal(tokens[:items], targets)
    assert (tokens[items] == symbols).all()
    assert (tokens[items + 1 :] == symbols + 1).all()
    assert targets.min() >= 0
    assert targets.max() < symbols
    assert np.unique(targets).size == symbols


@pytest.mark.parametrize(("items", "symbols"), [(5, 20), (40, 100), (3, 3), (1, 1)])
def test_associative_sequences(items: int, symbols: int) -> None:
    t = Sequence(kind="associative", items=items, symbols=symbols, batch_size=64, cell_dim=4)
    tokens, targets = t.sequences(64, STREAM, TRAIN, 3)
    assert tokens.shape == (2 * items + 2, 64)
    keys, values = tokens[0 : 2 * items : 2], tokens[1 : 2 * items : 2]
    assert all(np.unique(k).size == items for k in keys.T)
    assert (tokens[-2] == symbols + 1).all()
    asked = keys == tokens[-1]
    assert (asked.sum(axis=0) == 1).all()
    np.testing.assert_array_equal(values[asked.argmax(axis=0), np.arange(64)], targets[0])


def test_associative_keys_and_questions_are_uniform() -> None:
    """4000 sequences: every symbol is as often the first key, every place as often asked for."""
    t = Sequence(kind="associative", items=3, symbols=8, cell_dim=4)
    tokens, _ = t.sequences(4000, STREAM, TRAIN, 0)
    asked = (tokens[0:6:2] == tokens[-1]).argmax(axis=0)
    for values, n in ((tokens[0], 8), (tokens[4], 8), (tokens[5], 8), (asked, 3)):
        counts = np.bincount(values, minlength=n)
        assert counts.size == n
        assert (np.abs(counts - 4000 / n) < 5.0 * np.sqrt(4000 / n)).all()


def test_sequences_are_fresh_and_addressed() -> None:
    """They change with step, split and stream, not with the rows; smaller batches are a part."""
    t = Sequence(items=4, symbols=50, cell_dim=4, batch_size=16)
    base, _ = t.sequences(16, STREAM, TRAIN, 0)
    for stream, split, step in (
        (STREAM, TRAIN, 1), (STREAM, OUTER_VALID, 0), (rng.stream(5), TRAIN, 0),
    ):  # fmt: skip
        assert (t.sequences(16, stream, split, step)[0] != base).any()
    np.testing.assert_array_equal(t.sequences(5, STREAM, TRAIN, 0)[0], base[:, :5])
    params = t.init(STREAM)
    assert evaluate(t, params, np.zeros(16, np.int64))[0] == evaluate(t, params, np.arange(16))[0]
    assert evaluate(t, params, step=1)[0] != evaluate(t, params)[0]


def test_only_the_answers_are_scored() -> None:
    """Readout rows (biases) towards marks cost; outputs before the answers have no gradient."""
    t = Sequence(items=3, symbols=4, cell="vanilla", cell_dim=5, batch_size=6)
    _, targets = t.sequences(6, STREAM, TRAIN, 0)
    _, grad = evaluate(t, np.zeros(t.layout.size))
    share = np.bincount(targets.ravel(), minlength=6) / targets.size
    np.testing.assert_allclose(t.layout.views(grad)["b_out"], 1 / 6 - share, atol=1e-15)


# Learning: what is learned on the training split holds on the others


@pytest.mark.parametrize(
    ("spec", "steps", "rate", "start", "bound"),
    [
        (("char_rnn_language_model", {"vocab": 128, "embed_dim": 16}), 150, 1e-2, np.log(128), 2.7),
        (("rnn_text_classification", {"vocab": 300, "cell": "gru", "cell_dim": 16}), 300, 1e-2,
         np.log(2), 0.35),
        (("synthetic_sequence", {"cell_dim": 64, "items": 3, "symbols": 4}), 150, 1e-2,
         np.log(6), 0.5),
    ],
)  # fmt: skip
def test_adam_learns(spec, steps: int, rate: float, start: float, bound: float) -> None:
    t = task(spec[0], **spec[1])
    schedule = Schedule(outer_every=steps, outer_batches=20)
    trace = rollout(t, optimizer("adam", learning_rate=rate), steps=steps, schedule=schedule)
    assert trace.train_loss[0] == pytest.approx(start, rel=0.2)
    assert trace.outer_loss[-1] < bound


# Refusals


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("char_rnn_language_model", {"text": "kjw"}, "text: unknown text 'kjw'; did you mean 'kjv'"),
        ("char_rnn_language_model", {"length": 1}, "length = 1, .*nearest: 2"),
        ("char_rnn_language_model", {"length": 50_001}, "length = 50001, .*nearest: 50000"),
        ("char_rnn_language_model", {"vocab": 1}, "vocab = 1, .*nearest: 2"),
        ("char_rnn_language_model", {"embed_dim": 0}, "embed_dim = 0, .*nearest: 1"),
        ("char_rnn_language_model", {"cell": "lstn"}, "did you mean 'lstm'"),
        ("char_rnn_language_model", {"cell_dim": 2.5}, "core_dim = 2.5, valid: an integer"),
        ("char_rnn_language_model", {"just_train": 1}, "just_train = 1, valid: true or false"),
        ("char_rnn_language_model", {"n_train": -1}, "n_train = -1, .*nearest: 0"),
        ("char_rnn_language_model", {"initialiser": "he"}, "unknown initialiser 'he'"),
        ("char_rnn_language_model", {"batch_size": 0}, "batch_size = 0, .*nearest: 1"),
        ("char_rnn_language_model", {"batch_size": 4096, "length": 4000},
         "batch_size = 4096 needs .* MiB of scratch, valid: at most 1024 MiB; nearest by halving"),
        ("rnn_text_classification", {"text": "kjv"}, "is one class; nearest valid: kjv.source0"),
        ("rnn_text_classification", {"text": "kjv+kjw"}, "text: unknown text 'kjw'; did you mean 'kjv'"),
        ("rnn_text_classification", {"pooling": "mean"}, "unknown pooling 'mean'"),
        ("synthetic_sequence", {"kind": "cpy"}, "did you mean 'copy'"),
        ("synthetic_sequence", {"kind": "associative", "items": 11}, "items = 11, .*nearest: 10"),
        ("synthetic_sequence", {"symbols": 0}, "symbols = 0, .*nearest: 1"),
    ],
)  # fmt: skip
def test_bad_options_are_named(family: str, options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(family, **options)


def test_split_names_are_those_of_the_library() -> None:
    assert len(SPLITS) == len(CharRnn().splits) == TEST + 1
