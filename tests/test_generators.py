"""Generated data sets: contents that never change, classes that can be learned, sharing, refusals."""

import hashlib

import numpy as np
import pytest

from lopt import data
from lopt.data import generators
from lopt.errors import DataError

SETS = sorted(
    n for n in data.DATASETS if n.startswith(("textures", "digits28", "digits1d", "teach"))
)
MARKOV = sorted(t for t in data.TEXTS if t.startswith("markov"))


def centroid_accuracy(d, labels) -> float:
    """Test accuracy of the nearest class mean of the training rows."""
    (lo, hi), test = d.splits[0], slice(*d.splits[3])
    members = (labels[lo:hi] == np.arange(d.n_classes)[:, None]).astype(np.float32)
    counts = members.sum(1)
    means = members @ d.x[lo:hi] / np.maximum(counts, 1)[:, None]
    distance = (means**2).sum(1) - 2 * d.x[test] @ means.T
    distance[:, counts == 0] = np.inf
    return float(np.mean(distance.argmin(1) == labels[test]))


@pytest.mark.parametrize("name", SETS)
def test_nearest_class_mean_beats_chance_and_is_not_enough(name: str) -> None:
    """At least 1.6 times chance and 0.05 above it; with shuffled labels 4 sigma at most."""
    d = data.load(name)
    chance, tested = 1 / d.n_classes, d.splits[3][1] - d.splits[3][0]
    accuracy = centroid_accuracy(d, d.y)
    assert max(1.6 * chance, chance + 0.04) < accuracy < 0.95
    spread = 4 * np.sqrt(chance * (1 - chance) / tested)
    if name == "teacher_net":
        chance = np.bincount(d.y).max() / d.rows  # its classes differ in size
    assert centroid_accuracy(d, np.roll(d.y, 1)) < chance + max(spread, 2.5 / tested)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_textures_of_a_size_share_their_pixels(size: int) -> None:
    names = [n for n in SETS if n.split("_")[0] == f"textures{size}"]
    assert len(names) >= 2
    first = data.load(names[0])
    for name in names:
        d = data.load(name)
        assert d.floats is first.floats
        assert d.name == name
        assert d.n_classes == int(name.partition("_")[2] or 10)
        assert np.ptp(np.bincount(d.y, minlength=d.n_classes)) <= 1
        assert d.floats.nbytes <= 50e6


