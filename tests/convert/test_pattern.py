"""Regular expressions in linear time: as Python's own where both can, at once where Python's would not end."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.convert.plan.pattern import Pattern
from ggq.errors import UsageError

NAMES = [
    "",
    "a",
    "ab",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.11.self_attn.q_proj.bias",
    "v_head.x",
    "a\nb",
]


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "a", "^a$", r"layers\.\d+\.", r"layers\.[0-3]\.", "up|down", "(up|q)_proj", r"\.(?:weight|bias)$"),
        *("^v_head", "v_head.*", r"[^.]+\.weight$", r"layers\.\d{2,3}\.", "a{0,2}b?", "(?P<x>a)", r"\w+\W\D", "^", "$"),
        *("a.b", "[a-z_]+", "x*?", "(a|)(b|)", r"\s", r"\S+", "((a*)*)*b", "[]a]", r"[\d_]x", r"\Aa\Z"),
    ],
)
def test_it_finds_what_python_finds(pattern: str) -> None:
    mine, theirs = Pattern(pattern), re.compile(pattern)
    assert [mine.search(name) for name in NAMES] == [theirs.search(name) is not None for name in NAMES]
    assert [mine.fullmatch(name) for name in NAMES] == [theirs.fullmatch(name) is not None for name in NAMES]


PIECES = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "a*", "b+", "(a|b)", "(ab)?", "a{1,3}", "|", "^", "$", r"\d"])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=8), st.text("ab1", max_size=8))
def test_any_pattern_finds_what_python_finds(pieces: list[str], text: str) -> None:
    pattern = "".join(pieces)
    assert Pattern(pattern).search(text) == (re.search(pattern, text) is not None)


def test_patterns_that_backtrack_for_ever_take_no_time() -> None:
    start = time.perf_counter()
    for pattern in ("(a+)+$", "(a|a)*c$", "(a|aa)+$", "(.*)*x", "a?" * 200 + "a" * 200):
        assert not Pattern(pattern).search("a" * 150 + "b" if "x" not in pattern else "a" * 1000)
    assert time.perf_counter() - start < 5  # Python's own takes longer than the age of the universe


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "here: not a regular expression: missing \\)"),
        (r"(a)\1", "here: groupref is not supported"),
        ("(?=a)", "here: assert is not supported"),
        (r"\ba", "here: at is not supported"),
        ("\ud800", "here: not a regular expression"),
        ("a" * 1001, "here: 1001 characters, up to 1000 allowed"),
        ("((a{60}){60}){60}", "here: the regular expression needs more than 4000 states"),
        ("a{99999}", "here: the regular expression needs more than 4000 states"),
    ],
)
def test_what_there_is_not_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pattern(pattern, "here")
