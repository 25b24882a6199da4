"""Chat templates: what they may do, what stops them, and a conversation over the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ggq
from ggq.errors import ModelError, UnsupportedError, UsageError
from ggq.generate.model import Model
from ggq.text import template as chat_module
from ggq.text.template import ChatTemplate, find_template
from tests.kit.small_models import write_demo
from tests.kit.support import ROOT, run_ggq

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello"}]


def render(source: str, messages: Any = HELLO, **variables: str) -> str:
    return ChatTemplate(source, variables, "m.ggq").render(messages)


def test_chatml_by_hand() -> None:
    assert render(CHATML) == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    template = ChatTemplate(CHATML)
    assert template.render(HELLO, add_generation_prompt=False) == "<|im_start|>user\nHello<|im_end|>\n"


def test_blocks_are_trimmed_as_transformers_does() -> None:
    source = "{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n"
    assert render(source) == "Hello\n"


def test_what_templates_use_is_there() -> None:
    source = (
        "{{ bos_token }}{{ messages | tojson }}{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}"
        "{% endfor %}{% generation %}{{ 'é' | tojson }}{% endgeneration %}{{ strftime_now('%Y') | length }}"
        "{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
    )
    assert render(source, bos_token="<s>") == '<s>[{"role": "user", "content": "Hello"}]1"é"42'


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ messages[0].update(role='x') }}", "SecurityError"),
        ("{{ ''.format.__globals__.x }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "TypeError: no loader"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recurses too deeply"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{{ '%90s' % i }}{% endfor %}{% endfor %}", "longer than"),
        ("{{ 'a' * 10**11 }}", "too much memory"),
        ("{{ 'a' | center(10**11) }}", "too much memory"),
        ("{% set x = 'a' * (3 * 10**8) %}x", "too much memory"),
        ("{{ unknown.name }}", "UndefinedError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_hostile_and_broken_templates_are_refused(source: str, reason: str) -> None:
    with pytest.raises(ModelError, match=rf"^m\.ggq: chat template: the chat template failed: .*{reason}"):
        render(source)


def test_an_unsafe_format_shows_nothing() -> None:
    assert render("[{{ '{0.__class__}'.format(1) }}{{ ''.format.__globals__ }}]") == "[]"


def test_a_template_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "SECONDS", 0.7)
    with pytest.raises(ModelError, match=r"it takes more than 0\.7 seconds"):
        render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")


def test_the_processor_time_of_a_template_is_limited() -> None:
    with pytest.raises(ModelError, match="it was stopped for taking too much time or memory"):
        render("{% set x = 7 ** (10 ** 9) %}")


def test_a_template_may_refuse_a_conversation() -> None:
    with pytest.raises(UsageError, match="the chat template refuses: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize("messages", [[1], ["user"], [{}], [{"role": 1}], [None]])
def test_messages_must_have_a_role(messages: Any) -> None:
    with pytest.raises(UsageError, match="a message is a mapping such as"):
        render(CHATML, messages)


def test_messages_must_be_plain() -> None:
    with pytest.raises(UsageError, match="messages hold strings, numbers, lists and mappings only"):
        render(CHATML, [{"role": "user", "content": b"bytes"}])


class Stored:
    """An asset in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self) -> bytes:
        return self.data


def found(config: Any, jinja: str | None = None, **named: str) -> ChatTemplate | None:
    assets = {"tokenizer_config.json": Stored(json.dumps(config).encode())}
    assets |= {f"additional_chat_templates/{name}.jinja": Stored(text.encode()) for name, text in named.items()}
    if jinja is not None:
        assets["chat_template.jinja"] = Stored(jinja.encode())
    return find_template(assets)


