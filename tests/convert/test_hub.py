"""Checkpoints from the hub: only what is needed is downloaded, and what the hub refuses is told in one line."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from ggq.convert.convert import _check_config
from ggq.convert.source.hub import find_source
from ggq.errors import ConvertError, UnsupportedError
from ggq.format import open_reader
from tests.kit.checkpoints import edit_json, tiny
from tests.kit.support import run_ggq

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A download function that copies from a folder, and remembers what was asked."""

    def __init__(self, remote: Path, cache: Path) -> None:
        self.remote, self.snapshot = remote, cache / "models--org--name" / "snapshots" / COMMIT
        self.calls: list[tuple[str, str | None]] = []

    def __call__(self, name: str, revision: str | None, patterns: list[str]) -> str:
        self.calls.append((name, revision))
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for path in self.remote.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in patterns):
                shutil.copy(path, self.snapshot)
        return str(self.snapshot)

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.snapshot.iterdir()}


@pytest.mark.parametrize("shards", [1, 2])
def test_only_what_is_needed_is_downloaded(tmp_path: Path, shards: int) -> None:
    remote = tiny(tmp_path / "remote", shards=shards)
    needed = {path.name for path in remote.iterdir()} | {"LICENSE"}
    for name in ("LICENSE", "pytorch_model.bin", "README.md", "model.onnx", "model-00009-of-00009.safetensors"):
        (remote / name).write_bytes(b"x")
    if shards > 1:
        (remote / "model.safetensors").write_bytes(b"an older version of the same weights")
    hub = Hub(remote, tmp_path / "cache")
    source = find_source("org/name", _check_config, hub)
    assert hub.files == needed
    assert (source.name, source.origin) == ("name", f"org/name@{COMMIT}")


def test_a_revision_is_passed_on(tmp_path: Path) -> None:
    hub = Hub(tiny(tmp_path / "remote"), tmp_path / "cache")
    find_source("org/name@refs/pr/1", _check_config, hub)
    assert hub.calls == [("org/name", "refs/pr/1")] * 2


def test_an_unknown_architecture_is_refused_before_its_weights_are_downloaded(tmp_path: Path) -> None:
    hub = Hub(tiny(tmp_path / "remote"), tmp_path / "cache")
    edit_json(tmp_path / "remote" / "config.json", architectures=["MambaForCausalLM"])
    with pytest.raises(UnsupportedError, match="'MambaForCausalLM' is not supported"):
        find_source("org/name", _check_config, hub)
    assert "config.json" in hub.files and "model.safetensors" not in hub.files


def test_a_shard_name_that_leaves_the_folder_is_refused_before_it_is_asked_for(tmp_path: Path) -> None:
    remote = tiny(tmp_path / "remote", shards=2)
    index = remote / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../../x.safetensors"}}))
    hub = Hub(remote, tmp_path / "cache")
    with pytest.raises(ConvertError.__mro__[1], match="the name of a safetensors file in this folder expected"):
        find_source("org/name", _check_config, hub)
    assert len(hub.calls) == 1


def test_a_folder_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny(tmp_path / "org" / "name")
    hub = Hub(tmp_path, tmp_path / "cache")
    assert find_source("org/name", _check_config, hub).origin == "name" and not hub.calls


@pytest.mark.parametrize(
    "text", ["missing", "./org/name", "/org/name", "a/b/c", "org/name@", "org/", "org/na me", "-o/x"]
)
def test_what_cannot_be_a_hub_id_is_not_asked_for(tmp_path: Path, text: str) -> None:
    hub = Hub(tmp_path, tmp_path / "cache")
    with pytest.raises(ConvertError, match="no such folder\ngive the folder of a checkpoint, or ORG/NAME"):
        find_source(text, _check_config, hub)
    assert not hub.calls


class RepositoryNotFoundError(OSError):
    """As the hub's client has it; named alike, since that is what is looked at."""


class GatedRepoError(RepositoryNotFoundError):
    pass


