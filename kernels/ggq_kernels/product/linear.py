"""Quantized matrix x activations: the fused dequantize-and-multiply, on packed codes, for a prompt and for one token
alike.

Activations come from activations.py in tiles of TOKENS tokens (a last single token stands alone). A thread takes some
tiles of 16 rows at a time and computes them for all tokens, in blocks of tokens that stay in its second-level cache
(products.py); for a single token, with most codes, two tiles together.
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.product.beginnings import ZEROS, begun_bytes, write_beginnings
from ggq_kernels.product.operands import COLUMNS, X_STRIDE, X
from ggq_kernels.product.planes import CODES, TABLE_CODES, WIDE_TABLE_CODES, lowest
from ggq_kernels.product.products import (
    M_BIAS,
    SCRATCH,
    multiply_float,
    multiply_many,
    multiply_packed,
    multiply_plain,
    multiply_tiles,
    multiply_whole,
    plain_blocks,
    prefetch_out,
    write,
    write_tiles,
)
from ggq_kernels.product.sums import TABLE_BYTES, sums_of_token, token_bytes
from ggq_kernels.run.team import allocate, release, seen, take
from ggq_kernels.vector.isa import FLOAT_ROWS, PART, TOKENS, VALUES
from ggq_kernels.vector.simd import Tag, read_i64, splat_f32, store_f32, tag_value

MANY, ONE, FLOAT_MANY, TWO = Tag("tokens", TOKENS), Tag("tokens", 1), Tag("tokens", FLOAT_ROWS), Tag("tiles", 2)
SOME = Tag("tokens", PART, TOKENS)
SINGLE = Tag("tiles", 1)
"""Codes that take more instructions a byte than others have a single token take one tile at a time: two runs of memory
have nothing to give them (c3-g64-s6 19 % more time for a token of 1B by twos, binary-g64 4 %)."""

# Operands of a row behind those of products.py, as byte offsets; all kernels of this file have the same.
TOKEN_COUNT = 8
MATRICES, TILES, CHUNK, TOKEN_BLOCK, FEW, SHARES, LEAST, X_BF16 = range(X_STRIDE + 8, X_STRIDE + 72, 8)
# Words of one matrix descriptor behind those of products.py; descriptors follow each other, M_END is the first tile of
# the next.
M_START, M_END, M_BYTES = range(M_BIAS + 8, M_BIAS + 32, 8)


def product(form: Any, codes: Any, tokens: Any, m: int, tile: int, row: int, token: int, scratch: int) -> Any:
    """The product of the form's tag; a function as an argument would keep Numba from caching the kernel."""
    raise NotImplementedError


@overload(product, strict=False)  # annotations need not be equal
def _product(form: Any, codes: Any, tokens: Any, m: int, tile: int, row: int, token: int, scratch: int) -> Any:
    chosen = PRODUCTS[form.values[0]]
    return lambda form, codes, tokens, m, tile, row, token, scratch: chosen(codes, tokens, m, tile, row, token, scratch)


PRODUCTS = {"float32": multiply_float, "whole": multiply_whole}
FLOAT32, WHOLE = (Tag("form", name) for name in PRODUCTS)


@inlined
def aligned_scratch(size: int) -> Any:
    """Memory of a thread, to be released, and the first address in it that is a multiple of 64."""
    memory = allocate(size + 64)
    return memory, (memory + 63) // 64 * 64


