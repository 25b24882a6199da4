"""Models with states beside keys: prompts in pieces, sequences beside each other, cut back, forked, in threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.convert.convert import convert
from ggq.errors import UsageError
from ggq.generate.model import Model
from ggq.tape.caches import StateSpec
from tests.generate.test_scheduler import in_threads
from tests.kit.checkpoints import tiny
from tests.kit.family_models import (
    FACTS,
    TOLERANCE,
    checkpoint,
    expected,
    forward,
    last_logits,
    opened,
    spec_of,
    write_checkpoint,
)
from tests.kit.small_families import FAMILIES as CONFIGS
from tests.kit.small_models import write_ggq
from tests.models.test_families import errors_of

RECURRENT = ("lfm2", "lfm2_biased", "qwen3_5", "mamba2", "granite_hybrid", "falcon_h1")
INTERPRETERS = ["numpy", pytest.param("numba", marks=pytest.mark.kernels)]


@pytest.fixture(scope="module", params=RECURRENT)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ggq(tmp_path_factory.mktemp(name) / "m.ggq", CONFIGS[name], checkpoint(name))


def tokens_of(name: str, number: int = 0) -> list[int]:
    return list(FACTS["models"][name]["prompts"][number])


def is_right(name: str, found: np.ndarray) -> bool:
    """Whether these are the last of the logits that transformers has for the first prompt."""
    want = expected(name)[0]
    return bool(np.abs(found - want[-len(found) :]).max() < TOLERANCE * np.abs(want).max())


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("pieces", [(1, 2, 3, 58, 26), (70, 20), (33, 1, 1, 1, 54), (1,) * 90])
def test_a_prompt_in_pieces_is_the_whole(name: str, path: Path, interpreter: str, pieces: tuple[int, ...]) -> None:
    with opened(path, interpreter, cache="f32", activations="float32") as executor:
        sequence, other, tokens = executor.open_sequence(), executor.open_sequence(), tokens_of(name)
        found, first = [], 0
        for number, count in enumerate(pieces):
            runs = [(sequence, tokens[first : first + count], "all")]
            if number % 2:  # somebody else is computed in every other pass
                runs.insert(0, (other, tokens[: 1 + number % 3], "none"))
            found.append(forward(executor, runs))
            first += count
        assert is_right(name, np.concatenate(found)[-20:])


@pytest.mark.kernels
def test_a_sequence_is_computed_as_alone_to_the_bit(name: str, path: Path) -> None:
    """Whoever is beside it: the others have as many tokens, so that products take the same tiles."""
    with opened(path, "numba", cache="f32", activations="float32") as executor:
        tokens = [tokens_of(name)[i : i + 16] for i in (0, 16, 32)]
        alone = [forward(executor, [(executor.open_sequence(), each, "all")]) for each in tokens]
        sequences = [executor.open_sequence() for _ in tokens]
        together = forward(executor, [(each, part, "all") for each, part in zip(sequences, tokens)])
        np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_a_sequence_is_cut_back_to_a_state_and_goes_on(name: str, path: Path, interpreter: str) -> None:
    with opened(path, interpreter, cache="f32", activations="float32") as executor:
        sequence, tokens = executor.open_sequence(), tokens_of(name)
        for first, last in ((0, 30), (30, 60), (60, 62), (62, 63), (63, 64), (64, 65)):
            forward(executor, [(sequence, tokens[first:last], "none")])
        kept = executor.truncate(sequence, 64)
        assert 60 <= kept <= 64 and executor.length(sequence) == kept
        forward(executor, [(sequence, [1, 2, 3], "none")])  # another text
        assert executor.truncate(sequence, kept) == kept
        assert executor.truncate(sequence, 59) == 30
        assert is_right(name, forward(executor, [(sequence, tokens[30:], "all")])[-20:])
        assert executor.truncate(sequence, 29) == 0
        assert is_right(name, forward(executor, [(sequence, tokens, "all")])[-20:])


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_a_fork_goes_on_by_itself(name: str, path: Path, interpreter: str) -> None:
    with opened(path, interpreter, cache="f32", activations="float32") as executor:
        sequence, tokens = executor.open_sequence(), tokens_of(name)
        forward(executor, [(sequence, tokens[:50], "none")])
        forward(executor, [(sequence, tokens[50:70], "none")])
        twin = executor.fork(sequence)
        strange = [(sequence, [7], "none"), (executor.fork(sequence), [3, 4], "none")]
        forward(executor, strange)
        found = [forward(executor, [(twin, [token], "all")]) for token in tokens[70:]]
        assert is_right(name, np.concatenate(found))
        assert executor.truncate(twin, 60) == 50
        executor.close_sequence(sequence)
        assert is_right(name, forward(executor, [(twin, tokens[50:], "all")])[-20:])


@pytest.mark.kernels
@pytest.mark.parametrize("tokens, kept", [(1, 40), (3, 40)])
def test_an_interrupted_pass_loses_no_state_that_is_kept(
    name: str, path: Path, tokens: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernels had written by then is not gone on from."""
    with opened(path, "numba", cache="f32", activations="float32") as executor:
        sequence, text = executor.open_sequence(), tokens_of(name)
        forward(executor, [(sequence, text[:40], "none")])
        forward(executor, [(sequence, text[40:41], "none")])

        def interrupted(runs: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(executor, "_appended", interrupted)
            with pytest.raises(KeyboardInterrupt):
                forward(executor, [(sequence, text[41 : 41 + tokens], "none")])
        assert executor.length(sequence) == (kept if tokens == 1 else 41)
        assert is_right(name, forward(executor, [(sequence, text[executor.length(sequence) :], "all")])[-20:])


@pytest.mark.kernels
def test_the_end_of_a_prompt_is_not_all_that_can_be_gone_back_to(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts beside each other whose last logits are wanted, one of them of a single token: each in its own order."""
    monkeypatch.setattr("ggq.engine.kv.policy.SPACING", 32)
    with opened(path, "numba", cache="f32", activations="float32") as executor:
        tokens, other = tokens_of(name), tokens_of(name, 1)
        one, two, three = (executor.open_sequence() for _ in range(3))
        forward(executor, [(three, other[:31], "none")])
        runs = [(one, tokens[:85], "last"), (three, other[31:32], "last"), (two, other[:34], "last")]
        found, texts = forward(executor, runs), (tokens[:85], other[:32], other[:34])
        alone = [forward(executor, [(executor.open_sequence(), each, "all")])[-1] for each in texts]
        assert np.abs(found - np.stack(alone)).max() < TOLERANCE * np.abs(found).max()
        assert executor.truncate(one, 84) == 64 and executor.truncate(two, 33) == 32
        assert is_right(name, forward(executor, [(one, tokens[64:], "all")])[-20:])


@pytest.mark.kernels
def test_four_bits_with_rounded_activations_are_within_what_rounding_allows(name: str, tmp_path: Path) -> None:
    """See `test_int8_activations_differ_as_much_as_their_rounding`, which has the bound, for eight bits."""
    path = write_ggq(tmp_path / "m.ggq", CONFIGS[name], checkpoint(name), "q4-g32")
    with opened(path, "numpy", cache="f32", activations="float32") as executor:
        exact = last_logits(executor, name)
    with opened(path, "numba", cache="f32", activations="int8") as executor:
        rounded = last_logits(executor, name)
    factors = sum(errors_of(layer.mixer) for layer in spec_of(name)[1].layers)
    for got, want in zip(rounded, exact, strict=True):
        assert 0 < np.linalg.norm(got - want) / np.linalg.norm(want) < 2 * 0.006 * np.sqrt(factors + 1)


@pytest.fixture
def model(path: Path) -> Iterator[Model]:
    with ggq.load(path, activations="float32", cache="f32") as made:
        yield made


def answer(model: Model, prompt: list[int], count: int = 20) -> list[int]:
    stream = model.stream(prompt, max_tokens=count, temperature=0)
    for _ in stream:
        pass
    return list(stream.answer.tokens)


@pytest.mark.kernels
def test_threads_that_share_a_small_cache_get_what_each_gets_alone(name: str, path: Path, model: Model) -> None:
    """Requests are preempted and computed anew where the cache is full."""
    prompts = [tokens_of(name)[i : i + 12 + 3 * i] for i in range(6)]
    alone = [answer(model, prompt) for prompt in prompts]
    executor: Any = model.executor
    assert executor._pool.used == 0
    size = executor.cost(60)
    with ggq.load(path, activations="float32", cache="f32", cache_bytes=2 * size + size // 2) as small:

        def work(place: int) -> None:
            for _ in range(3):
                assert answer(small, prompts[place]) == alone[place]

        in_threads(6, work)
        pool: Any = small.executor
        assert pool._pool.used == 0
    with ggq.load(path, activations="float32", cache="f32", cache_bytes=size // 2) as tiny:
        with pytest.raises(UsageError, match="do not fit into the cache"):
            answer(tiny, prompts[0])


@pytest.mark.kernels
def test_an_answer_that_is_cancelled_frees_its_states(name: str, model: Model) -> None:
    stream = model.stream(tokens_of(name), max_tokens=20, temperature=0)
    next(iter(stream))
    executor: Any = model.executor
    states = sum(4 * spec.numbers(16) for spec in executor.program.caches if isinstance(spec, StateSpec))
    assert executor._pool.used >= states > 0
    stream.close()
    assert executor._pool.used == 0


@pytest.mark.kernels
def test_a_conversation_goes_on_from_its_states(name: str, tmp_path: Path) -> None:
    """As it would be computed anew; the second turn computes its own tokens and those behind the last state alone."""
    tiny(tmp_path / "m")  # for its tokenizer
    folder = write_checkpoint(tmp_path / "m", name, 320)
    template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:"
    (folder / "chat_template.jinja").write_text(template)
    convert(folder, tmp_path / "m.ggq", scheme="f32")
    with ggq.load(tmp_path / "m.ggq", activations="float32", cache="f32") as model:
        memory, messages, computed = model.remember(), [], []
        for turn in range(3):
            messages.append({"role": "user", "content": f"{turn} " + "the rain " * (1 if turn else 3)})
            stream = model.stream_chat(messages, memory, max_tokens=4, temperature=0)
            text = "".join(stream)
            computed.append((stream.timing.prefill_tokens, len(stream.answer.prompt)))
            assert model.chat(messages, max_tokens=4, temperature=0) == text
            messages.append({"role": "assistant", "content": text if turn else "other"})
        assert computed[0][0] == computed[0][1] and computed[2][0] < computed[2][1] / 2
        executor: Any = model.executor
        assert executor._pool.used > 0
        del memory, stream
        model.generate([1], max_tokens=1)
        assert executor._pool.used == 0
