"""Philox against its published vectors; slices, distribution and addresses of the numbers."""

import math

import numpy as np
import pytest
from scipy import stats

from lopt import rng
from lopt.errors import UsageError

# philox4x32 10 rounds, from the kat_vectors file of Random123: counter, key, output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
# Words that reach every branch and both ends of the range.
EDGE_WORDS = [0, 1, 2, 3, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 2, 2**32 - 1]
STREAM = rng.stream(11, outer=5, pair=9)


def philox_integers(counter, key):
    """Philox4x32-10 in Python integers: the oracle of addresses that no vector covers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 % 2**32, (p0 >> 32) ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return tuple(c)


def words(n, stream, purpose, inner=0):
    """Raw words number 0 .. n - 1 of an address."""
    return rng.integers(n, 0, 2**32, stream, purpose, inner)


def uniform_of_word(w):
    """(w // 2 + 1/2) / 2**31 in the two float32 roundings that `radius` documents."""
    return np.float32(w // 2) * np.float32(2.0**-31) + np.float32(2.0**-32)


def exact_normals(four):
    """Box-Muller of one block of words in float64, of u as documented."""
    out = []
    for a, b in (four[:2], four[2:]):
        r = math.sqrt(-2 * math.log(uniform_of_word(a)))
        low = (b << 2) % 2**32
        angle = (low - 2**32 if low >= 2**31 else low) * (math.pi / 2 / 2**32)
        if b >> 30 & 1:
            angle = math.pi / 2 - angle
        if b >> 31:
            angle += math.pi
        out += [r * math.cos(angle), r * math.sin(angle)]
    return out


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    got = rng.philox(*(np.uint64(v) for v in counter + key))
    assert tuple(int(v) for v in got) == expected
    assert philox_integers(counter, key) == expected


def test_address_is_the_documented_one():
    stream = rng.stream(seed=2**32 - 1, outer=2**31 + 7, pair=3)
    got = words(8, stream, purpose=17, inner=2**32 - 2)
    for block in (0, 1):
        want = philox_integers((block, 2**32 - 2, 3, 2**31 + 7), (2**32 - 1, 17))
        assert tuple(got[4 * block : 4 * block + 4]) == want


def test_normals_equal_box_muller_in_float64():
    got = rng.normals(4000, STREAM, rng.NOISE, inner=3)
    four = words(4000, STREAM, rng.NOISE, inner=3).reshape(-1, 4)
    want = np.array([exact_normals([int(w) for w in row]) for row in four]).ravel()
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-7)


def test_polynomials_over_the_whole_range():
    # a fixed grid, all small words (the tail of the normal), all large ones (its centre), edges
    grid = np.arange(0, 2**32, 2**16)
    ws = np.concatenate([grid, np.arange(4096), 2**32 - 1 - np.arange(4096), EDGE_WORDS])
    r = np.array([rng.radius(w) for w in ws.astype(np.uint64)])
    xy = np.array([rng.direction(w) for w in ws.astype(np.uint64)])

    u = uniform_of_word(ws)
    assert u.min() > 0
    assert u.max() == 1
    exact = np.sqrt(-2 * np.log(u.astype(np.float64)))
    np.testing.assert_allclose(r, exact, rtol=2e-7)
    assert r.max() == pytest.approx(math.sqrt(64 * math.log(2)), rel=1e-7)

    low = (ws << 2 & 0xFFFFFFFF).astype(np.uint32).astype(np.int32)
    a = low * (np.pi / 2 / 2**32)
    c, s = np.cos(a), np.sin(a)
    reflected = (ws >> 30 & 1).astype(bool)
    sign = np.where(ws >> 31, -1, 1)
    exact = sign[:, None] * np.where(reflected[:, None], np.c_[s, c], np.c_[c, s])
    np.testing.assert_allclose(xy, exact, rtol=2.5e-7)


@pytest.mark.parametrize("piece", ["radius", "direction"])
def test_pieces_agree_with_their_python_source(piece):
    function = getattr(rng, piece)
    for w in np.array(EDGE_WORDS, np.uint64):
        assert function(w) == function.py_func(w)


def test_any_slice_has_the_bits_of_the_whole():
    whole = {
        "normals": rng.normals(160, STREAM, rng.PERTURB),
        "uniforms": rng.uniforms(160, STREAM, rng.PERTURB),
    }
    into = {"normals": rng.normals_into, "uniforms": rng.uniforms_into}
    for start in range(9):
        for n in range(71):
            for kind, expected in whole.items():
                out = np.full(n + 2, 7, np.float32)
                into[kind](out[1 : n + 1], start, STREAM, rng.PERTURB, 0)
                np.testing.assert_array_equal(out[1 : n + 1], expected[start : start + n])
                assert out[0] == out[-1] == 7
            base = np.linspace(-1, 1, n, dtype=np.float32)
            added = base.copy()
            rng.add_normals(added, 0.3, start, STREAM, rng.PERTURB, 0)
            expected = base + np.float32(0.3) * whole["normals"][start : start + n]
            np.testing.assert_array_equal(added, expected)


@pytest.mark.parametrize("team", [2, 3, 32])
def test_any_number_of_lanes_gives_the_same_bits(monkeypatch, team):
    def by_team(kernel, out, *arguments):
        monkeypatch.setattr(rng, "lanes", lambda: team)
        for k in range(team):
            monkeypatch.setattr(rng, "lane", lambda k=k: k)
            kernel.py_func(out, *arguments)
        return out

    address = (STREAM, rng.PERTURB, 6)
    for start, n in ((0, 40), (3, 38), (1, 2)):
        got = by_team(rng.normals_into, np.zeros(n, np.float32), start, *address)
        np.testing.assert_array_equal(got, rng.normals(n, *address, start))
        got = by_team(rng.add_normals, np.zeros(n, np.float32), 0.25, start, *address)
        np.testing.assert_array_equal(got, np.float32(0.25) * rng.normals(n, *address, start))
        got = by_team(rng.uniforms_into, np.zeros(n, np.float32), start, *address)
        np.testing.assert_array_equal(got, rng.uniforms(n, *address, start))
    got = by_team(rng.integers_into, np.zeros(39, np.int64), -4, 90, *address)
    np.testing.assert_array_equal(got, rng.integers(39, -4, 90, *address))


def test_integers_of_any_length_share_their_beginning():
    whole = rng.integers(70, -3, 1000, STREAM, rng.BATCH)
    for n in range(70):
        np.testing.assert_array_equal(rng.integers(n, -3, 1000, STREAM, rng.BATCH), whole[:n])


def test_addresses_near_the_end_of_the_range():
    for start in (rng.MAX_INDEX - 9, 2**32 - 5, 2**33 + 1):
        block, k = divmod(start, 4)
        counters = [((block + j) % 2**32, 2, int(STREAM[2]), int(STREAM[1])) for j in range(4)]
        key = (int(STREAM[0]), rng.INIT)
        want = np.concatenate([exact_normals(philox_integers(c, key)) for c in counters])[k : k + 9]
        got = rng.normals(9, STREAM, rng.INIT, inner=2, start=start)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-7)


