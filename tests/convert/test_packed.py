"""Checkpoints whose matrices are codes and scales: read as transformers reads them, and kept exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.convert.convert import convert
from ggq.convert.source.checkpoint import Checkpoint
from ggq.errors import ConvertError, UnsupportedError
from ggq.format import open_reader
from ggq.quant import choose_method, decode_tensor, encode_tensor, parse_scheme
from ggq.quant.methods import METHODS
from tests.kit.checkpoints import write_safetensors
from tests.kit.family_models import checkpoint, error, forward, last_logits, opened
from tests.kit.small_families import FAMILIES as CONFIGS

KINDS = {"float32": "F32", "uint8": "U8"}
SIZES = {"hidden_size": 64, "intermediate_size": 32, "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 2}
GPT_OSS = {**CONFIGS["gpt_oss"], **SIZES, "quantization_config": {"quant_method": "mxfp4"}}
BITNET = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}


def write(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    header, data = {}, b""
    for name, values in tensors.items():
        end = len(data) + values.nbytes
        header[name] = {
            "dtype": KINDS[str(values.dtype)],
            "shape": list(values.shape),
            "data_offsets": [len(data), end],
        }
        data += values.tobytes()
    write_safetensors(folder / "model.safetensors", header, data)
    return folder


def mxfp4() -> dict[str, np.ndarray]:
    """The tensors of a gpt-oss of two layers, experts as codes and exponents."""
    random, found = np.random.default_rng(3), dict[str, np.ndarray]()

    def floats(name: str, *shape: int) -> None:
        found[name] = (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    floats("model.embed_tokens.weight", 61, 64)
    floats("lm_head.weight", 61, 64)
    found["model.norm.weight"] = np.ones(64, np.float32)
    for layer in ("model.layers.0.", "model.layers.1."):
        for name, rows in {"q": 64, "k": 16, "v": 16, "o": 64}.items():
            floats(f"{layer}self_attn.{name}_proj.weight", rows, 64)
            floats(f"{layer}self_attn.{name}_proj.bias", rows)
        floats(f"{layer}self_attn.sinks", 8)
        floats(f"{layer}mlp.router.weight", 3, 64)
        floats(f"{layer}mlp.router.bias", 3)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}{norm}.weight"] = np.ones(64, np.float32)
        for name, rows, groups in (("gate_up_proj", 64, 2), ("down_proj", 64, 1)):
            floats(f"{layer}mlp.experts.{name}_bias", 3, rows)
            codes = random.integers(0, 256, (3, rows, groups, 16), np.uint8)
            found[f"{layer}mlp.experts.{name}_blocks"] = codes
            found[f"{layer}mlp.experts.{name}_scales"] = random.integers(119, 126, (3, rows, groups), np.uint8)
    return found


def numbers_of(codes: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """What the specification says of sign, two bits of exponent and one of mantissa, by arithmetic."""
    each = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], 32).astype(np.int64)
    sign, power, half = 1 - 2 * (each >> 3), each >> 1 & 3, each & 1
    size = np.where(power == 0, half / 2, (1 + half / 2) * 2.0 ** (power - 1))
    return np.asarray(sign * size * 2.0 ** (exponents[..., None].astype(np.int64) - 127)).astype(np.float32)


def test_mxfp4_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    """Numbers that transformers 5.24 made of these bytes."""
    tensors = mxfp4()
    name = "model.layers.0.mlp.experts.down_proj"
    codes = (np.arange(2 * 3 * 16).reshape(2, 3, 1, 16) * 37 + 11).astype(np.uint8)
    tensors[f"{name}_blocks"] = codes
    tensors[f"{name}_scales"] = np.uint8([[[120], [127], [131]], [[100], [1], [126]]])
    source = Checkpoint(write(tmp_path / "m", GPT_OSS, tensors))
    source.unpack()
    assert source.shape(f"{name}_blocks") == (2, 3, 32)
    found = source.rows(f"{name}_blocks", 1, 4)
    want = [-1.5, 3.0, 0.0, -0.0, 3.0, -1.0, -1.0, -2.0, -6.0, -4.0, 2.0, 0.5, -0.5, 1.5, -4.0, 3.0, 1.5, -0.0, -0.0]
    want += [-1.0, -3.0, -2.0, 1.0, -6.0, 6.0, 0.5, -2.0, 1.5, 0.5, 4.0, 4.0, -0.0]
    assert found[0].tolist() == want
    assert found[2][0] == -1.1175870895385742e-08


def test_experts_keep_every_number(tmp_path: Path) -> None:
    """And give the logits of the same numbers as floats, in the layout of those, whose matrices are transposed."""
    tensors = mxfp4()
    report = convert(write(tmp_path / "m", GPT_OSS, tensors), tmp_path / "m.ggq")
    assert not any("quantization_config" in note for note in report.notes)
    kept = [each for each in report.tensors if each.source_dtype == "mxfp4"]
    assert len(kept) == 2 * 3 * 3 and {each.scheme for each in kept} <= {"c4-g32", "c4-row"}
    assert {(each.relative_rmse, each.max_error) for each in kept} == {(0.0, 0.0)}
    floats = {}
    for name, values in tensors.items():
        if name.endswith("_blocks"):
            both = numbers_of(values, tensors[name.replace("_blocks", "_scales")])
            whole = both.reshape(*both.shape[:2], -1)
            floats[name.removesuffix("_blocks")] = np.ascontiguousarray(whole.swapaxes(1, 2))
        elif not name.endswith("_scales"):
            floats[name] = values
    config = {key: value for key, value in GPT_OSS.items() if key != "quantization_config"}
    exact = write(tmp_path / "f", config, floats)
    convert(exact, tmp_path / "f.ggq", scheme="f32")
    convert(tmp_path / "m", tmp_path / "m32.ggq", scheme="f32")
    found = {}
    for file in ("f", "m32"):
        with opened(tmp_path / f"{file}.ggq", "numpy") as executor:
            found[file] = forward(executor, [(executor.open_sequence(), list(range(3, 40)), "all")])
    assert np.array_equal(found["f"], found["m32"])


def test_a_scheme_that_is_asked_for_quantizes_them_anew(tmp_path: Path) -> None:
    report = convert(write(tmp_path / "m", GPT_OSS, mxfp4()), tmp_path / "m.ggq", scheme="q4-g32")
    assert {each.scheme for each in report.tensors if each.source_dtype == "mxfp4"} <= {"q4-g32", "q4-row"}


def test_a_scale_that_is_no_number_and_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tensors = mxfp4()
    name = "model.layers.0.mlp.experts.down_proj"
    tensors[f"{name}_scales"][1, 2, 0] = 255
    with pytest.raises(ConvertError, match="a scale that is not a number"):
        convert(write(tmp_path / "m", GPT_OSS, tensors), tmp_path / "m.ggq")
    tensors[f"{name}_scales"] = tensors[f"{name}_scales"][:, :, :0]
    with pytest.raises(ConvertError, match="which do not fit each other"):
        convert(write(tmp_path / "n", GPT_OSS, tensors), tmp_path / "m.ggq")


def packed_bitnet(divides: bool) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Tensors of a BitNet as codes and scales, and as the floats that they stand for."""
    random, packed, floats = np.random.default_rng(4), dict[str, np.ndarray](), dict[str, np.ndarray]()
    for name, values in checkpoint("bitnet").items():
        packed[name] = floats[name] = values
        if "_proj" in name:
            signs = random.integers(-1, 2, values.shape)
            quarters = np.split((signs + 1).astype(np.uint8), 4)
            packed[name] = sum(each << np.uint8(2 * i) for i, each in enumerate(quarters)).astype(np.uint8)  # type: ignore[union-attr]
            scale = np.float32(2.0 ** random.integers(-4, -1) * 1.5)
            packed[f"{name}_scale"] = np.array([1 / scale if divides else scale], np.float32)
            floats[name] = (signs * (np.float32(1) / packed[f"{name}_scale"] if divides else scale)).astype(np.float32)
    return packed, floats


