"""Values, descriptors and names: what is stored comes back, and what has no place is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.errors import FormatError, UnsupportedError
from ggq.format import Scheme, Writer, open_reader, verify
from ggq.format.names import check_key, check_name
from ggq.format.native.cursor import Cursor
from ggq.format.native.descriptor import decode_descriptor, encode_descriptor, require_scheme
from ggq.format.native.values import LazyArray, decode_value, encode_value, skip_value
from ggq.quant import SCHEMES, parse_scheme
from tools.draft import descriptor, two_level

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
FLOATS = st.floats(allow_nan=False)
SCALARS = st.one_of(st.booleans(), INTEGERS, FLOATS, TEXT, st.binary(max_size=12))
ARRAYS = st.one_of(
    st.lists(st.booleans()),
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.integers(0, 2**64 - 1)),
    st.lists(FLOATS),
    st.lists(TEXT),
    st.lists(st.binary(max_size=5)),
)


def there_and_back(value: Any) -> Any:
    data = b"before" + encode_value(value, "x")
    cursor = Cursor(data, 6)
    skip_value(cursor, "x")
    assert cursor.remaining == 0
    found = decode_value(data, 6)
    return found.tolist() if isinstance(found, LazyArray) else found


@given(st.one_of(SCALARS, ARRAYS))
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    found = there_and_back(value)
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, list):
        assert list(map(type, found)) == list(map(type, value))
        assert list(map(repr, found)) == list(map(repr, value))  # tells 0.0 from -0.0


@given(st.one_of(SCALARS, ARRAYS), st.data())
def test_a_cut_value_is_refused(value: Any, data: st.DataObject) -> None:
    raw = encode_value(value, "x")
    size = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(FormatError, match="remain|ends at|not UTF-8"):
        skip_value(Cursor(raw[:size]), "x")


def test_numpy_values_are_stored_as_python_values() -> None:
    for value, plain in ((np.float32(0.5), 0.5), (np.int64(-3), -3), (np.bool_(True), True), (np.str_("a"), "a")):
        assert there_and_back(value) == plain
    assert there_and_back(np.array([1.5, 2.5], np.float32)) == [1.5, 2.5]
    assert there_and_back((1, 2)) == [1, 2]
    assert there_and_back(bytearray(b"ab")) == b"ab"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**64, "the integer 18446744073709551616 does not fit in 64 bits (C-31)"),
        (-(2**63) - 1, "does not fit in 64 bits"),
        (None, "a value of type NoneType cannot be stored (C-31)"),
        ({"a": 1}, "a value of type dict cannot be stored"),
        ([[1]], "a value of type list cannot be stored"),
        ([1, "a"], "an array has elements of one type, found i64, string (C-31)"),
        ([1, 0.5], "found f64, i64"),
        ([-1, 2**63], "found i64, u64"),
        ([True, 1], "found bool, i64"),
        (math.nan, "a NaN cannot be stored (C-34)"),
        ([0.5, math.nan], "a NaN cannot be stored"),
        ("\ud800", "lone surrogate, which is not Unicode (C-33)"),
        (["a", "\udfff"], "lone surrogate"),
    ],
)
def test_what_has_no_place_is_refused(value: Any, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        encode_value(value, "metadata x")
    assert message in str(caught.value)
    assert str(caught.value).startswith("metadata x: ")


@pytest.mark.parametrize("value", ["abcdef", b"abcdef", ["abc", "def"], [b"", b"abcdef"]])
def test_strings_that_no_index_can_hold(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggq.format.native.values.MAX_INDEX_BYTES", 6)
    assert there_and_back(value) == value
    monkeypatch.setattr("ggq.format.native.values.MAX_INDEX_BYTES", 5)
    with pytest.raises(FormatError, match=r"metadata x: 6 bytes of strings, an index has at most 5 \(C-21\)"):
        encode_value(value, "metadata x")


def test_a_lazy_array_is_a_sequence() -> None:
    raw = encode_value(["a", "", "\u00e9\u20ac", "d"], "x")
    words = decode_value(raw, 0)
    assert isinstance(words, LazyArray)
    assert len(words) == 4
    assert (words[0], words[-1], words[2]) == ("a", "d", "\u00e9\u20ac")
    assert words[1:3] == ["", "\u00e9\u20ac"]
    assert words[::-2] == ["d", ""]
    assert list(words) == words.tolist() == ["a", "", "\u00e9\u20ac", "d"]
    assert words == ("a", "", "\u00e9\u20ac", "d")
    assert words != ["a", "", "\u00e9\u20ac", "x"]
    assert words != ["a"]
    assert "d" in words
    assert repr(words) == "['a', '', '\u00e9\u20ac', ...] (4)"
    for index in (4, -5):
        with pytest.raises(IndexError):
            words[index]


OTHERS = ("q4-g32-s4", "q3z-g64-s8", "q4m-row", "q6m-g16-s6", "c2-g32", "c4-row-s6+scale", "ternary-g64+order")
OTHERS += ("binary-g32-s4+scale+order",)


@pytest.mark.parametrize("name", [*SCHEMES, *OTHERS])
def test_every_scheme_comes_back_from_its_descriptor(name: str) -> None:
    scheme = parse_scheme(name)
    assert decode_descriptor(encode_descriptor(scheme), name).scheme == scheme


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme("trellis", 4, "", 32, "f16", "none"),
        Scheme("uniform", 7, "", 32, "f16", "none"),
        Scheme("uniform", 4, "", 32, "f64", "none"),
        Scheme("uniform", 4, "", 32, "f16", "mean"),
        Scheme("uniform", 4, "", -32, "f16", "none"),
        Scheme("uniform", 4, "", 1 << 32, "f16", "none"),
        Scheme("uniform", 4, "", 32, "f32", "none"),
        Scheme("uniform", 1, "", 32, "f16", "none"),
        Scheme("float", 32, ""),
        Scheme("ternary", 3, "", 32, "f16", "none"),
        Scheme("binary", 1, "", 32, "f16", "minimum"),
        Scheme("codebook", 5, "", 32, "f16", "none"),
        Scheme("codebook", 4, "f16", 32, "f16", "none"),
        Scheme("uniform", 4, "", 32, "f16", "none", 5),
        Scheme("uniform", 4, "", 32, "f16", "none", 0, frozenset({"rotation"})),
    ],
)
def test_a_scheme_that_cannot_be_read_is_not_written(scheme: Scheme) -> None:
    with pytest.raises(FormatError, match=r"\(C-42\)"):
        encode_descriptor(scheme)


def test_fields_of_a_descriptor_are_listed_whether_known_or_not() -> None:
    larger = decode_descriptor(two_level(4, [4], 32, 6, supergroup=16), "scheme 0")
    assert larger.scheme is None
    assert (larger.name, larger.roles) == ("uniform", ("codes", "scales", "subscales"))
    assert (larger.fields["subscale_bits"], larger.fields["supergroup"]) == (6, 16)
    assert larger.fields["planes"] == (4,)
    later = decode_descriptor(descriptor(9, [b"trellis"], b"\1\2"), "scheme 0")
    assert (later.name, later.fields, later.scheme) == ("kind 9", {}, None)
    with pytest.raises(UnsupportedError, match="tensor a: stored with a scheme of kind 'kind 9' that this version"):
        require_scheme(later, "a", "x.ggq")


@pytest.mark.parametrize("key", ["", "a b", "a\n", "\u00e9", "k" * 256, "a/b", 7])
def test_keys_that_cannot_be_stored(key: Any) -> None:
    with pytest.raises(FormatError, match=r"is not 1 to 255 of A-Z a-z 0-9 _ \. - \(C-30\)"):
        check_key(key)


@given(st.text(max_size=20))
def test_names_are_safe_file_names_or_refused(name: str) -> None:
    try:
        check_name(name, "asset")
    except FormatError as error:
        assert "(C-50)" in str(error)
        assert str(error).isprintable()
        return
    path = (Path("/folder") / name).resolve()
    assert path.is_relative_to("/folder") and path != Path("/folder")
    assert name.isprintable() and name.isascii() and "\\" not in name


@given(st.dictionaries(st.text("abz.AZ09_-", min_size=1, max_size=20), st.one_of(SCALARS, ARRAYS), max_size=8))
def test_random_metadata_comes_back(tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "random.ggq"
    with Writer(path, force=True) as writer:
        for key, value in metadata.items():
            writer.add_metadata(key, value)
        writer.finish()
    with open_reader(path) as reader:
        found = {
            key: value.tolist() if isinstance(value, LazyArray) else value for key, value in reader.metadata.items()
        }
        assert found == metadata
        assert list(found) == list(metadata)
        assert repr(found) == repr(metadata)
        assert verify(reader) == []
