"""A model for asyncio, over compiled kernels: as the same model asked by one caller."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import UsageError
from ggq.generate.model import Model
from ggq.generate.request import ScoredWriting, Writing
from ggq.generate.sampling import log_softmax
from ggq.generate.serving.asynchronous import AsyncModel
from tests.kit.small_models import write_demo

pytestmark = pytest.mark.kernels

PROMPTS = ["import os", "class Reader:\n" * 20, "def f(self, x):", "for i in range(" * 9, "x = [", "# a"]
OPTIONS: list[dict[str, Any]] = [
    {"max_tokens": 20, "temperature": 0},
    {"max_tokens": 20, "temperature": 0.9, "top_p": 0.95, "seed": 7},
    {"max_tokens": 20, "temperature": 0, "presence_penalty": 1.0, "frequency_penalty": 0.5},
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = b"{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}assistant:"
    return write_demo(tmp_path_factory.mktemp("demo") / "demo.ggq", "q4-g32", chat_template_jinja=template)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with ggq.load(path, activations="float32") as made:
        yield made


def test_tasks_get_what_one_caller_gets(path: Path, model: Model) -> None:
    """With prefixes, chunks and companions: 108 answers."""
    expected = [[model.generate(prompt, **options) for options in OPTIONS] for prompt in PROMPTS]

    async def everybody() -> None:
        async with await AsyncModel.load(path, activations="float32") as served:

            async def work(place: int) -> None:
                for turn in range(18):
                    which, options = (place + turn) % 6, OPTIONS[turn % 3]
                    text = await served.generate(PROMPTS[which], **options)
                    assert text == expected[which][turn % 3]

            await asyncio.wait_for(asyncio.gather(*(work(place) for place in range(6))), 120)
            prefixes = served.driver.scheduler.prefixes
            assert prefixes is not None and prefixes.hits > 500

    asyncio.run(everybody())


def test_a_task_that_is_cancelled_frees_its_pages(path: Path) -> None:
    async def check() -> None:
        async with await AsyncModel.load(path) as served:
            executor: Any = served.model.executor

            async def read(begun: asyncio.Event) -> None:
                async for _ in await served.stream("import", max_tokens=4000, temperature=0):
                    begun.set()

            begun = asyncio.Event()
            task = asyncio.ensure_future(read(begun))
            await begun.wait()
            assert executor._pool.used > 0
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while served.unfinished or served.driver.scheduler.work():
                await asyncio.sleep(0.01)
            served.driver.scheduler.forget()
            assert executor._pool.used == 0

    asyncio.run(asyncio.wait_for(check(), 60))


def test_closing_ends_what_is_read(path: Path) -> None:
    async def check() -> None:
        served = await AsyncModel.load(path)
        stream = await served.stream("import", max_tokens=4000, temperature=0)
        await stream.__anext__()
        await served.aclose()
        with pytest.raises(UsageError, match="^the model is closed$"):
            async for _ in stream:
                pass

    asyncio.run(asyncio.wait_for(check(), 60))


def test_a_chat_turn_goes_on_from_the_one_before(path: Path, model: Model) -> None:
    async def check() -> None:
        async with await AsyncModel.load(path, activations="float32") as served:
            messages: list[dict[str, str]] = []
            for turn in range(3):
                messages.append({"role": "user", "content": f"{turn} " + "x = 1\n" * 25})
                stream = await served.stream_chat(messages, max_tokens=8, temperature=0)
                text = "".join([piece async for piece in stream])
                assert text == model.chat(messages, max_tokens=8, temperature=0)
                messages.append({"role": "assistant", "content": text})
                assert stream.request.reused >= 75 * turn

    asyncio.run(asyncio.wait_for(check(), 60))


def test_likelihoods_are_those_of_the_logits(model: Model) -> None:
    prompt = model.encode("def f(self, x):\n    return self.x + x\n" * 9)
    logs = log_softmax(model.logits(prompt))
    request = ScoredWriting(model.answer(prompt, {"max_tokens": 3, "temperature": 0, "logprobs": 2}), 4)
    plain = Writing(model.answer(prompt, {"max_tokens": 3, "temperature": 0}), whole=True)
    model.scheduler.complete([request, plain])
    assert len(prompt) > 128 and len(request.likelihoods) == len(prompt) - 1
    expected = [logs[i, token] for i, token in enumerate(prompt[1:])]
    np.testing.assert_allclose([each.logprob for each in request.likelihoods], expected, atol=1e-5)
    best = np.argsort(-logs[7], kind="stable")[:4]
    assert [token for token, _ in request.likelihoods[7].top] == best.tolist()
    assert [piece.token for piece in request.pieces] == [piece.token for piece in plain.pieces]
    first = request.pieces[0].likelihood
    assert first is not None and first.logprob == pytest.approx(logs[-1].max(), abs=1e-5)
    assert first.top[0] == (request.pieces[0].token, pytest.approx(first.logprob))


def test_a_bias_decides_and_nonsense_is_refused(model: Model) -> None:
    (token,) = model.encode("x")
    assert model.generate("import", max_tokens=4, temperature=0, logit_bias={token: 100}) == "xxxx"
    with pytest.raises(UsageError, match="logit_bias is 101, a number from -100 to 100 is allowed"):
        model.generate("import", logit_bias={token: 101})
    with pytest.raises(UsageError, match="logit_bias is 3, a mapping of token ids to numbers is allowed"):
        model.generate("import", logit_bias=3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="presence_penalty is 3, a number from -2 to 2 is allowed"):
        model.generate("import", presence_penalty=3)
