"""Runs the application: sockets, signals, the end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ggq.errors import UsageError
from ggq.serve.application import application
from ggq.serve.context import Context
from ggq.serve.settings import Settings

log = logging.getLogger("ggq.serve")


class Server(uvicorn.Server):
    """Ends what runs before it ends itself: requests have the time of grace to finish, then they are told.

    Args:
        config: Of uvicorn.
        context: Of the application.
    """

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context
        self._ending: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal: take in nothing more, and let what runs go on for a while; a second one ends it at once."""
        again = self._context.models.closing
        self._context.models.closing = True
        super().handle_exit(sig, frame)
        if sig == signal.SIGTERM or not again:
            loop = asyncio.get_event_loop()
            loop.call_soon_threadsafe(self._begin_end)

    def _begin_end(self) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        """Wait until nothing runs or the time is over, then end what is left with an error that its client reads."""
        models, grace = self._context.models, self._context.settings.grace
        for _ in range(max(1, int(grace * 20))):
            if not any(served.in_use for served in models):
                return
            await asyncio.sleep(0.05)
        log.warning("requests are ended: the server is shutting down")
        await models.close()


class Protocol(H11Protocol):
    """uvicorn's, which keeps a connection that a client has reset until its time to wait for requests is over."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None


def run(
    settings: Settings, host: str, port: int, *, load_first: bool = True, tls: tuple[str, str] | None = None
) -> None:
    """Serve until a signal says to end.

    Args:
        settings: What and how.
        host: The address to listen on.
        port: 0 for any that is free; what was taken is logged.
        load_first: Whether all models are loaded at the start.
        tls: Files of a certificate and its key.

    Raises:
        UsageError: The address cannot be listened on.
    """
    app = application(settings, load_first=load_first)
    certificate, key = tls or (None, None)
    config = uvicorn.Config(
        app,
        http=Protocol,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        timeout_graceful_shutdown=int(settings.grace) + 2,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 << 10,
    )
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again once all is over: that ends well then
            signal.signal(each, lambda *_: None)
    with listening(host, port) as sock:
        name = f"[{host}]" if ":" in host else host
        log.info("listening on %s://%s:%d", "https" if tls else "http", name, sock.getsockname()[1])
        Server(config, app.state.context).run([sock])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UsageError: The system does not let it.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise UsageError(
            f"{host}:{port} cannot be listened on: {reason}", fix="choose another with --host or --port"
        ) from None
    return sock


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write the server's log to standard error, without control characters of clients."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("ggq.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level if name == "ggq.serve" else logging.WARNING)


class _Plain(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
