"""A checkpoint that keeps its tensors in other forms than a file does: fused, interleaved, transposed, less 1 ...

The family of these tests is a Llama with every form; a file made of it is, tensor by tensor, that of a plain Llama.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ggq
from ggq import comparison as compare_command
from ggq.cli.main import main
from ggq.convert.convert import plan
from ggq.convert.plan.fingerprint import fingerprint
from ggq.convert.plan.match import match_tensors
from ggq.convert.plan.plan import plan_document
from ggq.errors import ConvertError
from ggq.format import open_reader, verify
from ggq.models import registry
from ggq.models.combined import Product, Sum
from ggq.models.families.experts.granite_moe import GRANITE_MOE
from ggq.models.families.llama import LLAMA
from ggq.models.family import TensorSpec
from ggq.models.names import Expression, Interleaved, Matrix, Plus, Rows, Tensor, Transposed
from ggq.models.parts import ModelSpec
from tests.kit.checkpoints import edit_json, numbers, replace_tensors, tiny
from tests.kit.family_models import write_checkpoint

LAYERS, HIDDEN, HEADS, KEYS, HEAD, INNER = 2, 32, 4, 2, 8, 44


PACKED = replace(
    LLAMA,
    names=("PackedForCausalLM",),
    model_types=("packed",),
    expression=lambda role, spec: packed(role) or LLAMA.expression(role, spec),
)
"""A Llama whose checkpoint packs its tensors: differs from Llama in names alone."""


def packed(role: str) -> Expression | None:
    """What a tensor is made of; None where that is the Llama's own."""
    if role.endswith("norm.weight"):
        return Plus(Tensor(f"{role}.less_one"))
    if not role.startswith("layers."):
        return None
    _, layer, rest = role.split(".", 2)
    qkv, queries = Tensor(f"blocks.{layer}.qkv"), HEADS * HEAD
    group = HEADS // KEYS + 2  # for each key head its queries, a key and a value
    table = {
        "attention.q.weight": Interleaved(qkv, group * HEAD, 0, (group - 2) * HEAD),
        "attention.k.weight": Interleaved(qkv, group * HEAD, (group - 2) * HEAD, (group - 1) * HEAD),
        "attention.v.weight": Interleaved(qkv, group * HEAD, (group - 1) * HEAD, group * HEAD),
        "attention.o.weight": Sum(
            Tensor(f"blocks.{layer}.o"), Product(Tensor(f"blocks.{layer}.B"), Tensor(f"blocks.{layer}.A"), 0.5)
        ),
        "mlp.gate.weight": Rows(Tensor(f"blocks.{layer}.gate_up"), 0, INNER),
        "mlp.up.weight": Rows(Tensor(f"blocks.{layer}.gate_up"), INNER, 2 * INNER),
        "mlp.down.weight": Transposed(Tensor(f"blocks.{layer}.down")),
    }
    assert queries == HIDDEN
    return table.get(rest)


