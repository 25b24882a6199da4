"""What guards the server, what it tells of itself, how it begins and ends."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvicorn.server
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

import ggq
from ggq.errors import GGQError
from ggq.serve.application import application
from ggq.serve.errors import ApiError
from ggq.serve.schema import check, check_depth
from ggq.serve.server import Protocol
from ggq.serve.settings import Settings
from tests.kit.support import ROOT, run_ggq
from tests.serve.conftest import HOSTS

pytestmark = pytest.mark.kernels

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "import"}], "max_tokens": 4, "temperature": 0}


def serving(path: Path, **options: Any) -> TestClient:
    settings = Settings({"demo": path}, **{"hosts": HOSTS, **options})
    return TestClient(application(settings), raise_server_exceptions=False)


# ---- keys, hosts, origins, lengths


def test_a_key_is_needed_where_there_are_keys(model_path: Path) -> None:
    with serving(model_path, keys=["one-secret", "two-secret"]) as client:
        assert client.get("/health").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer one-secre"},
            {"authorization": "Basic one-secret"},
            {"x-api-key": ""},
        ):
            answer = client.get("/v1/models", headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["code"] == "invalid_api_key"
        for headers in ({"authorization": "Bearer two-secret"}, {"x-api-key": "one-secret"}):
            assert client.get("/v1/models", headers=headers).status_code == 200


def test_other_hosts_and_pages_are_refused(client: TestClient) -> None:
    assert client.get("/v1/models", headers={"host": "evil.example"}).json()["error"]["code"] == "host_refused"
    assert client.get("/v1/models", headers={"host": "localhost:8080"}).status_code == 200
    answer = client.get("/v1/models", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert client.get("/v1/models", headers={"origin": "http://testserver"}).status_code == 200


def test_listed_pages_may_ask(model_path: Path) -> None:
    with serving(model_path, origins=["https://chat.example"]) as client:
        asked = {"origin": "https://chat.example", "access-control-request-method": "POST"}
        answer = client.options("/v1/chat/completions", headers=asked)
        assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert "access-control-allow-credentials" not in answer.headers
        assert client.options("/v1/models", headers={**asked, "origin": "https://b.example"}).status_code == 403


def test_a_body_that_is_too_long_or_no_json_is_refused(model_path: Path) -> None:
    with serving(model_path, most_body=1000) as client:
        assert client.post("/v1/chat/completions", content=b"x" * 1001).status_code == 413
        parts = (b"x" * 100 for _ in range(20))  # without a length
        assert client.post("/v1/chat/completions", content=parts).status_code == 413
        null = json.dumps({**CHAT, "model": None}).encode()
        for body in (null, b"", b"{", b"[1]", b'{"a": NaN}', b"\xff\xfe", b"[" * 900):
            answer = client.post("/v1/chat/completions", content=body)
            assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error", body


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: Any = {}
    for _ in range(40):
        deep = {"a": [deep]}
    with pytest.raises(ApiError, match="the body is nested more than 32 levels deep"):
        check_depth(deep)
    check_depth({"a": [{"b": [1]}]})


@pytest.mark.parametrize(
    ("value", "schema", "message"),
    [
        (True, {"type": "integer"}, "the body: an integer is expected, not True"),
        (1.5, {"type": "integer"}, "the body: an integer is expected, not 1.5"),
        ("x", {"type": ["number", "null"]}, "the body: a number or null is expected, not 'x'"),
        (float("inf"), {"type": "number"}, "the body: a finite number is expected"),
        ({"a": {"b": 1}}, {"properties": {"a": {"properties": {"b": {"enum": [2]}}}}}, "a.b: 1 is none of 2"),
        (
            {"a": [1, "2"]},
            {"properties": {"a": {"items": {"type": "integer"}}}},
            "a[1]: an integer is expected, not '2'",
        ),
        ({"b": 1}, {"additionalProperties": {"type": "string"}}, "b: a string is expected, not 1"),
        (
            1,
            {"anyOf": [{"type": ["object", "null"]}, {"type": "string"}]},
            "the body: an object, null or a string is expected, not 1",
        ),
        ("abc", {"maxLength": 2}, "the body: 3 characters are more than 2"),
        (
            [1],
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "the body: a string or null is expected, not an array",
        ),
    ],
)
def test_schemas_say_what_is_wrong(value: Any, schema: Any, message: str) -> None:
    with pytest.raises(ApiError) as problem:
        check(value, schema)
    assert problem.value.message == message


def test_too_many_requests_are_sent_away(model_path: Path) -> None:
    with serving(model_path, most_waiting=0) as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 429 and answer.headers["retry-after"] == "5"


def test_a_request_that_takes_too_long_is_ended(model_path: Path) -> None:
    with serving(model_path, timeout=0.000001) as client:
        answer = client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 400})
        assert answer.status_code == 408 and answer.json()["error"]["code"] == "timeout"
        text = client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 400, "stream": True}).text
        assert '"code":"timeout"' in text and text.endswith("data: [DONE]\n\n")


def test_logs_hold_no_prompts(model_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), serving(model_path) as client:
        client.post(
            "/v1/chat/completions", json={"model": "demo", "messages": [{"role": "user", "content": "my secret"}]}
        )
        client.post("/v1/chat/completions", json={"messages": [{"role": "my secret", "content": ""}]})
    assert "POST /v1/chat/completions" in caplog.text and "my secret" not in caplog.text


# ---- models


def test_models_come_when_they_are_asked_for_and_go(model_path: Path) -> None:
    settings = Settings({"a": model_path, "b": model_path}, hosts=HOSTS, idle=0.2)
    with TestClient(application(settings)) as client:

        def states() -> dict[str, str]:
            return {each["id"]: each["status"] for each in client.get("/v1/models").json()["data"]}

        assert states() == {"a": "unloaded", "b": "unloaded"}
        assert client.post("/tokenize", json={"content": "x"}).json()["error"]["code"] == "model_missing"
        assert client.post("/v1/chat/completions", json={**CHAT, "model": "a"}).status_code == 200
        assert states() == {"a": "loaded", "b": "unloaded"}
        deadline = time.monotonic() + 30
        while states()["a"] == "loaded":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.post("/v1/chat/completions", json={**CHAT, "model": "a"}).status_code == 200


def test_a_file_that_is_no_model_is_told_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "bad.ggq").write_bytes(b"nothing")
    with serving(tmp_path / "bad.ggq") as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503 and str(tmp_path) not in answer.text


def test_a_file_that_is_replaced_is_loaded_again(model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.ggq"
    shutil.copy(model_path, path)
    with serving(path) as client:
        served = next(iter(client.app.state.context.models))  # type: ignore[attr-defined]
        before = client.post("/v1/chat/completions", json=CHAT).json()["choices"]
        first = served.model
        shutil.copy(model_path, tmp_path / "new.ggq")
        (tmp_path / "new.ggq").replace(path)
        assert client.post("/v1/chat/completions", json=CHAT).json()["choices"] == before
        assert served.model is not first
        path.unlink()
        assert client.post("/v1/chat/completions", json=CHAT).json()["choices"] == before


def test_a_file_that_is_cut_short_is_told_and_loaded_again_once_it_is_whole(model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.ggq"
    shutil.copy(model_path, path)
    with serving(path) as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        os.truncate(path, 1000)
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code in (500, 503) and str(tmp_path) not in answer.text
        shutil.copy(model_path, tmp_path / "new.ggq")
        (tmp_path / "new.ggq").replace(path)
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_settings_are_checked(model_path: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"share": 0}, "share is 0, a number above 0 and at most 1 is allowed"),
        ({"shore": 1}, "there is no option 'shore'; there are adapters, aliases"),
        ({"aliases": {"x": "y"}}, "the alias 'x' must be a new name of a model; 'y' is given"),
        ({"images": "see"}, "images is 'see', allowed are refuse and mention"),
    ):
        with pytest.raises(GGQError, match=message):
            ggq.asgi(model_path, **options)
    with pytest.raises(GGQError, match="there is no such file"):
        ggq.asgi(tmp_path / "missing.ggq")
    with pytest.raises(GGQError, match=r"there is no \.ggq or \.gguf file in it"):
        ggq.asgi(tmp_path)
    with pytest.raises(GGQError, match="two models are named demo"):
        ggq.asgi([model_path, model_path])


def test_it_can_be_mounted(model_path: Path) -> None:
    outer = Starlette(routes=[Mount("/llm", ggq.asgi(model_path, hosts=HOSTS))])
    with TestClient(outer) as client:
        assert client.post("/llm/v1/chat/completions", json=CHAT).status_code == 200


# ---- what it tells


def test_metrics_have_the_names_of_dashboards(client: TestClient, ask: Any) -> None:
    def value(name: str) -> float:
        found = re.search(rf'^{re.escape(name)}\{{model_name="demo"[^}}]*\}} (\S+)$', client.get("/metrics").text, re.M)
        assert found, name
        return float(found[1])

    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_count")
    ask("something that was not asked before " * 9, max_tokens=5)
    before = {name: value(name) for name in (*names, "vllm:inter_token_latency_seconds_count")}
    usage = ask("something else that was not asked before", max_tokens=5)["usage"]
    assert value(names[0]) - before[names[0]] == usage["prompt_tokens"]
    assert value(names[1]) - before[names[1]] == 5 and value(names[2]) - before[names[2]] == 1
    assert value("vllm:inter_token_latency_seconds_count") - before["vllm:inter_token_latency_seconds_count"] == 4
    for name in ("vllm:num_requests_running", "llamacpp:requests_processing", "llamacpp:requests_deferred"):
        assert value(name) == 0
    assert 0 < value("vllm:kv_cache_usage_perc") < 1 and value("llamacpp:tokens_predicted_total") > 0
    (model,) = client.get("/state").json()["models"]
    assert model["state"] == "loaded" and model["first_token"]["0.95"] > 0


def test_the_served_schema_is_of_what_is_served(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/models/{name}", "/health"} <= set(paths)
    schema = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    check(CHAT, schema)
    assert client.get("/nothing").status_code == 404 and client.get("/v1/chat/completions").status_code == 405


# ---- the command


def start(*arguments: str) -> tuple[subprocess.Popen[str], int]:
    """A server in a process of its own, and its port."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, "-m", "ggq", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
            return process, int(found[1])
    raise AssertionError("it does not listen")


