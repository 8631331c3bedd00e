"""Batches of images: closed forms of the augmentation, its addresses, lanes, splits, refusals."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from helpers import lane_scheduler

from lopt import data, rng
from lopt.errors import TaskError
from lopt.ops.images import gather_images
from lopt.task import SPLITS, TaskData, task
from lopt.tasks import samplers
from lopt.tasks.images import AUGMENTATION, STAND_INS, image_options
from lopt.tasks.mlp import Mlp

STREAM = rng.stream(3, 1, 5)
SHAPE = (9, 7, 3)
COLOURS = ("brightness", "saturation", "hue", "contrast")
FULL = (2, True, True, True, 0.2, 1.0, 0.5, 1.0)


def augmentation(**options) -> tuple:
    """All off but those; `colour` follows from the four ranges."""
    default = {name: False for name in AUGMENTATION[1:3]} | {name: 0.0 for name in COLOURS}
    colour = any(name in COLOURS for name in options)
    a = {"crop": 0, "colour": colour, **default, **options}
    return tuple(a[name] for name in AUGMENTATION)


@pytest.fixture(autouse=True, scope="module")
def small_images():
    """Two data sets of 40 random images of odd sizes, RGB and grey, known as `rgb` and `grey`."""
    r, made = np.random.default_rng(0), {}
    for name, shape in (("rgb", SHAPE), ("grey", (9, 7, 1))):
        x = r.random((40, *shape))
        made[name] = data.from_arrays(name, x, np.arange(40) % 4, 4, shape)
    with pytest.MonkeyPatch.context() as patch:
        for name, dataset in made.items():
            patch.setitem(data.DATASETS, name, lambda dataset=dataset: dataset)
        yield


def image_task(name: str = "rgb", **options) -> Mlp:
    return Mlp(data=name, hidden=(), batch_size=8, **options)


def arguments(t: Mlp, rows, split=1, step=2, dtype=np.float32, stream=STREAM):
    """Arguments of `gather_images`, the output poisoned."""
    floats, ints, sizes, hyper = t.arrays
    x = np.full((rows.size, t.widths[0]), np.nan, dtype)
    return (
        TaskData(floats.astype(dtype), ints, sizes, hyper.astype(dtype)),
        rows,
        stream,
        split,
        step,
        x,
    )


def batch(t: Mlp, rows, **address) -> np.ndarray:
    """The kernel's batch, (B, height, width, channels)."""
    given = arguments(t, rows, **address)
    gather_images(*given)
    return given[-1].reshape(-1, *t.input_shape)


def stored(t: Mlp, rows) -> np.ndarray:
    return t.dataset.x[rows].reshape(-1, *t.stored_shape)


ROWS = np.arange(40)
SAME = np.full(400, 7)  # one image in many slots


EVERY = [
    (),
    augmentation(crop=2),
    augmentation(flip_lr=True),
    augmentation(flip_ud=True),
    augmentation(brightness=0.25),
    augmentation(saturation=1.0),
    augmentation(hue=0.5),
    augmentation(contrast=1.0),
    FULL,
]


@pytest.mark.parametrize("name", ["rgb", "grey"])
@pytest.mark.parametrize(("dtype", "eps"), [(np.float64, 2.0**-53), (np.float32, 2.0**-24)])
def test_kernel_agrees_with_the_reference(name: str, dtype, eps) -> None:
    for values, center in itertools.product(EVERY, (False, True)):
        t = image_task(name, augmentation=values, center=center)
        for split in range(len(SPLITS)):
            x = batch(t, ROWS, split=split, dtype=dtype)
            expected = t.reference_batch(ROWS, STREAM, split, 2).reshape(x.shape)
            # a hue is the ratio of two small numbers, off by eps / chroma; six times its change
            assert np.abs(x - expected).max() <= 200 * eps


def test_without_augmentation_the_images_are_the_stored_ones() -> None:
    np.testing.assert_array_equal(batch(image_task(), ROWS), stored(image_task(), ROWS))
    centred = batch(image_task(center=True), ROWS)
    np.testing.assert_allclose(centred, 2 * stored(image_task(), ROWS) - 1, rtol=0, atol=2e-7)


def test_ranges_of_zero_change_nothing() -> None:
    t = image_task(augmentation=(0, False, False, True, 0.0, 0.0, 0.0, 0.0))
    x = batch(t, ROWS, dtype=np.float64)
    np.testing.assert_allclose(x, stored(t, ROWS), rtol=0, atol=1e-14)


def test_crops_are_windows_and_all_windows_occur() -> None:
    t = image_task(augmentation=augmentation(crop=2))
    assert t.input_shape == (7, 5, 3)
    image = stored(t, SAME)[0]
    counts = np.zeros((3, 3), int)
    for x in batch(t, SAME):
        found = [
            (i, j)
            for i, j in itertools.product(range(3), range(3))
            if np.array_equal(x, image[i : i + 7, j : j + 5])
        ]
        assert len(found) == 1
        counts[found[0]] += 1
    expected = SAME.size / 9
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected)


