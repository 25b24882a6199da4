"""Tokens to text as they come: whole characters only, held back where a stop string may begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ggq.errors import UsageError

REPLACEMENT = "\ufffd"
"""What a tokenizer decodes an incomplete UTF-8 character to."""

CONTEXT = 8
"""Tokens of the prompt that the first new token is decoded after: a leading space depends on them."""

LONGEST_HELD = 16
"""Replacement characters that are held back at most: a character is spread over 4 tokens at most, the rest is noise."""


class Detokenizer:
    """Turns the tokens of one sequence into pieces of text that never split a character.

    Tokens are decoded after the few before them, since what a token means in text depends on those.

    Args:
        decode: Token ids to text.
        prompt: Ids before the first new one.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._context = tail(decode, prompt)
        self._new: list[int] = []
        self._emitted = 0  # characters of the decoded new tokens that were handed out

    def push(self, token: int) -> str:
        """The text that this token completes, "" if none."""
        self._new.append(token)
        text = self._new_text()
        whole = text.rstrip(REPLACEMENT)
        held = len(text) - len(whole)
        if held > LONGEST_HELD:
            whole = text[:-4]
        piece = whole[self._emitted :]
        if held == 0 and text:
            self._context, self._new, self._emitted = self._new, [], 0
        else:
            self._emitted = max(self._emitted, len(whole))
        return piece

    def flush(self) -> str:
        """What was held back, when nothing more will come: replacement characters."""
        piece = self._new_text()[self._emitted :]
        self._context, self._new, self._emitted = self._context + self._new, [], 0
        return piece

    def _new_text(self) -> str:
        before = self._decode(self._context) if self._context else ""
        return self._decode(self._context + self._new)[len(before) :]


def tail(decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> list[int]:
    """The last tokens of a prompt, from the beginning of a character on."""
    for size in range(CONTEXT, CONTEXT + 4):
        context = list(prompt[-size:])
        if not decode(context).startswith(REPLACEMENT):
            return context
    return list(prompt[-CONTEXT:])


class StopStrings:
    """Passes text through up to the first stop string, holding back an end that may become one.

    Special tokens have no text, but a stop string may be one or contain some: they are put in as hidden text, which is
    matched and never passed on.

    Args:
        strings: The stop strings; the one that begins first wins.
    """

    def __init__(self, strings: Sequence[str] = ()) -> None:
        if isinstance(strings, str) or not all(isinstance(text, str) and text for text in strings):
            raise UsageError("stop is a list of strings, none of them empty")
        self._strings = list(strings)
        self._held: list[tuple[str, bool]] = []  # characters, and whether they are passed on
        self.found: str | None = None

    def push(self, piece: str, hidden: str = "") -> str:
        """The text that is now certain; `found` is set once a stop string is complete, and "" comes from then on.

        Args:
            piece: What comes next.
            hidden: The special token behind it, if there is one.
        """
        if self.found is not None:
            return ""
        if not self._strings:
            return piece
        self._held += [(character, True) for character in piece] + [(character, False) for character in hidden]
        text = "".join(character for character, _ in self._held)
        places = [(text.find(string), string) for string in self._strings if string in text]
        if places:
            place, self.found = min(places)
            passed = visible(self._held[:place])
            self._held = []
            return passed
        held = max((overlap(text, string) for string in self._strings), default=0)
        passed = visible(self._held[: len(text) - held])
        self._held = self._held[len(text) - held :]
        return passed

    def flush(self) -> str:
        """What was held back, when nothing more will come."""
        text, self._held = visible(self._held), []
        return text


def visible(characters: Sequence[tuple[str, bool]]) -> str:
    """The text of those that are passed on."""
    return "".join(character for character, passed in characters if passed)


def overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that begins `string` and is shorter than it."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)
