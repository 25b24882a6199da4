"""One model used from many threads and asyncio tasks at once, over the compiled kernels; and what is left when it is
closed."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import UsageError
from ggq.generate.model import Model
from tests.generate.test_scheduler import in_threads
from tests.kit.small_models import write_demo
from tests.kit.support import run_python

pytestmark = pytest.mark.kernels

PROMPTS = ["import os", "class Reader:\n", "def f(self, x):", "for i in range(", "x = [", "# a", "return", "if not "]
OPTIONS: list[dict[str, Any]] = [
    {"max_tokens": 24, "temperature": 0},
    {"max_tokens": 24, "temperature": 0.9, "top_p": 0.95, "seed": 7},
    {"max_tokens": 24, "temperature": 0, "repetition_penalty": 1.2},
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = b"{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}assistant:"
    folder = tmp_path_factory.mktemp("demo")
    return write_demo(folder / "demo.ggq", "q4-g32", chat_template_jinja=template)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with ggq.load(path, activations="float32") as made:
        yield made


@pytest.fixture(scope="module")
def alone(model: Model) -> list[list[str]]:
    """The text of each prompt with each of the options, asked for one after the other."""
    return [[model.generate(prompt, **options) for options in OPTIONS] for prompt in PROMPTS]


def test_eight_threads_get_what_each_gets_alone(model: Model, alone: list[list[str]]) -> None:
    """200 answers: whole, streamed and in batches."""

    def work(place: int) -> None:
        for turn in range(25):
            which, kind = turn % len(OPTIONS), (place + turn) % 4
            prompt, options, expected = PROMPTS[place], OPTIONS[which], alone[place][which]
            if kind == 0:
                assert "".join(model.stream(prompt, **options)) == expected
            elif kind == 1 and "seed" not in options:
                assert model.generate_batch([prompt, PROMPTS[0]], **options) == [expected, alone[0][which]]
            else:
                assert model.generate(prompt, **options) == expected

    in_threads(8, work)
    executor: Any = model.executor
    assert executor._pool.used == 0


def test_eight_tasks_get_what_each_gets_alone(model: Model, alone: list[list[str]]) -> None:
    """200 answers: streamed with `async for`, and whole in threads of the event loop."""

    async def work(place: int) -> None:
        for turn in range(25):
            which = turn % len(OPTIONS)
            if turn % 3:
                text = "".join([piece async for piece in model.stream(PROMPTS[place], **OPTIONS[which])])
            else:
                text = await asyncio.to_thread(model.generate, PROMPTS[place], **OPTIONS[which])
            assert text == alone[place][which]

    async def everybody() -> None:
        await asyncio.wait_for(asyncio.gather(*(work(place) for place in range(8))), 120)

    asyncio.run(everybody())


def test_a_task_that_is_cancelled_frees_its_pages(model: Model) -> None:
    executor: Any = model.executor

    async def read(begun: asyncio.Event) -> None:
        async for _ in model.stream("import", max_tokens=400, temperature=0):
            begun.set()

    async def cancel() -> None:
        begun = asyncio.Event()
        task = asyncio.ensure_future(read(begun))
        await begun.wait()
        assert executor._pool.used > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())  # which ends when the step under way has
    assert executor._pool.used == 0


def test_logits_in_threads_are_those_of_one(model: Model) -> None:
    ids = [model.encode(prompt * 20) for prompt in PROMPTS[:4]]
    alone = [model.logits(tokens) for tokens in ids]

    def work(place: int) -> None:
        for _ in range(12):
            np.testing.assert_array_equal(model.logits(ids[place]), alone[place])

    in_threads(4, work)


def test_a_full_cache_makes_threads_wait(path: Path, model: Model, alone: list[list[str]]) -> None:
    executor: Any = model.executor
    page = executor._pool.page_bytes[0]
    with ggq.load(path, activations="float32", cache_bytes=2 * page) as small:

        def work(place: int) -> None:
            for which, options in enumerate(OPTIONS):
                assert small.generate(PROMPTS[place], **options) == alone[place][which]

        in_threads(8, work)
        ids = small.encode("x = 1\n" * 200)[: 3 * 128]
        with pytest.raises(UsageError, match="384 tokens do not fit into the cache\ngive a shorter text, or load"):
            small.logits(ids)


def test_conversations_in_threads_keep_their_own_memories(model: Model) -> None:
    def talk(place: int) -> tuple[list[str], list[int]]:
        memory, messages, texts, computed = model.remember(), [], list[str](), list[int]()
        for turn in range(3):
            messages.append({"role": "user", "content": f"{PROMPTS[place]} {turn} " + "x = 1\n" * (3 if turn else 30)})
            stream = model.stream_chat(messages, memory, max_tokens=8, temperature=0)
            texts.append("".join(stream))
            computed.append(stream.timing.prefill_tokens)
            assert model.chat(messages, max_tokens=8, temperature=0) == texts[-1]
            messages.append({"role": "assistant", "content": texts[-1]})
        return texts, computed

    expected = [talk(place) for place in range(4)]
    assert all(computed[0] > 3 * computed[1] for _, computed in expected)
    in_threads(4, lambda place: pytest.fail("not its own") if talk(place) != expected[place] else None)


def test_a_memory_of_another_model_is_refused(path: Path, model: Model) -> None:
    with ggq.load(path) as other, pytest.raises(UsageError, match="the memory belongs to another model\ntake one"):
        model.stream_chat([{"role": "user", "content": "x"}], other.remember())


def test_whatever_is_called_after_closing_says_so(path: Path) -> None:
    model = ggq.load(path)
    stream, finished = (model.stream("import os", max_tokens=5) for _ in range(2))
    next(stream)
    list(finished)
    model.close()
    model.close()
    messages = [{"role": "user", "content": "x"}]
    for call in (
        lambda: model.generate("x"),
        lambda: model.generate([1]),
        lambda: model.stream("x"),
        lambda: model.generate_batch(["x"]),
        lambda: model.generate_batch([]),
        lambda: model.chat(messages),
        lambda: model.stream_chat(messages),
        lambda: model.remember(),
        lambda: model.encode("x"),
        lambda: model.logits([1]),
        lambda: model.executor,
        lambda: model.tokenizer,
        lambda: model.chat_template,
        lambda: next(stream),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value) == "the model is closed"
    assert list(finished) == [] and len(finished.answer.tokens) == 5


def test_closing_while_threads_wait_ends_them_all(path: Path) -> None:
    model = ggq.load(path)
    begun, told = threading.Barrier(5), list[str]()

    def work(place: int) -> None:
        stream = model.stream(PROMPTS[place], max_tokens=500, temperature=0)
        next(stream)
        begun.wait(60)
        if place == 0:
            model.close()
            return
        try:
            while True:
                model.generate(PROMPTS[place], max_tokens=400, temperature=0)
        except UsageError as problem:
            told.append(str(problem))

    in_threads(5, work)
    assert told == ["the model is closed"] * 4


MEASURE = """
import json, sys, threading, numpy as np, ggq

