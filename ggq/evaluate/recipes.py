"""The ways of others to score a text, so that their figures can be compared with ours digit for digit.

- Ours: windows of `context` tokens, the first replaced by the token that begins texts; the last context - context // 2
  tokens of each are scored, or `stride` if that is less.
- llama.cpp: the same windows of the text with that token in front; the last context - context // 2 - 1 are scored.
- hf: a window of up to `context` tokens every `stride`, the last one shorter; of each is scored what no window before
  it has scored. A window's mean counts one token less than it has: the shift of labels costs one in the first window,
  and none in the others, but the loop takes one off from each.

Source: llama.cpp's perplexity tool (first = n_ctx / 2, then tokens first + 1 to n_ctx - 1), and "Perplexity of
fixed-length models" in the documentation of transformers 5.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ggq.errors import UsageError, one_of
from ggq.evaluate.text_windows import LLAMA_CPP, Windows

HF = "hf"

RECIPES = (LLAMA_CPP, HF)


def check_recipe(recipe: str | None) -> None:
    """Refuse a recipe that is none.

    Raises:
        UsageError: It is none.
    """
    if recipe is not None and recipe not in RECIPES:
        raise UsageError(f"recipe must be {one_of(RECIPES)}, not {recipe!r}")


def llama_cpp_windows(
    ids: Sequence[int], context: int, begin: int | None, limit: int | None, name: str | os.PathLike[str] | None = None
) -> Windows:
    """The windows of llama.cpp's perplexity tool.

    Args:
        ids: Of the text, without a beginning token.
        context: Tokens of a window, 3 or more.
        begin: The beginning token, where the model expects one.
        limit: At most so many windows.
        name: The text's file, for errors.

    Raises:
        UsageError: The context is too small, or the text shorter than a window.
    """
    if context < 3:
        raise UsageError(f"context must be 3 or more for the recipe {LLAMA_CPP}, not {context}")
    if limit is not None and limit < 1:
        raise UsageError(f"windows must be 1 or more, not {limit}")
    whole = [*([] if begin is None else [begin]), *ids]
    count = len(whole) // context
    if len(whole) < context:
        problem = f"the text has {len(whole)} tokens, fewer than one window of {context}"
        raise UsageError(problem, path=name, fix="give a longer text or a smaller --context")
    cut = np.array(whole[: count * context], np.int32).reshape(count, context)[:limit]
    if begin is not None:
        cut[:, 0] = begin
    return Windows(cut, context, LLAMA_CPP)


@dataclass(frozen=True)
class StridedText:
    """The windows of transformers' loop: the first, those between, the last, each kind of one length.

    Args:
        groups: Their windows, in order.
        shares: What each window's mean counts, float64 (windows,): one token less than it has, as in that loop.
        context, stride: As asked for.
    """

    groups: tuple[Windows, ...]
    shares: NDArray[np.float64]
    context: int
    stride: int
    recipe: str = HF
    scored: None = None

    @property
    def count(self) -> int:
        """Windows in all."""
        return len(self.shares)

    @property
    def tokens(self) -> int:
        """Tokens that are scored in all."""
        return sum(group.tokens for group in self.groups)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """What each scored token counts, float64 (tokens,)."""
        scored = np.concatenate([np.full(group.count, group.scored) for group in self.groups])
        return np.repeat(self.shares / scored, scored)

    @cached_property
    def digest(self) -> str:
        """BLAKE3 of the ids of all windows as little-endian 32-bit integers."""
        return blake3(b"".join(np.ascontiguousarray(group.ids, "<i4").tobytes() for group in self.groups)).hexdigest()


def strided_text(
    ids: Sequence[int], context: int, stride: int, limit: int | None, name: str | os.PathLike[str] | None = None
) -> StridedText:
    """The windows of transformers' loop over a text.

    Args:
        ids: Of the text, a beginning token included where the tokenizer adds one.
        context: Tokens of a window at most, 2 or more.
        stride: Tokens from window to window, up to the context.
        limit: At most so many windows.
        name: The text's file, for errors.

    Raises:
        UsageError: A number is out of range, or the text has fewer than two tokens.
    """
    if context < 2 or not 1 <= stride <= context:
        raise UsageError(f"context {context} and stride {stride}: 2 or more, and 1 to the context expected")
    if len(ids) < 2:
        raise UsageError(f"the text has {len(ids)} tokens, at least 2 needed", path=name)
    tokens, windows, before = np.asarray(ids, np.int32), list[tuple[NDArray[np.int32], int]](), 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        windows.append((tokens[begin:end], end - before))
        before = end
        if end == len(ids) or len(windows) == limit:
            break
    first = windows[0][0]
    groups, shares = [Windows(first[None], len(first), HF, len(first) - 1)], [len(first) - 1]
    for part, new in windows[1:]:
        last, scored = groups[-1], min(new, len(part) - 1)  # a window's own first token has nothing before it
        if not scored:
            continue
        shares.append(new - 1)
        if len(groups) > 1 and (last.context, last.scored) == (len(part), scored):
            groups[-1] = Windows(np.concatenate([last.ids, part[None]]), stride, HF, scored)
        else:
            groups.append(Windows(part[None], stride, HF, scored))
    return StridedText(tuple(groups), np.array(shares, np.float64), context, stride)
