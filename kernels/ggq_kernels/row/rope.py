"""Rotary position embedding, in place."""

from __future__ import annotations

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.row.operands import ROPE
from ggq_kernels.run.team import take
from ggq_kernels.vector.simd import fma, load_f32, mul, read_f32, read_i64, splat_f32, store_f32, write_f32


@inlined
def rotate_half(head: int, half: int, table: int) -> None:
    """Rotate x[i] and x[i + half] by the angle of cosine table[i], sine table[half + i]."""
    i = 0
    while i + 16 <= half:
        c, s = load_f32(table + i * 4), load_f32(table + (half + i) * 4)
        a, b = load_f32(head + i * 4), load_f32(head + (half + i) * 4)
        store_f32(head + i * 4, fma(a, c, mul(mul(b, s), splat_f32(-1.0))))
        store_f32(head + (half + i) * 4, fma(b, c, mul(a, s)))
        i += 16
    while i < half:
        rotate_pair(head + i * 4, head + (half + i) * 4, table + i * 4, table + (half + i) * 4)
        i += 1


@inlined
def rotate_pair(first: int, second: int, cosine: int, sine: int) -> None:
    """Rotate one pair of numbers at two addresses."""
    a, b, c, s = read_f32(first), read_f32(second), read_f32(cosine), read_f32(sine)
    write_f32(first, a * c - b * s)
    write_f32(second, b * c + a * s)


@inlined
def rope(neighbours: bool, row: int, team: int) -> None:
    """Rotate the first numbers of each head of each token in place: neighbouring ones, or the two halves of these
    numbers against each other."""
    n, buffer, stride = read_i64(read_i64(row + ROPE.tokens)), read_i64(row + ROPE.buffer), read_i64(row + ROPE.stride)
    heads, dim, pairs = read_i64(row + ROPE.heads), read_i64(row + ROPE.dim), read_i64(row + ROPE.pairs)
    table, positions = read_i64(read_i64(row + ROPE.table)), read_i64(row + ROPE.positions)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        angles = table + read_i64(positions + 8 * t) * pairs * 8
        for h in range(heads):
            head = buffer + t * stride + h * dim * 4
            if neighbours:
                for i in range(pairs):
                    rotate_pair(head + 8 * i, head + 8 * i + 4, angles + 4 * i, angles + (pairs + i) * 4)
            else:
                rotate_half(head, pairs, angles)


@op
def rope_half(row: int, team: int) -> None:
    """Rotate the two halves of what turns of each head against each other, as Hugging Face stores Llama."""
    rope(False, row, team)


@op
def rope_pairs(row: int, team: int) -> None:
    """Rotate neighbouring numbers of each head."""
    rope(True, row, team)