def pack(folder: Path, plain: Path) -> None:
    """Pack the tensors of a tiny Llama, so that both have the same numbers exactly.

    Its norms are 1, and an adapter is taken off its matrices and added to them again.
    """
    path = folder / "model.safetensors"
    names = {spec.role: spec.name for spec in LLAMA.tensors(plan(folder).model) if spec.role}
    tensors = {role: numbers(path, name) for role, name in names.items()}
    changes: dict[str, NDArray[Any] | None] = {name: None for role, name in names.items() if packed(role) is not None}
    for role, array in tensors.items():
        if role.endswith("norm.weight"):
            changes[f"{role}.less_one"] = array - 1
    for layer in range(LAYERS):
        q, k, v, o = (tensors[f"layers.{layer}.attention.{each}.weight"] for each in "qkvo")
        gate, up, down = (tensors[f"layers.{layer}.mlp.{each}.weight"] for each in ("gate", "up", "down"))
        by_head = [each.reshape(KEYS, -1, HIDDEN) for each in (q, k, v)]
        random = np.random.default_rng(layer)
        left = random.integers(-4, 5, (HIDDEN, 3)).astype(np.float32) / 64
        right = random.integers(-4, 5, (3, HIDDEN)).astype(np.float32) / 64
        changes[f"blocks.{layer}.qkv"] = np.concatenate(by_head, axis=1).reshape(-1, HIDDEN)
        product = left @ right / 2  # exact
        changes[f"blocks.{layer}.o"] = o - product
        replace_tensors(
            plain / "model.safetensors", {names[f"layers.{layer}.attention.o.weight"]: (o - product) + product}
        )
        changes[f"blocks.{layer}.B"], changes[f"blocks.{layer}.A"] = left, right
        changes[f"blocks.{layer}.gate_up"] = np.concatenate([gate, up])
        changes[f"blocks.{layer}.down"] = np.ascontiguousarray(down.T)
    replace_tensors(path, changes)
    edit_json(folder / "config.json", architectures=["PackedForCausalLM"], model_type="packed")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A tiny Llama, and the same one packed."""
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, PACKED))
    plain, other = tiny(tmp_path / "plain", dtype="f32"), tiny(tmp_path / "packed", dtype="f32")
    pack(other, plain)
    return plain, other


def digests(path: Path) -> dict[str, dict[str, bytes]]:
    """The digests of all segments, by role of their tensor."""
    with open_reader(path) as reader:
        assert verify(reader) == []
        return {
            str(entry.attributes["role"]): {part: segment.digest for part, segment in entry.segments.items()}
            for entry in reader.tensors.values()
        }


@pytest.mark.parametrize(
    "options",
    [{"scheme": "q4-g32"}, {"scheme": "f32"}, {"target_bpw": 5.0}, {"scheme": "q3-g32", "method": "order+awq+gptq"}],
    ids=["q4", "f32", "target", "chain"],
)
def test_a_packed_checkpoint_gives_the_file_of_the_plain_one(
    folders: tuple[Path, Path], tmp_path: Path, options: Mapping[str, Any]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("def f(a, b):\n    return a + b\n" * 400)
    calibration = {"calibration": text, "calibration_tokens": 600} if "method" in options else {}
    found = []
    for folder in folders:
        ggq.convert(folder, out := tmp_path / f"{folder.name}.ggq", **options, **calibration)
        found.append(digests(out))
    assert len(found[0]) == 20 and found[0] == found[1]


def test_plans_say_what_tensors_are_made_of(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    plain, other = (plan(folder, scheme="q4-g32") for folder in folders)
    tensors = {tensor["role"]: tensor for tensor in plan_document(other)["tensors"]}
    key = tensors["layers.1.attention.k.weight"]
    assert key["name"] == "layers.1.attention.k.weight" and key["source"] == "blocks.1.qkv[16:24 of every 32]"
    down = tensors["layers.0.mlp.down.weight"]
    assert down["name"] == "blocks.0.down" and down["source"] == "transposed(blocks.0.down)"
    assert tensors["norm.weight"]["source"] == "norm.weight.less_one + 1"
    assert tensors["layers.0.attention.o.weight"]["source"] == "blocks.0.o + (0.5 * blocks.0.B @ blocks.0.A)"
    assert tensors["embedding.weight"]["source"] == tensors["embedding.weight"]["name"]
    assert other.source_bytes == plain.source_bytes + LAYERS * 4 * 2 * 3 * HIDDEN  # the adapters
    assert main(["convert", str(folders[1]), "--scheme", "q4-g32", "--dry-run"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert " 16x32  f32 blocks.1.qkv[16:24 of every 32]  " in lines["layers.1.attention.k.weight"]
    assert " 320x32  f32  " in lines["model.embed_tokens.weight"]


def test_a_resume_belongs_to_its_expressions(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(plan(folders[1]))
    assert fingerprint(plan(folders[1])) == before
    taken = packed("layers.0.attention.q.weight")
    assert isinstance(taken, Interleaved)
    swapped = {
        "layers.0.mlp.gate.weight": "layers.0.mlp.up.weight",
        "layers.0.mlp.up.weight": "layers.0.mlp.gate.weight",
    }
    original = packed
    monkeypatch.setitem(globals(), "packed", lambda role: original(swapped.get(role, role)))
    assert fingerprint(plan(folders[1])) != before


def test_a_file_compares_with_its_packed_checkpoint(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_command, "BLOCK_WEIGHTS", 200)
    out = tmp_path / "packed.ggq"
    ggq.convert(folders[1], out, scheme="f32")
    assert main(["compare", str(out), str(folders[1]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["skipped"] == {} and found["max_error"] == 0
    forms = {tensor["name"]: tensor["reference_form"] for tensor in found["tensors"]}
    assert len(forms) == 20 and forms["layers.0.mlp.up.weight"] == "f32 blocks.0.gate_up[44:88]"
    assert forms["model.embed_tokens.weight"] == "f32"


def rows(count: int) -> NDArray[np.float32]:
    return np.zeros((count, HIDDEN), np.float32)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"blocks.1.gate_up": rows(90)},
            r"tensor 'blocks.1.gate_up': shape \[90, 32\] found, of which rows 88 to 89 are used by no tensor",
        ),
        (
            {"blocks.1.gate_up": rows(89)},
            r"tensor 'blocks.1.gate_up': shape \[89, 32\] found, of which row 88 is used by no tensor",
        ),
        ({"blocks.1.gate_up": rows(87)}, r"tensor blocks.1.gate_up: 87 rows found, rows 44 to 87 expected"),
        ({"blocks.1.qkv": rows(60)}, r"tensor blocks.1.qkv: 60 rows found, a multiple of 32 expected"),
        (
            {"blocks.1.qkv": rows(96)},
            r"tensor blocks.1.qkv: shape \[48, 32\] of blocks.1.qkv\[0:16 of every 32\] found, "
            r"config.json asks for \[32, 32\]",
        ),
        ({"blocks.0.down": rows(45).T.copy()}, r"blocks.0.down: shape \[45, 32\] of transposed\(blocks.0.down\) found"),
        ({"blocks.0.A": None, "blocks.0.B": None}, r"2 of 2\d tensors missing: 'blocks.0.B', 'blocks.0.A'"),
        ({"blocks.0.A": rows(4)}, r"tensor blocks.0.A: shape \[4, 32\] found, which cannot be multiplied"),
        ({"blocks.0.A": rows(3).astype(np.int64)}, r"tensor blocks.0.A: dtype must be F32, F16 or BF16, not I64"),
    ],
)
def test_sources_of_other_sizes_are_refused_by_name(
    folders: tuple[Path, Path], changes: dict[str, Any], message: str
) -> None:
    replace_tensors(folders[1] / "model.safetensors", changes)
    with pytest.raises(ggq.GGQError, match=message):
        plan(folders[1])


def test_numbers_that_two_tensors_are_made_of_are_refused_by_name(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, role = packed, "layers.1.mlp.up.weight"
    source = Tensor("blocks.1.gate_up")
    for other, message in (
        (
            Rows(source, 43, 87),
            "its numbers would become part of both layers.1.mlp.gate.weight and layers.1.mlp.up",
        ),
        (
            original("layers.1.mlp.gate.weight"),
            "its numbers would become part of both layers.1.mlp.gate.weight and",
        ),
        (
            Sum(Rows(source, 44, 88), Rows(source, 44, 88)),
            "its numbers would become part of layers.1.mlp.up.weight twice",
        ),
    ):
        monkeypatch.setitem(globals(), "packed", lambda each, other=other: other if each == role else original(each))
        with pytest.raises(ConvertError, match=f"tensor 'blocks.1.gate_up': some of {message}"):
            plan(folders[1])
    both = Interleaved(Transposed(Tensor("blocks.1.down")), 2, 0, 1)  # (16, 44) of (32, 44): columns of the source
    monkeypatch.setitem(
        globals(), "packed", lambda each: both if each == "layers.1.mlp.down.weight" else original(each)
    )
    with pytest.raises(ConvertError, match=r"shape \[16, 44\] of transposed\(blocks.1.down\)\[0:1 of every 2\] found"):
        plan(folders[1])


def test_matrices_of_a_stack_are_uses_of_their_own() -> None:
    """Each of them once: one that is used twice is refused, and one that is left out."""
    whole = Tensor("experts")
    specs = [TensorSpec(f"e{index}", (6, 4), Matrix(whole, index)) for index in range(3)]
    source: Any = SimpleNamespace(
        tensors={"experts": SimpleNamespace(name="experts", shape=(3, 6, 4), dtype="F32", file="m.safetensors")},
        folder=SimpleNamespace(path="m"),
        shape=lambda name: (3, 6, 4),
    )
    assert [spec.role for spec in match_tensors(specs, source).specs] == ["e0", "e1", "e2"]
    halves = [TensorSpec(f"h{place}", (3, 4), Rows(Matrix(whole, 2), place, place + 3)) for place in (0, 3)]
    assert len(match_tensors([*specs[:2], *halves], source).specs) == 4
    with pytest.raises(ConvertError, match="some of its numbers would become part of both e2 and h0"):
        match_tensors([*specs, halves[0]], source)
    for left in (specs[:2], [*specs[:2], halves[0]]):
        with pytest.raises(ConvertError, match=r"'experts': shape \[3, 6, 4\] found, of which .* used by no tensor"):
            match_tensors(left, source)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (6, r"output_linear.weight': shape \[6, 40, 26\] found, of which matrix 5 is used by no tensor"),
        (8, r"output_linear.weight': shape \[8, 40, 26\] found, of which matrices 5 to 7 are used by no tensor"),
        (4, r"output_linear.weight: shape \[4, 40, 26\] found, 5 matrices or more expected"),
    ],
)
def test_another_number_of_experts_is_refused_by_name(count: int, message: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", "granite_moe", 320)
    name = "model.layers.1.block_sparse_moe.output_linear.weight"
    replace_tensors(folder / "model.safetensors", {name: np.zeros((count, 40, 26), np.float32)})
    with pytest.raises(ConvertError, match=message):
        plan(folder)


def test_an_expert_that_two_tensors_are_made_of_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(role: str, spec: ModelSpec) -> Expression:
        return GRANITE_MOE.expression(role.replace(".experts.3.", ".experts.2."), spec)

    other = replace(GRANITE_MOE, expression=twice)
    monkeypatch.setattr(registry, "FAMILIES", (other,))
    with pytest.raises(ConvertError, match=r"both layers.0.experts.2.gate.weight and layers.0.experts.3.gate.weight"):
        plan(write_checkpoint(tmp_path / "m", "granite_moe", 320))
