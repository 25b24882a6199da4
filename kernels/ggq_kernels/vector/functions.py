"""Functions of 16 numbers at once: powers of two, sigmoid, tanh, and activations by name.

None of them makes a finite number of a NaN. An infinity becomes a NaN or stays one, except in `sigmoid`, whose result
meets what it was made of again wherever it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import types

from ggq_kernels.vector.simd import (
    F32x16,
    I32x16,
    Tag,
    TagType,
    absolute_lanes,
    constant,
    greater,
    multiply_add,
    primitive,
    splat,
)

LOG2_E = math.log2(math.e)


def exp2(b: Any, x: Any) -> Any:
    """2**x for x in [-126, 127]: round, a polynomial on [-1/2, 1/2] (relative error below 3e-7), and the exponent set
    by hand. NaN for NaN."""
    magic = constant(x.type, 12582912.0)  # 1.5 * 2**23: the sum's low bits are the integer
    shifted = b.fadd(x, magic)
    f, y = b.fsub(x, b.fsub(shifted, magic)), constant(x.type, 1.5403530393381608e-4)
    for c in (
        1.3333558146428443e-3,
        9.618129107628477e-3,
        5.550410866482158e-2,
        0.2402265069591007,
        0.6931471805599453,
        1.0,
    ):
        y = multiply_add(b, y, f, constant(x.type, c))
    power = b.add(b.shl(b.bitcast(shifted, I32x16.ir), constant(I32x16.ir, 23)), constant(I32x16.ir, 127 << 23))
    return b.fmul(y, b.bitcast(power, F32x16.ir))


def seen_again(b: Any, x: Any, y: Any) -> Any:
    """y where x is finite; NaN where it is not, which a comparison in y may have lost."""
    return multiply_add(b, x, constant(x.type, 0.0), y)


@primitive(F32x16, F32x16, types.float32)
def exp2_minus(b: Any, x: Any, m: Any) -> Any:
    """2**(x - m), clamped below at 2**-126; x <= m. NaN where either is not finite."""
    t = b.fsub(x, splat(b, F32x16.ir, m))
    return exp2(b, seen_again(b, t, greater(b, t, constant(F32x16.ir, -126.0))))


def logistic(b: Any, x: Any) -> Any:
    """1 / (1 + e**-x), with e**-x held within [2**-126, 2**126]; finite for every x, also NaN."""
    low, high = constant(F32x16.ir, -126.0), constant(F32x16.ir, 126.0)
    t = greater(b, b.fmul(x, constant(F32x16.ir, -LOG2_E)), low)
    t = b.select(b.fcmp_ordered("<", t, high), t, high)
    one = constant(F32x16.ir, 1.0)
    return b.fdiv(one, b.fadd(one, exp2(b, t)))


@primitive(F32x16, F32x16)
def tanh(b: Any, x: Any) -> Any:
    """The hyperbolic tangent; relative error below 5e-7. NaN for infinities too.

    Source: the rational approximation of Eigen's `ptanh` (a quotient of polynomials in x**2), held at +-7.9988.
    """
    high, low = (constant(F32x16.ir, sign * 7.99881172180175781) for sign in (1, -1))
    t = greater(b, x, low)
    t = seen_again(b, x, b.select(b.fcmp_ordered("<", t, high), t, high))
    square = b.fmul(t, t)
    top = polynomial(
        b,
        square,
        4.89352455891786e-03,
        6.37261928875436e-04,
        1.48572235717979e-05,
        5.12229709037114e-08,
        -8.60467152213735e-11,
        2.00018790482477e-13,
        -2.76076847742355e-16,
    )
    bottom = polynomial(
        b, square, 4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06
    )
    return b.fmul(t, b.fdiv(top, bottom))  # not t * top, which may be too small for a normal number


def polynomial(b: Any, x: Any, *coefficients: float) -> Any:
    """coefficients[0] + coefficients[1] * x + ..."""
    y = constant(x.type, coefficients[-1])
    for c in coefficients[-2::-1]:
        y = multiply_add(b, y, x, constant(x.type, c))
    return y


@primitive(F32x16, F32x16)
def softplus(b: Any, x: Any) -> Any:
    """log(1 + e**x), relative error below 1e-6; not finite where x is not.

    It is max(x, 0) + log(1 + y) with y = e**-|x|, and log(1 + y) = 2 artanh(s) with s = y / (2 + y), at most 1/3: its
    series up to s**15 leaves 2e-9.
    """
    t = greater(b, b.fmul(absolute_lanes(b, x), constant(F32x16.ir, -LOG2_E)), constant(F32x16.ir, -126.0))
    y = exp2(b, t)
    s = b.fdiv(y, b.fadd(y, constant(F32x16.ir, 2.0)))
    series = polynomial(b, b.fmul(s, s), *(2 / (2 * k + 1) for k in range(8)))
    return seen_again(b, x, multiply_add(b, s, series, greater(b, x, constant(F32x16.ir, 0.0))))


@primitive(F32x16, F32x16)
def sigmoid(b: Any, x: Any) -> Any:
    """1 / (1 + e**-x); not finite where x is not."""
    return _sigmoid(b, x)


# ---- activations


def _silu(b: Any, x: Any) -> Any:
    return b.fmul(x, logistic(b, x))


def _gelu_tanh(b: Any, x: Any) -> Any:
    """x * sigmoid(2 u), which is x * (1 + tanh(u)) / 2, with u = sqrt(2 / pi) * (x + 0.044715 * x**3)."""
    double = 2 * math.sqrt(2 / math.pi)
    u = b.fmul(x, polynomial(b, b.fmul(x, x), double, double * 0.044715))
    return b.fmul(x, logistic(b, u))


def _gelu(b: Any, x: Any) -> Any:
    """max(x, 0) - |x| * Q(|x|), Q being the upper tail of the normal distribution: e**(-x**2 / 2) * P(t) with t = 1 /
    (1 + 0.3 * |x| / sqrt(2)).

    P is fitted to a relative error of 2e-8 for |x| < 13.4; the result is within 1e-7, and half of its last bit.
    """
    size = absolute_lanes(b, x)
    one, zero = constant(F32x16.ir, 1.0), constant(F32x16.ir, 0.0)
    t = b.fdiv(one, multiply_add(b, size, constant(F32x16.ir, 0.3 / math.sqrt(2)), one))
    power = greater(b, b.fmul(b.fmul(x, x), constant(F32x16.ir, -LOG2_E / 2)), constant(F32x16.ir, -126.0))
    p = polynomial(
        b,
        t,
        0.0845948135319986,
        0.08534587007824501,
        0.07424187203782948,
        0.10721567855774135,
        -0.04681002423912489,
        0.2731895811099142,
        -0.2556063624726566,
        0.24254492146626733,
        -0.06471635977181625,
    )
    tail = b.fmul(b.fmul(p, t), exp2(b, power))
    return b.fsub(greater(b, x, zero), b.fmul(size, tail))


def _relu(b: Any, x: Any) -> Any:
    return seen_again(b, x, greater(b, x, constant(F32x16.ir, 0.0)))


def _relu2(b: Any, x: Any) -> Any:
    y = _relu(b, x)
    return b.fmul(y, y)


def _sigmoid(b: Any, x: Any) -> Any:
    return seen_again(b, x, logistic(b, x))


_ACTIVATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "silu": _silu,
    "gelu_tanh": _gelu_tanh,
    "gelu": _gelu,
    "relu": _relu,
    "relu2": _relu2,
    "sigmoid": _sigmoid,
}


SILU, GELU_TANH, GELU, RELU, RELU2, SIGMOID = (Tag("activation", name) for name in _ACTIVATIONS)
"""The tag of each activation, an argument of the kernels that apply one."""


@primitive(F32x16, None, F32x16)
def activated(b: Any, kind: TagType, _: Any, x: Any) -> Any:
    """The tag's activation of each lane; not finite where x is not."""
    return _ACTIVATIONS[kind.values[0]](b, x)


