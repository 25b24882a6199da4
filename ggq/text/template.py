"""Messages to a prompt, by the model's own chat template."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

from ggq.errors import ModelError, UnsupportedError, UsageError
from ggq.text.special_tokens import named_tokens
from ggq.text.template_process import rendered
from ggq.text.tokenizer import Asset

SECONDS = 10.0
"""A template that takes longer is stopped."""

CHARACTERS = 1 << 24
"""Longest prompt that any template may write."""

ROOM, TIMES_SOURCE, TIMES_MESSAGES, TIMES_CONTEXT = 1 << 16, 4, 16, 32
"""What a template may write: as many characters besides so many for each of its own, for each of the messages' as JSON;
and not more than so many for each token of the context, of which no text needs as many."""

MEMORY, MEMORY_TIMES = 64 << 20, 10
"""Bytes that a template may take, and how many for each character of its own, of those given and of those to write."""

TEMPLATES = "additional_chat_templates"
"""The folder of a checkpoint's named chat templates, NAME.jinja each."""

Message = Mapping[str, object]
"""{"role": "user", "content": "..."} and whatever else the template knows."""


REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which a message may hold what was thought before it was written, as transformers looks for them."""


class ChatTemplate:
    """A chat template; it runs in jinja2's immutable sandbox, in a process that is stopped when it takes too much.

    Args:
        source: The template's text.
        variables: What it may use besides the messages: "bos_token", "eos_token" ...
        path: The model's file, for the messages.
        context: Tokens of the model's context, None where it is not known.
        with_tools: The template's text where there are tools, None for the same.
    """

    def __init__(
        self,
        source: str,
        variables: Mapping[str, str] | None = None,
        path: str | os.PathLike[str] | None = None,
        context: int | None = None,
        with_tools: str | None = None,
    ) -> None:
        self.context, self.with_tools = context, with_tools
        self.source, self.variables, self.path = source, dict(variables or {}), path

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt for these messages.

        Args:
            messages: The conversation so far, oldest first.
            add_generation_prompt: End with what begins an answer.
            tools: Functions that the model may call: {"type": "function", "function": {...}} each.
            variables: More of the template's variables, such as "enable_thinking".

        Raises:
            UsageError: The template refuses the messages, or they are not mappings with a "role".
            ModelError: The template is broken, touches what the sandbox forbids, or takes too much time or memory.
            UnsupportedError: The system lets no process be started.
        """
        for message in messages:
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise UsageError('a message is a mapping such as {"role": "user", "content": "Hello"}')
        given = {
            "documents": None,
            **self.variables,
            **(variables or {}),
            "tools": None if tools is None else list(tools),
            "messages": [with_reasoning(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        source = self.source if tools is None or self.with_tools is None else self.with_tools
        answer = self._ask({"template": source, "variables": given, "path": sys.path})
        if "refused" in answer:
            raise UsageError(f"the chat template refuses: {answer['refused']}", path=self.path)
        if "text" not in answer:
            raise self._error(answer["error"])
        return answer["text"]

    def limit(self, given: int) -> int:
        """Most characters of a prompt.

        Args:
            given: Characters of the messages and variables as JSON.
        """
        most = ROOM + TIMES_SOURCE * max(len(self.source), len(self.with_tools or "")) + TIMES_MESSAGES * given
        if self.context is not None:
            most = min(most, ROOM + TIMES_CONTEXT * self.context)
        return min(CHARACTERS, most)

    def _ask(self, request: dict[str, object]) -> dict[str, str]:
        try:
            given = len(json.dumps(request["variables"]))
            limit = self.limit(given)
            memory = MEMORY + MEMORY_TIMES * (given + len(str(request["template"])) + limit)
            document = json.dumps({**request, "limit": limit, "memory": memory}).encode("ascii")
        except (TypeError, ValueError) as problem:
            raise UsageError(f"messages hold strings, numbers, lists and mappings only: {problem}") from None
        try:
            answer = rendered(document, SECONDS)
        except TimeoutError:
            raise self._error(f"it takes more than {SECONDS:g} seconds") from None
        except OSError as problem:  # a limit of processes
            text = f"the chat template needs a process, and none can be started: {problem.strerror or problem}"
            raise UnsupportedError(text, path=self.path) from None
        if answer is None:
            raise self._error("it was stopped for taking too much time or memory")
        result: dict[str, str] = json.loads(answer)
        return result

    def _error(self, problem: str) -> ModelError:
        return ModelError(f"the chat template failed: {problem[:300]}", path=self.path, where="chat template")


def with_reasoning(message: Message) -> dict[str, object]:
    """A message without what is None, its reasoning under both names that templates read.

    Source: transformers 5.24, `_normalize_chat_messages` and `_alias_reasoning_fields`.
    """
    found = {name: value for name, value in message.items() if value is not None}
    thought = next((found[name] for name in REASONING if name in found), None)
    return found if thought is None else {"thinking": thought, **found, "reasoning_content": thought}


def find_template(assets: Mapping[str, Asset], path: str | os.PathLike[str] | None = None) -> ChatTemplate | None:
    """The chat template among a file's assets, or None.

    Raises:
        ModelError: tokenizer_config.json cannot be read.
    """
    named = named_templates(assets, path)
    if "default" not in named:
        return None
    return ChatTemplate(named["default"], template_variables(assets, path), path, with_tools=named.get("tool_use"))


def named_templates(assets: Mapping[str, Asset], path: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """The templates by name: chat_template.jinja is "default", beside it those of TEMPLATES; where there are no such
    files, what tokenizer_config.json has, of which one without a name is "default" (S-18).

    Raises:
        ModelError: tokenizer_config.json cannot be read.

    Source: transformers 5.24, `PreTrainedTokenizerBase._from_pretrained`.
    """
    files = {"default": "chat_template.jinja"} if "chat_template.jinja" in assets else {}
    for name in sorted(assets):
        if name.startswith(f"{TEMPLATES}/") and name.endswith(".jinja"):
            files[name.removeprefix(f"{TEMPLATES}/").removesuffix(".jinja")] = name
    if files:
        return {name: assets[file].read().decode("utf-8", "replace") for name, file in files.items()}
    found = read_json(assets, "tokenizer_config.json", path).get("chat_template")
    if isinstance(found, str):
        return {"default": found}
    named = [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []
    pairs = [(item.get("name"), item.get("template")) for item in named]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


def template_variables(assets: Mapping[str, Asset], path: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """What templates may use besides the messages: "bos_token", "eos_token" ...

    Raises:
        ModelError: tokenizer_config.json or special_tokens_map.json cannot be read.
    """
    config = read_json(assets, "tokenizer_config.json", path)
    return dict(named_tokens(config, read_json(assets, "special_tokens_map.json", path)))


def read_json(
    assets: Mapping[str, Asset], name: str, path: str | os.PathLike[str] | None = None
) -> Mapping[str, object]:
    """The object in a JSON asset; an empty one when there is no such asset.

    Raises:
        ModelError: It is not JSON, or no object.
    """
    if name not in assets:
        return {}
    try:
        value = json.loads(assets[name].read())
    except (ValueError, RecursionError) as problem:
        raise ModelError(f"not JSON: {str(problem)[:200]}", path=path, where=name) from None
    if not isinstance(value, dict):
        raise ModelError("an object is expected", path=path, where=name)
    return value
