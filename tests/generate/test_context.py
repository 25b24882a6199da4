"""How long a text may be: as long as the model was made for, less, or more where that is allowed; LongRoPE, whose
frequencies are other ones in long texts."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import ModelError, UnsupportedError, UsageError
from ggq.generate.scheduler import Policy
from ggq.generate.serving.asynchronous import AsyncModel
from ggq.generate.serving.pace import Fixed
from ggq.generate.stream import Stream
from ggq.tape.program import Run
from tests.kit.family_models import FACTS, TOLERANCE
from tests.kit.family_models import checkpoint as family_tensors
from tests.kit.small_families import FAMILIES
from tests.kit.small_models import CONFIGS, checkpoint, prompt, write_ggq
from tests.kit.support import run_ggq

BEYOND = FACTS["models"]["phi3_beyond"]
INTERPRETERS = ["numpy", pytest.param("numba", marks=pytest.mark.kernels)]


def written(folder: Path, name: str = "grouped", **changes: Any) -> Path:
    config = {**CONFIGS[name], **changes}
    return write_ggq(folder / f"{len(list(folder.iterdir()))}.ggq", config, checkpoint(config))


@pytest.fixture(scope="module")
def beyond(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("beyond") / "m.ggq"
    return write_ggq(path, FAMILIES["phi3_beyond"], family_tensors("phi3_beyond"))


def test_a_longer_context_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    """And then the model is the one that was made for as many tokens."""
    path, tokens = written(tmp_path), prompt(CONFIGS["grouped"], 200)
    exact = {"interpreter": "numpy", "activations": "float32"}
    with pytest.raises(UsageError, match="a context of 200 tokens is longer than the 128 that the model was made for"):
        ggq.load(path, context=200, **exact)
    with ggq.load(path, **exact) as model, pytest.raises(UsageError, match="--context N --allow-longer"):
        model.logits(tokens)
    with ggq.load(path, context=200, allow_longer=True, **exact) as model:
        found = model.logits(tokens)
        with pytest.raises(UsageError, match="201 tokens do not fit into the model's context of 200"):
            model.logits([*tokens, 1])
        assert pickle.loads(pickle.dumps(model)).config.context_length == 200
    with ggq.load(written(tmp_path, max_position_embeddings=200), **exact) as made:
        np.testing.assert_array_equal(found, made.logits(tokens))


def test_a_shorter_context_needs_no_leave(tmp_path: Path) -> None:
    with ggq.load(written(tmp_path), context=9, interpreter="numpy") as model:
        with pytest.raises(UsageError, match="10 tokens do not fit into the model's context of 9"):
            model.logits(list(range(3, 13)))
    with pytest.raises(UsageError, match="context"):
        ggq.load(written(tmp_path), context=0)
    with pytest.raises(UsageError, match="none is asked for\nsay how long: --context N --allow-longer"):
        ggq.load(written(tmp_path), allow_longer=True)
    with pytest.raises(ModelError, match="context_length: 1099511627776 found, 1 to 134217728 allowed"):
        ggq.load(written(tmp_path), context=1 << 40, allow_longer=True)


def test_what_cannot_go_on_is_refused_by_name(tmp_path: Path) -> None:
    dynamic = written(tmp_path, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(UnsupportedError, match="beyond it the dynamic form of its RoPE would change keys"):
        ggq.load(dynamic, context=200, allow_longer=True, interpreter="numpy")
    gpt2 = write_ggq(tmp_path / "gpt2.ggq", FAMILIES["gpt2"], family_tensors("gpt2"))
    longer = FAMILIES["gpt2"]["n_positions"] + 1
    with pytest.raises(UsageError, match="learned positions"):
        ggq.load(gpt2, context=longer, allow_longer=True, interpreter="numpy")


def test_the_command_line_asks_in_the_same_words(tmp_path: Path) -> None:
    """Of every command that runs a model; `eval` has the windows' length under the same name."""
    path, quick = written(tmp_path), ("--interpreter", "numpy")
    bench = ("bench", path, *quick, "--prompt", "150", "--generate", "1", "--repeat", "1", "--json")
    told = run_ggq(*bench)
    assert told.returncode == 2 and "--context N --allow-longer" in told.stderr
    refused = run_ggq(*bench, "--context", "150")
    assert refused.returncode == 2 and "allow it: --context N --allow-longer" in " ".join(refused.stderr.split())
    assert run_ggq(*bench, "--context", "150", "--allow-longer").returncode == 0
    for command in ("run", "chat", "bench", "eval", "serve"):
        shown = run_ggq(command, "--help")
        assert "--context" in shown.stdout and "--allow-longer" in shown.stdout, command


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_a_text_that_outgrows_the_original_context_goes_on_as_with_transformers(beyond: Path, interpreter: str) -> None:
    """transformers drops its cache there and computes all with the long factors; other texts beside it keep theirs."""
    tokens, short = BEYOND["prompts"][1], BEYOND["prompts"][2]
    exact = {"interpreter": interpreter, "activations": "float32", "cache": "f32"}
    with ggq.load(beyond, **exact) as model:
        stream = model.stream(tokens, max_tokens=len(BEYOND["generated"]))
        "".join(stream)
        assert stream.answer.tokens == BEYOND["generated"]
        alone = model.stream(short, max_tokens=20)
        "".join(alone)
        answers = [model.answer(each, {"max_tokens": 20}) for each in (tokens, short)]
        model.complete(answers)
        assert [each.tokens for each in answers] == [BEYOND["generated"][:20], alone.answer.tokens]


