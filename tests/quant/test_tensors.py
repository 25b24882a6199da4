"""Whole tensors: float types, vectors, stacks, blocks of rows, refusals, errors and checks."""

from __future__ import annotations

import struct
import tracemalloc
from math import inf, isclose, log10, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from ggq.errors import ConvertError, FormatError, UnsupportedError
from ggq.quant import (
    METHODS,
    SCHEMES,
    check_segments,
    choose_method,
    decode_tensor,
    default_method,
    encode_tensor,
    error,
    from_float32,
    pack,
    parse_scheme,
    tensor_error,
    tensors,
    to_float32,
)
from ggq.quant.methods import prepared
from tests.kit.quant_oracle import bf16_bits


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(11).standard_normal(shape).astype(np.float32)


def test_bf16_and_f16_against_the_standard_library() -> None:
    """S3.1: every f16 and every finite bf16 widened, and hard float32 rounded, halves to even."""
    halves = np.arange(65536, dtype=np.uint16)
    widened = to_float32(halves.view(np.float16), "f16")
    assert np.array_equal(widened, [struct.unpack("<e", struct.pack("<H", n))[0] for n in range(65536)], equal_nan=True)
    finite = halves[(halves & 0x7F80) != 0x7F80]
    expected = [struct.unpack("<f", struct.pack("<I", int(n) << 16))[0] for n in finite]
    assert to_float32(finite, "bf16").tolist() == expected
    assert np.array_equal(from_float32(to_float32(finite, "bf16"), "bf16"), finite)
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 2**32, 4000, np.uint32) & np.uint32(0xBFFFFFFF)
    bits[::2] = bits[::2] & np.uint32(0xFFFF0000) | rng.choice(np.uint32([0x7FFF, 0x8000, 0x8001]), 2000)
    numbers = bits.view(np.float32)
    assert from_float32(numbers, "bf16").tolist() == [bf16_bits(x) for x in numbers.tolist()]
    assert from_float32(numbers, "f16").tobytes() == b"".join(struct.pack("<e", x) for x in numbers.tolist())


@pytest.mark.parametrize("name", SCHEMES)
def test_the_type_of_the_source_does_not_matter(name: str) -> None:
    scheme, weights = parse_scheme(name), normal(19, 70)
    for dtype in ("f16", "bf16"):
        stored = from_float32(weights, dtype)
        ours, theirs = encode_tensor(stored, scheme), encode_tensor(to_float32(stored, dtype), scheme)
        assert all(np.array_equal(ours[role], theirs[role]) for role in theirs)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_stack_is_its_matrices_one_after_the_other(name: str) -> None:
    """S1.2."""
    scheme, weights = parse_scheme(name), normal(2, 3, 5, 33)
    method = None if scheme.kind == "float" else prepared(choose_method(scheme), weights.reshape(30, 33), scheme)
    parts = [encode_tensor(matrix, scheme, method) for matrix in weights.reshape(6, 5, 33)]
    whole = encode_tensor(weights, scheme)
    assert {role: raw.tobytes() for role, raw in whole.items()} == {
        role: parts[0][role].tobytes() if role == "codebook" else b"".join(part[role].tobytes() for part in parts)
        for role in parts[0]
    }
    decoded = decode_tensor(scheme, weights.shape, whole)
    assert decoded.shape == weights.shape
    assert np.array_equal(decoded[1, 2], decode_tensor(scheme, (5, 33), parts[5]))


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_vectors(name: str) -> None:
    """S3.3: plain arrays."""
    weights = normal(37)
    segments = encode_tensor(weights, parse_scheme(name))
    assert segments["values"].tobytes() == from_float32(weights, name).tobytes()
    assert np.array_equal(
        decode_tensor(parse_scheme(name), (37,), segments), to_float32(from_float32(weights, name), name)
    )


@pytest.mark.parametrize("name", SCHEMES)
def test_blocks_of_rows_leave_no_trace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, weights = parse_scheme(name), normal(83, 70)
    whole = encode_tensor(weights, scheme)
    decoded = decode_tensor(scheme, weights.shape, whole)
    assert scheme.kind == "float" or all(
        np.array_equal(part, whole[role])
        for role, part in pack(METHODS[default_method(scheme)].quantize(weights, scheme)).items()
    )
    monkeypatch.setattr(tensors, "BLOCK_WEIGHTS", 1)
    blocked = encode_tensor(weights, scheme)
    assert all(np.array_equal(blocked[role], whole[role]) for role in whole)
    assert np.array_equal(decode_tensor(scheme, weights.shape, whole), decoded)


def test_memory_does_not_grow_with_the_tensor() -> None:
    weights = normal(1, 2048).repeat(4096, axis=0).astype(np.float16)
    for name in ("q4-g32", "q3z-g64", "f32", "bf16"):
        scheme = parse_scheme(name)
        tracemalloc.start()
        segments = encode_tensor(weights, scheme)
        tensor_error(weights, scheme, segments)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - scheme.geometry(weights.shape).bytes < 12 * 2**20 < weights.nbytes