def test_the_command_serves_and_ends_in_time_under_load(model_path: Path) -> None:
    process, port = start(str(model_path))
    try:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            body = json.dumps({**CHAT, "max_tokens": 400, "stream": True, "n": 8, "temperature": 1})
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.sendall(head.encode() + body.encode())
            assert sock.recv(12) == b"HTTP/1.1 200"
            process.send_signal(signal.SIGTERM)
            data = b""
            while piece := sock.recv(1 << 16):
                data += piece
        ended = len(re.findall(rb'"finish_reason":"\w+"', data))
        assert ended == 8 or b"shutting down" in data
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_what_the_command_cannot_do_is_told(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none\n\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for arguments, message in (
            (["--port", str(taken.getsockname()[1])], "cannot be listened on: Address already in use"),
            (["--alias", "x"], "--alias is 'x', ALIAS=NAME is expected"),
            (["--key-file", str(tmp_path / "keys")], "there is no key in it"),
            (["--cache-memory", "lots"], "--cache-memory is 'lots', a size such as 4G or 512M is expected"),
            (["--tls-cert", "x"], "--tls-cert and --tls-key belong together"),
        ):
            result = run_ggq("serve", model_path, *arguments)
            assert result.returncode == 2 and message in result.stderr and len(result.stderr.splitlines()) <= 2


def test_adapters_have_names_of_their_own(model_path: Path, tmp_path: Path) -> None:
    from ggq.serve.settings import Adapter
    from tests.adapters.test_adapted import adapter

    with ggq.open(model_path) as file:
        shape = file.tensors["model.layers.0.mlp.down_proj.weight"].shape
    folder = adapter(tmp_path / "style", {"model.layers.0.mlp.down_proj": shape}, lora_alpha=400)
    adapters = {"style": Adapter("demo", (str(folder),))}
    settings = Settings({"demo": model_path}, adapters=adapters, hosts=("testserver",))
    body = {"prompt": "import os", "max_tokens": 8, "temperature": 0}
    with TestClient(application(settings)) as client:
        found = {
            name: client.post("/v1/completions", json={**body, "model": name}).json() for name in ("demo", "style")
        }
        listed = {each["id"]: each.get("parent") for each in client.get("/v1/models").json()["data"]}
    texts = {name: answer["choices"][0]["text"] for name, answer in found.items()}
    assert texts["demo"] != texts["style"]
    assert (found["style"]["model"], listed) == ("style", {"demo": None, "style": "demo"})
    with ggq.load(model_path, lora=[str(folder)]) as model:
        assert texts["style"] == model.generate("import os", max_tokens=8, temperature=0)


def test_a_connection_that_a_client_resets_is_forgotten() -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 50_000})

    async def protocols_left() -> int:
        config = uvicorn.Config(answer, http=Protocol, timeout_keep_alive=75)
        config.load()
        state, made = uvicorn.server.ServerState(), list[weakref.ref[Protocol]]()

        def protocol() -> Protocol:
            found = Protocol(config, state, {})
            made.append(weakref.ref(found))
            return found

        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, "127.0.0.1", 0)
        for _ in range(3):
            with socket.create_connection(server.sockets[0].getsockname()) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await loop.run_in_executor(None, sock.recv, 12)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset instead of an end
        server.close()
        for _ in range(100):
            await asyncio.sleep(0.02)
            gc.collect()
            if made and not any(each() for each in made):
                break
        return sum(each() is not None for each in made) if len(made) == 3 else -1

    assert asyncio.run(protocols_left()) == 0
