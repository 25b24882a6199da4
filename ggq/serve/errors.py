"""What goes wrong, as clients are told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggq.errors import FormatError, GGQError, ModelError, UnsupportedError, UsageError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""What kind of error a status is."""


class ApiError(Exception):
    """A request that is not served.

    Args:
        status: HTTP status.
        message: What is wrong and where.
        param: The field that it is about, such as "messages[0].role".
        code: A word that programs look for.
        retry: Seconds after which to try again.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry = status, message, param, code, retry

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says besides."""
        found = {401: {"www-authenticate": "Bearer"}, 413: {"connection": "close"}}.get(self.status, {})
        return found if self.retry is None else {**found, "retry-after": str(self.retry)}

    @property
    def kind(self) -> str:
        """OpenAI's and Anthropic's word for it."""
        return TYPES.get(self.status, "api_error")

    def document(self, path: str = "") -> dict[str, Any]:
        """The body, in the form of the interface that a path belongs to."""
        if path.endswith("/messages") or "/messages/" in path:
            return {"type": "error", "error": {"type": self.kind, "message": self.message}}
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """An error of a request that the client must change."""
    return ApiError(400, message, param=param, code=code)


def from_exception(problem: BaseException) -> ApiError:
    """What to tell of an exception; names of files stay here."""
    if isinstance(problem, ApiError):
        return problem
    if isinstance(problem, UsageError) and problem.problem == "the model is closed":
        return ApiError(503, "the model was unloaded, or the server is shutting down", retry=5)
    if isinstance(problem, UsageError | UnsupportedError):
        text = problem.problem
        code = "context_length_exceeded" if "do not fit into" in text else None
        return refused(text, code=code)
    if isinstance(problem, ModelError | FormatError | GGQError):
        return ApiError(500, problem.problem, code="model_error")
    if isinstance(problem, MemoryError):
        return ApiError(503, "the server has not enough memory for this request", retry=10)
    return ApiError(500, "the server made a mistake, which its log tells", code="internal_error")


def documented(statuses: Mapping[int, str]) -> dict[str, Any]:
    """Error answers for the served schema."""
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        str(status): {"description": text, "content": {"application/json": {"schema": schema}}}
        for status, text in statuses.items()
    }
