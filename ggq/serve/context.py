"""What every endpoint has at hand, and what an endpoint is."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ggq.serve.errors import refused
from ggq.serve.metrics import Metrics
from ggq.serve.models import Models
from ggq.serve.schema import check, check_depth
from ggq.serve.settings import Settings
from ggq.serve.store import Store


@dataclass
class Context:
    """The parts of one server."""

    settings: Settings
    models: Models
    metrics: Metrics
    store: Store


Handler = Callable[[Context, Request, dict[str, Any]], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """One address of the server.

    Args:
        method: Of HTTP.
        path: May hold {parameters}.
        handler: Given the request and its checked body.
        summary: One line of the served schema.
        schema: Of the body; None without one.
        kind: The media type of what comes back.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    schema: Mapping[str, Any] | None = None
    kind: str = "application/json"


async def body_of(request: Request, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """The checked body of a request; {} where the endpoint takes none.

    Raises:
        ApiError: 400, it is no JSON or not what the schema asks for; 413, it is too long.
    """
    if schema is None:
        return {}
    data = await request.body()
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise refused(f"the body is not JSON: {str(problem)[:200]}") from None
    check_depth(value)
    check(value, schema)
    for name in schema.get("required", ()):
        if value[name] is None:
            raise refused(f"{name} is missing", param=name)
    return {name: item for name, item in value.items() if item is not None}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def document(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer, in ASCII: what clients send back may be no Unicode."""
    return Response(json.dumps(content), status, headers, "application/json")
