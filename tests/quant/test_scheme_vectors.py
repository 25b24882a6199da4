"""spec/vectors/scheme: our own vectors against the oracle, and the gguf package's blocks against our codes."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant import (
    METHODS,
    SCHEMES,
    QuantizedMatrix,
    check_segments,
    decode,
    decode_tensor,
    encode_tensor,
    error,
    pack,
    parse_scheme,
)
from tests.kit import quant_oracle as oracle
from tools import make_scheme_vectors

FOLDER = Path(__file__).resolve().parents[2] / "spec" / "vectors" / "scheme"
NAMES = (*SCHEMES, *make_scheme_vectors.MORE_SCHEMES)
GGUF = json.loads((FOLDER / "gguf.json").read_text())


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def floats(rows: list[str]) -> NDArray[np.float32]:
    return np.frombuffer(bytes.fromhex("".join(rows)), "<f4")


def test_there_is_a_vector_for_every_scheme() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*NAMES, "gguf"}


def test_vectors_are_made_again_to_the_byte(tmp_path: Path) -> None:
    make_scheme_vectors.main(tmp_path)
    for name in NAMES:
        assert (tmp_path / f"{name}.json").read_bytes() == (FOLDER / f"{name}.json").read_bytes(), name


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str) -> None:
    vector = read(name)
    fields = vector["record"] | {"transform": frozenset(vector["record"].get("transform", ()))}
    scheme, shape = Scheme(**fields), tuple(vector["shape"])
    assert scheme == parse_scheme(name)
    segments = {role: bytes.fromhex(raw) for role, raw in vector["segments"].items()}
    check_segments(scheme, shape, segments)
    decoded = decode_tensor(scheme, shape, segments)
    assert decoded.shape == shape
    assert decoded.tobytes() == floats(vector["decoded"]).tobytes()
    if scheme.transform:
        return
    encoded = encode_tensor(floats(vector["weights"]).reshape(shape), scheme, vector["method"] or None)
    assert {role: raw.tobytes() for role, raw in encoded.items()} == segments


@pytest.mark.parametrize("name", NAMES)
def test_vector_is_what_the_oracle_computes(name: str) -> None:
    vector = read(name)
    *_, rows, columns = vector["shape"]
    count = prod(vector["shape"][:-2])
    segments = {role: bytes.fromhex(raw) for role, raw in vector["segments"].items()}
    matrices = floats(vector["weights"]).reshape(count, rows, columns).tolist()
    book = [*struct.unpack(f"{len(segments['codebook'])}b", segments["codebook"])] if "codebook" in segments else None
    assert oracle.encode(name, matrices, book, segments) == segments
    # -0.0 and 0.0 are equal here: the sign of a zero is not part of the semantics of a code.
    assert oracle.decode(name, count, rows, columns, segments) == floats(vector["decoded"]).tolist()


def case(kind: str) -> dict[str, Any]:
    """The first case of a type, or "TYPE NOTE"."""
    return next(case for case in GGUF["cases"] if f"{case['type']} {case['note']} ".startswith(f"{kind} "))


def blocks(kind: str, size: int) -> NDArray[np.uint8]:
    """Blocks of a case, uint8 (rows, blocks of a row, bytes of a block)."""
    vector = case(kind)
    raw = np.frombuffer(bytes.fromhex("".join(vector["blocks"])), np.uint8)
    return raw.reshape(vector["shape"][0], -1, size)


def half(raw: NDArray[np.uint8]) -> NDArray[np.float16]:
    return np.ascontiguousarray(raw).view("<f2")[..., 0]


def halves(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """GGUF's order of nibbles: 16 low ones, then 16 high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def fifth(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """GGUF's fifth bits: bit i of 4 bytes belongs to element i."""
    return np.unpackbits(raw, axis=-1, bitorder="little") << 4


def runs(raw: NDArray[np.uint8], width: int, step: int) -> NDArray[np.uint8]:
    """Fields of `width` bits of `step` bytes, one field after the other, as the K types lay them out."""
    parts = raw.reshape(*raw.shape[:2], -1, 1, step)
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return (parts >> shifts & (2**width - 1)).reshape(*raw.shape[:2], -1)


def as_ours(kind: str) -> QuantizedMatrix:
    """A case's blocks as codes, scales and zero-points of our schemes."""
    zeros, whole, kind = None, kind, kind[:4]
    if kind == "Q4_0":
        name, block = "q4-g32", blocks(whole, 18)
        scales, codes = half(block[..., :2]), halves(block[..., 2:])
    elif kind == "Q5_0":
        name, block = "q5-g32", blocks(whole, 22)
        scales, codes = half(block[..., :2]), halves(block[..., 6:]) | fifth(block[..., 2:6])
    elif kind == "Q8_0":
        name, block = "q8-g32", blocks(whole, 34)
        scales, codes = half(block[..., :2]), block[..., 2:] + np.uint8(128)
    elif kind in ("Q4_1", "Q5_1"):
        name, block = ("q4z-g32", blocks(whole, 20)) if kind == "Q4_1" else ("q5z-g32", blocks(whole, 24))
        scales, minimum, codes = half(block[..., :2]), half(block[..., 2:4]), halves(block[..., -16:])
        codes = codes if kind == "Q4_1" else codes | fifth(block[..., 4:8])
        zeros = (-minimum.astype(np.float32) / scales.astype(np.float32)).astype(np.uint8)
    elif kind == "Q2_K":
        name, block = "q2z-g32", blocks(whole, 84)
        scales, codes = half(block[..., 80:82]).repeat(8, axis=1), runs(block[..., 16:80], 2, 32)
        zeros = (block[..., 0:16:2] >> 4).reshape(len(block), -1)
    elif kind == "Q3_K":
        name, block = "q3-g32", blocks(whole, 110)
        scales = half(block[..., 108:]).repeat(8, axis=1)
        codes = runs(block[..., 32:96], 2, 32) | runs(block[..., :32], 1, 32) << 2
    else:
        name, block = "q6-g32", blocks(whole, 210)
        scales = half(block[..., 208:]).repeat(8, axis=1)
        codes = runs(block[..., :128], 4, 64) | runs(block[..., 128:192], 2, 32) << 4
    rows, columns = case(whole)["shape"]
    return QuantizedMatrix(parse_scheme(name), (rows, columns), codes.reshape(rows, columns), scales, zeros)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q6_K", "Q8_0"])
