"""What would fail on every conversation, or every text, is found by `convert`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ggq.convert.convert import convert, plan
from ggq.errors import ModelError, UnsupportedError
from ggq.text import template as chat_module
from ggq.text import template_process, trial
from tests.kit.checkpoints import edit_json, refused
from tests.kit.support import run_ggq

USELESS = ", whatever the conversation: `ggq chat` is of no use, `ggq run` is"

FAILING = {
    "syntax": ("{% if %}", "TemplateSyntaxError"),
    "a name that is nowhere": ("{{ builtin_tools.search }}", "UndefinedError"),
    "a filter that is nowhere": ("{{ messages | transmogrify }}", "TemplateAssertionError: No filter named"),
    "the sandbox": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "an object that changes": ("{{ messages.append(1) }}", "SecurityError"),
    "a flood": ("{{ 'ab'|replace('a', 'b' * 3000000) }}", "its output is longer than"),
    "memory": ("{{ 'a' * 10**11 }}", "it takes too much memory"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "it recurses too deeply"),
    "another file": ("{% include '/etc/passwd' %}", "no loader"),
    "refusals": ("{{ raise_exception('never') }}", "the chat template refuses: never"),
}


def notes(folder: Path) -> list[str]:
    return [note for note in plan(folder, scheme="q4-g32").notes if USELESS in note]


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize("name", FAILING)
def test_a_template_that_fails_on_every_conversation_is_told(folder: Path, name: str, place: str) -> None:
    source, problem = FAILING[name]
    if place == "tokenizer_config.json":
        edit_json(folder / place, chat_template=source)
    else:
        (folder / place).write_text(source)
    (note,) = notes(folder)
    assert problem in note


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{% if messages[0].role != 'system' %}{{ raise_exception('a system message first') }}{% endif %}x",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}x",
        "{{ messages[1].content }}",
        "",
    ],
)
def test_one_that_writes_some_conversation_is_not(folder: Path, source: str) -> None:
    (folder / "chat_template.jinja").write_text(source)
    assert notes(folder) == []


def test_the_command_says_it_and_the_file_runs(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages | transmogrify }}\x1b[31m")
    out = folder.parent / "out.ggq"
    done = run_ggq("convert", folder, out, "--scheme", "q4-g32")
    assert done.returncode == 0 and "`ggq chat` is of no use" in done.stdout and "\x1b" not in done.stdout + done.stderr
    assert run_ggq("run", out, "-p", "a", "-n", "2", "--interpreter", "numpy").returncode == 0
    done = run_ggq("chat", out, "--interpreter", "numpy")
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr


def test_where_no_process_can_be_started_it_is_told_as_such(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert notes(folder) == []
    template_process.stop_all()
    monkeypatch.setattr(template_process.subprocess, "Popen", refuse)
    problem = "the chat template needs a process, and none can be started: Resource temporarily unavailable"
    with pytest.raises(UnsupportedError, match=problem):
        chat_module.ChatTemplate("x").render([{"role": "user", "content": "a"}])
    assert convert(folder, folder.parent / "out.ggq", scheme="q4-g32").notes == ()


def test_a_tokenizer_is_tried_before_it_is_parsed_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the library panic, or never end, does so in a process of its own only."""
    import tokenizers

    class Never:
        """Stands in for the library's."""

        @staticmethod
        def from_buffer(data: bytes) -> None:
            pytest.fail("parsed before it was tried")

    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(folder.parent / "cache"))
    monkeypatch.setattr(trial, "_tried", set())
    monkeypatch.setattr(tokenizers, "Tokenizer", Never)
    value = json.loads((folder / "tokenizer.json").read_text())
    rule = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    value["normalizer"] = {"type": "Sequence", "normalizers": [rule] * 12}
    (folder / "tokenizer.json").write_text(json.dumps(value))
    refused(folder, "tokenizer.json: not a tokenizer that can be used", ModelError)