@pytest.mark.parametrize("form", ["autobitlinear", "bitlinear"])
def test_ternary_matrices_keep_every_number(form: str, tmp_path: Path) -> None:
    """In the form of transformers' default class numbers are divided by the scale, in the other multiplied."""
    packed, floats = packed_bitnet(form == "bitlinear")
    said = {**BITNET, "linear_class": form} if form == "autobitlinear" else {"quant_method": "bitnet"}
    config = {**CONFIGS["bitnet"], "quantization_config": said}
    report = convert(write(tmp_path / "m", config, packed), tmp_path / "m.ggq", embedding="f32")
    kept = [each for each in report.tensors if each.source_dtype == "ternary"]
    assert len(kept) == 7 * 3 and all(each.scheme.startswith("ternary") for each in kept)
    with open_reader(tmp_path / "m.ggq") as reader:
        for name, entry in reader.tensors.items():
            if name in floats and "_proj" in name:
                segments = {part: reader.read_segment(name, part) for part in entry.segments}
                assert entry.scheme is not None
                found = decode_tensor(entry.scheme, entry.shape, segments)
                np.testing.assert_allclose(found, floats[name], rtol=2**-11 if form == "bitlinear" else 0)


def test_four_rows_of_a_byte_are_a_quarter_of_all_apart(tmp_path: Path) -> None:
    """The example of transformers' documentation."""
    packed, _ = packed_bitnet(False)
    name = "model.layers.0.mlp.down_proj.weight"
    packed[name] = np.uint8([[0b10100001, 0b00011000], [0b10010000, 0b00001010]])
    packed[f"{name}_scale"] = np.ones(1, np.float32)
    source = Checkpoint(write(tmp_path / "m", {**CONFIGS["bitnet"], "quantization_config": BITNET}, packed))
    source.unpack()
    want = [[0, -1], [-1, 1], [-1, 1], [-1, 1], [1, 0], [0, -1], [1, -1], [1, -1]]
    assert source.rows(name, 0, 8).tolist() == want and source.rows(name, 1, 6).tolist() == want[1:6]
    packed[name][0, 0] |= 3
    other = Checkpoint(write(tmp_path / "n", {**CONFIGS["bitnet"], "quantization_config": BITNET}, packed))
    other.unpack()
    with pytest.raises(ConvertError, match="a code of 3"):
        other.rows(name, 0, 2)


