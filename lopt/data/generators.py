"""Generated data sets: larger digits, textured colour images, 1-D digits, a teacher network, Markov text.

Stand-ins that need no download, for data sets of the same shape and number of classes.  All are pure
functions of their names, made on first use and kept once per process; every set can be learned, none
is trivial.  Values are multiples of 1/256 (of 2^-24 for the teacher network): the last bits of sines
differ between machines, rounded values do not.
"""

import functools

import numpy as np

from lopt import rng
from lopt.data.datasets import (
    DATASETS,
    TEXTS,
    Dataset,
    Text,
    digits,
    from_arrays,
    split_ranges,
)
from lopt.errors import DataError

# Rows of textured images by size, bounded by memory: 12, 49 and 49 MB.
TEXTURE_ROWS = {16: 4000, 32: 4000, 64: 1000}
# Numbers of classes of the registered sets, those of published image data sets; the first has no suffix.
TEXTURE_CLASSES = {16: (10, 1000), 32: (10, 8, 9, 72, 100, 101, 397, 1000), 64: (10, 101)}
MARKOV_VOCABULARIES = (64, 256, 1024, 4096, 8192)

# Brightness of a pattern in about [-1, 1]: stripes, checks, rings, dots, waves.  a, b: phases along
# and across its direction; r: along the radius.
PATTERNS = (
    lambda a, b, r: np.sin(a),
    lambda a, b, r: 1.5 * np.sin(a) * np.sin(b),
    lambda a, b, r: np.sin(r),
    lambda a, b, r: 1.2 * (np.sin(a) + np.sin(b)) - 0.8,
    lambda a, b, r: np.sin(a + 1.2 * np.sin(0.5 * b)),
)

# Height of a pen that draws the digit, from its start to its end.
STROKES = (
    (5, 7, 9, 9, 8, 6, 4, 2, 0, 0, 2, 4),  # 0
    (5, 6, 8, 9, 7, 5, 4, 3, 2, 1, 0, 0),  # 1
    (7, 9, 9, 7, 4, 2, 0, 0, 1, 1, 0, 1),  # 2
    (8, 9, 7, 4, 3, 5, 6, 6, 4, 1, 0, 1),  # 3
    (9, 7, 5, 3, 3, 3, 4, 9, 6, 3, 1, 0),  # 4
    (9, 9, 9, 6, 5, 6, 6, 4, 1, 0, 0, 2),  # 5
    (9, 6, 3, 1, 0, 0, 2, 4, 5, 4, 2, 1),  # 6
    (9, 9, 8, 9, 8, 9, 6, 4, 3, 2, 1, 0),  # 7
    (5, 8, 9, 7, 5, 2, 0, 2, 5, 7, 9, 8),  # 8
    (6, 4, 5, 8, 9, 7, 5, 8, 6, 4, 2, 0),  # 9
)


def _grid(x: np.ndarray) -> np.ndarray:
    """x clipped to [0, 1] and rounded to multiples of 1/256, float32.

    Halves, which interpolated digits have, go up whatever their last bits.
    """
    return np.floor(np.clip(x, 0, 1) * 256 + (0.5 + 2.0**-20)).astype(np.float32) / np.float32(256)


def _columns(rows: int, count: int, seed: int, inner: int) -> np.ndarray:
    """`count` columns of keyed uniforms, (count, rows) float64."""
    return (
        rng.uniforms(rows * count, rng.stream(seed), rng.DATA, inner)
        .astype(np.float64)
        .reshape(count, rows)
    )


@functools.cache
def digits28() -> Dataset:
    """The embedded handwritten digits at 28 x 28 x 1, each axis by cubic convolution (Keys 1981)."""
    source, size = digits(), 28
    small = source.shape[0]
    distance = np.abs((np.arange(size)[:, None] + 0.5) * small / size - 0.5 - np.arange(small))
    near = 1 - distance**2 * (2.5 - 1.5 * distance)
    far = 2 - distance * (4 - distance * (2.5 - 0.5 * distance))
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    weights /= weights.sum(axis=1, keepdims=True)  # the border repeats no pixels
    x = weights @ source.x.reshape(-1, small, small).astype(np.float64) @ weights.T
    shape = (size, size, 1)
    return Dataset("digits28", _grid(x).ravel(), source.ints, 10, shape, source.splits)


