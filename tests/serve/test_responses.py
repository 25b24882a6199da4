"""/v1/responses and /v1/messages over compiled kernels."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.serve.test_chat import SCHEMA

pytestmark = pytest.mark.kernels

TOOL = {"type": "function", "name": "get_weather", "parameters": SCHEMA}


def named_events(text: str) -> list[Any]:
    found = []
    for part in text.strip().split("\n\n"):
        if part.startswith("event: "):
            name, data = part.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert found[-1]["type"] == name.removeprefix("event: ")
    return found


def respond(client: TestClient, status: int = 200, **fields: Any) -> Any:
    answer = client.post("/v1/responses", json={"model": "demo", "temperature": 0, "max_output_tokens": 8, **fields})
    assert answer.status_code == status, answer.text
    return named_events(answer.text) if fields.get("stream") and status == 200 else answer.json()


def message(client: TestClient, status: int = 200, **fields: Any) -> Any:
    body = {"model": "demo", "max_tokens": 8, "temperature": 0, **fields}
    body.setdefault("messages", [{"role": "user", "content": "import os"}])
    answer = client.post("/v1/messages", json=body)
    assert answer.status_code == status, answer.text
    return named_events(answer.text) if fields.get("stream") and status == 200 else answer.json()


def test_a_response_says_what_a_chat_says(client: TestClient, ask: Any) -> None:
    found = respond(client, input="import os")
    expected = ask("import os")
    (item,) = found["output"]
    assert item["content"][0]["text"] == expected["choices"][0]["message"]["content"]
    assert found["status"] == "incomplete" and found["incomplete_details"] == {"reason": "max_output_tokens"}
    assert found["usage"]["output_tokens"] == 8 and found["usage"]["input_tokens"] == expected["usage"]["prompt_tokens"]
    parts = [{"type": "input_text", "text": "import "}, {"type": "input_text", "text": "os"}]
    assert respond(client, input=[{"role": "user", "content": parts}])["output"][0]["content"] == item["content"]


def test_a_conversation_goes_on_where_it_was(client: TestClient) -> None:
    first = respond(client, input="import os")
    second = respond(client, input="x = 1", previous_response_id=first["id"])
    items = [
        {"role": "user", "content": "import os"},
        {"role": "assistant", "content": first["output"][0]["content"][0]["text"]},
        {"role": "user", "content": "x = 1"},
    ]
    alone = respond(client, input=items, store=False)
    assert second["output"][0]["content"] == alone["output"][0]["content"]
    assert client.get(f"/v1/responses/{second['id']}").json() == second
    listed = client.get(f"/v1/responses/{second['id']}/input_items").json()["data"]
    assert [each["role"] for each in listed] == ["user", "assistant", "user"]
    assert client.get(f"/v1/responses/{alone['id']}").status_code == 404
    assert client.delete(f"/v1/responses/{first['id']}").json()["deleted"]
    for answer in (client.get(f"/v1/responses/{first['id']}"), client.delete(f"/v1/responses/{first['id']}")):
        assert answer.status_code == 404
    error = respond(client, 404, input="x", previous_response_id=first["id"])["error"]
    assert error["param"] == "previous_response_id"


def test_events_of_a_response_tell_all_of_it(client: TestClient) -> None:
    found = respond(client, input="import os", stream=True)
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    kinds = [each["type"].removeprefix("response.") for each in found]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    text = "".join(each["delta"] for each in found if each["type"] == "response.output_text.delta")
    assert text == found[-1]["response"]["output"][0]["content"][0]["text"] == found[-4]["text"]
    assert text == respond(client, input="import os")["output"][0]["content"][0]["text"]


def test_calls_of_a_response(client: TestClient) -> None:
    fields = {"input": "Rome?", "tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    found = respond(client, stream=True, **{**fields, "max_output_tokens": 100})
    (item,) = found[-1]["response"]["output"]
    assert (
        item["type"] == "function_call" and item["name"] == "get_weather" and found[-1]["type"] == "response.completed"
    )
    arguments = json.loads(item["arguments"])
    assert arguments["place"] in ("Paris", "Rome") and 1 <= arguments["days"] <= 9
    output = {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"}
    after = respond(client, input=[output], previous_response_id=found[-1]["response"]["id"])
    assert after["output"][0]["type"] == "message"


def test_a_response_keeps_to_its_format(client: TestClient) -> None:
    form = {"type": "json_schema", "name": "x", "schema": SCHEMA}
    found = respond(client, input="Rome?", text={"format": form}, max_output_tokens=60)
    assert set(json.loads(found["output"][0]["content"][0]["text"])) == {"place", "days"}
    assert found["status"] == "completed" and found["text"]["format"]["name"] == "x"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": "x", "background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "x", "tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.name"),
    ],
)
def test_what_a_response_cannot_do_is_told(client: TestClient, fields: dict[str, Any], param: str) -> None:
    assert respond(client, 400, **fields)["error"]["param"] == param


def test_a_message_says_what_a_chat_says(client: TestClient, ask: Any) -> None:
    found, expected = message(client), ask("import os")
    assert found["content"][0]["text"] == expected["choices"][0]["message"]["content"]
    assert found["stop_reason"] == "max_tokens" and found["usage"]["output_tokens"] == 8
    usage = found["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == expected["usage"]["prompt_tokens"]
    counted = client.post(
        "/v1/messages/count_tokens",
        json={"model": "demo", "messages": [{"role": "user", "content": [{"type": "text", "text": "import os"}]}]},
    )
    assert counted.json() == {"input_tokens": expected["usage"]["prompt_tokens"]}
    text = found["content"][0]["text"]
    stopped = message(client, stop_sequences=[text[4:7]])
    assert stopped["stop_reason"] == "stop_sequence" and stopped["stop_sequence"] == text[4:7]
    assert stopped["content"][0]["text"] == text[: text.index(text[4:7])]


def test_events_of_a_message(client: TestClient) -> None:
    found = message(client, stream=True, system="be brief")
    assert [each["type"] for each in found[:3]] == ["message_start", "ping", "content_block_start"]
    assert [each["type"] for each in found[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    text = "".join(each["delta"]["text"] for each in found if each["type"] == "content_block_delta")
    assert text == message(client, system=[{"type": "text", "text": "be brief"}])["content"][0]["text"]
    assert found[-2]["usage"]["output_tokens"] == 8


def test_calls_of_a_message(client: TestClient) -> None:
    tools = [{"name": "get_weather", "input_schema": SCHEMA}]
    choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    found = message(client, tools=tools, tool_choice=choice, max_tokens=100)
    (block,) = found["content"]
    assert found["stop_reason"] == "tool_use" and block["type"] == "tool_use" and block["input"]["days"] in range(1, 10)
    messages = [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": [block]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block["id"], "content": "sunny"}]},
    ]
    assert message(client, messages=messages, tools=tools, tool_choice={"type": "none"})["content"][0]["text"]


def test_what_is_wrong_with_a_message_is_told_in_its_form(client: TestClient) -> None:
    answer = client.post("/v1/messages", json={"model": "demo", "messages": [{"role": "user", "content": "x"}]})
    error = {"type": "invalid_request_error", "message": "max_tokens is missing"}
    assert answer.status_code == 400 and answer.json() == {"type": "error", "error": error}
    assert message(client, 404, model="other")["error"]["type"] == "not_found_error"
    assert message(client, 400, tool_choice={"type": "any"})["error"]["message"] == "tool_choice needs tools"


def test_a_message_goes_on_from_its_beginning(client: TestClient) -> None:
    messages = [{"role": "user", "content": "import os"}, {"role": "assistant", "content": " = f"}]
    body = {"model": "demo", "prompt": "user: import os\nassistant: = f", "temperature": 0, "max_tokens": 8}
    expected = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    assert message(client, messages=messages)["content"][0]["text"] == expected
