"""exp, log, tanh, sigmoid that vectorise: polynomials for float32, the math library for float64.

Numba's wheel has no vector math library, so `math.exp` in a loop stays scalar; these are plain arithmetic and bit
operations, which LLVM turns into vector code on every target.  Errors are measured over the float32 range in
tests/test_ops.py.  Coefficients: weighted minimax fits of our own.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

_F = np.float32
_LOG2E = _F(1.4426950408889634)
_LN2_HI = _F(0.693359375)  # 9 bits: exact when multiplied by an exponent
_LN2_LO = _F(math.log(2.0) - 0.693359375)
_EXP_LOW = _F(-87.33)  # below, the result would be subnormal: 0 is returned
_EXP_HIGH = _F(88.72283)
_ROUND = _F(12582912.0)  # 1.5 * 2**23: adding and subtracting it rounds to an integer
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_SMALLEST = _F(1.17549435e-38)


@njit(cache=True, forceinline=True, error_model="numpy")
def _exp32(x):
    """exp(x), float32: 2^n exp(r), |r| <= log(2)/2; 0 below -87.33, inf above 88.72, NaN stays."""
    c = min(max(x, _EXP_LOW), _EXP_HIGH)
    n = (c * _LOG2E + _ROUND) - _ROUND
    r = (c - n * _LN2_HI) - n * _LN2_LO
    p = _F(1.3888889e-3) + r * _F(1.9841270e-4)
    p = _F(8.3333333e-3) + r * p
    p = _F(4.1666667e-2) + r * p
    p = _F(1.6666667e-1) + r * p
    p = _F(0.5) + r * p
    y = _F(1.0) + (r + r * r * p)
    half = np.int32(n) >> np.int32(1)  # two factors: n = 128 does not fit into one exponent
    y = y * np.int32((half + np.int32(127)) << np.int32(23)).view(np.float32)
    y = y * np.int32((np.int32(n) - half + np.int32(127)) << np.int32(23)).view(np.float32)
    y = _F(0.0) if x < _EXP_LOW else y
    y = _F(np.inf) if x > _EXP_HIGH else y
    return y if x == x else x


@njit(cache=True, forceinline=True, error_model="numpy")
def _log32(x):
    """log(x), float32, for normal x > 0; subnormals and 0 give -inf, negative x and NaN give NaN, inf gives inf."""
    bits = np.float32(x).view(np.int32)
    exponent = (bits - _SQRT_HALF_BITS) >> np.int32(23)
    t = np.int32(bits - (exponent << np.int32(23))).view(np.float32) - _F(1.0)
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


@njit(cache=True, forceinline=True, error_model="numpy")
def _tanh32(x):
    """tanh(x), float32: a polynomial below 0.55, 1 - 2 / (exp(2|x|) + 1) above."""
    a = abs(x)
    s = x * x
    p = _F(-0.0084122116) + s * _F(0.00239383605)
    p = _F(0.0217822445) + s * p
    p = _F(-0.0539595597) + s * p
    p = _F(0.13333293) + s * p
    p = _F(-0.333333327) + s * p
    small = x + x * s * p
    big = _F(1.0) - _F(2.0) / (_exp32(_F(2.0) * a) + _F(1.0))
    big = -big if x < _F(0.0) else big
    return small if a < _F(0.55) else big


@njit(cache=True, forceinline=True, error_model="numpy")
def _sigmoid32(x):
    """1 / (1 + exp(-x)), float32."""
    return _F(1.0) / (_F(1.0) + _exp32(-x))


def exp(x: float) -> float:
    """e^x; vectorises for float32."""
    return math.exp(x)


def log(x: float) -> float:
    """Natural logarithm; vectorises for float32, where subnormals count as 0."""
    return math.log(x)


def tanh(x: float) -> float:
    """Hyperbolic tangent; vectorises for float32."""
    return math.tanh(x)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x); vectorises for float32."""
    return 1.0 / (1.0 + math.exp(-x))


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