@primitive(F32x16, F32x16, types.float32, types.float32, types.float32)
def xielu(b: Any, x: Any, rise: Any, fall: Any, beta: Any) -> Any:
    """rise * x**2 + beta * x above 0, fall * (e**x - 1 - x) + beta * x below; not finite where x is not.

    Below, e**x is within 3e-7 of itself, so the result is within 4e-7 * fall, and half of its last bit.
    """
    rise, fall, beta = (splat(b, F32x16.ir, each) for each in (rise, fall, beta))
    zero, one = constant(F32x16.ir, 0.0), constant(F32x16.ir, 1.0)
    above = greater(b, x, zero)
    below = b.select(b.fcmp_ordered("<", x, zero), x, zero)
    power = exp2(b, greater(b, b.fmul(below, constant(F32x16.ir, LOG2_E)), constant(F32x16.ir, -126.0)))
    bent = b.fsub(b.fsub(power, one), below)
    return multiply_add(b, beta, x, multiply_add(b, fall, bent, b.fmul(rise, b.fmul(above, above))))


CLAMPED = Tag("activation", "clamped_swiglu")
"""The tag of the gate that takes both of its numbers in a way of its own."""


@primitive(F32x16, None, F32x16, F32x16)
def gated(b: Any, kind: TagType, _: Any, x: Any, up: Any) -> Any:
    """The tag's activation of each lane of x, times up; `clamped_swiglu`: (u + 1) * g / (1 + e**(-1.702 g)) with g = x
    and u = up held at 7 and within +-7."""
    if kind.values[0] != "clamped_swiglu":
        return b.fmul(_ACTIVATIONS[kind.values[0]](b, x), up)
    high, low, one = (constant(F32x16.ir, value) for value in (7.0, -7.0, 1.0))
    g = seen_again(b, x, b.select(b.fcmp_ordered("<", x, high), x, high))
    u = greater(b, up, low)
    u = seen_again(b, up, b.select(b.fcmp_ordered("<", u, high), u, high))
    return b.fmul(b.fadd(u, one), b.fmul(g, logistic(b, b.fmul(g, constant(F32x16.ir, 1.702)))))
