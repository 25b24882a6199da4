"""/v1/embeddings and /v1/rerank."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from ggq.generate.vectors import Tokens
from ggq.serve.api.fields import FLAG, MODEL, TEXT, count, obj
from ggq.serve.context import Context, document
from ggq.serve.errors import refused
from ggq.serve.events import while_wanted
from ggq.serve.models import Served

TEXTS = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 2048}
EMBEDDINGS = obj(
    ["model", "input"],
    model=MODEL,
    input={"anyOf": [{"type": "string", "minLength": 1}, TEXTS]},
    encoding_format={"type": ["string", "null"], "enum": ["float", "base64", None]},
    dimensions=count(1),
    user=TEXT,
    prompt_name={**TEXT, "description": 'What the texts are for, such as "query", where the model knows it.'},
    truncate={**FLAG, "description": "Whether texts that are too long are cut; they are refused by default."},
)
RERANK = obj(
    ["query", "documents"],
    model=MODEL,
    query={"type": "string", "minLength": 1},
    documents={
        "type": "array",
        "minItems": 1,
        "maxItems": 2048,
        "items": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "object", "properties": {"text": {"type": "string", "minLength": 1}}, "required": ["text"]},
            ]
        },
    },
    top_n=count(1),
    return_documents=FLAG,
    truncate=FLAG,
)


async def embeddings(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """Vectors of texts."""
    served = context.models.find(body.get("model"))
    with context.models.use(served):
        await while_wanted(request, context.models.ready(served))
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        found, tokens = await while_wanted(request, asyncio.to_thread(_embedded, served, texts, body))
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body.get("encoding_format"))}
            for index, vector in enumerate(found)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        name = body.get("model") or served.name
        return document({"object": "list", "data": data, "model": name, "usage": usage})


def _embedded(served: Served, texts: list[str], body: dict[str, Any]) -> tuple[np.ndarray, int]:
    model, name = served.loaded.model, body.get("prompt_name", "")
    tokens = sum(len(each.ids) for each in _tokens(served, texts))
    found = model.embed(texts, prompt=name, truncate=bool(body.get("truncate", False)))
    width = body.get("dimensions")
    if width is None or width == found.shape[1]:
        return found, tokens
    if width > found.shape[1]:
        raise refused(f"dimensions: the model's vectors have {found.shape[1]} numbers", "dimensions")
    cut = found[:, : int(width)]  # as models are trained whose first numbers are a vector too
    lengths = np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    return np.asarray(cut / lengths, np.float32), tokens


def _tokens(served: Served, texts: list[str]) -> list[Tokens]:
    return served.loaded.model.vectors.tokens(texts)


def _encoded(vector: np.ndarray, form: str | None) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()


async def rerank(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """Texts by how well they fit a query, the best first."""
    served = context.models.find(body.get("model"))
    with context.models.use(served):
        await while_wanted(request, context.models.ready(served))
        texts = [each if isinstance(each, str) else each["text"] for each in body["documents"]]
        model, cut = served.loaded.model, bool(body.get("truncate", True))
        work = asyncio.to_thread(lambda: model.rerank(body["query"], texts, truncate=cut))
        scores = await while_wanted(request, work)
        order = np.argsort(-scores, kind="stable")[: int(body.get("top_n", len(texts)))].tolist()
        results: list[dict[str, Any]] = [{"index": i, "relevance_score": float(scores[i])} for i in order]
        if body.get("return_documents"):
            results = [{**each, "document": {"text": texts[each["index"]]}} for each in results]
        tokens = await asyncio.to_thread(
            lambda: sum(len(each.ids) for each in _tokens(served, [body["query"], *texts]))
        )
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        name = body.get("model") or served.name
        return document({"object": "list", "model": name, "results": results, "usage": usage})