def test_finer_classes_divide_coarser_ones() -> None:
    coarse, fine = data.textures(32, 10).y, data.textures(32, 100).y
    np.testing.assert_array_equal(fine // 10, coarse)


def test_images_of_a_class_are_more_alike_than_others() -> None:
    """Mean colours: their variance within the 100 classes is below 3/4 of that of all images."""
    d = data.textures(32, 100)
    colours = d.x.reshape(d.rows, -1, 3).mean(1)
    within = sum(colours[d.y == k].var(0).sum() for k in range(100)) / 100
    assert within < 0.75 * colours.var(0).sum()


def test_orientation_is_in_the_pixels_of_stripes() -> None:
    """Stripes at angle pi t: the gradient's mean direction, doubled, turns by 2 pi t."""
    d = data.textures(32, 100)
    stripes = np.flatnonzero(d.y // 10 == 0)
    grey = d.x[stripes].reshape(-1, 32, 32, 3).astype(np.float64) @ np.array([0.3, 0.5, 0.2])
    gy, gx = np.gradient(grey, axis=(1, 2))
    doubled = ((gx + 1j * gy) ** 2).sum((1, 2))
    expected = np.exp(2j * np.pi * (d.y[stripes] + 0.5) / 10)
    alignment = np.real(doubled * expected.conj()) / np.abs(doubled)
    assert np.median(alignment) > 0.9


def test_digits28_are_the_small_digits() -> None:
    """Averaged over blocks of 3.5 pixels they are the 8 x 8 ones to interpolation error; same rows."""
    small, large = data.load("digits"), data.load("digits28")
    np.testing.assert_array_equal(large.y, small.y)
    assert large.splits == small.splits
    x = large.x.reshape(-1, 28, 28).repeat(2, 1).repeat(2, 2)
    means = x.reshape(-1, 8, 7, 8, 7).mean((2, 4)).reshape(small.rows, 64)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(means, small.x, strict=True)]
    assert min(correlations) > 0.96
    np.testing.assert_array_equal(large.x * 256, np.round(large.x * 256))


def test_digits28_keep_empty_borders() -> None:
    """Interpolation looks two pixels far: behind two columns of 0s the first two are 0."""
    small, large = data.load("digits"), data.load("digits28")
    empty = small.x.reshape(-1, 8, 8)[:, :, :2].max((1, 2)) == 0
    assert empty.sum() > 200
    assert large.x.reshape(-1, 28, 28)[empty][:, :, :2].max() == 0


def test_digits1d_strokes_differ() -> None:
    strokes = np.array(generators.STROKES, float)
    assert strokes.shape == (10, 12)
    near = np.corrcoef(strokes) - 2 * np.eye(10)
    assert near.max() < 0.97
    assert data.load("digits1d").shape == (40,)


def test_teacher_networks_differ_by_seed_and_follow_their_options() -> None:
    d = data.teacher_net(rows=500, features=5, classes=3, hidden=7)
    assert (d.rows, d.features, d.n_classes) == (500, 5, 3)
    assert np.bincount(d.y).min() > 50
    other = data.teacher_net(rows=500, features=5, classes=3, hidden=7, seed=1)
    assert (other.y != d.y).any() and (other.x != d.x).any()


def cross_entropy(text: data.Text, order: int) -> float:
    """Test nats per token of counts over classes of `order` previous words, and words in classes."""
    groups = min(32, text.vocabulary // 4)
    words = text.tokens.astype(np.int64)
    classes = words % groups
    context = np.zeros_like(classes)
    for back in range(1, order + 1):
        context[order:] = context[order:] * groups + classes[order - back : -back]
    lo, hi = text.splits[0]
    table = np.bincount(context[lo:hi] * groups + classes[lo:hi], minlength=groups ** (order + 1))
    table = table.reshape(-1, groups) + 0.5
    table /= table.sum(1, keepdims=True)
    weights = np.bincount(words[lo:hi], minlength=text.vocabulary) + 0.1
    of_class = np.arange(text.vocabulary) % groups
    weights /= np.bincount(of_class, weights)[of_class]
    test = slice(*text.splits[3])
    return float(-np.log(table[context[test], classes[test]] * weights[words[test]]).mean())


@pytest.mark.parametrize("name", MARKOV)
def test_markov_text_needs_two_words_of_memory(name: str) -> None:
    """Order 1 gains little (under 0.35 nats) over none, order 2 at least 1.2 nats over order 1."""
    text = data.load_text(name)
    none, one, two = (cross_entropy(text, k) for k in range(3))
    assert 0.05 < none - one < 0.35
    assert one - two > 1.2
    assert none < np.log(text.vocabulary) - 0.2


@pytest.mark.parametrize("name", MARKOV)
def test_markov_marginals_are_like_zipf(name: str) -> None:
    text = data.load_text(name)
    assert text.vocabulary == int(name.removeprefix("markov"))
    assert text.tokens.min() == 0 and text.tokens.max() < text.vocabulary
    counts = np.sort(np.bincount(text.tokens, minlength=text.vocabulary))[::-1]
    frequent = counts > 5
    ranks = np.log(np.arange(1, text.vocabulary + 1))[frequent]
    slope = np.polyfit(ranks, np.log(counts[frequent]), 1)[0]
    assert -1.2 < slope < -0.7
    assert (counts == 0).mean() < 0.01


def test_markov_seeds_differ() -> None:
    a, b = (data.markov(64, tokens=1000, seed=k).tokens for k in (0, 1))
    assert np.mean(a == b) < 0.2


DIGESTS = {
    "digits28": "ba684cd141525cb2",
    "digits1d": "7de1c9d2196a6c44",
    "teacher_net": "01454dfbacb37128",
    "textures16": "9193c94b17ce6e3d",
    "textures32_100": "02e7a4caa77e126b",
    "textures64_101": "e2a410c1e0931090",
}
TEXT_DIGESTS = {"markov64": "ceb3fda7a801e0d3", "markov8192": "7a6d3e3e34545bd9"}


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]


@pytest.mark.parametrize(("name", "expected"), DIGESTS.items())
def test_generated_data_never_change(name: str, expected: str) -> None:
    d = data.load(name)
    assert digest(d.floats, d.ints) == expected


@pytest.mark.parametrize(("name", "expected"), TEXT_DIGESTS.items())
def test_generated_texts_never_change(name: str, expected: str) -> None:
    assert digest(data.load_text(name).ints) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: data.load("textures_32"),
            "unknown data set 'textures_32'; did you mean 'textures",
        ),
        (lambda: data.textures(24, 10), "size = 24, valid: 16, 32, 64"),
        (lambda: data.textures(64, 1001), "classes = 1001, nearest valid: 1000"),
        (lambda: data.textures(64, 1), "classes = 1, nearest valid: 2"),
        (lambda: data.teacher_net(hidden=0), "hidden = 0, nearest valid: 1"),
        (lambda: data.markov(15), "vocabulary = 15, nearest valid: 16"),
        (lambda: data.markov(70000), "vocabulary = 70000, nearest valid: 65536"),
        (lambda: data.markov(64, tokens=1), "tokens = 1, nearest valid: 100"),
    ],
)
def test_bad_requests_are_refused(call, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()
