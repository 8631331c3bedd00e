"""Keyed random numbers: every number has an address, no state is carried.

Generator: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2,
3", SC 2011, section 3.3), checked against the known-answer vectors that its authors publish.

Address of number i: key (seed, purpose), counter (i // 4, inner, pair, outer), word i % 4 of that
block, all uint32.  `stream` is the part that stays fixed while a particle lives: uint32[3] =
(seed, outer, pair).  `purpose` says what the number is for, `inner` is the inner step (0 where
there is none), 0 <= i < 2**34.

The bits of number i depend on its address only: not on the slice it was asked for with, the number
of lanes, or the width of the vector unit (plain float32 multiplies, adds and square roots, never
contracted on the CPU).  CUDA contracts a * b + c: there uniforms and integers have the same bits,
and normals agree to rounding.

Kernels (all lanes call them; no barrier; stream uint32[3]; start, purpose, inner integers):
    normals_into(out, start, stream, purpose, inner)        out[j] = normal number start + j
    add_normals(out, scale, start, stream, purpose, inner)  out[j] += scale * normal start + j
    uniforms_into(out, start, stream, purpose, inner)       out[j] = uniform start + j, in [0, 1)
    integers_into(out, lo, hi, stream, purpose, inner)      out[j] = integer number j, in [lo, hi)
    uniform4(block, stream, purpose, inner)                 uniforms 4 block .. 4 block + 3, a tuple
A float64 `out` receives the float32 numbers: a float64 reference sees the float32 kernel's noise.
Host functions `stream`, `normals`, `uniforms`, `integers` check their arguments and return arrays.
"""

import math

import numpy as np

from lopt.errors import UsageError
from lopt.lanes import inlined, kernel, lane, lanes

# Purposes.  A draw for a new reason takes a new number, or it would repeat another's bits.
INIT = 1  # inner parameters of a task
THETA = 2  # initial meta-parameters of an optimizer
PERTURB = 3  # perturbation of theta by a pair
TASK = 4  # which task of a distribution, and its random constants (matrices, targets)
HORIZON = 5  # length of an episode, offset of its first truncation
DATA = 6  # permutation of a data set, synthetic data sets
TABLE = 7  # numbers of a noise table
TABLE_PLACE = 8  # where in it the perturbation of a pair begins
PROBE = 9  # points around the start of a search that measure its tasks
BATCH = 16  # rows of a mini-batch; add the split (0..3)
NOISE = 32  # noise inside a loss; add the split (0..3)
LATENT = 48  # latent variables of a generative model; add the split (0..3)
INPUT_NOISE = 52  # noise on a task's inputs; add the split (0..3)
AUGMENT = 56  # random changes of a batch's images; add the split (0..3)
SCALES = 60  # scales of a reparameterised task
GRADIENT_NOISE = 61  # noise added to a gradient
GRADIENT_MASK = 62  # coordinates of a gradient that are set to 0
ES_DIRECTION = 64  # directions of a gradient by evolution strategies; add the split (0..3)

MAX_INDEX = 2**34  # four numbers for each value of the first counter word

_F = np.float32
_MASK = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_ONE = np.uint64(1)
_LN2_HI = _F(0.693359375)  # 9 significant bits: its product with an exponent is exact
_LN2_LO = _F(math.log(2.0) - 0.693359375)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_MANTISSA = np.int32(23)
_QUARTER_TURN = _F(0.5 * math.pi * 2.0**-32)


