"""spec/metadata.md against the code that reads and writes a model's metadata."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from ggq.models.build import role_shapes
from ggq.models.field import Part, Parts, Word, declared
from ggq.models.layers.layered import LayeredSpec, StreamedSpec
from ggq.models.metadata import KINDS, to_metadata
from ggq.models.parts import PLAIN, Experts, GatedAttention, GatedDelta, Mamba2, ModelSpec, Norm, ShortConv
from ggq.models.registry import find_architecture
from ggq.models.text.parts import Dense, TextEmbedding, TextSpec, VectorHead
from tests.kit.support import DEMO, ROOT
from tools import make_metadata_tables

SPEC = (ROOT / "spec" / "metadata.md").read_text(encoding="utf-8")
TYPES = {"string": str, "integer": int, "number": float, "bool": bool, "list of integer": list, "list of number": list}


def tables() -> dict[str, list[list[str]]]:
    """The rows of the table below each heading of a part, without its head."""
    found = {}
    for section in SPEC.split("\n### ")[1:]:
        text = re.findall(r"((?:^\|.*\|\n)+)", section, re.MULTILINE)[0]
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()[2:]]
        found[section.splitlines()[0].split(",")[0]] = cells
    return found


def demo() -> ModelSpec:
    hf = json.loads((DEMO / "config.json").read_text())
    return find_architecture(hf).config(hf)


def test_the_tables_of_the_parts_are_made_of_the_declarations(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_metadata_tables.main(["--check"]) == 0


def test_another_table_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(make_metadata_tables, "tables", lambda: "\nno tables\n")
    assert make_metadata_tables.main(["--check"]) == 1
    assert "spec/metadata.md is not what tools/make_metadata_tables.py writes" in capsys.readouterr().err


def test_the_keys_of_a_model_are_those_of_the_tables() -> None:
    """A reader of the specification alone, which knows nothing of the declarations, meets every key that is written."""
    written = to_metadata(demo(), "LlamaForCausalLM")
    rows = tables()
    met = {"model.kind": written["model.kind"], "model.architecture": written["model.architecture"]}

    def meet(part: str, prefix: str) -> None:
        for key, kind, _, allowed in rows[part]:
            name = f"{prefix}.{key}"
            if key == "layer.N":
                for number in set(written["model.layers"]):
                    meet(kind, f"{prefix}.layer.{number}")
            elif kind in TYPES:
                met[name] = written[name]
                assert type(written[name]) is TYPES[kind], name
                assert kind != "string" or f"`{written[name]}`" in allowed
            else:
                one_of(kind.split(" or "), name)

    def one_of(parts: list[str], name: str) -> None:
        if f"{name}.kind" in written:
            met[f"{name}.kind"] = written[f"{name}.kind"]
            if written[f"{name}.kind"] == "none":
                assert "`none`" in parts
                return
        meet(parts[0], name)

    meet("ModelSpec", "model")
    assert met == written


def test_the_kinds_of_models_are_in_the_specification() -> None:
    (meaning,) = re.findall(r"^\| model\.kind \|.*$", SPEC, re.MULTILINE)
    assert all(f"`{kind}`" in meaning for kind in KINDS)


def test_every_field_has_a_meaning() -> None:
    for part in [
        *make_metadata_tables.parts(ModelSpec),
        *make_metadata_tables.parts(TextSpec),
        *make_metadata_tables.parts(LayeredSpec),
        *make_metadata_tables.parts(StreamedSpec),
    ]:
        for field in declared(part).values():
            assert field.declaration.doc and isinstance(field.declaration, Part | Parts) == bool(field.classes)
            if isinstance(field.declaration, Word) and field.name != "normed":  # whose words are meant literally
                assert all(f"`{word}`: " in field.declaration.doc for word in field.declaration.words), field.name


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("rows", ["head", "row"])
def test_the_roles_of_tensors_are_those_of_the_specification(there: bool, rows: str) -> None:
    """A model with all that a part may have, and one with nothing of it."""
    norm = Norm("layer", 1e-5, weight=True, bias=True) if there else None
    base = demo()
    (layer,) = set(base.layers)
    biases = dict.fromkeys(("query_bias", "key_bias", "value_bias", "output_bias", "sinks"), there)
    mixer = replace(layer.mixer, **biases, query_norm=norm, key_norm=norm, normed=rows)
    norms = ("mixer_norm", "mixer_post_norm", "feed_forward_norm", "feed_forward_post_norm")
    feed_forward = replace(layer.feed_forward, bias=there, gated=there)
    layer = replace(layer, mixer=mixer, feed_forward=feed_forward, **dict.fromkeys(norms, norm))
    head = replace(base.head, norm=norm, tied=not there, bias=there)
    spec = replace(base, layers=(layer,) * 2, head=head)
    sizes = {"vocabulary": spec.vocabulary_size, "width": spec.hidden_size, "heads": mixer.heads}
    sizes |= {"kv_heads": mixer.kv_heads, "head_dim": mixer.head_dim, "inner": feed_forward.width}
    expected = {}
    own = SPEC.split("\n| role of a")[0]  # the tables of experts and of other mixers follow
    table = re.findall(r"^\| ([a-zN][\w.]*\.(?:weight|bias|sinks)) \| (.*?) \| (.*?) \|$", own, re.MULTILINE)
    for role, shape, when in table:
        if when == "always" or there:
            *_, text = shape.split(", or ") if rows == "row" else [shape.split(", or ")[0]]
            text = text.removesuffix(" where a row is normed")
            dimensions = []
            for dimension in text.split(", "):
                size = 1
                for factor in dimension.split(" * "):
                    size *= sizes[factor]
                dimensions.append(size)
            names = [role.replace(".N.", f".{number}.") for number in range(2)]
            for name in dict.fromkeys(names):
                expected[name] = tuple(dimensions)
                if name.endswith("norm.weight"):
                    expected[name.replace(".weight", ".bias")] = tuple(dimensions)
    assert role_shapes(spec) == expected


def test_the_roles_of_other_mixers_are_those_of_the_specification() -> None:
    """With biases; without, those alone are missing."""
    norm = Norm("rms", 1e-5, weight=True, bias=False)
    kinds = {"conv": ShortConv(width=24, reach=3, bias=True), "delta": GatedDelta(6, 3, 5, 7, 3, norm)}
    scan = Mamba2(6, 3, 5, 7, 3, 0.0, 0.0, taps_bias=True, bias=True, output_bias=True, norm=norm, norm_first=False)
    kinds["mamba2"] = scan  # type: ignore[assignment]
    base = demo()
    for kind, mixer in kinds.items():
        spec = replace(base, layers=(replace(base.layers[0], mixer=mixer),))
        sizes = {**vars(mixer), "width": base.hidden_size, "channels": 24}
        (section,) = re.findall(rf"^\| role of a `{kind}` mixer.*\n((?:\|.*\n)*)", SPEC, re.MULTILINE)
        expected = {}
        for line in section.splitlines()[1:]:
            names, shape, _ = (cell.strip() for cell in line.strip("|").split(" | "))
            first, *others = names.split(", ")
            size = tuple(eval(part, {}, sizes) for part in shape.split(", "))
            for name in (first, *(first.rsplit(".", 2)[0] + other for other in others)):
                expected[name.replace(".N.", ".0.")] = size
        found = {role: shape for role, shape in role_shapes(spec).items() if f".{mixer.role}." in role}
        assert found == expected
        if kind == "conv":
            plain = role_shapes(replace(spec, layers=(replace(spec.layers[0], mixer=replace(mixer, bias=False)),)))
            assert expected.keys() - plain.keys() == {name for name in expected if name.endswith(".bias")}


@pytest.mark.parametrize(
    ("shared", "share", "gated", "bias"),
    [(0, False, True, False), (7, False, True, True), (7, True, True, False), (7, False, False, True)],
)
def test_the_roles_of_experts_are_those_of_the_specification(shared: int, share: bool, gated: bool, bias: bool) -> None:
    base = demo()
    router = replace(PLAIN, score="sigmoid", bias=bias, correction=bias, factors=bias)
    sizes_of = {"count": 3, "chosen": 2, "width": 5, "shared_width": shared}
    how = {"gated": gated, "bias": bias, "router": router, "renormalised": True, "shared_gate": share}
    part = Experts(**sizes_of, **how, activation="silu", scale=1.0)
    spec = replace(base, layers=(replace(base.layers[0], feed_forward=part),))
    sizes = {"count": 3, "inner": 5, "shared": shared, "width": base.hidden_size, "1": 1}
    (section,) = re.findall(r"^\| role of an `experts` feed-forward.*\n((?:\|.*\n)*)", SPEC, re.MULTILINE)
    expected = {}
    for line in section.splitlines()[1:]:
        names, shape, when = (cell.strip() for cell in line.strip("|").split(" | "))
        there = {"gated": gated, "shared_width": shared > 0, "shared_gate": share, "bias": bias}
        there |= dict.fromkeys(("router.bias", "router.correction", "router.factors"), bias)
        if when == "always" or all(there[each] for each in re.findall(r"[a-z_.]+", when) if each in there):
            first, *others = names.split(", ")
            for name in (first, *(first.rsplit(".", 2)[0] + other for other in others)):
                for expert in range(3):
                    role = name.replace(".N.", ".0.").replace(".E.", f".{expert}.")
                    expected[role] = tuple(sizes[each] for each in shape.split(", "))
    assert {role: shape for role, shape in role_shapes(spec).items() if ".experts." in role} == expected
    assert "layers.0.experts_norm.weight" in role_shapes(spec)


def test_gated_attention_has_a_gate_of_the_shape_of_the_queries() -> None:
    base = demo()
    mixer = GatedAttention(**{**vars(base.layers[0].mixer), "query_bias": True})
    found = role_shapes(replace(base, layers=(replace(base.layers[0], mixer=mixer),)))
    for name in ("weight", "bias"):
        assert found[f"layers.0.attention.gate.{name}"] == found[f"layers.0.attention.q.{name}"]
    assert "`layers.N.attention.gate.weight`" in SPEC


@pytest.mark.parametrize("there", [False, True])
def test_the_roles_of_texts_are_those_of_the_specification(there: bool) -> None:
    """A model with all that a text model may have besides, and one with nothing of it."""
    norm, base = Norm("layer", 1e-5, weight=True, bias=True) if there else None, demo()
    dense, output = (Dense(width, there, "none", norm) if there else None for width in (24, 3))
    embedding = TextEmbedding(
        vocabulary_size=base.vocabulary_size,
        width=base.hidden_size,
        scale=1.0,
        positions=base.context_length * there,
        types=2 * there,
        norm=norm,
    )
    head = VectorHead(None, "mean", dense, output, scores=False, normalized=False)
    spec = TextSpec(base.context_length, embedding, base.layers, head, causal=True, normed_sums=False)
    sizes = {"positions": embedding.positions, "types": 2, "width": base.hidden_size, "dense": 24, "result": 3}
    (section,) = re.findall(r"^\| role of a `text` model.*\n((?:\|.*\n)*)", SPEC, re.MULTILINE)
    expected = {}
    for line in section.splitlines()[1:] if there else []:
        role, shape, _ = (cell.strip() for cell in line.strip("|").split(" | "))
        expected[role] = tuple(sizes[name] for name in shape.split(", "))
        if role.endswith("norm.weight"):
            expected[role.replace(".weight", ".bias")] = expected[role]
    own = {role: shape for role, shape in role_shapes(spec).items() if not role.startswith(("layers.", "embedding.w"))}
    assert own == expected


def test_a_text_model_is_written_as_its_table_says() -> None:
    keys = {
        f"model.{row[0]}" for row in tables()["TextSpec"] if row[0] != "layer.N" and row[1] not in ("TextEmbedding",)
    }
    embedding = TextEmbedding(9, 8, 1.0, positions=5, types=1, norm=None)
    head = VectorHead(None, "last", None, None, scores=False, normalized=True)
    written = to_metadata(TextSpec(5, embedding, demo().layers, head, causal=False, normed_sums=True), "BertModel")
    assert keys - {"model.head"} <= set(written) and written["model.head.kind"] == "vector"
    assert {f"model.embedding.{row[0]}" for row in tables()["TextEmbedding"]} - {"model.embedding.norm"} <= set(written)
