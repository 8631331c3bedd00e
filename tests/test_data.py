"""Embedded data sets: contents, splits, and what is refused."""

import hashlib
import re

import numpy as np
import pytest

from lopt import data
from lopt.errors import DataError

NAMES = sorted(data.DATASETS)


@pytest.fixture(params=NAMES)
def dataset(request):
    return data.load(request.param)


def test_every_data_set_keeps_the_contract(dataset):
    assert dataset.name in NAMES
    assert dataset.x.shape == (dataset.rows, dataset.features)
    assert dataset.features == np.prod(dataset.shape)
    assert dataset.x.dtype == dataset.floats.dtype == np.float32
    assert dataset.y.dtype == dataset.ints.dtype == np.int32
    assert dataset.floats.flags.c_contiguous
    assert (dataset.x.min(), dataset.x.max()) == (0, 1)
    assert set(dataset.y) == set(range(dataset.n_classes))
    assert data.load(dataset.name) is dataset


def test_splits_are_disjoint_cover_all_rows_and_keep_proportions(dataset):
    ends = [0]
    for (lo, hi), fraction in zip(dataset.splits, (0.7, 0.1, 0.1, 0.1), strict=True):
        assert lo == ends[-1]
        assert abs((hi - lo) - fraction * dataset.rows) <= 1
        ends.append(hi)
    assert ends[-1] == dataset.rows


def test_splits_are_balanced(dataset):
    overall = np.bincount(dataset.y) / dataset.rows
    for lo, hi in dataset.splits:
        n = hi - lo
        counts = np.bincount(dataset.y[lo:hi], minlength=dataset.n_classes)
        # 4 standard deviations of a random draw; fixed permutation, so this cannot flicker.  The
        # count of a class with fewer than 3 rows in a split is too skewed: it is given those of 3.
        assert np.all(np.abs(counts - n * overall) < 4 * np.sqrt(np.maximum(n * overall, 3)))


def test_views_are_read_only_and_share_memory(dataset):
    with pytest.raises(ValueError, match="read-only"):
        dataset.x[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        dataset.y[0] = 1
    assert np.shares_memory(dataset.x, dataset.floats)
    assert np.shares_memory(dataset.y, dataset.ints)
    with pytest.raises(AttributeError):
        dataset.n_classes = 3


def test_digits_are_the_published_ones():
    d = data.load("digits")
    assert (d.rows, d.features, d.n_classes, d.shape) == (1797, 64, 10, (8, 8, 1))
    np.testing.assert_array_equal(
        np.bincount(d.y), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )
    pixels = d.x * 16
    np.testing.assert_array_equal(pixels, np.round(pixels))
    # the same rows in an order that does not depend on the permutation
    table = np.c_[pixels.astype(np.uint8), d.y.astype(np.uint8)]
    table = table[np.lexsort(table.T[::-1])]
    assert (
        hashlib.sha256(table.tobytes()).hexdigest()
        == "f67d6a29d0e1f70e7f0cd9dcf25816b694881f4b8f27f5cc1db59551f0499fb8"
    )


def test_permutation_never_changes():
    # stored runs name rows by number, so the order is part of the data set
    assert list(data.load("digits").y[:12]) == [7, 9, 5, 1, 8, 6, 6, 7, 9, 4, 6, 6]
    assert not np.array_equal(data.load("digits").y[:10], np.arange(10))  # the source's order


def centroid_accuracy(d):
    """Test accuracy of the nearest class mean of the training rows."""
    (lo, hi), test = d.splits[0], slice(*d.splits[3])
    means = np.stack([d.x[lo:hi][d.y[lo:hi] == k].mean(0) for k in range(d.n_classes)])
    distance = ((d.x[test, None] - means) ** 2).sum(-1)
    return np.mean(distance.argmin(1) == d.y[test])


def test_labels_belong_to_their_rows():
    d = data.load("digits")
    assert centroid_accuracy(d) > 0.85
    shuffled = data.from_arrays("x", d.x, np.roll(d.y, 1), 10, (64,))
    assert centroid_accuracy(shuffled) < 0.25  # negative control: chance is 0.1


def test_blobs_follow_their_options():
    assert centroid_accuracy(data.blobs(spread=0.01)) == 1.0
    assert centroid_accuracy(data.blobs(spread=100.0)) < 0.35  # chance is 0.25
    d = data.blobs(rows=300, features=5, classes=3)
    assert (d.rows, d.features, d.n_classes) == (300, 5, 3)
    np.testing.assert_array_equal(np.bincount(d.y), [100, 100, 100])
    assert not np.array_equal(d.x, data.blobs(rows=300, features=5, classes=3, seed=1).x)


def test_kjv_is_500000_characters_without_labels():
    t = data.load_text("kjv")
    assert t.tokens.shape == (500_000,)
    assert t.tokens.dtype == t.ints.dtype == np.int32
    text = bytes(t.tokens.astype(np.uint8)).decode("ascii")
    assert text.startswith("In the beginning God created the heaven and the earth.\nAnd the earth")
    assert "And the LORD spake unto Moses" in text
    assert re.search(r"\d", text) is None  # labels are the only places with digits
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "9132b98a50f28bd3e25cee815b8d8013742b278e3c9f7999144c058a3cf3d1b8"
    )
    assert t.splits == ((0, 350_000), (350_000, 400_000), (400_000, 450_000), (450_000, 500_000))
    assert data.load_text("kjv") is t
    with pytest.raises(ValueError, match="read-only"):
        t.tokens[0] = 1


@pytest.mark.parametrize("n", [7, 8, 9, 10, 11, 99, 1797])
def test_split_ranges_of_any_size(n):
    ranges = data.split_ranges(n)
    assert [i for lo, hi in ranges for i in range(lo, hi)] == list(range(n))
    assert all(hi > lo for lo, hi in ranges)


X = np.linspace(0, 1, 40).reshape(20, 2)
Y = np.arange(20) % 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.load("digit"), "unknown data set 'digit'; did you mean 'digits'.*blobs"),
        (lambda: data.load("kjv"), "unknown data set 'kjv'.*digits"),
        (lambda: data.load_text("kvj"), "unknown text 'kvj'; did you mean 'kjv'"),
        (lambda: data.split_ranges(6), "6 rows.*nearest valid: 7"),
        (lambda: data.from_arrays("mine", X[:0], Y[:0], 2, (2,)), "0 rows"),
        (lambda: data.from_arrays("mine", X, Y[:19], 2, (2,)), r"mine: x has shape \(20, 2\)"),
        (lambda: data.from_arrays("mine", X, Y, 2, (3,)), "mine: x has shape"),
        (lambda: data.from_arrays("mine", 2 * X, Y, 2, (2,)), r"x spans \[0.0, 2.0\]"),
        (lambda: data.from_arrays("mine", np.where(X == 1, np.nan, X), Y, 2, (2,)), "nan"),
        (lambda: data.from_arrays("mine", X, Y, 1, (2,)), r"labels span \[0, 1\], expected 0..0"),
        (lambda: data.blobs(classes=1), "classes = 1, nearest valid: 2"),
        (lambda: data.blobs(rows=0), "rows = 0, nearest valid: 10"),
        (lambda: data.blobs(spread=float("nan")), "spread = nan"),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
