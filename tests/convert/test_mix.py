"""Targets: parsed, met from below, better than one scheme for all, and printed as a recipe."""

from __future__ import annotations

import re
import sys
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import pytest

from ggq.cli.main import main
from ggq.convert.convert import convert, plan
from ggq.convert.mix.candidates import candidates, column_errors, sample_weights, usual_sensitivity
from ggq.convert.mix.mix import LADDER, ladder
from ggq.convert.mix.sensitivity import random_windows, sensitivities
from ggq.convert.plan.plan import Plan, TensorPlan
from ggq.convert.plan.recipe_file import read_recipe, recipe_text
from ggq.convert.plan.target import Target, parse_size, parse_target
from ggq.convert.source.checkpoint import Checkpoint
from ggq.errors import ConvertError, GGQError, UsageError
from ggq.format import open_reader
from ggq.quant import parse_scheme, scheme_name
from tests.kit.checkpoints import replace_tensors, tiny
from tests.kit.support import DEMO


@pytest.mark.parametrize(
    "text, size",
    [
        ("3GiB", 3 << 30),
        ("500 MB", 500_000_000),
        ("1.5kb", 1500),
        ("2K", 2000),
        ("7", 7),
        (" 12 B ", 12),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "3 GiBs", "-1MB", "1e9", "3,5GB", "1..5MB", "nan", "9" * 19])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"target_size must be a number and a unit, not {text!r}")):
        parse_size(text)


@pytest.mark.parametrize("bits", [0.0, -1.0, float("nan"), float("inf")])
def test_what_are_no_bits_is_refused(bits: float) -> None:
    with pytest.raises(UsageError, match=f"target_bpw must be a number above 0, not {bits}"):
        plan(DEMO, target_bpw=bits)


def test_no_target_is_none() -> None:
    assert parse_target(None, None) is None
    assert parse_target(None, 1000) == parse_target(None, "1kB") == Target(file_bytes=1000)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"target_bpw": 4.5, "scheme": "q4-g32"},
            "--target-bpw and --scheme cannot be combined\nwith a target, ",
        ),
        ({"target_bpw": 4.5, "target_size": "1MB"}, "--target-bpw and --target-size cannot be combined"),
        ({"target_size": "1MB", "embedding": "f16"}, "--target-size and --embedding cannot be combined"),
        ({"target_bpw": 4.5, "recipe": "r.toml"}, "--recipe and --target-bpw cannot be combined"),
        ({"target_bpw": 1.5}, "a target of 1.500 bits per weight cannot be reached: the least possible is 2."),
        ({"target_size": "60kB"}, r"a file of 60000 bytes is too small: tokenizer, norms and index alone take \d+"),
        ({"target_bpw": 4.5, "keep": ["nothing=f16"]}, "--keep nothing=f16: no tensor's name matches"),
    ],
)
def test_targets_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(DEMO, **options)  # type: ignore[arg-type]


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConvertError, match="unknown method 'best'"):
        plan(DEMO, target_bpw=4.5, method="best")


def loss(planned: Plan) -> float:
    """The divergence that is predicted for a plan's schemes."""
    windows = random_windows(planned.model.vocabulary_size, planned.model.context_length, planned.tokens.bos)
    found = sensitivities(planned.checkpoint, planned.expressions, planned.program, windows)
    return sum(
        candidates(planned.checkpoint, tensor, [tensor.scheme], found[tensor.role])[0].option.loss
        for tensor in planned.matrices
    )


@cache
def solved(bits: float) -> Plan:
    """The demo model under a target."""
    return plan(DEMO, target_bpw=bits)


@pytest.mark.parametrize("bits", [2.5, 3.5, 4.5])
def test_a_target_is_met_from_below_and_beats_one_scheme_for_all(bits: float) -> None:
    planned = solved(bits)
    assert bits - 0.02 < planned.bits_per_weight <= bits
    assert planned.divergence == pytest.approx(loss(planned), rel=1e-6)
    body = {2.5: "q2-g32", 3.5: "q3-g32", 4.5: "q4-g32"}[bits]
    uniform = plan(DEMO, scheme=body, embedding=body)
    assert uniform.bits_per_weight >= bits and planned.divergence is not None
    assert planned.divergence < loss(uniform) / 1.9


def test_more_bits_lose_less(tmp_path: Path) -> None:
    source = tiny(tmp_path / "m")
    found = [plan(source, target_bpw=bits).divergence for bits in (3, 4, 5, 6, 8, 12)]
    assert all(None not in (a, b) and b < a / 1.5 for a, b in zip(found, found[1:]))  # type: ignore[operator]
    assert plan(source, target_bpw=40).divergence == 0  # bf16 as it was