def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024

def use(path, tokens):
    with ggq.load(path) as model:
        model.logits(tokens)
        model.generate(tokens[:5], max_tokens=20, temperature=0)
        stream = model.stream(tokens, max_tokens=50)
        next(stream)
        return held()

use(sys.argv[1], [1, 2, 3])  # what is imported or compiled stays
before, tokens = held(), np.random.default_rng(0).integers(0, 9000, 1500).tolist()
during = use(sys.argv[2], tokens)
print(json.dumps([before, during, held(), [thread.name for thread in threading.enumerate()]]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_closed_model_leaves_no_memory_and_no_threads(tmp_path: Path) -> None:
    """File, buffers and cache are a hundred megabytes and more; 20 may stay."""
    from tests.kit.small_models import CONFIGS, checkpoint, write_ggq

    config = {**CONFIGS["grouped"], "hidden_size": 512, "intermediate_size": 1024, "vocab_size": 24000}
    config["max_position_embeddings"] = 2048
    large = write_ggq(tmp_path / "large.ggq", config, checkpoint(config), "f32")
    done = run_python("-c", MEASURE, str(write_demo(tmp_path / "small.ggq")), str(large))
    assert done.returncode == 0, done.stderr
    before, during, after, threads = json.loads(done.stdout)
    assert during > before + 100
    assert after < before + 20
    assert threads == ["MainThread"]
