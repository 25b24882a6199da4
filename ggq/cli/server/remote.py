"""`ggq run` and `ggq chat` with --server: the same, computed elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ggq.cli import generation as cli
from ggq.cli.output import print_json
from ggq.errors import UsageError
from ggq.serve.client import Client, chat_pieces, request_options, text_pieces


def connect(server: str, model: Path | None) -> tuple[Client, str]:
    """A client, and the name of the model to ask.

    Raises:
        UsageError: The server has several models and none is named.
        ServerError: It cannot be reached.
    """
    client = Client(server, os.environ.get("GGQ_API_KEY"))
    if model is not None:
        return client, str(model)
    names = client.models()
    if len(names) != 1:
        raise UsageError(f"the server has the models {', '.join(names)}: name one")
    return client, names[0]


def run_remote(
    server: str, model: Path | None, text: str, options: Mapping[str, Any], *, echo: bool, as_json: bool
) -> None:
    """Continue a text."""
    client, name = connect(server, model)
    if echo and not as_json:
        cli.show(text)
    pieces, usage, reason, first, start = list[str](), dict[str, Any](), None, 0.0, time.perf_counter()
    for kind, what in text_pieces(client, name, text, {"max_tokens": 256, **request_options(options)}):
        if kind == "text":
            first = first or time.perf_counter() - start
            pieces.append(what)
            if not as_json:
                cli.show(what)
        elif kind == "reason":
            reason = what
        else:
            usage = what
    if as_json:
        counts = {"prompt_tokens": usage.get("prompt_tokens"), "generated_tokens": usage.get("completion_tokens")}
        document = {"prompt": text, "text": "".join(pieces), "finish_reason": reason, **counts, "first_token_s": first}
        print_json(document)
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    print(figures(usage, first, time.perf_counter() - start), file=sys.stderr)


def figures(usage: Mapping[str, Any], first: float, whole: float) -> str:
    """The speed of an answer in a few words."""
    count = int(usage.get("completion_tokens", 0))
    more = f", {count} tokens at {cli.rate(count - 1, whole - first):.1f} tok/s" if count > 1 else ""
    return f"{usage.get('prompt_tokens', 0)} prompt tokens, first token after {first:.2f} s{more}"


class RemoteModel:
    """What `ggq chat` asks of a model, asked of a server.

    Args:
        server: Its address.
        model: The name of its model; its only one without.
    """

    def __init__(self, server: str, model: Path | None) -> None:
        self._client, self._name = connect(server, model)

    def remember(self) -> None:
        """Servers remember by themselves."""

    def stream_chat(self, messages: Any, memory: None = None, **options: Any) -> RemoteStream:
        """The answer in pieces as they come."""
        return RemoteStream(chat_pieces(self._client, self._name, messages, request_options(options)))


class RemoteStream:
    """Pieces of text as they come.

    Args:
        pieces: See `ggq.serve.client.chat_pieces`.
    """

    def __init__(self, pieces: Iterable[tuple[str, Any]]) -> None:
        self._pieces = iter(pieces)
        self._start, self._first = time.perf_counter(), 0.0
        self._usage: Mapping[str, Any] = {}
        self.text = ""

    def __iter__(self) -> RemoteStream:
        return self

    def __next__(self) -> str:
        for kind, what in self._pieces:
            if kind == "usage":
                self._usage = what
            elif kind == "text":
                self._first = self._first or time.perf_counter() - self._start
                self.text += what
                return str(what)
        raise StopIteration

    @property
    def answer(self) -> RemoteStream:
        """What has a text: itself."""
        return self

    @property
    def figures(self) -> str:
        """The speed in a few words."""
        return figures(self._usage, self._first, time.perf_counter() - self._start)

    def close(self) -> None:
        """Leave: the server sees that nobody reads."""
        self._pieces.close()  # type: ignore[attr-defined]
