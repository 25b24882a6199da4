"""The program over windows: the same numbers as the reference interpreter's, layer by layer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ggq.format.scheme import Scheme
from ggq.models.build import build_program
from ggq.models.registry import find_architecture
from ggq.tape.cut import Section, sections
from ggq.tape.program import Buffer, Program, Run
from ggq.tape.reference import NumpyExecutor
from ggq.tape.windows import Buffers, WindowRun
from tests.kit.small_models import CONFIGS, checkpoint, prompt, read_checkpoint
from tests.kit.support import DEMO

F32 = Scheme("float", 32, "f32")


def model(name: str) -> tuple[Program, dict[str, np.ndarray]]:
    """A program and its tensors by role."""
    hf = json.loads((DEMO / "config.json").read_text()) if name == "demo" else CONFIGS[name]
    tensors = read_checkpoint(DEMO) if name == "demo" else checkpoint(hf)
    architecture = find_architecture(hf)
    config = architecture.config(hf)
    return build_program(config), {spec.role: tensors[spec.name] for spec in architecture.tensors(config) if spec.role}


def expected(program: Program, tensors: dict[str, np.ndarray], windows: np.ndarray) -> np.ndarray:
    """Logits of each window by the reference interpreter, which computes in float64."""
    executor = NumpyExecutor(program, lambda role: (F32, tensors[role]), activations="float32", cache="f32")
    runs = [Run(executor.open_sequence(), window, "all") for window in windows]
    return executor.forward(runs).reshape(*windows.shape, -1)


@pytest.mark.parametrize("name", [*CONFIGS, "demo"])
def test_logits_of_windows_are_those_of_the_reference(name: str) -> None:
    program, tensors = model(name)
    windows = np.array(prompt({"vocab_size": 64}, 60), np.int32).reshape(3, 20)
    whole = Section("", program.ops, frozenset({program.logits}))
    found = WindowRun(20, tensors.__getitem__).run(whole, windows, {})[program.logits]
    reference = expected(program, tensors, windows)
    assert np.abs(found - reference).max() < 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize("name", ["grouped", "biased"])
def test_segments_follow_each_other_as_the_whole_tape(name: str) -> None:
    program, tensors = model(name)
    windows = np.array(prompt({"vocab_size": 64}, 24), np.int32).reshape(2, 12)
    run, buffers = WindowRun(12, tensors.__getitem__), dict[Buffer, np.ndarray]()
    parts = sections(program)
    assert [part.name for part in parts] == ["", "layers.0", "layers.1", ""]
    assert [sorted(buffer.name for buffer in part.kept) for part in parts] == [
        ["hidden"],
        ["hidden"],
        ["hidden_wanted"],
        [],
    ]
    for part in parts[:-1]:
        buffers = run.run(part, windows, buffers)
    last = Section("", parts[-1].ops, frozenset({program.logits}))
    whole = Section("", program.ops, frozenset({program.logits}))
    assert np.array_equal(
        run.run(last, windows, buffers)[program.logits], run.run(whole, windows, Buffers())[program.logits]
    )


def test_products_that_nobody_reads_are_seen_and_not_computed() -> None:
    program, tensors = model("grouped")
    seen: list[tuple[str, ...]] = []
    asked: list[str] = []

    def weights(role: str) -> np.ndarray:
        asked.append(role)
        return tensors[role]

    run = WindowRun(5, weights, lambda op, x: seen.append((*op.weights, str(x.shape))))
    last = sections(program)[-1]
    hidden = np.ones((2, 5, 32), np.float32)
    assert run.run(last, np.zeros((2, 5), np.int32), {Buffer("hidden_wanted", 32, "wanted"): hidden}) == {}
    assert seen == [("embedding.weight", "(10, 32)")] and asked == ["norm.weight"]
