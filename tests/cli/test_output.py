"""What commands print: escapes, sizes, tables, JSON."""

from __future__ import annotations

import json
import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.cli.layout import table
from ggq.cli.output import one_line, print_json, printable, quantity, size


@given(st.text(max_size=50))
def test_printable_text_does_nothing_but_print(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(character).startswith(("C", "Zl", "Zp")) for character in shown)
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),
        ("Größe 日本 🙂 é", "Größe 日本 🙂 é"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_841_368, "1.84 MB"), (999_600, "1 MB"), (763_000_000, "763 MB")],
)
def test_size(count: int, shown: str) -> None:
    assert size(count) == shown


def test_quantity() -> None:
    assert [quantity(n) for n in (7, 1_000, 918_656, 1_235_814_400)] == [
        "7",
        "1 thousand",
        "919 thousand",
        "1.24 billion",
    ]


def test_values_on_one_line() -> None:
    assert one_line(True) == "true"
    assert one_line(["a", "b\n"]) == '["a", "b\\n"]'
    assert one_line(list(range(9))) == "[0, 1, 2, 3, ...] (9 items)"
    assert one_line(list(range(9)), whole=True) == "[0, 1, 2, 3, 4, 5, 6, 7, 8]"
    assert one_line("x" * 73) == "x" * 72 + "..."
    assert one_line("x" * 73, whole=True) == "x" * 73
    assert one_line(b"\x00\xff") == "00ff"
    assert one_line(b"\x01" * 40) == "01" * 32 + "... (40 bytes)"


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    table(("name", "n"), [("a", "10"), ("long name", "7")], right=(1,))
    assert capsys.readouterr().out.splitlines() == ["name        n", "---------  --", "a          10", "long name   7"]


def test_json_is_valid_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {"nan": math.nan, "bytes": b"\x01", "list": (1, math.inf), "text": "\ud800\x1b", "none": None, "yes": True}
    )
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"nan": None, "bytes": "01", "list": [1, None], "text": "\ud800\x1b", "none": None, "yes": True}