@pytest.mark.parametrize(
    "error, message",
    [
        (RepositoryNotFoundError("404\nlong text"), "no such model \\(a private one needs `hf auth login`\\)"),
        (GatedRepoError("403"), "the model is gated; accept its terms"),
        (ConnectionError("\n\n  refused\nmore"), "ConnectionError: refused"),
        (ValueError(), r"ValueError(\n|$)"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_every_failure_of_the_client_is_one_line(error: Exception, message: str) -> None:
    def download(name: str, revision: str | None, patterns: list[str]) -> str:
        raise error

    with pytest.raises(ConvertError, match=f"^org/name: no such folder, and not from the hub: .*{message}") as caught:
        find_source("org/name", _check_config, download)
    assert str(caught.value).count("\n") <= 1


LARGE = (256, 2, 4, 2, 1024, 12000)
"""Of a model of 20 MB: the client keeps what it has in pieces of 10 MB."""


class Handler(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as downloading takes."""

    root: Path
    status = 200
    broken: list[str] = []
    """What was asked for: paths with their ranges; a GET of weights breaks off in the middle the first time."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if "gated" in parts and self.headers.get("Authorization") != "Bearer secret":
            message = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model org/gated is restricted."}
            self.send(401, b"{}", message, body)
        elif self.status != 200 or "none" in parts:
            code, name = (404, "RepoNotFound") if self.status == 200 else (self.status, "")
            self.send(code, b"{}", {"X-Error-Code": name} if name else {}, body)
        elif parts[:2] == ["api", "models"]:
            files = [
                {
                    "type": "file",
                    "rfilename": path.name,
                    "path": path.name,
                    "oid": f"{number:040}",
                    "size": path.stat().st_size,
                }
                for number, path in enumerate(sorted(self.root.iterdir()))
            ]
            tree = "tree" in parts
            info = {
                "id": "org/name",
                "modelId": "org/name",
                "sha": COMMIT,
                "siblings": files,
                "tags": [],
                "private": False,
            }
            self.send(200, json.dumps(files if tree else info).encode(), {"Content-Type": "application/json"}, body)
        else:
            path = self.root / parts[-1]
            if path.suffix == ".safetensors" and parts[0] != "cdn":
                names = sorted(item.name for item in self.root.iterdir())
                tag = f'"{names.index(path.name):040}"'
                place = f"http://{self.headers['Host'].replace('127.0.0.1', 'localhost')}/cdn/{path.name}"
                moved = {"Location": place, "X-Linked-Etag": tag, "X-Repo-Commit": COMMIT}
                self.send(302, b"", {**moved, "X-Linked-Size": str(path.stat().st_size)}, body)
            elif parts[0] == "cdn":
                self.weights(path.read_bytes(), body=body)
            elif path.is_file():
                names = sorted(item.name for item in self.root.iterdir())
                self.send(
                    200, path.read_bytes(), {"ETag": f'"{names.index(path.name):040}"', "X-Repo-Commit": COMMIT}, body
                )
            else:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)

    def weights(self, data: bytes, *, body: bool) -> None:
        """Bytes from the first that is asked for on; the first answer is a part of them, and then the line is cut."""
        asked = self.headers.get("Range", "")
        if body:
            self.broken.append(asked)
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        end = len(data) if start or len(self.broken) > 1 else len(data) * 3 // 4
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if body:
            self.wfile.write(data[start:end])
            self.close_connection = True

    def send(self, code: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def asked() -> list[str]:
    """The ranges of the weights that were asked for."""
    return []


@pytest.fixture
def server(tmp_path: Path, asked: list[str]) -> Iterator[dict[str, str]]:
    """A hub of one model on this machine, as environment variables for the client."""
    handler = type(
        "OneModel", (Handler,), {"root": tiny(tmp_path / "remote", shape=LARGE, dtype="f32"), "broken": asked}
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield {
                "HF_ENDPOINT": f"http://127.0.0.1:{running.server_address[1]}",
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "NO_PROXY": "127.0.0.1,localhost",
                "no_proxy": "127.0.0.1,localhost",
                **{name: "" for name in ("HF_HUB_OFFLINE", "HF_TOKEN") if name in os.environ},
            }
        finally:
            running.shutdown()


def test_the_hubs_own_client_downloads_through_its_cache_and_says_when_it_cannot(
    tmp_path: Path, server: dict[str, str], asked: list[str]
) -> None:
    """Weights are elsewhere, and the connection breaks in the middle: only what is missing is asked for again."""
    out = tmp_path / "m.ggq"
    done = run_ggq("convert", "org/name", out, "--json", **server)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["file"] == str(out)
    with open_reader(out) as reader:
        assert reader.metadata["general.source"] == f"org/name@{COMMIT}"
    links = [path for path in (tmp_path / "home").rglob("model.safetensors") if path.is_symlink()]
    assert links, "the cache should hold links to its blobs"
    assert asked[0] == "" and len(asked) == 2 and int(asked[1].removeprefix("bytes=").rstrip("-")) >= 10 << 20, asked
    gated = run_ggq("convert", "org/gated", tmp_path / "g.ggq", **server)
    assert gated.returncode == 2 and "the model is gated; accept its terms on the hub" in gated.stderr
    assert run_ggq("convert", "org/gated", tmp_path / "g.ggq", **{**server, "HF_TOKEN": "secret"}).returncode == 0
    nowhere = {**server, "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert run_ggq("convert", "org/name", out, "--offline", "--force", **nowhere).returncode == 0
    missing = run_ggq("convert", "org/other", tmp_path / "o.ggq", "--offline", **nowhere)
    assert missing.returncode == 2 and "the model is not in the cache" in missing.stderr
    failed = run_ggq("convert", "org/none", tmp_path / "n.ggq", **server)
    assert failed.returncode == 2 and not failed.stdout
    lines = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "org/none: no such folder, and not from the hub: no such model" in lines[0]
    assert "Traceback" not in failed.stderr
