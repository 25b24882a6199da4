"""What a model thinks of each scored token: log-probabilities over its vocabulary, part by part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ggq.errors import NotFiniteError, UnsupportedError, UsageError
from ggq.evaluate.text_windows import Part, Windows, parts
from ggq.generate.finite import located
from ggq.generate.model import Model
from ggq.models.text.parts import LogitsHead, TextSpec
from ggq.tape.program import Run


def log_probabilities(model: Model, windows: Windows) -> Iterator[tuple[Part, NDArray[np.float64]]]:
    """Run a model over windows.

    Args:
        model: Of a context that holds a window, and a vocabulary that holds the ids.
        windows: The text.

    Yields:
        Parts in order, and float64 (rows of the part, vocabulary): log p(token | the window's tokens before it) for
        each scored token's place.

    Raises:
        UsageError: The windows do not fit the model.
        ModelError: It computes NaN or infinity.
    """
    vocabulary = model.config.vocabulary_size
    check_fit(model, windows)
    first = windows.context - windows.scored  # the first scored token, which the row before it predicts
    executor, open_now, total = model.executor, list[int](), windows.context
    try:
        for part in parts(windows, vocabulary):
            ids = windows.ids[part.windows]
            if part.scored.start == 0:
                while open_now:
                    executor.close_sequence(open_now.pop())
                open_now.extend(executor.open_sequence() for _ in ids)
                if first > 1:
                    executor.forward([Run(s, row[: first - 1], "none", total=total) for s, row in zip(open_now, ids)])
            columns = slice(first - 1 + part.scored.start, first - 1 + part.scored.stop)
            logits = executor.forward([Run(s, row[columns], "all", total=total) for s, row in zip(open_now, ids)])
            try:
                log_probs = log_softmax(logits, str(model.reader.path))
            except NotFiniteError as error:
                odd = int(np.argmin(np.isfinite(logits).all(axis=1))) // (len(logits) // len(ids))
                raise located(error, executor, ids[odd][: columns.stop].tolist()) from None
            yield part, log_probs
    finally:
        while open_now:
            executor.close_sequence(open_now.pop())


def check_context(model: Model, context: int) -> None:
    """Refuse windows of more tokens than a model can take."""
    if context > model.config.context_length:
        raise UsageError(
            f"windows of {context} tokens do not fit into the model's context of {model.config.context_length}",
            path=model.reader.path,
            fix="give a smaller --context, or allow it: --allow-longer",
        )


def check_fit(model: Model, windows: Windows) -> None:
    """Refuse windows that a model cannot take."""
    config = model.config
    if isinstance(config, TextSpec) and not isinstance(config.head, LogitsHead):
        raise UnsupportedError(
            "the model makes vectors of texts and gives no logits, which scores are made of", path=model.reader.path
        )
    check_context(model, windows.context)
    for token in (int(windows.ids.min()), int(windows.ids.max())):
        if not 0 <= token < config.vocabulary_size:
            raise UsageError(
                f"token id {token} is outside the vocabulary, 0 to {config.vocabulary_size - 1} allowed",
                path=model.reader.path,
            )


def log_softmax(logits: NDArray[np.float32], path: str) -> NDArray[np.float64]:
    """Logarithms of the probabilities that logits stand for, row by row, in float64."""
    if not np.isfinite(logits).all():
        raise NotFiniteError("the model computes NaN or infinity", path=path, fix="`ggq verify FILE` checks the file")
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows
