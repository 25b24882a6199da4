"""Checkpoints that hold more than a text model: that alone is converted, and what was left out is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.convert.convert import convert
from ggq.errors import ModelError
from tests.kit.checkpoints import write_safetensors
from tests.kit.family_models import TOLERANCE, checkpoint, error, last_logits, opened
from tests.kit.small_families import FAMILIES as CONFIGS

OUTER = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "model_type": "qwen3_5",
    "image_token_id": 60,
    "vision_config": {"model_type": "qwen3_5_vision", "depth": 1},
    "tie_word_embeddings": False,
}


def write_images(folder: Path, more: dict[str, np.ndarray], **outer: Any) -> Path:
    """The golden Qwen3.5 as transformers saves it inside a model that sees images."""
    tensors = {
        name if name == "lm_head.weight" else name.replace("model.", "model.language_model.", 1): values
        for name, values in checkpoint("qwen3_5").items()
    }
    text = {key: value for key, value in CONFIGS["qwen3_5"].items() if key != "architectures"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**OUTER, "text_config": text, **outer}))
    header, data = {}, b""
    for name, values in {**tensors, **more}.items():
        end = len(data) + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), end]}
        data += values.tobytes()
    write_safetensors(folder / "model.safetensors", header, data)
    return folder


def test_the_text_model_of_a_model_that_sees_images(tmp_path: Path) -> None:
    beside = ["model.visual.patch_embed.proj.bias", "mtp.norm.weight"]
    folder = write_images(tmp_path / "m", {name: np.ones(3, np.float32) for name in beside})
    report = convert(folder, tmp_path / "m.ggq", scheme="f32")
    assert set(report.ignored) == set(beside) and not report.unread_keys
    assert any("2 tensors are no part of the text model and are left out" in note for note in report.notes)
    with opened(tmp_path / "m.ggq", "numpy") as executor:
        assert error(last_logits(executor, "qwen3_5"), "qwen3_5") < TOLERANCE


def test_keys_of_the_text_model_are_told_with_their_place(tmp_path: Path) -> None:
    text = {**CONFIGS["qwen3_5"], "mlp_only_layers": []}
    folder = write_images(tmp_path / "m", {}, text_config=text)
    assert convert(folder, tmp_path / "m.ggq", scheme="f32").unread_keys == ("text_config.mlp_only_layers",)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="text_config: 3 found, an object expected"):
        convert(write_images(tmp_path / "a", {}, text_config=3), tmp_path / "m.ggq")
    with pytest.raises(ModelError, match=r"text_config\.num_attention_heads: missing"):
        convert(write_images(tmp_path / "b", {}, text_config={}), tmp_path / "m.ggq")
