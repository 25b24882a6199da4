"""Rounding to int8, norms, RoPE, gates, gathering of rows: bit for bit, or within what float32 rounding allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ggq.tape.reference import TINY, round_activations
from ggq_kernels.code.compiled import op
from ggq_kernels.row.activations import PIECE
from ggq_kernels.run import calls
from ggq_kernels.vector.isa import TOKENS
from ggq_kernels.vector.simd import exp2_minus, load_f32, read_i64, store_f32
from tests.kit.kernel_support import UNTOUCHED, Floats, Int8, address, count, gamma, output, run, team

pytestmark = pytest.mark.kernels

SMALLEST = 2.0**-149
"""The least float32 above 0: the absolute error of a result below the normal numbers."""


# ---- int8


def quantized(
    x: np.ndarray, columns: int, group: int, threads: int = 1, up: np.ndarray | None = None, **form: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and offsets, of silu(x) * up if that is given; `form` is what the matrix says of activations."""
    other = None if up is None else Floats(up, columns)
    source, out, tokens = Floats(x, columns), Int8(len(x), columns, group), count(len(x))
    wanted = calls.Packed("", 4, 16, columns, group, 0, **form)
    row = calls.quantize_row(address(tokens), source.rows, out.rows, wanted, other.rows if other else None)
    run(row, threads=threads)
    codes, scales, offsets = out.unpacked(TOKENS)
    np.testing.assert_array_equal(
        out.negative_sums(TOKENS), -codes.reshape(len(x), -1, group).sum(axis=2, dtype=np.int32)
    )
    return codes, scales, offsets


def emulated(x: np.ndarray, columns: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and offsets in NumPy's float32, one operation after the other."""
    padded = np.zeros((len(x), columns), np.float32)
    padded[:, : x.shape[1]] = x
    parts = padded.reshape(len(x), -1, group)
    largest = np.abs(parts).max(axis=2)
    inverse = np.where(largest < TINY, np.float32(0), np.float32(127) / np.maximum(largest, TINY))
    codes = np.rint(parts * inverse[:, :, None])
    scales = largest / np.float32(127)
    return codes.reshape(len(x), -1), scales, -scales * codes.sum(axis=2, dtype=np.float32)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_int8_rounding_is_that_of_float32_bit_for_bit(group: int) -> None:
    rng = np.random.default_rng(group)
    for n, width in ((1, 32), (2, 172), (TOKENS, 256), (TOKENS + 1, 172), (2 * TOKENS + 3, PIECE + 300)):
        columns = -(-width // group) * group
        x = (rng.standard_normal((n, width)) * 10.0 ** rng.integers(-6, 7, (n, 1))).astype(np.float32)
        for got, want in zip(quantized(x, columns, group), emulated(x, columns, group)):
            np.testing.assert_array_equal(
                got.view(np.uint8 if got.dtype == np.int8 else np.uint32), bits_like(got, want)
            )
        codes, scales, _ = quantized(x, columns, group)
        decoded = codes * np.repeat(scales, group, axis=1).astype(np.float64)
        np.testing.assert_array_equal(decoded[:, :width], round_activations(x, group))


def bits_like(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    return want.astype(got.dtype).view(np.uint8 if got.dtype == np.int8 else np.uint32)


@pytest.mark.parametrize("n", [1, 2, TOKENS + 1, 2 * TOKENS + 3])
def test_a_scale_for_each_token_and_a_fixed_one(n: int) -> None:
    rng, width, columns = np.random.default_rng(n), PIECE + 300, 1344
    x = rng.standard_normal((n, width)).astype(np.float32)
    step = 0.01  # so that a third of the numbers are clipped
    for form, largest in (({"activations": "token"}, None), ({"activation_step": step}, np.float32(step * 127))):
        codes, scales, offsets = quantized(x, columns, 64, 2, **{"activations": "static", **form})
        assert (scales == scales[:, :1]).all()
        decoded = codes * np.repeat(scales, 64, axis=1).astype(np.float64)
        np.testing.assert_array_equal(decoded[:, :width], round_activations(x, width, largest))
        np.testing.assert_array_equal(offsets, -scales * codes.reshape(n, -1, 64).sum(axis=2, dtype=np.float32))
    assert (np.abs(codes) == 127).mean() > 0.1


@pytest.mark.parametrize("form", ["group", "token"])
def test_columns_are_moved_and_scaled_before_rounding(form: str) -> None:
    rng, n, width, columns = np.random.default_rng(5), TOKENS + 1, PIECE + 44, PIECE + 64
    x = rng.standard_normal((n, width)).astype(np.float32)
    order, factors = np.arange(columns, dtype=np.uint32), np.zeros(columns, np.float32)
    order[:width], factors[:width] = rng.permutation(width), rng.uniform(0.1, 10, width)
    moved = x[:, order[:width]] * factors[:width]
    for chosen, expected in (((order, factors), moved), ((order, None), x[:, order[:width]])):
        at = dict(zip(("order", "column_scale"), (0 if part is None else address(part) for part in chosen)))
        got = quantized(x, columns, 32, activations=form, **at)
        for part, want in zip(got, quantized(expected, columns, 32, activations=form)):
            np.testing.assert_array_equal(part, want)
    source, out, tokens = Floats(x, columns), output(n, columns), count(n)
    wanted = calls.Packed("", 4, 16, columns, 32, 0, order=address(order), column_scale=address(factors))
    run(calls.transform_row(address(tokens), source.rows, out.rows, wanted))
    np.testing.assert_array_equal(out.values[:, :width], moved)
    assert (out.values[:, width:] == 0).all()


def test_int8_of_zeros_and_of_the_smallest_and_largest_numbers() -> None:
    largest = np.finfo(np.float32).max
    just_below, just_above = np.nextafter(TINY, np.float32(0)), np.nextafter(TINY, np.float32(1))
    for peak in (
        0.0,
        SMALLEST,
        1e-40,
        float(just_below),
        float(TINY),
        float(just_above),
        1e-30,
        1.0,
        1e38,
        float(largest),
    ):
        x = (np.linspace(-1, 1, 32) * peak).astype(np.float32)[None]
        got, want = quantized(x, 32, 32), emulated(x, 32, 32)
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])
        assert np.isfinite(got[1]).all() and np.abs(got[0].astype(int)).max() == (127 if peak >= TINY else 0)
        np.testing.assert_array_equal(got[2], want[2])


def test_int8_rounds_halves_to_even() -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, 0], x[0, 1:9] = 127, [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5]
    assert quantized(x, 32, 32)[0][0, :9].tolist() == [127, 0, 2, 2, 0, -2, -2, 126, -126]