@inlined
def philox(c0, c1, c2, c3, k0, k1):
    """One Philox4x32-10 block: four counter and two key words to four random words.

    Words are integers whose low 32 bits count; results are uint64 below 2**32.  They live in 64-bit
    lanes, where vector units multiply 32 x 32 -> 64 bits; the masks drop what the upper halves hold
    between rounds.
    """
    c0, c1, c2, c3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
    k0, k1 = np.uint64(k0), np.uint64(k1)
    for _ in range(10):
        p0 = (c0 & _MASK) * np.uint64(0xD2511F53)
        p1 = (c2 & _MASK) * np.uint64(0xCD9E8D57)
        c0 = (p1 >> _WORD) ^ c1 ^ k0
        c1 = p1
        c2 = (p0 >> _WORD) ^ c3 ^ k1
        c3 = p0
        k0 = (k0 + np.uint64(0x9E3779B9)) & _MASK
        k1 = (k1 + np.uint64(0xBB67AE85)) & _MASK
    return c0 & _MASK, c1 & _MASK, c2 & _MASK, c3 & _MASK


@inlined
def radius(word):
    """sqrt(-2 log u) of u = (word // 2 + 1/2) / 2**31, float32: 0 < u <= 1, result <= 6.661.

    u is computed in float32 as word // 2, times 2**-31, plus 2**-32: two roundings.
    log u = e log 2 + log(1 + t) with 1 + t in [sqrt(1/2), sqrt(2)), and
    log(1 + t) = t - t**2 / 2 + t**3 p(t), p a least-maximum fit (relative error 6e-9).
    """
    u = _F(np.int32(np.uint64(word) >> _ONE)) * _F(2.0**-31) + _F(2.0**-32)
    bits = np.float32(u).view(np.int32)
    exponent = (bits - _SQRT_HALF_BITS) >> _MANTISSA
    t = np.int32(bits - (exponent << _MANTISSA)).view(np.float32) - _F(1.0)
    p = _F(-0.07634515930845989) * t + _F(0.12761588918062852)
    p = p * t + _F(-0.1316018047153174)
    p = p * t + _F(0.1420175615106779)
    p = p * t + _F(-0.1662335736572137)
    p = p * t + _F(0.2000122696475427)
    p = p * t + _F(-0.25000821035805587)
    p = p * t + _F(0.33333331706499303)
    e = _F(exponent)
    square = t * t
    small = e * _LN2_LO + (square * (t * p) - _F(0.5) * square)
    log_u = e * _LN2_HI + (t + small)
    return _F(math.sqrt(_F(-2.0) * log_u))


@inlined
def direction(word):
    """A point (x, y) on the unit circle, float32, uniform when `word` is.

    The low 30 bits give an angle a in [-pi/4, pi/4), the top two bits one of four arcs: bit 30
    reflects (cos a, sin a) to (sin a, cos a), bit 31 negates.  Together they cover the circle once.
    sin a = a + a**3 p(a**2), cos a = 1 - a**2 / 2 + a**4 q(a**2), p and q least-maximum fits
    (relative errors 4e-9 and 1e-10).
    """
    word = np.uint64(word)
    a = _F(np.int32((word << np.uint64(2)) & _MASK)) * _QUARTER_TURN
    y = a * a
    p = (_F(-0.00019515) * y + _F(0.00833216)) * y + _F(-0.16666655)
    sine = a + a * (y * p)
    q = (_F(2.44331563e-05) * y + _F(-1.38873162e-03)) * y + _F(4.16666457e-02)
    cosine = _F(1.0) - (_F(0.5) * y - y * (y * q))
    reflect = ((word >> np.uint64(30)) & _ONE) == _ONE
    x = sine if reflect else cosine
    y = cosine if reflect else sine
    negate = (word >> np.uint64(31)) == _ONE
    return (-x if negate else x), (-y if negate else y)


@inlined
def _address(stream, purpose, inner):
    """Counter words 1, 2, 3 and key words; read before a loop, where `stream` might alias `out`."""
    return (
        np.uint64(inner) & _MASK,
        np.uint64(stream[2]),
        np.uint64(stream[1]),
        np.uint64(stream[0]),
        np.uint64(purpose) & _MASK,
    )


@inlined
def _words(block, address):
    """The four words of a block of an address."""
    c1, c2, c3, k0, k1 = address
    return philox(block, c1, c2, c3, k0, k1)