def test_gguf_blocks_decode_to_the_same_numbers(kind: str) -> None:
    matrix = as_ours(kind)
    expected = floats(case(kind)["decoded"]).reshape(matrix.shape)
    assert len(np.unique(matrix.codes)) > 2 ** (matrix.scheme.bits - 1)
    assert np.array_equal(decode(matrix), expected)
    assert np.array_equal(decode_tensor(matrix.scheme, matrix.shape, pack(matrix)), expected)


def sixes(raw: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The eight 6-bit scales and minimums of Q4_K and Q5_K, from 12 bytes a block (ggml-quants.c, get_scale_min_k4)."""
    first, second, third = raw[..., :4], raw[..., 4:8], raw[..., 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=-1)
    return scales, np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=-1)


def whole(kind: str) -> QuantizedMatrix:
    """The random blocks of a K type, of TQ2_0 or of MXFP4 as two-level scales, minimums, ternary codes or a codebook.

    A block of 256 is one super-group of eight groups of 32, or two of eight groups of 16 with the same upper scale.
    """
    name, size = WHOLE[kind]
    block = blocks(f"{kind} random blocks", size)[0]
    lower = minimums = subminimums = codebook = None

    def upper(start: int, times: int = 1) -> NDArray[np.float16]:
        return half(block[:, start : start + 2]).repeat(times)[None]

    if kind in ("Q4_K", "Q5_K"):
        scales, minimums, (lower, subminimums) = upper(0), upper(2), sixes(block[:, 4:16])
        codes = runs(block[None, :, -128:], 4, 32)
        codes = codes | runs(block[None, :, 16:48], 1, 32) << 4 if kind == "Q5_K" else codes
    elif kind == "Q2_K":
        scales, minimums, lower, subminimums = upper(80, 2), upper(82, 2), block[:, :16] & 15, block[:, :16] >> 4
        codes = runs(block[None, :, 16:80], 2, 32)
    elif kind == "Q3_K":
        low, high = runs(block[None, :, 96:104], 4, 8), runs(block[None, :, 104:108], 2, 4)
        scales, lower = upper(108, 2), low | high << 4
        codes = runs(block[None, :, 32:96], 2, 32) | runs(block[None, :, :32], 1, 32) << 2
    elif kind == "Q6_K":
        scales, lower = upper(208, 2), block[:, 192:208] + np.uint8(128)
        codes = runs(block[None, :, :128], 4, 64) | runs(block[None, :, 128:192], 2, 32) << 4
    elif kind == "TQ2_0":
        scales, codes = upper(64), runs(block[None, :, :64], 2, 32)
    else:
        scales, codes = np.exp2(block[None, :, 0] - 128.0).astype(np.float16), halves(block[:, 1:])
        codebook = np.int8([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])
    lower, subminimums = (None if each is None else each.reshape(1, -1) for each in (lower, subminimums))
    shape, codes = (1, 512), codes.reshape(1, 512)
    return QuantizedMatrix(parse_scheme(name), shape, codes, scales, None, lower, minimums, subminimums, codebook)


WHOLE = {
    "Q2_K": ("q2m-g16-s4", 84),
    "Q3_K": ("q3-g16-s6", 110),
    "Q4_K": ("q4m-g32-s6", 144),
    "Q5_K": ("q5m-g32-s6", 176),
    "Q6_K": ("q6-g16-s8", 210),
    "TQ2_0": ("ternary-g256", 66),
    "MXFP4": ("c4-g32", 17),
}
"""The scheme that holds a type's blocks exactly, and the bytes of a block."""


@pytest.mark.parametrize("kind", WHOLE)
def test_random_gguf_blocks_are_held_exactly(kind: str) -> None:
    matrix = whole(kind)
    expected = floats(case(f"{kind} random blocks")["decoded"]).reshape(matrix.shape)
    assert len(np.unique(matrix.codes)) == matrix.scheme.codes
    assert len(np.unique(expected)) > 16 * (kind != "TQ2_0")
    assert np.array_equal(decode(matrix), expected)
    segments = pack(matrix)
    check_segments(matrix.scheme, matrix.shape, segments)
    assert np.array_equal(decode_tensor(matrix.scheme, matrix.shape, segments), expected)
    raw = {role: part.tobytes() for role, part in segments.items()}
    assert oracle.decode(WHOLE[kind][0], 1, 1, 512, raw) == expected.ravel().tolist()


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1"])
def test_zero_point_finds_the_codes_that_gguf_finds_on_a_grid(kind: str) -> None:
    theirs = as_ours(kind)
    ours = METHODS["zero-point"].quantize(floats(case(kind)["weights"]).reshape(theirs.shape), theirs.scheme)
    assert theirs.zeros is not None and ours.zeros is not None
    assert np.array_equal(ours.codes, theirs.codes)
    assert np.array_equal(ours.zeros, theirs.zeros)
    assert ours.scales.tobytes() == theirs.scales.astype("<f2").tobytes()


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0"])
def test_absmax_finds_the_scales_and_codes_that_gguf_finds(kind: str) -> None:
    theirs = as_ours(kind)
    ours = METHODS["absmax"].quantize(floats(case(kind)["weights"]).reshape(theirs.shape), theirs.scheme)
    assert ours.scales.tobytes() == theirs.scales.astype("<f2").tobytes()
    assert np.array_equal(ours.codes, theirs.codes)


@pytest.mark.parametrize("kind", ["Q4_0 halfway weights", "Q5_0 halfway weights"])
def test_where_codes_differ_from_ggufs_ours_are_nearer(kind: str) -> None:
    """S7: equal scales; gguf divides by the scale before it was rounded, and we by the one that decodes."""
    theirs = as_ours(kind)
    weights = floats(case(kind)["weights"]).reshape(theirs.shape)
    ours = METHODS["absmax"].quantize(weights, theirs.scheme)
    assert ours.scales.tobytes() == theirs.scales.astype("<f2").tobytes()
    differ = ours.codes != theirs.codes
    assert 0.2 * weights.size < differ.sum() < 0.8 * weights.size
    assert np.abs(ours.codes.astype(int) - theirs.codes).max() == 1
    exact = weights.astype(np.float64)
    step = np.abs(ours.scales.astype(np.float64)).repeat(32, axis=1)
    assert (np.abs(decode(ours) - exact) <= np.abs(decode(theirs) - exact) + step * 2**-14)[differ].all()
    assert error(weights, decode(ours)).relative_rmse < error(weights, decode(theirs)).relative_rmse


def test_eight_bits_are_better_than_ggufs() -> None:
    """Q8_0 spends no code on -128, so its steps are 128/127 times as large."""
    theirs = as_ours("Q8_0")
    weights = floats(case("Q8_0")["weights"]).reshape(theirs.shape)
    ours = METHODS["absmax"].quantize(weights, theirs.scheme)
    assert error(weights, decode(ours)).relative_rmse < error(weights, decode(theirs)).relative_rmse


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_floats_round_as_in_gguf(kind: str) -> None:
    vector = case(kind)
    scheme, count = parse_scheme(kind.lower()), prod(vector["shape"])
    values = encode_tensor(floats(vector["weights"]), scheme)
    assert values["values"].tobytes().hex() == "".join(vector["blocks"])
    decoded = decode_tensor(scheme, (count,), values)
    assert np.array_equal(decoded, floats(vector["decoded"]))
