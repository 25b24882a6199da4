"""The application: addresses, what guards them, what runs beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ggq.errors import GGQError
from ggq.serve.api import ENDPOINTS
from ggq.serve.api.health import is_ready
from ggq.serve.context import Context, Endpoint, body_of, document
from ggq.serve.errors import ApiError, from_exception
from ggq.serve.events import tell
from ggq.serve.guard import Guard
from ggq.serve.metrics import Metrics
from ggq.serve.models import Models
from ggq.serve.settings import Settings
from ggq.serve.store import Store

PAGES = ("/", "/status")


def application(settings: Settings, *, load_first: bool = False) -> Starlette:
    """An ASGI application, to be run by a server or mounted in another application.

    Args:
        settings: What it serves and how.
        load_first: Whether all models are loaded when it starts, and not when they are asked for.
    """
    models = Models(settings)
    metrics = Metrics(lambda: _measured(models))
    context = Context(settings, models, metrics, Store())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(_load_all(models))] if load_first else []
        if settings.idle:
            tasks.append(asyncio.ensure_future(models.unload_idle()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await models.close()

    def count(status: int) -> None:
        metrics.answers.labels(str(status)).inc()

    app = Starlette(
        routes=[_route(endpoint, context) for endpoint in ENDPOINTS if settings.web or endpoint.path not in PAGES],
        middleware=[Middleware(Guard, settings=settings, count=count)],
        lifespan=lifespan,
        exception_handlers={Exception: _failed, HTTPException: _not_found, ApiError: _failed, GGQError: _failed},
    )
    app.state.context = context
    return app


def _route(endpoint: Endpoint, context: Context) -> Route:
    async def handle(request: Request) -> Response:
        return await endpoint.handler(context, request, await body_of(request, endpoint.schema))

    return Route(endpoint.path, handle, methods=[endpoint.method])


def _failed(request: Request, problem: Exception) -> Response:
    found = from_exception(problem)
    tell(problem)
    return document(found.document(request.url.path), found.status, found.headers)


def _not_found(request: Request, problem: Exception) -> Response:
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    text = {404: f"there is no {request.url.path!r:.80}", 405: f"{request.method} is not allowed here"}
    found = ApiError(status, text.get(status, "the request cannot be read"))
    headers = getattr(problem, "headers", None) or {}
    return document(found.document(request.url.path), status, {**found.headers, **headers})


async def _load_all(models: Models) -> None:
    for served in models:
        try:
            with models.use(served):
                await models.ready(served)
        except ApiError:  # told already; another request may try again
            pass


def _measured(models: Models) -> Iterator[tuple[str, dict[str, float]]]:
    for served in models:
        if is_ready(served):
            yield served.name, served.measured()
