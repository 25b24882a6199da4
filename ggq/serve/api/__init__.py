"""The addresses of the server: one module a family, one line here each."""

from __future__ import annotations

from ggq.serve.api.chat import chat
from ggq.serve.api.chat_input import CHAT
from ggq.serve.api.completions import COMPLETION, completions
from ggq.serve.api.health import health, metrics, state
from ggq.serve.api.messages import count_tokens, messages
from ggq.serve.api.messages_input import COUNT, MESSAGES
from ggq.serve.api.models import list_models, one_model
from ggq.serve.api.openapi import openapi
from ggq.serve.api.pages import chat_page, status_page
from ggq.serve.api.responses.input import RESPONSE
from ggq.serve.api.responses.responses import compact, delete_response, one_response, response_input, responses
from ggq.serve.api.tokens import DETOKENIZE, TEMPLATE, TOKENIZE, apply_template, detokenize, tokenize
from ggq.serve.api.vectors import EMBEDDINGS, RERANK, embeddings, rerank
from ggq.serve.context import Endpoint

TEXT, HTML = "text/plain", "text/html"

ENDPOINTS = (
    Endpoint("POST", "/v1/chat/completions", chat, "Answer a conversation.", CHAT),
    Endpoint("POST", "/v1/completions", completions, "Continue texts or tokens.", COMPLETION),
    Endpoint("POST", "/v1/responses", responses, "Answer, with or without a state kept here.", RESPONSE),
    Endpoint("POST", "/v1/responses/compact", compact, "Conversations are not compacted here."),
    Endpoint("GET", "/v1/responses/{name}", one_response, "A response that was kept."),
    Endpoint("DELETE", "/v1/responses/{name}", delete_response, "Forget a response."),
    Endpoint("GET", "/v1/responses/{name}/input_items", response_input, "The conversation that it answers."),
    Endpoint("POST", "/v1/messages", messages, "Answer a conversation, as Anthropic has it.", MESSAGES),
    Endpoint("POST", "/v1/messages/count_tokens", count_tokens, "Tokens of a conversation.", COUNT),
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
    Endpoint("GET", "/", chat_page, "The page to chat.", kind=HTML),
    Endpoint("GET", "/status", status_page, "The page that shows what the server is doing.", kind=HTML),
    Endpoint("GET", "/openapi.json", openapi, "This schema."),
)