@inlined
def _normal4(block, address):
    """The four standard normals of a block: Box-Muller on words (0, 1) and on words (2, 3)."""
    w0, w1, w2, w3 = _words(block, address)
    r, s = radius(w0), radius(w2)
    x0, y0 = direction(w1)
    x1, y1 = direction(w3)
    return r * x0, r * y0, s * x1, s * y1


@inlined
def _uniform(word):
    """The upper 24 bits as a float32 in [0, 1), exact."""
    return _F(np.int32(np.uint64(word) >> np.uint64(8))) * _F(2.0**-24)


@inlined
def _scaled(word, span):
    """floor(word * span / 2**32) as int64."""
    return np.int64((np.uint64(word) * span) >> _WORD)


@inlined
def _pick(v, k):
    """v[k] of a 4-tuple; a chain of selects, since a tuple has no address to index."""
    return v[0] if k == 0 else v[1] if k == 1 else v[2] if k == 2 else v[3]


@inlined
def uniform4(block, stream, purpose, inner):
    """Uniforms number 4 block .. 4 block + 3 of the address, float32: a few per example need no array."""
    w0, w1, w2, w3 = _words(block, _address(stream, purpose, inner))
    return _uniform(w0), _uniform(w1), _uniform(w2), _uniform(w3)


@inlined
def _cut(start, n):
    """(head, blocks, rest): elements before the first whole block, whole blocks, elements outside.

    The loops below index a slice that begins at the first whole block.  An index head + 4 * b into
    the whole would not do: it could be negative for all that LLVM knows, and Python's meaning of
    negative indices stops the vectoriser.
    """
    head = min(-start % 4, n)
    blocks = (n - head) // 4
    return head, blocks, n - 4 * blocks


@kernel
def normals_into(out, start, stream, purpose, inner):
    """out[j] = standard normal number start + j of the address."""
    address = _address(stream, purpose, inner)
    head, blocks, rest = _cut(start, out.size)
    cast = out.dtype.type
    body, first = out[head:], (start + head) >> 2
    for b in range(lane(), blocks, lanes()):
        z0, z1, z2, z3 = _normal4(first + b, address)
        body[4 * b] = cast(z0)
        body[4 * b + 1] = cast(z1)
        body[4 * b + 2] = cast(z2)
        body[4 * b + 3] = cast(z3)
    for i in range(lane(), rest, lanes()):
        j = i if i < head else i + 4 * blocks
        z = _normal4((start + j) >> 2, address)
        out[j] = cast(_pick(z, (start + j) & 3))


@kernel
def add_normals(out, scale, start, stream, purpose, inner):
    """out[j] += scale * standard normal number start + j, in the dtype of out."""
    address = _address(stream, purpose, inner)
    head, blocks, rest = _cut(start, out.size)
    cast = out.dtype.type
    s = cast(scale)
    body, first = out[head:], (start + head) >> 2
    for b in range(lane(), blocks, lanes()):
        z0, z1, z2, z3 = _normal4(first + b, address)
        body[4 * b] += s * cast(z0)
        body[4 * b + 1] += s * cast(z1)
        body[4 * b + 2] += s * cast(z2)
        body[4 * b + 3] += s * cast(z3)
    for i in range(lane(), rest, lanes()):
        j = i if i < head else i + 4 * blocks
        z = _normal4((start + j) >> 2, address)
        out[j] += s * cast(_pick(z, (start + j) & 3))


