"""The addresses of the server: one module a family, one line here each."""

from __future__ import annotations

from ggq.serve.api.chat import chat
from ggq.serve.api.chat_input import CHAT
from ggq.serve.api.completions import COMPLETION, completions
from ggq.serve.api.health import health, metrics, state
from ggq.serve.api.models import list_models, one_model
from ggq.serve.api.openapi import openapi
from ggq.serve.api.tokens import DETOKENIZE, TEMPLATE, TOKENIZE, apply_template, detokenize, tokenize
from ggq.serve.api.vectors import EMBEDDINGS, RERANK, embeddings, rerank
from ggq.serve.context import Endpoint

TEXT = "text/plain"

ENDPOINTS = (
    Endpoint("POST", "/v1/chat/completions", chat, "Answer a conversation.", CHAT),
    Endpoint("POST", "/v1/completions", completions, "Continue texts or tokens.", COMPLETION),
    Endpoint("POST", "/v1/embeddings", embeddings, "Vectors of texts.", EMBEDDINGS),
    Endpoint("POST", "/v1/rerank", rerank, "Texts by how well they fit a query.", RERANK),
    Endpoint("GET", "/v1/models", list_models, "What can be asked."),
    Endpoint("GET", "/v1/models/{name:path}", one_model, "One model."),
    Endpoint("POST", "/tokenize", tokenize, "The tokens of a text.", TOKENIZE),
    Endpoint("POST", "/detokenize", detokenize, "The text of tokens.", DETOKENIZE),
    Endpoint("POST", "/apply-template", apply_template, "The prompt of a conversation.", TEMPLATE),
    Endpoint("GET", "/health", health, "Whether the server is ready."),
    Endpoint("GET", "/metrics", metrics, "For Prometheus.", kind=TEXT),
    Endpoint("GET", "/state", state, "What the server is doing."),
    Endpoint("GET", "/openapi.json", openapi, "This schema."),
)