@pytest.mark.parametrize(("name", "axis"), [("flip_lr", 1), ("flip_ud", 0)])
def test_half_of_the_images_are_flipped_and_twice_is_the_identity(name: str, axis: int) -> None:
    t = image_task(augmentation=augmentation(**{name: True}))
    image, x = stored(t, SAME)[0], batch(t, SAME)
    flipped = np.array([not np.array_equal(y, image) for y in x])
    for y in x[flipped]:
        np.testing.assert_array_equal(np.flip(y, axis), image)
    assert abs(flipped.sum() - 200) < 4 * np.sqrt(100)


def test_flips_are_independent() -> None:
    t = image_task(augmentation=augmentation(flip_lr=True, flip_ud=True))
    image, x = stored(t, SAME)[0], batch(t, SAME)
    turns = (image, image[:, ::-1], image[::-1], image[::-1, ::-1])
    counts = [sum(np.array_equal(y, turn) for y in x) for turn in turns]
    assert sum(counts) == 400
    assert all(abs(n - 100) < 4 * np.sqrt(75) for n in counts)


def test_brightness_adds_one_number_to_an_image() -> None:
    t = image_task(augmentation=augmentation(brightness=0.25))
    x = batch(t, SAME, dtype=np.float64)
    image = stored(t, SAME)[0].astype(np.float64)
    added = x.max(axis=(1, 2, 3)) - image.max()
    up = added > 0  # below 0 a pixel leaves the range of HSV, and its saturation is clipped
    np.testing.assert_allclose(x[up], image + added[up, None, None, None], rtol=0, atol=1e-12)
    assert np.abs(added).max() < 0.25
    assert added.min() < -0.24 and added.max() > 0.24
    assert abs(added.mean()) < 4 * 0.25 / np.sqrt(3 * 400)


def test_saturation_keeps_value_and_scales_chroma() -> None:
    t = image_task(augmentation=augmentation(saturation=0.5))
    image, x = stored(t, SAME)[0].astype(np.float64), batch(t, SAME, dtype=np.float64)
    np.testing.assert_allclose(x.max(-1), image.max(-1) + 0 * x[..., 0], rtol=0, atol=1e-14)
    before, after = 1 - image.min(-1) / image.max(-1), 1 - x.min(-1) / x.max(-1)
    palest = before.argmin()  # never clipped
    factor = after.reshape(400, -1)[:, palest] / before.flat[palest]
    expected = np.clip(before * factor[:, None, None], 0, 1)
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-12)
    assert 0.5 <= factor.min() < 0.51 and 1.49 < factor.max() < 1.5


def test_hue_turns_colours_round_the_circle() -> None:
    """The turn is U(-h, h): with h = 1/2 it may be any, and a third of a turn permutes channels."""
    t = image_task(augmentation=augmentation(hue=0.5))
    x = batch(t, SAME, dtype=np.float64)
    image = stored(t, SAME)[0].astype(np.float64)
    for rule in (np.min, np.max):
        np.testing.assert_allclose(rule(x, -1), rule(image, -1) + 0 * x[..., 0], atol=1e-14)
    u = rng.uniforms(8 * 400, STREAM, rng.AUGMENT + 1, 2).astype(np.float64).reshape(-1, 8)[:, 6]
    turn = 0.5 * (2 * u - 1)
    third = np.abs(turn - 1 / 3).argmin()
    assert abs(turn[third] - 1 / 3) < 0.01
    # red takes the place of green
    np.testing.assert_allclose(x[third], np.roll(image, 1, axis=-1), rtol=0, atol=0.06)


def test_a_whole_turn_of_hue_is_the_identity() -> None:
    """A range h of k turns makes turns k (2u - 1): equal turns modulo 1 give equal colours."""
    one = image_task(augmentation=augmentation(hue=1.0))
    u = rng.uniforms(8 * 400, STREAM, rng.AUGMENT + 1, 2).astype(np.float64).reshape(-1, 8)[:, 6]
    x = batch(one, SAME, dtype=np.float64)
    # slots whose turns differ by nearly 1
    turn = 2 * u - 1
    gap = np.abs(turn[:, None] - turn[None, :] - 1)
    a, b = np.unravel_index(gap.argmin(), gap.shape)
    assert gap[a, b] < 1e-4
    np.testing.assert_allclose(x[a], x[b], rtol=0, atol=6 * gap[a, b] + 1e-12)
    assert np.abs(x[a] - stored(one, SAME)[0]).max() > 0.01  # negative control