@functools.cache
def textures(size: int, classes: int) -> Dataset:
    """Textured images, size x size x 3, in `classes` classes of equal size; size 16, 32 or 64.

    A row's place w in [0, 1) decides what it looks like (`texture_pixels`), and class k is the
    interval [k, k + 1) / classes of w.  So images of a class are alike, neighbouring classes are
    similar, and more classes are harder to tell apart.  Equal sizes share their pixels whatever the
    number of classes.

    Raises:
        DataError: an unknown size, or not between 2 and TEXTURE_ROWS[size] classes.
    """
    if size not in TEXTURE_ROWS:
        raise DataError(f"textures: size = {size}, valid: {', '.join(map(str, TEXTURE_ROWS))}")
    rows = TEXTURE_ROWS[size]
    if not 2 <= classes <= rows:
        nearest = min(max(classes, 2), rows)
        raise DataError(f"textures: classes = {classes}, nearest valid: {nearest}")
    labels = (_places(rows) * classes // rows).astype(np.int32)
    name, shape = _texture_name(size, classes), (size, size, 3)
    return Dataset(name, texture_pixels(size), labels, classes, shape, split_ranges(rows))


def _places(rows: int) -> np.ndarray:
    """The numbers 0 .. rows - 1 in random order: place of row i on the line of textures, times rows."""
    return np.argsort(rng.integers(rows, 0, 2**32, rng.stream(0), rng.DATA), kind="stable")


@functools.cache
def texture_pixels(size: int) -> np.ndarray:
    """Pixels of `textures(size)`, (rows * size * size * 3,) float32.

    Place w = (place + 1/2) / rows gives, by its decimal digits, from coarse to fine:
        10 w           one of ten looks: stripes, checks, rings, dots, waves, each in two palettes
        t = frac 10w   orientation pi t, and how far the two hues lie apart
        frac 100w      frequency, 2.5 to 7 waves per image
    Random for each image: the first hue (its range of 0.3 covers three palettes), saturation,
    phases, sharpness, light and its gradient, small errors of the factors, and noise of standard
    deviation 0.03 on each number.
    """
    rows = TEXTURE_ROWS[size]
    w = (_places(rows) + 0.5) / rows
    u = _columns(rows, 10, size, 1)
    look, t = np.divmod(10 * w, 1)
    angle = np.pi * t + 0.15 * (u[0] - 0.5)
    waves = 2.5 * 2.0 ** (1.5 * (10 * t % 1)) * (0.95 + 0.1 * u[1])
    hue = (0.3 * look + 0.08 * t + 0.3 * (u[2] - 0.5)) % 1
    other = (hue + 0.25 + 0.4 * t) % 1
    light = 0.6 + 0.45 * u[3]
    front = _colour(hue, 0.5 + 0.5 * u[9], light)
    back = _colour(other, 0.9 - 0.5 * u[9], 0.65 * light)
    factors = np.stack([look % 5, angle, waves, u[4], u[5], 1.0 + 3.0 * u[6], u[7], u[8]], axis=1)
    floats = np.empty((rows, size, size, 3), np.float32)
    for lo in range(0, rows, 100):
        hi = min(lo + 100, rows)
        mask = _patterns(factors[lo:hi], size)[..., None]
        n = floats[lo:hi].size
        noise = rng.normals(n, rng.stream(size), rng.DATA, 2, lo * size * size * 3)
        colours = mask * front[lo:hi, None, None] + (1 - mask) * back[lo:hi, None, None]
        floats[lo:hi] = _grid(colours + 0.03 * noise.reshape(colours.shape))
    return floats.ravel()


def _colour(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """RGB of colours in HSV, (n, 3); hue in [0, 1)."""
    k = (6 * hue[:, None] + np.array([5.0, 3.0, 1.0])) % 6
    ramp = np.clip(np.minimum(k, 4 - k), 0, 1)
    return value[:, None] * (1 - saturation[:, None] * ramp)


def _patterns(factors: np.ndarray, size: int) -> np.ndarray:
    """How much of the front colour each pixel has, (n, size, size).

    Columns of factors: kind 0..4, angle, waves per image, two phases in [0, 1), sharpness, light
    gradient (two numbers in [0, 1)).
    """
    kind, angle, waves, p, q, sharp, gx, gy = factors.T[:, :, None, None]
    line = (np.arange(size) + 0.5) / size - 0.5
    x, y = line[None, None, :], line[None, :, None]
    turn = 2 * np.pi
    c, s = np.cos(angle), np.sin(angle)
    out = np.empty((len(factors), size, size))
    for number, rule in enumerate(PATTERNS):
        m = kind[:, 0, 0] == number
        a = turn * (waves[m] * (c[m] * x + s[m] * y) + p[m])
        b = turn * (waves[m] * (c[m] * y - s[m] * x) + q[m])
        width = (x - 0.6 * (p[m] - 0.5)) * (1 + c[m] ** 2)
        height = (y - 0.6 * (q[m] - 0.5)) * (1 + s[m] ** 2)
        out[m] = rule(a, b, turn * waves[m] * np.sqrt(width**2 + height**2))
    gradient = 0.3 * ((gx - 0.5) * x + (gy - 0.5) * y)
    return np.clip(0.5 + 0.5 * sharp * out + gradient, 0, 1)


@functools.cache
def digits1d() -> Dataset:
    """4000 signals of 40 numbers in 10 classes: a digit's stroke, stretched, tilted, shifted, blurred and noisy.

    In the style of MNIST-1D (Greydanus and Kobak 2020, "Scaling down deep learning"), with strokes of
    our own.  The stroke of 12 points takes 20 to 30 places; amplitude 0.7 to 1.3; a tilt; noise
    of standard deviation 0.11 that is smooth and 0.03 that is not, in units of the stroke's height.
    """
    rows, length = 4000, 40
    y = np.arange(rows) % 10
    stretch, start, amplitude, tilt = _columns(rows, 4, 0, 3)[:, :, None]
    span = 20 + 10 * stretch
    place = (np.arange(length) - start * (length - span)) / span  # in [0, 1) within the stroke
    strokes = np.array(STROKES) / 9 - 0.5
    knots = np.clip(place, 0, 1) * (strokes.shape[1] - 1)
    k = np.minimum(knots.astype(int), strokes.shape[1] - 2)
    low, high = np.take_along_axis(strokes[y], k, 1), np.take_along_axis(strokes[y], k + 1, 1)
    x = (0.7 + 0.6 * amplitude) * (low + (knots - k) * (high - low)) * ((place >= 0) & (place < 1))
    x += 0.5 * (tilt - 0.5) * (2 * place - 1)
    noise = rng.normals(2 * rows * length, rng.stream(0), rng.DATA, 4).astype(np.float64)
    rough, fine = noise.reshape(2, rows, length)
    x = _smooth(x + 0.25 * _smooth(rough)) + 0.03 * fine
    return from_arrays("digits1d", _grid(0.5 + 0.6 * x), y, 10, (length,))


def _smooth(x: np.ndarray) -> np.ndarray:
    """Rows of x under the weights 1 4 6 4 1, whose squares sum to 0.27; ends repeat."""
    padded = np.pad(x, ((0, 0), (2, 2)), "edge")
    n = x.shape[1]
    return sum(c * padded[:, k : k + n] for k, c in enumerate((1, 4, 6, 4, 1))) / 16


@functools.cache
def teacher_net(
    rows: int = 4000, features: int = 16, classes: int = 4, hidden: int = 16, seed: int = 0
) -> Dataset:
    """Uniform inputs, labelled by a random network with one hidden layer of tanh units.

    Its outputs are shifted by their means over the data, so that no class dominates.

    Raises:
        DataError: fewer than 10 rows, 1 feature, 2 classes or 1 hidden unit.
    """
    limits = {"rows": (rows, 10), "features": (features, 1), "classes": (classes, 2)}
    for option, (value, lowest) in {**limits, "hidden": (hidden, 1)}.items():
        if value < lowest:
            raise DataError(f"teacher_net: {option} = {value}, nearest valid: {lowest}")
    stream = rng.stream(seed)
    x = rng.uniforms(rows * features, stream, rng.DATA, 5).reshape(rows, features)
    weights = rng.normals((features + classes) * hidden, stream, rng.DATA, 6).astype(np.float64)
    first = weights[: features * hidden].reshape(features, hidden) * np.sqrt(12 / features)
    second = weights[features * hidden :].reshape(hidden, classes)
    out = np.tanh(2.0 * (x.astype(np.float64) - 0.5) @ first) @ second
    y = np.argmax((out - out.mean(0)) / out.std(0), axis=1)
    x = (x - x.min()) / (x.max() - x.min())
    return from_arrays("teacher_net", x, y, classes, (features,))


@functools.cache
def markov(vocabulary: int, tokens: int = 400_000, seed: int = 0) -> Text:
    """A text from a Markov chain of order 2 over classes of words.

    Word v belongs to class v % G, G = min(32, vocabulary // 4).  The classes of the last two words
    choose four classes, taken with probabilities 1/2, 1/4, 1/8, 1/16; with 1/16 any class follows.
    Within its class word v has probability in proportion to 1 / (v + 3): Zipf's law.  The class
    before last matters: what order 1 knows is little.

    Raises:
        DataError: vocabulary is not 16 .. 65536, or fewer than 100 tokens.
    """
    if not 16 <= vocabulary <= 65536:
        nearest = min(max(vocabulary, 16), 65536)
        raise DataError(f"markov: vocabulary = {vocabulary}, nearest valid: {nearest}")
    if tokens < 100:
        raise DataError(f"markov: tokens = {tokens}, nearest valid: 100")
    groups = min(32, vocabulary // 4)
    stream = rng.stream(seed)
    follow = rng.integers(groups * groups * 4, 0, groups, stream, rng.DATA, 7)
    follow = np.repeat(follow.reshape(groups, groups, 4), (8, 4, 2, 1), axis=2).tolist()
    slots = rng.integers(tokens, 0, 16, stream, rng.DATA, 8).tolist()
    strays = rng.integers(tokens, 0, groups, stream, rng.DATA, 9).tolist()
    chain, a, b = [0] * tokens, 0, 0
    for i in range(tokens):
        a, b = b, follow[a][b][slots[i]] if slots[i] < 15 else strays[i]
        chain[i] = b
    words = _zipf_words(np.array(chain), vocabulary, groups, stream)
    return Text(f"markov{vocabulary}", words, split_ranges(tokens), vocabulary)


def _zipf_words(chain: np.ndarray, vocabulary: int, groups: int, stream: np.ndarray) -> np.ndarray:
    """A random word of each class of `chain`, int32."""
    u = rng.uniforms(chain.size, stream, rng.DATA, 10).astype(np.float64)
    words = np.empty(chain.size, np.int32)
    for group in range(groups):
        members = np.arange(group, vocabulary, groups)
        ends = np.cumsum(1 / (members + 3.0))
        mine = chain == group
        picked = np.searchsorted(ends / ends[-1], u[mine], side="right")
        words[mine] = members[np.minimum(picked, members.size - 1)]
    return words


def _texture_name(size: int, classes: int) -> str:
    return f"textures{size}" if classes == 10 else f"textures{size}_{classes}"


DATASETS.update(digits28=digits28, digits1d=digits1d, teacher_net=teacher_net)
DATASETS.update(
    (_texture_name(size, classes), functools.partial(textures, size, classes))
    for size, counts in TEXTURE_CLASSES.items()
    for classes in counts
)
TEXTS.update((f"markov{v}", functools.partial(markov, v)) for v in MARKOV_VOCABULARIES)
