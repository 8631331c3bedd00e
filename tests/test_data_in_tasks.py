"""Own data in every family that takes data; sets larger than memory give the bits of sets in memory."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import lane_scheduler

from lopt import data, rng
from lopt.data import mapped, user_file, user_writer
from lopt.errors import DataError, TaskError
from lopt.ops.images import gather_images
from lopt.optimizer import optimizer
from lopt.rollout import Schedule, rollout
from lopt.task import SPLITS, TASKS, TEST, TRAIN
from lopt.tasks import parse_task, task
from lopt.tasks.checks import checked_data

STREAM = rng.stream(5, 2, 1)
ROWS, SHAPE, CLASSES = 151, (8, 8, 1), 10  # as the default data, so that every default option fits
WORDS = 300


def takes(option: str) -> list[str]:
    """Families with an option of that name."""
    return sorted(
        f for f, cls in TASKS.items() if option in [o.name for o in dataclasses.fields(cls)]
    )


def import_rows(folder, x, name="images", **options) -> str:
    np.savez(folder / f"{name}.npz", x=x, y=np.arange(len(x)) % CLASSES)
    data.import_data(folder / f"{name}.npz", folder / f"{name}.h5", **options)
    return str(folder / f"{name}.h5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def images(folder) -> str:
    """A file of random grey pictures in bytes."""
    return import_rows(folder, np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE), np.uint8))


@pytest.fixture(scope="module")
def text(folder) -> str:
    """A file of words with a vocabulary that no byte holds."""
    r = np.random.default_rng(0)
    words = [f"w{k}" for k in (*range(WORDS - 1), *r.integers(0, WORDS - 1, 3000))]
    (folder / "t.txt").write_text(" ".join(words))
    data.import_data(folder / "t.txt", folder / "t.h5", "words", {"vocabulary": str(WORDS)})
    return str(folder / "t.h5")


@pytest.fixture
def never_in_memory(monkeypatch):
    """A function after which sets are mapped, however small."""

    def change() -> None:
        monkeypatch.setattr(user_file, "IN_MEMORY_BYTES", 0)
        user_file._cached.cache_clear()

    yield change
    user_file._cached.cache_clear()


def rows_of(t, split=TRAIN):
    return rng.integers(t.batch_size, *t.splits[split], STREAM, rng.BATCH + split, 3)


def evaluated(t, split=TRAIN):
    """Loss and gradient of the float32 kernel at the initial parameters."""
    params, grad = t.init(STREAM), np.zeros(t.layout.size, np.float32)
    work = np.full(t.work_size(t.batch_size), np.nan, np.float32)
    loss = t.entry(params, grad, t.arrays, rows_of(t, split), STREAM, split, 3, work, 1)
    return loss, grad


def test_the_families_that_take_data_are_known():
    """Negative control of the registry-driven tests here: they run on something."""
    assert {"mlp", "norm_mlp", "conv_fc", "vit", "mixer", "logistic", "maf"} <= set(takes("data"))
    assert {"transformer_lm", "word_rnn_language_model", "rnn_text_classification"} <= set(
        takes("text")
    )


@pytest.mark.parametrize("family", takes("data"))
def test_every_family_trains_on_a_file_in_memory_or_not(family, images, never_in_memory):
    """The kernel is near its float64 reference, and mapped rows give the same bits."""
    t = parse_task(f"{family}:data={images}")
    loss, grad = evaluated(t)
    exact, _ = t.reference(t.init(STREAM).astype(np.float64), rows_of(t), STREAM, TRAIN, 3)
    assert loss == pytest.approx(exact, rel=1e-4)
    assert np.abs(grad).max() > 0
    assert not t.dataset.in_bytes
    never_in_memory()
    again = task(family, data=images)
    assert again.dataset.in_bytes
    assert again.arrays.floats.nbytes == ROWS * 64
    for split in range(len(SPLITS)):
        one, other = evaluated(t, split), evaluated(again, split)
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])
    exact_again, _ = again.reference(
        t.init(STREAM).astype(np.float64), rows_of(t), STREAM, TRAIN, 3
    )
    assert exact_again == exact


def text_option(family: str, text: str) -> str:
    """A text, or two of them where texts are classes."""
    return f"{text}+{text}" if family == "rnn_text_classification" else text


@pytest.mark.parametrize("family", takes("text"))
def test_embeddings_are_as_large_as_the_vocabulary(family, text):
    option = text_option(family, text)
    for options, size in (({}, WORDS), ({"vocab": 256}, 256)):
        t = task(family, text=option, **options)
        assert dict(t.layout)["embed"][0] == t.vocabulary == size


@pytest.mark.parametrize("family", takes("text"))
def test_every_family_trains_on_a_text_of_any_vocabulary(family, text):
    t = task(family, text=text_option(family, text))
    loss, grad = evaluated(t)
    exact, _ = t.reference(t.init(STREAM).astype(np.float64), rows_of(t), STREAM, TRAIN, 3)
    assert loss == pytest.approx(exact, rel=1e-4)
    touched = np.abs(t.layout.views(grad)["embed"]).max(axis=1) > 0
    assert touched[256:].any()  # tokens beyond a byte have rows of their own


def test_a_learned_optimizer_trains_on_a_file(images):
    t = task("learned_optimizer", inner=f'mlp:data="{images}",hidden=[4],batch_size=8', unroll=3)
    assert np.isfinite(evaluated(t)[0])


def test_a_spec_with_a_file_rebuilds_its_task(images):
    t = task("mlp", data=f"{images}?rows=12", batch_size=4)
    assert parse_task(t.name) == t
    assert t.dataset.rows == 48


@pytest.mark.parametrize(
    "options",
    [
        {"augmentation": (2, True, True, True, 0.2, 1.0, 0.5, 1.0), "center": True},
        {"augmentation": (0, True, False, False, 0.0, 0.0, 0.0, 0.0)},
        {"n_train": 20, "center": True},
    ],
)
def test_augmented_batches_have_the_same_bits(options, folder, never_in_memory):
    if not (folder / "rgb.h5").exists():
        x = np.random.default_rng(1).integers(0, 256, (41, 9, 7, 3), np.uint8)
        import_rows(folder, x, "rgb")
    make = lambda: task("mlp", data=str(folder / "rgb.h5"), batch_size=9, **options)  # noqa: E731
    t = make()
    never_in_memory()
    again = make()
    assert again.dataset.in_bytes and not t.dataset.in_bytes
    for split in range(len(SPLITS)):
        one, other = evaluated(t, split), evaluated(again, split)
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])


def test_a_mapped_reference_batch_has_the_same_bits(images, never_in_memory):
    make = lambda: task("norm_mlp", data=images, norm="virtual", batch_size=9)  # noqa: E731
    t = make()
    never_in_memory()
    np.testing.assert_array_equal(evaluated(t)[1], evaluated(make())[1])


def test_mapped_floats_have_the_same_bits(folder, never_in_memory):
    x = np.random.default_rng(2).normal(size=(43, 5))
    name = import_rows(folder, x, "table", scale="column")
    t = task("logistic", data=name, batch_size=9, init_std=1.0)
    never_in_memory()
    again = task("logistic", data=name, batch_size=9, init_std=1.0)
    assert not again.dataset.in_bytes
    assert not again.dataset.floats.flags.owndata
    np.testing.assert_array_equal(again.dataset.x, t.dataset.x)
    np.testing.assert_array_equal(evaluated(t)[1], evaluated(again)[1])


def test_a_whole_training_has_the_same_bits(images, never_in_memory):
    """... whatever split it looks at, and also on the first rows of each split."""
    opt, schedule = optimizer("adam", learning_rate=1e-2), Schedule(outer_every=4, outer_batches=2)
    found = []
    for _ in range(2):
        for name in (images, f"{images}?rows=11"):
            t = task("mlp", data=name, batch_size=8)
            found.append((t, rollout(t, opt, steps=20, seed=3, schedule=schedule)))
        never_in_memory()
    assert [t.dataset.in_bytes for t, _ in found] == [False, False, True, True]
    assert found[3][0].splits == ((0, 11), (105, 116), (120, 131), (135, 146))
    for (_, one), (_, other) in (found[:3:2], found[1::2]):
        np.testing.assert_array_equal(one.train_loss, other.train_loss)
        np.testing.assert_array_equal(one.outer_loss, other.outer_loss)
        assert one.train_loss[-1] != one.train_loss[0]
    assert found[0][1].train_loss[-1] != found[1][1].train_loss[-1]


def test_bytes_that_fill_no_whole_float(folder, never_in_memory):
    x = np.random.default_rng(3).integers(0, 256, (23, 7), np.uint8)
    name = import_rows(folder, x, "odd")
    expected = data.load(name).x
    never_in_memory()
    odd = data.load(name)
    assert (odd.rows, odd.features, odd.floats.size) == (23, 7, 41)
    np.testing.assert_array_equal(odd.take(np.arange(23)), expected)
    some = data.load(f"{name}?rows=2")
    for (lo, hi), (first, _) in zip(some.splits, odd.splits, strict=True):
        assert hi - lo == 2
        np.testing.assert_array_equal(some.take(np.arange(lo, hi)), expected[first : first + 2])
    with pytest.raises(DataError, match=r"odd.h5 is not in memory as float32; take\(rows\)"):
        odd.x  # noqa: B018


def test_bytes_do_not_depend_on_the_lanes(folder, never_in_memory):
    x = np.random.default_rng(4).integers(0, 256, (20, 5, 4, 3), np.uint8)
    name = import_rows(folder, x, "lanes")
    never_in_memory()
    for augmentation in ((), (1, True, True, True, 0.2, 1.0, 0.5, 1.0)):
        t = task("mlp", data=name, batch_size=4, augmentation=augmentation)

        def arguments(t=t):
            out = np.full((4, t.widths[0]), np.nan, np.float32)
            return (t.arrays, np.array([3, 0, 19, 3]), STREAM, 1, 2, out)

        lane_scheduler.check(gather_images, arguments, scratch=(5,))


def test_places_that_cannot_be_mapped_are_named(images):
    size = os.path.getsize(images)
    path = user_file.Path(images)
    assert mapped.mapped_floats(path, 512, 5).size == 2
    for start, length in ((513, 4), (size - 4, 5), (size, 1)):
        with pytest.raises(DataError, match=f"images.h5: rows at {start}.*import it again"):
            mapped.mapped_floats(path, start, length)


# A set as large as ImageNet at 64 x 64 pixels

BIG_ROWS, BIG_SHAPE, BIG_CLASSES, BATCH, STEPS = 1_281_167, (64, 64, 3), 1000, 16, 12

# Trains under a limit on the memory that a process has for itself: what is mapped read-only does not count as such.
LIMITED = """
import json, resource, sys
from lopt import data
from lopt.data import user_file
from lopt.optimizer import optimizer
from lopt.rollout import rollout
from lopt.tasks import task