@kernel
def uniforms_into(out, start, stream, purpose, inner):
    """out[j] = uniform number start + j of the address, a multiple of 2**-24 in [0, 1)."""
    address = _address(stream, purpose, inner)
    head, blocks, rest = _cut(start, out.size)
    cast = out.dtype.type
    body, first = out[head:], (start + head) >> 2
    for b in range(lane(), blocks, lanes()):
        w0, w1, w2, w3 = _words(first + b, address)
        body[4 * b] = cast(_uniform(w0))
        body[4 * b + 1] = cast(_uniform(w1))
        body[4 * b + 2] = cast(_uniform(w2))
        body[4 * b + 3] = cast(_uniform(w3))
    for i in range(lane(), rest, lanes()):
        j = i if i < head else i + 4 * blocks
        w = _words((start + j) >> 2, address)
        out[j] = cast(_uniform(_pick(w, (start + j) & 3)))


@kernel
def integers_into(out, lo, hi, stream, purpose, inner):
    """out[j] = integer number j of the address, in [lo, hi), 1 <= hi - lo <= 2**32; out int64.

    lo + floor(word * (hi - lo) / 2**32): a value's probability is off by at most 2**-32 (no
    rejection: number j would no longer sit at address j).
    """
    address = _address(stream, purpose, inner)
    span = np.uint64(hi - lo)
    blocks = out.size // 4
    for b in range(lane(), blocks, lanes()):
        w0, w1, w2, w3 = _words(b, address)
        out[4 * b] = lo + _scaled(w0, span)
        out[4 * b + 1] = lo + _scaled(w1, span)
        out[4 * b + 2] = lo + _scaled(w2, span)
        out[4 * b + 3] = lo + _scaled(w3, span)
    for i in range(4 * blocks + lane(), out.size, lanes()):
        out[i] = lo + _scaled(_pick(_words(i >> 2, address), i & 3), span)


def stream(seed: int, outer: int = 0, pair: int = 0) -> np.ndarray:
    """The fixed part (seed, outer, pair) of an address, uint32[3].

    Raises:
        UsageError: a word is outside [0, 2**32).
    """
    return np.array([_word("seed", seed), _word("outer", outer), _word("pair", pair)], np.uint32)


def normals(n: int, stream: np.ndarray, purpose: int, inner: int = 0, start: int = 0) -> np.ndarray:
    """Standard normals number start .. start + n - 1 of an address, float32 (n,).

    Raises:
        UsageError: purpose or inner is not a uint32, or the numbers are outside [0, 2**34).
    """
    _check(n, start, purpose, inner)
    out = np.empty(n, np.float32)
    normals_into(out, start, stream, purpose, inner)
    return out


def uniforms(
    n: int, stream: np.ndarray, purpose: int, inner: int = 0, start: int = 0
) -> np.ndarray:
    """Uniforms in [0, 1) number start .. start + n - 1 of an address, float32 (n,).

    Raises:
        UsageError: as `normals`.
    """
    _check(n, start, purpose, inner)
    out = np.empty(n, np.float32)
    uniforms_into(out, start, stream, purpose, inner)
    return out


def integers(
    n: int, lo: int, hi: int, stream: np.ndarray, purpose: int, inner: int = 0
) -> np.ndarray:
    """Integers in [lo, hi) number 0 .. n - 1 of an address, int64 (n,).

    Raises:
        UsageError: as `normals`; also an empty range, or one of more than 2**32 values.
    """
    _check(n, 0, purpose, inner)
    if not 1 <= hi - lo <= 2**32:
        raise UsageError(f"range [{lo}, {hi}) has {hi - lo} values, valid: 1 to 2**32")
    out = np.empty(n, np.int64)
    integers_into(out, lo, hi, stream, purpose, inner)
    return out


def _word(name: str, value: int) -> int:
    if not 0 <= value < 2**32:
        nearest = 0 if value < 0 else 2**32 - 1
        raise UsageError(f"{name} = {value} is not a 32-bit word; nearest valid: {nearest}")
    return int(value)


def _check(n: int, start: int, purpose: int, inner: int) -> None:
    _word("purpose", purpose)
    _word("inner", inner)
    if n < 0 or start < 0 or start + n > MAX_INDEX:
        raise UsageError(f"numbers {start} to {start + n} are outside 0 to 2**34 of an address")
