"""Rows of packed matrices, and float16 both ways: bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ggq.format.scheme import Scheme
from ggq.quant import SCHEMES, choose_method, encode_tensor, pack, parse_scheme, to_float32
from ggq_kernels.attend.operands import PAGE
from ggq_kernels.run import calls
from tests.kit.kernel_support import FORMS, Floats, Matrix, address, aligned, coded, count, matrix, output, product, run

pytestmark = pytest.mark.kernels

ALL_HALVES = np.arange(65536, dtype=np.uint16).view(np.float16)


def embedded(m: Matrix, ids: list[int], scale: float = 1.0) -> np.ndarray:
    out, tokens, rows = output(len(ids), m.weights.shape[1]), count(len(ids)), np.array(ids, np.int64)
    descriptor = m.packed.descriptor()
    run(calls.embed_row(address(tokens), address(rows), m.packed, descriptor, out.rows, scale), threads=2)
    return out.values


@pytest.mark.parametrize("name", dict.fromkeys([*SCHEMES, *FORMS]))
def test_embedded_rows_are_the_decoded_ones(name: str) -> None:
    scheme, rng = parse_scheme(name), np.random.default_rng(list(name.encode()))
    weights = rng.standard_normal((37, 172)).astype(np.float32)
    m = matrix(scheme, weights.shape, encode_tensor(weights, scheme))
    ids = [36, 0, 15, 16, 17, 36]
    np.testing.assert_array_equal(embedded(m, ids), m.weights[ids])
    scaled = m.weights[ids].astype(np.float32) * np.float32(11.3137085)
    np.testing.assert_array_equal(embedded(m, ids, 11.3137085), scaled)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_embedded_rows_of_every_code_and_of_extreme_scales(bits: int) -> None:
    """All codes with all zero-points that are extreme, and the smallest and largest f16 scales."""
    scheme, every = parse_scheme(f"q{bits}z-g32"), np.arange(256) % 2**bits
    codes, zeros = np.stack([every] * 4), np.array([[0], [2**bits - 1], [1], [2 ** (bits - 1)]]).repeat(8, axis=1)
    scales = np.array([[2.0**-24], [-65504.0], [6.0e-8], [1.0009765625]]).repeat(8, axis=1)
    m = coded(scheme, codes, scales, zeros)
    exact = scales.astype(np.float16).astype(np.float64)[:, :1] * (codes - zeros[:, :1])
    np.testing.assert_array_equal(embedded(m, [0, 1, 2, 3]), exact)


# ---- float16: the file's scales and values, and the cache


def halves(shape: tuple[int, int]) -> Matrix:
    """All 65536 of them as a matrix; the encoder would refuse infinities and NaN."""
    tiles = ALL_HALVES.reshape(shape).reshape(-1, 16, shape[1]).transpose(0, 2, 1)
    return matrix(Scheme("float", 16, "f16"), shape, {"values": np.ascontiguousarray(tiles).ravel().view(np.uint8)})


def test_every_half_is_read_exactly_one_by_one() -> None:
    np.testing.assert_array_equal(embedded(halves((16, 4096)), list(range(16))).ravel(), ALL_HALVES.astype(np.float32))


def test_every_half_is_read_exactly_as_a_vector() -> None:
    m = halves((65536, 1))
    np.testing.assert_array_equal(
        product([m], np.ones((1, 1), np.float32), int8=False)[0][0], ALL_HALVES.astype(np.float32)
    )


def test_every_half_is_read_exactly_as_a_scale() -> None:
    """A scale of a code that is one above its zero-point, for all finite halves."""
    scheme = parse_scheme("q2-g32")
    finite = ALL_HALVES[np.isfinite(ALL_HALVES)]
    m = coded(scheme, np.full((len(finite), 1), 3), finite[:, None])
    np.testing.assert_array_equal(
        product([m], np.ones((1, 1), np.float32), int8=False)[0][0], finite.astype(np.float32)
    )


def test_every_bfloat16_is_read_exactly() -> None:
    words = np.arange(65536, dtype=np.uint16)
    tiles = np.ascontiguousarray(words.reshape(1, 16, 4096).transpose(0, 2, 1))
    m = matrix(Scheme("float", 16, "bf16"), (16, 4096), {"values": tiles.ravel().view(np.uint8)})
    np.testing.assert_array_equal(embedded(m, list(range(16))).ravel(), to_float32(words, "bf16"))


def numbers_around_halves() -> np.ndarray:
    """float32: every half from 0 up, the tie above each, the neighbours of the tie, and what lies beyond."""
    finite = ALL_HALVES[:0x7C00].astype(np.float64)  # 0 to 65504 in order
    above = np.append(finite[1:], 65536.0)
    ties = ((finite + above) / 2).astype(np.float32)
    assert (ties == (finite + above) / 2).all()
    beyond = np.array([65520, 65536, 1e6, 3e38, np.inf, 1e-9, 1e-30, 1e-45, 2.0**-25, 2.0**-26], np.float32)
    parts = [finite.astype(np.float32), ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))]
    positive = np.concatenate([*parts, beyond, np.random.default_rng(1).uniform(0, 1, 1000).astype(np.float32)])
    return np.concatenate([positive, -positive])


@pytest.mark.parametrize("dim", [4096, 8])
def test_float32_is_rounded_to_half_as_numpy_does(dim: int) -> None:
    """Keys and values of the cache; a head of 8 numbers takes the path that writes one number at a time."""
    x = numbers_around_halves()
    x = np.concatenate([x, np.zeros(-len(x) % (16 * dim), np.float32)])
    tokens = PAGE if dim == 4096 else len(x) // dim
    x = x.reshape(-1, dim)[:tokens]
    pages = -(-len(x) // PAGE)
    sizes = calls.Heads(1, 1, dim, 0)
    page = aligned(np.zeros(pages * calls.layer_bytes("f16", 1, dim), np.uint8))
    table = address(page) + np.arange(pages, dtype=np.int64) * calls.layer_bytes("f16", 1, dim)
    tables, positions, n = np.full(len(x), address(table)), np.arange(len(x), dtype=np.int64), count(len(x))
    keys, values = Floats(x), Floats(-x)
    run(
        calls.store_kv_row("f16", address(n), keys.rows, values.rows, sizes, address(positions), address(tables)),
        threads=2,
    )
    with np.errstate(over="ignore"):
        expected = np.zeros((pages * PAGE, dim), np.float16)
        expected[: len(x)] = x
    for i in range(pages):
        words = page.view(np.float16).reshape(pages, -1)[i]
        key = words[: PAGE * dim].reshape(PAGE // 16, dim, 16).transpose(0, 2, 1).reshape(PAGE, dim)
        value = words[PAGE * dim :].reshape(PAGE, -1)
        want = expected[i * PAGE : (i + 1) * PAGE]
        stored = slice(0, min(PAGE, len(x) - i * PAGE))
        np.testing.assert_array_equal(key.view(np.uint16)[stored], want.view(np.uint16)[stored])
        np.testing.assert_array_equal(value[:, :dim].view(np.uint16)[stored], (want.view(np.uint16) ^ 0x8000)[stored])


def test_embedded_rows_undo_the_transform() -> None:
    rng, scheme = np.random.default_rng(8), parse_scheme("q8-g32+scale+order")
    weights = rng.standard_normal((16, 40)).astype(np.float32)
    q = choose_method(parse_scheme("q8-g32")).quantize(weights, parse_scheme("q8-g32"))
    order, factors = np.arange(64, dtype=np.uint32), np.zeros(64, np.float32)
    order[:40], factors[:40] = rng.permutation(40), rng.uniform(0.5, 2, 40)
    m = matrix(scheme, (16, 40), pack(replace(q, scheme=scheme, input_scale=factors, input_order=order)))
    np.testing.assert_array_equal(embedded(m, list(range(16))), m.weights)
