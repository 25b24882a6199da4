"""Activations with and without a gate, and the functions that they are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ggq.tape.buffers import Buffer
from ggq.tape.ops import Activate, Gate
from ggq.tape.ops.activations import CLAMPED, WITHOUT_GATE
from ggq.tape.ops.activations import GATES as MEANINGS
from ggq_kernels.code.compiled import Op, op
from ggq_kernels.row.calls import ACTIVATIONS, GATES
from ggq_kernels.row.operands import PIECE
from ggq_kernels.run import calls
from ggq_kernels.vector.functions import exp2_minus, tanh
from ggq_kernels.vector.simd import load_f32, read_i64, store_f32
from tests.kit.kernel_support import SMALLEST, Floats, address, count, gamma, run, team
from tests.kit.row_oracle import meaning

pytestmark = pytest.mark.kernels


def test_exp2_is_within_what_it_promises() -> None:
    """Relative error below 3e-7 over its whole range, powers of two exact."""
    x = np.concatenate([np.linspace(-126, 0, 200_003), np.arange(-126, 1), np.linspace(-1, 0, 100_001)]).astype(
        np.float32
    )
    x = np.concatenate([x, np.zeros(-len(x) % 16, np.float32)])
    out = computed(exp2_of, x)
    expected = np.exp2(x.astype(np.float64))
    assert (np.abs(out - expected) <= 3e-7 * expected).all()
    whole = x == np.rint(x)
    np.testing.assert_array_equal(out[whole], expected[whole])


@op
def exp2_of(row, team):
    """out = 2**x for x <= 0"""
    n, source, out = read_i64(row + 8), read_i64(row + 16), read_i64(row + 24)
    for i in range(0, n, 16):
        store_f32(out + 4 * i, exp2_minus(load_f32(source + 4 * i), 0.0))


@pytest.mark.parametrize("width", [172, PIECE + 40])
def test_silu_gate_is_within_float32_rounding(width: int) -> None:
    """e**-g = 2**t: t has two roundings (the constant's and the product's), 3e-7 is exp2's own, five more follow.

    Where e**-g would pass 2**126 it is held there: the result is at most |g * up| * 2**-126 then, and wrong by no more.
    """
    rng = np.random.default_rng(9)
    g = np.concatenate([np.linspace(-200, 200, 3 * width - 8), [0, -0.0, 87, -87, 88, -88, -87.34, 1e-30]])
    gate = rng.permutation(g).reshape(3, width).astype(np.float32)
    up = rng.standard_normal((3, width)).astype(np.float32)
    a, b, out, tokens = Floats(gate), Floats(up), Floats(np.full((3, width), 5, np.float32)), count(3)
    run(calls.gate_row(address(tokens), a.rows, b.rows, out.rows))
    wide, t = gate.astype(np.float64), np.abs(gate) * np.log2(np.e)
    expected = wide / (1 + np.exp(-wide)) * up
    relative = np.log(2) * t * gamma(2) + 3e-7 + gamma(5)
    floor = np.where(t > 125.9, np.abs(wide * up) * 2.0**-125.9, 0) + SMALLEST * (1 + np.abs(up))
    assert (np.abs(out.values - expected) <= relative * np.abs(expected) + floor).all()
    assert (out.whole[:3, width:] == 0).all()


def computed(function: Op, x: np.ndarray) -> np.ndarray:
    """A function of the kernels at float32 numbers, a multiple of 16."""
    out, words = np.zeros_like(x), np.zeros((1, 32), np.int64)
    words[0, :4] = [function.address, len(x), address(x), address(out)]
    team().run(words)
    return out


def test_tanh_is_within_what_it_promises() -> None:
    """Relative error below 5e-7, also of small numbers; NaN for what is not finite."""
    x = np.concatenate([np.linspace(-10, 10, 200_000), np.logspace(-37, 0, 100_000), [0, -0.0, 1e30, -1e30] * 4])
    x = x.astype(np.float32)
    got, expected = computed(tanh_of, x), np.tanh(x.astype(np.float64))
    assert (np.abs(got - expected) <= 5e-7 * np.abs(expected)).all()
    assert np.isnan(computed(tanh_of, np.array([np.inf, -np.inf, np.nan, -np.nan] * 4, np.float32))).all()


@op
def tanh_of(row, team):
    """out = tanh(x)"""
    n, source, out = read_i64(row + 8), read_i64(row + 16), read_i64(row + 24)
    for i in range(0, n, 16):
        store_f32(out + 4 * i, tanh(load_f32(source + 4 * i)))


def allowed(activation: str, x: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How far an activation of x may be off.

    As for SiLU; GELU by tanh is x * sigmoid(u), u being rounded four times more; the operation itself takes 1 +
    tanh in float64 and so loses what is below 2**-52. GELU is within 1e-7 (its docstring)
    and half of its last bit, ReLU exact, its square rounded once.
    """
    if activation in ("relu", "relu2"):
        return gamma(1) * expected + SMALLEST
    if activation == "gelu":
        return 1e-7 + gamma(1) * np.abs(expected)
    u = x if activation == "silu" else 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    t = np.abs(u) * np.log2(np.e)
    relative = np.log(2) * np.minimum(t, 127) * gamma(2 if activation == "silu" else 6) + 3e-7 + gamma(4)
    lost = 0 if activation == "silu" else 2.0**-52 * np.abs(x)
    return relative * np.abs(expected) + np.where(t > 125.9, np.abs(x) * 2.0**-125.9, 0) + lost + SMALLEST


