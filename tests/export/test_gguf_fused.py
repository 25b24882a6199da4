"""Fused matrices and stacks of experts are written as the architecture has them, and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggq.errors import UnsupportedError
from ggq.export.gguf import export_gguf
from ggq.format.gguf.reader import GGUFReader
from ggq.gguf.architecture.table import ARCHITECTURES
from tests.gguf.test_architectures import CASES, config_of, tensors_of, weights_of
from tests.gguf.test_model import logits
from tests.kit.small_models import write_ggq

FUSED = ("phi3", "glm4", "gptneox", "gptneox, serial", "falcon")
STACKED = ("mixtral", "granitemoe", "granitemoe, shared", "qwen2moe", "qwen3moe")


@pytest.mark.parametrize("case", FUSED + STACKED)
def test_tensors_are_those_of_the_architecture(case: str, tmp_path: Path) -> None:
    ours = write_ggq(tmp_path / "m.ggq", config_of(case), weights_of(case), "f32")
    done = export_gguf(ours, tmp_path / "m.gguf", type="f32")
    assert done.encoded == 0
    expected = tensors_of(case, ARCHITECTURES[CASES[case][0]].names)
    with GGUFReader(tmp_path / "m.gguf") as reader:
        assert {name: tensor.shape for name, tensor in reader.tensors.items()} == {
            name: values.shape for name, values in expected.items()
        }
        for name, values in expected.items():
            found = reader.raw(name).view("<f4").reshape(values.shape)
            np.testing.assert_array_equal(found, values.astype(np.float32), err_msg=name)
    tokens = list(range(3, 43))
    np.testing.assert_array_equal(logits(tmp_path / "m.gguf", tokens), logits(ours, tokens))


@pytest.mark.parametrize("case", ["phi3", "qwen2moe"])
def test_matrices_of_one_scheme_stay_exact(case: str, tmp_path: Path) -> None:
    config = config_of(case)
    ours = write_ggq(tmp_path / "m.ggq", config, weights_of(case), "f16")
    done = export_gguf(ours, tmp_path / "m.gguf")
    assert done.encoded == 0 and done.exact == done.types["F16"]
    tokens = list(range(3, 43))
    np.testing.assert_allclose(logits(tmp_path / "m.gguf", tokens), logits(ours, tokens), atol=1e-5)


def test_keys_of_fewer_heads_are_refused_for_olmoe(tmp_path: Path) -> None:
    ours = write_ggq(tmp_path / "m.ggq", config_of("olmoe"), weights_of("olmoe"), "f32")
    with pytest.raises(UnsupportedError, match="heads of keys is not written as a GGUF file: llama.cpp has"):
        export_gguf(ours, tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["m.ggq"]
