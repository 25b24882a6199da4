"""One parser and one printer of scheme names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.errors import UnsupportedError, UsageError
from ggq.format.scheme import PLANES, ROW, Scheme
from ggq.format.scheme_names import parse_filled
from ggq.quant import SCHEMES, parse_scheme, scheme_name


def test_names_converted_to() -> None:
    assert len(SCHEMES) == len(set(SCHEMES)) == 3 + 6 * 2 * 4 + 5 + 4 + 9
    assert {"f32", "f16", "bf16", "q4-g32", "q4z-g64", "q8-row", "q2z-row", "q3-g128"} < set(SCHEMES)
    assert {"q6-g32-s6", "q2m-g32-s6", "q3m-g64-s6", "ternary-g64", "c4-g64"} < set(SCHEMES)


def test_a_name_says_how_numbers_are_stored() -> None:
    assert parse_scheme("q4z-g64") == Scheme("uniform", 4, group=64, scale="f16", zero="code")
    assert parse_scheme("q8-row") == Scheme("uniform", 8, group=ROW, scale="f16", zero="none")
    assert parse_scheme("q4m-g32-s6") == Scheme("uniform", 4, group=32, scale="f16", zero="minimum", subscale=6)
    assert parse_scheme("ternary-row") == Scheme("ternary", 2, group=ROW, scale="f16", zero="none")
    assert parse_scheme("binary-g128-s4") == Scheme("binary", 1, group=128, scale="f16", zero="none", subscale=4)
    both = frozenset({"order", "scale"})
    assert parse_scheme("c3-g64+scale+order") == Scheme("codebook", 3, "", 64, "f16", "none", 0, both)
    assert parse_scheme("bf16") == Scheme("float", 16, value="bf16")
    assert parse_scheme("f32") == Scheme("float", 32, value="f32")


KINDS = [("uniform", bits, zero) for bits in (2, 3, 4, 5, 6, 8) for zero in ("none", "code", "minimum")]
KINDS += [("codebook", bits, "none") for bits in (2, 3, 4)] + [("ternary", 2, "none"), ("binary", 1, "none")]


@given(
    st.sampled_from(KINDS),
    st.integers(0, 1 << 20),
    st.sampled_from([0, 4, 6, 8]),
    st.frozensets(st.sampled_from(["scale", "order"])),
)
def test_printing_and_parsing_are_inverse(
    kind: tuple[str, int, str], groups: int, subscale: int, transform: frozenset[str]
) -> None:
    scheme = Scheme(kind[0], kind[1], "", 16 * groups, "f16", kind[2], subscale, transform)
    assert parse_scheme(scheme_name(scheme)) == scheme


def test_a_name_may_say_the_method_too() -> None:
    assert parse_filled("nf4-g64-s6") == (parse_scheme("c4-g64-s6"), "nf4")
    assert parse_filled("q4-g32") == (parse_scheme("q4-g32"), None)
    for name in ("nf4", "nf4g64", "nf44-g64", "nf4-g20"):
        with pytest.raises(UsageError):
            parse_filled(name)
    with pytest.raises(UsageError, match="unknown scheme 'nf4-g64'"):
        parse_scheme("nf4-g64")


@pytest.mark.parametrize("name", SCHEMES)
def test_every_name_survives(name: str) -> None:
    assert scheme_name(parse_scheme(name)) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "unknown scheme ''"),
        ("int4", "unknown scheme 'int4'"),
        ("q4", "unknown scheme 'q4'"),
        ("Q4-G32", "unknown scheme 'Q4-G32'"),
        ("q4-g32 ", "unknown scheme 'q4-g32 '"),
        ("q4-g32\n", "unknown scheme"),
        ("q٤-g32", "unknown scheme"),
        ("q4-g-32", "unknown scheme"),
        ("q4-g99999999999", "unknown scheme"),
        ("q4-g32+order+scale", "unknown scheme"),
        ("q4-g32-s06", "unknown scheme"),
        ("q4zm-g32", "unknown scheme"),
        ("c4z-g32", "unknown scheme"),
        ("ternary", "unknown scheme"),
        ("q4-g32-s5", "has sub-scales of 5 bits; allowed are 4, 6, 8"),
        ("c5-g32", "has 5 bits; allowed are 2, 3, 4"),
        ("q1-g32", "has 1 bits; allowed are 2, 3, 4, 5, 6, 8"),
        ("q7-g32", "has 7 bits; allowed are 2, 3, 4, 5, 6, 8"),
        ("q0-g32", "has 0 bits"),
        ("q9-row", "has 9 bits"),
        ("q4-g0", "has groups of 0 columns; allowed are multiples of 16"),
        ("q4-g20", "has groups of 20 columns"),
        ("q4-g16777232", "has groups of 16777232 columns"),
    ],
)
def test_other_names_are_refused(name: str, text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_scheme(name)
    assert text in str(refused.value)
    assert ("`ggq schemes` lists all schemes" if "unknown" in text else "q4-g32 or q4z-g64") in str(refused.value)


def test_a_name_is_never_ambiguous() -> None:
    """S2.2: leading zeros would give a scheme two names."""
    for name in ("q04-g32", "q4-g032"):
        with pytest.raises(UsageError, match="unknown scheme"):
            parse_scheme(name)


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme("uniform", 1, group=32, scale="f16", zero="none"),
        Scheme("uniform", 4, group=32, scale="bf16", zero="none"),
        Scheme("uniform", 4, group=24, scale="f16", zero="none"),
        Scheme("uniform", 4, group=32, scale="f16", zero="middle"),
        Scheme("codebook", 5, group=32, scale="f16", zero="none"),
        Scheme("codebook", 4, value="f32", group=32, scale="f16", zero="none"),
        Scheme("codebook", 4, group=32, scale="f16", zero="minimum"),
        Scheme("ternary", 4, group=32, scale="f16", zero="none"),
        Scheme("binary", 1, group=32, scale="f16", zero="code"),
        Scheme("uniform", 4, group=32, scale="f16", zero="none", subscale=5),
        Scheme("uniform", 4, group=32, scale="f16", zero="none", transform=frozenset({"rotation"})),
        Scheme("float", 8, value="f8"),
        Scheme("float", 8, value="f32"),
    ],
)
def test_a_record_that_no_name_stands_for(scheme: Scheme) -> None:
    with pytest.raises(UnsupportedError, match="no name for the scheme"):
        scheme_name(scheme)


@pytest.mark.parametrize("bits", PLANES)
def test_planes_make_up_the_bits(bits: int) -> None:
    assert sum(PLANES[bits]) == bits


def test_groups_of_48_are_padded_to_whole_units() -> None:
    """S5.1: columns are padded to a multiple of 32 and of the group."""
    sizes = parse_scheme("q3-g48").geometry((16, 50))
    assert (sizes.padded_columns, sizes.groups) == (96, 2)
    sizes = parse_scheme("q3-g16").geometry((16, 33))
    assert (sizes.padded_columns, sizes.groups) == (64, 4)
