"""The compiled executor against the NumPy one on whole models, and what it promises of batches, threads and cuts.

With float32 activations and a float32 cache the two differ by float32 rounding alone. With int8 activations, an
activation between two codes may fall to either side, and later ones follow it. Where the processor has tiles of bf16,
which many tokens are computed with, these tests do without; test_tiles.py has those of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.engine.numba_executor import NumbaExecutor
from ggq.errors import FormatError, UsageError
from ggq.format import open_reader
from ggq.format.scheme import FLOAT_BYTES
from ggq.generate.loading import load, roles_to_names
from ggq.models.build import build_program
from ggq.models.metadata import from_metadata
from ggq.quant import SCHEMES
from ggq.tape.program import Run
from ggq_kernels.code import permission
from tests.kit.small_models import CONFIGS, checkpoint, prompt, write_demo, write_ggq
from tests.kit.support import DEMO, models_schemes, shared

pytestmark = pytest.mark.kernels

TOKENS = prompt(json.loads((DEMO / "config.json").read_text()), 40)

FLOAT32_DRIFT = 5e-6
"""How far float32 moves the logits of these models, relative to the largest: each of some 20 products and norms in a
row is off by about sqrt(columns) * 2**-24 of its size, 1.2e-6 for 384 columns, and these add up as a random walk
does."""


@pytest.fixture(autouse=True, scope="module")
def without_tiles() -> Iterator[None]:
    """Few tokens and many are rounded to int8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permission, "tiles_allowed", lambda: False)
        yield


@contextmanager
def opened(path: Path, interpreter: str = "numba", **options: Any) -> Iterator[Any]:
    """The executor of a file."""
    model = load(path, interpreter=interpreter, **options)
    try:
        yield model.executor
    finally:
        model.close()


def run(sequence: int, tokens: list[int], logits: str = "all") -> Run:
    return Run(sequence, np.array(tokens, np.int32), logits)


def logits(executor: Any, tokens: list[int]) -> np.ndarray:
    return np.asarray(executor.forward([run(executor.open_sequence(), tokens)]))