def test_float64_output_holds_the_same_numbers():
    out = np.empty(37)
    for into, host in (
        (rng.normals_into, rng.normals),
        (rng.uniforms_into, rng.uniforms),
    ):
        into(out, 2, STREAM, rng.TASK, 4)
        np.testing.assert_array_equal(out, host(37, STREAM, rng.TASK, inner=4, start=2))
    out[:] = 1.0
    rng.add_normals(out, 1e-9, 0, STREAM, rng.TASK, 0)  # lost in float32, kept in float64
    z = rng.normals(37, STREAM, rng.TASK).astype(np.float64)
    np.testing.assert_allclose(out - 1.0, 1e-9 * z, rtol=1e-6, atol=1e-15)


N = 1_000_000


def moment_z_scores(x):
    """Distance of the first four sample moments of x from those of N(0, 1), in standard errors."""
    x = x.astype(np.float64)
    n = len(x)
    return [
        x.mean() * math.sqrt(n),
        ((x**2).mean() - 1) * math.sqrt(n / 2),
        (x**3).mean() * math.sqrt(n / 15),
        ((x**4).mean() - 3) * math.sqrt(n / 96),
    ]


def test_moments_and_shape_of_normals():
    # False alarms if the numbers were redrawn: |z| > 5 has probability 6e-7, KS p < 1e-6 has 1e-6.
    x = rng.normals(N, STREAM, rng.PERTURB)
    assert np.abs(moment_z_scores(x)).max() < 5
    assert stats.kstest(x, "norm").pvalue > 1e-6
    for j in range(4):  # each position in a block by itself
        assert stats.kstest(x[j::4], "norm").pvalue > 1e-6


