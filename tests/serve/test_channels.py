"""Answers in channels (gpt-oss) and calls in Gemma's notation: read in any pieces, and grammars that keep to tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from tokenizers import AddedToken, Tokenizer

from ggq.serve.application import application
from ggq.serve.settings import Settings
from ggq.serve.turn.braced import QUOTE, braced
from ggq.serve.turn.channels import (
    CONSTRAINED,
    END,
    FINAL,
    MARKS,
    NEXT,
    THOUGHTS,
    ChannelReader,
    channel_grammar,
    channel_wrap,
    in_channels,
)
from ggq.serve.turn.reasoning import tags_of
from ggq.serve.turn.tools import FORMS, grammar
from ggq.serve.turn.turn import Call, Tool
from tests.kit.small_models import write_demo
from tests.kit.support import DEMO
from tests.serve.conftest import HOSTS
from tests.serve.test_turn import TOOLS, accepts, read

THOUGHT = f"{THOUGHTS.begin}I think.{END}{NEXT}"
ANSWER = f"{FINAL}So."
CALL = f'<|channel|>commentary to=functions.weather {CONSTRAINED}json<|message|>{{"place": "Rome", "days": 3}}'
WRITTEN = Call("weather", '{"place": "Rome", "days": 3}')


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_channels_are_told_apart_in_any_pieces(size: int) -> None:
    def found(text: str, final: bool = False) -> list[tuple[str, Any]]:
        return read(ChannelReader(final), text, size)  # type: ignore[arg-type]

    assert found(THOUGHT + ANSWER) == [("reasoning", "I think."), ("text", "So.")]
    assert found(f"{ANSWER}<|return|>") == [("text", "So.")]
    assert found("Go on.", final=True) == [("text", "Go on.")]
    for end in ("<|call|>", ""):
        assert found(THOUGHT + CALL + end) == [("reasoning", "I think."), ("call", WRITTEN)]
    other = ' to=functions.weather<|channel|>commentary json<|message|>{"place": "Rome", "days": 3}<|call|>'
    assert found(other) == [("call", WRITTEN)]
    preamble = f"<|channel|>commentary<|message|>I look.{END}{NEXT}"
    assert found(preamble + CALL) == [("text", "I look."), ("call", WRITTEN)]
    assert found(CALL[:-5]) == [("text", '{"place": "Rome", "days')]
    assert found("No header. " * 80) == [("text", "No header. " * 80)]
    assert found(f"{THOUGHTS.begin}a < b <|en") == [("reasoning", "a < b <|en")]


def test_a_template_says_whether_it_writes_in_channels() -> None:
    assert in_channels("<|start|>assistant<|channel|>final<|message|>") and not in_channels("<|end|>")
    assert tags_of("<|channel>thought\n<channel|>") == ("<|channel>thought", "<channel|>")


def library(added: bool) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    if added:
        tokenizer.add_special_tokens([AddedToken(each) for each in (*MARKS, "<|tool_call>", "<tool_call|>", QUOTE)])
    return tokenizer


def token_of(tokenizer: Tokenizer, added: bool) -> Callable[[str], int | None]:
    return lambda text: tokenizer.token_to_id(text) if added else None


@pytest.mark.parametrize("added", [False, True])
def test_a_grammar_of_channels_keeps_to_tools(added: bool) -> None:
    tokenizer = library(added)
    token = token_of(tokenizer, added)
    must = accepts(channel_grammar(TOOLS, must=True, token=token), tokenizer)
    may = accepts(channel_grammar(TOOLS, must=False, token=token), tokenizer)
    for accepted in (must, may):
        assert accepted(CALL) and accepted(THOUGHT + CALL)
        for bad in (CALL.replace("weather", "wether"), CALL.replace("3", '"three"'), CALL[:-3], "Hello", ""):
            assert not accepted(bad)
    assert may(ANSWER) and may(THOUGHT + ANSWER) and not must(ANSWER)
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    fitting = accepts(channel_grammar(TOOLS, must=False, token=token, answer=schema), tokenizer)
    assert fitting(f'{THOUGHT}{FINAL}{{"a": 1}}') and fitting(CALL)
    assert not fitting(ANSWER) and not fitting(f"<|channel|>commentary<|message|>I look.{END}{NEXT}{CALL}")


class Letters:
    """Lets one token follow for ever."""

    over = False

    def __init__(self, token: int) -> None:
        self.token, self.taken = token, list[int]()

    def masked(self, logits: np.ndarray) -> np.ndarray:
        only = np.full_like(logits, -np.inf)
        only[self.token] = 0
        return only

    def accept(self, token: int) -> None:
        self.taken.append(token)


def written(constraint: Any, tokenizer: Tokenizer, wishes: str) -> str:
    """What a model writes that wishes for these tokens."""
    found = []
    for wish in tokenizer.encode(wishes, add_special_tokens=False).ids:
        logits = np.zeros(tokenizer.get_vocab_size(), np.float32)
        logits[wish] = 5
        found.append(int(np.argmax(constraint.masked(logits))))
        constraint.accept(found[-1])
    return str(tokenizer.decode(found, skip_special_tokens=False))


def test_an_answer_in_the_final_channel_must_match_and_thoughts_need_not() -> None:
    tokenizer = library(True)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    letter = encode("x")[0]
    inner = Letters(letter)
    wrap = channel_wrap(encode, str, None, final_only=True)
    assert wrap(None) is None
    text = written(wrap(inner), tokenizer, f"{THOUGHT}{FINAL}no, no")
    assert text.startswith(THOUGHT + FINAL) and set(text.removeprefix(THOUGHT + FINAL)) == {"x"} and inner.taken
    text = written(wrap(Letters(letter)), tokenizer, "hello there, how is it going today in this town of ours?")
    assert text.startswith(FINAL) and text.endswith("x")


def test_thoughts_in_a_channel_end_when_their_budget_is_used() -> None:
    tokenizer = library(True)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=False))

    constraint = channel_wrap(encode, decode, 2, final_only=True)(None)
    long = f"{THOUGHTS.begin}one two three four five six seven eight nine ten and so on and on and on"
    text = written(constraint, tokenizer, long)
    thought = text.removeprefix(THOUGHTS.begin).partition(END)[0]
    assert len(encode(thought)) == 2 and f"{END}{NEXT}" in text


# ---- Gemma's notation

SCHEMA = {
    "type": "object",
    "properties": {
        "place": {"type": "string"},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        "more": {"type": "object", "properties": {"wind": {"type": "boolean"}, "at": {"$ref": "#/$defs/hour"}}},
        "any": {},
    },
    "$defs": {"hour": {"type": ["integer", "null"]}},
    "required": ["place"],
}
GOOD = (
    f"place:{QUOTE}a {{b}}, c{QUOTE}",
    f"place:{QUOTE}Rome{QUOTE},unit:{QUOTE}C{QUOTE},days:[1,2]",
    f"place:{QUOTE}Rome{QUOTE},more:{{wind:true,at:null}},any:{{x:[1,{QUOTE}y{QUOTE}]}}",
)
BAD = (
    "place:Rome",
    f"unit:{QUOTE}C{QUOTE}",
    f"place:{QUOTE}Rome{QUOTE},unit:{QUOTE}K{QUOTE}",
    f"place:{QUOTE}Rome{QUOTE},days:[]",
    f"place:{QUOTE}Rome{QUOTE},more:{{wind:1}}",
    f"place:{QUOTE}Rome{QUOTE},more:{{at:true}}",
)


@pytest.mark.parametrize("added", [False, True])
def test_a_grammar_of_bare_keys_keeps_to_schemas(added: bool) -> None:
    tokenizer = library(added)
    form = next(form for form in FORMS if form.name == "braced")
    text = grammar(
        form, [Tool("w", "", SCHEMA)], must=True, parallel=False, token=token_of(tokenizer, added), tags=None
    )
    accepted = accepts(text, tokenizer)
    for inside in GOOD:
        assert accepted(f"<|tool_call>call:w{{{inside}}}<tool_call|>"), inside
    for inside in BAD:
        assert not accepted(f"<|tool_call>call:w{{{inside}}}<tool_call|>"), inside
    nothing = accepts(
        grammar(form, [Tool("n", "", {})], must=True, parallel=False, token=token_of(tokenizer, added)), tokenizer
    )
    assert nothing("<|tool_call>call:n{}<tool_call|>") and not nothing("<|tool_call>call:n{a:1}<tool_call|>")


def test_values_with_bare_keys_are_read() -> None:
    def arguments(text: str) -> Any:
        (call,) = braced(text)
        return json.loads(call.arguments)

    assert arguments("call:f{}") == {}
    assert arguments(f"call:f{{a:{QUOTE}x, y}}{QUOTE},b:[1,-2.5,true,null],c:{{d:{QUOTE}{QUOTE}}}}}") == {
        "a": "x, y}",
        "b": [1, -2.5, True, None],
        "c": {"d": ""},
    }
    assert arguments('call:f{ a : word , "b": "t" }') == {"a": "word", "b": "t"}
    for bad in (
        "call:f{a:}",
        "call:f{a:1",
        "f{}",
        "call:f{a 1}",
        "call:f{a:[1}",
        "call:f" + "{a:" * 50 + "1" + "}" * 50,
    ):
        assert braced(bad) == []


# ---- the whole way

TEMPLATE = b"""{%- if tools %}{{ tools | tojson }}{% endif -%}
{%- for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor -%}
<|start|>assistant{# writes in <|channel|> #}"""


def with_marks() -> bytes:
    """The demo's tokenizer, whose last tokens are the marks of channels instead."""
    found = json.loads((DEMO / "tokenizer.json").read_bytes())
    vocabulary, merges = found["model"]["vocab"], found["model"]["merges"]
    for mark in MARKS:
        text, number = list(vocabulary.items())[-1]
        del vocabulary[text], merges[-1]
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        found["added_tokens"].append({"id": number, "content": mark, **flags, "special": True})
    return json.dumps(found).encode()


@pytest.mark.kernels
def test_a_server_tells_channels_apart(tmp_path: Path) -> None:
    model = write_demo(tmp_path / "demo.ggq", "q4-g32", chat_template_jinja=TEMPLATE, tokenizer_json=with_marks())
    settings = Settings({"demo": model}, hosts=HOSTS, load={"activations": "float32"})
    function = {"name": "get", "parameters": {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}}}
    body = {"messages": [{"role": "user", "content": "x"}], "temperature": 0, "model": "demo"}
    with TestClient(application(settings)) as client:

        def message(**fields: Any) -> Any:
            answer = client.post("/v1/chat/completions", json={**body, "max_tokens": 80, **fields})
            assert answer.status_code == 200, answer.text
            return answer.json()["choices"][0]["message"]

        tool = {"type": "function", "function": function}
        (call,) = message(tools=[tool], tool_choice="required", thinking_budget=4)["tool_calls"]
        assert call["function"]["name"] == "get" and isinstance(json.loads(call["function"]["arguments"]), dict)
        schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        assert json.loads(message(response_format=form, thinking_budget=4)["content"]) == {"a": 1}
        begun = [*body["messages"], {"role": "assistant", "content": "def f("}]
        assert message(messages=begun, continue_final_message=True)["content"]
