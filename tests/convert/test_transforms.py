"""Transforms in a conversion: the function stays the same before anything is rounded, folded or kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import ggq
from ggq.cli.main import main
from ggq.convert.calibrate.calibration import make_calibration
from ggq.convert.calibrate.changes import read_changed
from ggq.convert.convert import plan
from ggq.convert.options import CalibrationOptions
from ggq.convert.write.pipeline import memory_estimate
from ggq.convert.write.stages import Work, stages
from ggq.errors import ConvertError, UsageError
from ggq.format import open_reader, verify
from ggq.quant.change import Change
from ggq.quant.inputs import InputStatistics
from ggq.tape.cut import Section
from ggq.tape.windows import WindowRun
from tests.kit.checkpoints import numbers, tiny
from tests.kit.small_models import CONFIGS, checkpoint, write_ggq
from tests.kit.support import DEMO, run_ggq


def model(folder: Path, name: str) -> Path:
    """A checkpoint of one of CONFIGS with a few large columns in its norms, and the tokenizer of a tiny one."""
    tiny(folder)
    config = {**CONFIGS[name], "vocab_size": 320}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = checkpoint(config)
    for key, values in tensors.items():
        if key.endswith("layernorm.weight"):
            values[::7] *= 8 if "post_attention" in key else 3
        if key.endswith(("down_proj.weight", "q_proj.weight")):
            values[:, ::3] *= 4
            values /= 2
    save_file(tensors, folder / "model.safetensors")
    return folder


def briefly(text: Path) -> CalibrationOptions:
    return CalibrationOptions(calibration=text, calibration_tokens=1000, calibration_context=32)


def works(folder: Path, text: Path | None, **options: Any) -> dict[str, Work]:
    planned = plan(folder, **options)
    calibration = None if text is None else make_calibration(planned, briefly(text))
    found: dict[str, Work] = {}
    for _, some in stages(planned, calibration, set()):
        found.update(some)
    return found


def logits(folder: Path, found: dict[str, Work]) -> NDArray[np.float32]:
    """What the model computes from weights as they are before rounding."""
    planned = plan(folder)
    tensors = {}
    for tensor in planned.tensors:
        rows = range(tensor.shape[0] if len(tensor.shape) > 1 else 1)
        change = found[tensor.name].change if tensor.name in found else Change()
        read = read_changed(planned.checkpoint, tensor.expression, change, rows)
        tensors[tensor.role] = read.reshape(tensor.shape)
    program = planned.program
    windows = np.random.default_rng(1).integers(3, 300, (3, 20))
    whole = Section("", program.ops, frozenset({program.logits}))
    return WindowRun(20, tensors.__getitem__).run(whole, windows, {})[program.logits]


@pytest.mark.parametrize("method", ["awq", "smoothquant", "order+mse", "order+awq", "awq+order+mse"])
@pytest.mark.parametrize("name", ["grouped", "biased", "stretched"])
def test_folding_leaves_the_function_unchanged(tmp_path: Path, text: Path, name: str, method: str) -> None:
    folder = model(tmp_path / "m", name)
    found = works(folder, text, method=method, scheme="q3-g16")  # 2 or 3 groups in each row
    changed = {name: work.change.sides for name, work in found.items() if not work.change.nothing}
    kinds = {each for work in found.values() for each in str(work.notes.get("transforms", "")).split("+")}
    assert kinds - {""} and kinds - {""} <= set(method.split("+")) and changed
    if "order" not in method:
        assert changed["model.layers.1.input_layernorm.weight"] == "columns"
    exact = logits(folder, {})
    assert np.abs(logits(folder, found) - exact).max() < 2e-5 * np.abs(exact).max()


@pytest.mark.parametrize(
    "scheme, method",
    [
        ("q8-g32+scale", "awq"),
        ("q6-g16+order", "order"),
        ("q6-g16+order", "order+gptq"),
        ("q6-g16+scale+order", "order+awq"),
        ("q6-g16+scale+order", "awq+order+mse"),
        ("q6-g16+order", "order+awq"),  # the scale is folded
    ],
)
def test_kept_transforms_leave_the_function_unchanged(tmp_path: Path, text: Path, scheme: str, method: str) -> None:
    folder, out = model(tmp_path / "m", "biased"), tmp_path / "m.ggq"
    options = {"calibration": text, "calibration_tokens": 1000, "calibration_context": 32, "embedding": "q8-g32"}
    if "+scale" not in scheme:
        options["embedding"] = scheme
    if "awq" in method and "+" not in options["embedding"]:
        options["embedding"] = "f32"
    ggq.convert(folder, out, scheme=scheme, method=method, **options)
    plain = tmp_path / "plain.ggq"
    bare = scheme.split("+")[0]
    ggq.convert(folder, plain, scheme=bare, embedding=bare)
    exact = logits(folder, {})
    errors: list[float] = []
    for path in (out, plain):
        with ggq.load(path, interpreter="numpy", activations="float32", cache="f32") as opened:
            windows = np.random.default_rng(1).integers(3, 300, (3, 20))
            found = np.stack([opened.logits(window) for window in windows])
            errors.append(np.abs(found - exact).max() / np.abs(exact).max())
    assert errors[0] < 2.5 * errors[1] < 0.7
    with open_reader(out) as reader:
        assert not verify(reader)
        name = "model.layers.0.self_attn.q_proj.weight"
        kept = {"input_scale": "+scale" in scheme, "input_order": "+order" in scheme}
        segments = reader.tensors[name].segments
        assert {role: role in segments for role in kept} == kept
        if "+order" in scheme:
            order = np.asarray(reader.segment(name, "input_order")).view("<u4")[:32]
            assert sorted(order) == list(range(32))
            kept = reader.tensors[name].attributes.get("transforms", "")
            assert (np.diff(order.astype(int)) != 1).any() == ("order" in str(kept))
        if "+scale" in scheme:
            scale = np.asarray(reader.segment(name, "input_scale")).view("<f4")[:32]
            assert scale.std() > 0.01 and (scale > 0).all()


def test_the_bytes_do_not_depend_on_workers(tmp_path: Path, text: Path) -> None:
    folder = model(tmp_path / "m", "grouped")
    options = {"scheme": "q3-g32", "method": "order+awq+gptq", "calibration": text, "calibration_tokens": 1000}
    for workers in (1, 3):
        ggq.convert(folder, tmp_path / f"{workers}.ggq", workers=workers, calibration_context=64, **options)
    assert (tmp_path / "1.ggq").read_bytes() == (tmp_path / "3.ggq").read_bytes()


def test_order_needs_no_calibration(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", "grouped")
    found = works(folder, None, method="order", scheme="q3-g16")
    downs = [work for name, work in found.items() if "down_proj" in name]
    assert any(work.notes.get("transforms") == "order" and work.change.column_order is not None for work in downs)
    exact = logits(folder, {})
    assert np.abs(logits(folder, found) - exact).max() < 2e-5 * np.abs(exact).max()


def test_what_is_not_quantized_is_folded_too_and_disagreement_is_left_alone(tmp_path: Path, text: Path) -> None:
    folder = model(tmp_path / "m", "grouped")
    found = works(folder, text, method="awq", scheme="q4-g32", keep=["k_proj=bf16"])
    key = found["model.layers.0.self_attn.k_proj.weight"]
    query = found["model.layers.0.self_attn.q_proj.weight"]
    assert key.method == "" and np.array_equal(key.change.column_scale, query.change.column_scale)
    exact = logits(folder, {})
    assert np.abs(logits(folder, found) - exact).max() < 2e-5 * np.abs(exact).max()
    recipe = tmp_path / "recipe.toml"
    rules = '[{ match = "up_proj", scheme = "q4-g32", method = "mse" }]'
    recipe.write_text(f'scheme = "q4-g32"\nmethod = "awq"\nrules = {rules}\n')
    found = works(folder, text, recipe=recipe)
    assert found["model.layers.0.mlp.gate_proj.weight"].change.column_scale is None
    assert found["model.layers.0.self_attn.q_proj.weight"].change.column_scale is not None


@pytest.mark.parametrize("form", ["token", "static"])
def test_forms_of_activations_are_kept_with_each_matrix(tmp_path: Path, text: Path, form: str) -> None:
    folder, out = model(tmp_path / "m", "biased"), tmp_path / "m.ggq"
    options: dict[str, Any] = {} if form == "token" else {"calibration": text, "calibration_tokens": 1000}
    ggq.convert(folder, out, scheme="q8-row", activations=form, **options)
    with open_reader(out) as reader:
        attributes = {name: entry.attributes for name, entry in reader.tensors.items()}
        recipe = str(reader.metadata["quantization.recipe"])
    assert f'activations = "{form}"' in recipe
    query, key = (attributes[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qk")
    assert query["activations"] == form and "activations" not in attributes["model.norm.weight"]
    assert "activations" not in attributes["model.embed_tokens.weight"]  # only looked up
    assert attributes["lm_head.weight"]["activations"] == form
    assert ("activation_step" in query) == (form == "static")
    if form == "static":
        assert query["activation_step"] == key["activation_step"] > 0
    with ggq.load(out, interpreter="numpy") as opened:
        exact = logits(folder, {})[0]
        found = opened.logits(np.random.default_rng(1).integers(3, 300, (3, 20))[0])
    assert 1e-4 < np.abs(found - exact).max() / np.abs(exact).max() < 0.3


def test_static_steps_are_those_of_smoothed_inputs_folded_or_kept(tmp_path: Path, text: Path) -> None:
    folder, names = model(tmp_path / "m", "biased"), [f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkv"]

    def steps(scheme: str, method: str) -> list[Any]:
        options = {"embedding": "f32", "activations": "static", "keep": ["mlp|layers.1=f32"]}
        found = works(folder, text, scheme=scheme, method=method, **options)
        return [found[name].notes["activation_step"] for name in names]

    plain, folded, kept = (
        steps("q8-row", "absmax"),
        steps("q8-row", "smoothquant"),
        steps("q8-row+scale", "smoothquant"),
    )
    assert kept == pytest.approx(folded, rel=1e-3) and max(kept) < 0.7 * min(plain)


def test_static_activations_fall_back_to_tokens(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = model(tmp_path / "m", "grouped"), InputStatistics.trouble
    bad = property(lambda self: "made up" if self.columns == 44 else "")
    monkeypatch.setattr(InputStatistics, "trouble", bad)
    found = works(folder, text, scheme="q8-row", activations="static", method="smoothquant")
    monkeypatch.setattr(InputStatistics, "trouble", real)
    down, up = (found[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("down", "up"))
    assert up.notes["activations"] == "static" and "fallback" not in up.notes
    assert down.notes == {"fallback": "no statistics: made up", "activations": "token"}
    assert down.method == "absmax" and down.change.nothing


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="activations must be group, token or static, not 'row'"):
        plan(DEMO, activations="row")
    with pytest.raises(UsageError, match="static activations need calibration"):
        ggq.convert(DEMO, tmp_path / "m.ggq", activations="static")
    with pytest.raises(ConvertError, match=r"method gptq\+awq: transforms come first, each once"):
        plan(DEMO, method="gptq+awq")
    with pytest.raises(ConvertError, match=r"method awq\+awq: transforms come first, each once"):
        plan(DEMO, method="awq+awq")
    with pytest.raises(ConvertError, match=r"method mse\+gptq: only one method can round"):
        plan(DEMO, method="mse+gptq")
    with pytest.raises(ConvertError, match="unknown method 'magic'; allowed are absmax, .*gptq, awq, smoothquant"):
        plan(DEMO, method="order+magic")
    with pytest.raises(ConvertError, match=r"method mse cannot fill scheme q4-g32\+scale\nuse awq, smoothquant or"):
        plan(DEMO, method="mse", scheme="q4-g32+scale")
    with pytest.raises(ConvertError, match=r"method nf4\+gptq cannot fill scheme q4-g32"):
        plan(DEMO, method="nf4+gptq", scheme="q4-g32")


def test_a_codebook_comes_from_the_method_before(tmp_path: Path, text: Path) -> None:
    from ggq.quant.methods.published import NF4_TABLE

    folder, out = model(tmp_path / "m", "grouped"), tmp_path / "m.ggq"
    ggq.convert(folder, out, scheme="c4-g32", method="nf4+gptq", calibration=text, calibration_tokens=1000)
    with open_reader(out) as reader:
        name = "model.layers.0.mlp.up_proj.weight"
        assert reader.tensors[name].attributes["method"] == "nf4+gptq"
        assert np.array_equal(np.asarray(reader.segment(name, "codebook")).view(np.int8), NF4_TABLE)
        assert reader.tensors["model.embed_tokens.weight"].attributes["method"] == "gptq"


def test_the_command_line(tmp_path: Path, text: Path) -> None:
    folder, out = tiny(tmp_path / "m"), tmp_path / "m.ggq"
    result = run_ggq(
        "convert", folder, out, "--scheme", "q8-row", "--method", "smoothquant", "--activations", "static",
        "--calibration", text, "--calibration-tokens", "600", "--calibration-context", "60",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with open_reader(out) as reader:
        entry = reader.tensors["model.layers.0.mlp.up_proj.weight"]
        assert entry.attributes["activations"] == "static" and entry.attributes["method"] == "smoothquant"
    assert numbers(folder / "model.safetensors", "model.norm.weight").shape == (32,)


def test_both_interpreters_compute_what_the_untransformed_model_does(tmp_path: Path, text: Path) -> None:
    folder = model(tmp_path / "m", "biased")
    found, planned = works(folder, text, method="order+awq", scheme="q3-g16"), plan(folder)
    config = json.loads((folder / "config.json").read_text())
    changed: dict[str, NDArray[np.float32]] = {}
    for tensor in planned.tensors:
        rows = range(tensor.shape[0] if len(tensor.shape) > 1 else 1)
        read = read_changed(planned.checkpoint, tensor.expression, found[tensor.name].change, rows)
        changed[tensor.name] = read.reshape(tensor.shape)
    assert not all(work.change.nothing for work in found.values())
    path = write_ggq(tmp_path / "folded.ggq", config, changed)
    exact = logits(folder, {})
    windows = np.random.default_rng(1).integers(3, 300, (3, 20))
    for interpreter in ("numpy", "numba"):
        with ggq.load(path, interpreter=interpreter, activations="float32", cache="f32") as opened:
            folded = np.stack([opened.logits(window) for window in windows])
        assert np.abs(folded - exact).max() < 1e-4 * np.abs(exact).max(), interpreter


@pytest.mark.parametrize("scheme", ["q8-g32", "q8-g32+scale+order"])
def test_both_interpreters_agree_on_a_converted_model(tmp_path: Path, text: Path, scheme: str) -> None:
    folder, out = model(tmp_path / "m", "grouped"), tmp_path / "m.ggq"
    ggq.convert(
        folder, out, scheme=scheme, method="order+awq", embedding="f32", activations="static", calibration=text,
        calibration_tokens=1000, calibration_context=32,
    )  # fmt: skip
    tokens, found = np.random.default_rng(1).integers(3, 300, 20), {}
    for interpreter in ("numpy", "numba"):
        with ggq.load(out, interpreter=interpreter) as opened:
            found[interpreter] = opened.logits(tokens)
    assert np.abs(found["numpy"] - found["numba"]).max() < 0.02 * np.abs(found["numpy"]).max()


def test_what_was_folded_is_undone_by_compare(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = model(tmp_path / "m", "biased"), tmp_path / "m.ggq"
    options = {"calibration": text, "calibration_tokens": 1000, "calibration_context": 32}
    ggq.convert(folder, out, scheme="q8-g16", method="order+awq", **options)
    assert main(["compare", str(out), str(folder), "--json"]) == 0
    found = {each["name"]: each["relative_rmse"] for each in json.loads(capsys.readouterr().out)["tensors"]}
    with open_reader(out) as reader:
        attributes = {name: entry.attributes for name, entry in reader.tensors.items()}
    folded = {each["folded"] for each in attributes.values() if "folded" in each}
    assert folded == {"columns", "rows and columns"}
    for name, error in found.items():
        assert error < 0.02 and ("norm" not in name or error < 1e-6), name
    assert main(["inspect", str(out), "--tensors"]) == 0
    line = next(each for each in capsys.readouterr().out.splitlines() if "layers.0.mlp.up_proj.weight" in each)
    assert "order+awq" in line and "folded" in line


@pytest.mark.parametrize("method", ["awq", "awq+gptq", "smoothquant+mse"])
def test_targets_take_chains_and_forms_of_activations(tmp_path: Path, text: Path, method: str) -> None:
    folder = model(tmp_path / "m", "grouped")
    found = works(folder, text, target_bpw=5, method=method, activations="static")
    query = found["model.layers.0.self_attn.q_proj.weight"]
    assert query.notes["activations"] == "static" and query.method == method
    assert any("transforms" in work.notes for work in found.values())
    exact = logits(folder, {})
    assert np.abs(logits(folder, found) - exact).max() < 2e-5 * np.abs(exact).max()


def test_a_preset_takes_chains_and_forms_of_activations(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", "grouped")
    planned = plan(folder, preset="balanced", method="awq+gptq", activations="token")
    assert {tensor.method_name for tensor in planned.tensors if len(tensor.shape) > 1} == {"awq+gptq"}
    assert planned.recipe.activations == "token"
    with pytest.raises(ConvertError, match=r"method gptq\+awq: transforms come first"):
        plan(folder, target_bpw=4.5, method="gptq+awq")


def test_the_estimate_of_memory_counts_calibration(tmp_path: Path, text: Path) -> None:
    folder = tiny(tmp_path / "wide", shape=(512, 1, 8, 2, 4096, 320))
    found = []
    for method in ("mse", "clip", "gptq", "awq+gptq"):
        planned = plan(folder, method=method)
        calibration = make_calibration(planned, briefly(text))
        found.append(memory_estimate(planned, 2, calibration) - memory_estimate(planned, 2))
    assert sorted(found) == found and len(set(found)) == 4
    assert found[1] - found[0] > 4 * 4096**2 and found[2] > 24 * 4096**2