def test_shape_tests_notice_a_wrong_distribution():
    x = rng.normals(N, STREAM, rng.PERTURB)
    assert np.abs(moment_z_scores(1.01 * x)).max() > 5
    assert stats.kstest(x + 0.01, "norm").pvalue < 1e-6
    uniform_sum = rng.uniforms(12 * N // 4, STREAM, rng.PERTURB).reshape(-1, 12).sum(1) - 6
    assert np.abs(moment_z_scores(uniform_sum)).max() > 5  # right mean and variance, light tails


def test_tail_frequencies():
    x = np.concatenate([rng.normals(N, rng.stream(3, pair=p), rng.PERTURB) for p in range(4)])
    for bound in (3.0, 4.0, 4.5):
        expected = len(x) * 2 * stats.norm.sf(bound)
        assert abs(np.sum(np.abs(x) > bound) - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize(
    "neighbour",
    [
        {"seed": 12},
        {"outer": 6},
        {"pair": 10},
        {"purpose": rng.NOISE + 1},
        {"inner": 1},
        {"start": 1},
        {"start": 2},
        {"start": 4},
    ],
    ids=lambda d: "-".join(d),
)
def test_neighbouring_addresses_are_independent(neighbour):
    address = {"seed": 11, "outer": 5, "pair": 9, "purpose": rng.NOISE, "inner": 0, "start": 0}

    def draw(a):
        s = rng.stream(a["seed"], a["outer"], a["pair"])
        return rng.normals(200_000, s, a["purpose"], a["inner"], a["start"]).astype(np.float64)

    a, b = draw(address), draw(address | neighbour)
    scale = math.sqrt(len(a))
    assert abs(np.mean(a * b)) * scale < 5  # variance of a product of independent normals is 1
    squares = (a * a - 1) * (b * b - 1) / 2
    assert abs(np.mean(squares)) * scale < 5
    assert abs(np.mean(a * a)) * scale > 5  # negative control: the same address


def test_purposes_are_distinct():
    single = [rng.INIT, rng.THETA, rng.PERTURB, rng.TASK, rng.HORIZON, rng.DATA]
    bases = (rng.BATCH, rng.NOISE, rng.LATENT, rng.INPUT_NOISE, rng.AUGMENT)
    with_split = [base + split for base in bases for split in range(4)]
    assert len(set(single + with_split)) == len(single) + len(with_split)


def test_uniforms_are_uniform_on_the_half_open_interval():
    x = rng.uniforms(N, STREAM, rng.DATA)
    assert x.min() >= 0
    assert x.max() < 1
    assert np.all(x * 2**24 % 1 == 0)
    assert stats.kstest(x, "uniform").pvalue > 1e-6
    assert stats.kstest(x**1.02, "uniform").pvalue < 1e-6  # negative control


@pytest.mark.parametrize(("lo", "hi"), [(0, 7), (-5, 6), (100, 1357)])
def test_integers_are_uniform_in_range(lo, hi):
    x = rng.integers(400_000, lo, hi, STREAM, rng.BATCH)
    assert x.dtype == np.int64
    assert (x.min(), x.max()) == (lo, hi - 1)
    counts = np.bincount(x - lo, minlength=hi - lo)
    assert stats.chisquare(counts).pvalue > 1e-6


def test_integers_at_the_extremes():
    np.testing.assert_array_equal(rng.integers(9, 4, 5, STREAM, rng.BATCH), np.full(9, 4))
    full = words(4, STREAM, rng.BATCH)
    np.testing.assert_array_equal(rng.integers(4, -5, 2**32 - 5, STREAM, rng.BATCH), full - 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rng.stream(-1), "seed = -1"),
        (lambda: rng.stream(0, outer=2**32), r"outer = 4294967296.*4294967295"),
        (lambda: rng.stream(0, pair=-2), "pair = -2"),
        (lambda: rng.normals(3, STREAM, rng.INIT, inner=-1), "inner = -1"),
        (lambda: rng.uniforms(3, STREAM, 2**32), "purpose = 4294967296"),
        (lambda: rng.normals(-1, STREAM, rng.INIT), "outside"),
        (lambda: rng.normals(5, STREAM, rng.INIT, start=rng.MAX_INDEX - 4), "outside"),
        (lambda: rng.integers(1, 3, 3, STREAM, rng.INIT), r"\[3, 3\) has 0 values"),
        (lambda: rng.integers(1, 0, 2**32 + 1, STREAM, rng.INIT), "4294967297 values"),
    ],
)
def test_bad_addresses_are_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()
