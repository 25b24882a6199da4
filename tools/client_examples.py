"""Runs what the documentation of clients shows, against a server of the included model.

pip install openai anthropic langchain-openai instructor
python tools/client_examples.py URL      # of tools/conformance_server.py
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Literal

from pydantic import BaseModel, Field

MODEL = "demo"
ASKED: list[Any] = [{"role": "user", "content": "Say hello"}]


class Weather(BaseModel):
    """The weather of a place."""

    place: Literal["Paris", "Rome"]
    days: int = Field(ge=1, le=9)


def done(what: str) -> None:
    """Say that something works."""
    print("ok:", what, flush=True)


def openai_chat(url: str) -> None:
    """Chat: whole, streamed, parsed, with tools."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    chat = client.chat.completions
    assert chat.create(model=MODEL, messages=ASKED, max_tokens=8).choices[0].message.content is not None
    stream = chat.create(model=MODEL, messages=ASKED, max_tokens=8, stream=True, stream_options={"include_usage": True})
    assert list(stream)[-1].usage.completion_tokens > 0
    with chat.stream(model=MODEL, messages=ASKED, max_tokens=500) as events:
        assert events.get_final_completion().choices
    parsed = chat.parse(model=MODEL, messages=ASKED, response_format=Weather, max_tokens=100)
    assert parsed.choices[0].message.parsed.place in ("Paris", "Rome")
    tools: Any = [openai.pydantic_function_tool(Weather)]
    forced: Any = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300}
    called = chat.parse(model=MODEL, messages=ASKED, tools=tools, **forced)
    assert called.choices[0].message.tool_calls[0].function.parsed_arguments.days > 0
    with chat.stream(model=MODEL, messages=ASKED, tools=tools, **forced) as events:
        assert "tool_calls.function.arguments.done" in [event.type for event in events]
    done("openai: chat, stream, parse, tools")


def openai_others(url: str) -> None:
    """Responses, completions, models, errors."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    first = client.responses.create(model=MODEL, input="hello", max_output_tokens=20)
    client.responses.create(model=MODEL, input="more", previous_response_id=first.id, max_output_tokens=20)
    assert client.responses.retrieve(first.id).id == first.id and list(client.responses.input_items.list(first.id))
    client.responses.delete(first.id)
    with client.responses.stream(model=MODEL, input="hello", max_output_tokens=20) as events:
        assert events.get_final_response().output_text is not None
    parsed = client.responses.parse(model=MODEL, input="x", text_format=Weather, max_output_tokens=100)
    assert parsed.output_parsed.place in ("Paris", "Rome")
    completion = client.completions.create(model=MODEL, prompt="def f", max_tokens=5, logprobs=2)
    assert completion.choices[0].logprobs.tokens
    assert any(model.id == MODEL for model in client.models.list()) and client.models.retrieve(MODEL).id == MODEL
    for kind, arguments in ((openai.NotFoundError, {"model": "none"}), (openai.BadRequestError, {"messages": []})):
        try:
            client.chat.completions.create(**{"model": MODEL, "messages": ASKED, **arguments})
            raise AssertionError("nothing was refused")
        except kind as problem:
            assert problem.body["message"]
    done("openai: responses, completions, models, errors")


async def asynchronous(url: str) -> None:
    """The same clients without threads."""
    import anthropic
    import openai

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        await client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=8)
        stream = await client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=8, stream=True)
        assert [event async for event in stream]
        async with client.responses.stream(model=MODEL, input="hello", max_output_tokens=20) as events:
            assert [event async for event in events]
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none") as other:
        async with other.messages.stream(model=MODEL, max_tokens=8, messages=ASKED) as events:
            assert [text async for text in events.text_stream]
    done("openai and anthropic: asynchronous")


def anthropic_messages(url: str) -> None:
    """Messages: whole, streamed, with tools, counted."""
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key="none")
    assert client.messages.create(model=MODEL, max_tokens=8, messages=ASKED).content[0].type == "text"
    with client.messages.stream(model=MODEL, max_tokens=8, messages=ASKED) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_message().content[0].text == text
    arguments: Any = {
        "model": MODEL,
        "max_tokens": 300,
        "messages": ASKED,
        "tools": [{"name": "weather", "input_schema": Weather.model_json_schema()}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    found = client.messages.create(**arguments)
    assert found.stop_reason == "tool_use" and found.content[0].input["place"] in ("Paris", "Rome")
    with client.messages.stream(**arguments) as stream:
        assert stream.get_final_message().content[0].input["days"] > 0
    assert client.messages.count_tokens(model=MODEL, messages=ASKED).input_tokens > 0
    try:
        client.messages.create(model="none", max_tokens=8, messages=ASKED)
        raise AssertionError("nothing was refused")
    except anthropic.NotFoundError:
        done("anthropic: messages, stream, tools, counts, errors")


def langchain(url: str) -> None:
    """ChatOpenAI and OpenAI."""
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAI

    @tool
    def weather(place: Literal["Paris", "Rome"]) -> str:
        """Weather of a place."""
        return "sunny"

    shared: Any = {"base_url": f"{url}/v1", "api_key": "none", "model": MODEL}
    model = ChatOpenAI(**shared, max_tokens=300)
    assert model.invoke("hello").content is not None and list(model.stream("hello")) and model.batch(["a", "b"])
    called = model.bind_tools([weather], tool_choice="required", parallel_tool_calls=False).invoke("Rome?")
    assert called.tool_calls[0]["args"]["place"] in ("Paris", "Rome")
    for method in ("json_schema", "function_calling"):
        assert model.with_structured_output(Weather, method=method).invoke("Rome?").days > 0
    assert ChatOpenAI(**shared, max_tokens=50, use_responses_api=True).invoke("hello") is not None
    assert OpenAI(**shared, max_tokens=5).invoke("def f") is not None
    done("langchain-openai: invoke, stream, batch, tools, structured output, responses, completions")


def structured(url: str) -> None:
    """instructor."""
    import instructor
    import openai

    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="none"), mode=mode)
        found = client.chat.completions.create(model=MODEL, response_model=Weather, messages=ASKED, max_tokens=400)
        assert found.days > 0
    done("instructor: tools, JSON schema")


def main() -> None:
    """Everything."""
    url = sys.argv[1].rstrip("/")
    openai_chat(url)
    openai_others(url)
    asyncio.run(asynchronous(url))
    anthropic_messages(url)
    langchain(url)
    structured(url)


if __name__ == "__main__":
    main()
