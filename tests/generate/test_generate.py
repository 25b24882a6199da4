"""Generation over the reference interpreter: what comes out, why it ends, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import GGQError, ModelError, UnsupportedError, UsageError
from ggq.generate.loading import load
from ggq.generate.model import Model
from tests.kit.small_models import CONFIGS, checkpoint, prompt, read_checkpoint, write_demo, write_ggq
from tests.kit.support import run_ggq, shared

PROMPT = "def add(a, b):\n    return"


@pytest.fixture(scope="module")
def demo_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo") / "demo.ggq")


@pytest.fixture(scope="module")
def demo(demo_path: Path) -> Iterator[Model]:
    with ggq.load(demo_path, interpreter="numpy") as model:
        yield model


@pytest.fixture(scope="module")
def small_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CONFIGS["grouped"]
    return write_ggq(tmp_path_factory.mktemp("small") / "small.ggq", config, checkpoint(config))


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shared("models", "stories260k")
    hf = json.loads((folder / "config.json").read_text())
    assets = {name: (folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    metadata = {"tokenizer.bos_id": 1, "tokenizer.eos_ids": [2], "tokenizer.add_bos": True}
    return write_ggq(tmp_path_factory.mktemp("s") / "s.ggq", hf, read_checkpoint(folder), "f32", assets, metadata)


STORY = "Once upon a time, there was"
GOES_ON = (
    " a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. She wanted"
)


def test_a_story_goes_on_as_with_transformers(stories: Path) -> None:
    facts = json.loads((Path(__file__).parents[1] / "golden" / "facts.json").read_text())["stories260k"]
    assert facts["text"] == GOES_ON
    with ggq.load(stories, interpreter="numpy") as model:
        assert model.encode(STORY) == facts["tokens"]
        stream = model.stream(STORY, max_tokens=40)
        assert "".join(stream) == stream.answer.text == GOES_ON
        assert stream.answer.tokens == facts["greedy"] and stream.answer.finish_reason == "length"


def test_the_command_prints_the_story(stories: Path) -> None:
    done = run_ggq("run", stories, "-p", STORY, "-n", "40", "--greedy", "--interpreter", "numpy")
    assert (done.returncode, done.stdout) == (0, GOES_ON + "\n"), done.stderr
    assert "tok/s" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_command_reads_a_prompt_and_prints_json(demo_path: Path) -> None:
    options = ("-n", "5", "--seed", "3", "--top-p", "0.9", "--interpreter", "numpy")
    done = run_ggq("run", demo_path, "-p", PROMPT, "--json", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["prompt"], found["finish_reason"], found["generated_tokens"]) == (PROMPT, "length", 5)
    assert found["prompt_tokens"] > 5 and len(found["tokens"]) == 5
    for key in ("load_s", "first_token_s", "prefill_tok_s", "decode_tok_s"):
        assert found[key] > 0
    again = run_ggq("run", demo_path, "-p", PROMPT, "--echo", *options)
    assert again.stdout == PROMPT + found["text"] + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--greedy", "--seed", "1"],
            "error: --greedy takes the most likely token, so it cannot be combined with sampling options",
        ),
        (["--top-p", "2"], "error: --top-p is 2.0, a number from 0 to 1 is allowed"),
        (["--activations", "int4"], "error: --activations is 'int4', allowed are int8, float32"),
        (["--interpreter", "torch"], "error: interpreter is 'torch', allowed are numba, numpy"),
    ],
)
def test_the_command_refuses_wrong_options(demo_path: Path, arguments: list[str], message: str) -> None:
    done = run_ggq("run", demo_path, "-p", "x", "--interpreter", "numpy", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_a_prompt_may_be_token_ids(demo: Model) -> None:
    assert demo.generate(demo.encode(PROMPT), max_tokens=12) == demo.generate(PROMPT, max_tokens=12)


def test_logits_agree_with_generation(demo: Model) -> None:
    stream = demo.stream(PROMPT, max_tokens=6)
    text = "".join(stream)
    tokens = demo.encode(PROMPT) + stream.answer.tokens
    logits = demo.logits(tokens)
    assert logits.dtype == np.float32 and logits.shape == (len(tokens), 1024)
    assert logits[len(tokens) - 7 : -1].argmax(axis=1).tolist() == stream.answer.tokens
    assert text == demo.tokenizer.decode(tokens)[len(PROMPT) :]


def test_a_batch_gives_what_each_prompt_alone_gives(demo: Model) -> None:
    prompts = [PROMPT, "import", "class Tree:\n"]
    for options in ({"max_tokens": 8}, {"max_tokens": 8, "temperature": 1.0, "seed": 5}):
        alone = [
            demo.generate(text, **{**options, **({"seed": 5 + i} if "seed" in options else {})})  # type: ignore[arg-type]
            for i, text in enumerate(prompts)
        ]
        assert demo.generate_batch(prompts, **options) == alone


def test_a_batch_goes_on_when_one_is_done(demo: Model) -> None:
    full = demo.generate_batch(["import", PROMPT], max_tokens=10)
    stop = full[1][:4]
    shorter = demo.generate_batch(["import", PROMPT], max_tokens=10, stop=[stop])
    assert shorter[1] == "" and shorter[0] == full[0].split(stop)[0]


def test_options_may_be_numbers_of_numpy(demo: Model) -> None:
    plain = demo.generate(PROMPT, max_tokens=6, temperature=0.5, top_k=4, seed=1)
    options: Any = {"max_tokens": np.int64(6), "temperature": np.float32(0.5), "top_k": np.int32(4)}
    ids: Any = np.array(demo.encode(PROMPT))
    assert demo.generate(ids, **options, seed=np.uint8(1)) == plain


def test_seeds_repeat(demo: Model) -> None:
    first = demo.generate(PROMPT, max_tokens=20, temperature=1.0, seed=1)
    assert first == demo.generate(PROMPT, max_tokens=20, temperature=1.0, seed=1)
    assert first != demo.generate(PROMPT, max_tokens=20, temperature=1.0, seed=2)


def test_stop_strings_end_the_text(demo: Model) -> None:
    text = demo.generate(PROMPT, max_tokens=30)
    stop = text[5:9]
    stream = demo.stream(PROMPT, max_tokens=30, stop=[stop, "never seen"])
    assert "".join(stream) == text[: text.index(stop)] and stream.answer.finish_reason == "stop"


def test_an_end_token_ends_the_text(demo_path: Path, tmp_path: Path) -> None:
    with ggq.load(demo_path, interpreter="numpy") as model:
        tokens = model.stream(PROMPT, max_tokens=10)
        whole = "".join(tokens)
        end = tokens.answer.tokens[4]
        first = tokens.answer.tokens.index(end)
        expected = model.tokenizer.decode(tokens.answer.tokens[:first])
    config = json.dumps({"eos_token_id": [end]}).encode()
    with ggq.load(write_demo(tmp_path / "d.ggq", generation_config_json=config), interpreter="numpy") as model:
        stream = model.stream(PROMPT, max_tokens=10)
        assert "".join(stream) == expected != whole
        assert stream.answer.finish_reason == "end" and len(stream.answer.tokens) == first


def test_the_context_is_the_limit(small_path: Path) -> None:
    tokens = prompt(CONFIGS["grouped"], 128)
    with load(small_path, interpreter="numpy") as model:
        for given, room in ((125, 4), (128, 1)):
            stream = model.stream(tokens[:given])
            list(stream)
            assert len(stream.answer.tokens) == room and stream.answer.finish_reason == "length"
        assert model.logits(tokens).shape == (128, 64)
        with pytest.raises(UsageError, match="129 tokens do not fit into the model's context of 128"):
            model.generate([*tokens, 1])
        with pytest.raises(UsageError, match="129 tokens do not fit into the model's context of 128"):
            model.logits([*tokens, 1])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "the prompt is empty"),
        ("", "the prompt is empty"),
        ([-1], "token id -1 is outside the vocabulary, 0 to 1023 allowed"),
        ([1, 1024], "token id 1024 is outside the vocabulary, 0 to 1023 allowed"),
        ([2**70], f"token id {2**70} is outside the vocabulary, 0 to 1023 allowed"),
        ([1.0], "token ids are integers, not 1.0"),
        ([True], "token ids are integers, not True"),
        ("\ud800", "the prompt is not Unicode text"),
    ],
)
def test_prompts_that_cannot_be_run_are_refused(demo: Model, ids: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        demo.generate(ids)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0, a whole number from 1 on is allowed"),
        ({"temprature": 1}, "there is no option 'temprature'; there are max_tokens, temperature"),
        ({"stop": "END"}, "stop is a list of strings"),
        ({"temperature": -1}, "temperature is -1"),
    ],
)
def test_wrong_options_are_refused(demo: Model, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        demo.generate("x", **options)


def test_sequences_are_closed_whatever_happens(demo: Model) -> None:
    executor: Any = demo.executor
    before = len(executor._sequences)
    stream = demo.stream(PROMPT, max_tokens=50)
    next(stream)
    assert len(executor._sequences) == before + 1
    stream.close()
    demo.generate_batch(["a", "b"], max_tokens=2)
    demo.logits([1, 2])
    assert len(executor._sequences) == before


def test_the_models_own_defaults_are_used(tmp_path: Path) -> None:
    config = json.dumps({"do_sample": True, "temperature": 1.5, "top_k": 40}).encode()
    with ggq.load(write_demo(tmp_path / "d.ggq", generation_config_json=config), interpreter="numpy") as model:
        texts = {model.generate(PROMPT, max_tokens=10) for _ in range(4)}
        greedy = {model.generate(PROMPT, max_tokens=10, temperature=0) for _ in range(2)}
    assert len(texts) > 1 and len(greedy) == 1


@pytest.mark.parametrize("data", [b"{", b"[1]", b'{"a":' * 100000, b"\xff\xff"])
def test_a_broken_generation_config_is_refused(tmp_path: Path, data: bytes) -> None:
    path = write_demo(tmp_path / "d.ggq", generation_config_json=data)
    with load(path, interpreter="numpy") as model:
        with pytest.raises(ModelError, match=r"generation_config\.json: (not JSON|an object is expected)"):
            model.generate("x")


@pytest.mark.parametrize("data", [b"", b"{", b'{"model": {"type": "BPE"}}', b"[" * 100000, b"\xff"])
def test_a_broken_tokenizer_is_refused(tmp_path: Path, data: bytes) -> None:
    path = write_demo(tmp_path / "d.ggq", tokenizer_json=data)
    with load(path, interpreter="numpy") as model:
        with pytest.raises(ModelError, match=r"tokenizer\.json: not a tokenizer"):
            model.generate("x")


def test_a_file_without_tokenizer_takes_ids_only(small_path: Path) -> None:
    with load(small_path, interpreter="numpy") as model:
        with pytest.raises(
            ModelError, match=r"the file holds no tokenizer\nconvert the model again with its tokenizer.json"
        ):
            model.generate("x")
        assert model.logits([1, 2]).shape == (2, 64)
        stream = model.stream([1, 2], max_tokens=3)
        assert "".join(stream) == "" and len(stream.answer.tokens) == 3


@pytest.mark.parametrize("key", ["tokenizer.bos_id", "tokenizer.eos_ids"])
@pytest.mark.parametrize("value", [64, -1, 2**63, "x", True, 1.0, [1, 64]])
def test_token_ids_outside_the_vocabulary_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ModelError, match=rf"{key}: .* found, token ids are 0 to 63"):
        load(broken(tmp_path, "", **{key: value}), interpreter="numpy")


@pytest.mark.parametrize("bos", [5000, None])
def test_a_first_token_that_the_tokenizer_has_not_is_refused(tmp_path: Path, bos: Any) -> None:
    config = {**CONFIGS["grouped"], "vocab_size": 6000}
    tokenizer = (Path(ggq.__file__).parent / "demo" / "tokenizer.json").read_bytes()
    metadata = {"tokenizer.bos_id": bos, "tokenizer.add_bos": True}
    path = write_ggq(tmp_path / "m.ggq", config, checkpoint(config), "f32", {"tokenizer.json": tokenizer}, metadata)
    with load(path, interpreter="numpy") as model:
        with pytest.raises(ModelError, match=r"tokenizer\.bos_id: token .* is not in the tokenizer"):
            model.encode("x")


def broken(tmp_path: Path, change: str, **metadata: Any) -> Path:
    """A file whose tensors do not fit its metadata."""
    from ggq.format import Writer
    from ggq.format.scheme import Scheme
    from ggq.models.metadata import to_metadata
    from ggq.models.registry import find_architecture

    hf, f32 = CONFIGS["grouped"], Scheme("float", 32, "f32")
    architecture = find_architecture(hf)
    config = architecture.config(hf)
    specs = [spec for spec in architecture.tensors(config) if spec.role]
    with Writer(tmp_path / "broken.ggq") as writer:
        for key, value in {**to_metadata(config, "LlamaForCausalLM"), **metadata}.items():
            writer.add_metadata(key, value)
        for index, spec in enumerate(specs):
            role, shape = spec.role, spec.shape
            if role == "norm.weight":
                if change == "missing":
                    continue
                if change == "misshapen":
                    shape = (31,)
                if change == "misnamed":
                    role = "layers.0.attention.q_norm.weight"
                if change == "doubled":
                    role = specs[index - 1].role
            segments = {"values": np.zeros(f32.geometry(shape).bytes, dtype=np.uint8)}
            attributes = {} if change == "nameless" else {"role": role}
            writer.add_tensor(spec.name, shape, f32, segments, attributes=attributes)
        writer.finish()
    return tmp_path / "broken.ggq"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"no tensor for norm\.weight"),
        ("misshapen", r"tensor model\.norm\.weight: shape 31, 32 expected for norm\.weight"),
        (
            "misnamed",
            r"tensor model\.norm\.weight: its role 'layers\.0\.attention\.q_norm\.weight' is none of this model's",
        ),
        ("doubled", r"model\.layers\.1\.mlp\.down_proj\.weight has the role layers\.1\.mlp\.down\.weight too"),
        ("nameless", r"its role None is none of this model's"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(broken(tmp_path, change), interpreter="numpy")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", [0, 0, 0]),
        ("layers", [0]),
        ("layer.0.mixer.heads", 2),
        ("embedding.width", 64),
        ("head.tied", False),
        ("layer.0.mixer.query_bias", True),
    ],
)
def test_metadata_that_does_not_fit_the_tensors_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ModelError):
        load(broken(tmp_path, "", **{f"model.{key}": value}), interpreter="numpy")


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"model\.kind: 'encoder' is not supported"):
        load(broken(tmp_path, "", **{"model.kind": "encoder"}), interpreter="numpy")


def test_broken_weights_are_told_and_not_sampled(tmp_path: Path) -> None:
    with load(broken(tmp_path, ""), interpreter="numpy") as model:
        executor: Any = model.executor
        nothing = np.full((64, 32), np.nan)
        executor._weights["embedding.weight"] = executor.stored("embedding.weight")._replace(numbers=nothing)
        with pytest.raises(ModelError, match="the model computed nan where finite numbers are expected"):
            model.generate([1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0, a whole number from 1 on is allowed"),
        ({"activations": "int4"}, "activations is 'int4', allowed are int8, float32"),
        ({"cache": "f8"}, "cache is 'f8', allowed are f16, f32"),
        ({"interpreter": "torch"}, "interpreter is 'torch', allowed are numba, numpy"),
    ],
)
def test_wrong_ways_to_load_are_refused(small_path: Path, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(small_path, **options)


def test_the_cache_is_exact_for_exact_models_only(tmp_path: Path, small_path: Path) -> None:
    config = CONFIGS["grouped"]
    quantized = write_ggq(tmp_path / "q.ggq", config, checkpoint(config), "q8-g32")
    for path, expected in ((small_path, np.float32), (quantized, np.float16)):
        with load(path, interpreter="numpy") as model:
            assert model.executor.cache_type is expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheme", ["f16", "bf16", "q8-g32", "q6-g32", "q4z-g32", "q4-row"])
def test_quantized_files_run_and_stay_near(tmp_path: Path, scheme: str) -> None:
    config = CONFIGS["biased"]
    tokens, tensors = prompt(config, 20), checkpoint(config)
    results = []
    for name in ("f32", scheme):
        with load(write_ggq(tmp_path / f"{name}.ggq", config, tensors, name), interpreter="numpy") as model:
            results.append(model.logits(tokens))
    worst = np.abs(results[1] - results[0]).max() / np.abs(results[0]).max()
    assert 0 < worst < {"f16": 0.005, "bf16": 0.03, "q8-g32": 0.05, "q6-g32": 0.15}.get(scheme, 0.6)


def test_errors_belong_to_the_family(tmp_path: Path) -> None:
    with pytest.raises((GGQError, OSError)):
        load(tmp_path / "missing.ggq", interpreter="numpy")
