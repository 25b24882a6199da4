"""Calibration text: windows of tokens taken evenly from a file of any size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ggq.convert.source.tokens import Tokens
from ggq.errors import ConvertError
from ggq.format.paths import open_text, os_error
from ggq.text.tokenizer import begin_with, parse

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTEXT = 512
"""Tokens of a window, or the model's context where that is shorter."""

VECTORS_CONTEXT = 32
"""The same for a model that makes vectors: sentences, which stand at the first positions and between its own tokens."""

DEFAULT_TOKENS = 16384
"""Tokens of all windows together, by default."""

WHOLE_BYTES = 1 << 20
"""A text up to this size is tokenized whole."""

TOKEN_BYTES = 12
"""Bytes that a token has at most, on average over a window."""


MOST_ODD = 10
"""One byte in so many may be no UTF-8, as in texts of older encodings; more make no text."""

CUT = 6
"""Bytes, at most, of the characters that the ends of a piece cut through."""


@dataclass(frozen=True, eq=False)
class CalibrationText:
    """What a checkpoint is calibrated on.

    Args:
        windows: int32 (windows, context), token ids.
        digest: Of the windows' tokens, hexadecimal: the same digest, the same statistics.
    """

    windows: NDArray[np.int32]
    digest: str

    @property
    def tokens(self) -> int:
        """Tokens of all windows."""
        return int(self.windows.size)


def read_windows(
    path: str | os.PathLike[str], tokenizer: bytes, tokens: Tokens, context: int, wanted: int | None = None
) -> CalibrationText:
    """Cut windows out of a text, evenly over its length, so that a long text is represented whole.

    Args:
        path: A UTF-8 text; of bytes that are none, a few are skipped.
        tokenizer: The checkpoint's tokenizer.json, checked before.
        tokens: Says whether a window begins with a token of its own.
        context: Tokens of a window.
        wanted: Tokens of all windows together, at least 1, rounded up to whole windows; by default DEFAULT_TOKENS.
            A shorter text gives as many windows as it has.

    Raises:
        ConvertError: The text is shorter than a window, or no text.
        GGQError: It cannot be read.
    """
    wanted = DEFAULT_TOKENS if wanted is None else wanted
    encoder = parse(tokenizer, path)
    encoder.no_truncation()
    encoder.no_padding()
    if tokens.add_bos is not None:
        begin_with(encoder, tokens.bos if tokens.add_bos else None, tokens.add_bos, path)
    first, last = _around(encoder)
    body, count = max(1, context - len(first) - len(last)), -(-wanted // context)
    found: list[list[int]] = []
    try:
        with open_text(path) as file:
            for text in _pieces(file, os.fspath(path), count, body):
                ids = encoder.encode(text, add_special_tokens=False).ids
                found += [ids[start : start + body] for start in range(0, len(ids) - body + 1, body)]
    except OSError as error:
        raise os_error(error, os.fspath(path), "read") from None
    if not found:
        raise ConvertError(
            f"the text is shorter than one window of {context} tokens", path=path, fix="calibrate on a longer text"
        )
    chosen = [found[i * len(found) // count] for i in range(count)] if len(found) > count else found
    windows = np.array([[*first, *ids, *last][:context] for ids in chosen], np.int32)
    return CalibrationText(windows, blake3(windows.astype("<i4").tobytes()).hexdigest())


def _around(encoder: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before a text and behind it."""
    whole, plain = (encoder.encode("a", add_special_tokens=add).ids for add in (True, False))
    for place in range(len(whole) - len(plain) + 1):
        if whole[place : place + len(plain)] == plain:
            return whole[:place], whole[place + len(plain) :]
    return encoder.encode("", add_special_tokens=True).ids, []


def _pieces(file: FileIO, path: str, count: int, body: int) -> Iterator[str]:
    """The whole of a short text, or as many pieces as windows are wanted, each of about a window at a line's start."""
    size, length = os.fstat(file.fileno()).st_size, body * TOKEN_BYTES
    if size <= max(WHOLE_BYTES, count * length):
        yield _decoded(file.read(), path)
        return
    for i in range(count):
        file.seek(i * (size - length) // max(1, count - 1))
        text = _decoded(file.read(length), path)
        yield text[text.find("\n") + 1 :] if i else text


def _decoded(data: bytes, path: str) -> str:
    """Bytes as text, without those that are none."""
    text = data.decode("utf-8", "ignore")
    odd = len(data) - len(text.encode()) + text.count("\0")
    if odd > len(data) // MOST_ODD + CUT:
        raise ConvertError(f"{odd} of {len(data)} bytes are not UTF-8 text", path=path, fix="calibrate on a UTF-8 text")
    return text