@pytest.mark.parametrize("size", ["0.6MB", 700 << 10])
def test_a_size_is_met_from_below(tmp_path: Path, size: str | int) -> None:
    report = convert(DEMO, tmp_path / "out.ggq", target_size=size)
    limit = size if isinstance(size, int) else parse_size(size)
    assert limit - 30_000 < report.file_bytes <= limit


def test_matrices_that_are_kept_count_in_the_bits(tmp_path: Path) -> None:
    planned = plan(DEMO, target_bpw=5.0, keep=["embed=q8-g32", r"layers\.0\..*up=f16"], method="gptq")
    found = {tensor.name: (scheme_name(tensor.scheme), tensor.method_name) for tensor in planned.matrices}
    assert found["model.embed_tokens.weight"][0] == "q8-g32"
    assert found["model.layers.0.mlp.up_proj.weight"] == ("f16", "")
    assert 4.98 < planned.bits_per_weight <= 5.0
    methods = {method for name, (_, method) in found.items() if "layers.0.mlp.up" not in name}
    assert methods == {"gptq"}


def test_the_solved_recipe_is_kept_and_gives_the_same_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tiny(tmp_path / "m")
    first, second, recipe = tmp_path / "a.ggq", tmp_path / "b.ggq", tmp_path / "recipe.toml"
    assert main(["convert", str(source), str(first), "--target-bpw", "4.4", "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(first), "--recipe"]) == 0
    recipe.write_text(capsys.readouterr().out)
    convert(source, second, recipe=recipe, workers=3)
    with open_reader(first) as a, open_reader(second) as b:
        assert a.digest == b.digest


def test_dry_run_tells_the_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(tiny(tmp_path / "m"))
    assert main(["convert", source, "--dry-run", "--target-bpw", "4.5"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^divergence +about \S+ nats per token predicted$", text, re.MULTILINE)
    assert main(["convert", source, "--dry-run", "--scheme", "q4-g32"]) == 0
    assert "divergence" not in capsys.readouterr().out


def test_a_text_may_be_what_sensitivity_is_measured_on() -> None:
    found = plan(DEMO, target_bpw=4.0, calibration=DEMO / "valid.txt")
    assert 3.98 < found.bits_per_weight <= 4.0 and recipe_text(found.recipe) != recipe_text(solved(4.0).recipe)


def test_patterns_of_rules_name_their_tensors_and_no_others(tmp_path: Path) -> None:
    source = tiny(tmp_path / "m", shape=(32, 12, 4, 2, 44, 320))  # layers 1 and 11
    planned = plan(source, target_bpw=4.0)
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(planned.recipe))
    again = plan(source, recipe=path)
    assert len(path.read_text().splitlines()) < len(planned.matrices)  # layers share rules
    assert [tensor.scheme for tensor in again.tensors] == [tensor.scheme for tensor in planned.tensors]
    assert recipe_text(read_recipe(path)) == path.read_text()


def matrices(path: Path) -> tuple[Checkpoint, list[TensorPlan]]:
    planned = plan(path, scheme="f32")
    return planned.checkpoint, planned.matrices


def test_a_ladder_has_no_group_larger_than_a_row(tmp_path: Path) -> None:
    _, found = matrices(tiny(tmp_path / "m"))  # 32 and 44 columns
    names = {scheme_name(scheme) for tensor in found for scheme in ladder(tensor)}
    assert "q5-g32-s6" in names and "q5-row-s6" in names and not any("g64" in name for name in names if "44" in name)
    assert len(ladder(found[0])) == len(LADDER) + 1


def test_errors_are_measured_on_rows_from_all_over_a_matrix() -> None:
    checkpoint, found = matrices(DEMO)
    for tensor in found[:3]:
        sample = sample_weights(checkpoint, tensor)
        rows = {row.tobytes() for row in checkpoint.rows(tensor.name, 0, tensor.shape[0])}
        assert len(sample) <= tensor.shape[0] and all(row.tobytes() in rows for row in sample)
        assert sample.size == min(prod(tensor.shape), 1 << 15)


def test_a_candidates_loss_is_half_its_errors_weighed_by_sensitivity() -> None:
    checkpoint, found = matrices(DEMO)
    weights = np.random.default_rng(1).uniform(0, 2, found[0].shape[-1])
    errors = column_errors(sample_weights(checkpoint, found[0]), parse_scheme("q3-g32"))
    (one,) = candidates(checkpoint, found[0], [parse_scheme("q3-g32")], weights)
    assert one.option.loss == pytest.approx((weights * errors).sum() / 2)
    assert one.option.cost == prod(found[0].shape) * 3.5


def test_the_error_of_floats_is_that_of_rounding() -> None:
    weights = np.array([[1 + 2**-12, 2.0]], np.float32)
    assert column_errors(weights, parse_scheme("f32")).tolist() == [0, 0]
    assert column_errors(weights, parse_scheme("f16")).tolist() == [2**-24, 0]


def test_what_a_method_cannot_fill_is_filled_by_mse(tmp_path: Path) -> None:
    planned = plan(tiny(tmp_path / "m"), target_bpw=5.0, method="kmeans")
    found = {(tensor.scheme.kind, tensor.method_name) for tensor in planned.matrices}
    assert found <= {("codebook", "kmeans"), ("uniform", "mse"), ("float", "")} and ("uniform", "mse") in found


@pytest.mark.parametrize("preset, bits", [("small", 3.3), ("balanced", 4.6), ("high", 6.6)])
def test_presets_are_mixes_of_their_sizes(preset: str, bits: float) -> None:
    planned = plan(DEMO, preset=preset)
    assert bits - 0.02 < planned.bits_per_weight <= bits
    assert {tensor.method_name for tensor in planned.matrices} == {"mse"}


def test_nothing_said_is_the_balanced_preset_and_a_text_changes_its_method(tmp_path: Path) -> None:
    source = tiny(tmp_path / "m")
    assert recipe_text(plan(source).recipe) == recipe_text(plan(source, preset="balanced").recipe)
    methods = {tensor.method_name for tensor in plan(source, calibration=DEMO / "valid.txt").matrices}
    assert "gptq" in methods and "mse" not in methods
    assert {tensor.method_name for tensor in plan(source, method="absmax").matrices} >= {"absmax"}
    assert scheme_name(plan(source, embedding="f16").recipe.scheme) == "q4-g32"


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "exists already\nchoose another name or give --force"),
        ({"scheme": "q4-g32", "calibration": "unread"}, "exists already\nchoose another name or give --force"),
        ({"force": True, "method": "gptq"}, "method gptq needs calibration"),
        ({"force": True, "activations": "static"}, "static activations need calibration"),
        ({"force": True, "calibration_tokens": 5}, "calibration_tokens and calibration_context need a text"),
        ({"force": True, "statistics": "none"}, "this file of statistics does not exist yet"),
        ({"force": True, "method": "mse+gptq"}, "only one method can round"),
    ],
)
def test_what_cannot_be_is_refused_before_a_mix_is_solved_for(
    options: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def solve(*_: object) -> None:
        raise AssertionError("solved for a conversion that cannot be")

    monkeypatch.setattr(sys.modules["ggq.convert.mix.mix"], "sensitivities", solve)
    out = tmp_path / "m.ggq"
    out.write_bytes(b"before")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GGQError, match=re.compile(message, re.DOTALL)):
        convert(DEMO, out, **options)  # type: ignore[arg-type]
    assert out.read_bytes() == b"before"