@pytest.mark.parametrize("width", [7, 172, PIECE + 40])
def test_a_sigmoid_gate(width: int) -> None:
    """As SiLU's, without the factor that it has of its own; held at 2**-126 too."""
    rng = np.random.default_rng(width)
    gate = np.concatenate([np.linspace(-200, 200, 3 * width - 4), [0, -0.0, 1e-30, 3e38]])
    gate = rng.permutation(gate).reshape(3, width).astype(np.float32)
    up = rng.standard_normal((3, width)).astype(np.float32)
    source, other, result = (Buffer(name, width) for name in ("source", "other", "result"))
    expected = meaning(Gate(source, other, result, "sigmoid"), result, {source: gate, other: up})
    tokens, a, b, out = count(3), Floats(gate), Floats(up), Floats(np.full_like(up, 5))
    run(calls.gate_row(address(tokens), a.rows, b.rows, out.rows, "sigmoid"), threads=2)
    t = np.abs(gate.astype(np.float64)) * np.log2(np.e)
    relative = np.log(2) * np.minimum(t, 127) * gamma(2) + 3e-7 + gamma(5)
    floor = np.where(t > 125.9, np.abs(up) * 2.0**-125.9, 0) + SMALLEST
    assert (np.abs(out.values - expected) <= relative * np.abs(expected) + floor).all()
    assert (out.whole[:3, width:] == 0).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("width", [7, 172, PIECE + 40])
def test_activations(activation: str, width: int) -> None:
    """Alone, in place too, and as a gate, whose product is rounded once more."""
    rng = np.random.default_rng(width)
    special = [0, -0.0, 1e-30, -1e-30, 13.1, -13.1, 1e4, -1e4, 3e38, -3e38]
    scale = 3e38 if activation != "relu2" else 1e19
    x = np.concatenate([np.linspace(-20, 20, 3 * width - 10), np.clip(special, -scale, scale)])
    x = rng.permutation(x).reshape(3, width).astype(np.float32)
    up = rng.uniform(-1, 1, (3, width)).astype(np.float32)
    source, other, result = (Buffer(name, width) for name in ("source", "other", "result"))
    with np.errstate(over="ignore"):
        plain = meaning(Activate(source, result, activation), result, {source: x})
        gated = meaning(Gate(source, other, result, activation), result, {source: x, other: up})
    tokens, a, b, c, d = count(3), *(Floats(v) for v in (x, up, np.full_like(x, 5), np.full_like(x, 5)))
    run(
        calls.gate_row(address(tokens), a.rows, b.rows, c.rows, activation),
        calls.activate_row(address(tokens), a.rows, d.rows, activation),
        calls.activate_row(address(tokens), a.rows, a.rows, activation),
        threads=2,
    )
    error = allowed(activation, x.astype(np.float64), plain)
    np.testing.assert_array_equal(a.values, d.values)
    assert (np.abs(d.values - plain) <= error).all()
    assert (np.abs(c.values - gated) <= error * np.abs(up) + gamma(1) * np.abs(gated) + SMALLEST).all()
    for made in (a, c, d):
        assert (made.whole[:3, width:] == 0).all() and np.isnan(made.whole[3:]).all()


def test_every_activation_of_the_operations_has_kernels() -> None:
    assert set(GATES) == set(MEANINGS) and set(ACTIVATIONS) == set(WITHOUT_GATE)


@pytest.mark.parametrize("width", [172, PIECE + 40])
def test_a_clamped_swiglu_is_within_float32_rounding(width: int) -> None:
    """e**-t: its argument has three roundings, 3e-7 is exp2's own, and eight more follow; past the bounds too."""
    rng = np.random.default_rng(width)
    gate, up = (rng.uniform(-12, 12, (3, width)).astype(np.float32) for _ in range(2))
    gate[0, :4], up[0, :4] = (7, 7.5, -90, 3e38), (7, -7, -3e38, 3e38)
    source, other, result = (Buffer(name, width) for name in ("source", "other", "result"))
    want = meaning(Gate(source, other, result, CLAMPED), result, {source: gate, other: up})
    tokens, a, b, c = count(3), *(Floats(v) for v in (gate, up, np.full_like(up, 5)))
    run(calls.gate_row(address(tokens), a.rows, b.rows, c.rows, CLAMPED), threads=2)
    held = np.clip(gate.astype(np.float64), None, 7)
    relative = 3e-7 + gamma(8) + gamma(3) * 1.702 * np.abs(held)
    one = np.abs(np.clip(up, -7, 7)) + 1  # u + 1 cancels
    share = np.abs(held) / (1 + np.exp(-1.702 * held))
    assert (np.abs(c.values - want) <= relative * one * share + one * np.abs(held) * 2.0**-125).all()
    assert (c.whole[:3, width:] == 0).all()
