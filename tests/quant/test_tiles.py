"""The tile layout against the formula of the specification, and packing against unpacking."""

from __future__ import annotations

import re
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.errors import ConvertError, FormatError, UnsupportedError
from ggq.format.scheme import Scheme
from ggq.quant import SCHEMES, QuantizedMatrix, check_segments, decode, decode_tensor, pack, parse_scheme, unpack
from tests.kit import quant_oracle as oracle

UNIFORM = [name for name in SCHEMES if name.startswith("q")]
MORE_GROUPS = ["q3-g16", "q5z-g16", "q4-g48", "q6z-g80"]
OTHERS = ["q4-g16-s4", "q3z-g16-s6", "q5m-g32", "q4m-g16-s8", "q2m-g48-s6", "ternary-g16", "binary-g32-s4", "c3-g16-s6"]
OTHERS += ["q4-g32+scale", "c4-row+order", "q3m-g16-s6+scale+order"]


def random_matrix(scheme: Scheme, rows: int, columns: int, seed: int) -> QuantizedMatrix:
    """Random codes, scales of both signs and all else, with the padding columns that the format asks for."""
    rng, sizes = np.random.default_rng(seed), scheme.geometry((rows, columns))
    groups, uppers = (rows, sizes.groups), (rows, sizes.supers if scheme.subscale else sizes.groups)
    codes = rng.integers(0, scheme.codes, (rows, sizes.padded_columns), np.uint8)
    scales = rng.standard_normal(uppers).astype(np.float16)
    zeros = rng.integers(0, 2**scheme.bits, groups, np.uint8) if scheme.zero == "code" else None
    symmetric = scheme.kind == "uniform" and scheme.zero == "none"
    code = 2 ** (scheme.bits - 1) if symmetric else int(scheme.kind == "ternary")
    padding = np.full(groups, code, np.uint8) if zeros is None else zeros
    codes[:, columns:] = padding.repeat(sizes.group, axis=1)[:, columns:]

    def lower() -> np.ndarray | None:
        return rng.integers(0, 2**scheme.subscale, groups, np.uint8) if scheme.subscale else None

    minimum = scheme.zero == "minimum"
    scale = order = None
    if "scale" in scheme.transform:
        scale = np.zeros(sizes.padded_columns, np.float32)
        scale[:columns] = rng.standard_normal(columns)
    if "order" in scheme.transform:
        order = np.arange(sizes.padded_columns, dtype=np.uint32)
        order[:columns] = rng.permutation(columns)
    return QuantizedMatrix(
        scheme,
        (rows, columns),
        codes,
        scales,
        zeros,
        lower(),
        rng.standard_normal(uppers).astype(np.float16) if minimum else None,
        lower() if minimum else None,
        rng.integers(-64, 64, 2**scheme.bits, np.int8) if scheme.kind == "codebook" else None,
        scale,
        order,
    )


@settings(max_examples=150)
@given(st.sampled_from(UNIFORM + MORE_GROUPS + OTHERS), st.integers(1, 50), st.integers(1, 200), st.integers(0, 2**32))
def test_unpacking_gives_back_what_was_packed(name: str, rows: int, columns: int, seed: int) -> None:
    scheme = parse_scheme(name)
    matrix = random_matrix(scheme, rows, columns, seed)
    segments = pack(matrix)
    assert {role: part.size for role, part in segments.items()} == scheme.geometry((rows, columns)).lengths
    back = unpack(scheme, (rows, columns), segments)
    for field in fields(QuantizedMatrix):
        found, given = getattr(back, field.name), getattr(matrix, field.name)
        assert type(found) is type(given) and np.array_equal(found, given), field.name
    check_segments(scheme, (rows, columns), segments)
    assert np.array_equal(decode_tensor(scheme, (rows, columns), segments), decode(matrix))


@pytest.mark.parametrize("name", UNIFORM + MORE_GROUPS + OTHERS)
def test_every_code_lies_where_the_specification_says(name: str) -> None:
    """S5.4 to S5.6, code by code, with two tiles of rows and several units."""
    scheme = parse_scheme(name)
    matrix = random_matrix(scheme, 18, 70, 7)
    sizes, packed = scheme.geometry((18, 70)), pack(matrix)
    used = np.zeros(sizes.lengths["codes"] * 8, bool)
    for row in range(sizes.padded_rows):
        for column in range(sizes.padded_columns):
            code, low = 0, 0
            for byte, bit, b in oracle.place(scheme.bits, sizes.padded_rows, sizes.padded_columns, row, column):
                assert not used[byte * 8 + bit : byte * 8 + bit + b].any()
                used[byte * 8 + bit : byte * 8 + bit + b] = True
                code |= (int(packed["codes"][byte]) >> bit & (2**b - 1)) << low
                low += b
            assert code == (matrix.codes[row, column] if row < 18 else oracle.parse(name).padding)
    assert used.all()


