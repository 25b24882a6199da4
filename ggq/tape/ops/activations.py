"""Activation functions by name, with their slopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from ggq.errors import UnsupportedError
from ggq.tape.passes import Array

ROOT_2_OVER_PI, CUBIC = math.sqrt(2 / math.pi), 0.044715
"""Of GELU's approximation by tanh (Hendrycks and Gimpel 2016)."""


class Activation(NamedTuple):
    """A function of one number and its derivative, on arrays of a namespace."""

    value: Callable[[Any, Array], Array]
    slope: Callable[[Any, Array], Array]


def _one_and_exp(xp: Any, x: Array) -> Array:
    """1 + exp(-x), finite for every finite x."""
    lowest = math.log(float(xp.finfo(x.dtype).smallest_normal))
    return 1 + xp.exp(-xp.clip(x, lowest, None))


def _silu(xp: Any, x: Array) -> Array:
    return xp.silu(x) if hasattr(xp, "silu") else x / _one_and_exp(xp, x)


def _silu_slope(xp: Any, x: Array) -> Array:
    share = 1 / _one_and_exp(xp, x)
    return share * (1 + x * (1 - share))


def _bend(xp: Any, x: Array) -> Array:
    return xp.tanh(ROOT_2_OVER_PI * (x + CUBIC * x * x * x))


def _gelu_tanh(xp: Any, x: Array) -> Array:
    return 0.5 * x * (1 + _bend(xp, x))


def _gelu_tanh_slope(xp: Any, x: Array) -> Array:
    bend = _bend(xp, x)
    inner = ROOT_2_OVER_PI * (1 + 3 * CUBIC * x * x)
    return 0.5 * (1 + bend) + 0.5 * x * (1 - bend * bend) * inner


_erf_by_number = np.frompyfunc(math.erf, 1, 1)


def _normal(xp: Any, x: Array) -> Array:
    """The normal distribution's share below x. NumPy has no error function: each number is handed to math.erf."""
    scaled = x * math.sqrt(0.5)
    found = xp.erf(scaled) if hasattr(xp, "erf") else xp.asarray(_erf_by_number(scaled), dtype=x.dtype)
    return 0.5 * (1 + found)


def _gelu(xp: Any, x: Array) -> Array:
    return x * _normal(xp, x)


def _gelu_slope(xp: Any, x: Array) -> Array:
    return _normal(xp, x) + x * xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _relu(xp: Any, x: Array) -> Array:
    return xp.clip(x, 0, None)


def _relu_slope(xp: Any, x: Array) -> Array:
    return xp.where(x > 0, xp.ones_like(x), xp.zeros_like(x))


def _relu2(xp: Any, x: Array) -> Array:
    return _relu(xp, x) ** 2


def _relu2_slope(xp: Any, x: Array) -> Array:
    return 2 * _relu(xp, x)


def _sigmoid(xp: Any, x: Array) -> Array:
    return xp.sigmoid(x) if hasattr(xp, "sigmoid") else 1 / _one_and_exp(xp, x)


def _sigmoid_slope(xp: Any, x: Array) -> Array:
    share = _sigmoid(xp, x)
    return share * (1 - share)


ACTIVATIONS: dict[str, Activation] = {
    "silu": Activation(_silu, _silu_slope),
    "gelu_tanh": Activation(_gelu_tanh, _gelu_tanh_slope),
    "gelu": Activation(_gelu, _gelu_slope),
    "relu": Activation(_relu, _relu_slope),
    "relu2": Activation(_relu2, _relu2_slope),
    "sigmoid": Activation(_sigmoid, _sigmoid_slope),
}
"""Every activation function that is supported."""

WITHOUT_GATE = tuple(name for name in ACTIVATIONS if name != "sigmoid")
"""Those that need no gate: what they make of 0 is 0, as kernels expect of padding."""


class GateFunction(NamedTuple):
    """A function of a gate and what it gates, and its derivatives by both, on arrays of a namespace."""

    value: Callable[[Any, Array, Array], Array]
    slopes: Callable[[Any, Array, Array], tuple[Array, Array]]


CLAMP_LIMIT, CLAMP_SLOPE = 7.0, 1.702
"""Of the clamped SwiGLU of gpt-oss."""


def _clamped(xp: Any, gate: Array, up: Array) -> Array:
    held = xp.clip(gate, None, CLAMP_LIMIT)
    return (xp.clip(up, -CLAMP_LIMIT, CLAMP_LIMIT) + 1) * held * _sigmoid(xp, CLAMP_SLOPE * held)


def _clamped_slopes(xp: Any, gate: Array, up: Array) -> tuple[Array, Array]:
    held, zero = xp.clip(gate, None, CLAMP_LIMIT), xp.zeros_like(gate)
    share = _sigmoid(xp, CLAMP_SLOPE * held)
    to_gate = (xp.clip(up, -CLAMP_LIMIT, CLAMP_LIMIT) + 1) * share * (1 + CLAMP_SLOPE * held * (1 - share))
    return xp.where(gate < CLAMP_LIMIT, to_gate, zero), xp.where(abs(up) < CLAMP_LIMIT, held * share, zero)


CLAMPED = "clamped_swiglu"
GATES = (*ACTIVATIONS, CLAMPED)
"""What may gate: activation(gate) * up for the activations; `clamped_swiglu` takes both in a way of its own."""


def gate_function(name: str) -> GateFunction:
    """The function of a gate by its name, one of GATES."""
    if name == CLAMPED:
        return GateFunction(_clamped, _clamped_slopes)
    value, slope = ACTIVATIONS[name]
    return GateFunction(
        lambda xp, gate, up: value(xp, gate) * up,
        lambda xp, gate, up: (up * slope(xp, gate), value(xp, gate)),
    )


def check_activation(name: str, known: Collection[str] = ACTIVATIONS) -> None:
    """Refuse an activation function that is not supported."""
    if name not in known:
        raise UnsupportedError(f"activation {name!r} is not supported; supported: {', '.join(known)}")
