"""A conversation on the command line: messages of several lines, what may be typed behind a slash, warnings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import ggq
from ggq.cli.texts import typing
from ggq.cli.texts.conversation import Conversation, chosen_template
from ggq.cli.texts.thoughts import Answer
from ggq.errors import UsageError
from ggq.generate.model import Model
from ggq.generate.options import Options
from ggq.text.template import ChatTemplate
from tests.kit.small_models import write_demo
from tests.kit.support import ROOT
from tests.text.test_template import CHATML

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("chat") / "chat.ggq", chat_template_jinja=CHATML.encode())


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with ggq.load(path, interpreter="numpy") as model:
        yield model


def talk(
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    *lines: str,
    verbose: bool = False,
    session: Path | None = None,
    system: str | None = None,
) -> Conversation:
    """A conversation in which these lines are typed."""
    left = list(lines)

    def typed(prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    monkeypatch.setattr("builtins.input", typed)
    options: Options = {"max_tokens": 4, "temperature": 0.0}
    conversation = Conversation(model, system, options, verbose=verbose, session=session)
    conversation.talk()
    return conversation


def contents(conversation: Conversation, role: str) -> list[str]:
    return [str(message["content"]) for message in conversation.messages if message["role"] == role]


def test_a_session_goes_on_where_it_was_left(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "session.json"
    whole = talk(model, monkeypatch, "one", "two", "three")
    first = talk(model, monkeypatch, "one", "two", session=file)
    assert json.loads(file.read_text()) == first.messages == whole.messages[:4]
    again = talk(model, monkeypatch, "three", session=file)
    assert again.messages == whole.messages and json.loads(file.read_text()) == whole.messages
    assert list(tmp_path.iterdir()) == [file] and "4 messages read" in capsys.readouterr().err
    with pytest.raises(UsageError, match="begins with another message than --system"):
        talk(model, monkeypatch, "four", session=file, system="Be brief.")
    file.write_text("[1]")
    with pytest.raises(UsageError, match="no conversation that /save has written"):
        talk(model, monkeypatch, "four", session=file)
    assert file.read_text() == "[1]"
    talk(model, monkeypatch, "one", session=tmp_path / "nowhere" / "s.json")
    assert "note: " in capsys.readouterr().err


def test_messages_of_several_lines(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    done = talk(
        model, monkeypatch, "one", '"""two', "", "  three", '"""', '"""four"""', "pasted\nlines", "/usr/bin is a path"
    )
    assert contents(done, "user") == ["one", "two\n\n  three", "four", "pasted\nlines", "/usr/bin is a path"]


def test_what_stands_behind_a_slash(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "talk.json"
    done = talk(
        model,
        monkeypatch,
        *("/help", "/system Be brief.", "Hello", f"/save {file}", "/set temperature=0.5 top-k=3", "/set", "/regen"),
    )
    err = capsys.readouterr().err
    assert "/regen        answer the last question again" in err
    assert "temperature=0.5" in err and "top_k=3" in err and "seed=as the model says" in err
    assert contents(done, "system") == ["Be brief."] and contents(done, "user") == ["Hello"]
    saved = json.loads(file.read_text())
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    again = talk(model, monkeypatch, f"/load {file}", "More", "/clear", "/system", "Fresh", "/quit", "never read")
    assert contents(again, "user") == ["Fresh"] and contents(again, "system") == []


def test_regenerating_greedily_says_the_same(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first = contents(talk(model, monkeypatch, "Hello"), "assistant")
    assert contents(talk(model, monkeypatch, "Hello", "/regen"), "assistant") == first


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/hlep", "there is no /hlep\ndid you mean help?"),
        ("/regen", "there is no question to answer again"),
        ("/set heat=1", "there is no option 'heat'"),
        ("/set temperature=hot", "'hot' is no number for temperature"),
        ("/save", "the name of a file is missing\n/save FILE or /load FILE"),
        ("/load nowhere.json", "nowhere.json: cannot open: No such file or directory"),
    ],
)
def test_a_mistake_ends_no_conversation(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: Capture, line: str, told: str
) -> None:
    done = talk(model, monkeypatch, line, "Hello")
    assert told in capsys.readouterr().err and contents(done, "user") == ["Hello"]


def test_a_file_that_is_no_conversation_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "x.json").write_text('[{"role": 1}]')
    talk(model, monkeypatch, f"/load {tmp_path / 'x.json'}")
    assert "no conversation that /save has written" in capsys.readouterr().err


def test_speed_is_told_when_it_is_asked_for(model: Model, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    talk(model, monkeypatch, "Hello")
    assert "tok/s" not in capsys.readouterr().err
    talk(model, monkeypatch, "Hello", verbose=True)
    assert "tok/s" in capsys.readouterr().err


def test_a_context_that_fills_is_told(model: Model, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("ggq.cli.texts.conversation.FULL", 1e-3)
    talk(model, monkeypatch, "Hello")
    assert (
        f"of the {model.config.context_length} tokens that the model reads; /clear forgets it"
        in capsys.readouterr().err
    )


def test_a_template_by_name_or_file(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "plain.jinja"
    file.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert chosen_template(model, str(file)).render([{"role": "user", "content": "a"}]) == "[a]"
    with pytest.raises(UsageError, match="no template 'agents' in the model, and no such file"):
        chosen_template(model, "agents")
    monkey = {"chat_template": [{"name": "tools", "template": "T{{ messages[0].content }}"}]}
    named = write_demo(tmp_path / "named.ggq", tokenizer_config_json=json.dumps(monkey).encode())
    with ggq.load(named, interpreter="numpy") as other:
        assert chosen_template(other, "tools").render([{"role": "user", "content": "a"}]) == "Ta"
        with pytest.raises(UsageError, match="did you mean tools"):
            chosen_template(other, "tool")


def test_no_history_is_kept_for_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: str) -> Path:
        raise RuntimeError

    monkeypatch.setattr("platformdirs.user_state_path", homeless)
    assert typing.history_file() == Path(os.devnull)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_what_is_pasted_is_one_message_and_history_is_kept(path: Path, tmp_path: Path) -> None:
    readline = pytest.importorskip("readline")
    if "libedit" in (readline.__doc__ or ""):
        pytest.skip("libedit pastes line by line")
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": "200"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    file = tmp_path / "talk.json"
    command = [sys.executable, "-m", "ggq", "chat", str(path), "-n", "2", "--greedy", "--interpreter", "numpy"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""

    def until(text: bytes, times: int) -> None:
        nonlocal seen
        limit = time.monotonic() + 60
        while seen.count(text) < times:
            assert time.monotonic() < limit, seen
            seen += os.read(ours, 1 << 16)

    until(b"> ", 1)
    os.write(ours, b"\x1b[200~def f():\n    pass\n\x1b[201~\n")
    until(b"> ", 2)
    os.write(ours, f"/save {file}\n".encode())
    until(b"messages written", 1)
    os.write(ours, b"/quit\n")
    assert process.wait(60) == 0
    os.close(ours)
    messages = json.loads(file.read_text())
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "def f():\n    pass"
    (history,) = tmp_path.rglob("chat_history")
    assert "/quit" in history.read_text() and history.stat().st_mode & 0o77 == 0


class Pieces:
    """A stream of given pieces, each of one token.

    Args:
        prompt: Tokens.
        pieces: Texts and their tokens.
    """

    def __init__(self, prompt: Sequence[int], pieces: Sequence[tuple[str, int]]) -> None:
        self.answer, self.prompt, self.tokens, self._pieces = self, prompt, list[int](), pieces

    def __iter__(self) -> Iterator[str]:
        for text, token in self._pieces:
            self.tokens.append(token)
            yield text

    def close(self) -> None:
        """Nothing runs."""


def answered(model: Model, template: str, prompt: str, pieces: Sequence[tuple[str, int]]) -> tuple[str, str]:
    """What is shown of an answer, and what is kept of it."""
    shown = list[str]()
    stream: Any = Pieces(model.encode(prompt, begin=False), pieces)
    answer = Answer(model, ChatTemplate(template), stream, shown.append)
    answer.run()
    return "".join(shown), answer.text


def test_thoughts_are_told_apart_from_what_is_said(model: Model, capsys: Capture) -> None:
    words = [("I th", 9), ("ink</th", 9), ("ink>\n\nSo", 9), (".", 9)]
    assert answered(model, "<think></think>", "", [("<think>", 9), *words]) == ("So.", "So.")
    assert capsys.readouterr().err == "I think\n"
    assert answered(model, "<think></think>", "user: hi\n<think>\n", words) == ("So.", "So.")
    assert capsys.readouterr().err == "I think\n"
    assert answered(model, "{{ messages }}", "", words)[0] == "I think</think>\n\nSo."
    assert answered(model, "<think></think>", "", [("Sure", 9), ("!", 9)]) == ("Sure!", "Sure!")
    assert capsys.readouterr().err == ""


def test_channels_are_told_apart_by_tokens_without_a_text(model: Model, capsys: Capture) -> None:
    marks = {101: "<|channel|>", 102: "<|message|>", 103: "<|end|>", 104: "<|start|>"}
    model.__dict__["special_texts"] = marks
    try:
        thought = [("", 101), ("analysis", 9), ("", 102), ("Hm.", 9), ("", 103)]
        said = [("", 104), ("assistant", 9), ("", 101), ("final", 9), ("", 102), ("So.", 9)]
        found = answered(model, "<|start|><|channel|><|message|>", "", thought + said)
    finally:
        del model.__dict__["special_texts"]
    assert found == ("So.", "So.") and capsys.readouterr().err == "Hm.\n"