@pytest.mark.parametrize("name", [name for name in OTHERS if "-s" in name])
def test_every_sub_scale_lies_where_the_specification_says(name: str) -> None:
    """S5.7, with two tiles of rows and three super-groups, the last one short."""
    scheme = parse_scheme(name)
    columns = 18 * scheme.group - 5
    matrix = random_matrix(scheme, 18, columns, 8)
    sizes, packed = scheme.geometry((18, columns)), pack(matrix)
    for role, expected in (("subscales", matrix.subscales), ("subminimums", matrix.subminimums)):
        if expected is None:
            continue
        rest = packed[role].copy()
        for row in range(32):
            for group in range(sizes.groups):
                parts = oracle.place_lower(scheme.subscale, 32, sizes.groups, row, group)
                assert oracle.collect(packed[role], parts) == (expected[row, group] if row < 18 else 0)
                for byte, bit, b in parts:
                    rest[byte] &= ~((2**b - 1) << bit) & 255
        assert not rest.any()
    uppers = packed["scales"].view(np.float16).reshape(2, 3, 16)
    assert np.array_equal(uppers[1, 2, :2], matrix.scales[16:, 2])


def test_decoding_is_scale_times_code_less_zero() -> None:
    """S4.1, by hand: groups of 32, the second with a zero-point of its own."""
    codes = np.full((1, 64), 9, np.uint8)
    codes[0, :4], codes[0, 32:36] = [0, 15, 3, 4], [0, 15, 3, 4]
    scales, zeros = np.array([[0.5, -2]], np.float16), np.array([[3, 15]], np.uint8)
    matrix = QuantizedMatrix(parse_scheme("q4z-g32"), (1, 36), codes, scales, zeros)
    decoded = decode(matrix)
    assert decoded.dtype == np.float32 and decoded.shape == (1, 36)
    assert decoded[0, :5].tolist() == [-1.5, 6, 0, 0.5, 3]
    assert decoded[0, 32:].tolist() == [30, 0, 24, 22]


def test_decoding_rounds_nothing() -> None:
    """S4.1: all scales against all differences, in float64."""
    scales = np.arange(0x7C00, dtype=np.uint16).view(np.float16).reshape(-1, 1)
    codes = np.tile(np.arange(32, dtype=np.uint8) * 8 + 7, (len(scales), 1))
    for zero in (0, 1, 128, 255):
        zeros = np.full(scales.shape, zero, np.uint8)
        matrix = QuantizedMatrix(parse_scheme("q8z-g32"), (len(scales), 32), codes, scales, zeros)
        assert np.array_equal(decode(matrix), scales.astype(np.float64) * (codes.astype(np.float64) - zero))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_scales_that_are_not_finite_are_not_packed(bad: float) -> None:
    matrix = random_matrix(parse_scheme("q4-g32"), 20, 64, 1)
    matrix.scales[17, 1] = bad
    with pytest.raises(ConvertError, match="the scale of row 17, group 1 is too large for f16, which ends at 65504"):
        pack(matrix)
    matrix = random_matrix(parse_scheme("q4m-g16-s6"), 20, 300, 1)
    matrix.minimums[18, 2] = bad
    with pytest.raises(ConvertError, match="the minimum of row 18, super-group 2 is too large for f16"):
        pack(matrix)


@pytest.mark.parametrize("name", ["q3z-g32", "bf16", "q4m-g32-s6", "q2-row+scale+order"])
def test_segments_of_another_length_are_refused(name: str) -> None:
    """S9.1: every role, one byte less and one more, none at all, and one too many."""
    scheme, shape = parse_scheme(name), (17, 40)
    good = {role: bytes(length) for role, length in scheme.geometry(shape).lengths.items()}
    for role, whole in good.items():
        for wrong in (whole[:-1], whole + b"\0", b""):
            text = f"segment {role} has {len(wrong)} bytes; {re.escape(name)} of shape .17, 40. "
            with pytest.raises(FormatError, match=text):
                decode_tensor(scheme, shape, {**good, role: wrong}, where="layer")
        with pytest.raises(FormatError, match=f"layer: segments .*{re.escape(name)} has {', '.join(good)}"):
            decode_tensor(scheme, shape, {other: part for other, part in good.items() if other != role}, where="layer")
    with pytest.raises(FormatError, match="codebook"):
        decode_tensor(scheme, shape, {**good, "codebook": b""})


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("q4-g32", (32,), "q4-g32 cannot hold a tensor of shape .32,.; tensors of one dimension are f32, f16 or bf16"),
        ("q4-g32", (), "every dimension must be at least 1"),
        ("f32", (0,), "every dimension must be at least 1"),
        ("f16", (3, 0), "every dimension must be at least 1"),
        ("q8-row", (-1, 32), "every dimension must be at least 1"),
    ],
)
def test_shapes_that_a_scheme_cannot_hold(name: str, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(UnsupportedError, match=text):
        decode_tensor(parse_scheme(name), shape, {})
