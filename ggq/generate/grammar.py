"""Answers that must match a JSON schema, a regular expression or a grammar, by llguidance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ggq.errors import ModelError, UsageError

COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as `json.dumps` writes it: with free white space a small model may write nothing else."""

LONGEST_MESSAGE = 200


class Grammar:
    """What answers must match, compiled for a tokenizer; each answer takes a `Constraint` of it.

    Args:
        kind: "json_schema", "regex" or "lark".
        text: A schema, as an object or as JSON; a regular expression of the regex crate; a grammar in llguidance's
            form of Lark.
        tokenizer: tokenizer.json.
        vocabulary: Rows of the output matrix.
        ends: Token ids that end an answer.

    Raises:
        UsageError: It does not parse, or asks for something that cannot be kept.
        ModelError: The tokenizer cannot be used for it.
    """

    def __init__(
        self, kind: str, text: str | Mapping[str, Any], tokenizer: str, vocabulary: int, ends: Iterable[int]
    ) -> None:
        from llguidance import LLMatcher, LLTokenizer

        if kind == "json_schema":
            try:
                grammar = LLMatcher.grammar_from_json_schema(_schema(text), defaults=COMPACT)  # type: ignore[arg-type]
            except ValueError as problem:
                raise _refusal(kind, str(problem)) from None
        elif isinstance(text, str):
            make = LLMatcher.grammar_from_regex if kind == "regex" else LLMatcher.grammar_from_lark
            grammar = make(text)
        else:
            raise UsageError(f"{kind} must be a text, not {text!r:.80}")
        known = sorted(ends)
        try:
            self._tokenizer = LLTokenizer(tokenizer, n_vocab=vocabulary, eos_token=known or None)
        except Exception as problem:  # the library raises ValueError and worse for tokenizers that it cannot use
            raise ModelError(f"no grammar can be kept with this tokenizer: {_line(str(problem))}") from None
        self._matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if self._matcher.is_error():
            raise _refusal(kind, self._matcher.get_error())

    def constraint(self) -> Constraint:
        """That of one answer, from its beginning."""
        return Constraint(self._matcher.deep_copy(), self._tokenizer.vocab_size)


class Constraint:
    """What one answer may go on with.

    Args:
        matcher: llguidance's, at the beginning.
        vocabulary: Its tokens.
    """

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary
        self._bits = np.zeros(-(-vocabulary // 32), np.int32)

    @property
    def over(self) -> bool:
        """Whether the answer is complete and nothing can follow."""
        return bool(self._matcher.is_stopped())

    def masked(self, logits: np.ndarray) -> np.ndarray:
        """Logits, float32 (vocabulary,), with minus infinity for every token that must not follow.

        Raises:
            ModelError: The grammar became too complex, or no token can follow.
        """
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits.view(np.uint8), count=self._vocabulary, bitorder="little").view(np.bool_)
        if not allowed.any():
            raise ModelError("no token can follow: the vocabulary cannot write what the grammar asks for")
        result = np.full_like(logits, -np.inf)
        result[: len(allowed)][allowed] = logits[: len(allowed)][allowed]
        return result

    def accept(self, token: int) -> None:
        """Go on with a token."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ModelError(f"the answer cannot be kept to the grammar: {_line(self._matcher.get_error())}")


def _schema(text: str | Mapping[str, Any]) -> str:
    """A schema as JSON; what is neither an object nor true or false is refused."""
    try:
        found = json.loads(text) if isinstance(text, str) else text
        if isinstance(found, Mapping | bool):
            return json.dumps(found)
        problem = f"an object expected, found {found!r:.80}"
    except (ValueError, TypeError, RecursionError) as error:
        problem = str(error)
    raise _refusal("json_schema", problem)


def _refusal(kind: str, problem: str) -> UsageError:
    return UsageError(f"{kind} cannot be used: {_line(problem)}")


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[: LONGEST_MESSAGE - 3]}..."
