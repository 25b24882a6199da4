"""Text of models told apart: thoughts, calls in the forms of the families; grammars that keep to tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from ggq.serve.turn.closed import closed
from ggq.serve.turn.prepare import plain
from ggq.serve.turn.reader import Reader
from ggq.serve.turn.reasoning import KNOWN, AfterThinking, ThinkingBudget, begun_by, tags_of
from ggq.serve.turn.tools import FORMS, GENERIC, Form, form_of, grammar
from ggq.serve.turn.turn import Call, Tool
from tests.kit.support import DEMO

THINK = KNOWN[0]
BY_NAME = {form.name: form for form in (*FORMS, GENERIC)}
PARAMETERS = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["place", "days"],
}
TOOLS = [Tool("weather", "Tells the weather.", PARAMETERS), Tool("now", "", {"type": "object", "properties": {}})]
ARGUMENTS = {"place": "Rome", "days": 3}
ONE = {"name": "weather", "arguments": ARGUMENTS}
WRITTEN = {
    "tags": f"<tool_call>\n{json.dumps(ONE)}\n</tool_call>",
    "generic": f"<tool_call>\n{json.dumps(ONE)}\n</tool_call>",
    "bare": json.dumps({"name": "weather", "parameters": ARGUMENTS}),
    "list": f"[TOOL_CALLS]{json.dumps([ONE])}",
    "granite": f"<|tool_call|>{json.dumps([ONE])}",
    "named": f"[TOOL_CALLS]weather[ARGS]{json.dumps(ARGUMENTS)}",
    "tagged": "<tool_call>\n<function=weather>\n<parameter=place>\nRome\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    "braced": '<|tool_call>call:weather{place:<|"|>Rome<|"|>,days:3}<tool_call|>',
    "paired": "<tool_call>weather\n<arg_key>place</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n"
    "<arg_value>3</arg_value>\n</tool_call>",
}
"""The same call in every form."""


def read(reader: Reader, text: str, size: int) -> list[tuple[str, Any]]:
    """The parts of a text that comes in pieces, neighbours of a kind joined."""
    found: list[tuple[str, Any]] = []
    parts = [part for start in range(0, len(text), size) for part in reader.push(text[start : start + size])]
    for kind, what in [*parts, *reader.flush()]:
        if found and found[-1][0] == kind and kind != "call":
            found[-1] = kind, found[-1][1] + what
        else:
            found.append((kind, what))
    return found


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("name", WRITTEN)
def test_calls_are_read_in_every_form_and_in_any_pieces(name: str, size: int) -> None:
    form = BY_NAME[name]
    ((kind, call),) = read(Reader(None, False, form), WRITTEN[name], size)
    assert kind == "call" and call.name == "weather" and json.loads(call.arguments) == ARGUMENTS


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_text_before_calls_and_several_calls(size: int) -> None:
    text = f"I look.\n{WRITTEN['tags']}\n{WRITTEN['tags']}\n"
    found = read(Reader(None, False, BY_NAME["tags"]), text, size)
    assert [kind for kind, _ in found] == ["text", "call", "call"] and found[0][1] == "I look.\n"
    two = f"{WRITTEN['named']}[TOOL_CALLS]now[ARGS]{{}}"
    assert [call.name for _, call in read(Reader(None, False, BY_NAME["named"]), two, size)] == ["weather", "now"]


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_what_is_no_call_is_text(size: int) -> None:
    for text in ("1 < 2", "<tool", "<tool_call>\nnonsense\n</tool_call> and more", '<tool_call>\n{"name": '):
        assert read(Reader(None, False, BY_NAME["tags"]), text, size) == [("text", text)]
    assert read(Reader(None, False, BY_NAME["bare"]), "Hello", size) == [("text", "Hello")]


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_thoughts_are_told_apart(size: int) -> None:
    expected = [("reasoning", "I think\n"), ("text", "So.")]
    assert read(Reader(THINK, True, None), "I think\n</think>\n\nSo.", size) == expected
    assert read(Reader(THINK, False, None), "<think>I think\n</think>\n\nSo.", size) == expected
    assert read(Reader(THINK, False, None), "No <think> here", size) == [("text", "No <think> here")]
    assert read(Reader(THINK, True, None), "never ends </thi", size) == [("reasoning", "never ends </thi")]
    found = read(Reader(THINK, True, BY_NAME["tags"]), f"hm</think>\n{WRITTEN['tags']}", size)
    assert [kind for kind, _ in found] == ["reasoning", "call"]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ messages }}", "generic"),
        ("{% if tools %}<tool_call>", "tags"),
        ("{% if tools %}<tool_call><function=x>", "tagged"),
        ("{% if tools %}<tool_call><arg_key>", "paired"),
        ("{% if tools %}[TOOL_CALLS]", "list"),
        ("{% if tools %}[TOOL_CALLS][ARGS]", "named"),
        ("{% if tools %}<|tool_call|>", "granite"),
        ("{% if tools %}<|tool_call>call:", "braced"),
        ('{% if tools %}{"name": x, "parameters": y}', "bare"),
    ],
)
def test_a_template_says_which_form_it_is(template: str, name: str) -> None:
    assert form_of(template).name == name
    assert tags_of(template) is None and tags_of(template + "</think>") == THINK


# ---- grammars


def matcher(text: str, added: Sequence[str] = ()) -> tuple[Callable[[str], bool], Tokenizer]:
    """Whether a text is a whole word of a grammar, over the demo's tokens and some added ones."""
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(each) for each in added])
    return accepts(text, tokenizer), tokenizer


