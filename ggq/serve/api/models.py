"""/v1/models: what can be asked."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ggq.serve.context import Context, document
from ggq.serve.models import Served


def described(served: Served) -> dict[str, Any]:
    """One model, as OpenAI has it and a little more."""
    found: dict[str, Any] = {"id": served.name, "object": "model", "created": served.created, "owned_by": "ggq"}
    if served.parent:
        found["parent"] = served.parent
    if served.model is not None:
        found["max_model_len"] = served.context
    return {**found, "status": served.state}


async def list_models(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """All models; Anthropic's clients read the same list."""
    data = [described(served) for served in context.models]
    for alias, name in context.settings.aliases.items():
        data.append({**described(context.models.find(name)), "id": alias})
    more = {"has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}
    named = [{"type": "model", "display_name": each["id"], **each} for each in data]
    return document({"object": "list", "data": named, **more})


async def one_model(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """One model by its name."""
    return document(described(context.models.find(request.path_params["name"])))
