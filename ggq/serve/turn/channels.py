"""Answers in channels, as gpt-oss writes them: thoughts, texts and calls are messages with a header each.

    <|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>final<|message|>the answer
    <|channel|>commentary to=functions.name <|constrain|>json<|message|>{"place": "Rome"}<|call|>

Source: OpenAI harmony response format (cookbook, August 2025).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ggq.serve.turn.closed import closed
from ggq.serve.turn.lark import TokenOf, escaped, json_of, marked, quoted
from ggq.serve.turn.reader import Part, Reader
from ggq.serve.turn.reasoning import Constraint, Tags, ThinkingBudget, begun_by, tags_of
from ggq.serve.turn.tools import Form, is_object
from ggq.serve.turn.turn import Call, Tool
from ggq.text.detokenize import overlap

CHANNEL, MESSAGE, START, END = "<|channel|>", "<|message|>", "<|start|>", "<|end|>"
CALLED, RETURNED, CONSTRAINED = "<|call|>", "<|return|>", "<|constrain|>"
MARKS = (CHANNEL, MESSAGE, START, END, CALLED, RETURNED, CONSTRAINED)

THOUGHTS = Tags(f"{CHANNEL}analysis{MESSAGE}", END)
FINAL = f"{CHANNEL}final{MESSAGE}"
"""The header of what is answered."""
NEXT = f"{START}assistant"
"""What begins one more message, as a prompt ends."""

LONGEST_HEADER = 512
"""Characters without `MESSAGE` after which a text has no headers."""

_NAME = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")


def in_channels(template: str) -> bool:
    """Whether a chat template is of a model that writes in channels."""
    return CHANNEL in template and MESSAGE in template


class ChannelReader:
    """Splits the text of one answer, as `ggq.serve.turn.reader.Reader` does.

    Args:
        final: Whether the prompt has begun the answer itself already.
    """

    def __init__(self, final: bool = False) -> None:
        self._held, self._name, self._body = "", "", ""
        self._kind = "text" if final else ""  # of the message whose header was read

    @property
    def thinking(self) -> bool:
        """Whether what comes now is thought."""
        return self._kind == "reasoning"

    def push(self, text: str) -> Iterator[Part]:
        """The parts that more text makes certain."""
        self._held += text
        while self._held:
            before = self._held, self._kind
            yield from self._step()
            if (self._held, self._kind) == before:
                return

    def flush(self) -> Iterator[Part]:
        """What is left at the end; a call that was cut off is text."""
        held, self._held = self._held, ""
        if self._kind == "call":
            yield self._called(self._body + held)
        elif held:
            yield ("reasoning" if self.thinking else "text"), held
        self._kind, self._body = "", ""

    def _step(self) -> Iterator[Part]:
        if not self._kind:
            header, mark, rest = self._held.partition(MESSAGE)
            if mark:
                self._held = rest
                self._begin(header)
            elif len(header) > LONGEST_HEADER:
                self._kind = "text"
            return
        part, ended = self._message()
        if self._kind == "call":
            self._body += part
            if ended:
                yield self._called(self._body)
        elif part:
            yield self._kind, part
        if ended:
            self._kind, self._body = "", ""

    def _begin(self, header: str) -> None:
        channel, to = _NAME.search(header), _RECIPIENT.search(header)
        if to is not None:
            self._kind, self._name = "call", to[1]
        else:
            self._kind = "reasoning" if channel is not None and channel[1] == "analysis" else "text"

    def _message(self) -> tuple[str, bool]:
        """Take what is certain of a message off what is held, up to what ends it; whether it was found."""
        held = self._held
        places = [(held.find(mark), mark) for mark in (END, CALLED, RETURNED, START) if mark in held]
        if places:
            place, mark = min(places)
            self._held = held[place + (0 if mark == START else len(mark)) :]
            return held[:place], True
        kept = max(overlap(held, mark) for mark in (END, CALLED, RETURNED, START))
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept], False

    def _called(self, body: str) -> Part:
        return ("call", Call(self._name, body.strip() or "{}")) if is_object(body or "{}") else ("text", body)


def reader_of(
    template: str, thinking: bool, form: Form | None = None, *, final: bool = False
) -> Reader | ChannelReader:
    """What splits an answer of a model with this chat template; arguments as for both readers."""
    return ChannelReader(final) if in_channels(template) else Reader(tags_of(template), thinking, form)


def marks_of(template: str, form: Form | None, special: Mapping[int, str]) -> dict[int, str]:
    """Special tokens, which decode to nothing, whose texts such a reader must see.

    Args:
        template: The chat template.
        form: Of calls, where there are tools.
        special: The texts of all special tokens.
    """
    wanted = [*(tags_of(template) or ()), *(MARKS if in_channels(template) else ())]
    wanted += () if form is None else (form.begin.strip(), form.end.strip(), *form.inside)
    return {number: text for number, text in special.items() if any(text in each for each in wanted)}


def channel_grammar(
    tools: Sequence[Tool], *, must: bool, token: TokenOf, answer: Mapping[str, Any] | None = None
) -> str:
    """A Lark grammar of answers that may think, then answer or call a tool; arguments as for `tools.grammar`."""
    text, end = _text(END, token)
    begun = f"{text} {end} {marked(START, token)} {quoted('assistant')}"
    calls = []
    for tool in tools:
        header = f"{CHANNEL}commentary to=functions.{tool.name} {CONSTRAINED}json{MESSAGE}"
        calls.append(f"({marked(header, token)} %json {json_of(closed(tool.parameters))})")
    body = "/(?s:.*)/" if answer is None else f"%json {json_of(answer)}"
    rules = [
        f"start: thoughts? call{'' if must else ' | thoughts? preamble? final'}",
        f"thoughts: {marked(THOUGHTS.begin, token)} {begun}",
        f"call: preamble? ({' | '.join(calls)})",
        f"preamble: {marked(f'{CHANNEL}commentary{MESSAGE}', token)} {begun}",
    ]
    if not must:
        rules.append(f"final: {marked(FINAL, token)} {body}")
    if answer is not None:  # nothing but what fits the schema
        rules = [rule.replace("preamble? ", "") for rule in rules if not rule.startswith("preamble:")]
    return "\n".join(rules)


def _text(mark: str, token: TokenOf) -> tuple[str, str]:
    """Any text up to a mark, and the mark; where that is no token of its own the text has no "<"."""
    if token(mark) is None:
        return rf"/(?s:[^<]*){escaped(mark)}/", ""
    return "/(?s:.*)/", marked(mark, token)


class FinalOnly:
    """Lets thoughts come first, then the answer, which must match.

    Args:
        inner: What the answer must match.
        encode: Tokens of a text, special ones included.
    """

    def __init__(self, inner: Constraint, encode: Callable[[str], list[int]]) -> None:
        self._inner = inner
        self._thoughts, self._end = encode(THOUGHTS.begin), encode(END)
        self._final, self._next = encode(FINAL), encode(NEXT)
        self._ways = [self._thoughts, self._final]
        self._place = 0  # in those ways
        self._last: list[int] = []
        self._state = "header"

    @property
    def over(self) -> bool:
        """See `Constraint`."""
        return self._state == "answer" and self._inner.over

    def masked(self, logits: np.ndarray) -> np.ndarray:
        """See `Constraint`."""
        if self._state == "answer":
            return self._inner.masked(logits)
        if self._state == "thoughts":
            return logits
        only = np.full_like(logits, -np.inf)
        wanted = [way[self._place] for way in self._ways]
        only[wanted] = logits[wanted]
        if not np.isfinite(only[wanted]).any():
            only[wanted[-1]] = 0
        return only

    def accept(self, token: int) -> None:
        """See `Constraint`."""
        if self._state == "answer":
            self._inner.accept(token)
        elif self._state == "thoughts":
            self._last = [*self._last, token][-len(self._end) :]
            if self._last == self._end:
                self._state, self._ways, self._place = "header", [[*self._next, *self._final]], 0
        else:
            self._ways = [way for way in self._ways if way[self._place] == token]
            self._place += 1
            if self._ways and self._place == len(self._ways[0]):
                self._state = "thoughts" if self._ways[0] == self._thoughts else "answer"


def channel_wrap(
    encode: Callable[[str], list[int]], decode: Callable[[Sequence[int]], str], budget: int | None, final_only: bool
) -> Callable[[Constraint | None], Constraint | None]:
    """What becomes of a constraint of an answer.

    Args:
        encode, decode: Tokens of a text, special ones included, and the text of tokens.
        budget: Tokens of thought; None for as many as the model likes.
        final_only: Whether the constraint is of the answer alone; else it knows of channels.
    """

    def wrapped(inner: Constraint | None) -> Constraint | None:
        if inner is not None and final_only:
            inner = FinalOnly(inner, encode)
        if budget is None:
            return inner
        end = encode(END)
        return ThinkingBudget(inner, begun_by(THOUGHTS.begin, decode), end, budget, [*end, *encode(NEXT)])

    return wrapped