def both(path: Path, tokens: list[int], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Logits by the kernels and by NumPy."""
    with opened(path, **options) as fast:
        got = logits(fast, tokens)
    options.pop("threads", None)
    with opened(path, "numpy", **options) as slow:
        return got, logits(slow, tokens)


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Relative to the largest logit."""
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("demo")
    return {name: folder / f"{name}.ggq" for name in SCHEMES}


def demo(files: dict[str, Path], name: str) -> Path:
    if not files[name].exists():
        write_demo(files[name], name)
    return files[name]


@pytest.mark.parametrize("name", models_schemes())
def test_logits_are_those_of_numpy_but_for_float32(files: dict[str, Path], name: str) -> None:
    got, want = both(demo(files, name), TOKENS, activations="float32", cache="f32")
    assert largest_difference(got, want) < FLOAT32_DRIFT


@pytest.mark.parametrize("config", CONFIGS)
def test_biases_untied_and_stretched_models(config: str, tmp_path: Path) -> None:
    path = write_ggq(tmp_path / "m.ggq", CONFIGS[config], checkpoint(CONFIGS[config]), "f32")
    got, want = both(path, prompt(CONFIGS[config], 100), cache="f32")
    assert largest_difference(got, want) < FLOAT32_DRIFT
    path = write_ggq(tmp_path / "q.ggq", CONFIGS[config], checkpoint(CONFIGS[config]), "q8-g32")
    got, want = both(path, prompt(CONFIGS[config], 100), activations="float32", cache="f32")
    assert largest_difference(got, want) < FLOAT32_DRIFT


@pytest.mark.parametrize("name", [name for name in models_schemes() if name not in FLOAT_BYTES])
def test_int8_activations_are_those_of_numpy_but_for_codes_on_the_edge(files: dict[str, Path], name: str) -> None:
    """Float32 drift of 1e-7 moves one int8 code in some 40,000 across an edge, and a token of this model has 3,200:
    nine tokens in ten, each a sequence of its own, have no such code and agree as float32 does. Three in four are
    asked for.

    Where codes did move, two executors may differ as two roundings of the same activations do: by sqrt(2) times what
    int8 differs from float32, when the errors are independent. Twice that is allowed.
    """
    path, runs = demo(files, name), {}
    forms = {"fast": ("numba", "int8"), "slow": ("numpy", "int8"), "exact": ("numpy", "float32")}
    for key, (interpreter, activations) in forms.items():
        with opened(path, interpreter, activations=activations, cache="f32") as executor:
            each = executor.forward([run(executor.open_sequence(), [token]) for token in TOKENS])
            runs[key] = each, logits(executor, TOKENS)
    for fast, slow, exact in zip(*runs.values()):
        assert np.linalg.norm(fast - slow) < 2 * np.linalg.norm(slow - exact)
    drift = np.abs(runs["fast"][0] - runs["slow"][0]).max(axis=1) / np.abs(runs["slow"][0]).max(axis=1)
    assert (drift < FLOAT32_DRIFT).mean() > 0.75


@pytest.mark.parametrize("name", ["f32", "q5-g64"])
def test_a_float16_cache_differs_by_numbers_on_the_edge(files: dict[str, Path], name: str) -> None:
    """Keys and values rounded to f16 may fall to either side: by 2**-10 of themselves at most, and few of them."""
    got, want = both(demo(files, name), TOKENS, activations="float32", cache="f16")
    assert largest_difference(got, want) < 2**-10
    exact = both(demo(files, name), TOKENS, activations="float32", cache="f32")[1]
    assert np.abs(want - exact).max() > 0  # the cache is of the type that was asked for


# ---- batches, cuts, threads: the same bits


@pytest.fixture(scope="module", params=["int8", "float32"])
def model(request: pytest.FixtureRequest, files: dict[str, Path]) -> Iterator[NumbaExecutor]:
    with opened(demo(files, "q4-g32"), activations=request.param) as executor:
        yield executor


def test_sequences_of_a_batch_do_not_see_each_other(model: NumbaExecutor) -> None:
    lengths, start, alone = (1, 17, 4, 1, 130), 0, []
    texts = [(TOKENS * 4)[i : i + n] for i, n in enumerate(lengths)]
    for text in texts:
        alone += [logits(model, text)]
    together = model.forward([run(model.open_sequence(), text) for text in texts])
    for n, expected in zip(lengths, alone):
        np.testing.assert_array_equal(together[start : start + n], expected)
        start += n


@pytest.mark.parametrize("cuts", [[1] * 140, [128, 12], [127, 1, 12], [5, 64, 71]])
def test_any_cut_of_a_text_gives_the_same_bits(model: NumbaExecutor, cuts: list[int]) -> None:
    tokens, parts, start, sequence = (TOKENS * 4)[:140], [], 0, model.open_sequence()
    for n in cuts:
        parts.append(model.forward([run(sequence, tokens[start : start + n])]))
        start += n
    np.testing.assert_array_equal(np.concatenate(parts), logits(model, tokens))
    assert model.length(sequence) == 140
    model.close_sequence(sequence)


def test_last_and_no_logits_are_rows_of_all(model: NumbaExecutor) -> None:
    texts = [TOKENS[:7], TOKENS[3:9], TOKENS[:1]]
    whole = [logits(model, text) for text in texts]
    runs = [run(model.open_sequence(), text, wanted) for text, wanted in zip(texts, ("last", "none", "all"))]
    np.testing.assert_array_equal(model.forward(runs), np.concatenate([whole[0][-1:], whole[2]]))


def test_pages_of_closed_sequences_carry_nothing_over(model: NumbaExecutor) -> None:
    expected = logits(model, TOKENS)
    for text in (TOKENS * 5, TOKENS[::-1] * 3):
        sequence = model.open_sequence()
        model.forward([run(sequence, text, "last")])
        model.close_sequence(sequence)
        with pytest.raises(UsageError, match="is not open"):
            model.length(sequence)
    np.testing.assert_array_equal(logits(model, TOKENS), expected)


def test_threads_and_rows_at_once_change_no_bit(files: dict[str, Path]) -> None:
    path, results = demo(files, "q4-g32"), []
    for options in ({"threads": 1}, {"threads": 2}, {"threads": 500}, {"threads": 2, "max_rows": 5}):
        with open_reader(path) as reader:
            config = from_metadata(reader.metadata, reader.path)
            names = roles_to_names(reader, config)
            executor = NumbaExecutor(build_program(config), reader, names, **options)  # type: ignore[arg-type]
            results.append(logits(executor, TOKENS))
            executor.close()
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


# ---- what it cannot do, and what it is for


@pytest.mark.parametrize(
    ("scheme", "options", "fused"),
    [
        ("q4-g32", {}, True),
        ("q4-g32", {"activations": "float32"}, False),
        ("f16", {}, False),
        ("q4-g32+scale", {}, False),
    ],
)
def test_gates_are_rounded_at_once_where_nothing_else_reads_them(
    scheme: str, options: dict[str, str], fused: bool, tmp_path: Path
) -> None:
    path, config = tmp_path / "m.ggq", CONFIGS["grouped"]
    write_ggq(path, config, checkpoint(config), scheme)
    with opened(path, **options) as executor:
        kinds = [step.kind for step in executor.steps]
        layers = len(executor.program.caches)
    assert (kinds.count("gate"), kinds.count("gate quantize")) == ((0, layers) if fused else (layers, 0))


@pytest.mark.parametrize("name", ["c3-row", "c2-g32+order", "q4-g32-s6+scale+order", "q6-g16-s8", "q4-g16+order"])
def test_small_models_of_codebooks_and_transforms(name: str, tmp_path: Path) -> None:
    """A table's memory must live as long as the tape: where little else is allocated, it is used again at once."""
    config, path = CONFIGS["grouped"], tmp_path / "m.ggq"
    write_ggq(path, config, checkpoint(config), name)
    got, want = both(path, prompt(config, 20), activations="float32", cache="f32")
    assert largest_difference(got, want) < FLOAT32_DRIFT


@pytest.mark.parametrize("place", [2, -1])
def test_an_order_of_columns_out_of_bounds_is_refused(tmp_path: Path, place: int) -> None:
    """S10.3: kernels read the inputs that it names, those of padding columns too."""
    config, path = {**CONFIGS["grouped"], "intermediate_size": 44}, tmp_path / "m.ggq"
    write_ggq(path, config, checkpoint(config), "q4-g32+order")
    with open_reader(path) as reader:
        segment = reader.tensors["model.layers.0.mlp.down_proj.weight"].segments["input_order"]
    data = bytearray(path.read_bytes())
    order = np.frombuffer(data, "<u4", 64, segment.offset)
    order[place] = 2**31
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"down_proj.*is column 2147483648; allowed are 0 to (43|63) \(S10.3\)"):
        load(path)


def test_a_trained_model_tells_its_story(tmp_path: Path) -> None:
    import ggq

    path = tmp_path / "s.ggq"
    ggq.convert(shared("models", "stories260k"), path, scheme="f32")
    with ggq.load(path) as model:
        text = model.generate("Once upon a time, there was", max_tokens=40, temperature=0)
    assert text == (
        " a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. She wanted"
    )
