"""The text of an answer, as it comes, told apart: thoughts, text, calls of functions."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.serve.turn.reasoning import Tags
from ggq.serve.turn.tools import Form
from ggq.serve.turn.turn import Call
from ggq.text.detokenize import overlap

Part = tuple[str, str | Call]
"""("reasoning", text), ("text", text) or ("call", call)."""


class Reader:
    """Splits the text of one answer.

    Args:
        tags: Of thoughts, if the model thinks.
        thinking: Whether the prompt has begun the thoughts.
        form: Of calls, where there are tools.
    """

    def __init__(self, tags: Tags | None, thinking: bool, form: Form | None) -> None:
        self._tags, self._form = tags, form
        self.thinking = thinking and tags is not None
        self._may_think = tags is not None and not self.thinking  # at the beginning of the answer
        self._held, self._block = "", ""
        self._in_call = form is not None and not form.begin
        self._fresh = False

    def push(self, text: str) -> Iterator[Part]:
        """The parts that more text makes certain."""
        self._held += text
        while self._held:
            before = self._held
            yield from self._step()
            if self._held == before:
                return

    def flush(self) -> Iterator[Part]:
        """What is left at the end; a call that was cut off is text."""
        held, self._held = self._held, ""
        if self._in_call:
            calls = (
                self._form.calls(self._block + held) if self._form is not None and not self._form.end.strip() else []
            )
            before = self._form.begin.strip() if self._form is not None else ""
            yield from (("call", call) for call in calls) if calls else self._text(before + self._block + held)
        elif self.thinking:
            if held:
                yield "reasoning", held
        else:
            yield from self._text(held)

    def _step(self) -> Iterator[Part]:
        """Take what is certain off what is held."""
        if self.thinking:
            assert self._tags is not None
            part, found = self._up_to(self._tags.end)
            if part:
                yield "reasoning", part
            if found:
                self.thinking, self._fresh = False, True
        elif (
            self._may_think and self._tags is not None and self._tags.begin.startswith(self._held.lstrip()[:1] or "\n")
        ):
            start = self._held.lstrip()
            if start.startswith(self._tags.begin):
                self._held, self.thinking, self._may_think = start[len(self._tags.begin) :], True, False
            elif not self._tags.begin.startswith(start):
                self._may_think = False
        elif self._in_call:
            yield from self._calls()
        else:
            self._may_think = False
            part, found = self._up_to(self._form.begin.strip()) if self._form is not None else (self._held, False)
            if self._form is None:
                self._held = ""
            if part and not (found and not part.strip()):
                yield from self._text(part)
            if found:
                self._in_call, self._block = True, ""

    def _calls(self) -> Iterator[Part]:
        """The block of a call, up to its end; one without a mark for that ends with the answer."""
        assert self._form is not None
        mark = self._form.end.strip()
        again = self._form.begin.strip() if not mark and not self._form.listed else ""
        if not mark and not again:
            self._block, self._held = self._block + self._held, ""
            return
        part, found = self._up_to(mark or again)
        self._block += part
        if found:
            calls = self._form.calls(self._block)
            if calls:
                yield from (("call", call) for call in calls)
                self._fresh = True
            else:
                yield from self._text(f"{self._form.begin.strip()}{self._block}{mark}")
            self._block, self._in_call = "", not mark

    def _up_to(self, mark: str) -> tuple[str, bool]:
        """Take text off what is held, up to a mark, which goes too, or to what may become one; whether it was found."""
        place = self._held.find(mark)
        if place >= 0:
            part, self._held = self._held[:place], self._held[place + len(mark) :]
            return part, True
        kept = overlap(self._held, mark)
        part, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return part, False

    def _text(self, text: str) -> Iterator[Part]:
        """Text, without the empty lines behind thoughts and calls."""
        if self._fresh:
            text = text.lstrip("\n")
            self._fresh = not text
        if text:
            yield "text", text
