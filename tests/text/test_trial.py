"""Tokenizers of strangers are tried under limits, and their failures told as ours; templates write only so much."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ggq.errors import ModelError
from ggq.text import trial
from ggq.text.template import CHARACTERS, ChatTemplate
from ggq.text.tokenizer import parse
from ggq.text.trial import library_errors, try_tokenizer
from tests.kit.support import DEMO

BASE = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))


def multiply(character: str, times: int) -> dict[str, Any]:
    rule = {"type": "Replace", "pattern": {"String": character}, "content": character * 10}
    return {"type": "Sequence", "normalizers": [rule] * times}


def grow(times: int) -> dict[str, Any]:
    rule = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 10}
    return {"type": "Sequence", "decoders": [rule] * times}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


HOSTILE: dict[str, dict[str, Any]] = {
    "normalizer that multiplies": {"normalizer": multiply("a", 3)},
    "normalizer that fills memory": {"normalizer": multiply("q", 12)},
    "decoder that multiplies": {"decoder": grow(5)},
    "pattern that backtracks": {"pre_tokenizer": split("(a+)+$")},
    "pattern of another letter that backtracks": {"pre_tokenizer": split("(\u017c+)+$")},
    "prefix longer than its tokens": {"model": {**BASE["model"], "continuing_subword_prefix": "x" * 5000}},
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "strip past the end": {"decoder": {"type": "Strip", "content": "e", "start": 10**9, "stop": 10**9}},
    "template of an unknown token": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "q", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and a process that has tried nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "_tried", set())
    return tmp_path / "cache"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_is_refused_before_it_is_used_here(name: str, home: Path) -> None:
    data = json.dumps({**BASE, **HOSTILE[name]}).encode()
    with pytest.raises(ModelError, match="not a tokenizer that can be used: (?s:.*)use the tokenizer of another copy"):
        parse(data, "model.ggq")
    assert not list(home.rglob("2-*"))


def test_a_tokenizer_is_tried_once_for_each_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.dumps(BASE).encode()
    parse(data, None)
    (marker,) = home.rglob("2-*")
    assert marker.stat().st_mode & 0o777 == 0o600 and marker.parent.stat().st_mode & 0o777 == 0o700

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("tried again")

    monkeypatch.setattr(trial, "_tried", set())
    monkeypatch.setattr(trial.subprocess, "run", never)
    try_tokenizer(data, None)
    marker.unlink()
    os.mkfifo(marker)
    monkeypatch.setattr(trial, "_tried", set())
    with pytest.raises(AssertionError, match="tried again"):  # a FIFO is no marker
        try_tokenizer(data, None)


def test_a_user_without_a_folder_tries_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_marker", lambda digest: None)
    try_tokenizer(json.dumps(BASE).encode(), None)


def test_one_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(command: Any, timeout: float, **_: Any) -> Any:
        raise trial.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(trial.subprocess, "run", slow)
    with pytest.raises(ModelError, match="it takes more than 2 seconds for ordinary texts"):
        try_tokenizer(b"{}", "model.ggq")


def test_where_no_process_can_be_started_a_tokenizer_is_used_untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of processes, or a user who may not run Python by its path; the next one is tried again."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "python")

    data = json.dumps({**BASE, "version": "1.0", "truncation": None, "note": 1}).encode()
    monkeypatch.setattr(trial, "_marker", lambda digest: None)
    monkeypatch.setattr(trial.subprocess, "run", refuse)
    try_tokenizer(data, "m.ggq")
    monkeypatch.undo()
    monkeypatch.setattr(trial, "_marker", lambda digest: None)
    started: list[object] = []
    monkeypatch.setattr(trial.subprocess, "run", lambda command, **_: started.append(command) or refuse())
    try_tokenizer(data, "m.ggq")
    assert len(started) == 1


def test_failures_of_the_library_are_told_as_ours() -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    empty = dict.fromkeys(["truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"])
    tokenizer = parse(json.dumps({"version": "1.0", "added_tokens": [], **empty, "model": model}).encode(), None)
    with (
        pytest.raises(ModelError, match=r"model.ggq: tokenizer.json: the tokenizer fails on this text: .*\[UNK\]"),
        library_errors("model.ggq"),
    ):
        tokenizer.encode("b")
    with pytest.raises(KeyError), library_errors(None):
        raise KeyError("not the library's")


FLOOD = "{{ 'ab'|replace('a', 'b' * 3000000) }}"


@pytest.mark.parametrize("context", [None, 512, 1 << 27])
def test_a_template_may_write_a_multiple_of_what_it_was_given(context: int | None) -> None:
    template = ChatTemplate(FLOOD, path="model.ggq", context=context)
    with pytest.raises(ModelError, match="chat template failed: its output is longer than [0-9]{5} characters"):
        template.render([{"role": "user", "content": "hi"}])


def test_a_long_conversation_has_room_up_to_its_context() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", context=1 << 20)
    text = "word " * 100_000
    assert template.render([{"role": "user", "content": text}]) == text
    assert template.limit(1 << 30) == CHARACTERS
    assert ChatTemplate("", context=1000).limit(1 << 30) == (1 << 16) + 32_000
