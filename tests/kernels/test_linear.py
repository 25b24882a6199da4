"""Matrix products on packed codes: exact where every number is a whole one, else within what float32 rounding allows.

A sum of n float32 terms, with k roundings each, is off by at most gamma(n - 1 + k) * sum of |terms| in any order of the
additions (`kernel_support.gamma`).
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ggq.format.scheme import ENTRY_LIMITS, FLOAT_BYTES, PLANES, SUPER_GROUP, TABLE_LIMITS, Scheme
from ggq.quant import SCHEMES, encode_tensor, parse_scheme, unpack
from ggq.quant.reference import level_table, minimum_sizes, step_sizes
from ggq.quant.stored import activation_group
from ggq.tape.reference import round_activations
from ggq_kernels.product import planes, steps
from ggq_kernels.product.linear import M_BYTES, M_END, M_START, partner
from ggq_kernels.product.products import WIDE_PANEL
from ggq_kernels.product.steps import M_SHIFT
from ggq_kernels.run import calls
from ggq_kernels.vector.isa import FLOAT_ROWS, TOKENS
from tests.kit.kernel_support import FORMS, Floats, Matrix, address, coded, count, gamma, matrix, product, run

pytestmark = pytest.mark.kernels

QUANTIZED = list(dict.fromkeys([*(name for name in SCHEMES if name not in FLOAT_BYTES), *FORMS]))
WHOLE = ["f32", "f16", "bf16"]
LEVELS = (
    "q4m-g32-s6",
    "q4z-g128-s6",
    "q4-g256-s6",
    "q3-g64-s8",
    "q8m-g64-s8",
    "ternary-g32-s4",
    "c3-g64-s6",
    "q6-g16-s8",
)
BIT_SIZES = (2, 3, 4, 5, 6, 8)


def counts(width: int) -> tuple[int, ...]:
    """Token counts at and around the edges of a register tile, one that leaves a single token among them."""
    return 1, 2, width, width + 1, 2 * width + 3


def random_matrix(rng: np.random.Generator, scheme: Scheme, rows: int, columns: int) -> Matrix:
    return matrix(
        scheme, (rows, columns), encode_tensor(rng.standard_normal((rows, columns)).astype(np.float32), scheme)
    )


def test_kernels_know_the_planes_of_the_format() -> None:
    assert planes.PLANES == PLANES
    assert steps.SUPERGROUP == SUPER_GROUP
    assert 2**planes.ENTRY_BITS == TABLE_LIMITS[1] - TABLE_LIMITS[0] + 1


# ---- whole numbers: every float32 sum is exact, so the result must be equal bit for bit


def whole_activations(rng: np.random.Generator, tokens: int, columns: int, group: int, form: str) -> np.ndarray:
    """Activations that int8 holds exactly: integers up to 127, which each group has, times 1 or 2 by group and token.

    Args:
        form: "random", or "up", "down" and "pairs", whose sums of products are as large as they can be.
    """
    if form == "random":
        x = rng.integers(-127, 128, (tokens, columns))
        x[:, ::group] = 127
    else:
        x = np.full((tokens, columns), {"up": 127, "down": -127, "pairs": 127}[form])
        if form == "pairs":  # whole pairs of one sign beside pairs of the other
            x[:, 2::4] = x[:, 3::4] = -127
    places = np.arange(columns) // group
    return (x * rng.choice([1, 2], (tokens, places[-1] + 1))[:, places]).astype(np.float32)


def whole_matrix(
    rng: np.random.Generator,
    scheme: Scheme,
    rows: int,
    columns: int,
    form: str,
    limits: tuple[int, int] = TABLE_LIMITS,
) -> Matrix:
    """Random codes, or all codes as large or as small as can be; steps, zero-points and minimums are small integers,
    entries of a codebook lie between the limits."""
    sizes, top = scheme.geometry((rows, columns)), scheme.codes - 1
    groups = (rows, sizes.groups)
    codes = {
        "random": rng.integers(0, top + 1, (rows, columns)),
        "largest": np.full((rows, columns), top),
        "smallest": np.zeros((rows, columns)),
    }[form]
    zeros = {"random": rng.integers(0, top + 1, groups), "largest": np.zeros(groups), "smallest": np.full(groups, top)}
    uppers = rng.choice([1.0, -1.0], (rows, sizes.supers if scheme.subscale else sizes.groups))
    table = rng.integers(limits[0], limits[1] + 1, scheme.codes)
    table[[0, -1]] = limits
    return coded(scheme, codes, uppers, zeros[form], rng.integers(0, 3, groups), table)


def assert_exact(matrices: list[Matrix], x: np.ndarray, **options: object) -> None:
    expected = [x.astype(np.float64) @ m.weights.T for m in matrices]
    # Codes times x and zero-points times x are what is added up: below 2**24 no sum of those is rounded.
    scheme = matrices[0].scheme
    most = (127 if scheme.kind == "codebook" else 2**scheme.bits) * (2 if scheme.subscale else 1)
    assert 2 * most * np.abs(x).sum(axis=1).max() < 2**24
    for got, want in zip(product(matrices, x, **options), expected):  # type: ignore[arg-type]
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("int8", [True, False], ids=["int8", "float32"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_whole_numbers_multiply_exactly(name: str, int8: bool) -> None:
    scheme, rng = parse_scheme(name), np.random.default_rng(list(name.encode()))
    columns = 100 if scheme.bits == 8 else 172  # neither is a whole number of groups
    matrices = [whole_matrix(rng, scheme, rows, columns, "random") for rows in (40, 7)]
    for n in counts(TOKENS if int8 else FLOAT_ROWS):
        assert_exact(matrices, whole_activations(rng, n, columns, activation_group(scheme), "random"), int8=int8)


@pytest.mark.parametrize("zero", ["", "z"])
@pytest.mark.parametrize("bits", BIT_SIZES)
@pytest.mark.parametrize("codes", ["largest", "smallest"])
def test_the_largest_sums_do_not_overflow(bits: int, zero: str, codes: str) -> None:
    """The extreme code meets activations of +-127 everywhere: 16-bit sums (AVX2) would saturate or wrap here first."""
    rng = np.random.default_rng(bits)
    for group, columns in (("g32", 128), ("g128", 128), ("row", 128), ("g16", 128)):
        scheme = parse_scheme(f"q{bits}{zero}-{group}")
        m = whole_matrix(rng, scheme, 16, columns, codes)
        for form in ("up", "down", "pairs"):
            for n in (1, TOKENS):
                x = whole_activations(rng, n, columns, activation_group(scheme), form)
                assert_exact([m], x, int8=True)


@pytest.mark.parametrize("codes", ["random", "largest", "smallest"])
@pytest.mark.parametrize("name", ["c2-g32", "c3-g64", "c4-g32", "c4-row", "c4-g16", "c3-g48-s6"])
def test_entries_that_seven_bits_do_not_hold(name: str, codes: str) -> None:
    """Entries of the whole of a codebook's range, where 16-bit sums (AVX2) of pairs of products just fit."""
    scheme, rng = parse_scheme(name), np.random.default_rng(list(name.encode()))
    m = whole_matrix(rng, scheme, 40, 128, codes, ENTRY_LIMITS)
    assert m.packed.middle == 128
    for form, int8 in itertools.product(("random", "up", "down", "pairs"), (True, False)):
        for n in (1, TOKENS, 2 * TOKENS + 1):
            assert_exact([m], whole_activations(rng, n, 128, activation_group(scheme), form), int8=int8)