@pytest.mark.parametrize("option", ["scheme", "embedding", "recipe", "target_bpw", "target_size"])
def test_a_preset_excludes_what_it_decides(option: str) -> None:
    with pytest.raises(UsageError, match=f"--preset and --{option}|--{option} and --preset".replace("_", "-")):
        plan(DEMO, preset="small", **{option: 5.0 if option == "target_bpw" else "1MB"})  # type: ignore[arg-type]


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UsageError, match="preset must be small, balanced or high, not 'tiny'"):
        plan(DEMO, preset="tiny")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # what the test is about
def test_a_model_that_computes_no_numbers_gets_a_usual_mix(tmp_path: Path) -> None:
    source = tiny(tmp_path / "m", dtype="f32")
    huge = np.full((44, 32), 3e38, np.float32)
    replace_tensors(source / "model.safetensors", {"model.layers.1.mlp.up_proj.weight": huge})
    planned = plan(source, target_bpw=6.0)
    assert planned.bits_per_weight <= 6.0
    bits = {tensor.role: tensor.scheme.bits for tensor in planned.matrices}
    assert bits.pop("layers.1.mlp.up.weight") == 2  # lost under every scheme, and refused when it is converted
    assert min(bits.values()) >= 4
    with pytest.raises(ConvertError, match="tensor model.layers.1.mlp.up_proj.weight, .*too large"):
        convert(source, tmp_path / "m.ggq", target_bpw=6.0)
    ones = np.ones((8, 32), np.float32)
    usual = [usual_sensitivity(ones, role).sum() for role in ("embedding.weight", "layers.0.mlp.up.weight")]
    assert usual[0] == pytest.approx(30 * usual[1])
