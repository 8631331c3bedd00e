"""What the recurrent text families share: options, windows of a text, sampling of configurations.

A row of the data is the place where a window starts, so that a fresh row for every slot of every
batch is a fresh window.  Source: task set specification 1.7, 2.3, 3.6-3.8.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from lopt.data import Text, load_text
from lopt.errors import TaskError
from lopt.layout import Layout
from lopt.ops.recurrent import CORE_SIZES
from lopt.ops.token_loss import readout_work
from lopt.task import Task, TaskData
from lopt.tasks import samplers
from lopt.tasks.checks import check_integer, checked_text
from lopt.tasks.initialisers import draw
from lopt.tasks.recurrent_core import WEIGHTS, Core, check_law, draw_weights

# Entries of data.sizes behind the description of the core.
N_TEXTS, VOCAB, LENGTH, EXTRA = (CORE_SIZES + k for k in range(4))
WORK_LIMIT = 2**28  # numbers of scratch, 1 GiB in float32

# The published corpora in the order of the sampler; the encoding follows the name.
CORPORA = (
    "imdb_reviews/", "lm1b/",
    *(f"tokenized_amazon_reviews/{name}_" for name in (
        "Books_v1_02", "Camera_v1_00", "Home_v1_00", "Video_v1_00",
    )),
    *(f"tokenized_wikipedia/20190301.{name}_" for name in ("en", "hsb", "ja", "ru", "zh")),
)  # fmt: skip
BYTES, SUBWORDS = "bytes", "subwords8k"


def check_vocabulary(value: object) -> None:
    """Refuse what is neither 0 nor a number of tokens.

    Raises:
        TaskError: as said.
    """
    if type(value) is not int or value != 0:
        check_integer("vocab", value, 2, 2**24)  # ids are exact as float32


def check_memory(task: Task) -> None:
    """Refuse a batch whose scratch would exceed WORK_LIMIT.

    Raises:
        TaskError: names the largest batch size below that would do, halving.
    """
    if task.work_size(task.batch_size) <= WORK_LIMIT:
        return
    batch = task.batch_size
    while batch > 1 and task.work_size(batch) > WORK_LIMIT:
        batch //= 2
    raise TaskError(
        f"batch_size = {task.batch_size} needs {task.work_size(task.batch_size) >> 18} MiB of "
        f"scratch, valid: at most {WORK_LIMIT >> 18} MiB; nearest by halving: {batch}"
    )


TEXT_DATA = "windows of an embedded or generated text, or of a file"


@dataclasses.dataclass(frozen=True)
class TextTask(Task):
    """A recurrent core between an embedding of tokens and a linear readout; base of the families.

    text               name of a text, or of a file of the user's, see `lopt.data.load_text`
    embed_dim          width of the embedding, N(0, 1) at the start
    vocab              tokens V; larger ones of the text become V - 1; 0: as many as the text has
    cell               "vanilla", "gru" or "lstm", and its width `cell_dim`
    cell_activation    of a vanilla cell
    cell_initialisers  laws of the cell's weights, see `lopt.tasks.recurrent_core.Core`; and scales
    trainable_init     the initial state is trained
    initialiser        law of the readout's weights, see `draw_weights`, and its scale `init_scale`;
                       its biases start at 0
    length             tokens of a window
    batch_size         windows per mini-batch
    n_train            the training split keeps n_train * length tokens; 0: all
    stands_for         corpus that a sampled task asks for and `text` stands in for; only a record

    Raises:
        TaskError: an option is out of range, or the scratch would exceed 1 GiB; names the option
            and the nearest valid value.
    """

    text: str = "kjv"
    embed_dim: int = 32
    vocab: int = 0
    cell: str = "lstm"
    cell_dim: int = 64
    cell_activation: str = "tanh"
    cell_initialisers: tuple[str, ...] = ()
    cell_init_scales: tuple[float, ...] = ()
    trainable_init: bool = False
    initialiser: str = "sonnet"
    init_scale: float = 1.0
    length: int = 32
    batch_size: int = 32
    n_train: int = 0
    stands_for: str = ""

    steps_unread: ClassVar[int] = 0  # last tokens of a window, which the core does not read

    def __post_init__(self) -> None:
        check_integer("embed_dim", self.embed_dim, 1)
        check_vocabulary(self.vocab)
        check_law("initialiser", self.initialiser, self.init_scale)
        check_integer("batch_size", self.batch_size, 1)
        check_integer("n_train", self.n_train, 0)
        self.check_text()
        shortest = min(hi - lo for lo, hi in self.text_splits)
        check_integer("length", self.length, self.steps_unread + 1, shortest)
        check_memory(self)

    def check_text(self) -> None:
        """Refuse a text that is not there."""
        checked_text("text", self.text)

    @property
    def n_texts(self) -> int:
        """Texts of equal length that windows are cut from."""
        return 1

    @property
    def source(self) -> Text:
        """Their tokens, one text after the other, and the splits of each."""
        return load_text(self.text)

    @property
    def vocabulary(self) -> int:
        """Tokens V."""
        return self.vocab or self.source.vocabulary

    @property
    def text_splits(self) -> tuple[tuple[int, int], ...]:
        """Ranges of tokens in each text."""
        (lo, hi), *others = self.source.splits
        if self.n_train:
            hi = min(hi, lo + self.n_train * self.length)
        return ((lo, hi), *others)

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        """Rows: texts * (first token of a window) + text, windows that stay inside the split."""
        k = self.n_texts
        return tuple((k * lo, k * (hi - self.length + 1)) for lo, hi in self.text_splits)

    @functools.cached_property
    def recurrent(self) -> Core:
        """The recurrent core."""
        return Core(
            self.cell, self.embed_dim, self.cell_dim, self.cell_activation,
            self.cell_initialisers, self.cell_init_scales, self.trainable_init,
        )  # fmt: skip

    @property
    def outputs(self) -> int:
        """Width of the readout."""
        return self.vocabulary

    @property
    def positions(self) -> int:
        """Outputs of the core per window that are read out."""
        return 1

    @functools.cached_property
    def layout(self) -> Layout:
        return Layout(
            (
                ("embed", (self.vocabulary, self.embed_dim)),
                *self.recurrent.tensors,
                ("w_out", (self.cell_dim, self.outputs)),
                ("b_out", (self.outputs,)),
            )
        )

    @property
    def extra_sizes(self) -> tuple[int, ...]:
        """Sizes of the family behind those that all text families share."""
        return ()

    @functools.cached_property
    def arrays(self) -> TaskData:
        sizes = [
            *self.recurrent.spec,
            self.n_texts,
            self.vocabulary,
            self.length,
            *self.extra_sizes,
        ]
        none = np.zeros(0, np.float32)
        return TaskData(none, self.source.ints, np.array(sizes, np.int64), none)

    def activations(self, batch: int) -> int:
        """Tokens, the core's, logits."""
        core = self.recurrent.activations(self.length - self.steps_unread, batch)
        return core + batch * (self.length + self.positions * self.outputs)

    def work_size(self, batch: int) -> int:
        core = self.recurrent.work_size(self.length - self.steps_unread, batch)
        n = self.positions * batch
        return self.length * batch + core + readout_work(n, self.cell_dim, self.outputs)

    @property
    def operations(self) -> float:
        """Multiplications and additions of one loss and gradient, matrix products only."""
        core = (self.length - self.steps_unread) * self.recurrent.size
        return 6.0 * self.batch_size * (core + self.positions * self.cell_dim * self.outputs)

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        views = self.layout.views(params)
        views["embed"][...] = draw("random_normal", 1.0, views["embed"].shape, stream, 0)
        self.recurrent.init(views, stream, 1)
        last = len(self.layout) - 2
        shape = views["w_out"].shape
        views["w_out"][...] = draw_weights(self.initialiser, self.init_scale, shape, stream, last)
        return params

    def windows(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of the windows of some rows, (L, B) int64."""
        text, start = rows % self.n_texts, rows // self.n_texts
        each = np.arange(self.length)[:, None]
        tokens = self.source.ints.reshape(self.n_texts, -1)[text, start + each]
        return np.minimum(tokens, self.vocabulary - 1).astype(np.int64)


def sample_cell(r: np.random.RandomState) -> dict[str, Any]:
    """Options of a random recurrent core, in the published order of draws."""
    kind = samplers.choice(r, ("vanilla", "gru", "lstm"))
    linked = samplers.choice(r, (True, True, True, True, False)) or kind == "lstm"
    activation, width = "tanh", 0
    if kind == "gru":
        width = samplers.logint(r, 32, 128)
    laws = [samplers.initialiser(r) for _ in range(1 if linked else len(WEIGHTS[kind]))]
    if kind == "vanilla":
        activation = samplers.activation(r)
    if kind != "gru":
        width = samplers.logint(r, 32, 128)
    return {
        "cell": kind,
        "cell_dim": width,
        "cell_activation": activation,
        "cell_initialisers": tuple(name for name, _ in laws),
        "cell_init_scales": tuple(scale for _, scale in laws),
    }


def sample_n_train(r: np.random.RandomState) -> int:
    """Examples of the training split, 0: all."""
    return samplers.linint(r, 1000, 50000) if r.uniform(0.0, 1.0) < 0.2 else 0


def sample_readout(r: np.random.RandomState) -> dict[str, Any]:
    """The two options that every text family draws first."""
    embed_dim = samplers.logint(r, 8, 128)
    name, scale = samplers.initialiser(r)
    return {"embed_dim": embed_dim, "initialiser": name, "init_scale": scale}
