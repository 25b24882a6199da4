"""Vectors and scores of whole texts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ggq.errors import ModelError, UnsupportedError, UsageError
from ggq.format.container import Container
from ggq.generate.generation import as_tokens
from ggq.generate.request import LastRow
from ggq.generate.scheduler import Scheduler
from ggq.models.parts import Norm, Stack
from ggq.models.text.parts import Dense, VectorHead, head_of
from ggq.quant.stored import decoded
from ggq.tape.executor import Executor
from ggq.tape.ops.activations import ACTIVATIONS
from ggq.tape.program import Run
from ggq.text.template import read_json
from ggq.text.tokenizer import load_tokenizer
from ggq.text.trial import library_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOGETHER = 512
"""Tokens, about, that are computed in one pass."""

Text = str | tuple[str, str]
"""A text, or a pair of texts that are read as one."""

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""What texts are sought for where nothing is said."""

BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
"""What stands before and behind each query and text.

Source: the model card of Qwen3-Reranker.
"""

PROMPTS = "config_sentence_transformers.json"
"""The asset that has texts to put before others, by what they are for: "query", "document"."""


class Tokens(NamedTuple):
    """The tokens of a text.

    Args:
        ids: int32 (n,).
        types: int64 (n,), the type of the text that each belongs to; None where the model knows one type.
        cut: Whether the text had more.
    """

    ids: np.ndarray
    types: np.ndarray | None
    cut: bool


