"""Checkpoints in other layouts than a family's own: experts of a layer in two tensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ggq.convert.convert import convert
from ggq.export import export
from tests.kit.checkpoints import write_safetensors
from tests.kit.family_models import TOLERANCE, checkpoint, error, last_logits, opened, write_checkpoint
from tests.kit.small_families import FAMILIES as CONFIGS


def stacked(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors with gate and up of all experts of a layer in one, and down in one."""
    found: dict[str, np.ndarray] = {}
    groups: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for name, values in tensors.items():
        if ".experts." not in name:
            found[name] = values
            continue
        place, _, rest = name.partition(".experts.")
        number, kind, _ = rest.split(".")
        groups.setdefault(place, {}).setdefault(int(number), {})[kind] = values
    for place, mine in groups.items():
        both = [np.concatenate([mine[e]["gate_proj"], mine[e]["up_proj"]]) for e in range(len(mine))]
        found[f"{place}.experts.gate_up_proj"] = np.stack(both)
        found[f"{place}.experts.down_proj"] = np.stack([mine[e]["down_proj"] for e in range(len(mine))])
    return found


def write(folder: Path, config: dict[str, object], tensors: dict[str, np.ndarray]) -> Path:
    write_checkpoint(folder, "qwen3_5_moe")  # for what else belongs to it
    (folder / "config.json").write_text(json.dumps(config))
    header, data = {}, b""
    for name, values in tensors.items():
        end = len(data) + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), end]}
        data += values.tobytes()
    write_safetensors(folder / "model.safetensors", header, data)
    return folder


@pytest.mark.parametrize("name", ["qwen3_5_moe", "qwen3_next"])
def test_stacked_experts_are_the_same_model(name: str, tmp_path: Path) -> None:
    convert(write(tmp_path / "m", CONFIGS[name], stacked(checkpoint(name))), tmp_path / "m.ggq", scheme="f32")
    with opened(tmp_path / "m.ggq", "numpy") as executor:
        assert error(last_logits(executor, name), name) < TOLERANCE


def test_the_text_model_of_one_that_sees_images_is_taken(tmp_path: Path) -> None:
    name = "qwen3_5_moe"
    text = {**CONFIGS[name], "tie_word_embeddings": False}
    config = {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe", "text_config": text}
    tensors = {key.replace("model.", "model.language_model.", 1): x for key, x in stacked(checkpoint(name)).items()}
    tensors["model.visual.patch_embed.proj.weight"] = np.zeros((4, 4), np.float32)
    report = convert(write(tmp_path / "m", config, tensors), tmp_path / "m.ggq", scheme="f32")
    assert any("no part of the text model" in note for note in report.notes)
    with opened(tmp_path / "m.ggq", "numpy") as executor:
        assert error(last_logits(executor, name), name) < TOLERANCE


@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_next", "qwen3_5_moe"])
def test_an_exported_checkpoint_has_the_tensors_that_it_was_made_of(name: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    convert(write_checkpoint(tmp_path / "m", name), tmp_path / "m.ggq", scheme="f32")
    export.export(tmp_path / "m.ggq", tmp_path / "out")
    found, want = load_file(tmp_path / "out" / "model.safetensors"), checkpoint(name)
    assert set(found) == set(want)
    for key, values in want.items():
        np.testing.assert_allclose(found[key], values, rtol=0, atol=1e-6)
