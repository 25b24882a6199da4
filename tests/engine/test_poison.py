"""No operation of a program turns NaN or infinity into a finite number: it reaches the logits, and is told by name."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.engine.lower.ops import Rounded
from ggq.engine.numba_executor import NumbaExecutor
from ggq.errors import ModelError, NotFiniteError
from ggq.tape.program import Run
from tests.kit.family_models import write_checkpoint
from tests.kit.small_models import CONFIGS, checkpoint, prompt, write_ggq

pytestmark = pytest.mark.kernels

TOKENS = 11


def model_file(folder: Path, name: str, scheme: str) -> Path:
    if name in CONFIGS:
        return write_ggq(folder / f"{name}-{scheme}.ggq", CONFIGS[name], checkpoint(CONFIGS[name]), scheme)
    ggq.convert(write_checkpoint(folder / name, name), folder / f"{name}.ggq", scheme=scheme)
    return folder / f"{name}.ggq"


def memories(executor: NumbaExecutor, step: int) -> Iterator[tuple[str, int, int]]:
    """The name of each buffer that a step fills, the address of a float of it that belongs to the last token, and how
    many of them: of scales, whose order depends on the processor, all that are in use."""
    bound = executor._bound
    for buffer in bound.op(step).writes():
        last = TOKENS - 1 if buffer.rows == "tokens" else 0
        number = bound.places[bound.tape.sources[step]][buffer]
        array = bound.context.arrays.get(number)
        if array is not None:
            yield buffer.name, array.ctypes.data + last * array.strides[0] + 4 * (buffer.width // 2), 1
        elif isinstance(buffer, Rounded):
            place: Any = bound.context._places[number]
            if buffer.group:
                yield f"scales of {buffer.name}", place.scales, (last + 1) * (place.columns // place.group)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "scheme", "activations"),
    [
        ("grouped", "q4-g32", "int8"),
        ("biased", "q8-g32", "int8"),
        ("grouped", "f32", "float32"),
        ("gemma2", "q4-g32", "int8"),
    ],
)
def test_what_a_step_leaves_behind_reaches_the_logits(
    name: str, scheme: str, activations: str, value: float, tmp_path: Path
) -> None:
    path = model_file(tmp_path, name, scheme)
    with ggq.load(path, activations=activations, threads=1) as model:
        executor: Any = model.executor
        tokens = np.array(prompt({"vocab_size": 61}, TOKENS), np.int32)
        steps, poisoned, clean = len(executor.steps), 0, model.logits(tokens.tolist())
        for step in range(steps - 1):
            for place in range(len(list(memories(executor, step)))):
                sequence = executor.open_sequence()
                executor._describe([Run(sequence, tokens, "last")])
                executor._team.run(executor._bound.rows, 0, step + 1)
                buffer, address, count = list(memories(executor, step))[place]
                (ctypes.c_float * count).from_address(address)[:] = [value] * count
                executor._team.run(executor._bound.rows, step + 1, steps)
                assert not np.isfinite(executor._logits[0]).all(), f"{executor.steps[step]} {buffer}"
                executor.close_sequence(sequence)
                assert np.array_equal(model.logits(tokens.tolist()), clean), f"{executor.steps[step]} {buffer} stays"
                poisoned += 1
        assert poisoned > 20 and np.isfinite(clean).all()


def test_the_operation_and_its_layer_are_named(tmp_path: Path) -> None:
    tensors = checkpoint(CONFIGS["grouped"])
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = np.full_like(tensors[name], 3e38)
    path = write_ggq(tmp_path / "broken.ggq", CONFIGS["grouped"], tensors, "f32")
    expected = r"the model computed (nan|-?inf) where finite numbers are expected, first in \w+ of layers.1.mlp.down"
    tokens = prompt(CONFIGS["grouped"], 8)
    with ggq.load(path, activations="float32", cache="f32") as model:
        for compute in (
            lambda: model.logits(tokens),
            lambda: model.generate(tokens, max_tokens=4),
            lambda: model.generate_batch([tokens, tokens[:3]], max_tokens=2),
            lambda: "".join(model.stream(tokens, max_tokens=4)),
        ):
            with pytest.raises(NotFiniteError, match=expected) as told:
                compute()
            assert isinstance(told.value, ModelError) and len(str(told.value).splitlines()) == 2
        with pytest.raises(NotFiniteError, match="first in .* of layers.1.mlp.down"):
            ggq.evaluate(model, tokens, context=8)


@pytest.mark.parametrize("interpreter", ["numba", "numpy"])
def test_keys_beyond_f16_are_told_with_what_to_do(interpreter: str, tmp_path: Path) -> None:
    tensors = checkpoint(CONFIGS["grouped"])
    for layer in (0, 1):
        name = f"model.layers.{layer}.self_attn.v_proj.weight"
        tensors[name] = tensors[name] * np.float32(3e6)
    path = write_ggq(tmp_path / "large.ggq", CONFIGS["grouped"], tensors, "f32")
    tokens = prompt(CONFIGS["grouped"], 8)
    with ggq.load(path, interpreter=interpreter, activations="float32", cache="f16") as model:
        with pytest.raises(NotFiniteError, match="first in attention of layer 0\n.*load with cache='f32'"):
            model.logits(tokens)
    with ggq.load(path, interpreter=interpreter, activations="float32", cache="f32") as model:
        assert np.isfinite(model.logits(tokens)).all()