def status(field):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field + ":"))

path, batch, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sgd = optimizer("sgd", learning_rate=0.1)
rollout(task("mlp", hidden=(4,), batch_size=batch), sgd, steps=steps)  # compiles
peak, room = status("VmHWM"), 150 << 20
resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + room,) * 2)
trace = rollout(task("mlp", data=path, hidden=(4,), batch_size=batch), sgd, steps=steps, seed=7)
grown = status("VmHWM") - peak
user_file.IN_MEMORY_BYTES = 1 << 30
user_file._cached.cache_clear()
try:
    data.load(path + "?rows=1500")
    refused = False
except MemoryError:
    refused = True
print(json.dumps({"grown": grown, "losses": trace.train_loss.tolist(), "refused": refused}))
"""


class SparseWriter(user_writer.Writer):
    """Writes a file whose rows are holes, but for those that are put; their digests are left out."""

    def _digest_rows(self) -> None:
        pass


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> str:
    """15.7 GB of rows on paper; on disk only those that the first steps of training seed 7 read."""
    path = tmp_path_factory.mktemp("big") / "big.h5"
    splits = data.split_ranges(BIG_ROWS)
    arrays = {
        "y": np.arange(BIG_ROWS) % BIG_CLASSES,
        "classes": tuple(map(str, range(BIG_CLASSES))),
        "splits": splits,
    }
    rows = np.unique([big_rows(splits, step) for step in range(STEPS)])
    r = np.random.default_rng(0)
    with SparseWriter(path, "rows", (BIG_ROWS, *BIG_SHAPE), "u1", arrays, {}) as writer:
        for row in rows.tolist():
            writer.put(np.array([row]), r.integers(0, 256, (1, *BIG_SHAPE), np.uint8))
    return str(path)


def big_rows(splits, step: int) -> np.ndarray:
    return rng.integers(BATCH, *splits[TRAIN], rng.stream(7), rng.BATCH + TRAIN, step)


def test_15_gb_train_within_200_mb(big):
    """... where 74 MB of its rows in memory would not fit; the losses are those of its bytes."""
    assert os.path.getsize(big) > 15.7e9
    assert os.stat(big).st_blocks * 512 < 100e6  # nothing here needs the disk
    command = [sys.executable, "-c", LIMITED, big, str(BATCH), str(STEPS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["grown"] < 200e6
    assert found["refused"]  # negative control: the limit holds
    t = task("mlp", data=big, hidden=(4,), batch_size=BATCH)
    rows = big_rows(t.splits, 0)
    stored = np.memmap(big, np.uint8, "r", user_file.UserFile(big)._header.start)
    x = stored[: BIG_ROWS * 12288].reshape(-1, 12288)[rows]
    assert x.std() > 70  # random bytes, not holes
    np.testing.assert_array_equal(t.dataset.take(rows), x / np.float32(255))
    exact, _ = t.reference(t.init(rng.stream(7)).astype(np.float64), rows, STREAM, TRAIN, 0)
    assert found["losses"][0] == pytest.approx(exact, rel=1e-5)
    assert len(set(found["losses"])) == STEPS


# Refusals of a task


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("mlp", {"data": "nowhere/a.h5"}, r"data: cannot read nowhere/a.h5: No such file"),
        ("norm_mlp", {"data": "digit"}, r"data: unknown data set 'digit'; did you mean 'digits'"),
        ("norm_mlp", {"data": 3}, r"data = 3, valid: a string"),
        ("vit", {"data": "{text}"}, r"data: .*t.h5 holds text, expected rows"),
        ("transformer_lm", {"text": "{images}"}, r"text: .*images.h5 holds rows, expected text"),
        ("transformer_lm", {"text": "nowhere/a.h5"}, r"text: cannot read nowhere/a.h5: No such"),
        ("mlp", {"data": "{images}", "batch_size": 152}, r"batch_size = 152, but .*images.h5 has 151 rows; nearest: 151"),
        ("norm_mlp", {"data": "{images}", "batch_size": 999}, r"but .*images.h5 has 151 rows"),
        ("logistic", {"data": "{images}", "batch_size": 999}, r"but .*images.h5 has 151 rows"),
        ("transformer_lm", {"text": "{text}?rows=40", "batch_size": 999}, r"t.h5\?rows=40 has 160 rows"),
        ("transformer_lm", {"text": "{text}?rows=40", "length": 40}, r"length = 40, .*nearest: 39"),
        ("char_rnn_language_model", {"text": "{text}?rows=20"}, r"length = 32, .*nearest: 20"),
    ],
)  # fmt: skip
def test_unfit_files_are_refused_by_name(family, options, message, images, text):
    options = {
        k: v.format(images=images, text=text) if isinstance(v, str) else v
        for k, v in options.items()
    }
    with pytest.raises(TaskError, match=message):
        task(family, **options)


def test_all_splits_are_read(images):
    assert checked_data("data", images).splits[TEST] == (135, 151)
