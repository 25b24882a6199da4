"""The pages: each one document without anything from elsewhere, which its policy of contents forbids too."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ggq.serve.context import Context

PARTS = {"chat.html": ("math.js", "markdown.js", "chat.js"), "status.html": ("status.js",)}
"""The scripts of each page, put into it when it is first asked for."""


@cache
def page(name: str) -> tuple[str, str]:
    """A page and its policy, which lets nothing run but the page's own script."""
    folder = files("ggq.serve") / "web"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "".join((folder / part).read_text(encoding="utf-8") for part in PARTS[name])
    text = (folder / name).read_text(encoding="utf-8")
    text = text.replace("/*style*/", style).replace("/*script*/", script)
    policy = f"default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src {_digest(script)}; "
    policy += f"style-src {_digest(style)} 'unsafe-hashes'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return text, policy


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


async def chat_page(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """The page to chat."""
    return _answer("chat.html")


async def status_page(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """The page that shows what the server is doing."""
    return _answer("status.html")


def _answer(name: str) -> Response:
    text, policy = page(name)
    return HTMLResponse(text, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})
