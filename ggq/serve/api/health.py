"""Whether the server lives, what it measures, what it is doing."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ggq.engine.footprint import available_memory
from ggq.serve.context import Context, document
from ggq.serve.errors import ApiError
from ggq.serve.models import Served

STARTED = time.time()


def is_ready(served: Served) -> bool:
    """Whether a model is loaded."""
    return served.state == "loaded"


async def health(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """200 once every model that is wanted is there, 503 while one is loaded or the server ends."""
    if context.models.closing:
        raise ApiError(503, "the server is shutting down", retry=5)
    if any(served.state == "loading" for served in context.models):
        raise ApiError(503, "a model is being loaded", code="loading", retry=1)
    return document({"status": "ok"})


async def metrics(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """For Prometheus."""
    return Response(context.metrics.text(), media_type="text/plain; version=0.0.4")


async def state(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """What the page /status shows."""
    models = [
        {
            "name": served.name,
            "state": served.state,
            **({**served.measured(), "context": served.context} if is_ready(served) else {}),
            **_latencies(context, served),
        }
        for served in context.models
    ]
    return document({"uptime": time.time() - STARTED, "available_memory": available_memory(), "models": models})


def _latencies(context: Context, served: Served) -> dict[str, Any]:
    """Counters and quantiles of a model so far."""
    metrics, name = context.metrics, served.name
    sample = metrics.registry.get_sample_value
    label = {"model_name": name}
    found: dict[str, Any] = {
        "prompt_tokens": sample("vllm:prompt_tokens_total", label) or 0,
        "generation_tokens": sample("vllm:generation_tokens_total", label) or 0,
    }
    for key, metric in (("first_token", metrics.first), ("between_tokens", metrics.between)):
        buckets = [
            (float(each.labels["le"]), each.value)
            for family in metric.collect()
            for each in family.samples
            if each.name.endswith("_bucket") and each.labels["model_name"] == name
        ]
        found[key] = {share: _quantile(buckets, share) for share in ("0.5", "0.95", "0.99")}
    return found


def _quantile(buckets: list[tuple[float, float]], share: str) -> float | None:
    """The upper end of the bucket that a share of all lies in; None where nothing was measured or it has no end."""
    total = buckets[-1][1] if buckets else 0
    end = next((end for end, count in buckets if count >= float(share) * total), None) if total else None
    return None if end is None or end == float("inf") else end
