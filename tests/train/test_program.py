"""A program over PyTorch gives the numbers of the NumPy interpreter, for every family."""

from __future__ import annotations

import numpy as np
import pytest

from ggq.format.scheme import Scheme
from ggq.models.build import build_program
from ggq.models.registry import find_architecture
from ggq.quant.stored import StoredWeight
from ggq.tape.program import Program, Run
from ggq.tape.reference import NumpyExecutor
from tests.kit import family_models
from tests.kit.small_encoders import ENCODERS, encoder_checkpoint
from tests.kit.small_models import made

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra ggq[train]")

from ggq.errors import UnsupportedError  # noqa: E402
from ggq.format.scheme_names import parse_scheme  # noqa: E402
from ggq.train.namespace import XP, TorchNamespace  # noqa: E402
from ggq.train.program import ProgramModule  # noqa: E402
from ggq.train.quantize.fake import quantizer_of  # noqa: E402
from ggq.train.quantize.inputs import InputRounding  # noqa: E402
from ggq.train.quantize.weight import TrainedWeight  # noqa: E402
from tests.models.test_encoders import FACTS, INSIDE  # noqa: E402
from tests.tape.test_windows import model  # noqa: E402

F32 = Scheme("float", 32, "f32")

TOLERANCE = 2e-5
"""Of the largest logit: what float32 moves (the interpreter computes in float64)."""


def family(name: str) -> tuple[Program, dict[str, np.ndarray]]:
    found, spec = family_models.spec_of(name)
    tensors = family_models.checkpoint(name)
    return build_program(spec), {each.role: made(each, tensors) for each in found.tensors(spec) if each.role}


def encoder(name: str) -> tuple[Program, dict[str, np.ndarray]]:
    found = find_architecture(ENCODERS[name])
    spec = found.config(ENCODERS[name])
    tensors = encoder_checkpoint(FACTS["models"][name]["tensors"])
    tensors |= {INSIDE.get(name, "") + key: value for key, value in tensors.items()}
    return build_program(spec), {each.role: made(each, tensors) for each in found.tensors(spec) if each.role}


def module(program: Program, tensors: dict[str, np.ndarray]) -> ProgramModule:
    return ProgramModule(program, {role: TrainedWeight(array, F32) for role, array in tensors.items()})


def expected(program: Program, tensors: dict[str, np.ndarray], windows: np.ndarray) -> np.ndarray:
    executor = NumpyExecutor(program, lambda role: StoredWeight(F32, tensors[role]), "float32", "f32")
    runs = [Run(executor.open_sequence(), window, "all") for window in windows]
    return np.asarray(executor.forward(runs)).reshape(*windows.shape, -1)


def compare(program: Program, tensors: dict[str, np.ndarray], context: int) -> None:
    most = min(context, program.inputs.context_length)
    windows = np.random.default_rng(3).integers(0, program.inputs.vocabulary_size, (2, most)).astype(np.int32)
    trained = module(program, tensors)
    with torch.no_grad():
        found = trained(torch.from_numpy(windows.astype(np.int64))).numpy()
    want = expected(program, tensors, windows)
    assert np.abs(found.reshape(want.shape) - want).max() < TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("name", family_models.CONFIGS)
def test_every_family_gives_the_interpreters_logits(name: str) -> None:
    compare(*family(name), 40)


@pytest.mark.parametrize("name", [name for name in ENCODERS if "scores" not in name])
def test_every_encoder_gives_the_interpreters_rows(name: str) -> None:
    program, tensors = encoder(name)
    if "logits" not in program.outputs and "hidden" not in program.outputs:
        pytest.skip("gives neither rows nor logits")
    compare(program, tensors, 30)


def test_plain_attention_and_pytorchs_own_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's function, against the operation's own lines."""
    program, tensors = model("biased")
    trained = module(program, tensors)
    tokens = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    quick = trained(tokens)
    monkeypatch.setattr(TorchNamespace, "attention", None)
    plain = trained(tokens)
    assert torch.allclose(quick, plain, atol=1e-5)


def test_checkpointing_computes_the_same_gradients() -> None:
    program, tensors = model("grouped")
    tokens = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    gradients = []
    for remember in (True, False):
        trained = module(program, tensors)
        trained.remember = remember
        trained(tokens).square().sum().backward()
        gradients.append({name: p.grad for name, p in trained.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and torch.equal(gradient, gradients[1][name]), name


def test_int8_inputs_meet_every_quantized_matrix() -> None:
    """The interpreter rounds as the kernels do: with inputs rounded the module's logits are its logits."""
    program, tensors = model("biased")
    scheme = parse_scheme("q8-g32")
    weights, stored = {}, {}
    for role, array in tensors.items():
        quantizer = None if array.ndim == 1 or role == "embedding.weight" else quantizer_of(array, scheme, False, None)
        weights[role] = TrainedWeight(array, F32 if quantizer is None else scheme, quantizer)
        stored[role] = StoredWeight(weights[role].scheme, weights[role]().detach().numpy())
    trained = ProgramModule(program, weights, InputRounding("group"))
    windows = np.random.default_rng(3).integers(0, 64, (2, 12)).astype(np.int32)
    with torch.no_grad():
        found = trained(torch.from_numpy(windows.astype(np.int64))).numpy()
    executor = NumpyExecutor(program, stored.__getitem__, "int8", "f32")
    want = np.asarray(executor.forward([Run(executor.open_sequence(), w, "all") for w in windows])).reshape(found.shape)
    trained.rounding = None
    with torch.no_grad():
        without = trained(torch.from_numpy(windows.astype(np.int64))).numpy()
    # A code may round the other way where float32 and float64 differ in the last place; without rounding it is more.
    assert np.abs(found - want).mean() < 0.2 * np.abs(without - want).mean()


def test_int8_inputs_of_experts_are_refused() -> None:
    name = next(name for name in family_models.CONFIGS if "moe" in name)
    program, tensors = family(name)
    trained = module(program, tensors)
    trained.rounding = InputRounding("group")
    trained.weight(next(role for role in tensors if "experts" in role and "gate" in role)).scheme = parse_scheme(
        "q8-g32"
    )
    with pytest.raises(UnsupportedError, match="int8 inputs of experts cannot be trained"):
        trained(torch.zeros(1, 4, dtype=torch.int64))


def test_a_function_that_is_not_listed_is_no_function() -> None:
    with pytest.raises(AttributeError, match="operations may not call fft of PyTorch"):
        _ = XP.fft