@pytest.mark.parametrize("name", ["f32", "bf16", "q4-g32", "q4z-g32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(name: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """S6.4, S3.2: how many, and where the first is, over blocks of rows."""
    monkeypatch.setattr(tensors, "BLOCK_WEIGHTS", 1)
    weights = normal(2, 40, 33)
    weights[1, 35, 2] = weights[1, 20, 30] = weights[1, 21, 0] = bad
    with pytest.raises(ConvertError) as refused:
        encode_tensor(weights, parse_scheme(name), where="w")
    assert str(refused.value).startswith("w: 3 of 2640 weights are NaN or infinite, the first at [1, 20, 30]\n")
    with pytest.raises(ConvertError, match=r"^3 of 1320 weights are NaN or infinite, the first at \[20, 30\]"):
        encode_tensor(weights[1].astype(np.float16), parse_scheme(name))


def test_vectors_that_are_not_finite_are_refused() -> None:
    bits = from_float32(normal(9), "bf16")
    bits[4] = 0x7FC0
    with pytest.raises(ConvertError, match=r"^1 of 9 weights are NaN or infinite, the first at \[4\]"):
        encode_tensor(bits, parse_scheme("f32"))


@pytest.mark.parametrize(
    ("name", "largest", "too_large"),
    [
        ("q4-g32", 65519.0 * 8, 65520.0 * 8),
        ("q2-row", -65519.0 * 2, -65520.0 * 2),
        ("q4z-g32", 65519.0 * 15, 65520.0 * 15),
        ("q8z-row", -65519.0 * 255, -65520.0 * 255),
    ],
)
def test_scales_too_large_for_f16_are_refused(name: str, largest: float, too_large: float) -> None:
    """S6.1: at the edge, in the second tile."""
    weights = normal(18, 40)
    weights[17, 34] = largest
    segments = encode_tensor(weights, parse_scheme(name))
    assert np.isfinite(decode_tensor(parse_scheme(name), weights.shape, segments)).all()
    weights[17, 34] = too_large
    group = 0 if name.endswith("row") else 1
    with pytest.raises(ConvertError, match=f"^t: the scale of row 17, group {group} is too large for f16") as refused:
        encode_tensor(weights, parse_scheme(name), where="t")
    assert refused.value.fix == "keep this tensor in f32 or bf16"


def test_a_range_that_overflows_float32_is_refused() -> None:
    """S8.2."""
    weights = np.float32([[3e38, -3e38]])
    with pytest.raises(ConvertError, match="the scale of row 0, group 0 is too large for f16"):
        encode_tensor(weights, parse_scheme("q4z-g32"))


def test_numbers_too_large_for_a_float_type_are_refused() -> None:
    weights = normal(2, 20, 3)
    weights[1, 18, 2] = -65520
    with pytest.raises(ConvertError, match=r"^a: weight -65520 at \[1, 18, 2\] is too large for f16\nkeep this tensor"):
        encode_tensor(weights, parse_scheme("f16"), where="a")
    weights[1, 18, 2] = 65519
    encode_tensor(weights, parse_scheme("f16"))
    with pytest.raises(ConvertError, match=r"weight 3.4\d*e\+38 at \[1\] is too large for bf16"):
        encode_tensor(np.float32([1, 3.4028235e38]), parse_scheme("bf16"))


def test_other_types_and_shapes_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="weights are float64; allowed are float32, float16 and uint16"):
        encode_tensor(np.zeros((2, 2)), parse_scheme("q4-g32"))
    with pytest.raises(UnsupportedError, match="tensors of one dimension are f32, f16 or bf16"):
        encode_tensor(normal(32), parse_scheme("q4-g32"))
    with pytest.raises(ConvertError, match="method absmax cannot fill scheme q4z-g32"):
        encode_tensor(normal(2, 32), parse_scheme("q4z-g32"), "absmax")


def test_error_by_hand() -> None:
    measured = error(np.float32([[3, 4], [0, 0]]), np.float32([[3, 4.5], [0, -1]]))
    assert isclose(measured.relative_rmse, sqrt(1.25 / 25))
    assert isclose(measured.sqnr_db, 10 * log10(25 / 1.25))
    assert measured.max_error == 1
    assert error(np.float32([1, 2]), np.float32([1, 2])) == (0, inf, 0)
    assert error(np.float32([0, 0]), np.float32([0, 0])) == (0, inf, 0)
    assert error(np.float32([0, 0]), np.float32([0, 1])) == (inf, -inf, 1)


@pytest.mark.parametrize("name", ["f16", "q2-g32", "q5z-row"])
def test_error_of_segments_is_the_error_of_what_they_decode_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, weights = parse_scheme(name), normal(2, 40, 50)
    segments = encode_tensor(weights, scheme)
    expected = error(weights, decode_tensor(scheme, weights.shape, segments))
    monkeypatch.setattr(tensors, "BLOCK_WEIGHTS", 1)
    assert np.allclose(tensor_error(weights, scheme, segments), expected, rtol=1e-12)
    assert expected.relative_rmse > 1e-5


def spoiled(name: str, role: str, at: int, value: int, shape: tuple[int, ...]) -> str:
    """What `check_segments` says after one byte of good segments was set."""
    scheme = parse_scheme(name)
    segments = encode_tensor(normal(*shape), scheme)
    check_segments(scheme, shape, segments)
    segments[role][at] = value
    with pytest.raises(FormatError) as refused:
        check_segments(scheme, shape, segments, where="t")
    return str(refused.value)


def test_numbers_that_break_a_rule_are_named() -> None:
    """S3.2, S4.2, S4.3, S5.2."""
    # Scales (tile, group, 16) of two bytes: tile 1, group 1 of 2, row 1 is number 49.
    assert spoiled("q4-g32", "scales", 99, 0x7E, (18, 40)).startswith("t: scale of row 17, group 1 is nan; scales must")
    assert spoiled("q4z-g32", "zeros", 49, 16, (18, 40)).startswith(
        "t: zero-point of row 17, group 1 is 16; allowed are 0 to 15"
    )
    assert "a scale below row 17 is not zero" in spoiled("q4-g32", "scales", 100, 1, (18, 40))
    # Codes of 4 bits (tile, unit of 8 columns, 16, 4): tile 1 begins at 512; row 2 of it is padding.
    assert "a code below row 17 is not the zero-point" in spoiled("q4-g32", "codes", 512 + 8, 0x98, (18, 40))
    # Unit 5 holds columns 40 to 47; byte 5 is row 1, columns 41 and 45.
    assert spoiled("q4-g32", "codes", 5 * 64 + 5, 0x87, (18, 40)).startswith(
        "t: code of row 1, padding column 41 is not the zero-point"
    )
    assert spoiled("q4-g32", "codes", 5 * 64 + 4, 0x87, (18, 40)).startswith(
        "t: code of row 1, padding column 40 is not the zero-point"
    )
    assert spoiled("q4-g32", "codes", 5 * 64 + 5, 0x78, (18, 40)).startswith(
        "t: code of row 1, padding column 45 is not the zero-point"
    )
    assert "matrix 1, row 2, group 0 is nan" in spoiled("q8-row", "scales", 32 + 5, 0x7E, (2, 3, 32))
    # Values (tile, column, 16) of two bytes.
    assert spoiled("f16", "values", (16 + 1) * 2 + 1, 0xFC, (3, 2)).endswith("convert the model again")
    bad = encode_tensor(normal(3, 2), parse_scheme("bf16"))
    bad["values"].view(np.uint16)[16 + 1] = 0x7F80
    with pytest.raises(FormatError, match="value of row 1, column 1 is NaN or infinite; values must be finite"):
        check_segments(parse_scheme("bf16"), (3, 2), bad)
    assert "padding below row 2 is not zero" in spoiled("f32", "values", (16 + 3) * 4, 1, (3, 2))
    with pytest.raises(FormatError, match="value 1 is NaN or infinite"):
        check_segments(parse_scheme("f16"), (3,), {"values": bytes.fromhex("003c007c003c")})


OTHERS = ("q4m-g32", "q3m-g32-s6", "q4z-g32-s4", "ternary-g32", "c3-g32-s6", "binary-row", "q4-g32+scale")


@pytest.mark.parametrize("name", [*SCHEMES, *OTHERS])
def test_every_byte_may_be_anything_without_harm(name: str) -> None:
    """S9.2: decoding random bytes raises nothing and stays in bounds; the check answers with one typed error."""
    scheme, shape, rng = parse_scheme(name), (18, 40), np.random.default_rng(4)
    segments = {role: rng.bytes(length) for role, length in scheme.geometry(shape).lengths.items()}
    with np.errstate(all="ignore"):
        assert decode_tensor(scheme, shape, segments).shape == shape
    with pytest.raises(FormatError, match="finite|not zero|not the zero-point|allowed are"):
        check_segments(scheme, shape, segments)


@pytest.mark.parametrize("count", [1, 3])
def test_an_order_out_of_bounds_is_refused_by_name(count: int) -> None:
    """S10.3, in the last of some matrices."""
    scheme, shape = parse_scheme("q4-g32+order"), (count, 5, 40)
    segments = {role: np.zeros(length, np.uint8) for role, length in scheme.geometry(shape).lengths.items()}
    order = segments["input_order"].view("<u4").reshape(count, 64)
    order[:] = np.arange(64)
    assert not decode_tensor(scheme, shape, segments, where="t").any()
    order[-1, 7] = 40
    with pytest.raises(FormatError, match=r"t: input order 7 is column 40; allowed are 0 to 39 \(S10.3\)"):
        decode_tensor(scheme, shape, segments, where="t")
    assert not decode_tensor(scheme, shape, segments, stored=True).any()
