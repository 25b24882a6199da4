"""Texts as windows of tokens, packed behind each other, and the order in which they are trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ggq.convert.source.tokens import Tokens
from ggq.errors import UsageError
from ggq.evaluate.text import read_text
from ggq.text.tokenizer import begin_with, parse

Windows = NDArray[np.int32]
"""int32 (windows, context), token ids."""


def pack(texts: Sequence[str | os.PathLike[str]], tokenizer: bytes, tokens: Tokens, context: int) -> Windows:
    """Windows of all texts behind each other; each begins with the token that the model expects at a beginning.

    Between two texts stands that token too, where there is one. What does not fill a window is left out.

    Args:
        texts: UTF-8 files.
        tokenizer: The checkpoint's tokenizer.json.
        tokens: Says whether texts begin with a token of their own.
        context: Tokens of a window, at least 2.

    Raises:
        UsageError: All texts together are shorter than a window.
        GGQError: A text cannot be read, or is none.
    """
    encoder = parse(tokenizer, texts[0])
    encoder.no_truncation()
    encoder.no_padding()
    if tokens.add_bos is not None:
        begin_with(encoder, tokens.bos if tokens.add_bos else None, tokens.add_bos, texts[0])
    alone, plain = encoder.encode("a").ids, encoder.encode("a", add_special_tokens=False).ids
    first = alone[: len(alone) - len(plain)] if alone[len(alone) - len(plain) :] == plain else []
    stream: list[int] = []
    for path in texts:
        stream += [*(first if stream else []), *encoder.encode(read_text(path), add_special_tokens=False).ids]
    body = context - len(first)
    count = len(stream) // body
    if not count:
        problem = f"the texts have {len(stream)} tokens, fewer than one window of {context}"
        raise UsageError(problem, path=texts[0], fix="give a longer text or a smaller --context")
    rows = np.array(stream[: count * body], np.int32).reshape(count, body)
    return np.concatenate([np.tile(np.array(first, np.int32), (count, 1)), rows], axis=1)


def hold_out(windows: Windows, share: float = 0.02, most: int = 32) -> tuple[Windows, Windows]:
    """Windows to train on, and the last ones, which are only scored: a share, at least one, at most so many."""
    count = min(most, max(1, int(len(windows) * share)))
    if len(windows) <= count:
        raise UsageError(f"{len(windows)} window of text: one to train on and one to score are needed")
    return windows[:-count], windows[-count:]


def batch_of(windows: Windows, step: int, size: int, seed: int) -> Windows:
    """The windows of a step: each epoch has all of them once, in an order of its own that the seed decides.

    Args:
        windows: To train on.
        step: From 0.
        size: Windows of a batch.
        seed: Of the whole training.
    """
    places = []
    for at in range(step * size, (step + 1) * size):
        epoch, place = divmod(at, len(windows))
        places.append(_order(len(windows), seed, epoch)[place])
    return windows[places]


_ORDERS: dict[tuple[int, int, int], NDArray[np.int64]] = {}


def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    key = (count, seed, epoch)
    if key not in _ORDERS:
        if len(_ORDERS) > 3:
            _ORDERS.clear()
        _ORDERS[key] = np.random.default_rng([seed, epoch]).permutation(count)
    return _ORDERS[key]
