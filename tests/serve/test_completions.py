"""/v1/completions, /tokenize and the like, /v1/embeddings, /v1/rerank, over compiled kernels."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import ggq
from ggq.generate.model import Model
from ggq.generate.sampling import log_softmax
from tests.serve.test_chat import events

pytestmark = pytest.mark.kernels


@pytest.fixture(scope="module")
def model(model_path: Path) -> Iterator[Model]:
    with ggq.load(model_path, activations="float32") as made:
        yield made


def complete(client: TestClient, status: int = 200, **body: Any) -> Any:
    answer = client.post("/v1/completions", json={"model": "demo", "temperature": 0, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_texts_and_tokens_are_continued(client: TestClient, model: Model) -> None:
    prompts = ["import os", "def f(x):"]
    expected = [model.generate(prompt, max_tokens=16, temperature=0) for prompt in prompts]
    found = complete(client, prompt=prompts)
    assert [choice["text"] for choice in found["choices"]] == expected
    ids = [model.encode(prompt) for prompt in prompts]
    assert [choice["text"] for choice in complete(client, prompt=ids)["choices"]] == expected
    assert complete(client, prompt=ids[0], echo=True)["choices"][0]["text"] == prompts[0] + expected[0]
    assert found["usage"]["prompt_tokens"] == sum(map(len, ids))


def test_how_likely_a_prompt_is(client: TestClient, model: Model) -> None:
    """As programs score texts: an array of tokens, echo, one token more."""
    ids = model.encode("def f(self, x):\n    return x")
    (choice,) = complete(client, prompt=ids, echo=True, logprobs=1, max_tokens=1)["choices"]
    logs = log_softmax(model.logits(ids))
    found = choice["logprobs"]
    assert found["token_logprobs"][0] is None and len(found["token_logprobs"]) == len(ids) + 1
    np.testing.assert_allclose(found["token_logprobs"][1:-1], [logs[i, t] for i, t in enumerate(ids[1:])], atol=1e-5)
    assert max(found["top_logprobs"][5].values()) == pytest.approx(logs[4].max(), abs=1e-5)
    assert "".join(found["tokens"]) == choice["text"] and found["text_offset"][3] == len("".join(found["tokens"][:3]))
    (only,) = complete(client, prompt=ids, echo=True, logprobs=1, max_tokens=0)["choices"]
    assert only["logprobs"]["token_logprobs"] == found["token_logprobs"][:-1]
    assert only["text"] == "def f(self, x):\n    return x" and only["finish_reason"] == "length"


def test_the_best_of_several_are_given(client: TestClient) -> None:
    fields = {"prompt": "import", "temperature": 1.0, "seed": 3, "logprobs": 0}
    every = complete(client, n=5, **fields)["choices"]
    best = complete(client, n=2, best_of=5, **fields)["choices"]

    def mean(choice: Any) -> float:
        return float(np.mean(choice["logprobs"]["token_logprobs"]))

    assert [mean(choice) for choice in best] == sorted(map(mean, every), reverse=True)[:2]


def test_a_stream_says_the_same(client: TestClient) -> None:
    whole = complete(client, prompt="import", echo=True, logprobs=1)["choices"][0]
    body = {"model": "demo", "prompt": "import", "temperature": 0, "echo": True, "logprobs": 1, "stream": True}
    found = [each["choices"][0] for each in events(client.post("/v1/completions", json=body).text)]
    assert "".join(each["text"] for each in found) == whole["text"] and found[-1]["finish_reason"] == "length"
    parts = [each["logprobs"] for each in found if each["logprobs"]]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [item for part in parts for item in part[name]] == whole["logprobs"][name]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "x", "suffix": "y"}, "suffix: text is continued at its end only"),
        ({"prompt": "x", "n": 3, "best_of": 2}, "best_of: 2 is less than n, 3"),
        ({"prompt": "x", "best_of": 3, "stream": True}, "best_of cannot be streamed: the best are known at the end"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens: 0 needs echo"),
        ({"prompt": []}, "prompt: at least one of items is needed"),
        ({"prompt": [5000]}, "token id 5000 is outside the vocabulary, 0 to 1023 allowed"),
        ({"prompt": [-1]}, "prompt[0]: -1 is less than 0"),
        ({"prompt": 3}, "prompt: a string or an array is expected, not 3"),
        ({}, "prompt is missing"),
    ],
)
def test_what_cannot_be_done_is_refused(client: TestClient, fields: dict[str, Any], message: str) -> None:
    assert complete(client, 400, **fields)["error"]["message"] == message


def test_tokens_there_and_back(client: TestClient, model: Model) -> None:
    text = "def f():\n    return 'ä'"
    ids = client.post("/tokenize", json={"content": text}).json()["tokens"]
    assert ids == model.encode(text, begin=False)
    assert client.post("/detokenize", json={"tokens": ids}).json()["content"] == text
    pieces = client.post("/tokenize", json={"content": "import os", "with_pieces": True}).json()["tokens"]
    assert "".join(each["piece"] for each in pieces) == "import os"
    prompt = client.post("/apply-template", json={"messages": [{"role": "user", "content": " a "}]}).json()["prompt"]
    assert prompt == "user: a\nassistant:"


def test_a_model_that_continues_texts_makes_no_vectors(client: TestClient) -> None:
    for path, body in (("embeddings", {"model": "demo", "input": "x"}), ("rerank", {"query": "x", "documents": ["y"]})):
        answer = client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "the model continues texts, and makes no vectors of them"


def test_vectors_and_scores(tmp_path: Path) -> None:
    from starlette.testclient import TestClient as Client

    from ggq.serve.application import application
    from ggq.serve.settings import Settings
    from tests.generate.test_vectors import folder

    path = tmp_path / "vectors.ggq"
    ggq.convert(folder(tmp_path / "m"), path, scheme="f32")
    with Client(application(Settings({"v": path}, hosts=("testserver",)))) as client, ggq.load(path) as model:
        texts = ["the cats", "the dogs", "the cat : query"]
        expected = model.embed(texts)
        found = client.post("/v1/embeddings", json={"model": "v", "input": texts}).json()
        np.testing.assert_allclose([each["embedding"] for each in found["data"]], expected, atol=1e-6)
        coded = client.post(
            "/v1/embeddings", json={"model": "v", "input": texts[0], "encoding_format": "base64"}
        ).json()
        np.testing.assert_allclose(
            np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4"), expected[0], atol=1e-6
        )
        short = client.post("/v1/embeddings", json={"model": "v", "input": texts[0], "dimensions": 4}).json()["data"][
            0
        ]["embedding"]
        np.testing.assert_allclose(short, expected[0, :4] / np.linalg.norm(expected[0, :4]), atol=1e-6)
        ranked = client.post("/v1/rerank", json={"query": "the cats", "documents": texts, "top_n": 2}).json()["results"]
        scores = model.rerank("the cats", texts)
        assert [each["index"] for each in ranked] == np.argsort(-scores)[:2].tolist() and ranked[0]["index"] == 0
        refused = client.post(
            "/v1/chat/completions", json={"model": "v", "messages": [{"role": "user", "content": "x"}]}
        )
        assert refused.status_code == 400 and "vectors" in refused.json()["error"]["message"]
