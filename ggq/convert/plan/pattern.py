"""Regular expressions that take time in proportion to the text, whatever they are: a stranger's recipe may hold them.

All alternatives are followed at once (Thompson 1968), so nothing is tried twice. There is what names of tensors need:
characters, `.`, `[a-z]`, `[^a-z]`, `\\d \\w \\s` and their opposites, `\\.`, `*`, `+`, `?`, `{m,n}`, `|`, groups, `^`
and `$`.
A `?` behind a repetition changes nothing where only whether there is a match is asked. Back references and looking
around are refused.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

if sys.version_info >= (3, 11):
    from re import _constants as sre  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
else:  # the same modules by their old names
    import sre_constants as sre
    import sre_parse as parser

from ggq.errors import UsageError

LONGEST = 1000
"""Characters of a pattern."""

MOST_STATES = 4000
"""States of a pattern, repetitions written out."""

Test = Callable[[str], bool]


@dataclass(slots=True)
class _State:
    """Goes on to `next` over a character that passes `test`; without one, over nothing where `place` holds."""

    test: Test | None = None
    place: str = ""
    next: list[int] = field(default_factory=list)


class Pattern:
    """A regular expression.

    Args:
        pattern: Its text.
        origin: Where it comes from, for the messages.

    Raises:
        UsageError: It is none, or has what there is not.
    """

    def __init__(self, pattern: str, origin: str = "") -> None:
        self.pattern, self._origin = pattern, origin
        if len(pattern) > LONGEST:
            raise self._refuse(f"{len(pattern)} characters, up to {LONGEST} allowed")
        try:
            pattern.encode()
            items = list(parser.parse(pattern))
        except (re.error, RecursionError, OverflowError, UnicodeEncodeError) as error:
            raise UsageError(f"{origin}: not a regular expression: {error}") from None
        self._states: list[_State] = []
        self._end = self._add(_State())
        self._start = self._sequence(items, self._end)

    @property
    def states(self) -> int:
        """How much memory and time it takes: its states, repetitions written out."""
        return len(self._states)

    def search(self, text: str) -> bool:
        """Whether any part of the text matches."""
        current: set[int] = set()
        for index in range(len(text) + 1):
            reached = self._reach([*current, self._start], index, len(text))
            if self._end in reached:
                return True
            if index < len(text):
                current = self._step(reached, text[index])
        return False

    def fullmatch(self, text: str) -> bool:
        """Whether the whole text matches."""
        current = {self._start}
        for index, character in enumerate(text):
            current = self._step(self._reach(list(current), index, len(text)), character)
        return self._end in self._reach(list(current), len(text), len(text))

    def _step(self, reached: set[int], character: str) -> set[int]:
        states = self._states
        passing = (states[number] for number in reached)
        return {after for state in passing if state.test and state.test(character) for after in state.next}

    def _reach(self, waiting: list[int], index: int, length: int) -> set[int]:
        """These states and those that follow over nothing at this place of the text."""
        reached: set[int] = set()
        while waiting:
            number = waiting.pop()
            if number in reached:
                continue
            reached.add(number)
            state = self._states[number]
            holds = {"": True, "start": index == 0, "end": index == length}[state.place]
            if state.test is None and holds:
                waiting.extend(state.next)
        return reached

    def _refuse(self, problem: str) -> UsageError:
        return UsageError(f"{self._origin}: {problem}")

    def _add(self, state: _State) -> int:
        if len(self._states) >= MOST_STATES:
            raise self._refuse(f"the regular expression needs more than {MOST_STATES} states")
        self._states.append(state)
        return len(self._states) - 1

    def _sequence(self, items: Any, after: int) -> int:
        for item in reversed(list(items)):
            after = self._item(item, after)
        return after

    def _item(self, item: Any, after: int) -> int:
        """The first state of an item that goes on with `after`."""
        kind, value = item
        if kind is sre.SUBPATTERN:
            return self._sequence(value[3], after)
        if kind is sre.BRANCH:
            return self._add(_State(next=[self._sequence(branch, after) for branch in value[1]]))
        if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            least, most, inner = value
            return self._repeat(least, most, inner, after)
        if kind is sre.AT and value in _PLACES:
            return self._add(_State(place=_PLACES[value], next=[after]))
        test = self._test(kind, tuple(value) if kind is sre.IN else value)
        return self._add(_State(test, next=[after]))

    def _test(self, kind: Any, value: Any) -> Test:
        try:
            return _test(kind, value)
        except KeyError:
            raise self._refuse(f"{str(kind).lower()} is not supported in a regular expression here") from None

    def _repeat(self, least: int, most: Any, inner: Any, after: int) -> int:
        if most is sre.MAXREPEAT:
            loop = self._add(_State(next=[after]))
            self._states[loop].next.append(self._sequence(inner, loop))
            after = loop
        else:
            for _ in range(int(most) - least):
                after = self._add(_State(next=[after, self._sequence(inner, after)]))
        for _ in range(least):
            after = self._sequence(inner, after)
        return after


_PLACES: dict[object, str] = {
    sre.AT_BEGINNING: "start",
    sre.AT_BEGINNING_STRING: "start",
    sre.AT_END: "end",
    sre.AT_END_STRING: "end",
}
_CLASSES: dict[object, Test] = {
    sre.CATEGORY_DIGIT: str.isdigit,
    sre.CATEGORY_NOT_DIGIT: lambda c: not c.isdigit(),
    sre.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    sre.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
    sre.CATEGORY_SPACE: str.isspace,
    sre.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
}


@functools.lru_cache(maxsize=4096)
def _test(kind: Any, value: Any) -> Test:
    """Which characters an item of one character stands for; raises KeyError for other items."""
    if kind is sre.ANY:
        return lambda character: character != "\n"
    if kind is sre.LITERAL:
        return lambda character: ord(character) == value
    if kind is sre.NOT_LITERAL:
        return lambda character: ord(character) != value
    if kind is sre.RANGE:
        low, high = value
        return lambda character: low <= ord(character) <= high
    if kind is sre.CATEGORY and value in _CLASSES:
        return _CLASSES[value]
    if kind is sre.IN:
        tests = [_test(inner, found) for inner, found in value if inner is not sre.NEGATE]
        negated = value[0][0] is sre.NEGATE
        return lambda character: any(test(character) for test in tests) != negated
    raise KeyError(kind)