def test_contrast_keeps_the_mean_of_each_channel() -> None:
    t = image_task(augmentation=augmentation(contrast=0.8))
    x = batch(t, SAME, dtype=np.float64)
    image = stored(t, SAME)[0].astype(np.float64)
    mean = image.mean((0, 1))
    np.testing.assert_allclose(x.mean((1, 2)), np.tile(mean, (400, 1)), rtol=0, atol=1e-13)
    factor = (x - mean)[:, 0, 0, 0] / (image - mean)[0, 0, 0]
    expected = (image - mean) * factor[:, None, None, None] + mean
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-12)
    assert 0.2 <= factor.min() < 0.22 and 1.78 < factor.max() < 1.8


def test_grey_images_are_not_recoloured_but_cropped_and_flipped() -> None:
    t = image_task("grey", augmentation=FULL)
    image = stored(t, SAME)[0]
    windows = [image[i : i + 7, j : j + 5] for i, j in itertools.product(range(3), range(3))]
    turned = [w[::a, ::b] for w in windows for a in (1, -1) for b in (1, -1)]
    assert all(any(np.array_equal(x, w) for w in turned) for x in batch(t, SAME))


def test_equal_addresses_give_equal_images_and_others_do_not() -> None:
    t = image_task(augmentation=FULL)
    x = batch(t, SAME)
    np.testing.assert_array_equal(batch(t, SAME), x)
    np.testing.assert_array_equal(batch(t, SAME[:9]), x[:9])  # the slot counts, not the batch size
    assert len({y.tobytes() for y in x}) == 400
    others = {"split": 2, "step": 3, "stream": rng.stream(3, 1, 6)}
    for name, value in others.items():
        assert not (batch(t, SAME, **{name: value}) == x).all(axis=(1, 2, 3)).any(), name


def test_bits_do_not_depend_on_the_lanes() -> None:
    rows = np.arange(5)
    for values in ((), FULL):
        t = image_task(augmentation=values)
        lane_scheduler.check(gather_images, lambda t=t: arguments(t, rows), scratch=(5,))


def test_training_rows_are_the_first_ones() -> None:
    everything = image_task().splits
    assert everything == ((0, 28), (28, 32), (32, 36), (36, 40))
    assert image_task(n_train=10).splits == ((0, 10), *everything[1:])
    assert image_task(n_train=55000).splits == everything


def test_examples_that_are_no_images_are_one_row_of_pixels() -> None:
    assert Mlp(data="blobs").input_shape == (1, 16, 1)
    with pytest.raises(TaskError, match=r"valid for examples of shape \(16,\): \(\)"):
        Mlp(data="blobs", augmentation=FULL)


def test_options_survive_json() -> None:
    t = image_task(augmentation=FULL, n_train=20, stands_for="cifar10", just_train=True)
    assert task(**json.loads(json.dumps(t.config()))) == t


def test_every_published_data_set_has_a_stand_in_of_its_shape() -> None:
    shapes = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1)}
    for name in samplers.IMAGE_DATASETS:
        shapes.setdefault(name, (16, 16, 3) if name.endswith("16x16") else (32, 32, 3))
    classes = (10, 100, 72, 9, 10, 101, 1000, 1000, 10, 397)
    for name, count in zip(samplers.IMAGE_DATASETS, classes, strict=True):
        stand_in = data.load(STAND_INS[name])
        assert (stand_in.shape, stand_in.n_classes) == (shapes[name], count), name
    assert data.load(STAND_INS["food101_64x64"]).shape == (64, 64, 3)


def test_drawn_blocks_become_options() -> None:
    drawn = samplers.image_data(np.random.RandomState(5))
    options = image_options({**drawn, "hidden": (3,)})
    fields = {f.name for f in dataclasses.fields(Mlp)}
    assert set(options) <= fields
    assert (options["stands_for"], options["batch_size"]) == (drawn["dataset"], drawn["batch_size"])
    plain = {"dataset": "cifar100", "augmentation": None, "batch_size": 9, "n_train": None,
             "just_train": True}  # fmt: skip
    assert image_options(plain) == {
        "data": "textures32_100", "stands_for": "cifar100", "augmentation": (), "batch_size": 9,
        "n_train": 0, "just_train": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_train": -1}, "n_train = -1, .*nearest: 0"),
        ({"just_train": 1}, "just_train = 1, valid: true or false"),
        ({"batch_size": 41}, "batch_size = 41, .*nearest: 40"),
        ({"augmentation": (1,)}, r"augmentation = \(1,\), valid: \(\) or \(crop, flip_lr"),
        ({"augmentation": augmentation(crop=7)}, "crop = 7, valid: 0 to 6; nearest: 6"),
        ({"augmentation": augmentation(flip_lr=1)}, "flip_lr = 1, valid: true or false"),
        ({"augmentation": augmentation(brightness=-0.1)}, "brightness = -0.1, .*nearest: 0"),
        ({"augmentation": augmentation(saturation=1.5)}, "saturation = 1.5, .*nearest: 1"),
        ({"augmentation": augmentation(hue=1.5)}, "hue = 1.5, .*nearest: 1"),
        ({"augmentation": augmentation(contrast=float("inf"))}, "contrast = inf"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Mlp(**{"data": "rgb", "batch_size": 8, **options})