def test_int8_rounding_on_two_threads() -> None:
    x = np.random.default_rng(8).standard_normal((11, 3 * PIECE)).astype(np.float32)
    for one, two in zip(quantized(x, 3 * PIECE, 64), quantized(x, 3 * PIECE, 64, threads=2)):
        np.testing.assert_array_equal(one, two)


# ---- norm


@pytest.mark.parametrize("width", [16, 64, 172, 2048])
def test_rms_norm_is_within_float32_rounding(width: int) -> None:
    """Each of 16 lanes adds width / 16 squares, rounded at most twice each, and 4 additions join the lanes: the mean
    of what is positive is off by gamma(width / 16 + 5), its root by half that; the factor and two products are
    rounded."""
    rng = np.random.default_rng(width)
    for scale in (1e-4, 1.0, 1e4):
        x, epsilon = (rng.standard_normal((5, width)) * scale).astype(np.float32), np.array([1e-5])
        weight = np.zeros(-(-width // 16) * 16, np.float32)
        weight[:width] = rng.standard_normal(width)
        source, out, tokens = Floats(x), Floats(np.full((5, width), 3, np.float32)), count(5)
        run(calls.norm_row(address(tokens), source.rows, out.rows, address(weight), address(epsilon)))
        wide = x.astype(np.float64)
        expected = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5) * weight[:width]
        bound = (gamma(-(-width // 16) + 5) / 2 * 1.001 + gamma(3)) * np.abs(expected)
        assert (np.abs(out.values - expected) <= bound).all()
        assert (out.whole[:5, width:] == 0).all()  # the next matrix multiplies padding columns
        np.testing.assert_array_equal(source.values, x)


# ---- RoPE


@pytest.mark.parametrize("layout", ["half", "pairs"])
@pytest.mark.parametrize("heads, dim", [(4, 8), (3, 24), (2, 64), (2, 80), (1, 128), (5, 2)])
def test_rope_turns_each_pair_by_the_angle_of_its_position(layout: str, heads: int, dim: int) -> None:
    """Two products and a sum: at most two roundings of each product, in float32 with the table's own numbers."""
    rng, positions = np.random.default_rng(dim), np.array([0, 1, 7, 30], np.int64)
    angles = rng.uniform(-4, 4, (31, dim // 2))
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pointer = np.array([address(table)], np.int64)
    x = rng.standard_normal((4, heads * dim)).astype(np.float32)
    buffer, tokens = Floats(x), count(4)
    run(calls.rope_row(address(tokens), buffer.rows, heads, layout, address(pointer), address(positions)))
    split = x.astype(np.float64).reshape((4, heads, 2, dim // 2) if layout == "half" else (4, heads, dim // 2, 2))
    axis = 2 if layout == "half" else 3
    a, b = np.take(split, 0, axis), np.take(split, 1, axis)
    c, s = (part[positions][:, None].astype(np.float64) for part in (table[:, : dim // 2], table[:, dim // 2 :]))
    expected = np.stack([a * c - b * s, b * c + a * s], axis).reshape(4, -1)
    terms = np.stack([np.abs(a * c) + np.abs(b * s), np.abs(b * c) + np.abs(a * s)], axis).reshape(4, -1)
    assert (np.abs(buffer.values - expected) <= gamma(2) * terms).all()
    assert (buffer.whole[:4, heads * dim :] == 0).all()


# ---- gate


def test_exp2_is_within_what_it_promises() -> None:
    """Relative error below 3e-7 over its whole range, powers of two exact."""
    x = np.concatenate([np.linspace(-126, 0, 200_003), np.arange(-126, 1), np.linspace(-1, 0, 100_001)]).astype(
        np.float32
    )
    x = np.concatenate([x, np.zeros(-len(x) % 16, np.float32)])
    out, n = np.zeros_like(x), len(x)
    words = np.zeros((1, 32), np.int64)
    words[0, :4] = [exp2_of.address, n, address(x), address(out)]
    team().run(words)
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


@pytest.mark.parametrize("form", ["group", "token"])
def test_gating_while_rounding_gives_the_same_bits(form: str) -> None:
    rng, n, width, columns = np.random.default_rng(12), TOKENS + 1, PIECE + 44, PIECE + 64
    parts = [rng.standard_normal((n, width)).astype(np.float32) for _ in range(2)]
    gate, up = (Floats(part, columns) for part in parts)
    out, tokens = Floats(np.zeros((n, width), np.float32), columns), count(n)
    run(calls.gate_row(address(tokens), gate.rows, up.rows, out.rows))
    want = quantized(out.values, columns, 32, activations=form)
    for got, expected in zip(quantized(parts[0], columns, 32, up=parts[1], activations=form), want):
        np.testing.assert_array_equal(got, expected)


# ---- gathering


def test_select_copies_the_wanted_rows() -> None:
    x, rows = np.random.default_rng(10).standard_normal((9, 100)).astype(np.float32), np.array([8, 0, 3, 3], np.int64)
    source, out, tokens = Floats(x), output(4, 100), count(4)
    run(calls.select_row(address(tokens), source.rows, out.rows, address(rows)), threads=2)
    np.testing.assert_array_equal(out.values, x[rows])
    assert (out.whole[4:] == UNTOUCHED).all()


def test_operations_follow_each_other() -> None:
    """A tape of several rows: each sees what the one before wrote, also on two threads."""
    x = np.random.default_rng(11).standard_normal((40, 256)).astype(np.float32)
    backwards = np.arange(39, -1, -1, dtype=np.int64)
    a, b, tokens = Floats(x), output(40, 256), count(40)
    forth = calls.select_row(address(tokens), a.rows, b.rows, address(backwards))
    back = calls.select_row(address(tokens), b.rows, a.rows, address(backwards))
    run(*[forth, back] * 50, forth, threads=2)
    np.testing.assert_array_equal(b.values, x[::-1])