@inlined
def take_tiles(row: int, team: int, n: int) -> Any:
    """First and last (excluded) of the tiles that a thread computes next: a part of what is left, so that it reads
    long runs of memory and yet all are done together; few enough to stay in cache where they are gone through again."""
    tiles = read_i64(row + TILES)
    most = read_i64(row + CHUNK) if n > read_i64(row + TOKEN_BLOCK) else tiles
    size = (tiles - seen(team)) // read_i64(row + SHARES)  # whoever else takes some meanwhile, it is a good size
    size = min(max(size // 2 * 2, read_i64(row + LEAST)), most)  # even: a single token takes tiles by twos
    first = take(team, size)
    return first, min(first + size, tiles)


@inlined
def partner(place: int, count: int, alone: bool) -> int:
    """How far from a tile, the place-th of `count`, lies the one that is multiplied with it by a single token.

    0 where it has none, -1 where it is another's partner. Weights that a tile of tokens has just read are in cache: the
    partner lies beside. Where the token is alone they come from memory, faster in two long runs than in one.
    """
    half = (count + 1) // 2 if alone else 1
    if place >= half if alone else place % 2 == 1:
        return -1
    return half if place + half < count else 0


@inlined
def linear_int8(codes: Any, tiles: Any, row: int, team: int) -> None:
    """Take tiles of all matrices of this operation until none is left; see the module's docstring."""
    n = read_i64(read_i64(row + TOKEN_COUNT))
    block, width, few = read_i64(row + TOKEN_BLOCK), tag_value(MANY), read_i64(row + FEW)
    whole = n if n % width == 1 else (n + width - 1) // width * width
    columns = read_i64(row + COLUMNS)
    sums_bytes = columns * TABLE_BYTES if token_bytes(codes) > 1 and n % width == 1 else 0
    most = min(block, whole) + width
    begun_room = (begun_bytes(row, most) + 63) // 64 * 64
    memory, sums = aligned_scratch(sums_bytes + begun_room + ZEROS + SCRATCH + most * 64)
    scratch = sums + sums_bytes + begun_room + ZEROS
    store_f32(scratch - ZEROS, splat_f32(0.0))
    if sums_bytes > 0:
        sums_of_token(read_i64(row + X) + (n - 1) * columns, columns, sums)
    while True:
        first, last = take_tiles(row, team, n)
        if first >= last:
            release(memory)
            return
        for start in range(0, n, block):
            stop = min(start + block, whole)
            many = start + (stop - start) // width * width
            m, shift, begun = read_i64(row + MATRICES), -1, scratch - ZEROS - begun_room - begun_bytes(row, start)
            for tile in range(first, last):
                while tile >= read_i64(m + M_END):
                    m += M_BYTES
                t = tile - read_i64(m + M_START)
                shift = write_beginnings(m, row, start, stop, lowest(codes), begun, shift)
                if many - start > few:
                    multiply_many(codes, MANY, SOME, m, t, row, start, many, n, begun, scratch)
                else:
                    for token in range(start, many, width):
                        prefetch_out(m, t, token, width)
                        if n - token <= tag_value(SOME) and tag_value(SOME) < width and plain_blocks(m, row):
                            write(multiply_plain(codes, SOME, m, t, row, token, begun, scratch), m, t, row, token)
                        else:
                            write(multiply_packed(codes, MANY, m, t, row, token, begun, scratch), m, t, row, token)
                if many < stop:
                    begin, end = max(first, read_i64(m + M_START)), min(last, read_i64(m + M_END))
                    apart = partner(tile - begin, end - begin, many == start) if tag_value(tiles) == 2 else 0
                    if apart >= 0:
                        total = multiply_tiles(codes, tiles, m, t, apart, row, many, sums, begun, scratch)
                        write_tiles(total, tiles, m, t, apart, row, many, scratch)


@inlined
def linear_float(form: Any, codes: Any, row: int, team: int) -> None:
    """The same with float32 activations."""
    n = read_i64(read_i64(row + TOKEN_COUNT))
    block, width = read_i64(row + TOKEN_BLOCK), tag_value(FLOAT_MANY)
    whole = n if n % width == 1 else (n + width - 1) // width * width
    memory, scratch = aligned_scratch(SCRATCH)
    while True:
        first, last = take_tiles(row, team, n)
        if first >= last:
            release(memory)
            return
        for start in range(0, n, block):
            stop = min(start + block, whole)
            m = read_i64(row + MATRICES)
            for tile in range(first, last):
                while tile >= read_i64(m + M_END):
                    m += M_BYTES
                t = tile - read_i64(m + M_START)
                token = start
                while token + width <= stop:
                    write(product(form, codes, FLOAT_MANY, m, t, row, token, scratch), m, t, row, token)
                    token += width
                if token < stop:
                    write(product(form, codes, ONE, m, t, row, token, scratch), m, t, row, token)


Q1 = CODES[1]
Q2 = CODES[2]
Q3 = CODES[3]
Q4 = CODES[4]
Q5 = CODES[5]
Q6 = CODES[6]
Q8 = CODES[8]
C2 = TABLE_CODES[2]
C3 = TABLE_CODES[3]
C4 = TABLE_CODES[4]
W2 = WIDE_TABLE_CODES[2]
W3 = WIDE_TABLE_CODES[3]
W4 = WIDE_TABLE_CODES[4]
F32, F16, BF16 = VALUES["f32"], VALUES["f16"], VALUES["bf16"]

# One small function for each kernel: Numba caches functions by name, and only those that a model asks for are compiled.
# Tables of wide entries (w) differ in int8 products alone.


@op
def linear_q1_int8(row: int, team: int) -> None:
    linear_int8(Q1, SINGLE, row, team)


@op
def linear_q1_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q1, row, team)


@op
def linear_q2_int8(row: int, team: int) -> None:
    linear_int8(Q2, TWO, row, team)


@op
def linear_q2_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q2, row, team)


@op
def linear_q3_int8(row: int, team: int) -> None:
    linear_int8(Q3, TWO, row, team)


@op
def linear_q3_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q3, row, team)


@op
def linear_q4_int8(row: int, team: int) -> None:
    linear_int8(Q4, TWO, row, team)


@op
def linear_q4_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q4, row, team)


@op
def linear_q5_int8(row: int, team: int) -> None:
    linear_int8(Q5, TWO, row, team)


@op
def linear_q5_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q5, row, team)


@op
def linear_q6_int8(row: int, team: int) -> None:
    linear_int8(Q6, TWO, row, team)


@op
def linear_q6_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q6, row, team)


@op
def linear_q8_int8(row: int, team: int) -> None:
    linear_int8(Q8, TWO, row, team)


@op
def linear_q8_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q8, row, team)


@op
def linear_c2_int8(row: int, team: int) -> None:
    linear_int8(C2, TWO, row, team)


@op
def linear_c2_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, C2, row, team)


@op
def linear_c3_int8(row: int, team: int) -> None:
    linear_int8(C3, SINGLE, row, team)


@op
def linear_c3_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, C3, row, team)


@op
def linear_c4_int8(row: int, team: int) -> None:
    linear_int8(C4, TWO, row, team)


@op
def linear_c4_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, C4, row, team)


@op
def linear_w2_int8(row: int, team: int) -> None:
    linear_int8(W2, TWO, row, team)


@op
def linear_w3_int8(row: int, team: int) -> None:
    linear_int8(W3, SINGLE, row, team)


@op
def linear_w4_int8(row: int, team: int) -> None:
    linear_int8(W4, TWO, row, team)


@op
def linear_f32(row: int, team: int) -> None:
    linear_float(WHOLE, F32, row, team)


@op
def linear_f16(row: int, team: int) -> None:
    linear_float(WHOLE, F16, row, team)


@op
def linear_bf16(row: int, team: int) -> None:
    linear_float(WHOLE, BF16, row, team)
