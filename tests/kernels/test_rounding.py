"""Rounding to int8, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ggq.tape.reference import TINY, round_activations
from ggq_kernels.row.calls import GATES
from ggq_kernels.row.operands import PIECE
from ggq_kernels.run import calls
from ggq_kernels.vector.isa import TOKENS
from tests.kit.kernel_support import SMALLEST, Floats, Int8, address, count, output, run

pytestmark = pytest.mark.kernels


def quantized(
    x: np.ndarray,
    columns: int,
    group: int,
    threads: int = 1,
    up: np.ndarray | None = None,
    activation: str = "silu",
    **form: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and offsets, of activation(x) * up if that is given; `form` is what the matrix says of them."""
    other = None if up is None else Floats(up, columns)
    source, out, tokens = Floats(x, columns), Int8(len(x), columns, group), count(len(x))
    wanted = calls.Packed("", 4, 16, columns, group, 0, **form)
    row = calls.quantize_row(address(tokens), source.rows, out.rows, wanted, other.rows if other else None, activation)
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


@pytest.mark.parametrize("activation", GATES)
@pytest.mark.parametrize("form", ["group", "token"])
def test_gating_while_rounding_gives_the_same_bits(activation: str, form: str) -> None:
    rng, n, width, columns = np.random.default_rng(12), TOKENS + 1, PIECE + 44, PIECE + 64
    parts = [rng.standard_normal((n, width)).astype(np.float32) for _ in range(2)]
    gate, up = (Floats(part, columns) for part in parts)
    out, tokens = Floats(np.zeros((n, width), np.float32), columns), count(n)
    run(calls.gate_row(address(tokens), gate.rows, up.rows, out.rows, activation))
    want = quantized(out.values, columns, 32, activations=form)
    for got, expected in zip(
        quantized(parts[0], columns, 32, up=parts[1], activation=activation, activations=form), want
    ):
        np.testing.assert_array_equal(got, expected)
