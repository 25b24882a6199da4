"""`ggq run --server`, `ggq chat --server` and `ggq bench-serve` against a server in a thread; the pages."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

import ggq
from ggq.cli.main import main
from ggq.errors import UsageError
from ggq.serve.application import application
from ggq.serve.client import Client, ServerError
from ggq.serve.settings import Settings

pytestmark = pytest.mark.kernels


@contextmanager
def running(models: dict[str, Path], **options: Any) -> Iterator[str]:
    """The address of a server in a thread."""
    settings = Settings(models, **options)
    server = uvicorn.Server(uvicorn.Config(application(settings), port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def url(model_path: Path) -> Iterator[str]:
    with running({"demo": model_path}, load={"activations": "float32"}) as found:
        yield found


def test_run_asks_a_server(url: str, model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "-p", "import os", "--server", url, "-n", "9", "--greedy"]
    assert main(arguments) == 0
    written = capsys.readouterr()
    with ggq.load(model_path, activations="float32") as model:
        expected = model.generate("import os", max_tokens=9, temperature=0)
    assert written.out == expected + "\n" and "9 tokens at" in written.err
    assert main([*arguments, "demo", "--json", "--regex", "[ab]{3}"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert re.fullmatch("[ab]{3}", document["text"]) and document["finish_reason"] == "stop"


def test_chat_asks_a_server(
    url: str, model_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("import os\nx = 1\n"))
    assert main(["chat", "--server", f"{url}/v1", "-n", "6", "--greedy"]) == 0
    written = capsys.readouterr().out
    with ggq.load(model_path, activations="float32") as model:
        messages = [{"role": "user", "content": "import os"}]
        for question in ("x = 1", None):
            text = model.chat(messages, max_tokens=6, temperature=0)
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": question or ""}]
    assert written == f"{messages[1]['content']}\n{messages[3]['content']}\n"


def test_a_server_is_measured(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench-serve", url, "-c", "3", "-n", "7", "-p", "20", "-a", "5"]
    assert main([*arguments, "--json", "--rate", "100"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] == 0 and report["answer_tokens"] == 35 and report["prompt_tokens"] > 7 * 20
    assert 0 < report["first_token_s"]["0.5"] <= report["whole_s"]["0.5"] <= report["seconds"]
    assert main(arguments) == 0
    assert "first token, ms" in capsys.readouterr().out


def test_what_goes_wrong_between_client_and_server_is_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["run", "-p", "x"], "error: a model is needed\nname one, or a server with --server URL\n"),
        (["run", "-p", "x", "--server", "ftp://x"], "error: 'ftp://x' is no address of a server"),
        (["run", "-p", "x", "--server", "http://127.0.0.1:9"], "the server cannot be reached: Connection refused"),
        (["run", "other", "-p", "x", "--server", url], "status 404: there is no model 'other'; there are 'demo'"),
        (["bench-serve", url, "-p", "2", "--shared", "3"], "--shared is more than --prompt"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UsageError, match="no address of a server"):
        Client("http://x:port")
    with pytest.raises(ServerError, match="status 400: temperature: a number or null is expected, not 'x'"):
        Client(url).post("/v1/completions", {"model": "demo", "prompt": "x", "temperature": "x"})


@pytest.mark.parametrize("path", ["/", "/status"])
def test_a_page_runs_its_own_script_only_and_asks_nobody_else(client: TestClient, path: str) -> None:
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", answer.text)
    assert all(not link.startswith(("http", "//")) for link in links)
    assert ".innerHTML" not in answer.text and "eval(" not in answer.text


def test_pages_can_be_left_out(model_path: Path) -> None:
    with TestClient(application(Settings({"demo": model_path}, hosts=("testserver",), web=False))) as client:
        assert client.get("/").status_code == 404 and client.get("/health").status_code == 200
