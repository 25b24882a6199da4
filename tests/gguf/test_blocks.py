"""Each type's numbers, against a second reading of its layout, number by number."""

from __future__ import annotations

import json
import re
import struct

import numpy as np
import pytest

from ggq.errors import UnsupportedError
from ggq.format.gguf.types import TYPES
from ggq.format.scheme_names import parse_filled
from ggq.gguf.blocks import FLOATS, IQ4, MATRICES, SCHEMES, matrix, numbers
from ggq.quant import choose_method, pack, scheme_name, unpack
from ggq.quant.check import check_segments
from ggq.quant.reference import decode
from tests.kit.support import ROOT
from tools.make_gguf_golden import digest_of_numbers, stretch

GOLDEN = json.loads((ROOT / "tests" / "golden" / "gguf_types.json").read_text())
"""What tools/make_gguf_golden.py wrote with the gguf package."""

F = np.float32
IDS = {block.name: number for number, block in TYPES.items()}


def half(block: bytes, at: int) -> F:
    return F(struct.unpack_from("<e", block, at)[0])


def q4_0(b: bytes) -> list[F]:
    return [half(b, 0) * F((b[2 + i % 16] >> (4 * (i // 16)) & 15) - 8) for i in range(32)]


def q4_1(b: bytes) -> list[F]:
    return [half(b, 0) * F(b[4 + i % 16] >> (4 * (i // 16)) & 15) + half(b, 2) for i in range(32)]


def q5_0(b: bytes) -> list[F]:
    high = struct.unpack_from("<I", b, 2)[0]
    return [half(b, 0) * F((b[6 + i % 16] >> (4 * (i // 16)) & 15 | (high >> i & 1) << 4) - 16) for i in range(32)]


def q5_1(b: bytes) -> list[F]:
    high = struct.unpack_from("<I", b, 4)[0]
    codes = [b[8 + i % 16] >> (4 * (i // 16)) & 15 | (high >> i & 1) << 4 for i in range(32)]
    return [half(b, 0) * F(code) + half(b, 2) for code in codes]


def q8_0(b: bytes) -> list[F]:
    return [half(b, 0) * F(struct.unpack_from("<b", b, 2 + i)[0]) for i in range(32)]


def q2_k(b: bytes) -> list[F]:
    found = []
    for i in range(256):
        code = b[16 + i // 128 * 32 + i % 32] >> (2 * (i % 128 // 32)) & 3
        pair = b[i // 16]
        found.append(half(b, 80) * F(pair & 15) * F(code) - half(b, 82) * F(pair >> 4))
    return found


def q3_k(b: bytes) -> list[F]:
    found = []
    for i in range(256):
        low = b[32 + i // 128 * 32 + i % 32] >> (2 * (i % 128 // 32)) & 3
        code = low - (0 if b[i % 32] >> (i // 32) & 1 else 4)
        group = i // 16
        four = b[96 + group % 8] >> (4 * (group // 8)) & 15
        two = b[104 + group % 4] >> (2 * (group // 4)) & 3
        found.append(half(b, 108) * F((four | two << 4) - 32) * F(code))
    return found


def six(b: bytes, start: int, j: int) -> tuple[int, int]:
    packed = b[start : start + 12]
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    scale = packed[j + 4] & 15 | packed[j - 4] >> 6 << 4
    return scale, packed[j + 4] >> 4 | packed[j] >> 6 << 4


def q4_k(b: bytes) -> list[F]:
    found = []
    for i in range(256):
        scale, minimum = six(b, 4, i // 32)
        code = b[16 + i // 64 * 32 + i % 32] >> (4 * (i % 64 // 32)) & 15
        found.append(half(b, 0) * F(scale) * F(code) - half(b, 2) * F(minimum))
    return found


def q5_k(b: bytes) -> list[F]:
    found = []
    for i in range(256):
        scale, minimum = six(b, 4, i // 32)
        code = b[48 + i // 64 * 32 + i % 32] >> (4 * (i % 64 // 32)) & 15 | (b[16 + i % 32] >> (i // 32) & 1) << 4
        found.append(half(b, 0) * F(scale) * F(code) - half(b, 2) * F(minimum))
    return found


def q6_k(b: bytes) -> list[F]:
    found = []
    for i in range(256):
        part, inside = i // 128, i % 128
        low = b[part * 64 + inside % 64] >> (4 * (inside // 64)) & 15
        high = b[128 + part * 32 + inside % 32] >> (2 * (inside // 32)) & 3
        scale = struct.unpack_from("<b", b, 192 + i // 16)[0]
        found.append(half(b, 208) * F(scale) * F((low | high << 4) - 32))
    return found


def iq4_nl(b: bytes) -> list[F]:
    return [half(b, 0) * F(IQ4[b[2 + i % 16] >> (4 * (i // 16)) & 15]) for i in range(32)]


def iq4_xs(b: bytes) -> list[F]:
    found, high = [], struct.unpack_from("<H", b, 2)[0]
    for i in range(256):
        group = i // 32
        scale = (b[4 + group // 2] >> (4 * (group % 2)) & 15) | (high >> (2 * group) & 3) << 4
        code = b[8 + group * 16 + i % 16] >> (4 * (i % 32 // 16)) & 15
        found.append(half(b, 0) * F(scale - 32) * F(IQ4[code]))
    return found


def tq2_0(b: bytes) -> list[F]:
    return [half(b, 64) * F((b[i // 128 * 32 + i % 32] >> (2 * (i % 128 // 32)) & 3) - 1) for i in range(256)]


def tq1_0(b: bytes) -> list[F]:
    digits = []
    for start, stop, count in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        for power in range(count):
            digits += [(b[m] * 3**power % 256) * 3 // 256 - 1 for m in range(start, stop)]
    return [half(b, 52) * F(digit) for digit in digits]


def mxfp4(b: bytes) -> list[F]:
    levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    values = [
        levels[code & 7] * (-1 if code & 8 else 1)
        for i in range(32)
        for code in [b[1 + i % 16] >> (4 * (i // 16)) & 15]
    ]
    return [F(2.0 ** (b[0] - 127) * value) for value in values]


def q1_0(b: bytes) -> list[F]:
    return [half(b, 0) * F(2 * (b[2 + i // 8] >> (i % 8) & 1) - 1) for i in range(128)]


def q2_0(b: bytes) -> list[F]:
    return [half(b, 0) * F((b[2 + i // 4] >> (2 * (i % 4)) & 3) - 1) for i in range(64)]


SECOND = {f.__name__.upper(): f for f in (q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k)}
SECOND |= {f.__name__.upper(): f for f in (iq4_nl, iq4_xs, tq1_0, tq2_0, mxfp4, q1_0, q2_0)}


@pytest.mark.parametrize("name", SECOND)
def test_numbers_are_those_of_the_layout(name: str) -> None:
    block = TYPES[IDS[name]]
    raw = np.random.default_rng(len(name)).integers(0, 256, (3, 2, block.bytes), dtype=np.uint8)
    raw[2] = 0
    raw[1, 0] = 255 if name == "MXFP4" else 127  # extreme codes with a finite scale
    if name == "MXFP4":
        raw[..., 0] = np.minimum(raw[..., 0], 254)
    with np.errstate(all="ignore"):
        found = numbers(IDS[name], raw)
        expected = np.array([[x for b in row for x in SECOND[name](b.tobytes())] for row in raw], np.float32)
    assert found.shape == (3, 2 * block.numbers)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    assert same.all()


@pytest.mark.parametrize("name", GOLDEN)
def test_numbers_are_those_of_the_gguf_package_bit_for_bit(name: str) -> None:
    block, golden = TYPES[IDS[name]], GOLDEN[name]
    with np.errstate(all="ignore"):
        found = numbers(IDS[name], stretch(name, golden["blocks"], block.bytes)[:, None])
    assert digest_of_numbers(found) == golden["digest"]


def test_the_golden_values_are_of_every_type_that_the_package_decodes() -> None:
    assert set(GOLDEN) == {TYPES[kind].name for kind in (*MATRICES, *FLOATS)} - {"F64", "Q1_0", "Q2_0"}


def blocks_of(kind: int) -> np.ndarray:
    """Random blocks whose scales are finite; subnormal halves among them."""
    rng = np.random.default_rng(kind)
    raw = rng.integers(0, 100, (4, 3, TYPES[kind].bytes), dtype=np.uint8)
    raw[3] %= 4
    if kind == IDS["MXFP4"]:  # from the least to the largest f16, and one below, where all is zero
        raw[..., 0] = rng.integers(104, 144, raw.shape[:2])
        raw[0, :2, 0], raw[1, 0] = (104, 143), 0
    if kind == IDS["TQ2_0"]:
        raw &= ~(raw >> 1 & raw & 0x55)  # no code 3
    return raw


@pytest.mark.parametrize("kind", MATRICES, ids=lambda kind: TYPES[kind].name)
def test_a_scheme_is_named_where_it_stands_for_the_same_numbers(kind: int) -> None:
    raw = blocks_of(kind)
    found = matrix(kind, raw)
    assert found is not None and scheme_name(found.scheme) == SCHEMES[kind]
    np.testing.assert_array_equal(decode(found), numbers(kind, raw))
    packed = pack(found)  # sub-scales fit their bits, entries their codebook
    check_segments(found.scheme, found.shape, packed)
    np.testing.assert_array_equal(decode(unpack(found.scheme, found.shape, packed)), numbers(kind, raw))


def test_scales_of_mxfp4_beyond_halves_are_refused() -> None:
    for exponent, said in ((103, "-24"), (144, "17")):
        raw = np.full((1, 1, 17), exponent, np.uint8)
        with pytest.raises(UnsupportedError, match=re.escape(f"an MXFP4 scale of 2**{said} is stored as f16")):
            matrix(IDS["MXFP4"], raw)


def test_mxfp4_that_is_encoded_again_is_the_same() -> None:
    raw = blocks_of(IDS["MXFP4"])
    given = numbers(IDS["MXFP4"], raw)
    scheme, method = parse_filled("mxfp4-g32")
    np.testing.assert_array_equal(decode(choose_method(scheme, method).quantize(given, scheme)), given)


def test_floats() -> None:
    values = np.array([[0.5, -2.25, 65504.0, 0.0]], np.float32)
    for name, data in (("F32", values), ("F16", values.astype("<f2")), ("F64", values.astype("<f8"))):
        raw = data.view(np.uint8).reshape(1, 4, -1)
        np.testing.assert_array_equal(numbers(IDS[name], raw), values)
    bf16 = (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8).reshape(1, 4, 2)
    np.testing.assert_array_equal(numbers(IDS["BF16"], bf16)[0, :2], values[0, :2])


def test_what_cannot_be_decoded_is_refused_by_name() -> None:
    left = [kind for kind in TYPES if kind not in MATRICES and kind not in FLOATS]
    assert left
    for kind in left:
        with pytest.raises(UnsupportedError, match=f"tensors of type {TYPES[kind].name} cannot be decoded"):
            numbers(kind, np.zeros((1, 1, TYPES[kind].bytes), np.uint8))
