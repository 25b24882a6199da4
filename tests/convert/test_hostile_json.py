"""JSON of checkpoints that is broken, ambiguous or too deep is refused in a message that says where and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.convert.source.json_input import DEEPEST, load_json, load_object
from ggq.errors import FormatError
from tests.kit.checkpoints import refused


@pytest.mark.parametrize(
    "text, message",
    [
        (b"", "JSON expected, the file is empty"),
        (b" \n", "JSON expected, the file is empty"),
        (b"<!DOCTYPE html><p>404", "JSON expected, found an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "JSON expected, found a git-lfs pointer"),
        (b"GGUF\x03\0\0\0", "JSON expected, found a GGUF file"),
        (b"\x80\x04\x95", "JSON expected, found a Python pickle"),
        (b'{"a": "\xff"}', r"JSON expected, found (no UTF-8 text|JSON text)"),
        (b'{"a": 1', "not JSON: Expecting ',' delimiter at line 1, column 8"),
        (b'{"a": 1} x', "not JSON: Extra data at line 1, column 10"),
        (b'{"a": 1, "a": 2}', "the name 'a' comes twice in one object"),
        (b'{"b": [{"\\u0061": 1, "a": 2}]}', "the name 'a' comes twice in one object"),
        (b'{"a": NaN}', "NaN found, which is not JSON"),
        (b'{"a": -Infinity}', "-Infinity found, which is not JSON"),
        (b'{"a": 1e999}', "the number '1e999' is too large"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "a number of 100000 digits, up to 400 allowed"),
        (b'{"a": 0.' + b"9" * 100_000 + b"}", "the number '0.9+' is too large"),
        (b'{"a": "\\ud800"}', "a string holds a lone surrogate"),
        (b'{"\\uDC00": 1}', "a string holds a lone surrogate"),
        (b"[" * 100_000, f"lie deeper than {DEEPEST} within each other"),
        (b"[" * 100_000 + b"]" * 100_000, f"lie deeper than {DEEPEST} within each other"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, f"lie deeper than {DEEPEST} within each other"),
        (b'[[{"a":[' * 40 + b"]}]]" * 40, f"lie deeper than {DEEPEST} within each other"),
        (b"[1, 2]", "a list of 2 found, an object expected"),
        (b"null", "None found, an object expected"),
        (b"\x00", "not JSON"),
    ],
)
def test_json_that_is_broken_or_ambiguous_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=f"^config.json: .*{message}"):
        load_object(text, "config.json")


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2.5, True, None, "𝄞 😀", {"b": {}}]},
        {"brackets in strings": "[" * 5000 + '"\\' + "{" * 5000, "\\": '\\"[{'},
        [[[]] * 300, {"a": [[], {}] * 200}],
    ],
)
def test_json_that_is_neither_is_read_as_python_reads_it(value: Any) -> None:
    value = json.loads(json.dumps(value))
    assert load_json(json.dumps(value).encode(), "x") == value
    assert load_json(json.dumps(value, ensure_ascii=False).encode("utf-8-sig"), "x") == value


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.booleans(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_survives(value: Any) -> None:
    assert load_json(json.dumps(value).encode(), "x") == value


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0d8e19.-', max_size=60).map(str.encode))
def test_anything_else_is_refused_as_a_format_error(data: bytes) -> None:
    try:
        load_json(data, "x")
    except FormatError as error:
        assert len(str(error)) < 500


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_every_json_file_of_a_checkpoint_goes_through_that_parser(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    (folder / name).write_text(f'{{"x": 1, "x": 2, {text.lstrip()[1:]}')
    refused(folder, f"{name}: the name 'x' comes twice", FormatError)
    (folder / name).write_bytes(b"[" * 100_000)
    refused(folder, f"{name}: objects and lists lie deeper", FormatError)