def test_templates_are_found_wherever_they_are_kept() -> None:
    for config, jinja, expected in (
        ({"chat_template": "a"}, None, "a"),
        ({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}, None, "d"),
        ({"chat_template": "a"}, "b", "b"),
        ({}, "b", "b"),
    ):
        template = found(config, jinja)
        assert template is not None and template.source == expected
    listed = {"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}
    for config, jinja, named, whole, with_tools in (  # S-18: as transformers 5.24 has them of the same files
        ({}, "b", {"tool_use": "u", "rag": "r"}, "b", "u"),
        (listed, "b", {"rag": "r"}, "b", None),
        (listed, None, {"default": "e"}, "e", None),
        (listed, None, {}, "d", "t"),
    ):
        template = found(config, jinja, **named)
        assert template is not None and (template.source, template.with_tools) == (whole, with_tools)
    assert found(listed, None, tool_use="u") is None  # the files come first, and none is for all
    for source in (None, 7, [{"name": "tool_use"}, 3], []):
        assert found({"chat_template": source}) is None
    assert found({}) is None
    template = found({"chat_template": "a", "bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None})
    assert template is not None and template.variables == {"bos_token": "<s>", "eos_token": "</s>"}


def test_a_broken_tokenizer_config_is_refused() -> None:
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: an object is expected"):
        found([1])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("chat") / "chat.ggq", chat_template_jinja=CHATML.encode())


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with ggq.load(path, interpreter="numpy") as model:
        yield model


def test_chat_answers_the_rendered_prompt(model: Model) -> None:
    prompt = model.tokenizer.encode(render(CHATML)).ids
    assert 1 in prompt and 2 in prompt  # the markers are single tokens
    assert model.chat(HELLO, max_tokens=10) == model.generate(prompt, max_tokens=10)


def test_a_memory_saves_work_and_changes_nothing(model: Model) -> None:
    memory, messages = model.remember(), list(HELLO)
    for turn in range(3):
        stream = model.stream_chat(messages, memory, max_tokens=6)
        answer = "".join(stream)
        assert answer == model.chat(messages, max_tokens=6)
        whole = len(stream.answer.prompt)
        assert (stream.timing.prefill_tokens < whole) == (turn > 0)
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
    other, known = [{"role": "user", "content": "Something else"}], list(memory.tokens)
    stream = model.stream_chat(other, memory, max_tokens=6)
    assert "".join(stream) == model.chat(other, max_tokens=6)
    prompt = stream.answer.prompt
    shared = next(i for i, (a, b) in enumerate(zip(known, prompt)) if a != b)
    assert stream.timing.prefill_tokens == len(prompt) - shared < len(prompt)


def test_an_interrupted_answer_leaves_a_memory_that_is_true(model: Model) -> None:
    memory = model.remember()
    stream = model.stream_chat(HELLO, memory, max_tokens=20)
    next(stream), next(stream)
    stream.close()
    assert len(memory.tokens) == model.executor.length(memory.sequence)
    assert memory.tokens == (stream.answer.prompt + stream.answer.tokens)[: len(memory.tokens)]
    messages = [*HELLO, {"role": "assistant", "content": stream.answer.text}, {"role": "user", "content": "Go on"}]
    assert "".join(model.stream_chat(messages, memory, max_tokens=5)) == model.chat(messages, max_tokens=5)


def test_a_model_without_template_says_so(tmp_path: Path) -> None:
    plain = write_demo(tmp_path / "plain.ggq")
    with ggq.load(plain, interpreter="numpy") as model:
        with pytest.raises(UnsupportedError, match="the model has no chat template"):
            model.chat(HELLO)
    done = run_ggq("chat", plain, "--interpreter", "numpy")
    assert done.returncode == 2 and "ggq run FILE -p TEXT" in done.stderr


def converse(path: Path, text: str, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "ggq", "chat", str(path), "--interpreter", "numpy", "-n", "6", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_a_conversation_on_the_command_line(path: Path, model: Model) -> None:
    first = model.chat(HELLO, max_tokens=6)
    messages = [*HELLO, {"role": "assistant", "content": first}, {"role": "user", "content": "More"}]
    second = model.chat(messages, max_tokens=6)
    status, out, problems = converse(path, "Hello\n\nMore\n/help\n/clear\nHello\n/exit\nnever asked\n")
    assert (status, out) == (0, f"{first}\n{second}\n{first}\n"), problems
    assert "/quit         end, as does Ctrl-D" in problems and "Traceback" not in problems


def test_a_system_message_comes_first(path: Path, model: Model) -> None:
    system = {"role": "system", "content": "Be brief."}
    status, out, _ = converse(path, "Hello", "--system", "Be brief.")
    assert (status, out) == (0, model.chat([system, *HELLO], max_tokens=6) + "\n")


def test_a_conversation_that_is_too_long_is_told_and_goes_on(path: Path, model: Model) -> None:
    status, out, problems = converse(path, "x " * 2000 + "\nHello\n")
    assert (status, out) == (0, model.chat(HELLO, max_tokens=6) + "\n")
    assert "do not fit into the model's context of 512" in problems


def test_what_a_template_may_count_on_is_none_and_not_undefined() -> None:
    """As transformers: tools and documents are always there."""
    source = "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{% if tools is not none %}T{% endif %}"
    assert ChatTemplate(source).render([{"role": "user", "content": "a"}]) == "TrueTrueTrue"


def test_keys_of_a_message_that_are_none_are_not_there() -> None:
    message = {"role": "user", "content": "a", "tool_calls": None}
    assert ChatTemplate("{{ messages[0].tool_calls is defined }}").render([message]) == "False"


@pytest.mark.parametrize(
    ("settings", "special", "expected"),
    [
        ({"bos_token": "B", "sep_token": "S", "image_token": "I"}, {}, "B|||S||||I|"),
        ({"bos_token": {"content": "B"}, "mask_token": "M", "cls_token": "C"}, {}, "B||||C||M||"),
        ({"bos_token": "B"}, {"bos_token": "b", "pad_token": {"content": "p"}}, "b||p|||||"),
        (
            {"bos_token": "B", "added_tokens_decoder": {}},
            {"bos_token": "b", "eos_token": "e"},
            "B||||||||",
        ),
        ({"extra_special_tokens": {"image_token": "I", "turn_token": "T"}}, {}, "|||||||I|T"),
        ({"tokenizer_class": "LlamaTokenizer"}, {}, "<s>|</s>||||<unk>|||"),
        ({"tokenizer_class": "LlamaTokenizerFast", "bos_token": None}, {}, "|</s>||||<unk>|||"),
    ],
)
def test_every_named_special_token_is_there(settings: dict, special: dict, expected: str) -> None:
    """S-16, with transformers' values."""
    from ggq.text.special_tokens import named_tokens

    found = named_tokens(settings, special)
    names = ("bos", "eos", "pad", "sep", "cls", "unk", "mask", "image", "turn")
    given = {f"{name}_token": text for name, text in zip(names, expected.split("|"), strict=False) if text}
    assert found == given
