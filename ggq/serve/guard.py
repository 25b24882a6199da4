"""What a request passes before anything looks at it: host, origin, key, length; and the line in the log behind it."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ggq.serve.errors import ApiError
from ggq.serve.settings import LOOPBACK, Settings

log = logging.getLogger("ggq.serve")

OPEN = ("/health", "/", "/status", "/favicon.ico")
"""Paths that need no key: pages, which ask with the key that their reader types, and whether the server lives."""
METHODS = "GET, POST, DELETE, OPTIONS"


class Guard:
    """ASGI middleware.

    Args:
        app: What it guards.
        settings: Keys, hosts, origins, the longest body.
        count: Called with the status of each answer.
    """

    def __init__(self, app: ASGIApp, settings: Settings, count: Callable[[int], None]) -> None:
        self._app, self._settings, self._count = app, settings, count
        self._keys = [hashlib.sha256(key.encode()).digest() for key in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        start, status = time.perf_counter(), 500
        allowed = self._allowed_origin(headers.get("origin"))

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *self._extra(scope, allowed)]}
            await send(message)

        scope["ggq.id"], scope["ggq.client"] = uuid.uuid4().hex, "host unknown"
        try:
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers and allowed:
                await answer({"type": "http.response.start", "status": 204, "headers": []})
                await answer({"type": "http.response.body", "body": b""})
                return
            try:
                self._check(scope, headers, allowed)
            except ApiError as problem:
                path = scope["path"]
                await JSONResponse(problem.document(path), problem.status, problem.headers)(scope, receive, answer)
                return
            await self._app(scope, _limited(receive, self._settings.most_body), answer)
        finally:
            self._count(status)
            seconds = time.perf_counter() - start
            log.info("%s %s %d %.3f s %s", scope["method"], scope["path"], status, seconds, scope["ggq.client"])

    def _check(self, scope: Scope, headers: dict[str, str], allowed: str | None) -> None:
        if scope.get("client"):
            scope["ggq.client"] = f"host {scope['client'][0]}"
        self._check_host(headers.get("host", ""))
        if "origin" in headers and not allowed and not _same_host(headers["origin"], headers.get("host", "")):
            raise ApiError(403, "pages of this origin may not ask here", code="origin_refused")
        if self._keys and scope["path"] not in OPEN:
            scope["ggq.client"] = self._client(headers)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._settings.most_body:
            raise too_large(self._settings.most_body)

    def _check_host(self, host: str) -> None:
        """Refuse names that are not this server's: a page of a stranger may have had its name point to this machine."""
        hosts = self._settings.hosts
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if "*" not in hosts and name.lower() not in (*LOOPBACK, *hosts):
            raise ApiError(403, f"this server is not {name!r:.80}", code="host_refused")

    def _client(self, headers: dict[str, str]) -> str:
        """The name of the key that a request has; all keys are compared, each in constant time.

        Raises:
            ApiError: 401, it has none of them.
        """
        kind, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
        matches = [hmac.compare_digest(digest, key) for key in self._keys]
        if not given or True not in matches:
            problem = "the key is none of this server's" if given else "a key is needed: Authorization: Bearer KEY"
            raise ApiError(401, problem, code="invalid_api_key")
        return f"key {matches.index(True) + 1}"

    def _allowed_origin(self, origin: str | None) -> str | None:
        """What Access-Control-Allow-Origin says."""
        origins = self._settings.origins
        return None if origin is None else origin if origin in origins else "*" if "*" in origins else None

    def _extra(self, scope: Scope, allowed: str | None) -> list[tuple[bytes, bytes]]:
        found = [(b"x-request-id", scope["ggq.id"].encode()), (b"x-content-type-options", b"nosniff")]
        if allowed:
            found += [
                (b"access-control-allow-origin", allowed.encode("latin-1")),
                (b"access-control-allow-methods", METHODS.encode()),
                (b"access-control-allow-headers", b"*, authorization"),
                (b"vary", b"origin"),
            ]
        return found


def too_large(most: int) -> ApiError:
    """A body that is too long."""
    return ApiError(413, f"the body has more than {most} bytes", code="body_too_large")


def _same_host(origin: str, host: str) -> bool:
    return urlsplit(origin).netloc.lower() == host.lower()


def _limited(receive: Receive, most: int) -> Receive:
    """Receives at most so many bytes."""
    total = 0

    async def limited() -> Any:
        nonlocal total
        message = await receive()
        if message["type"] == "http.request":
            total += len(message.get("body", b""))
            if total > most:
                raise too_large(most)
        return message

    return limited
