"""A file opened to look inside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.errors import GGQError, ModelError, UnsupportedError, UsageError
from ggq.generate.file import File, Tensor
from tests.kit.small_models import CONFIGS, checkpoint, write_demo, write_ggq

CONFIG = CONFIGS["biased"]
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[File]:
    path = tmp_path_factory.mktemp("file") / "small.ggq"
    with ggq.open(write_ggq(path, CONFIG, checkpoint(CONFIG), "q8-g32")) as file:
        yield file


def test_metadata_assets_and_tensors_are_there(file: File) -> None:
    assert list(file.metadata["model.layers"]) == [0, 0]
    assert b"LlamaForCausalLM" in file.assets["config.json"].read()
    assert list(file.tensors)[0] == "model.embed_tokens.weight" and len(file.tensors) == len(checkpoint(CONFIG))
    assert QUERY in file.tensors and "model.unknown" not in file.tensors
    with pytest.raises(KeyError):
        file.tensors["model.unknown"]


def test_a_tensor_tells_what_it_is(file: File) -> None:
    tensor = file.tensors[QUERY]
    assert (tensor.name, tensor.shape) == (QUERY, (32, 32))
    assert tensor.scheme is not None and (tensor.scheme.bits, tensor.scheme.group) == (8, 32)
    assert tensor.attributes["role"] == "layers.0.attention.q.weight"
    assert repr(tensor) == f"<Tensor {QUERY} (32, 32)>"


def test_a_quantized_tensor_comes_back_near_and_a_float_one_exactly(file: File) -> None:
    source = checkpoint(CONFIG)
    for name in file.tensors:
        values = file.tensors[name].dequantize()
        assert values.dtype == np.float32 and values.shape == source[name].shape
        if values.ndim == 1:
            assert np.array_equal(values, source[name])
        else:  # half a step of the 8-bit grid, and what the half-precision scale adds over 128 steps
            step = np.abs(source[name]).max() / 128
            assert 0 < np.abs(values - source[name]).max() < step * (0.5 + 128 * 2**-11 + 1)


def test_matmul_is_the_product_with_the_stored_numbers(file: File) -> None:
    tensor = file.tensors["model.layers.1.mlp.gate_proj.weight"]
    x = np.random.default_rng(0).normal(size=(2, 3, 32))
    product = tensor.matmul(x)
    assert product.dtype == np.float32 and product.shape == (2, 3, 44)
    assert np.allclose(product, x @ tensor.dequantize().T, atol=1e-5)
    assert tensor.matmul(x[0, 0]).shape == (44,)


def test_matmul_refuses_what_does_not_fit(file: File) -> None:
    with pytest.raises(UsageError, match=rf"{QUERY} has 32 columns, and x has shape \(4, 31\)"):
        file.tensors[QUERY].matmul(np.zeros((4, 31)))
    with pytest.raises(UsageError, match=r"has 32 columns, and x has shape \(\)"):
        file.tensors[QUERY].matmul(np.array(1.0))
    with pytest.raises(UsageError, match=r"matmul needs a matrix, and model\.norm\.weight has 1 dimension"):
        file.tensors["model.norm.weight"].matmul(np.zeros(32))


def test_a_scheme_that_has_no_name_here_is_listed_and_refused_on_use(file: File) -> None:
    tensor = Tensor(file.reader, file.reader.tensors[QUERY]._replace(scheme=None))
    assert tensor.scheme is None and tensor.shape == (32, 32)
    for use in (tensor.dequantize, lambda: tensor.matmul(np.zeros(32))):
        with pytest.raises(
            UnsupportedError, match=f"tensor {QUERY}: stored in a scheme that this version cannot decode"
        ):
            use()


def test_the_tokenizer_is_that_of_the_file(file: File, tmp_path: Path) -> None:
    with ggq.open(write_demo(tmp_path / "demo.ggq")) as demo:
        tokenizer = demo.tokenizer()
        ids = tokenizer.encode("def f(x):").ids
        assert tokenizer.decode(ids) == "def f(x):" and tokenizer.get_vocab_size() == 1024
    with pytest.raises(ModelError, match="the file holds no tokenizer"):
        file.tokenizer()


@pytest.mark.parametrize(("add", "first"), [(True, [1]), (False, [])])
def test_metadata_decides_how_a_prompt_begins(tmp_path: Path, add: bool, first: list[int]) -> None:
    tokenizer = (Path(ggq.__file__).parent / "demo" / "tokenizer.json").read_bytes()
    metadata = {"tokenizer.bos_id": 1, "tokenizer.add_bos": add}
    assets = {"tokenizer.json": tokenizer}
    path = write_ggq(tmp_path / "m.ggq", CONFIG, checkpoint(CONFIG), "f32", assets, metadata)
    with ggq.open(path) as file:
        encoded = file.tokenizer().encode("if x:").ids
        plain = file.tokenizer().encode("if x:", add_special_tokens=False).ids
    assert encoded == first + plain and len(plain) > 1


def test_a_closed_file_says_so(tmp_path: Path) -> None:
    with ggq.open(write_ggq(tmp_path / "m.ggq", CONFIG, checkpoint(CONFIG))) as file:
        pass
    with pytest.raises(GGQError, match="the file is closed"):
        file.tensors[QUERY].dequantize()
