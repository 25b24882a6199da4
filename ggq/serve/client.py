"""A client of servers that speak OpenAI's interface, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ggq.errors import GGQError, UsageError


class ServerError(GGQError):
    """A server that refuses, or cannot be reached."""


class Client:
    """Asks one server; a connection for each request.

    Args:
        url: "http://localhost:8080", with or without "/v1".
        key: Sent with each request, if any.
        timeout: Seconds of silence after which it is given up.

    Raises:
        UsageError: That is no address of a server.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 600.0) -> None:
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            raise UsageError(f"{url!r} is no address of a server") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is no address of a server, http://HOST:PORT is expected")
        self.url, self._secure, self._timeout = url, parts.scheme == "https", timeout
        self._host, self._port = parts.hostname, port
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def models(self) -> list[str]:
        """The names of the server's models."""
        return [str(each["id"]) for each in json.loads(self._whole("GET", "/v1/models"))["data"]]

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The document that comes back."""
        return json.loads(self._whole("POST", path, body))

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        """The events that come back, each with the moment at which it came.

        Raises:
            ServerError: The server refuses or fails, also in the middle.
        """
        connection, response = self._open("POST", path, {**body, "stream": True})
        try:
            for line in response:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise ServerError(str(event["error"].get("message", event["error"])), path=self.url)
                yield time.perf_counter(), event
        except (OSError, http.client.HTTPException) as problem:
            raise self._lost(problem) from None
        finally:
            connection.close()

    def _whole(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        connection, response = self._open(method, path, body)
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as problem:
            raise self._lost(problem) from None
        finally:
            connection.close()

    def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, self._path + path, data, self._headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as problem:
            connection.close()
            raise self._lost(problem) from None
        if response.status != 200:
            text = response.read(1 << 16)
            connection.close()
            raise ServerError(f"status {response.status}: {_message(text)}", path=self.url)
        return connection, response

    def _lost(self, problem: Exception) -> ServerError:
        reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        return ServerError(f"the server cannot be reached: {reason}", path=self.url)


def _message(data: bytes) -> str:
    try:
        error = json.loads(data)["error"]
        return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    except (ValueError, KeyError, TypeError):
        return data.decode("utf-8", "replace")[:200]


def chat_pieces(client: Client, model: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> Any:
    """The pieces of an answer to a conversation, and at the end its usage: ("text", ...), ("usage", {...})."""
    return _pieces(client, "/v1/chat/completions", {"model": model, "messages": list(messages), **options})


def text_pieces(client: Client, model: str, prompt: str, options: Mapping[str, Any]) -> Any:
    """The same for a text that is continued."""
    return _pieces(client, "/v1/completions", {"model": model, "prompt": prompt, **options})


def _pieces(client: Client, path: str, body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    body["stream_options"] = {"include_usage": True}
    for _, event in client.stream(path, body):
        for choice in event.get("choices", ()):
            text = choice.get("text") or (choice.get("delta") or {}).get("content")
            if text:
                yield "text", text
            if choice.get("finish_reason"):
                yield "reason", choice["finish_reason"]
        if event.get("usage"):
            yield "usage", event["usage"]


def request_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the engine as fields of a request."""
    found = {name: value for name, value in options.items() if value is not None}
    if "json_schema" in found and isinstance(found["json_schema"], str):
        found["json_schema"] = json.loads(found["json_schema"])
    return found