@pytest.mark.parametrize("name", ["q4-g32", "q4-g64", "q6-g32-s6"])
def test_any_number_may_be_subtracted_from_all_codes(name: str) -> None:
    """Powers of two are folded into integer sums where the target gains by it; 0 and other numbers are not."""
    scheme, rng = parse_scheme(name), np.random.default_rng(10)
    m = whole_matrix(rng, scheme, 40, 128, "random")
    q = unpack(scheme, m.weights.shape, m.kept)
    groups = scheme.geometry(m.weights.shape).groups
    step = np.repeat(step_sizes(scheme, q.scales, q.subscales, groups), scheme.group, axis=1)
    for middle, shift in ((1.0, 0), (2.0, 1), (64.0, 6), (0.0, -1), (3.0, -1), (0.5, -1)):
        other = replace(
            m, packed=replace(m.packed, middle=middle), weights=m.weights + step * (m.packed.middle - middle)
        )
        assert other.packed.descriptor()[M_SHIFT // 8] == shift
        for n in counts(TOKENS):
            x = whole_activations(rng, n, 128, activation_group(scheme), "random")
            assert_exact([other], x, int8=True)


@pytest.mark.parametrize("name", ["binary-g32", "binary-g64", "binary-g128", "binary-row"])
def test_sums_of_four_activations_are_exact_at_their_ends(name: str) -> None:
    """A single token's 1-bit codes look sums up whose low and high parts are added up in bytes (sums.py): the largest
    and least parts, four columns apart, meet codes that pick all of them, none, and any."""
    scheme, rng = parse_scheme(name), np.random.default_rng(9)
    fours = [(127, 127, 127, 127), (-127, -127, -127, -127), (127, 127, 127, 98), (-127, -127, -127, -100)]
    for four, codes in itertools.product(fours, ("largest", "smallest", "random")):
        m = whole_matrix(rng, scheme, 32, 256, codes)
        x = np.tile(np.repeat(four, 4), 256 // 16).astype(np.float32)[None]
        assert_exact([m], x, int8=True)
        assert_exact([m], np.repeat(x, TOKENS + 1, axis=0), int8=True)


def test_each_code_bit_and_column_is_where_the_layout_says() -> None:
    """One code of a column differs from the zero-point, one activation of a token from zero."""
    for bits in BIT_SIZES:
        rng, scheme = np.random.default_rng(bits), parse_scheme(f"q{bits}-g32")
        codes = np.full((16, 64), 2 ** (bits - 1))
        row = rng.permutation(64) % 16
        codes[row, np.arange(64)] = rng.integers(0, 2**bits, 64)
        m = coded(scheme, codes, np.ones((16, 2)))
        np.testing.assert_array_equal(product([m], np.eye(64, dtype=np.float32) * 127, int8=True)[0], m.weights.T * 127)


# ---- real numbers: within the rounding of float32


def int8_terms(m: Matrix, x: np.ndarray) -> np.ndarray:
    """Sum of the absolute values of the terms that int8 sums are added up from: |step * x_scale * (numbers . x8)| and
    |offset * x_scale * (sum of x8)| of every activation group; (tokens, rows)."""
    scheme, (rows, columns) = m.scheme, m.weights.shape
    group, sizes = activation_group(scheme), scheme.geometry((rows, columns))
    q = unpack(scheme, (rows, columns), m.kept)
    padded = np.zeros((len(x), sizes.padded_columns))
    padded[:, :columns] = round_activations(x, group)
    parts = padded.reshape(len(x), -1, group)
    step = step_sizes(scheme, q.scales, q.subscales, sizes.groups).astype(np.float64)
    if q.minimums is not None:
        offset = minimum_sizes(q.minimums, q.subminimums, sizes.groups).astype(np.float64)
    else:
        offset = step * (m.packed.middle if q.zeros is None else q.zeros.astype(np.float64))
    numbers = level_table(scheme, q.codebook)[q.codes].astype(np.float64)
    if q.zeros is None and q.minimums is None:
        numbers += m.packed.middle
    repeat = sizes.group // group
    first = np.einsum("tgk,rgk->trg", parts, numbers.reshape(rows, -1, group)) * np.repeat(step, repeat, axis=1)
    second = parts.sum(axis=2)[:, None, :] * np.repeat(offset, repeat, axis=1)
    return np.asarray((np.abs(first) + np.abs(second)).sum(axis=2))


def int8_gamma(m: Matrix) -> float:
    """What a sum of `int8_terms` may be off by; see the next test."""
    groups = m.packed.columns // activation_group(m.scheme)
    return gamma(2 * groups + 4 + 3 * bool(m.scheme.subscale or m.packed.minimums))


@pytest.mark.parametrize("name", QUANTIZED)
def test_int8_products_are_within_float32_sums_of_groups(name: str) -> None:
    """int8 sums are exact. The scales' product, or the offset, is rounded and multiplied (2 roundings, of a step of two
    levels 3), and each of 2 * groups terms is added; then comes the bias, and what the result is added to. The weights
    that it is held against were rounded themselves where steps have two levels."""
    scheme, rng = parse_scheme(name), np.random.default_rng(list(name.encode()))
    matrices = [random_matrix(rng, scheme, rows, 172) for rows in (37, 16)]
    biases = [rng.standard_normal(37).astype(np.float32), None]
    for n in (1, TOKENS + 1, 2 * TOKENS + 3):
        x = (rng.standard_normal((n, 172)) * 10.0 ** rng.integers(-3, 4, (n, 1))).astype(np.float32)
        before = [rng.standard_normal((n, len(m.weights))).astype(np.float32) for m in matrices]
        for add_to in (None, before):
            got = product(matrices, x, int8=True, biases=biases, add_to=add_to)
            for i, (m, result) in enumerate(zip(matrices, got)):
                bias = np.zeros(1) if (given := biases[i]) is None else given
                base = np.zeros(1) if add_to is None else before[i]
                expected = round_activations(x, activation_group(scheme)) @ m.weights.T + bias + base
                bound = int8_gamma(m) * (int8_terms(m, x) + np.abs(bias) + np.abs(base))
                assert (np.abs(result - expected) <= bound).all()


@pytest.mark.parametrize("name", LEVELS)
def test_super_groups_whole_and_not(name: str) -> None:
    """Whole super-groups are expanded at once, the rest group by group: here two and three groups of 32, then more
    columns than a panel has, whose ends are within super-groups of 8 x 256; few tokens and many give the same bits."""
    scheme, rng = parse_scheme(name), np.random.default_rng(list(name.encode()))
    for columns in (19 * 32, WIDE_PANEL + 11 * 32):
        m = random_matrix(rng, scheme, 40, columns)  # three tiles: a single token takes two together, then one
        x = rng.standard_normal((2 * TOKENS + 1, columns)).astype(np.float32)
        expected = round_activations(x, activation_group(scheme)) @ m.weights.T
        [got] = product([m], x, int8=True)
        assert (np.abs(got - expected) <= int8_gamma(m) * int8_terms(m, x)).all()
        for rows in (slice(0, 1), slice(1, 1 + TOKENS)):
            np.testing.assert_array_equal(product([m], x[rows], int8=True)[0], got[rows])


def weight_terms(m: Matrix) -> np.ndarray:
    """|step * number| + |offset| of each weight, where these may be rounded; else 0; (rows, columns)."""
    scheme, shape = m.scheme, m.weights.shape
    if scheme.kind == "float" or not (scheme.subscale or scheme.zero == "minimum"):
        return np.zeros(shape)
    q, groups = unpack(scheme, shape, m.kept), scheme.geometry(shape).groups
    step = np.abs(step_sizes(scheme, q.scales, q.subscales, groups)).astype(np.float64)
    offset = step * 128
    if q.minimums is not None:
        offset = np.abs(minimum_sizes(q.minimums, q.subminimums, groups)).astype(np.float64)
    columns = np.arange(shape[1]) // scheme.geometry(shape).group
    return np.asarray((step * 255 + offset)[:, columns])


@pytest.mark.parametrize("name", [*QUANTIZED, *WHOLE])
def test_float32_products_are_within_float32_sums(name: str) -> None:
    """A weight (twice where an offset is no multiple of its step), a product, each addition of a column are rounded
    once; so is the bias. Offsets and what is taken off them may be larger than the weight that is left."""
    scheme, rng = parse_scheme(name), np.random.default_rng(list(name.encode()))
    matrices = [random_matrix(rng, scheme, rows, 172) for rows in (37, 16)]
    biases = [None, rng.standard_normal(16).astype(np.float32)]
    for n in counts(FLOAT_ROWS):
        x = (rng.standard_normal((n, 172)) * 10.0 ** rng.integers(-3, 4, (n, 1))).astype(np.float32)
        before = [rng.standard_normal((n, len(m.weights))).astype(np.float32) for m in matrices]
        for add_to in (None, before):
            got = product(matrices, x, int8=False, biases=biases, add_to=add_to)
            for i, (m, result) in enumerate(zip(matrices, got)):
                bias = np.zeros(1) if (given := biases[i]) is None else given
                base = np.zeros(1) if add_to is None else before[i]
                expected = x.astype(np.float64) @ m.weights.T + bias + base
                terms = np.abs(x).astype(np.float64) @ np.abs(m.weights.T) + np.abs(bias) + np.abs(base)
                lost = np.abs(x).astype(np.float64) @ weight_terms(m).T
                # 172 columns are added; 4 are the product, the weight, the bias and what was there.
                assert (np.abs(result - expected) <= gamma(172 + 4) * terms + gamma(4) * lost).all()


def test_the_error_bound_is_not_a_loose_one() -> None:
    """A product with one scale off by one f16 step leaves the bound: what the tests above allow is less than that."""
    scheme, rng = parse_scheme("q4-g32"), np.random.default_rng(1)
    m, x = random_matrix(rng, scheme, 16, 64), rng.standard_normal((1, 64)).astype(np.float32)
    q = unpack(scheme, (16, 64), m.kept)
    off = (round_activations(x, 32)[:, :32] @ m.weights[:, :32].T) * 2**-11
    assert (np.abs(off) > gamma(8) * int8_terms(m, x)).mean() > 0.9 and q.zeros is None


# ---- how the work is cut


@pytest.mark.parametrize("name, int8", [("q4-g128", True), ("q4-g128", False), ("f16", False)])
def test_blocks_of_tokens(name: str, int8: bool) -> None:
    """So many columns that a batch does not fit into a core's cache: two blocks of tokens and a rest."""
    scheme, rng, columns = parse_scheme(name), np.random.default_rng(3), 8192
    m, width = random_matrix(rng, scheme, 16, columns), TOKENS if int8 else FLOAT_ROWS
    block = max(1, calls.CACHE_BYTES // (columns * (1 if int8 else 4)) // width) * width
    for n in (2 * block + 1, 2 * block + 3):
        x = rng.standard_normal((n, columns)).astype(np.float32)
        alone = np.concatenate([product([m], x[i : i + 1], int8=int8)[0] for i in range(n)])
        np.testing.assert_array_equal(product([m], x, int8=int8)[0], alone)


@pytest.mark.parametrize("name", ["q4-g32", "q4z-g32", "q4-g64"])
def test_every_number_of_tokens_gives_what_each_gives_alone(name: str) -> None:
    """Up to four tiles of tokens, the last one full or not, of more columns than a panel has; nothing is added twice,
    and no row behind the tile is written."""
    rng, columns, most = np.random.default_rng(9), 1024 + 96 * 2, 4 * TOKENS
    m = random_matrix(rng, parse_scheme(name), 32, columns)
    x, before = rng.standard_normal((most, columns)).astype(np.float32), rng.standard_normal((most, 32))
    before = before.astype(np.float32)
    alone = np.concatenate([product([m], x[i : i + 1], int8=True, add_to=[before[i : i + 1]])[0] for i in range(most)])
    for n in range(2, most + 1):
        [got] = product([m], x[:n], int8=True, add_to=[before[:n]])
        np.testing.assert_array_equal(got, alone[:n])


@pytest.mark.parametrize("threads", [1, 2])
def test_chunks_of_tiles_that_span_matrices(threads: int) -> None:
    rng, scheme = np.random.default_rng(4), parse_scheme("q4-g32")
    matrices = [whole_matrix(rng, scheme, rows, 64, "random") for rows in (272, 16, 400, 3)]
    assert sum(m.packed.rows for m in matrices) // 16 // 8 > 2  # tiles in a chunk on one thread
    for n in (1, TOKENS + 2):
        assert_exact(matrices, whole_activations(rng, n, 64, 32, "random"), int8=True, threads=threads)


@pytest.mark.parametrize("alone", [True, False])
def test_a_single_token_takes_every_tile_once(alone: bool) -> None:
    for tiles in range(1, 12):
        taken = []
        for place in range(tiles):
            apart = partner.py_func(place, tiles, alone)
            taken += [place, place + apart][: 1 + (apart > 0)] if apart >= 0 else []
        assert sorted(taken) == list(range(tiles))


@pytest.mark.parametrize("tokens", [1, TOKENS + 1])
def test_a_tile_without_a_partner_is_added_once(tokens: int) -> None:
    rng, scheme = np.random.default_rng(8), parse_scheme("q4-g32")
    for tiles in (1, 2, 5):
        m = whole_matrix(rng, scheme, tiles * 16, 64, "random")
        bias, before = (rng.integers(-9, 10, shape).astype(np.float32) for shape in (tiles * 16, (tokens, tiles * 16)))
        x = whole_activations(rng, tokens, 64, 32, "random")
        [got] = product([m], x, int8=True, biases=[bias], add_to=[before])
        np.testing.assert_array_equal(got, x @ m.weights.T + bias + before)


def test_descriptors_count_tiles() -> None:
    rng, scheme = np.random.default_rng(5), parse_scheme("q4-g32")
    matrices = [random_matrix(rng, scheme, rows, 32).packed for rows in (33, 16)]
    out = Floats(np.zeros((1, 33), np.float32)).rows
    table = calls.descriptors(matrices, [out, out], [0, 0])
    assert table.shape == (2, M_BYTES // 8)
    assert table[:, [M_START // 8, M_END // 8]].tolist() == [[0, 3], [3, 4]]


def test_one_token_and_many_give_the_same_bits() -> None:
    """Batches must not change what a sequence says: each row's sums are added in one order, whatever is beside it."""
    rng = np.random.default_rng(6)
    for name, int8 in (("q4-g32", True), ("q5z-g64", True), ("q4-g32", False), ("f16", False)):
        scheme = parse_scheme(name)
        m, x = random_matrix(rng, scheme, 24, 172), rng.standard_normal((2 * 12 + 3, 172)).astype(np.float32)
        whole = product([m], x, int8=int8)[0]
        for rows in (slice(0, 1), slice(5, 7), slice(1, 27)):
            np.testing.assert_array_equal(product([m], x[rows], int8=int8)[0], whole[rows])


def test_an_operation_of_no_tokens_writes_nothing() -> None:
    rng, scheme = np.random.default_rng(7), parse_scheme("f16")
    m, out, none = random_matrix(rng, scheme, 16, 32), Floats(np.ones((4, 16), np.float32)), count(0)
    source = Floats(np.ones((4, 32), np.float32))
    table = calls.descriptors([m.packed], [out.rows], [0])
    run(calls.linear_row(address(none), [m.packed], table, source.rows, False, 1))
    assert (out.values == 1).all()
