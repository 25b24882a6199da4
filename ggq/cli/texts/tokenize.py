"""`ggq tokenize`: token ids of texts, and texts of token ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggq.cli.generation import FILE
from ggq.cli.output import print_json, printable
from ggq.cli.texts.embed import SOURCE, TEXTS, read_texts
from ggq.errors import UsageError
from ggq.generate.loading import open_container
from ggq.text.tokenizer import load_tokenizer
from ggq.text.trial import library_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tokenize(
    file: FILE,
    texts: TEXTS = None,
    source: SOURCE = None,
    decode: Annotated[bool, typer.Option("--decode", help="Give the texts of token ids instead.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Add no token that prompts begin or end with.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Print only how many tokens there are.")] = False,
    pieces: Annotated[bool, typer.Option("--pieces", help="Print a token a line, with its text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Give the token ids of texts, or the texts of token ids.

    Ids are those that `ggq run` computes with: the first token that a model expects is there unless --plain is given.

    Example:
        ggq tokenize model.ggq "Once upon a time"
        ggq tokenize model.ggq --file prompts.txt --count
        ggq tokenize model.ggq --decode "1 15043 29892"
    """
    several = read_texts(texts or [], source)
    container = open_container(file)
    try:
        tokenizer = load_tokenizer(container.assets, container.metadata, container.path)
        with library_errors(container.path):
            if decode:
                found = [tokenizer.decode(ids, skip_special_tokens=False) for ids in map(_ids, several)]
                print_json({"texts": found}) if as_json else print("\n".join(found))
                return
            documents = [_document(tokenizer, text, plain=plain) for text in several]
    finally:
        container.close()
    if as_json:
        print_json({"texts": documents})
        return
    for document in documents:
        if count:
            print(len(document["ids"]))
        elif pieces:
            for number, token in zip(document["ids"], document["tokens"]):
                print(f"{number:>8}  {printable(token)}")
        else:
            print(*document["ids"])


def _document(tokenizer: Tokenizer, text: str, *, plain: bool) -> dict[str, Any]:
    """A text's ids and tokens."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("a text is not Unicode") from None
    found = tokenizer.encode(text, add_special_tokens=not plain)
    return {"ids": list(found.ids), "tokens": list(found.tokens)}


def _ids(text: str) -> Sequence[int]:
    """Token ids that are written with spaces or commas between them."""
    parts = [part for part in re.split(r"[\s,\[\]]+", text) if part]
    wrong = next((part for part in parts if not (part.isascii() and part.isdecimal() and int(part) < 1 << 32)), None)
    if wrong is not None:
        raise UsageError(f"{wrong[:40]!r} is no token id", fix='such as --decode "1 15043 29892"')
    return [int(part) for part in parts]
