"""Rotary position embedding of whole heads and of their beginnings."""

from __future__ import annotations

import numpy as np
import pytest

from ggq.tape.buffers import Buffer
from ggq.tape.ops import Rope
from ggq.tape.rotation import Rotation
from ggq_kernels.run import calls
from tests.kit.kernel_support import UNIT, Floats, address, count, gamma, run
from tests.kit.row_oracle import meaning

pytestmark = pytest.mark.kernels


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


@pytest.mark.parametrize("layout", ["half", "pairs"])
@pytest.mark.parametrize("heads, dim, pairs", [(4, 64, 16), (3, 80, 20), (2, 100, 1), (2, 96, 33), (1, 24, 12)])
def test_the_beginning_of_each_head_turns(layout: str, heads: int, dim: int, pairs: int) -> None:
    """As the operation has it; the table's numbers are rounded too. The rest of a head stays bit for bit."""
    rng, positions = np.random.default_rng(dim), np.array([3, 0, 200], np.int64)
    rotation = Rotation(tuple(rng.uniform(0.001, 1, pairs)), layout, 1.25)
    table = np.concatenate(rotation.table(np.arange(201)), axis=1).astype(np.float32)
    pointer, tokens = np.array([address(table)], np.int64), count(3)
    x = rng.standard_normal((3, heads * dim)).astype(np.float32)
    buffer, made = Buffer("x", heads * dim), Floats(x)
    at = address(pointer), address(positions)
    run(calls.rope_row(address(tokens), made.rows, heads, layout, *at, pairs), threads=2)
    expected = meaning(Rope(buffer, heads, rotation), buffer, {buffer: x}, positions=positions)
    got, before = made.values.reshape(3, heads, dim), x.reshape(3, heads, dim)
    np.testing.assert_array_equal(got[..., 2 * pairs :], before[..., 2 * pairs :])
    size = np.sqrt(2) * np.abs(before[..., : 2 * pairs]).max() * 1.25
    assert (np.abs(made.values - expected) <= (gamma(2) * np.sqrt(2) + 2 * UNIT) * size).all()
    assert (got[..., : 2 * pairs] != before[..., : 2 * pairs]).any()
