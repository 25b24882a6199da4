"""What reaches the terminal while text is generated, and Ctrl-C."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ggq
from ggq.cli import generation as cli
from ggq.cli.texts.conversation import Conversation
from ggq.cli.texts.typing import read_message
from ggq.generate.model import Model
from tests.kit.small_models import write_demo
from tests.kit.support import run_ggq
from tests.text.test_template import CHATML


class Terminal(io.StringIO):
    """A standard output that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_not_commanded_by_generated_text(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\x1b[31m\x07é\r\n\t\u202e👩\u200d🚀\x9b"
    for stream, expected in (
        (Terminal(), "a\\x1b[31m\\x07é\\r\n\t\\u202e👩\u200d🚀\\x9b"),
        (io.StringIO(newline=""), text),
    ):
        monkeypatch.setattr("sys.stdout", stream)
        cli.show(text)
        assert stream.getvalue() == expected


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_demo(tmp_path_factory.mktemp("chat") / "chat.ggq", chat_template_jinja=CHATML.encode())
    with ggq.load(path, interpreter="numpy") as model:
        yield model


def test_ctrl_c_interrupts_the_answer_and_not_the_conversation(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = Conversation(model, None, {"max_tokens": 8}, verbose=True)
    pieces = 0

    def interrupted(piece: str) -> None:
        nonlocal pieces
        pieces += 1
        if pieces == 3:
            raise KeyboardInterrupt
        print(piece, end="")

    monkeypatch.setattr(cli, "show", interrupted)
    conversation.turn("Hello")
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]
    whole = model.chat(conversation.messages[:1], max_tokens=8)
    assert whole.startswith(str(conversation.messages[1]["content"])) and conversation.messages[1]["content"] != whole
    conversation.turn("More")
    assert pieces == 3 + 8 and len(conversation.messages) == 4
    assert capsys.readouterr().err.count("prompt tokens at") == 2


def test_ctrl_c_at_the_prompt_shows_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[Any] = [KeyboardInterrupt, " Hello \n", EOFError]

    def typed(prompt: str) -> str:
        answer = answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer

    monkeypatch.setattr("builtins.input", typed)
    assert read_message("Ctrl-D ends") == "Hello" and read_message("Ctrl-D ends") is None
    assert "Ctrl-D ends" in capsys.readouterr().err


def test_a_prompt_that_is_not_utf8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ggq.cli.commands.run import read_prompt
    from ggq.errors import UsageError

    for data, expected in ((b"caf\xc3\xa9", "café"), (b"ab\xff", None)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        if expected is not None:
            assert read_prompt("-", None, None) == expected
        else:
            with pytest.raises(UsageError, match="standard input is not UTF-8 at byte 2"):
                read_prompt("-", None, None)


def test_the_sampling_options_of_the_command_reach_the_model(tmp_path: Path) -> None:
    path = write_demo(tmp_path / "demo.ggq")
    prompt = "def add(a, b):\n    return"
    flags = [
        "--temperature",
        "0.9",
        "--top-k",
        "30",
        "--top-p",
        "0.9",
        "--min-p",
        "0.01",
        "--repetition-penalty",
        "1.1",
    ]
    options: Any = {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1, "seed": 4}
    with ggq.load(path, interpreter="numpy") as model:
        expected = model.generate(prompt, max_tokens=12, **options)
        stop = expected[6:9]
        shorter = model.generate(prompt, max_tokens=12, stop=[stop], **options)
    arguments = ["run", str(path), "-p", prompt, "-n", "12", *flags, "--seed", "4", "--interpreter", "numpy", "--json"]
    found = json.loads(run_ggq(*arguments).stdout)
    assert (found["text"], found["finish_reason"]) == (expected, "length")
    found = json.loads(run_ggq(*arguments, "--stop", stop).stdout)
    assert (found["text"], found["finish_reason"]) == (shorter, "stop")