class Vectors:
    """Makes vectors, or scores, of texts with a model that has a head for that; from any number of threads.

    Args:
        reader: The open file.
        config: The model.
        executor: Makes, or gives, where it runs.

    Raises:
        UnsupportedError: The model gives logits.
    """

    def __init__(self, reader: Container, config: Stack, executor: Callable[[], Executor]) -> None:
        head = head_of(config)
        if not isinstance(head, VectorHead):
            raise UnsupportedError(
                "the model continues texts, and makes no vectors of them",
                path=reader.path,
                fix="convert it again with --pooling last, which makes the last token's row the vector",
            )
        self.head = head
        self._reader, self._config, self._executor = reader, config, executor
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None
        self._numbers: dict[str, np.ndarray] = {}

    def tokens(self, texts: Sequence[Text]) -> list[Tokens]:
        """The tokens of texts, of each at most as many as the model reads.

        Raises:
            ModelError: The file has no tokenizer.
            UsageError: A text is not Unicode, or has no tokens.
        """
        for text in texts:
            for each in text if isinstance(text, tuple) else (text,):
                if not isinstance(each, str):
                    raise UsageError(f"texts are strings, not {type(each).__name__}")
                try:
                    each.encode()
                except UnicodeEncodeError:
                    raise UsageError("a text is not Unicode") from None
        with library_errors(self._reader.path):
            encodings = self._encoder().encode_batch(list(texts))
        types = getattr(self._config.embedding, "types", 0)
        return [
            Tokens(
                as_tokens(each.ids),
                np.array(each.type_ids, np.int64) if types > 1 else None,
                bool(each.overflowing),
            )
            for each in encodings
        ]

    def results(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """What the head makes of texts.

        Returns:
            float32 (texts, width): vectors, or scores.

        Raises:
            UsageError: A text has no tokens, or one that is none of the vocabulary.
            ModelError: The model computes NaN or infinity.
        """
        empty = next((number for number, each in enumerate(tokens) if not len(each.ids)), None)
        if empty is not None:
            raise UsageError(f"text {empty + 1} of {len(tokens)} has no tokens")
        found = [self._after(self._pooled(part)) for part in batches(tokens)]
        result = np.concatenate(found) if found else np.zeros((0, self.width), np.float32)
        if not np.isfinite(result).all():
            fix = "`ggq verify FILE` checks the file"
            raise ModelError("the model computes NaN or infinity", path=self._reader.path, fix=fix)
        return result

    @property
    def width(self) -> int:
        """Numbers of a result."""
        last = self.head.output or self.head.dense
        return self._config.hidden_size if last is None else last.width

    def prompt(self, name: str) -> str:
        """The text that the model wants before texts of some use.

        Raises:
            UsageError: It has none of that name.
        """
        known = read_json(self._reader.assets, PROMPTS, self._reader.path).get("prompts")
        known = {key: text for key, text in known.items() if isinstance(text, str)} if isinstance(known, dict) else {}
        if name not in known:
            raise UsageError(f"the model has no prompt {name!r}; it has {', '.join(map(repr, known)) or 'none'}")
        return str(known[name])

    def _encoder(self) -> Tokenizer:
        with self._lock:
            if self._tokenizer is None:
                reader = self._reader
                tokenizer = load_tokenizer(reader.assets, reader.metadata, reader.path)
                with library_errors(reader.path):
                    tokenizer.enable_truncation(self._config.context_length)
                self._tokenizer = tokenizer
            return self._tokenizer

    def _pooled(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """The rows of texts that are computed together, pooled: float32 (texts, width of the model)."""
        executor, wanted = self._executor(), "last" if self.head.pool == "last" else "all"
        open_now: list[int] = []
        try:
            for _ in tokens:
                open_now.append(executor.open_sequence())
            runs = [Run(s, each.ids, wanted, each.types) for s, each in zip(open_now, tokens)]
            rows = executor.forward(runs)
        finally:
            for sequence in open_now:
                executor.close_sequence(sequence)
        if self.head.pool == "last":
            return rows
        lengths = np.array([len(each.ids) for each in tokens])
        starts = np.cumsum(lengths) - lengths
        if self.head.pool == "first":
            return np.ascontiguousarray(rows[starts])
        sums: np.ndarray = np.add.reduceat(rows, starts, axis=0, dtype=np.float64)
        return (sums / lengths[:, None]).astype(np.float32)

    def _after(self, x: np.ndarray) -> np.ndarray:
        """What the head makes of pooled rows."""
        for name, part in {"dense": self.head.dense, "output": self.head.output}.items():
            x = x if part is None else self._dense(name, part, x)
        if self.head.normalized:
            lengths = np.sqrt((x.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
            x = (x / np.maximum(lengths, 1e-12)).astype(np.float32)
        return x

    def _dense(self, name: str, part: Dense, x: np.ndarray) -> np.ndarray:
        x = x @ self._weight(f"{name}.weight").T
        x = x + self._weight(f"{name}.bias") if part.bias else x
        if part.activation == "tanh":
            x = np.tanh(x)
        elif part.activation != "none":
            x = ACTIVATIONS[part.activation].value(np, x)
        return x if part.norm is None else self._norm(f"{name}_norm", part.norm, x)

    def _norm(self, name: str, part: Norm, x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        x = x - x.mean(axis=1, keepdims=True) if part.kind == "layer" else x
        x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + part.epsilon)
        x = x * self._weight(f"{name}.weight") if part.weight else x
        return (x + self._weight(f"{name}.bias") if part.bias else x).astype(np.float32)

    def _weight(self, role: str) -> np.ndarray:
        """The numbers of a small tensor of the head."""
        if role not in self._numbers:
            tensors = self._reader.tensors.values()
            entry = next(each for each in tensors if each.attributes.get("role") == role)
            self._numbers[role] = decoded(self._reader, entry)
        return self._numbers[role]


def batches(tokens: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    """Consecutive texts that are computed in one pass."""
    part: list[Tokens] = []
    count = 0
    for each in tokens:
        if part and count + len(each.ids) > TOGETHER:
            yield part
            part, count = [], 0
        part.append(each)
        count += len(each.ids)
    if part:
        yield part


class Judge:
    """Asks a decoder about texts.

    Args:
        tokenizer: The model's.
        context: Tokens of the longest question.
    """

    def __init__(self, tokenizer: Tokenizer, context: int) -> None:
        self._tokenizer, self._context = tokenizer, context
        answers = [tokenizer.encode(word, add_special_tokens=False).ids for word in ("no", "yes")]
        marks = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
        self.able = all(len(each) == 1 for each in answers) and None not in map(tokenizer.token_to_id, marks)
        """Whether the vocabulary has both answers and the marks of a conversation."""
        self._answers = [each[0] for each in answers] if self.able else []

    def question(self, query: str, text: str, instruction: str) -> tuple[list[int], bool]:
        """The tokens of a question, and whether the text was cut so that they fit."""
        before, middle, after = (
            self._tokenizer.encode(part, add_special_tokens=False).ids
            for part in (BEFORE, f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {text}", AFTER)
        )
        most = max(0, self._context - len(before) - len(after))
        return [*before, *middle[:most], *after], len(middle) > most

    def scores(self, scheduler: Scheduler, questions: Sequence[list[int]]) -> np.ndarray:
        """The share of "yes" in the probabilities of "yes" and "no", float32 (questions,)."""
        requests = [LastRow(tokens) for tokens in questions]
        scheduler.complete(requests)
        found = np.array([each.logits[self._answers] for each in requests], np.float64).reshape(-1, 2)
        return np.asarray(1 / (1 + np.exp(found[:, 0] - found[:, 1])), np.float32)
