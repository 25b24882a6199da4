"""The examples, figures and tables of spec/schemes.md, read out of the Markdown and run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import pytest

from ggq.format.native.descriptor import KINDS, ZERO_FORMS
from ggq.format.scheme import FLOAT_BYTES, PLANES, TILE_ROWS, TRANSFORMS
from ggq.format.scheme_names import BITS
from ggq.quant import check_segments, decode_tensor, encode_tensor, parse_scheme
from tests.kit import quant_oracle as oracle

SPEC = Path(__file__).resolve().parents[2] / "spec" / "schemes.md"
METHODS_SPECIFIED = {"absmax", "zero-point", "min-max", "ternary", "binary", "nf4"}
BLOCK = re.compile(r"^```(\w+) (.*)\n((?:.*\n)*?)```$", re.MULTILINE)


@dataclass
class Example:
    """One example of the specification."""

    title: str
    scheme: str = ""
    shape: tuple[int, ...] = ()
    method: str | None = None
    weights: list[float] = field(default_factory=list)
    decoded: list[float] = field(default_factory=list)
    segments: dict[str, bytes] = field(default_factory=dict)

    @property
    def made(self) -> bool:
        """Whether weights are given, and a method or a float scheme that encodes them."""
        return self.method is not None or self.scheme in FLOAT_BYTES


def blocks(kind: str) -> list[tuple[str, list[str]]]:
    found = [(m[2], m[3].splitlines()) for m in BLOCK.finditer(SPEC.read_text()) if m[1] == kind]
    assert found
    return found


def hex_bytes(line: str) -> bytes:
    """Bytes of a line such as "40 51 88*56"."""
    out = b""
    for word in line.split():
        byte, _, count = word.partition("*")
        assert re.fullmatch("[0-9A-F]{2}", byte)
        out += bytes([int(byte, 16)]) * int(count or 1)
    return out


def read_example(title: str, lines: list[str]) -> Example:
    example, role = Example(title), ""
    for line in lines:
        key, _, rest = line.partition(" ")
        if key in ("weights", "decoded"):
            for number, _, count in (word.partition("*") for word in rest.split()):
                getattr(example, key).extend([float(number)] * int(count or 1))
        elif key == "shape":
            example.shape = tuple(int(word) for word in rest.split())
        elif key in ("scheme", "method"):
            setattr(example, key, rest)
        elif key == "segment":
            role = rest
        else:
            example.segments[role] = example.segments.get(role, b"") + hex_bytes(line)
    assert len(example.decoded) == prod(example.shape)
    assert len(example.weights) == (len(example.decoded) if example.made else 0)
    return example


EXAMPLES = [read_example(title, lines) for title, lines in blocks("example")]


def ids(example: Example) -> str:
    return example.title.partition(":")[0]


def test_examples_cover_what_the_specification_defines() -> None:
    parsed = [parse_scheme(example.scheme) for example in EXAMPLES]
    assert {s.bits for s in parsed if s.kind == "uniform"} == set(BITS)
    assert {s.value for s in parsed if s.kind == "float"} == {"f16", "bf16"}
    assert {s.kind for s in parsed} == set(KINDS)
    assert {s.zero for s in parsed} == {"", *ZERO_FORMS}
    assert {s.subscale for s in parsed} >= {0, 4, 6}
    assert set.union(*(set(s.transform) for s in parsed)) == set(TRANSFORMS)
    assert {example.method for example in EXAMPLES} == {None, *METHODS_SPECIFIED}


@pytest.mark.parametrize("example", EXAMPLES, ids=ids)
def test_segments_decode_to_the_numbers_written(example: Example) -> None:
    decoded = decode_tensor(parse_scheme(example.scheme), example.shape, example.segments)
    assert decoded.tolist() == np.float32(example.decoded).reshape(example.shape).tolist()
    check_segments(parse_scheme(example.scheme), example.shape, example.segments)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.made], ids=ids)
def test_weights_encode_to_the_bytes_written(example: Example) -> None:
    weights = np.float32(example.weights).reshape(example.shape)
    encoded = encode_tensor(weights, parse_scheme(example.scheme), example.method)
    assert {role: raw.tobytes().hex(" ") for role, raw in encoded.items()} == {
        role: raw.hex(" ") for role, raw in example.segments.items()
    }


@pytest.mark.parametrize("example", [e for e in EXAMPLES if len(e.shape) > 1], ids=ids)
def test_the_oracle_of_the_tests_agrees(example: Example) -> None:
    rows, columns = example.shape
    if example.made:
        weights = np.float32(example.weights).reshape(example.shape).tolist()
        assert oracle.encode(example.scheme, [weights]) == example.segments
    if rows <= 16:
        assert oracle.broken_rule(example.scheme, rows, columns, example.segments) is None
    assert oracle.decode(example.scheme, 1, rows, columns, example.segments) == example.decoded


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.scheme == "q4-g32"], ids=ids)
def test_a_nibble_swap_does_not_survive_the_examples(example: Example) -> None:
    swapped = bytes((byte >> 4 | byte << 4) & 255 for byte in example.segments["codes"])
    wrong = decode_tensor(parse_scheme(example.scheme), example.shape, {**example.segments, "codes": swapped})
    assert wrong.ravel().tolist() != example.decoded


@pytest.mark.parametrize("example", [e for e in EXAMPLES if "subscales" in e.segments], ids=ids)
def test_a_swap_of_sub_scales_does_not_survive_the_examples(example: Example) -> None:
    for role in ("subscales", "subminimums"):
        if role in example.segments:
            swapped = bytes((byte >> 4 | byte << 4) & 255 for byte in example.segments[role])
            wrong = decode_tensor(parse_scheme(example.scheme), example.shape, {**example.segments, role: swapped})
            assert wrong.ravel().tolist() != example.decoded


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_figures_show_the_bits_of_a_unit(width: int) -> None:
    """S5.6: the figure of each plane width, cell by cell, against the formula and the oracle."""
    figure = dict(blocks("figure"))[str(width)]
    assert figure[0].split() == ["bits", "4r+0", "4r+1", "4r+2", "4r+3"]
    assert len(figure) == 1 + 8 // width
    seen = []
    for line in figure[1:]:
        bits, *columns = line.split()
        first, last = (int(bit) for bit in bits.split("-"))
        assert last - first + 1 == width
        for j, column in enumerate(int(word) for word in columns):
            assert column == 4 * (first // width) + j
            seen.append(column)
            code_bits = next(b for b in PLANES if PLANES[b][-1] == width)
            row, padded_columns = 5, 32
            byte, bit, b = oracle.place(code_bits, TILE_ROWS, padded_columns, row, column)[-1]
            start = TILE_ROWS * padded_columns * (code_bits - width) // 8
            assert (byte - start, bit, b) == (4 * row + j, first, width)
    assert sorted(seen) == list(range(32 // width))


def test_table_of_planes_is_that_of_the_code() -> None:
    """S5.5."""
    rows = re.findall(r"^\| (\d) \| ([\d, ]+) \| ([\d, ]+) \|$", SPEC.read_text(), re.MULTILINE)
    table = {int(bits): tuple(map(int, planes.split(", "))) for bits, planes, _ in rows}
    assert table == PLANES
    for _, planes, columns in rows:
        assert [32 // int(b) for b in planes.split(", ")] == [int(c) for c in columns.split(", ")]


def test_every_rule_has_one_number() -> None:
    rules = re.findall(r"^\*\*(S\d+\.\d+)\*\*", SPEC.read_text(), re.MULTILINE)
    assert len(rules) == len(set(rules)) > 25
    assert rules == sorted(rules, key=lambda rule: [int(part) for part in rule[1:].split(".")])