def accepts(text: str, tokenizer: Tokenizer) -> Callable[[str], bool]:
    """Whether a text is a whole word of a grammar."""
    library = LLTokenizer(tokenizer.to_str())

    def accepted(word: str) -> bool:
        found = LLMatcher(library, LLMatcher.grammar_from_lark(text), log_level=0)
        assert not found.is_error(), found.get_error()
        ids = tokenizer.encode(word, add_special_tokens=False).ids
        return bool(found.try_consume_tokens(ids) == len(ids) and found.is_accepting())

    return accepted


def grammar_of(form: Form, added: Sequence[str] = (), **options: Any) -> Callable[[str], bool]:
    numbers = matcher("start: /a/", added)[1]

    def token(text: str) -> int | None:
        return numbers.token_to_id(text) if text in added else None

    given = {"must": True, "parallel": True, **options}
    return matcher(grammar(form, TOOLS, token=token, **given), added)[0]


@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_grammar_lets_good_calls_through_and_no_others(name: str, as_tokens: bool) -> None:
    form = BY_NAME[name]
    added = [mark for mark in (form.begin.strip(), form.end.strip()) if mark] if as_tokens else []
    must, may = grammar_of(form, added), grammar_of(form, added, must=False)
    good = WRITTEN[name]
    bad = (good.replace("weather", "wether"), good.replace("3", '"three"'), good.replace("days", "day"), good[:-3])
    for accepted in (must, may):
        assert accepted(good)
        assert name == "bare" or not any(map(accepted, bad))
    assert not any(map(must, ("", "Hello", *bad))) and may("Hello, you.")
    if form.begin:
        assert may(f"Hello.\n{good}") and not must(f"Hello.\n{good}")


def test_one_call_where_there_may_be_one_and_several_where_there_may_be() -> None:
    for name in ("tags", "named", "list"):
        form = BY_NAME[name]
        two = json.dumps([ONE, ONE])
        text = f"[TOOL_CALLS]{two}" if name == "list" else form.between.join([WRITTEN[name]] * 2)
        assert grammar_of(form)(text) and not grammar_of(form, parallel=False)(text)


def test_an_answer_may_be_of_a_schema_or_calls() -> None:
    accepted = grammar_of(GENERIC, must=False, answer={"type": "object", "properties": {"a": {"const": 1}}})
    assert accepted('{"a": 1}') and accepted(WRITTEN["generic"]) and not accepted("Hello")