def test_a_long_text_is_long_from_its_first_piece(beyond: Path) -> None:
    """However it is cut, and whatever was computed of its beginning for a short one (M-18)."""
    tokens, exact = BEYOND["prompts"][0], {"interpreter": "numpy", "activations": "float32", "cache": "f32"}
    with ggq.load(beyond, **exact) as model:
        executor, want = model.executor, model.logits(tokens)
        cut, early = executor.open_sequence(), executor.open_sequence()
        for start in range(0, len(tokens), 13):
            part = np.array(tokens[start : start + 13], np.int32)
            rows = executor.forward([Run(cut, part, "all", total=len(tokens))])
            assert np.abs(rows - want[start : start + 13]).max() < TOLERANCE * np.abs(want).max()
        executor.forward([Run(early, np.array(tokens[:30], np.int32))])
        twin = executor.fork(early)
        for each in (early, twin):
            assert executor.serves(each, 40) and not executor.serves(each, 41)
            with pytest.raises(UsageError, match="longer than 40 tokens is computed anew from its first"):
                executor.forward([Run(each, np.array(tokens[30:41], np.int32))])
        assert executor.truncate(cut, 35) == 35 and not executor.serves(cut, 36)
        assert executor.truncate(cut, 0) == 0 and executor.serves(cut, 36)


def test_kept_prefixes_and_conversations_serve_texts_of_their_kind(beyond: Path) -> None:
    tokens, exact = BEYOND["prompts"][0], {"interpreter": "numpy", "activations": "float32", "cache": "f32"}
    counts = (36, 80, 39, 90)
    with ggq.load(beyond, **exact) as model:
        want, remembered = list[list[int]](), list[list[int]]()
        for count in counts:
            answer = model.answer(tokens[:count], {"max_tokens": 3})
            model.complete([answer])
            want.append(answer.tokens)
        memory = model.remember()
        for count in counts:
            stream = Stream(model.scheduler, model.answer(tokens[:count], {"max_tokens": 3}), memory)
            list(stream)
            remembered.append(stream.answer.tokens)
    assert remembered == want

    async def served() -> int:
        model = AsyncModel(ggq.load(beyond, **exact), Policy(Fixed(), prefixes=True))
        for count, expected in zip(counts, want, strict=True):
            stream = await model.stream(tokens[:count], max_tokens=3)
            async for _ in stream:
                pass
            assert stream.answer.tokens == expected
        assert model.scheduler is not None and model.scheduler.prefixes is not None
        hits = model.scheduler.prefixes.hits
        await model.aclose()
        return hits

    assert asyncio.run(served()) == 36 + 80  # the short text for the short one, the long one for the long one