def test_weights_that_are_made_ternary_when_they_are_loaded_are_refused(tmp_path: Path) -> None:
    config = {**CONFIGS["bitnet"], "quantization_config": {**BITNET, "quantization_mode": "online"}}
    with pytest.raises(UnsupportedError, match="made ternary when they are loaded"):
        convert(write(tmp_path / "m", config, checkpoint("bitnet")), tmp_path / "m.ggq", scheme="f32")


def test_mxfp4_of_floats_rounds_to_the_nearest_of_its_numbers() -> None:
    """The largest of a group is 4 to 8 of its units; 6 is the largest number."""
    random, scheme = np.random.default_rng(5), parse_scheme("c4-g32")
    weights = random.standard_normal((16, 64)).astype(np.float32)
    method = choose_method(scheme, "mxfp4")
    found = decode_tensor(scheme, weights.shape, encode_tensor(weights, scheme, method))
    unit = 2.0 ** (np.floor(np.log2(np.abs(weights).reshape(16, 2, 32).max(-1, keepdims=True))) - 2)
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    levels = np.concatenate([-levels, levels])
    scaled = weights.reshape(16, 2, 32) / unit
    nearest = np.abs(scaled[..., None] - levels).min(-1)
    np.testing.assert_allclose(np.abs(found.reshape(16, 2, 32) / unit - scaled), nearest, atol=1e-6)
    assert "mxfp4" in METHODS


def test_logits_of_a_packed_model_are_those_of_its_numbers(tmp_path: Path) -> None:
    packed, floats = packed_bitnet(False)
    config = {**CONFIGS["bitnet"], "quantization_config": BITNET}
    convert(write(tmp_path / "m", config, packed), tmp_path / "m.ggq", scheme="f32")
    convert(write(tmp_path / "f", CONFIGS["bitnet"], floats), tmp_path / "f.ggq", scheme="f32")
    with opened(tmp_path / "m.ggq", "numpy") as one, opened(tmp_path / "f.ggq", "numpy") as other:
        found, want = last_logits(one, "bitnet"), last_logits(other, "bitnet")
    assert all(np.array_equal(a, b) for a, b in zip(found, want, strict=True))
    assert error(found, "bitnet") > 1e-3  # other numbers than the golden's
