"""/openapi.json: the served schema, made of the schemas that requests are checked by."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

import ggq
from ggq.serve.context import Context, Endpoint, document
from ggq.serve.errors import documented

STATUSES = {
    400: "The request is wrong; `param` says where.",
    401: "A key is needed.",
    403: "The host or the origin is refused.",
    404: "There is no such thing.",
    405: "The method is not allowed here.",
    408: "The answer took too long.",
    413: "The body is too long.",
    429: "Too many requests wait; Retry-After says when to come again.",
    500: "The server or the model fails.",
    503: "The model cannot be loaded, or the server is ending.",
}
ERROR = {
    "type": "object",
    "properties": {"error": {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}},
    "required": ["error"],
}
PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


def described(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document of some endpoints."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation: dict[str, Any] = {
            "summary": endpoint.summary,
            "responses": {"200": _good(endpoint), **documented(STATUSES)},
        }
        names = PARAMETER.findall(endpoint.path)
        if names:
            text = {"type": "string", "minLength": 1}
            operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": text} for name in names]
        if endpoint.schema is not None:
            content = {"application/json": {"schema": endpoint.schema}}
            operation["requestBody"] = {"required": True, "content": content}
        path = PARAMETER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "ggq", "version": ggq.__version__, "description": "A server of quantized language models."},
        "paths": paths,
        "components": {"schemas": {"Error": ERROR}, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _good(endpoint: Endpoint) -> dict[str, Any]:
    content: dict[str, Any] = {endpoint.kind: {"schema": {"type": "object"} if "json" in endpoint.kind else {}}}
    if endpoint.schema is not None and "stream" in endpoint.schema["properties"]:
        content["text/event-stream"] = {}
    return {"description": "The answer.", "content": content}


async def openapi(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """The served schema."""
    from ggq.serve.api import ENDPOINTS

    names = [*context.models.by_name, *context.settings.aliases]
    return document(with_models(described(ENDPOINTS), names))


def with_models(schema: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A served schema that lists the models that can be asked."""
    copy: dict[str, Any] = json.loads(json.dumps(schema))
    for operations in copy["paths"].values():
        for operation in operations.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if "model" in body.get("properties", {}):
                body["properties"]["model"]["enum"] = list(names)
    return copy
