"""Answers on the command line without the thoughts that come before them, which are told apart."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ggq.cli.generation import escaped
from ggq.generate.model import Model
from ggq.generate.stream import Stream
from ggq.serve.turn.channels import marks_of, reader_of
from ggq.serve.turn.reasoning import tags_of
from ggq.text.template import ChatTemplate

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
LAST = 16
"""Tokens of a prompt that may begin thoughts."""


class Answer:
    """The text of one answer: what is said, shown as it comes, and what is thought, which goes to standard error.

    Args:
        model: Answers.
        template: Of its prompts.
        stream: The pieces.
        show: Prints a piece of what is said.
    """

    def __init__(self, model: Model, template: ChatTemplate, stream: Stream, show: Callable[[str], None]) -> None:
        self._stream, self._show = stream, show
        source, prompt = template.source, stream.answer.prompt
        tags = tags_of(source)
        self._marks = marks_of(source, None, model.special_texts)
        thinking = False
        if tags is not None:
            ids = [int(token) for token in prompt[-LAST:]]
            thinking = model.tokenizer.decode(ids, skip_special_tokens=False).rstrip().endswith(tags.begin)
        self._reader = reader_of(source, thinking)
        self._thought = False
        self.text = ""

    def run(self) -> None:
        """Show it to its end."""
        count = 0
        for piece in self._stream:
            tokens = self._stream.answer.tokens
            marks = "".join(self._marks.get(token, "") for token in tokens[count:])
            count = len(tokens)
            self._take(piece + marks)
        self._take("", over=True)

    def close(self) -> None:
        """Leave it as far as it came."""
        self._stream.close()
        self._take("", over=True)

    def _take(self, text: str, *, over: bool = False) -> None:
        for kind, what in [*self._reader.push(text), *(self._reader.flush() if over else ())]:
            assert isinstance(what, str)  # there are no tools
            if kind == "reasoning":
                self._think(what)
            else:
                if self._thought:
                    self._end_thoughts()
                self.text += what
                self._show(what)
        if over and self._thought:
            self._end_thoughts()

    def _think(self, text: str) -> None:
        colour = sys.stderr.isatty()
        if not self._thought and colour:
            sys.stderr.write(DIM)
        self._thought = True
        sys.stderr.write(escaped(text) if colour else text)
        sys.stderr.flush()

    def _end_thoughts(self) -> None:
        sys.stderr.write(f"{PLAIN}\n" if sys.stderr.isatty() else "\n")
        sys.stderr.flush()
        self._thought = False