def test_thoughts_may_come_before_calls() -> None:
    added = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    accepted = grammar_of(BY_NAME["tags"], added, must=False, tags=THINK)
    assert accepted(f"<think>hm</think>\n{WRITTEN['tags']}") and accepted("<think>hm</think>So.") and accepted("So.")
    assert not accepted(f"<think>{WRITTEN['tags']}")


def test_schemas_are_closed_where_they_say_nothing() -> None:
    inner = {"type": "object", "properties": {"a": {}}}
    assert closed(inner)["additionalProperties"] is False
    assert closed({"type": "array", "items": inner})["items"]["additionalProperties"] is False
    assert closed({**inner, "additionalProperties": True})["additionalProperties"] is True
    for schema in ({"type": "object"}, {"allOf": [inner, inner]}, {**inner, "anyOf": [{"required": ["b"]}]}):
        assert closed(schema) == schema


# ---- thoughts that must end


class Only:
    """Lets one token follow."""

    def __init__(self, token: int) -> None:
        self.token, self.taken, self.over = token, list[int](), False

    def masked(self, logits: np.ndarray) -> np.ndarray:
        only = np.full_like(logits, -np.inf)
        only[self.token] = 0
        return only

    def accept(self, token: int) -> None:
        self.taken.append(token)


def written(constraint: AfterThinking | ThinkingBudget, wishes: Sequence[int]) -> list[int]:
    """What a model writes that wishes for these tokens."""
    found = []
    for wish in wishes:
        logits = np.zeros(10, np.float32)
        logits[wish] = 5
        found.append(int(np.argmax(constraint.masked(logits))))
        constraint.accept(found[-1])
    return found


def test_thoughts_end_when_their_budget_is_used() -> None:
    inner = Only(9)
    assert written(AfterThinking(inner, [7, 8], 3, [6, 7, 8]), [1] * 8) == [1, 1, 1, 6, 7, 8, 9, 9]
    assert inner.taken == [9, 9]


def test_thoughts_that_end_by_themselves_are_left_alone() -> None:
    inner = Only(9)
    assert written(AfterThinking(inner, [7, 8], 10), [1, 7, 7, 8, 1]) == [1, 7, 7, 8, 9]
    assert written(AfterThinking(None, [7], None), [1, 7, 2, 3]) == [1, 7, 2, 3]


def test_thoughts_that_an_answer_begins_end_when_their_budget_is_used() -> None:
    def budget(inner: Only | None = None) -> ThinkingBudget:
        return ThinkingBudget(inner, lambda tokens: tokens[0] == 5, [7, 8], 2, [6, 7, 8])

    assert written(budget(), [5, 1, 1, 1, 1, 1, 2]) == [5, 1, 1, 6, 7, 8, 2]
    assert written(budget(), [5, 7, 8, 1, 5, 1, 1]) == [5, 7, 8, 1, 5, 1, 1]
    assert written(budget(), [1, 5, 1, 1, 1, 1, 1]) == [1, 5, 1, 1, 1, 1, 1]
    inner = Only(5)
    assert written(budget(inner), [1, 1]) == [5, 5] and inner.taken == [5, 5]


def test_thoughts_begin_with_a_text_however_it_is_cut() -> None:
    begun = begun_by("<think>", lambda tokens: "".join(map(chr, tokens)))
    assert [begun(list(text.encode())) for text in ("<th", "<think>", "<think>\n", "<tha", "a")] == [
        None,
        True,
        True,
        False,
        False,
    ]


def test_messages_for_templates_that_know_no_tools() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": {}}}
    given = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    found = plain(given, "Tools.")
    assert [each["role"] for each in found] == ["system", "user", "assistant", "user"]
    assert Reader(None, False, GENERIC).push(found[2]["content"]) is not None
    ((_, again),) = read(Reader(None, False, GENERIC), found[2]["content"], 9)
    assert again == Call("now", "{}") and "noon" in found[3]["content"]
