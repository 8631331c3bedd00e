"""exp, log, tanh, sigmoid, sin, cos that vectorise.

float32: polynomials; float64 and integers: the math library.  Numba's wheel has no vector math
library, so `math.exp` in a loop stays scalar; these are plain arithmetic and bit operations, which
LLVM turns into vector code on every target.  On the host, and with the JIT off, they are NumPy's.

Polynomials are least-maximum fits of the relative error, rounded to float32 one coefficient after
the other.  "Error" is the largest over all normal float32 arguments (below 2^26 for sin and cos),
relative to the result, in units of 2^-24 (half the spacing of float32 above 1), as
tests/test_ops.py measures it.  None of them makes a subnormal number out of a normal one, save for
the smallest results that are the argument itself to rounding.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from lopt.lanes import inlined

_F = np.float32
_ONE = _F(1.0)
_LOG2E = _F(1.4426950408889634)
_LN2_HI = _F(0.693359375)  # 9 bits: exact when multiplied by an exponent
_LN2_LO = _F(math.log(2.0) - 0.693359375)
_EXP_LOW = _F(-87.33)  # below, e^x would be subnormal
_EXP_HIGH = _F(88.72283)  # above, e^x is not finite
_ROUND = _F(1.5 * 2.0**23)  # adding it rounds to an integer, found in the low bits of the sum
_MANTISSA = np.int32(23)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_SMALLEST = _F(2.0**-126)  # the smallest normal number

_QUARTERS = 2.0 / math.pi
_QUARTER_HI = 1.5707963407039642  # 26 bits of pi/2: exact when multiplied by a number below 2^26
_QUARTER_LO = -1.3909067614167116e-08  # the rest of pi/2
_ROUND64 = 1.5 * 2.0**52
_FAR = _F(2.0**26)


@inlined
def _exp32(x):
    """e^x = 2^n e^r with |r| <= log(2) / 2.  Error 1.7.

    0 below -87.33, inf above 88.72283, NaN of NaN.
    """
    c = min(max(x, _EXP_LOW), _EXP_HIGH)
    t = c * _LOG2E + _ROUND
    n = t - _ROUND
    r = (c - n * _LN2_HI) - n * _LN2_LO
    p = _F(0.0083686998) + r * _F(0.0013818921)
    p = _F(0.0416682884) + r * p
    p = _F(0.1666652113) + r * p
    p = _F(0.4999999404) + r * p
    p = _ONE + r * p
    p = _ONE + r * p
    power = np.float32(t).view(np.int32) << _MANTISSA
    y = np.int32(np.float32(p).view(np.int32) + power).view(np.float32)
    y = _F(0.0) if x < _EXP_LOW else y
    y = _F(np.inf) if x > _EXP_HIGH else y
    return y if x == x else x


@inlined
def _log32(x):
    """log x = e log 2 + log(1 + t) with 1 + t in [sqrt(1/2), sqrt(2)).  Error 1.5.

    -inf of 0 and positive subnormals, NaN below 0 and of NaN, inf of inf.
    """
    bits = np.float32(x).view(np.int32)
    exponent = (bits - _SQRT_HALF_BITS) >> _MANTISSA
    t = np.int32(bits - (exponent << _MANTISSA)).view(np.float32) - _ONE
    p = _F(0.12761588918) - _F(0.07634515931) * t
    p = _F(-0.13160180472) + p * t
    p = _F(0.14201756151) + p * t
    p = _F(-0.16623357366) + p * t
    p = _F(0.20001226965) + p * t
    p = _F(-0.25000821036) + p * t
    p = _F(0.33333331707) + p * t
    square = t * t
    e = _F(exponent)
    y = e * _LN2_HI + (t + (e * _LN2_LO + square * (t * p) - _F(0.5) * square))
    y = y if x >= _SMALLEST else _F(-np.inf)
    y = y if x < _F(np.inf) else x
    return y if x >= _F(0.0) else _F(np.nan)


@inlined
def _tanh32(x):
    """tanh x: a polynomial below 0.55, 1 - 2 / (e^{2|x|} + 1) above.  Error 3.0.  NaN of NaN."""
    a = abs(x)
    s = max(a, _F(1e-10))  # its square stays normal
    s = s * s
    p = _F(0.0210555177) - s * _F(0.0062524681)
    p = _F(-0.0538482517) + s * p
    p = _F(0.1333254725) + s * p
    p = _F(-0.3333331645) + s * p
    low = x * (_ONE + s * p)
    high = _ONE - _F(2.0) / (_exp32(a + a) + _ONE)
    high = -high if x < _F(0.0) else high
    return high if a >= _F(0.55) else low


@inlined
def _sigmoid32(x):
    """1 / (1 + e^-x).  Error 2.6.  0 below -87.33, NaN of NaN."""
    y = _ONE / (_ONE + _exp32(-_EXP_LOW if x < _EXP_LOW else -x))
    return _F(0.0) if x < _EXP_LOW else y


@inlined
def _wave32(x, quarters):
    """sin(x + quarters pi/2).  Error 2.6.  NaN of infinities and NaN.

    x is reduced to [-pi/4, pi/4] in float64, which keeps the relative precision near zeros.
    Arguments beyond 2^26, whose neighbours are more than a turn apart, count as +-2^26.
    """
    c = np.float64(min(max(x, -_FAR), _FAR))
    q = (c * _QUARTERS + _ROUND64) - _ROUND64
    a = _F((c - q * _QUARTER_HI) - q * _QUARTER_LO)
    k = np.int32(q) + np.int32(quarters)
    s = max(abs(a), _F(1e-10))  # its square stays normal
    s = s * s
    p = _F(0.0083321892) - s * _F(0.0001951828)
    p = _F(-0.1666665524) + s * p
    sine = a * (_ONE + s * p)
    p = _F(-0.0013887309) + s * _F(2.4432327e-5)
    p = _F(0.0416666456) + s * p
    cosine = _ONE - (_F(0.5) * s - s * (s * p))
    y = cosine if (k & np.int32(1)) != np.int32(0) else sine
    y = -y if (k & np.int32(2)) != np.int32(0) else y
    return y if abs(x) < _F(np.inf) else _F(np.nan)


def exp(x: float) -> float:
    """e^x."""
    return np.exp(x)


def log(x: float) -> float:
    """Natural logarithm."""
    return np.log(x)


def tanh(x: float) -> float:
    """Hyperbolic tangent."""
    return np.tanh(x)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x)."""
    return type(x)(1.0) / (type(x)(1.0) + np.exp(-x))


def sin(x: float) -> float:
    """Sine."""
    return np.sin(x)


def cos(x: float) -> float:
    """Cosine."""
    return np.cos(x)


@overload(exp)
def _exp(x):
    return (lambda x: _exp32(x)) if x == types.float32 else (lambda x: math.exp(x))


@overload(log)
def _log(x):
    return (lambda x: _log32(x)) if x == types.float32 else (lambda x: math.log(x))


@overload(tanh)
def _tanh(x):
    return (lambda x: _tanh32(x)) if x == types.float32 else (lambda x: math.tanh(x))


@overload(sigmoid)
def _sigmoid(x):
    if x == types.float32:
        return lambda x: _sigmoid32(x)
    return lambda x: 1.0 / (1.0 + math.exp(-x))


@overload(sin)
def _sin(x):
    return (lambda x: _wave32(x, 0)) if x == types.float32 else (lambda x: math.sin(x))


@overload(cos)
def _cos(x):
    return (lambda x: _wave32(x, 1)) if x == types.float32 else (lambda x: math.cos(x))
