"""From a turn to answers that can be computed: the prompt, the grammar, how the text is told apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ggq.generate.generation import Answer
from ggq.generate.model import Model
from ggq.generate.options import GRAMMARS
from ggq.serve.errors import refused
from ggq.serve.turn.channels import (
    FINAL,
    ChannelReader,
    channel_grammar,
    channel_wrap,
    in_channels,
    marks_of,
    reader_of,
)
from ggq.serve.turn.reader import Reader
from ggq.serve.turn.reasoning import AfterThinking, Tags, ThinkingBudget, begun_by, tags_of
from ggq.serve.turn.tools import Form, explained, form_of, grammar
from ggq.serve.turn.turn import Turn
from ggq.text.tokenizer import TOKENIZER

MOST_TOOLS = 128
"""Functions of a request at most."""


@dataclass
class Prepared:
    """Answers that nothing has computed yet.

    Args:
        answers: One for each choice, of each prompt.
        readers: How the text of each is told apart.
        marks: Special tokens whose texts a reader must see.
        prompts: Tokens of the prompts.
        client: For whom they are.
        scored: How many likeliest tokens to tell of each of the prompt; None tells nothing of it.
        only: Whether nothing is written behind the prompt.
    """

    answers: Sequence[Answer]
    readers: Sequence[Reader | ChannelReader]
    marks: Mapping[int, str]
    prompts: int
    client: str = ""
    scored: int | None = None
    only: bool = False


def prompt_of(model: Model, turn: Turn) -> str:
    """The text of a turn's prompt."""
    template = model.chat_template
    messages, last = list[Mapping[str, Any]](turn.messages), ""
    if turn.continued:
        last = str(messages.pop().get("content") or "")
    variables = dict(turn.variables)
    if turn.thinking is not None:
        variables.setdefault("enable_thinking", turn.thinking)
        variables.setdefault("thinking", turn.thinking)
    tools = list(turn.tools) if turn.choice != "none" else []
    knows = "tools" in template.source
    if not knows:
        messages = [*plain(messages, explained(tools) if tools else "")]
    text = template.render(
        messages, tools=[tool.document for tool in tools] if tools and knows else None, variables=variables
    )
    tags = tags_of(template.source)
    if turn.continued and in_channels(template.source):
        text += FINAL
    if turn.thinking is False and tags is not None and text.rstrip().endswith(tags.begin):
        text = f"{text.rstrip()}\n\n{tags.end}\n\n"
    return text + last


def prepare(model: Model, turn: Turn) -> Prepared:
    """Make the answers of a turn; takes a while, so it is called in a thread.

    Raises:
        ApiError, GGQError: What is asked for cannot be done.
    """
    if len(turn.tools) > MOST_TOOLS:
        raise refused(f"{len(turn.tools)} tools are more than {MOST_TOOLS}", "tools")
    text = prompt_of(model, turn)
    source = model.chat_template.source
    tags = tags_of(source)
    thinking = tags is not None and text.rstrip().endswith(tags.begin)
    form = form_of(source) if turn.tools and turn.choice != "none" else None
    options = dict(turn.options)
    if (form is not None and turn.choice != "auto") or any(name in options for name in GRAMMARS):
        options.setdefault("stop", [])  # the grammar says where it ends, and not the model's own strings
    channels = in_channels(source)
    if form is not None:
        options["lark"] = _tool_grammar(model, turn, form, None if thinking else tags, options)
    if channels and not turn.continued:
        wrap = channel_wrap(partial(_encoded, model), partial(_decoded, model), turn.budget, final_only=form is None)
    else:
        wrap = _thinking_wrap(model, turn, tags, thinking)
    prompt = model.encode(text, begin=False)
    answers = [model.answer(prompt, options, index, wrap) for index in range(turn.choices)]  # type: ignore[arg-type]
    readers = [reader_of(source, thinking, form, final=turn.continued) for _ in answers]
    return Prepared(answers, readers, _marks(model, form), len(prompt), turn.client)


def _encoded(model: Model, text: str) -> list[int]:
    """The tokens of a text, added ones among them."""
    return list(model.tokenizer.encode(text, add_special_tokens=False).ids)


def _decoded(model: Model, tokens: Sequence[int]) -> str:
    """The text of tokens, added ones included."""
    return str(model.tokenizer.decode(list(tokens), skip_special_tokens=False))


def _tool_grammar(model: Model, turn: Turn, form: Form, tags: Tags | None, options: dict[str, Any]) -> str:
    """The grammar of a turn with tools; takes a schema of answers from the options."""
    if options.get("regex") is not None or options.get("lark") is not None:
        raise refused("tools can be combined with a JSON schema only", "response_format")
    tools = list(turn.tools)
    if turn.choice not in ("auto", "required"):
        tools = [tool for tool in tools if tool.name == turn.choice]
        if not tools:
            raise refused(f"there is no tool {turn.choice!r}", "tool_choice")
    answer, must = options.pop("json_schema", None), turn.choice != "auto"
    if in_channels(model.chat_template.source):
        return channel_grammar(tools, must=must, token=partial(_token, model), answer=answer)
    return grammar(
        form,
        tools,
        must=must,
        parallel=turn.parallel and turn.choice in ("auto", "required"),  # a tool that is named is called once
        token=partial(_token, model),
        tags=tags,
        answer=answer,
    )


def _token(model: Model, text: str) -> int | None:
    """The id of an added token."""
    number = model.tokenizer.token_to_id(text)
    return number if number in model.tokenizer.get_added_tokens_decoder() else None


def _thinking_wrap(model: Model, turn: Turn, tags: Tags | None, thinking: bool) -> Callable[[Any], Any]:
    """What becomes of a constraint where the answer begins with thoughts."""
    if tags is None or (turn.budget is None and not thinking):
        return lambda inner: inner
    encode = model.tokenizer.encode
    end = encode(tags.end, add_special_tokens=False).ids
    closing = encode(f"\n{tags.end}\n\n", add_special_tokens=False).ids
    if not thinking:
        begun, most = begun_by(tags.begin, partial(_decoded, model)), turn.budget or 0
        return lambda inner: ThinkingBudget(inner, begun, end, most, closing)
    if turn.budget is None:
        return lambda inner: None if inner is None else AfterThinking(inner, end, None)
    return lambda inner: AfterThinking(inner, end, turn.budget, closing)


def _marks(model: Model, form: Form | None) -> dict[int, str]:
    """Special tokens that are marks of thoughts or calls, which decode to nothing."""
    if TOKENIZER not in model.reader.assets:
        return {}
    return marks_of(model.chat_template.source, form, model.special_texts)


def plain(messages: Sequence[Mapping[str, Any]], instructions: str) -> list[dict[str, Any]]:
    """Messages for a template that knows no tools: calls and results become text, instructions go to the system."""
    found: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        for call in message.get("tool_calls") or ():
            about = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
            content = f"{content}\n<tool_call>\n{json.dumps(about)}\n</tool_call>".lstrip("\n")
        found.append({"role": role, "content": content})
    if instructions:
        if found and found[0]["role"] == "system":
            found[0]["content"] = f"{found[0]['content']}\n\n{instructions}"
        else:
            found.insert(0, {"role": "system", "content": instructions})
    return found
