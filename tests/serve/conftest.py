"""A small model and a server of it, in this process, for all tests of the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the server's packages are an extra: pip install ggq[serve]")
pytest.importorskip("httpx")

from starlette.testclient import TestClient

from ggq.serve.application import application
from ggq.serve.settings import Settings
from tests.kit.small_models import write_demo

TEMPLATE = b"{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}assistant:"
HOSTS = ("testserver",)


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("served") / "demo.ggq", "q4-g32", chat_template_jinja=TEMPLATE)


@pytest.fixture(scope="session")
def client(model_path: Path) -> Iterator[TestClient]:
    settings = Settings({"demo": model_path}, {"alias": "demo"}, hosts=HOSTS, load={"activations": "float32"})
    with TestClient(application(settings), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture(scope="session")
def ask(client: TestClient) -> Any:
    """Asks for a chat completion; the answer's document."""

    def asked(text: str = "import os", status: int = 200, **fields: Any) -> Any:
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 8,
            "temperature": 0,
            **fields,
        }
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    return asked
