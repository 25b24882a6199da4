"""Experts of a layer are one tensor of the file, and each is quantized as if it were alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.convert.calibrate.calibrator import Calibrator
from ggq.convert.convert import convert, plan
from ggq.convert.write import stacked, stages
from ggq.errors import FormatError
from ggq.format import Writer, open_reader
from ggq.format.stacks import Unstacked, unstacked
from ggq.quant import parse_scheme
from ggq.quant.stored import decoded, segments_of
from ggq.tape.ops import Product
from tests.kit.family_models import last_logits, opened, write_checkpoint
from tests.kit.small_families import FAMILIES as CONFIGS

MESSAGE = r"((; )?(\d of \d experts|experts? [\d, ]+): no statistics: reached by \d+ tokens, fewer than 45; by mse)+"
EXPERT = re.compile(r"\.experts\.\d+\.")


def one_by_one(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> Path:
    """The file as it was before there were stacks."""
    with monkeypatch.context() as patch:
        patch.setattr(stacked, "_stack", lambda role, found: None)
        convert(folder, out, **options)
    return out


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("scheme", ["q4-g32", "q3m-g32-s6", "f16"])
def test_each_matrix_of_a_stack_is_what_it_is_alone(
    name: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "m", name)
    convert(folder, tmp_path / "new.ggq", scheme=scheme)
    before = one_by_one(folder, tmp_path / "old.ggq", monkeypatch, scheme=scheme)
    with open_reader(tmp_path / "new.ggq") as file, open_reader(before) as old:
        assert not [each for each in file.tensors if EXPERT.search(each) and each.endswith("weight")]
        view = unstacked(file)
        assert isinstance(view, Unstacked) and unstacked(old) is old
        roles = {entry.attributes["role"]: entry for entry in view.tensors.values()}
        for entry in old.tensors.values():
            mine = roles.pop(entry.attributes["role"])
            assert (mine.scheme, mine.shape, mine.name) == (entry.scheme, entry.shape, entry.name)
            for part, numbers in segments_of(old, entry).items():
                assert np.array_equal(view.read_segment(mine.name, part), numbers), (mine.name, part)
                assert np.array_equal(view.segment(mine.name, part), numbers)
        assert not roles


@pytest.mark.parametrize("scheme", ["q4-g32", "c4-g32-s6"])
def test_files_with_and_without_stacks_run_alike(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "m", "mixtral")
    convert(folder, tmp_path / "new.ggq", scheme=scheme)
    before = one_by_one(folder, tmp_path / "old.ggq", monkeypatch, scheme=scheme)
    found = []
    for path in (tmp_path / "new.ggq", before):
        with opened(path, "numba", activations="float32") as executor:
            found.append(np.concatenate(last_logits(executor, "mixtral")))
    if scheme == "q4-g32":
        assert np.array_equal(*found)
    with opened(tmp_path / "new.ggq", "numpy", activations="float32") as executor:
        oracle = np.concatenate(last_logits(executor, "mixtral"))
    assert np.abs(found[0] - oracle).max() < 1e-3 * np.abs(oracle).max()


def test_matrices_of_a_stack_share_a_table_of_levels(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", "mixtral")
    report = convert(folder, tmp_path / "m.ggq", scheme="c4-g32-s6")
    (stack,) = [tensor for tensor in report.tensors if tensor.role == "layers.0.experts.up.weight"]
    with open_reader(tmp_path / "m.ggq") as file:
        entry = file.tensors[stack.name]
        assert entry.segments["codebook"].length == 16
        numbers, view = decoded(file, entry), unstacked(file)
        for number, matrix in enumerate(each for each in view.tensors.values() if "experts" in each.name):
            if matrix.attributes["role"].endswith("up.weight") and matrix.attributes["role"].startswith("layers.0."):
                assert np.array_equal(decoded(view, matrix), numbers[number % len(numbers)])
    assert stack.relative_rmse < 0.1


def test_a_mix_gives_the_experts_of_a_layer_one_scheme(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", "qwen3_moe")
    report = convert(folder, tmp_path / "m.ggq", target_bpw=5.5)
    assert not [tensor for tensor in report.tensors if EXPERT.search(tensor.name)]
    assert len({tensor.scheme for tensor in report.tensors}) > 2


def test_a_matrix_of_a_stack_with_the_name_of_another_tensor_is_refused(tmp_path: Path) -> None:
    with Writer(tmp_path / "m.ggq") as writer:
        for name, role, shape in (
            ("a.experts.up", "layers.0.experts.up.weight", (2, 3, 4)),
            ("a.experts.1.up", "other.weight", (3, 4)),
        ):
            length = parse_scheme("f32").geometry(shape).lengths["values"]
            writer.add_tensor(name, shape, parse_scheme("f32"), {"values": np.zeros(length, np.uint8)}, {"role": role})
        writer.finish()
    with (
        open_reader(tmp_path / "m.ggq") as file,
        pytest.raises(FormatError, match=r"a\.experts\.1\.up.*another tensor"),
    ):
        unstacked(file)


def test_a_stack_is_an_array_of_three_dimensions(tmp_path: Path) -> None:
    convert(write_checkpoint(tmp_path / "m", "mixtral"), tmp_path / "m.ggq", scheme="q8-g32")
    with ggq.open(tmp_path / "m.ggq") as file:
        name = next(each for each in file.tensors if each.endswith("experts.w1.weight"))
        assert file.tensors[name].dequantize().shape == file.tensors[name].shape
        assert len(file.tensors[name].shape) == 3


def moe_with_tokenizer(folder: Path) -> Path:
    """A small model with experts and a token for each word "t0", "t1" ..."""
    write_checkpoint(folder, "mixtral")
    words = {"type": "WordLevel", "vocab": {f"t{i}": i for i in range(61)}, "unk_token": "t0"}
    whole = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": words}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    return folder


def test_statistics_of_an_expert_are_those_of_the_tokens_that_chose_it(tmp_path: Path) -> None:
    planned = plan(write_checkpoint(tmp_path / "m", "mixtral"), scheme="q4-g32")
    windows = np.random.default_rng(3).integers(0, 61, (6, 20)).astype(np.int32)
    sources: dict[str, list[np.ndarray]] = {}

    class Watched(Calibrator):
        def _observe(self, sums: Any, product: Product, x: np.ndarray) -> None:
            sources.setdefault(product.weights[0], []).append(x)
            super()._observe(sums, product, x)

    calibrator = Watched(planned.checkpoint, planned.expressions, planned.program, windows, lambda role: {"gram"})
    found = {role: each for layer in calibrator.layers() for role, each in layer.items()}
    experts, chosen = CONFIGS["mixtral"]["num_local_experts"], CONFIGS["mixtral"]["num_experts_per_tok"]
    for layer in range(CONFIGS["mixtral"]["num_hidden_layers"]):
        role = f"layers.{layer}.experts"
        x = np.concatenate(sources[f"{role}.router.weight"]).astype(np.float64)
        router = planned.expressions[f"{role}.router.weight"].rows(planned.checkpoint, 0, experts).astype(np.float64)
        best = np.argsort(x @ router.T, axis=1)[:, -chosen:]
        for expert in range(experts):
            mine = x[(best == expert).any(axis=1)]
            if not len(mine):
                assert f"{role}.{expert}.up.weight" not in found
                continue
            first, last = (found[f"{role}.{expert}.{kind}.weight"] for kind in ("up", "down"))
            assert first.count == last.count == len(mine) < len(x)
            assert np.allclose(first.mean_square, (mine**2).mean(axis=0), rtol=1e-4)
            assert first.gram is not None and np.allclose(first.gram, mine.T @ mine / len(mine), atol=1e-4)
            assert last.columns == CONFIGS["mixtral"]["intermediate_size"]


def test_experts_of_few_tokens_fall_back_and_saved_statistics_give_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "FEWEST_TOKENS", 45)  # as five experts share 300 tokens
    folder, text = moe_with_tokenizer(tmp_path / "m"), tmp_path / "text.txt"
    text.write_text(" ".join(f"t{i}" for i in np.random.default_rng(4).integers(0, 61, 160)))
    given = {
        "scheme": "q4-g32",
        "method": "gptq",
        "calibration": text,
        "calibration_context": 30,
        "statistics": tmp_path / "s.safetensors",
    }
    first = convert(folder, tmp_path / "a.ggq", **given)
    again = convert(folder, tmp_path / "b.ggq", **given)
    assert first.digest == again.digest
    stacks = [tensor for tensor in first.tensors if ".experts." in tensor.role and len(tensor.shape) == 3]
    told = [tensor for tensor in stacks if tensor.fallback]
    assert {tensor.method for tensor in stacks} == {"gptq"} and told
    assert all(re.fullmatch(MESSAGE, tensor.fallback) for tensor in told), told
    with open_reader(tmp_path / "a.ggq") as file:
        assert file.tensors[told[0].name].attributes["fallback"] == told[0].fallback
