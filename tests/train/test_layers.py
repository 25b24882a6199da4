"""The module-level interface: a convolutional and a recurrent network, made and trained here, at 4 and at 2 bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.convert.plan.generic import stored_shape
from ggq.errors import UsageError
from ggq.export.export import export
from ggq.format import open_reader

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra ggq[train]")

from ggq.train import module_groups, quantize_module, settle_module, store_module  # noqa: E402
from ggq.train.layers import plain_state, schemes_of  # noqa: E402
from ggq.train.quantize.start import quantized_by  # noqa: E402

nn = torch.nn


class Convolutional(nn.Module):
    """Two convolutions and a linear layer over images of 12 x 12."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.last, self.steps = nn.Linear(32 * 9, 4), nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x: Any) -> Any:
        x = nn.functional.max_pool2d(self.first(x).relu(), 2)
        return self.last(self.second(x).relu().flatten(1)) + self.steps


class Recurrent(nn.Module):
    """An LSTM over sequences of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTM(8, 48, batch_first=True), nn.Linear(48, 4)

    def forward(self, x: Any) -> Any:
        return self.last(self.cell(x)[0][:, -1])


def images(count: int, seed: int) -> tuple[Any, Any]:
    """Bars of four directions in noise, and which it is."""
    random = np.random.default_rng(seed)
    kinds, x = random.integers(0, 4, count), random.normal(size=(count, 1, 12, 12)) * 0.7
    for image, kind in zip(x[:, 0], kinds, strict=True):
        start, places = random.integers(0, 5), np.arange(8)
        row, column = random.integers(0, 12), places + start
        at = {0: (row, column), 1: (column, row), 2: (column, column), 3: (column, 11 - column)}[int(kind)]
        image[at] += 1.3
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(kinds)


def sequences(count: int, seed: int) -> tuple[Any, Any]:
    """Noise in which one of the first four channels was largest in sum, and which it was."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 12, 8)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(x[:, :, :4].sum(axis=1).argmax(axis=1))


Data = Callable[[int, int], tuple[Any, Any]]
NETWORKS: dict[str, tuple[type, Data]] = {"conv": (Convolutional, images), "lstm": (Recurrent, sequences)}


def fit(network: Any, data: Data, steps: int, groups: Any, settle: bool) -> None:
    x, y = data(2048, 1)
    optimizer = torch.optim.Adam(groups)
    places = torch.Generator().manual_seed(3)
    for _ in range(steps):
        some = torch.randint(0, len(x), (64,), generator=places)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[some]), y[some]).backward()
        optimizer.step()
        if settle:
            settle_module(network)


def loss(network: Any, data: Data) -> float:
    x, y = data(1024, 2)
    with torch.no_grad():
        return float(nn.functional.cross_entropy(network(x), y))


@cache
def trained(name: str) -> dict[str, Any]:
    """The state of a network trained in full precision."""
    torch.manual_seed(5)
    kind, data = NETWORKS[name]
    network = kind()
    fit(network, data, 300, [{"params": list(network.parameters()), "lr": 4e-3}], settle=False)
    return {key: value.clone() for key, value in network.state_dict().items()}


def fresh(name: str, state: dict[str, Any] | None = None) -> Any:
    network = NETWORKS[name][0]()
    network.load_state_dict(trained(name) if state is None else state)
    return network


@pytest.mark.parametrize("method", ["lsq", "qat"])
@pytest.mark.parametrize("scheme", ["q4-g32", "q2-g32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_loses_less_than_rounding_afterwards(name: str, scheme: str, method: str, tmp_path: Path) -> None:
    """Stored by --generic and read back, a trained network is better than the best rounding of the same one."""
    data, full = NETWORKS[name][1], loss(fresh(name), NETWORKS[name][1])
    network = fresh(name)
    names = quantize_module(network, scheme, method=method)
    rounded = loss(network, data)
    fit(network, data, 80, module_groups(network, 1e-3), settle=True)
    after = loss(network, data)
    report = store_module(network, tmp_path / "net.ggq", out_checkpoint=tmp_path / "kept")
    assert {tensor.name for tensor in report.tensors if tensor.method == "trained"} <= set(names)

    export(tmp_path / "net.ggq", tmp_path / "exported")
    back = read(tmp_path / "exported" / "model.safetensors", name)
    with torch.no_grad():
        expected = plain_state(network)
    for key, value in expected.items():
        if value.is_floating_point():
            assert torch.equal(back[key].reshape(value.shape), value), key
    assert loss(fresh(name, back), data) == pytest.approx(after, abs=1e-6)
    best = min(rounded, *(posttraining(name, scheme, each, names, data) for each in ("absmax", "mse", "hqq")))
    assert after - full < best - full
    scheme_option, _, _, keep = schemes_of(network)
    ggq.convert(tmp_path / "kept", tmp_path / "again.ggq", generic=True, scheme=scheme_option, keep=keep)
    assert (tmp_path / "again.ggq").read_bytes() == (tmp_path / "net.ggq").read_bytes()


def read(path: Path, name: str) -> dict[str, Any]:
    """A file's tensors; what is no float is taken from the network."""
    from safetensors.torch import load_file

    found = load_file(path)
    state = {key: value.clone() for key, value in trained(name).items()}
    return {key: found[key].reshape(value.shape) if key in found else value for key, value in state.items()}


def posttraining(name: str, scheme: str, method: str, names: list[str], data: Data) -> float:
    """The loss of the network rounded by a method."""
    from ggq.convert.plan.recipe import fit_group
    from ggq.format.scheme_names import parse_scheme
    from ggq.quant.reference import decode

    state = {key: value.clone() for key, value in trained(name).items()}
    for key in names:
        stored = stored_shape(tuple(state[key].shape))
        flat = state[key].numpy().reshape(-1, stored[-1])
        numbers = decode(quantized_by(flat, fit_group(parse_scheme(scheme), flat.shape[1]), method))
        state[key] = torch.from_numpy(numbers.reshape(state[key].shape))
    return loss(fresh(name, state), data)


def test_a_recurrent_layer_computes_with_the_rounded_numbers() -> None:
    network = fresh("lstm")
    x, _ = sequences(8, 4)
    before = network(x)
    quantize_module(network, "binary-row")
    after = network(x)
    assert not torch.allclose(before, after, atol=1e-3)
    assert torch.allclose(fresh("lstm", plain_state(network))(x), after, atol=1e-6)


def test_ignored_parameters_stay_and_other_schemes_are_kept(tmp_path: Path) -> None:
    network = fresh("conv")
    names = quantize_module(network, "ternary-g64", method="qat", grid="threshold", ignore=r"last\..*")
    assert names == ["first.weight", "second.weight"]
    quantize_module(network.last, "q8-g32")
    store_module(network, tmp_path / "net.ggq")
    with open_reader(tmp_path / "net.ggq") as reader:
        kinds = {name: entry.scheme and entry.scheme.kind for name, entry in reader.tensors.items()}
    assert kinds["second.weight"] == "ternary" and kinds["last.weight"] == "uniform" and kinds["steps"] == "float"
    with pytest.raises(UsageError, match="already exists|exists"):
        store_module(network, tmp_path / "net.ggq")


def test_what_cannot_be_quantized_or_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no parameter of two dimensions"):
        quantize_module(nn.BatchNorm2d(4), "q4-g32")
    with pytest.raises(UsageError, match="method must be qat or lsq, not 'ptq'"):
        quantize_module(fresh("conv"), "q4-g32", method="ptq")
    with pytest.raises(UsageError, match="nothing in the network is fake-quantized"):
        store_module(fresh("conv"), tmp_path / "net.ggq")
