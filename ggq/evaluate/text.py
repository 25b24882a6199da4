"""From a text to windows of token ids."""

from __future__ import annotations

import os
from collections.abc import Sequence

from blake3 import blake3

from ggq.errors import UsageError
from ggq.evaluate.recipes import llama_cpp_windows
from ggq.evaluate.text_windows import LLAMA_CPP, Windows, make_windows
from ggq.format.paths import open_text, os_error
from ggq.generate.model import Model


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file, every character as it is.

    Raises:
        UsageError: It is no regular file, or not UTF-8.
        GGQError: It cannot be read.
    """
    name = os.fspath(path)
    try:
        with open_text(path) as file:
            data = file.read()
    except OSError as error:
        raise os_error(error, name, "read") from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text: byte {data[error.start]:#04x}"
        fix = "give a text, saved as UTF-8"
        raise UsageError(problem, path=name, where=f"byte {error.start}", fix=fix) from None


def text_windows(
    model: Model,
    text: str | Sequence[int],
    context: int,
    stride: int | None,
    tokens: int | None,
    limit: int | None,
    name: str | os.PathLike[str] | None = None,
    recipe: str | None = None,
) -> Windows:
    """The windows of a text, as a model's tokenizer reads it; `name` is its file's, for errors.

    Raises:
        UsageError: See `make_windows`; a stride with the recipe of llama.cpp, which has none.
    """
    if tokens is not None and tokens < 1:
        raise UsageError(f"tokens must be 1 or more, not {tokens}")
    if not len(text):
        raise UsageError("the text is empty", path=name)
    ids = model.encode(text, begin=False)[:tokens]
    if recipe == LLAMA_CPP:
        if stride not in (None, context):
            raise UsageError(f"a stride of {stride}: with the recipe {LLAMA_CPP} windows lie side by side")
        return llama_cpp_windows(ids, context, begin_token(model), limit, name)
    return make_windows(ids, context, stride, limit=limit, begin=begin_token(model), name=name)


def begin_token(model: Model) -> int | None:
    """The token that every text of a model begins with, if it expects one."""
    metadata = model.reader.metadata
    found = metadata.get("tokenizer.bos_id") if metadata.get("tokenizer.add_bos") is True else None
    return found if isinstance(found, int) else None


def text_digest(text: str | Sequence[int]) -> str | None:
    """BLAKE3 of a text as UTF-8, which is its file's; None of token ids."""
    return blake3(text.encode()).hexdigest() if isinstance(text, str) else None
