"""/v1/chat/completions over compiled kernels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import ggq

pytestmark = pytest.mark.kernels

SCHEMA = {
    "type": "object",
    "properties": {"place": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["place", "days"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"enum": ["Paris", "Rome"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_it_answers_what_the_model_answers(model_path: Path, ask: Any) -> None:
    with ggq.load(model_path, activations="float32") as model:
        for text in ("import os", "class Reader:\n" * 10):
            found = ask(text, max_tokens=20)
            expected = model.chat([{"role": "user", "content": text}], max_tokens=20, temperature=0)
            (choice,) = found["choices"]
            assert choice["message"]["content"] == expected and choice["finish_reason"] == "length"
            prompt = len(model.encode(f"user: {text.strip()}\nassistant:", begin=False))
            assert found["usage"]["prompt_tokens"] == prompt
            assert found["usage"]["completion_tokens"] == 20 == found["usage"]["total_tokens"] - prompt


def test_a_stream_says_the_same(client: TestClient, ask: Any) -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "x = ["}],
        "max_tokens": 12,
        "temperature": 0,
        "stream": True,
    }
    answer = client.post("/v1/chat/completions", json={**body, "stream_options": {"include_usage": True}})
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    whole = ask("x = [", max_tokens=12)
    text = "".join(each["choices"][0]["delta"].get("content") or "" for each in found[:-1])
    assert text == whole["choices"][0]["message"]["content"]
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert found[-2]["choices"][0]["finish_reason"] == "length" and found[-1]["choices"] == []
    usage = found[-1]["usage"]
    assert {name: usage[name] for name in ("prompt_tokens", "completion_tokens")} == {
        name: whole["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    }
    assert len({each["id"] for each in found}) == 1


def test_a_prompt_that_begins_as_another_is_not_computed_again(ask: Any) -> None:
    text = "# a long beginning that is the same\n" * 8
    first, second = ask(text + "one"), ask(text + "two")
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] < 100
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 110


def test_choices_differ_and_are_the_same_again(ask: Any) -> None:
    found = ask(n=3, temperature=1.0, seed=5)
    texts = [choice["message"]["content"] for choice in found["choices"]]
    assert len(set(texts)) == 3 and [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in ask(n=3, temperature=1.0, seed=5)["choices"]] == texts
    assert ask(n=17, status=400)["error"]["param"] == "n"


def test_a_stop_string_ends_it(ask: Any) -> None:
    text = ask(max_tokens=30)["choices"][0]["message"]["content"]
    found = ask(max_tokens=30, stop=[text[10:13]])["choices"][0]
    assert found["message"]["content"] == text[: text.index(text[10:13])] and found["finish_reason"] == "stop"


def test_logprobs_are_of_the_tokens_that_were_written(ask: Any) -> None:
    (choice,) = ask(logprobs=True, top_logprobs=3)["choices"]
    tokens = choice["logprobs"]["content"]
    assert b"".join(bytes(each["bytes"]) for each in tokens).decode() == choice["message"]["content"]
    assert all(each["top_logprobs"][0]["logprob"] == each["logprob"] < 0 for each in tokens)  # greedy
    assert all(len(each["top_logprobs"]) == 3 for each in tokens)
    assert ask(top_logprobs=3, status=400)["error"]["param"] == "top_logprobs"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_must_be_made_fits_its_schema(client: TestClient, ask: Any, choice: Any, stream: bool) -> None:
    fields = {"tools": [TOOL], "tool_choice": choice, "max_tokens": 120, "parallel_tool_calls": False}
    if stream:
        body = {"model": "demo", "messages": [{"role": "user", "content": "Rome?"}], "stream": True, **fields}
        found = events(client.post("/v1/chat/completions", json=body).text)
        (call,) = [call for each in found for call in each["choices"][0]["delta"].get("tool_calls", ())]
        assert call["index"] == 0 and found[-1]["choices"][0]["finish_reason"] == "tool_calls"
    else:
        (answer,) = ask("Rome?", **fields)["choices"]
        (call,) = answer["message"]["tool_calls"]
        assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"] is None
    assert call["type"] == "function" and call["function"]["name"] == "get_weather"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["place"] in ("Paris", "Rome") and 1 <= arguments["days"] <= 9 and len(arguments) == 2


def test_a_conversation_with_calls_goes_on(ask: Any) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"place": "Rome"}'}}
    messages = [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    assert ask(messages=messages, tools=[TOOL], tool_choice="none")["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, r'\{"place": "\w+", "days": \d\}'),
        ({"type": "regex", "regex": "[ab]{3}"}, "[ab]{3}"),
        ({"type": "lark", "lark": 'start: "yes" | "no"'}, "yes|no"),
    ],
)
def test_an_answer_keeps_to_its_format(ask: Any, form: Any, pattern: str) -> None:
    (choice,) = ask(response_format=form, max_tokens=60)["choices"]
    assert re.fullmatch(pattern, choice["message"]["content"]) and choice["finish_reason"] == "stop"


def test_an_answer_goes_on_from_its_beginning(client: TestClient, ask: Any) -> None:
    messages = [{"role": "user", "content": "import os"}, {"role": "assistant", "content": " = f"}]
    found = ask(messages=messages, continue_final_message=True)["choices"][0]["message"]["content"]
    body = {"model": "demo", "prompt": "user: import os\nassistant: = f", "temperature": 0, "max_tokens": 8}
    assert found == client.post("/v1/completions", json=body).json()["choices"][0]["text"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": True}, "n"),
        ({"nonsense": 1}, "nonsense"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].name"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"continue_final_message": True}, "continue_final_message"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(ask: Any, fields: dict[str, Any], param: str) -> None:
    error = ask(status=400, **fields)["error"]
    assert error["type"] == "invalid_request_error" and error["param"] == param and error["message"]


def test_what_does_not_fit_is_told(ask: Any) -> None:
    error = ask("x = 1\n" * 300, status=400)["error"]
    assert error["code"] == "context_length_exceeded" and "512" in error["message"]


def test_the_model_is_found_by_its_names(ask: Any) -> None:
    assert ask(model="alias")["model"] == "alias" and ask(model="demo")["model"] == "demo"
    error = ask(model="other", status=404)["error"]
    assert error["code"] == "model_not_found" and error["message"] == "there is no model 'other'; there are 'demo'"
