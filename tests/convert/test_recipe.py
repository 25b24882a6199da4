"""Which scheme and method each tensor gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import ggq
from ggq.convert.plan import plan, recipe
from ggq.convert.plan.recipe import check_rules, compile_pattern, make_recipe
from ggq.errors import ConvertError, GGQError, UsageError
from ggq.models.family import TensorSpec
from ggq.models.names import Tensor
from ggq.quant import scheme_name
from tests.kit.checkpoints import TEXT, tiny

EMBEDDING = TensorSpec("embedding.weight", (320, 64), Tensor("model.embed_tokens.weight"))
OUTPUT = TensorSpec("output.weight", (320, 64), Tensor("lm_head.weight"))
UP = TensorSpec("layers.0.mlp.up.weight", (172, 64), Tensor("model.layers.0.mlp.up_proj.weight"))
DOWN = TensorSpec("layers.0.mlp.down.weight", (64, 172), Tensor("model.layers.0.mlp.down_proj.weight"))
NORM = TensorSpec("norm.weight", (64,), Tensor("model.norm.weight"))
BIAS = TensorSpec("layers.0.attention.q.bias", (64,), Tensor("model.layers.0.self_attn.q_proj.bias"))


def chosen(spec: TensorSpec, scheme: str, **options: object) -> tuple[str, str]:
    found, method = make_recipe(scheme, **options).choose(spec)  # type: ignore[arg-type]
    return scheme_name(found), "" if method is None else method.name


@pytest.mark.parametrize("scheme", ["f32", "bf16", "q2-g32", "q8z-row"])
@pytest.mark.parametrize("spec", [NORM, BIAS], ids=["norm", "bias"])
def test_norms_and_biases_stay_f32(spec: TensorSpec, scheme: str) -> None:
    assert chosen(spec, scheme) == ("f32", "")
    assert chosen(spec, scheme, embedding="f16", keep=["model=q8-g32"]) == ("f32", "")


@pytest.mark.parametrize(
    "body, outer",
    [("q4-g32", "q6-g32"), ("q5z-g64", "q6z-g64"), ("q2-row", "q6-row"), ("q6-g32", "q6-g32"), ("q8z-g32", "q8z-g32")]
    + [("f32", "f32"), ("f16", "f16"), ("bf16", "bf16")],
)
@pytest.mark.parametrize("spec", [EMBEDDING, OUTPUT], ids=["embedding", "output"])
def test_embedding_and_output_have_six_bits_at_least_and_the_bodys_groups(
    spec: TensorSpec, body: str, outer: str
) -> None:
    assert chosen(spec, body)[0] == outer
    assert chosen(UP, body)[0] == body


def test_an_embedding_scheme_of_its_own_goes_to_embedding_and_output_only() -> None:
    for spec in (EMBEDDING, OUTPUT):
        assert chosen(spec, "q4-g32", embedding="q3z-g64") == ("q3z-g64", "zero-point")
    assert chosen(UP, "q4-g32", embedding="q3z-g64") == ("q4-g32", "absmax")


@pytest.mark.parametrize("scheme, method", [("q4-g32", "absmax"), ("q4z-g32", "zero-point"), ("bf16", "")])
def test_the_method_follows_the_scheme(scheme: str, method: str) -> None:
    assert chosen(UP, scheme) == (scheme, method)


@pytest.mark.parametrize(
    "body, outer, method",
    [
        ("q4-g32-s6", "q6-g32-s6", "absmax"),
        ("q3m-g64-s6", "q6m-g64-s6", "min-max"),
        ("ternary-g64", "q6-g64", "absmax"),
        ("binary-row", "q6-row", "absmax"),
        ("c4-g32-s6", "q6-g32-s6", "absmax"),
    ],
)
def test_the_embedding_of_other_kinds_is_uniform(body: str, outer: str, method: str) -> None:
    assert chosen(EMBEDDING, body) == (outer, method)


def test_a_name_that_says_a_method_says_it_of_its_own_tensors_only() -> None:
    assert chosen(UP, "nf4-g64") == ("c4-g64", "nf4")
    assert chosen(EMBEDDING, "nf4-g64") == ("q6-g64", "absmax")
    options = {"embedding": "q4z-g32", "keep": ["down=q8-g32", "up=c4-g32"]}
    assert chosen(EMBEDDING, "nf4-g64", **options) == ("q4z-g32", "zero-point")
    assert chosen(DOWN, "nf4-g64", **options) == ("q8-g32", "absmax")
    assert chosen(UP, "nf4-g64", **options) == ("c4-g32", "kmeans")
    assert chosen(DOWN, "q4-g32", keep=["down=nf4-g32"]) == ("c4-g32", "nf4")
    assert chosen(EMBEDDING, "q4-g32", embedding="nf4-row") == ("c4-row", "nf4")
    assert chosen(EMBEDDING, "nf4-g64", embedding="f16") == ("f16", "")


@pytest.mark.parametrize(
    "columns, scheme, found",
    [
        (64, "q4-g64", "q4-g64"),
        (64, "q4-g128", "q4-row"),
        (172, "q4z-g128", "q4z-g128"),
        (100, "q4z-g128", "q4z-g128"),  # 100 columns are stored as 128
        (96, "q4-g128", "q4-row"),
        (20, "q4-g32", "q4-g32"),
        (20, "q4-g64", "q4-row"),
    ],
)
def test_a_group_larger_than_the_padded_row_becomes_the_row(columns: int, scheme: str, found: str) -> None:
    assert chosen(TensorSpec("layers.0.mlp.up.weight", (48, columns), Tensor("w")), scheme)[0] == found


def test_the_first_rule_that_matches_decides_and_comes_before_the_embedding() -> None:
    keep = [r"down_proj=q8-g64", r"layers\.0\.=q6-g32", r"embed=f16"]
    assert chosen(DOWN, "q4-g32", keep=keep)[0] == "q8-g64"
    assert chosen(UP, "q4-g32", keep=keep)[0] == "q6-g32"
    assert chosen(EMBEDDING, "q4-g32", keep=keep, embedding="q8-g32") == ("f16", "")
    assert chosen(OUTPUT, "q4-g32", keep=keep)[0] == "q6-g32"
    assert chosen(UP, "q4-g32", keep=["up=with=equals=q8-g32"])[0] == "q4-g32"  # the scheme stands behind the last "="


@pytest.mark.parametrize(
    "options, kind, message",
    [
        ({"scheme": "q7-g32"}, UsageError, "scheme 'q7-g32' has 7 bits"),
        ({"scheme": "q4-g32", "embedding": "int4"}, UsageError, "unknown scheme 'int4'"),
        ({"scheme": "q4-g32", "keep": ["down_proj"]}, UsageError, "--keep must be REGEX=SCHEME, not 'down_proj'"),
        ({"scheme": "q4-g32", "keep": ["=q8-g32"]}, UsageError, "--keep must be REGEX=SCHEME, not '=q8-g32'"),
        ({"scheme": "q4-g32", "keep": ["(=q8-g32"]}, UsageError, r"not a regular expression: missing \)"),
        ({"scheme": "q4-g32", "keep": ["a=q9-g32"]}, UsageError, "scheme 'q9-g32' has 9 bits"),
        ({"scheme": "q4-g32", "method": "best"}, ConvertError, "unknown method 'best'"),
        ({"scheme": "q4-g32", "method": "zero-point"}, ConvertError, "method zero-point cannot fill scheme q4-g32"),
        ({"scheme": "q4z-g32", "method": "absmax"}, ConvertError, "method absmax cannot fill scheme q4z-g32"),
        (
            {"scheme": "q4-g32", "method": "absmax", "keep": ["a=q4z-g32"]},
            ConvertError,
            "method absmax cannot fill scheme q4z-g32",
        ),
        (
            {"scheme": "nf4-g32", "method": "kmeans"},
            UsageError,
            "scheme nf4-g32 is filled by method nf4, not by kmeans",
        ),
        ({"scheme": "f16", "method": "absmax"}, UsageError, "method absmax has nothing to do: f16 stores floats"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, object], kind: type[GGQError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make_recipe(**options)  # type: ignore[arg-type]


def test_a_rule_that_matches_no_matrix_is_refused_and_says_why() -> None:
    specs = [EMBEDDING, UP, DOWN, NORM]
    check_rules(make_recipe("q4-g32", keep=["_proj=q8-g32", "model=f16"]), specs)
    with pytest.raises(UsageError, match="--keep gate=q8-g32: no tensor's name matches"):
        check_rules(make_recipe("q4-g32", keep=["gate=q8-g32"]), specs)
    with pytest.raises(UsageError, match="model.norm.weight: --keep norm=q8-g32: only norms and biases match"):
        check_rules(make_recipe("q4-g32", keep=["norm=q8-g32"]), specs)


@pytest.mark.parametrize(
    "options, method",
    [({}, "absmax"), ({"method": "absmax"}, "absmax"), ({"embedding": "f16"}, "absmax")],
)
def test_the_bodys_method_is_told(options: dict[str, str], method: str) -> None:
    assert make_recipe("q4-g32", **options).body_method == method  # type: ignore[arg-type]
    assert make_recipe("f16").body_method == "none"


@pytest.mark.parametrize(
    "options", [{"scheme": "q4-g32"}, {"scheme": "q3-g32", "method": "order+awq+gptq", "activations": "token"}]
)
def test_a_conversion_builds_its_program_and_looks_its_methods_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    """However many tensors, layers and blocks ask for them."""
    seen: list[object] = []

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            seen.append((original.__name__, arguments))
            return original(*arguments)

        return call

    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    monkeypatch.setattr(plan, "build_program", counted(plan.build_program))
    monkeypatch.setattr(recipe, "choose_method", counted(recipe.choose_method))
    calibration = {"calibration": text, "calibration_tokens": 300} if "method" in options else {}
    ggq.convert(tiny(tmp_path / "m"), tmp_path / "m.ggq", keep=["down=q5-g32", "up=q5-g32"], **options, **calibration)
    names = [name for name, _ in seen]  # type: ignore[misc]
    assert names.count("build_program") == 1
    assert len(names) == len(set(map(repr, seen)))
    assert 3 <= names.count("choose_method") <= 4  # layers, embedding, rules, and a whole row where a group is too long


def test_a_rule_that_would_backtrack_takes_no_time() -> None:
    name = "a" * 250
    for text in ("(a+)+$b", "(a|a)*b", "(a|aa)+c", ".*.*.*.*.*.*x"):
        assert not compile_pattern(text, "rule").search(name)
    with pytest.raises(UsageError, match="not supported in a regular expression here"):
        compile_pattern(r"(a)\1", "rule")
