"""What is asked of a turn, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ggq.generate.generation import Likelihood


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Args:
        name: Its name.
        description: What it is for.
        parameters: The JSON schema of its arguments, an object's.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """As chat templates expect it."""
        about = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": about}


@dataclass
class Turn:
    """A turn of a conversation.

    Args:
        messages: As chat templates expect them: role, content (a string), tool_calls, tool_call_id, reasoning_content.
        options: What `Model.answer` takes.
        tools: Functions that may be called.
        choice: "auto", "none", "required", or the name of the one to call.
        parallel: Whether several may be called in one turn.
        choices: Answers to write.
        continued: Whether the last message is the beginning of the answer.
        thinking: Whether the model thinks first; None leaves it to the template.
        budget: Tokens of thought at most.
        variables: More of the template's variables.
        client: For whom it is.
    """

    messages: Sequence[Mapping[str, Any]]
    options: dict[str, Any]
    tools: Sequence[Tool] = ()
    choice: str = "auto"
    parallel: bool = True
    choices: int = 1
    continued: bool = False
    thinking: bool | None = None
    budget: int | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    client: str = ""


class Call(NamedTuple):
    """A call of a function: its name, and its arguments as JSON."""

    name: str
    arguments: str


class Delta(NamedTuple):
    """What comes out of a turn.

    Args:
        choice: Which answer it belongs to.
        kind: "text", "reasoning" (text: more of it), "call" (a whole one), "tokens" (how likely tokens were),
            "progress" (done and total tokens of the prompt) or "end" (reason: "stop", "length" or "calls").
        text: More text; at the end the stop string that was found, if any.
        call: The call.
        tokens: Each token and how likely it was.
        reason: Why it ended.
        progress: Tokens of the prompt that are computed, and all.
    """

    choice: int
    kind: str
    text: str = ""
    call: Call | None = None
    tokens: Sequence[tuple[int, Likelihood]] = ()
    reason: str = ""
    progress: tuple[int, int] = (0, 0)


@dataclass
class Usage:
    """Tokens of a turn: of the prompt, of that what had been computed before, of the answers, of thought in them."""

    prompt: int = 0
    cached: int = 0
    answer: int = 0
    reasoning: int = 0
